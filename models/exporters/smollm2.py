"""SmolLM2-135M with key/value cache by both exporters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from models.exporters.common import Export
from models.exporters.pack import Origin, with_transposes
from models.recipes import smollm2
from models.recipes.smollm2 import HEAD_SIZE, HEADS, KV_HEADS, LAYERS, PAST, PRESENT


class Decoder(torch.nn.Module):
    """One step with a flat cache: key and value of layer 0, of layer 1, ..."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, position_ids, *past):
        # The dynamo exporter hands `*past` over as one tuple.
        flat = past[0] if len(past) == 1 else past
        cache = DynamicCache([(flat[2 * layer], flat[2 * layer + 1]) for layer in range(LAYERS)])
        found = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        present = [tensor for layer in found.past_key_values.layers for tensor in (layer.keys, layer.values)]
        return (found.logits, *present)


def model() -> torch.nn.Module:
    """transformers' own reading of the GGUF file; also compares its tokenizer with the recipe's."""
    path = smollm2.PACKAGE.extract(smollm2.WEIGHTS.member)
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    theirs = AutoTokenizer.from_pretrained(**where)
    for text in (smollm2.PROMPT, "In 1815, 20% of them\n\n  couldn't; naïve façade! <|im_start|>user\nHi<|im_end|>"):
        wanted = theirs(text)["input_ids"]
        found = smollm2.RECIPE.encode(text)[0].tolist()
        if found != wanted:
            raise SystemExit(f"the recipe's tokenizer gives {found} for {text!r}, transformers {wanted}")
    return AutoModelForCausalLM.from_pretrained(**where, attn_implementation="sdpa", dtype=torch.float32)


def candidates(source: Mapping[str, np.ndarray]) -> Iterator[Origin]:
    """GGUF stores rotary projections with interleaved pairs, transformers in halves."""
    for name, array in source.items():
        steps: list = []
        if name.endswith("attn_q.weight"):
            steps = [["unpair", HEADS]]
        elif name.endswith("attn_k.weight"):
            steps = [["unpair", KV_HEADS]]
        yield from with_transposes({"from": [name], "steps": steps}, array.shape)


def arguments(batch: int, new: int, past: int) -> tuple[torch.Tensor, ...]:
    """Random ids and a random cache; the same each time."""
    random = torch.Generator().manual_seed(0)
    shape = (batch, KV_HEADS, past, HEAD_SIZE)
    cache = [0.1 * torch.randn(shape, generator=random) for _ in range(2 * LAYERS)]
    ids = torch.randint(10, 4000, (batch, new), generator=random)
    mask = torch.ones(batch, past + new, dtype=torch.long)
    return ids, mask, torch.arange(past, past + new)[None].repeat(batch, 1), *cache


def exports() -> Iterator[Export]:
    dim = torch.export.Dim
    dynamic = {name: {0: "batch", 1: "seq"} for name in ("input_ids", "position_ids", "logits")}
    dynamic["attention_mask"] = {0: "batch", 1: "total_seq"}
    dynamic |= {name: {0: "batch", 2: "past_seq"} for name in PAST}
    dynamic |= {name: {0: "batch", 2: "total_seq"} for name in PRESENT}
    for variant in ("ts_op17", "dynamo_op18", "dynamo_op23"):
        yield Export(
            stem=f"smollm2-135m-kv_{variant}",
            source=smollm2.WEIGHTS,
            module=lambda: Decoder(model()),
            arguments=arguments(2, 3, 5),
            inputs=["input_ids", "attention_mask", "position_ids", *PAST],
            outputs=["logits", *PRESENT],
            dynamo="dynamo" in variant,
            opset=int(variant.rsplit("op", 1)[1]),
            dynamic=dynamic,
            dims={
                "batch": dim("batch", min=1),
                "seq": dim("seq", min=1, max=8192),
                "past_seq": dim("past_seq", min=0, max=8192),
            },
            varargs=3,
            tolerance=2e-3,
            candidates=candidates,
            others=lambda: [arguments(1, 7, 0), arguments(1, 1, 9)],
        )
