"""Rules that are right, each by another part of the language: the harness must let them pass."""

import numpy as np
from olc.rules import (
    BF16,
    CLOSE,
    EXACT,
    F16,
    F32,
    F64,
    Attrs,
    Case,
    Const,
    Many,
    Refused,
    Scalar,
    array,
    dims,
    f16,
    f32,
    f64,
    floats,
    i64,
    rule,
)

WIDER = {(F16, F32), (F16, F64), (BF16, F32), (BF16, F64), (F32, F64)}


@rule(group="sound", safety=EXACT, since=13)
class CollapseCasts:
    """Cast straight to the last type when the middle type loses nothing.

    Sound because a widening cast is exact, so the second cast sees the original value.
    """

    def pattern(op, x, mid, to):
        return op.Cast(op.Cast(x, to=mid), to=to)

    def unless(m):
        if m.x.dtype is None:
            return "the input type is unknown"
        if (m.x.dtype, m.mid) not in WIDER:
            return "the middle type rounds the input"

    def rewrite(op, m):
        return op.Cast(m.x, to=m.to)

    cases = [
        Case("f16 via f32 to f64", x=f16["N"], mid=F32, to=F64),
        Refused("f64 via f32 to f16", x=f64["N"], mid=F32, to=F16, because="the middle type rounds the input"),
    ]


@rule(group="sound", safety=EXACT)
class TimesOne:
    """A product with one is the other factor, bit for bit: IEEE 754 rounds nothing there."""

    def pattern(op, x):
        return op.Mul(x, 1)

    def rewrite(op, m):
        return m.x

    cases = [Case("numbers", x=f32["N", 4]), Case("integers", x=i64["N"])]


@rule(group="sound", safety=EXACT, since=13)
class JoinTransposes:
    """Two Transposes are one, whose permutation is the first taken in the order of the second."""

    def pattern(op, x, first, second):
        return op.Transpose(op.Transpose(x, perm=first), perm=second)

    def unless(m):
        return "a permutation is left to its default" if m.first is None or m.second is None else None

    def rewrite(op, m):
        return op.Transpose(m.x, perm=[m.first[i] for i in m.second])

    cases = [
        Case("three dims", x=f32["A", "B", "C"], first=[1, 2, 0], second=[0, 2, 1]),
        Refused("the default", x=f32["A", "B"], first=None, second=[1, 0], because="left to its default"),
    ]


@rule(group="sound", safety=CLOSE("another rounding"))
class DivToMul:
    """A division by a constant is a multiplication by its reciprocal.

    Sound where neither the reciprocal nor the constant is out of range: it rounds twice instead of once.
    """

    def pattern(op, x: floats, c: Const):
        return op.Div(x, c)

    def unless(m):
        size = np.abs(array(m.c).astype(np.float64))
        if not np.all((size > 1e-3) & (size < 1e3)):
            return "the reciprocal may overflow or vanish"

    def rewrite(op, m):
        c = array(m.c)
        return op.Mul(m.x, (1 / c).astype(c.dtype))

    cases = [
        Case("a row", x=f32["N", 4], c=np.array([0.5, 3.0, -7.0, 100.0], np.float32)),
        Case("half", x=f16["N"], c=3.0),
        Refused("zero", x=f32["N"], c=0.0, because="may overflow"),
    ]


@rule(group="sound", safety=CLOSE("one kernel, and exporters round sqrt(2)"), since=20)
class Gelu:
    """The five operators of an exact Gelu, in any order, are Gelu."""

    def pattern(op, x: floats):
        return op.product(x, op.Add(op.Erf(op.Div(x, 1.4142135)), 1.0), scale=0.5)

    def rewrite(op, m):
        return op.Gelu(m.x)

    cases = [Case("single", x=f32["N", 4]), Case("half", x=f16["N"])]


@rule(group="sound", safety=CLOSE("sums in another order"), since=18)
class MatMulsOfOneInput:
    """Two products of one input with constant matrices are one product and a Split: each column is computed alone."""

    def pattern(op, x, a: Const[f32["K", "M"]], b: Const[f32["K", "N"]]):
        return op.MatMul(x, a), op.MatMul(x, b)

    def unless(m):
        if dims(m.x) is None:
            return "the rank of the input is unknown"
        return "the input is a vector" if len(dims(m.x)) < 2 else None

    def rewrite(op, m):
        a, b = array(m.a), array(m.b)
        both = op.MatMul(m.x, np.concatenate([a, b], axis=1))
        return op.Split(both, np.array([a.shape[1], b.shape[1]]), axis=len(dims(m.x)) - 1, outputs=2)

    cases = [
        Case("query and key", x=f32["B", "S", 4], a=f32[4, 3], b=f32[4, 5]),
        Refused("a vector", x=f32[4], a=f32[4, 3], b=f32[4, 5], because="the input is a vector"),
    ]


@rule(group="sound", safety=EXACT, since=13)
class FlattenConcats:
    """A Concat within a Concat along the same axis is one Concat, since joining is associative."""

    def pattern(op, before: Many, inner: Many, after: Many, axis):
        return op.Concat(*before, op.Concat(*inner, axis=axis), *after, axis=axis)

    def rewrite(op, m):
        return op.Concat(*m.before, *m.inner, *m.after, axis=m.axis)

    cases = [
        Case("in the middle", before=[f32["A", "N"]], inner=[f32["B", "N"], f32["C", "N"]], after=[f32["D", "N"]], axis=0),
        Case("alone", before=[], inner=[i64["N", "A"], i64["N", "B"]], after=[], axis=-1),
    ]


@rule(group="sound", safety=EXACT, since=13)
class DropScaleOfOne:
    """A scale of one before a sum over any axes changes nothing, whatever the attributes of the sum."""

    def pattern(op, x: floats, one: Scalar, axes: Const, attrs: Attrs):
        return op.ReduceSum(op.either(op.Mul(x, one), op.Div(x, one)), axes, **attrs)

    def unless(m):
        return "it is not one" if array(m.one).reshape(()) != 1 else None

    def rewrite(op, m):
        return op.ReduceSum(m.x, m.axes, **m.attrs)

    cases = [
        Case("last", x=f32["N", 4], one=1.0, axes=[-1]),
        Case("kept out", x=f32["N", 4], one=1.0, axes=[0], attrs={"keepdims": 0}),
        Refused("two", x=f32["N", 4], one=2.0, axes=[-1], because="not one"),
    ]
