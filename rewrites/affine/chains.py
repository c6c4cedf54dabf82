"""Additions of constants in a row, and multiplications."""

import numpy as np
from olc.rules import CLOSE, EXACT, Case, Const, Refused, array, f16, f32, floats, i64, integers, rule


def _together(m, combine):
    """Why the two constants do not become one; else sets ``m.c``.

    Not where broadcasting them makes a larger constant, nor where the new one is 0, infinite or denormal: there the
    rounding of one step would stand for a whole range of results.
    """
    a, b = array(m.a), array(m.b)
    if np.size(combine(np.empty(a.shape, bool), np.empty(b.shape, bool))) > max(a.size, b.size, 1):
        return "the constants together are larger than each"
    with np.errstate(all="ignore"):
        if not m.x.dtype.is_floating_point():
            m.c = combine(a, b).astype(a.dtype)
            return None
        wide = combine(a.astype(np.float64), b.astype(np.float64))
        m.c = wide.astype(a.dtype)
    return None


def _ordinary(a):
    """Are all numbers finite, and none 0 or denormal?"""
    import ml_dtypes

    x = np.abs(a.astype(np.float64))
    return bool(np.isfinite(x).all() and (x >= float(ml_dtypes.finfo(a.dtype).tiny)).all())


@rule(group="affine", safety=EXACT)
class ComposeIntegerAdds:
    """``(x + a) + b`` is ``x + (a + b)`` for integers. Sound because they wrap: sums are exact modulo a power of 2."""

    def pattern(op, x: integers, a: Const, b: Const):
        return op.Add(op.Add(x, a), b)

    def unless(m):
        return _together(m, np.add)

    def rewrite(op, m):
        return op.Add(m.x, m.c)

    cases = [
        Case("two numbers", x=i64["N"], a=np.int64(3), b=np.int64(-5)),
        Case("a vector and a number", x=i64["N", 2], a=np.array([1, 2]), b=np.array([[7]])),
        Refused("an outer sum", x=i64[3, 2], a=np.array([1, 2]), b=np.ones((3, 1), np.int64), because="larger"),
    ]


@rule(group="affine", safety=EXACT)
class ComposeIntegerMuls:
    """``(x * a) * b`` is ``x * (a * b)`` for integers. Sound because they wrap: exact modulo a power of 2."""

    def pattern(op, x: integers, a: Const, b: Const):
        return op.Mul(op.Mul(x, a), b)

    def unless(m):
        return _together(m, np.multiply)

    def rewrite(op, m):
        return op.Mul(m.x, m.c)

    cases = [
        Case("two numbers", x=i64["N"], a=np.int64(3), b=np.int64(-5)),
        Refused("an outer product", x=i64[3, 2], a=np.array([1, 2]), b=np.ones((3, 1), np.int64), because="larger"),
    ]


@rule(group="affine", safety=CLOSE("rounded once instead of twice"))
class ComposeAdds:
    """``(x + a) + b`` is ``x + (a + b)``: addition of real numbers is associative."""

    def pattern(op, x: floats, a: Const, b: Const):
        return op.Add(op.Add(x, a), b)

    def unless(m):
        reason = _together(m, np.add)
        if reason is None and not np.isfinite(m.c.astype(np.float64)).all():
            return "the sum of the constants is not finite"
        return reason

    def rewrite(op, m):
        return op.Add(m.x, m.c)

    cases = [
        Case("two numbers", x=f32["N"], a=np.float32(3), b=np.float32(0.1)),
        Case("a bias and a number", x=f32["N", 4], a=f32[4], b=np.float32(1)),
        Refused("overflow", x=f16["N"], a=np.float16(60000), b=np.float16(60000), because="not finite"),
        Refused("an outer sum", x=f32[3, 2], a=f32[2], b=f32[3, 1], because="larger"),
    ]


@rule(group="affine", safety=CLOSE("rounded once instead of twice"))
class ComposeMuls:
    """``(x * a) * b`` is ``x * (a * b)``: multiplication of real numbers is associative."""

    def pattern(op, x: floats, a: Const, b: Const):
        return op.Mul(op.Mul(x, a), b)

    def unless(m):
        reason = _together(m, np.multiply)
        if reason is None and not (_ordinary(m.c) and _ordinary(array(m.a)) and _ordinary(array(m.b))):
            return "a factor is 0, not finite or denormal"
        return reason

    def rewrite(op, m):
        return op.Mul(m.x, m.c)

    cases = [
        Case("two numbers", x=f32["N"], a=np.float32(3), b=np.float32(0.1)),
        Case("a scale and a number", x=f32["N", 4], a=f32[4], b=np.float32(0.125)),
        Refused("underflow", x=f16["N"], a=np.float16(1e-4), b=np.float16(1e-4), because="denormal"),
        Refused("an outer product", x=f32[3, 2], a=f32[2], b=f32[3, 1], because="larger"),
    ]
