"""SmoothQuant: outlying channels of an activation are divided, and the rows of the weights that read them multiplied.

Guangxuan Xiao et al. 2022, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
section 4: X W = (X diag(s)^-1) (diag(s) W), which is the same function, and easier to round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .emulate import int8_dynamic

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

_LIMIT = 1e5
"""Factors lie within 1 / _LIMIT and _LIMIT, so that neither a weight nor an activation leaves float32's range for it."""


@dataclass(frozen=True)
class Smoothing:
    """What smoothing was chosen for an activation.

    Attributes:
        alpha: how much of the difficulty moves into the weights; 0: none, for no alpha was better.
        factors: float32 [K]; 1 everywhere where alpha is 0.
        error: mean over the weights of |xw - x'w'|^2 / |xw|^2 with the factors.
        before: the same without.
    """

    alpha: float
    factors: np.ndarray
    error: float
    before: float


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
    x: np.ndarray, weights: Sequence[np.ndarray], channels: np.ndarray | None = None, alphas: Sequence[float] = ALPHAS
) -> Smoothing:
    """The factors of the alpha with the least error at the outputs of all linears that read ``x``, dynamic int8 emulated.

    Args:
        x: rows of the activation, float [R, K], finite.
        weights: float [K, N] each.
        channels: largest magnitudes [K] of the activation, where more than these rows was seen.

    Raises:
        ValueError: no weight, sizes that differ, or numbers that are not finite.
    """
    if not weights or any(w.ndim != 2 or len(w) != x.shape[-1] for w in weights):
        raise ValueError(f"weights of shapes {[w.shape for w in weights]} for {x.shape[-1]} channels")
    x = x.reshape(-1, x.shape[-1]).astype(np.float32)
    seen = np.abs(x).max(axis=0, initial=0.0) if channels is None else channels
    rows = row_maxima(weights)

    def error(s: np.ndarray) -> float:
        smooth = x / s
        return float(np.mean([int8_dynamic(smooth, w * s[:, None]) for w in weights]))

    ones = np.ones(x.shape[1], np.float32)
    before = error(ones)
    best = Smoothing(0.0, ones, before, before)
    for alpha in alphas:
        s = factors(seen, rows, alpha)
        e = error(s)
        if e < best.error:
            best = Smoothing(alpha, s, e, before)
    return best


def best_alpha(
    x: np.ndarray, weights: Sequence[np.ndarray], channels: np.ndarray | None = None, alphas: Sequence[float] = ALPHAS
) -> float:
    """The alpha of ``best_smoothing``; 0 where smoothing does not help."""
    return best_smoothing(x, weights, channels, alphas).alpha
