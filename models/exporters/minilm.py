"""MiniLM-L6 by both exporters, sdpa and eager attention."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import torch
from transformers import AutoModel

from models.exporters.common import Export
from models.recipes import minilm


class Encoder(torch.nn.Module):
    """Token ids, mask, segment ids -> last hidden state, by position: exporters dislike keyword-only calls."""

    def __init__(self, bert: torch.nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids, attention_mask, token_type_ids):
        found = self.bert(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return found.last_hidden_state


def load(attention: str) -> torch.nn.Module:
    """The packaged weights in transformers' BertModel."""
    with tempfile.TemporaryDirectory() as work:
        for name in ("config.json", "model.safetensors"):
            with open(f"{work}/{name}", "wb") as file:
                file.write(minilm.PACKAGE.read(f"{minilm.FOLDER}/{name}"))
        return Encoder(AutoModel.from_pretrained(work, attn_implementation=attention))


def exports() -> Iterator[Export]:
    names = ["input_ids", "attention_mask", "token_type_ids"]
    axes = {0: "batch", 1: "seq"}
    padded = minilm.RECIPE.encode(["A man is playing a guitar.", "Shares dropped."])
    single = minilm.RECIPE.encode(["It rains."])
    for variant in minilm.VARIANTS:
        attention = "eager" if variant.startswith("eager") else "sdpa"
        yield Export(
            stem=minilm.stem(variant),
            source=minilm.WEIGHTS,
            module=lambda attention=attention: load(attention),
            arguments=tuple(torch.tensor(padded[name]) for name in names),
            inputs=names,
            outputs=["last_hidden_state"],
            dynamo="dynamo" in variant,
            opset=int(variant.rsplit("op", 1)[1]),
            dynamic=dict.fromkeys((*names, "last_hidden_state"), axes),
            dims={"batch": torch.export.Dim("batch", min=1), "seq": torch.export.Dim("seq", min=2, max=512)},
            others=lambda: [tuple(torch.tensor(single[name]) for name in names)],
        )
