"""Quantization: numpy in, numpy out. What is done to a graph is done by rules and passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .blocks import BlockWeight, former_block, pack, quantize_blocks
from .facts import Observed, observed, prepared, weight_limit
from .outliers import outlier_channels
from .weights import INT7_LIMIT, INT8_LIMIT, all_finite, flipped, half_scale, quantize_linear_weight

if TYPE_CHECKING:
    from .. import ir

__all__ = [
    "BLOCK", "INT4_LIMIT", "INT7_LIMIT", "INT8_LIMIT", "BlockWeight", "Observed", "all_finite", "block_form", "block_weight",
    "flipped", "half_scale", "int4_blocks", "int8_form", "int8_weight", "nearest_blocks", "observed", "outlier_channels", "pack",
    "quantize_linear_weight", "rows_of_block", "shift_form", "weight_limit",
]  # fmt: skip


INT4_LIMIT = 7
"""Largest magnitude of a symmetric int4 weight."""

BLOCK = 64
"""Rows of a weight that share a scale. Larger blocks are a little faster, smaller ones closer."""


def matrix(value: ir.Value, turned: bool) -> np.ndarray:
    """A constant [K, N]; ``turned``: it is stored [N, K]."""
    from .. import ir

    w = ir.array(value)
    assert w is not None
    return w.T if turned else w


def int8_weight(
    value: ir.Value, turned: bool = False, limit: int = INT8_LIMIT, half: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """A constant matrix as int8 [K, N] in ±limit and a scale for each column [N]: as it was prepared, else the nearest;
    ``half`` as in ``quantize_linear_weight``."""
    found = None if half else prepared(value, int8_form(limit))
    return found if found is not None else quantize_linear_weight(matrix(value, turned), limit, half)


def block_weight(value: ir.Value, bits: int, turned: bool = False) -> BlockWeight:
    """A constant matrix in blocks of rows that share a scale (``rows_of_block``): as it was prepared, else the nearest."""
    found = prepared(value, block_form(bits))
    if found is not None:
        return found
    w = matrix(value, turned)
    return nearest_blocks(w, bits, rows_of_block(w, bits))


def int4_blocks(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A matrix [K, N], K a multiple of ``BLOCK``, as symmetric int4 [K, N] and ``half_scale``'s scales [K / BLOCK, N]."""
    import ml_dtypes

    blocks = w.astype(np.float32).reshape(len(w) // BLOCK, BLOCK, w.shape[1])
    scale = half_scale(np.abs(blocks).max(axis=1, initial=0.0), INT4_LIMIT)
    codes = np.clip(np.rint(blocks / scale[:, None]), -INT4_LIMIT, INT4_LIMIT)
    return codes.reshape(w.shape).astype(ml_dtypes.int4), scale


def int8_form(limit: int) -> str:
    """The name under which a preparation keeps a weight of int8 in ±limit with a scale for each column, or output channel."""
    return f"int8-{limit}"


def shift_form(limit: int) -> str:
    """The name under which a preparation keeps what is added to the bias of a layer whose weight is of ``int8_form``."""
    return f"shift-of-int8-{limit}"


def block_form(bits: int) -> str:
    """The name under which a preparation keeps such a weight."""
    return f"int{bits}-block-{BLOCK}"


def rows_of_block(w: np.ndarray, bits: int) -> int:
    """Rows of a matrix [K, N] that share a scale: ``BLOCK``, or as many as did in the 4 bits that it had before."""
    return (former_block(w) if bits == 4 else None) or BLOCK


def nearest_blocks(w: np.ndarray, bits: int, block: int = BLOCK) -> BlockWeight:
    """A matrix [K, N] as the rules round it where nothing was prepared; of 4 bits the range is searched for, too."""
    return quantize_blocks(w, bits, block, search=bits < 8)
