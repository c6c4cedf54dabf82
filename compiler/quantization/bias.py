"""Bias correction: rounding a weight moves the mean of each output; the bias moves it back.

Markus Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2:
E[y'] - E[y] = (W' - W) E[x], which is known where the mean of the input is.
"""

from __future__ import annotations

import numpy as np

from .weights import _CHUNK


class ChannelMean:
    """The mean along one axis of arrays, a batch at a time; numbers that are not finite are left out.

    Args:
        axis: of the channels: -1 for what a linear reads, 1 for what a convolution reads.
        magnitudes: of absolute values.
    """

    def __init__(self, axis: int = -1, magnitudes: bool = False) -> None:
        self.axis = axis
        self.magnitudes = magnitudes
        self._sum: np.ndarray | None = None
        self._count: np.ndarray | None = None

    def add(self, array: np.ndarray) -> None:
        """Raises ValueError where the number of channels is not what it was."""
        rows = np.moveaxis(array, self.axis, -1)
        rows = rows.reshape(rows.size // max(1, rows.shape[-1]), rows.shape[-1])
        if self._sum is None or self._count is None:
            self._sum, self._count = np.zeros(rows.shape[1]), np.zeros(rows.shape[1], np.int64)
        if len(self._sum) != rows.shape[1]:
            raise ValueError(f"{rows.shape[1]} channels where there were {len(self._sum)}")
        step = max(1, _CHUNK // max(1, rows.shape[1]))
        for i in range(0, len(rows), step):
            part = rows[i : i + step].astype(np.float64)
            keep = np.isfinite(part)
            part[~keep] = 0.0
            self._sum += (np.abs(part) if self.magnitudes else part).sum(axis=0)
            self._count += keep.sum(axis=0)

    @property
    def mean(self) -> np.ndarray:
        """float32 [C]; 0 where nothing was seen. Raises ValueError where no array was added."""
        if self._sum is None or self._count is None:
            raise ValueError("nothing was observed")
        return (self._sum / np.maximum(self._count, 1)).astype(np.float32)


def expected_error(
    mean: np.ndarray, w: np.ndarray, rounded: np.ndarray, mean_rounded: np.ndarray | None = None
) -> np.ndarray:
    """E[x' w' - x w] float32 [N], what is to be taken off the bias of a linear.

    Args:
        mean: E[x], float [K].
        w, rounded: float [K, N], the weight and what its codes stand for.
        mean_rounded: E[x'] where the activation is rounded as well, and clipping moves its mean; else E[x].

    Raises:
        ValueError: shapes that do not fit.
    """
    if w.ndim != 2 or w.shape != rounded.shape or mean.shape != w.shape[:1]:
        raise ValueError(f"a mean of shape {mean.shape} for weights of shapes {w.shape} and {rounded.shape}")
    first = mean.astype(np.float64)
    second = first if mean_rounded is None else mean_rounded.astype(np.float64)
    error = np.empty(w.shape[1], np.float32)
    step = max(1, _CHUNK // max(1, len(w)))
    for i in range(0, w.shape[1], step):
        at = slice(i, i + step)
        moved = rounded[:, at].astype(np.float64) - w[:, at]
        error[at] = first @ moved
        if mean_rounded is not None:
            error[at] += (second - first) @ rounded[:, at].astype(np.float64)
    return error


def expected_conv_error(mean: np.ndarray, w: np.ndarray, rounded: np.ndarray, groups: int = 1) -> np.ndarray:
    """E[conv(x, w') - conv(x, w)] float32 [M], away from the padding at the edges, where less is summed.

    Args:
        mean: E[x] of each channel, float [C].
        w, rounded: float [M, C / groups, ...].

    Raises:
        ValueError: shapes that do not fit.
    """
    if w.ndim < 3 or w.shape != rounded.shape or groups < 1 or len(w) % groups or mean.shape != (w.shape[1] * groups,):
        raise ValueError(
            f"a mean of shape {mean.shape} for weights of shapes {w.shape} and {rounded.shape} in {groups} groups"
        )
    moved = (rounded.astype(np.float64) - w).reshape(*w.shape[:2], -1).sum(axis=2)
    means = np.repeat(mean.astype(np.float64).reshape(groups, -1), len(w) // groups, axis=0)
    return (moved * means).sum(axis=1).astype(np.float32)
