"""SmoothQuant: outlying channels of an activation are divided, and the rows of the weights that read them multiplied.

Guangxuan Xiao et al. 2022, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
section 4: X W = (X diag(s)^-1) (diag(s) W), which is the same function, and easier to round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from .emulate import int8_dynamic

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

MAX_COLUMNS = 512
"""Columns of a weight, spread over all, that errors are told from: each has a scale of its own, so that they are a sample."""

_LIMIT = 1e5
"""Factors lie within 1 / _LIMIT and _LIMIT, so that neither a weight nor an activation leaves float32's range for it."""


@dataclass(frozen=True)
class Smoothing:
    """What smoothing was chosen for an activation.

    Attributes:
        alpha: how much of the difficulty moves into the weights; 0: none, for no alpha was better in every batch.
        factors: float32 [K]; 1 everywhere where alpha is 0.
        left: the part of the error, |xw - x'w'|^2 / |xw|^2 as a mean over the weights, that is left in the worst batch.
    """

    alpha: float
    factors: np.ndarray
    left: float


def row_maxima(weights: Sequence[np.ndarray]) -> np.ndarray:
    """float32 [K]: the largest magnitude of each row over all weights [K, N]."""
    return np.max([np.abs(w).max(axis=1, initial=0.0) for w in weights], axis=0).astype(np.float32)


def factors(channels: np.ndarray, rows: np.ndarray, alpha: float) -> np.ndarray:
    """s float32 [K] = channels^alpha / rows^(1 - alpha), equation 4; for the activation's division, the weights' product.

    ``channels`` and ``rows`` are largest magnitudes [K]. Where either is 0, the channel is left as it is: factor 1.

    Raises:
        ValueError: the sizes differ, or there are numbers that are not finite.
    """
    if channels.shape != rows.shape or channels.ndim != 1:
        raise ValueError(f"channels of shape {channels.shape} for rows of shape {rows.shape}")
    if not (np.isfinite(channels).all() and np.isfinite(rows).all()):
        raise ValueError("the magnitudes are not all finite")
    a, w = np.abs(channels).astype(np.float64), np.abs(rows).astype(np.float64)
    used = (a > 0) & (w > 0)
    a[~used] = w[~used] = 1.0
    return np.clip(a**alpha / w ** (1 - alpha), 1 / _LIMIT, _LIMIT).astype(np.float32)


def best_smoothing(
    batches: Sequence[np.ndarray], weights: Sequence[np.ndarray], channels: np.ndarray | None = None,
    alphas: Sequence[float] = ALPHAS, worth: float = 1.0,
) -> Smoothing:  # fmt: skip
    """The factors of the alpha that leaves least of the error at the outputs of all linears that read the activation.

    Dynamic int8 is emulated, batch by batch, for each is rounded over its own range. Of several batches each is judged
    with factors made of the others, and the worst counts: channels that are small in all but one input are multiplied, and
    ruin that one, which factors chosen on MiniLM's Gelu outputs did.

    Args:
        batches: rows of the activation in one run each, float [..., K], finite.
        weights: float [K, N] each.
        channels: largest magnitudes [K] of the activation, where more than these rows was seen.
        alphas: those to try, above 0.
        worth: the part of the error of which less has to be left; the fewer alphas do, the less is computed.

    Raises:
        ValueError: no weight, an alpha of 0, sizes that differ, or numbers that are not finite.
    """
    wrong = [w.shape for w in weights if w.ndim != 2 or any(len(w) != x.shape[-1] for x in batches)]
    if not weights or wrong:
        raise ValueError(f"weights of shapes {wrong} for activations of {[x.shape for x in batches]}")
    if min(alphas, default=1) <= 0:
        raise ValueError(f"alphas {alphas}; each must be above 0")
    flat = [x.reshape(-1, x.shape[-1]).astype(np.float32) for x in batches if x.size]
    ones = np.ones(len(weights[0]), np.float32)
    rows = row_maxima(weights)
    sampled = [np.ascontiguousarray(w[:, :: max(1, -(-w.shape[1] // MAX_COLUMNS))]) for w in weights]
    seen = np.array([np.abs(x).max(axis=0) for x in flat]).reshape(len(flat), len(ones))
    others = [np.delete(seen, i, axis=0).max(axis=0) for i in range(len(flat))] if len(flat) > 1 else list(seen)
    before = cache(lambda i: _error(flat[i], sampled, ones))
    best = Smoothing(0.0, ones, 1.0)
    for alpha in alphas:
        worst: float | None = None
        for i, (x, o) in enumerate(zip(flat, others, strict=True)):
            if before(i):
                worst = max(worst or 0.0, _error(x, sampled, factors(o, rows, alpha)) / before(i))
            if worst is not None and worst >= min(best.left, worth):
                break  # the worst batch counts: the others cannot make it better
        if worst is not None and worst < min(best.left, worth):
            best = Smoothing(alpha, factors(seen.max(axis=0) if channels is None else channels, rows, alpha), worst)
    return best


def _error(x: np.ndarray, weights: Sequence[np.ndarray], s: np.ndarray) -> float:
    smooth = x / s
    return float(np.mean([int8_dynamic(smooth, w * s[:, None]) for w in weights]))
