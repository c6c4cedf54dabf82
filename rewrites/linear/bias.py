"""A matrix product and its bias."""

import numpy as np
from olc.rules import CLOSE, Case, Const, Refused, array, dims, f32, floats, rule

from . import _fold

matrix = floats[None, None]


@rule(group="linear", safety=CLOSE("the bias may be added first"))
class MatMulBias:
    """A product of two matrices plus a constant bias is Gemm.

    Sound because Gemm with its default factors is that sum; both operands are proved to be matrices, and the bias
    broadcasts to the product without making it larger.
    """

    def pattern(op, x: matrix, w: matrix, b: Const):
        return op.Add(op.MatMul(x, w), b)

    def unless(m):
        (rows, _), (_, columns), b = dims(m.x), dims(m.w), array(m.b).shape
        if len(b) > 2 or any(n not in (1, d) for n, d in zip(b[::-1], (columns, rows), strict=False)):
            return "the bias would make the product larger"

    def rewrite(op, m):
        return op.Gemm(m.x, m.w, m.b)

    cases = [
        Case("a classifier", x=f32["N", 8], w=f32[8, 4], b=f32[4]),
        Case("a number", x=f32["N", 8], w=f32[8, "M"], b=0.5),
        Case("a row", x=f32["N", 8], w=f32[8, 4], b=f32[1, 4]),
        Refused("three axes", x=f32["B", "N", 8], w=f32[8, 4], b=f32[4], because="has rank 3"),
        Refused("one output", x=f32["N", 8], w=f32[8, 1], b=f32[4], because="would make the product larger"),
        Refused("rows", x=f32[1, 8], w=f32[8, 2], b=f32[3, 1], because="would make the product larger"),
    ]


@rule(group="linear", safety=CLOSE("the same product, summed in another order"))
class GemmWithoutBias:
    """Gemm with a constant matrix, without a factor, and with no bias or one of zeros, is a product.

    Sound by the definition of Gemm: where there is no bias, beta means nothing.
    """

    def pattern(op, x: floats, w: Const, b: Const | None, alpha, beta, transB):
        return op.Gemm(x, w, b, alpha=alpha, beta=beta, transB=transB)

    def unless(m):
        if m.alpha != 1:
            return "it has a factor"
        if m.b is not None and (array(m.b).any() or not np.isfinite(m.beta)):
            return "it has a bias"
        return _fold.kept(m.w) if m.transB else None

    def rewrite(op, m):
        return op.MatMul(m.x, np.ascontiguousarray(array(m.w).T) if m.transB else m.w)

    cases = [
        Case("a router", x=f32["N", 8], w=f32[4, 8], b=None, alpha=1.0, beta=1.0, transB=1),
        Case("not transposed", x=f32["N", 8], w=f32[8, 4], b=None, alpha=1.0, beta=1.0, transB=0),
        Case("JAX", x=f32["N", 8], w=f32[8, 4], b=None, alpha=1.0, beta=0.0, transB=0),
        Case("zeros", x=f32["N", 8], w=f32[8, 4], b=np.zeros(4, np.float32), alpha=1.0, beta=1.0, transB=0),
        Refused("a factor", x=f32["N", 8], w=f32[8, 4], b=None, alpha=0.5, beta=1.0, transB=0, because="a factor"),
        Refused("a bias", x=f32["N", 8], w=f32[8, 4], b=f32[4], alpha=1.0, beta=1.0, transB=0, because="a bias"),
    ]
