"""Embeddings: vectors of texts or pictures, whose cosine says how alike two of them are."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import BadInput
from . import Metric, Outputs, Sample, floating, joined, mask

Pairs = tuple[np.ndarray, np.ndarray]
"""Cosines and scores of pairs, float64 [pairs] each."""


def vectors(outputs: Outputs, sample: Sample, metric: str) -> np.ndarray:
    """Unit vectors [rows, width]: the output as it is, or the mean over the tokens that count of [rows, tokens, width]."""
    _, found = floating(outputs, (2, 3), metric)
    found = found.astype(np.float64)
    if found.ndim == 3:
        counts = mask(sample, found.shape[:2])[:, :, None]
        found = np.where(counts, found, 0).sum(axis=1) / np.maximum(counts.sum(axis=1), 1)
    length = np.linalg.norm(found, axis=1, keepdims=True)
    return found / np.where(length == 0, 1, length)


def _pairs(metric: str, outputs: Outputs, sample: Sample) -> Pairs:
    found = vectors(outputs, sample, metric)
    given = np.asarray(sample["label_score"])
    scores = np.full((2, 2), given.reshape(-1)[0]) if given.size == 1 and len(found) == 2 else given
    if scores.shape != (len(found), len(found)) or scores.dtype.kind not in "fiu":
        raise BadInput(
            f"'label_score' is {given.dtype.name} {list(given.shape)}, and the sample has {len(found)} rows",
            hint="give a number for a sample of two rows, or one for each pair of rows [rows, rows], NaN where there is none",
        )  # fmt: skip
    first, second = np.triu_indices(len(found), 1)
    judged = ~np.isnan(scores[first, second].astype(np.float64))
    first, second = first[judged], second[judged]
    return (found[first] * found[second]).sum(axis=1), scores[first, second].astype(np.float64)


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two [n]; NaN where one of them does not vary."""
    a, b = a - a.mean(), b - b.mean()
    with np.errstate(invalid="ignore"):
        return float((a @ b) / np.sqrt((a @ a) * (b @ b)))


def ranks(values: np.ndarray) -> np.ndarray:
    """Rank of each element, equal ones sharing the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True, equal_nan=False)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of ranks; NaN where an element is."""
    return float("nan") if np.isnan(a).any() or np.isnan(b).any() else pearson(ranks(a), ranks(b))


def _correlation(measure: Any, name: str) -> Metric:
    def total(found: list[Pairs], source: list[Pairs]) -> float:
        cosines, scores = (np.concatenate([p[i] for p in found]) for i in (0, 1))
        if len(cosines) < 2:
            raise BadInput(f"{len(cosines)} pairs have a score; {name!r} needs two or more", where="--data")
        return float(measure(cosines, scores))

    return Metric(name, lambda outputs, sample: _pairs(name, outputs, sample), total, needs=("label_score",))


def _cosine(found: list[np.ndarray], source: list[np.ndarray]) -> float:
    a, b = joined(found, source, "cosine")
    return float((a * b).sum(axis=1).mean())


METRICS: dict[str, Any] = {
    "pearson": _correlation(pearson, "pearson"),
    "spearman": _correlation(spearman, "spearman"),
    "cosine": Metric("cosine", lambda outputs, sample: vectors(outputs, sample, "cosine"), _cosine),
}
