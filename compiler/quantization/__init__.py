"""Quantization: numpy in, numpy out. What is done to a graph is done by rules and passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .blocks import BlockWeight, pack, quantize_blocks
from .facts import Observed, observed, prepared
from .weights import INT8_LIMIT, all_finite, quantize_linear_weight

if TYPE_CHECKING:
    from .. import ir

__all__ = ["INT8_LIMIT", "Observed", "all_finite", "block_weight", "int8_weight", "observed", "pack", "quantize_linear_weight"]


def matrix(value: ir.Value, turned: bool) -> np.ndarray:
    """A constant [K, N]; ``turned``: it is stored [N, K]."""
    from .. import ir

    w = ir.array(value)
    assert w is not None
    return w.T if turned else w


def int8_weight(value: ir.Value, turned: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A constant matrix as int8 [K, N] and a scale for each column [N], the nearest."""
    return quantize_linear_weight(matrix(value, turned))


def block_weight(value: ir.Value, bits: int, block: int, turned: bool = False) -> BlockWeight:
    """A constant matrix in blocks of ``block`` rows that share a scale: as it was prepared, else the nearest."""
    found = prepared(value, f"int{bits}-block-{block}")
    return found if found is not None else quantize_blocks(matrix(value, turned), bits, block, search=bits < 8)
