"""GPTQ: weights rounded one row after another, what each loses made up for by the rows that are still to come.

Elias Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
section 3, Algorithm 1. The grid (scales, zero points) is the same as without; only the choice among its points differs, so a
model is neither slower nor larger for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .blocks import BlockWeight, block_grid
from .weights import _CHUNK, INT8_LIMIT, all_finite, quantize_linear_weight

BATCH = 128
"""Rows whose updates of all later rows are done at once (the paper's lazy batches)."""

DAMPING = 0.1
"""The part of the Gram matrix's mean diagonal that is added to its diagonal. The paper has 0.01, for 128 x 2,048 tokens; with
few rows that fits what was seen at the cost of what was not (``python -m benchmarks least_squares``)."""

LOUD = 64.0
"""A row counts for no more than so many times the median row, in the mean square."""

_Grid = Callable[[int, np.ndarray, slice], tuple[np.ndarray, np.ndarray]]


class Gram:
    """X^T X [K, K] of an activation's rows, a batch at a time.

    Attributes:
        matrix: the sum so far, of ``dtype``.
        mean: float64 [K], the mean row.
        count: rows seen; those that hold what is not finite are left out.
    """

    def __init__(self, channels: int, dtype: type[np.floating] = np.float64) -> None:
        self.matrix = np.zeros((channels, channels), dtype)
        self.count = 0
        self._sum = np.zeros(channels)

    def add(self, x: np.ndarray) -> None:
        """Rows [..., K], any float dtype."""
        channels = len(self.matrix)
        if x.ndim < 1 or x.shape[-1] != channels:
            raise ValueError(f"an activation of shape {x.shape} where the last axis was {channels}")
        rows = x.reshape(x.size // max(1, channels), channels)
        step = max(1, _CHUNK // max(1, channels))
        for i in range(0, len(rows), step):
            part = rows[i : i + step].astype(self.matrix.dtype)
            part = part[np.isfinite(part).all(axis=1)]
            self.matrix += part.T @ part
            self._sum += part.sum(axis=0, dtype=np.float64)
            self.count += len(part)

    @property
    def mean(self) -> np.ndarray:
        return self._sum / max(1, self.count)


def evened(rows: np.ndarray) -> np.ndarray:
    """float32 [R, K] with what is louder than ``LOUD`` times the median, in the mean square, brought down to that.

    The first tokens of a prompt, on which attention rests, can be a thousand times as large as all others (Sun et al. 2024,
    "Massive Activations in Large Language Models"), and would be all that a sum of squares knows. A norm, later, makes their
    errors as small as those of others. Rows that hold what is not finite stay.
    """
    rows = rows.astype(np.float32, copy=False)
    power = np.einsum("rk,rk->r", rows, rows, dtype=np.float64)
    heard = power[np.isfinite(power) & (power > 0)]
    if not heard.size:
        return rows
    limit = LOUD * float(np.median(heard))
    loud = np.isfinite(power) & (power > limit)
    return np.asarray(rows * np.sqrt(limit / np.where(loud, power, limit)).astype(np.float32)[:, None])


def round_int8(
    w: np.ndarray, gram: np.ndarray, limit: int = INT8_LIMIT, damping: float = DAMPING
) -> tuple[np.ndarray, np.ndarray]:
    """int8 [K, N] and scale float32 [N] as ``quantize_linear_weight`` gives them, the codes for the least |xw - xw'|^2.

    Args:
        w: float [K, N].
        gram: X^T X [K, K] of the rows that the layer reads.
        damping: the part of the mean of its diagonal that is added to the diagonal.

    Raises:
        ValueError: shapes that do not fit, or numbers that are not finite.
    """
    _check(w, gram)
    _, scale = quantize_linear_weight(w[:0] if not w.size else w, limit)
    # The rows that matter most come first, while there are many to make up for them (the paper's code: act-order).
    pieces = np.array_split(np.argsort(-np.diag(gram), kind="stable"), range(BATCH, len(w), BATCH))
    codes = _codes(w, gram, pieces, damping, lambda _, rows, at: (scale[at], np.zeros(rows.shape[1])), -limit, limit)
    return codes.astype(np.int8), scale


def round_int8_groups(
    w: np.ndarray, gram: np.ndarray, limit: int = INT8_LIMIT, damping: float = DAMPING
) -> tuple[np.ndarray, np.ndarray]:
    """``round_int8`` of many small weights at once: int8 [G, K, N] and scales float32 [G, N] of w [G, K, N], gram [G, K, K].

    Raises:
        ValueError: as ``round_int8``.
    """
    if w.ndim != 3 or gram.shape != (*w.shape[:2], w.shape[1]):
        raise ValueError(f"Gram matrices of shape {gram.shape} for weights of shape {w.shape}")
    if not all_finite(w) or not all_finite(gram):
        raise ValueError("a weight or a Gram matrix holds numbers that are not finite")
    groups, rows, columns = w.shape
    flat, scale = quantize_linear_weight(w.transpose(1, 0, 2).reshape(rows, -1), limit)
    scale = scale.reshape(groups, columns)
    if not w.size:
        return flat.reshape(rows, groups, columns).transpose(1, 0, 2), scale
    order = np.argsort(-np.diagonal(gram, axis1=1, axis2=2), axis=1, kind="stable")
    h = np.take_along_axis(np.take_along_axis(gram, order[:, :, None], 1), order[:, None, :], 2).astype(np.float64)
    sizes = np.trace(h, axis1=1, axis2=2) / rows
    h /= np.where(sizes > 0, sizes, 1.0)[:, None, None]
    try:
        lower = np.linalg.cholesky((h + damping * np.eye(rows))[:, ::-1, ::-1])
    except np.linalg.LinAlgError:  # of one of them, which then takes more
        made = [round_int8(a, g, limit, damping) for a, g in zip(w, gram, strict=True)]
        return np.stack([q for q, _ in made]), np.stack([s for _, s in made])
    upper = np.triu(np.linalg.inv(lower[:, ::-1, ::-1])).astype(np.float32)
    v = np.take_along_axis(w, order[:, :, None], 1).astype(np.float32)
    done = np.empty(v.shape, np.int8)
    for k in range(rows):
        done[:, k] = code = np.clip(np.rint(v[:, k] / scale), -limit, limit)
        lost = (v[:, k] - code * scale) / upper[:, k, k, None]
        v[:, k + 1 :] -= upper[:, k, k + 1 :, None] * lost[:, None]
    codes = np.empty_like(done)
    np.put_along_axis(codes, order[:, :, None], done, 1)
    return codes, scale


def round_blocks(
    w: np.ndarray,
    gram: np.ndarray,
    bits: int,
    block: int,
    symmetric: bool = False,
    search: bool = False,
    damping: float = DAMPING,
) -> BlockWeight:
    """As ``quantize_blocks``, the codes for the least |xw - xw'|^2; each block's grid is that of its rows as they are when
    it is their turn. Where the range is searched for, a row's error counts as much as the activation's channel is large.

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite, ``bits`` not 4 or 8, ``block`` below 1.
    """
    _check(w, gram)
    if bits not in (4, 8) or block < 1:
        raise ValueError(f"{bits} bits in blocks of {block}; 4 and 8 can be packed, in blocks of at least 1")
    blocks = -(-len(w) // block)
    weight = np.diag(gram)
    members = [np.arange(i * block, min((i + 1) * block, len(w))) for i in range(blocks)]
    order = sorted(range(blocks), key=lambda i: -float(weight[members[i]].sum()))
    pieces = [members[i][np.argsort(-weight[members[i]], kind="stable")] for i in order]
    scale = np.empty((blocks, w.shape[1]), np.float32)
    zero = np.empty((blocks, w.shape[1]), np.uint8)

    def grid(piece: int, rows: np.ndarray, at: slice) -> tuple[np.ndarray, np.ndarray]:
        i = order[piece]
        heard = weight[pieces[piece], None]
        scale[i, at], zero[i, at] = block_grid(rows, bits, symmetric, search, heard if heard.any() else None)
        return scale[i, at], zero[i, at]

    codes = _codes(w, gram, pieces, damping, grid, 0, 2**bits - 1)
    return BlockWeight(codes.astype(np.uint8), scale, zero, bits, block)


def _check(w: np.ndarray, gram: np.ndarray) -> None:
    if w.ndim != 2:
        raise ValueError(f"the weight has rank {w.ndim}, not 2")
    if gram.shape != (len(w), len(w)):
        raise ValueError(f"a Gram matrix of shape {gram.shape} for a weight of shape {w.shape}")
    if not all_finite(w) or not all_finite(gram):
        raise ValueError("the weight or the Gram matrix holds numbers that are not finite")


def _codes(
    w: np.ndarray, gram: np.ndarray, pieces: Sequence[np.ndarray], damping: float, grid: _Grid, least: int, most: int
) -> np.ndarray:
    """Codes int16 [K, N]: the rows in the order of the pieces, each of which has a grid (scale [n], zero [n])."""
    codes = np.empty(w.shape, np.int16)
    if not w.size:
        return codes
    order = np.concatenate(pieces)
    upper = _factor(gram[np.ix_(order, order)], damping)
    ends = np.cumsum([len(p) for p in pieces]).tolist()
    step = max(1, _CHUNK // len(w))
    for c in range(0, w.shape[1], step):
        at = slice(c, min(c + step, w.shape[1]))
        v = w[:, at][order].astype(np.float32)
        done = np.empty(v.shape, np.int16)
        for batch in _batches(ends):
            begin, end = batch[0][0], batch[-1][1]
            lost = np.empty((end - begin, v.shape[1]), np.float32)
            for first, last, piece in batch:
                scale, zero = grid(piece, v[first:last], at)
                for k in range(first, last):
                    code = np.clip(np.rint(v[k] / scale) + zero, least, most)
                    done[k] = code
                    e = (v[k] - (code - zero) * scale) / upper[k, k]
                    lost[k - begin] = e
                    v[k + 1 : end] -= np.outer(upper[k, k + 1 : end], lost[k - begin])
            v[end:] -= upper[begin:end, end:].T @ lost
        codes[order, at] = done
    return codes


def _batches(ends: Sequence[int]) -> list[list[tuple[int, int, int]]]:
    """Whole pieces (first row, last, number), about BATCH rows together."""
    batches: list[list[tuple[int, int, int]]] = []
    first = 0
    for piece, last in enumerate(ends):
        if batches and last - batches[-1][0][0] <= BATCH:
            batches[-1].append((first, last, piece))
        else:
            batches.append([(first, last, piece)])
        first = last
    return batches


def _factor(gram: np.ndarray, damping: float) -> np.ndarray:
    """float32, upper triangular U with U^T U = (gram + damping)^-1, up to a factor that does not matter.

    Without inverting: turned about, the Cholesky factor of a matrix is one with the triangles changed, and the inverse of
    an upper triangle is an upper triangle.
    """
    h = gram.astype(np.float64)
    size = float(np.diag(h).mean())
    if size > 0:
        h /= size
    while True:
        damped = h + damping * np.eye(len(h))
        try:
            lower = np.linalg.cholesky(damped[::-1, ::-1])
            break
        except np.linalg.LinAlgError:
            if damping > 1e6:
                raise ValueError("the Gram matrix is not one: it is not positive") from None
            damping = max(10 * damping, 1e-6)
    return np.triu(np.linalg.inv(lower[::-1, ::-1])).astype(np.float32)
