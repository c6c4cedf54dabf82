"""SmolLM2-135M-Instruct as a whole text in, logits out: no cache, as for scoring and classification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.recipe import CheckResult, Feed, FromSkeleton, Session, SessionFactory, Variant, cpu_session
from models.recipes import smollm2

VARIANTS = ("dynamo_op18", "ts_op17")


@dataclass(frozen=True)
class SmolLM2NoCache(smollm2.SmolLM2):
    """Role `decoder`: input_ids, attention_mask, position_ids int64 [batch, seq] -> logits float32 [batch, seq, 49152]."""

    def whole_feed(self, session: Session, ids: np.ndarray) -> Feed:
        """Inputs for a text: ids [batch, seq]."""
        positions = np.repeat(np.arange(ids.shape[1], dtype=np.int64)[None], len(ids), 0)
        return {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": positions}

    def check(self, paths: Mapping[str, Path], open_session: SessionFactory = cpu_session) -> CheckResult:
        """Score: perplexity of a plain English paragraph (lower is better)."""
        score = self.perplexity(open_session(paths["decoder"]), smollm2.prose("plain"))
        return CheckResult(bool(score < 30), score, f"perplexity {score:.1f} on plain English")

    def feeds(self, paths: Mapping[str, Path], open_session: SessionFactory = cpu_session) -> dict[str, list[Feed]]:
        """Prose of some 150 tokens, and a short prompt."""
        session = open_session(paths["decoder"])
        texts = (smollm2.prose("prose"), smollm2.PROMPT)
        return {"decoder": [self.whole_feed(session, self.encode(text)) for text in texts]}


def stem(variant: str) -> str:
    """File name of a variant."""
    return f"smollm2-135m-nocache_{variant}"


RECIPE = SmolLM2NoCache(
    name="smollm2-135m-nocache",
    title="the decoder of 30 layers without cache, 135 M parameters",
    licence=smollm2.RECIPE.licence,
    source=smollm2.RECIPE.source,
    shows="perplexity on plain prose is low",
    packages=smollm2.RECIPE.packages,
    variants=tuple(Variant(name, {"decoder": FromSkeleton(stem(name), smollm2.WEIGHTS)}) for name in VARIANTS),
    needs=smollm2.RECIPE.needs,
)
