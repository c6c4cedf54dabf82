"""SmolLM2-135M without cache by both exporters."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from models.exporters.common import Export
from models.exporters.smollm2 import candidates, model
from models.recipes import smollm2, smollm2_nocache


class Scorer(torch.nn.Module):
    """Token ids, mask, positions -> logits, by position: exporters dislike keyword-only calls."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, position_ids):
        found = self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        )
        return found.logits


def arguments(batch: int, length: int) -> tuple[torch.Tensor, ...]:
    """Random ids; the same each time."""
    ids = torch.randint(10, 4000, (batch, length), generator=torch.Generator().manual_seed(0))
    return ids, torch.ones_like(ids), torch.arange(length)[None].repeat(batch, 1)


def exports() -> Iterator[Export]:
    names = ["input_ids", "attention_mask", "position_ids"]
    dim = torch.export.Dim
    for variant in smollm2_nocache.VARIANTS:
        yield Export(
            stem=smollm2_nocache.stem(variant),
            source=smollm2.WEIGHTS,
            module=lambda: Scorer(model()),
            arguments=arguments(2, 7),
            inputs=names,
            outputs=["logits"],
            dynamo="dynamo" in variant,
            opset=int(variant.rsplit("op", 1)[1]),
            dynamic={name: {0: "batch", 1: "seq"} for name in (*names, "logits")},
            dims={"batch": dim("batch", min=1), "seq": dim("seq", min=2, max=8192)},
            tolerance=2e-3,
            candidates=candidates,
            others=lambda: [arguments(1, 9)],
        )
