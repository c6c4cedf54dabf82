"""Quantizing weights: numpy in, numpy out, no graph."""

from __future__ import annotations

import numpy as np

INT8_LIMIT = 127
"""Largest magnitude of a symmetric int8 weight."""
INT7_LIMIT = 64
"""The same for CPUs without dot products of 8 bits, which add two products with uint8 in 16 bits: above, that saturates."""

_CHUNK = 1 << 20
"""Elements that are worked on at once."""


def all_finite(w: np.ndarray) -> bool:
    """Are all numbers of the array finite? A part at a time, so that a mapped weight costs no memory of its own."""
    if w.ndim == 0:
        return bool(np.isfinite(w))
    rows = max(1, _CHUNK // max(1, w[:1].size))
    return all(bool(np.isfinite(w[i : i + rows]).all()) for i in range(0, len(w), rows))


def flipped(a: np.ndarray) -> np.ndarray:
    """int8 as uint8 or the other way round, 128 more or less."""
    return np.asarray(a ^ a.dtype.type(-128 if a.dtype == np.int8 else 128)).view(np.int8 if a.dtype == np.uint8 else np.uint8)


def half_scale(largest: np.ndarray | float, limit: int = INT8_LIMIT) -> np.ndarray:
    """float32 scales with which codes of ±limit reach these magnitudes, each the next number above that float16 holds: as
    float16 they are the same. 1 for a magnitude of 0."""
    exact = np.maximum(np.asarray(largest, np.float64) / limit, 0.0)
    near = exact.astype(np.float16)
    up = np.where(near.astype(np.float64) < exact, np.nextafter(near, np.float16(np.inf)), near).astype(np.float32)
    return np.where(up == 0, np.float32(1), up)


def quantize_linear_weight(
    w: np.ndarray, limit: int = INT8_LIMIT, half: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """A matrix [K, N] as int8 with one scale for each column, symmetric: ``w`` is about ``q * scale``, ``q`` in ±limit.

    ``half``: with ``half_scale``'s scales, for ±127.

    Works on some columns at a time, so that beside the result little memory is used. A column of zeros has scale 1.

    Raises:
        ValueError: the weight is not a matrix, or holds what is not finite.
    """
    if w.ndim != 2:
        raise ValueError(f"the weight has rank {w.ndim}, not 2")
    rows, columns = w.shape
    q = np.empty((rows, columns), np.int8)
    scale = np.empty(columns, np.float32)
    step = max(1, _CHUNK // max(1, rows))
    for i in range(0, columns, step):
        part = w[:, i : i + step].astype(np.float32)
        largest = np.abs(part).max(axis=0, initial=0.0)
        if not np.isfinite(largest).all():
            raise ValueError("the weight holds numbers that are not finite")
        # In float64, and never 0, so that a column of denormals divides by what its scale really is.
        unit = half_scale(largest) if half else (largest.astype(np.float64) / limit).astype(np.float32)
        unit[unit == 0] = 1.0
        scale[i : i + step] = unit
        part /= unit
        np.rint(part, out=part)
        q[:, i : i + step] = np.clip(part, -limit, limit, out=part).astype(np.int8)
    return q, scale
