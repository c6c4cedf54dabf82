"""Linear layers with a constant weight, as whoever rounds or smooths them sees them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import ir


@dataclass(frozen=True)
class Linear:
    """A MatMul or Gemm, and what it reads.

    Attributes:
        x: the activation [..., K].
        constant: the weight as it is stored; ``turned``: as [N, K].
    """

    node: ir.Node
    x: ir.Value
    constant: ir.Value
    turned: bool

    @property
    def matrix(self) -> np.ndarray:
        """The weight [K, N]."""
        w = ir.array(self.constant)
        assert w is not None
        return w.T if self.turned else w


def linear(node: ir.Node) -> Linear | None:
    """The layer that a node is, its weight seen through a Transpose (an embedding's table as the head); None for others."""
    if node.domain != "" or node.op_type not in ("MatMul", "Gemm"):
        return None
    if node.op_type == "Gemm" and (ir.attr(node, "transA", 0) or ir.attr(node, "alpha", 1.0) != 1.0):
        return None
    x, constant = node.inputs[:2]
    turned = bool(node.op_type == "Gemm" and ir.attr(node, "transB", 0))
    made = None if constant is None else constant.producer()
    if made is not None and made.op_type == "Transpose" and made.domain == "":
        constant, turned = made.inputs[0], not turned
    w = None if constant is None else ir.array(constant)
    if x is None or not x.name or constant is None or w is None or w.ndim != 2:
        return None
    return Linear(node, x, constant, turned)
