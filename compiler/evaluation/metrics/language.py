"""Language models: what the next token is said to be."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import BadInput
from . import Metric, Outputs, Sample, floating, joined, mask
from .classes import best

ROWS = 64
"""Tokens whose probabilities are worked out at a time: a vocabulary is large."""


def _tokens(outputs: Outputs, sample: Sample) -> np.ndarray:
    """The best next token at each place that counts."""
    _, logits = floating(outputs, (3,), "token-agreement")
    return best(logits)[mask(sample, logits.shape[:2])]


def _agreement(found: list[np.ndarray], source: list[np.ndarray]) -> float:
    a, b = joined(found, source, "token-agreement")
    return float(((a == b) & (a >= 0)).mean())


def _surprise(outputs: Outputs, sample: Sample) -> tuple[float, int]:
    """Negative log-likelihood of the tokens that follow others, in nats, and their number."""
    _, logits = floating(outputs, (3,), "perplexity")
    ids = np.asarray(sample["input_ids"])
    if logits.shape[:2] != ids.shape or ids.max(initial=0) >= logits.shape[2]:
        raise BadInput(
            f"'input_ids' has shape {list(ids.shape)} and ids up to {ids.max(initial=0)}, the logits {list(logits.shape)}",
            hint="perplexity needs logits of all ids at each token",
        )  # fmt: skip
    counts = mask(sample, ids.shape)
    follows = counts[:, :-1] & counts[:, 1:]
    rows, following, total = logits[:, :-1][follows], ids[:, 1:][follows], 0.0
    for start in range(0, len(rows), ROWS):
        part, wanted = rows[start : start + ROWS].astype(np.float64), following[start : start + ROWS]
        part -= part.max(axis=-1, keepdims=True)
        total += float((np.log(np.exp(part).sum(axis=-1)) - part[np.arange(len(part)), wanted]).sum())
    return total, len(rows)


def _perplexity(found: list[tuple[float, int]], source: list[tuple[float, int]]) -> float:
    tokens = sum(n for _, n in found)
    if not tokens:
        raise BadInput("no token follows another, so there is no perplexity", where="--data", hint="give longer texts")
    with np.errstate(over="ignore"):  # infinite is what such a model's is
        return float(np.exp(np.float64(sum(nats for nats, _ in found)) / tokens))


METRICS: dict[str, Any] = {
    "token-agreement": Metric("token-agreement", _tokens, _agreement),
    "perplexity": Metric("perplexity", _surprise, _perplexity, needs=("input_ids",), higher=False),
}
