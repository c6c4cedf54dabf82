"""Arithmetic with the neutral element."""

import numpy as np
from olc.rules import (
    CLOSE,
    EXACT,
    Case,
    Const,
    Refused,
    dims,
    f32,
    floats,
    i64,
    integers,
    numbers,
    rule,
)

from .. import _shapes as s

WIDER = "the constant may widen the result"


def _widens(m):
    """A constant with more dims or larger ones broadcasts the input, so that the result is not the input."""
    c = dims(m.c)
    if c == () or s.same_dims(m.x, m.roots[0]):
        return None
    return WIDER


def _zero(a):
    return a == 0


def _minus_zero(a):
    return (a == 0) & np.signbit(a)


def _plus_zero(a):
    return (a == 0) & ~np.signbit(a)


def _one(a):
    return a == 1


@rule(group="noops", safety=EXACT, keeps_shape=True)
class DropIntegerAddOfZero:
    """``x + 0`` is x for integers. Sound by arithmetic; the constant must not widen the result."""

    def pattern(op, x: integers, c: Const):
        return op.Add(x, c)

    def unless(m):
        return _widens(m) if s.every(m.c, _zero) else "the constant is not 0"

    def rewrite(op, m):
        return m.x

    cases = [
        Case("one number", x=i64["N"], c=np.int64(0)),
        Case("as many as the input", x=i64["N", 2], c=np.zeros(2, np.int64)),
        Refused("not zero", x=i64["N", 2], c=np.array([0, 1]), because="not 0"),
        Refused("wider", x=i64[1, 2], c=np.zeros((3, 2), np.int64), because=WIDER),
    ]


@rule(group="noops", safety=EXACT, keeps_shape=True)
class DropAddOfMinusZero:
    """``x + -0.0`` is x, bit for bit.

    Sound because IEEE rounds to nearest: only -0.0 + -0.0 is -0.0."""

    def pattern(op, x: floats, c: Const):
        return op.Add(x, c)

    def unless(m):
        return _widens(m) if s.every(m.c, _minus_zero) else "the constant is not -0.0"

    def rewrite(op, m):
        return m.x

    cases = [
        Case("one number", x=f32["N", 4], c=np.float32(-0.0)),
        Refused("plus zero", x=f32["N", 4], c=np.float32(0.0), because="not -0.0"),
        Refused("wider", x=f32[1, 4], c=np.full((2, 1), -0.0, np.float32), because=WIDER),
    ]


@rule(group="noops", safety=CLOSE("-0.0 stays -0.0, where the sum with 0.0 is 0.0"), keeps_shape=True)
class DropAddOfZero:
    """``x + 0.0`` is x, but for the sign of a zero."""

    def pattern(op, x: floats, c: Const):
        return op.Add(x, c)

    def unless(m):
        return _widens(m) if s.every(m.c, _zero) else "the constant is not 0"

    def rewrite(op, m):
        return m.x

    cases = [
        Case("one number", x=f32["N", 4], c=np.float32(0.0)),
        Case("a zero bias", x=f32["N", 4], c=np.zeros(4, np.float32)),
        Refused("not zero", x=f32["N", 4], c=np.float32(1e-30), because="not 0"),
        Refused("wider", x=f32["N"], c=np.zeros((3, 1), np.float32), because=WIDER),
    ]


@rule(group="noops", safety=EXACT, keeps_shape=True)
class DropSubOfZero:
    """``x - 0`` is x, bit for bit.

    Sound because -0.0 - 0.0 is -0.0. (Less -0.0 it would be 0.0.)"""

    def pattern(op, x: numbers, c: Const):
        return op.Sub(x, c)

    def unless(m):
        return _widens(m) if s.every(m.c, _plus_zero) else "the constant is not +0"

    def rewrite(op, m):
        return m.x

    cases = [
        Case("floats", x=f32["N", 4], c=np.float32(0.0)),
        Case("integers", x=i64["N"], c=np.int64(0)),
        Refused("minus zero", x=f32["N", 4], c=np.float32(-0.0), because="not +0"),
        Refused("wider", x=f32[1], c=np.zeros(3, np.float32), because=WIDER),
    ]


@rule(group="noops", safety=EXACT, keeps_shape=True)
class DropMulByOne:
    """``x * 1`` is x, bit for bit. Sound because IEEE products are rounded from the exact one."""

    def pattern(op, x: numbers, c: Const):
        return op.Mul(x, c)

    def unless(m):
        return _widens(m) if s.every(m.c, _one) else "the constant is not 1"

    def rewrite(op, m):
        return m.x

    cases = [
        Case("floats", x=f32["N", 4], c=np.float32(1)),
        Case("a unit scale", x=f32["N", 4], c=np.ones(4, np.float32)),
        Case("integers", x=i64["N"], c=np.int64(1)),
        Refused("not one", x=f32["N", 4], c=np.array([1, 1, 1, 2], np.float32), because="not 1"),
        Refused("wider", x=f32["N", 1], c=np.ones(4, np.float32), because=WIDER),
    ]


@rule(group="noops", safety=EXACT, keeps_shape=True)
class DropDivByOne:
    """``x / 1`` is x, bit for bit. Sound because IEEE quotients are rounded from the exact one."""

    def pattern(op, x: numbers, c: Const):
        return op.Div(x, c)

    def unless(m):
        return _widens(m) if s.every(m.c, _one) else "the constant is not 1"

    def rewrite(op, m):
        return m.x

    cases = [
        Case("floats", x=f32["N", 4], c=np.float32(1)),
        Case("integers", x=i64["N"], c=np.int64(1)),
        Refused("not one", x=f32["N", 4], c=np.float32(8), because="not 1"),
        Refused("wider", x=f32["N", 1], c=np.ones(4, np.float32), because=WIDER),
    ]


@rule(group="noops", safety=EXACT, keeps_shape=True)
class DropPowOne:
    """``x ** 1`` is x. Sound for floats because IEEE 754 has the power exact there.

    Not for integers, which some runtimes take through floats."""

    def pattern(op, x: floats, c: Const):
        return op.Pow(x, c)

    def unless(m):
        return _widens(m) if s.every(m.c, _one) else "the exponent is not 1"

    def rewrite(op, m):
        return m.x

    cases = [
        Case("floats", x=f32["N", 4], c=np.float32(1)),
        Refused("a square", x=f32["N", 4], c=np.float32(2), because="not 1"),
        Refused("wider", x=f32["N", 1], c=np.ones(4, np.float32), because=WIDER),
    ]
