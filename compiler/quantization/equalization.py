"""Cross-layer equalization: two layers with nothing but a ReLU between them share their ranges channel by channel.

Markus Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1. Sound because
f(s x) = s f(x) for positive s where f is ReLU, LeakyReLU, PReLU or nothing; it is not so of ReLU6, a sigmoid or a Gelu.
"""

from __future__ import annotations

import numpy as np

_LIMIT = 1e5
"""Factors lie within 1 / _LIMIT and _LIMIT, so that no weight leaves float32's range for it."""


def equalizing_factors(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """s float32 [C]: what the first layer's outputs are divided by and the second's inputs multiplied by.

    s_i = sqrt(r1_i r2_i) / r2_i (equation 11, with r the largest magnitude), after which both layers have the range
    sqrt(r1_i r2_i) in channel i. Where a range is 0, the factor is 1.

    Args:
        first: float [C, I], see ``linear_rows`` and ``conv_rows``.
        second: float [O, C], see ``linear_columns`` and ``conv_columns``.

    Raises:
        ValueError: shapes that do not fit, or numbers that are not finite.
    """
    if first.ndim != 2 or second.ndim != 2 or len(first) != second.shape[1]:
        raise ValueError(f"weights of shapes {first.shape} and {second.shape} share no channels")
    r1 = np.abs(first).max(axis=1, initial=0.0).astype(np.float64)
    r2 = np.abs(second).max(axis=0, initial=0.0).astype(np.float64)
    if not (np.isfinite(r1).all() and np.isfinite(r2).all()):
        raise ValueError("the weights hold numbers that are not finite")
    used = (r1 > 0) & (r2 > 0)
    r1[~used] = r2[~used] = 1.0
    return np.clip(np.sqrt(r1 / r2), 1 / _LIMIT, _LIMIT).astype(np.float32)


def linear_rows(w: np.ndarray) -> np.ndarray:
    """[C, I] of a MatMul's weight [I, C] that makes the channels."""
    return w.T


def linear_columns(w: np.ndarray) -> np.ndarray:
    """[O, C] of a MatMul's weight [C, O] that reads the channels."""
    return w.T


def conv_rows(w: np.ndarray) -> np.ndarray:
    """[C, I] of a convolution's weight [C, ...] that makes the channels; of any number of groups."""
    return w.reshape(len(w), w.size // max(1, len(w)))


def conv_columns(w: np.ndarray, groups: int = 1) -> np.ndarray:
    """[O, C] of a convolution's weight [M, C / groups, ...] that reads the channels: the channels of each group lie apart.

    Raises:
        ValueError: the groups do not divide the weight.
    """
    if groups < 1 or len(w) % groups:
        raise ValueError(f"a weight of shape {w.shape} in {groups} groups")
    each = w.shape[1]
    parts = w.reshape(groups, len(w) // groups, each, -1)
    return np.ascontiguousarray(parts.transpose(1, 3, 0, 2)).reshape(-1, groups * each)
