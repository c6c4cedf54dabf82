"""One spelling for sums and products with constants: Add and Mul, the constant second."""

import numpy as np
from olc.rules import (
    CLOSE,
    EXACT,
    I8,
    I32,
    I64,
    Case,
    Const,
    Refused,
    Spec,
    array,
    f16,
    f32,
    floats,
    i64,
    is_constant,
    rule,
)

signed = Spec((*floats.dtypes, I8, I32, I64))


@rule(group="affine", safety=EXACT)
class SubAsAdd:
    """``x - c`` is ``x + (-c)``. Sound because IEEE defines it so, and integers wrap."""

    def pattern(op, x: signed, c: Const):
        return op.Sub(x, c)

    def unless(m):
        if is_constant(m.x):
            return "both are constants"

    def rewrite(op, m):
        with np.errstate(all="ignore"):
            return op.Add(m.x, -array(m.c))

    cases = [
        Case("a number", x=f32["N"], c=np.float32(3)),
        Case("zero", x=f32["N"], c=np.float32(0)),
        Case("a vector", x=f32["N", 4], c=f32[4]),
        Case("integers", x=i64["N"], c=np.array(-(1 << 63))),
        Refused("constants", x=np.float32(1), c=np.float32(3), because="both are constants"),
    ]


def _inverse(m):
    """Sets ``m.inverse``; False where it is infinite, 0 or denormal."""
    import ml_dtypes

    a = array(m.c)
    with np.errstate(all="ignore"):
        m.inverse = (1.0 / a.astype(np.float64)).astype(a.dtype)
        x = np.abs(m.inverse.astype(np.float64))
    return bool(np.isfinite(x).all() and (x >= float(ml_dtypes.finfo(a.dtype).tiny)).all())


@rule(group="affine", safety=EXACT)
class DivByPowerOfTwo:
    """``x / 2^k`` is ``x * 2^-k``. Sound because the inverse is exact, so that both round the same real number."""

    def pattern(op, x: floats, c: Const):
        return op.Div(x, c)

    def unless(m):
        a = array(m.c).astype(np.float64)
        if not np.isfinite(a).all() or not (np.abs(np.frexp(a)[0]) == 0.5).all():
            return "the divisor is not a power of 2"
        if not _inverse(m):
            return "the inverse of the divisor is denormal"

    def rewrite(op, m):
        return op.Mul(m.x, m.inverse)

    cases = [
        Case("by 8", x=f32["N"], c=np.float32(8)),
        Case("by some", x=f32["N", 2], c=np.array([0.5, -4], np.float32)),
        Refused("by 3", x=f32["N"], c=np.float32(3), because="not a power of 2"),
        Refused("by a large one", x=f16["N"], c=np.float16(32768), because="denormal"),
    ]


@rule(group="affine", safety=CLOSE("the inverse is rounded too"))
class DivByConstant:
    """``x / c`` is ``x * (1/c)``, by the definition of division."""

    def pattern(op, x: floats, c: Const):
        return op.Div(x, c)

    def unless(m):
        if is_constant(m.x):
            return "both are constants"
        a = array(m.c).astype(np.float64)
        if not np.isfinite(a).all() or (a == 0).any() or not _inverse(m):
            return "the divisor or its inverse is 0, not finite or denormal"

    def rewrite(op, m):
        return op.Mul(m.x, m.inverse)

    cases = [
        Case("by 3", x=f32["N"], c=np.float32(3)),
        Case("by the square root of 2", x=f32["N"], c=np.float32(1.4142135)),
        Refused("by 0", x=f32["N"], c=np.float32(0), because="divisor"),
        Refused("constants", x=np.float32(1), c=np.float32(3), because="both are constants"),
    ]


@rule(group="affine", safety=EXACT)
class ConstantSecond:
    """The constant operand of a commutative operator comes second. Sound because the operator is commutative."""

    def pattern(op, x, c: Const):
        return op.oneof("Add", "Mul", "And", "Or", "Xor", "Equal")(c, x)

    def unless(m):
        if m.root.inputs[0] is not m.c or is_constant(m.x):
            return "it comes second already"

    def rewrite(op, m):
        return getattr(op, m.root.op_type)(m.x, m.c)

    cases = [
        Case("a bias", x=f32["N", 4], c=f32[4]),
        Refused("constants", x=np.float32(1), c=np.float32(3), because="second already"),
    ]
