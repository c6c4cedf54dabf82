"""AWQ: before its weights are rounded, the channels that an activation is large in are made large in the weights.

Ji Lin et al. 2023, "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration", section 3.2:
s = mean|x|^alpha, the alpha of equation 5 with the least |Q(w diag(s)) (diag(s)^-1 x) - w x|^2. The activation stays float.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .blocks import dequantize, quantize_blocks
from .emulate import relative_error

STEPS = 20
"""Alphas tried: 1 / STEPS up to 1."""

_LIMIT = 1e4


@dataclass(frozen=True)
class Awq:
    """What scaling was chosen for an activation.

    Attributes:
        alpha: 0: none, for no alpha was better.
        factors: float32 [K], what the activation is divided by and the weights' rows multiplied by.
        error: mean over the weights of |xw - x'w'|^2 / |xw|^2 with the factors.
        before: the same without.
    """

    alpha: float
    factors: np.ndarray
    error: float
    before: float


def awq_factors(magnitudes: np.ndarray, alpha: float) -> np.ndarray:
    """s float32 [K] = magnitudes^alpha, divided by the root of its least times its largest, so that it lies about 1.

    ``magnitudes`` is mean|x| [K]; where it is 0, the factor is the least of the others.

    Raises:
        ValueError: numbers that are not finite.
    """
    if not np.isfinite(magnitudes).all():
        raise ValueError("the magnitudes are not all finite")
    m = np.abs(magnitudes).astype(np.float64)
    if not (m > 0).any():
        return np.ones(m.shape, np.float32)
    m = np.maximum(m, m[m > 0].min())
    s = np.exp(alpha * (np.log(m) - (np.log(m.min()) + np.log(m.max())) / 2))
    return np.clip(s, 1 / _LIMIT, _LIMIT).astype(np.float32)


def best_awq(
    x: np.ndarray,
    weights: Sequence[np.ndarray],
    bits: int,
    block: int,
    magnitudes: np.ndarray | None = None,
    quantize: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Awq:
    """The factors with the least error at the outputs of all linears that read ``x``.

    Args:
        x: rows of the activation, float [R, K], finite.
        weights: float [K, N] each.
        bits, block: as ``quantize_blocks``.
        magnitudes: mean|x| [K], where more than these rows was seen.
        quantize: a weight [K, N] to what its codes stand for, instead of the nearest in blocks.

    Raises:
        ValueError: no weight, sizes that differ, or numbers that are not finite.
    """
    if not weights or any(w.ndim != 2 or len(w) != x.shape[-1] for w in weights):
        raise ValueError(f"weights of shapes {[w.shape for w in weights]} for {x.shape[-1]} channels")
    x = x.astype(np.float32).reshape(-1, x.shape[-1])
    seen = np.abs(x).sum(axis=0) / max(1, len(x)) if magnitudes is None else magnitudes
    exact = [x @ w for w in weights]

    def error(s: np.ndarray) -> float:
        total = 0.0
        for w, y in zip(weights, exact, strict=True):
            scaled = w * s[:, None]
            back = dequantize(quantize_blocks(scaled, bits, block)) if quantize is None else quantize(scaled)
            total += relative_error(y, (x / s) @ back)
        return total / len(weights)

    ones = np.ones(x.shape[1], np.float32)
    before = error(ones)
    best = Awq(0.0, ones, before, before)
    for i in range(1, STEPS + 1):
        s = awq_factors(seen, i / STEPS)
        e = error(s)
        if e < best.error:
            best = Awq(i / STEPS, s, e, before)
    return best
