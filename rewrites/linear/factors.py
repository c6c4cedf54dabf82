"""Constant factors around matrix products with constant weights."""

import numpy as np
from olc.rules import CLOSE, Case, Const, Refused, Scalar, array, dims, f32, floats, rule, scalar

from . import _fold


@rule(group="linear", safety=CLOSE("constants are multiplied beforehand"))
class ScaleAfterMatMul:
    """A constant factor or divisor after a product with a constant matrix (and its bias) goes into matrix and bias.

    Sound because ``(x W + b) c = x (W c) + b c``, where ``c`` is one number or one for each column of W.
    """

    def pattern(op, x: floats, w: Const, b: Const | None, c: Const, divisor: Const):
        product = op.MatMul(x, w)
        y = op.either(op.Add(product, b), product)
        return op.either(op.Mul(y, c), op.Div(y, divisor))

    def unless(m):
        w = array(m.w)
        rank = _fold.rank_of(m.find("MatMul").outputs[0])
        c = _fold.along_last(m.divisor if m.c is None else m.c, w.shape[-1], rank) if w.ndim > 1 else None
        if c is None:
            return "the factor is not one number or one for each column of the weight"
        with np.errstate(all="ignore"):
            c = c if m.divisor is None else 1 / c
        if (why := _fold.kept(m.w)) is not None:
            return why
        m.weight = _fold.scaled(w, c)
        m.bias = None if m.b is None else _fold.scaled(*np.broadcast_arrays(array(m.b), c))
        if m.weight is None or (m.b is not None and m.bias is None):
            return "a folded weight would be too large"

    def rewrite(op, m):
        y = op.MatMul(m.x, m.weight)
        return y if m.bias is None else op.Add(y, m.bias)

    cases = [
        Case("a scaled query", x=f32["B", "S", 8], w=f32[8, 4], b=f32[4], c=0.125, divisor=8.0),
        Case("a factor for each column", x=f32["B", "S", 8], w=f32[8, 4], b=f32[4], c=f32[4],
             divisor=np.linspace(0.5, 2, 4, dtype=np.float32)),
        Refused("a factor for each row", x=f32[4, 8], w=f32[8, 4], b=f32[4], c=f32[4, 1], divisor=f32[4, 1],
                because="not one number or one for each column"),
        Refused("overflow", x=f32["N", 2], w=np.full((2, 2), 1e30, np.float32), b=f32[2], c=1e30, divisor=1e-30,
                because="a folded weight would be too large"),
    ]  # fmt: skip


@rule(group="linear", safety=CLOSE("constants are multiplied beforehand"))
class ScaleBeforeMatMul:
    """A constant factor or divisor of what a constant matrix is multiplied with goes into the matrix.

    Sound because ``(x c) W = x (c W)``, where ``c`` is one number or one for each row of W, and does not broadcast x.
    """

    def pattern(op, x: floats, c: Const, divisor: Const, w: Const):
        return op.MatMul(op.either(op.Mul(x, c), op.Div(x, divisor)), w)

    def unless(m):
        w, d = array(m.w), dims(m.x)
        factor = m.divisor if m.c is None else m.c
        c = _fold.along_last(factor, w.shape[-2], len(d)) if w.ndim > 1 and d else None
        if c is None or (c.size > 1 and d[-1] != c.size):
            return "the factor is not known to be one number or one for each row of the weight"
        with np.errstate(all="ignore"):
            c = c if m.divisor is None else 1 / c
        if (why := _fold.kept(m.w)) is not None:
            return why
        m.weight = _fold.scaled(w, c.reshape(-1, 1))
        if m.weight is None:
            return "a folded weight would be too large"

    def rewrite(op, m):
        return op.MatMul(m.x, m.weight)

    cases = [
        Case("a scaled input", x=f32["B", "S", 8], c=0.125, divisor=8.0, w=f32[8, 4]),
        Case("a factor for each row", x=f32["B", "S", 8], c=f32[1, 8], divisor=np.full(8, 3, np.float32), w=f32[8, 4]),
        Case("a stack of matrices", x=f32["B", "S", 8], c=0.5, divisor=2.0, w=f32[2, 8, 4]),
        Refused("a factor for each position", x=f32[4, 8], c=f32[4, 1], divisor=f32[4, 1], w=f32[8, 4],
                because="not known to be one number or one for each row"),
        Refused("one column becomes many", x=f32[4, 1], c=f32[8], divisor=f32[8], w=f32[8, 4],
                because="not known to be one number or one for each row"),
        Refused("overflow", x=f32["N", 2], c=1e30, divisor=1e-30, w=np.full((2, 2), 1e30, np.float32),
                because="a folded weight would be too large"),
    ]  # fmt: skip


@rule(group="linear", safety=CLOSE("two factors are multiplied beforehand"))
class ScaleAfterGemm:
    """A constant number times the result of Gemm goes into its factors alpha and beta.

    Sound because ``c (alpha A B + beta C) = (c alpha) A B + (c beta) C``.
    """

    def pattern(op, x: floats, w, b, c: Scalar, alpha, beta, transA, transB):
        return op.Mul(op.Gemm(x, w, b, alpha=alpha, beta=beta, transA=transA, transB=transB), c)

    def unless(m):
        c = float(scalar(m.c))
        m.factors = {"alpha": m.alpha * c, "beta": m.beta * c}
        if not all(np.isfinite(np.float32(f)) for f in m.factors.values()):
            return "a factor would not be finite"

    def rewrite(op, m):
        return op.Gemm(m.x, m.w, m.b, transA=m.transA, transB=m.transB, **m.factors)

    cases = [
        Case("scaled logits", x=f32["N", 8], w=f32[8, 4], b=f32[4], c=0.125, alpha=1.0, beta=1.0, transA=0, transB=0),
        Case("transposed", x=f32[8, "N"], w=f32[4, 8], b=f32[4], c=3.0, alpha=0.5, beta=2.0, transA=1, transB=1),
        Refused("overflow", x=f32["N", 8], w=f32[8, 4], b=f32[4], c=1e30, alpha=1e30, beta=1.0, transA=0, transB=0,
                because="a factor would not be finite"),
    ]


@rule(group="linear", safety=CLOSE("constants are multiplied beforehand"))
class GemmFactors:
    """The factors alpha and beta of Gemm go into its constant matrix and bias.

    Sound because ``alpha A B + beta C = A (alpha B) + (beta C)``.
    """

    def pattern(op, x: floats, w: Const, b: Const | None, alpha, beta, transA, transB):
        return op.Gemm(x, w, b, alpha=alpha, beta=beta, transA=transA, transB=transB)

    def unless(m):
        if m.alpha == 1 and (m.b is None or m.beta == 1):
            return "both factors are 1"
        if (why := _fold.kept(m.w)) is not None:
            return why
        m.weight = _fold.scaled(array(m.w), m.alpha)
        m.bias = None if m.b is None else _fold.scaled(array(m.b), m.beta)
        if m.weight is None or (m.b is not None and m.bias is None):
            return "a folded weight would be too large"

    def rewrite(op, m):
        return op.Gemm(m.x, m.weight, m.bias, transA=m.transA, transB=m.transB)

    cases = [
        Case("alpha", x=f32["N", 8], w=f32[8, 4], b=None, alpha=0.5, beta=1.0, transA=0, transB=0),
        Case("both", x=f32[8, "N"], w=f32[4, 8], b=f32[1, 4], alpha=0.5, beta=3.0, transA=1, transB=1),
        Refused("no factors", x=f32["N", 8], w=f32[8, 4], b=f32[4], alpha=1.0, beta=1.0, transA=0, transB=0,
                because="both factors are 1"),
        Refused("overflow", x=f32["N", 2], w=np.full((2, 2), 1e30, np.float32), b=f32[2], alpha=1e30, beta=1.0,
                transA=0, transB=0, because="a folded weight would be too large"),
    ]  # fmt: skip
