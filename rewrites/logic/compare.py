"""Comparisons with a number come before casts, views and extremes."""

import numpy as np
from olc.rules import (
    BOOL,
    CLOSE,
    EXACT,
    I8,
    I32,
    I64,
    U8,
    Attrs,
    Case,
    Const,
    Many,
    Refused,
    Scalar,
    Spec,
    array,
    boolean,
    dims,
    f32,
    i32,
    i64,
    rule,
    scalar,
)  # fmt: skip

from .. import _shapes as s

WHOLE = Spec((BOOL, I8, U8, I32, I64))
EXACT_UP_TO = {"float16": 1 << 11, "bfloat16": 1 << 8, "float32": 1 << 24, "float64": 1 << 53}
"""Whole numbers up to which each float holds all of them."""
NUMBER = "it is not compared with one number"
COMPARE = ("Less", "LessOrEqual", "Greater", "GreaterOrEqual")


def _narrows(value, root):
    """Is it one number, which does not widen what it is compared with?"""
    a, d = array(value), dims(root)
    return a.size == 1 and d is not None and a.ndim <= len(d)


@rule(group="logic", safety=EXACT, since=12)
class CompareOfCast:
    """A whole number compared as a float, or a wider integer, is compared as what it is; a truth value needs no comparison.

    Sound because the cast keeps the order, and the number that is compared with, and those next to it, are exact in that type.
    """

    def pattern(op, x: WHOLE, to, c: Const):
        return op.oneof(*COMPARE)(op.Cast(x, to=to), c)

    def unless(m):
        kind = array(m.c).dtype.name
        truth = m.x.dtype.name == "BOOL"
        if not _narrows(m.c, m.x):
            return NUMBER
        number = float(scalar(m.c))
        widened = kind in ("int32", "int64") and np.can_cast(m.x.dtype.numpy(), kind)
        most = 1 << 31 if widened else EXACT_UP_TO.get(kind)
        if most is None or not abs(number) < most or number != int(number):
            return "the number is not a whole one that the float holds with its neighbours"
        if truth:
            held = [m.root.op_type.startswith("Less") != (v > number) if v != number else m.root.op_type.endswith("Equal")
                    for v in (0, 1)]  # fmt: skip
            m.negated = held == [True, False]
            return None if held[0] != held[1] else "it is the same for both truth values"
        info = np.iinfo(m.x.dtype.numpy())
        return None if info.min <= number <= info.max else "the number is none of the integers"

    def rewrite(op, m):
        if m.x.dtype.name == "BOOL":
            return op.Not(m.x) if m.negated else m.x
        return getattr(op, m.root.op_type)(m.x, array(m.c).astype(m.x.dtype.numpy()))

    cases = [
        Case("a mask of integers", x=i32["B", "S"], to=1, c=np.float32(0)),
        Case("a truth value", x=boolean["B", "S"], to=1, c=np.float32(0)),
        Case("a vector of one", x=i64["B", "S"], to=11, c=np.array([3.0])),
        Case("wider", x=i32["B", "S"], to=7, c=np.int64(3)),
        Refused("half of it", x=i32["B"], to=1, c=np.float32(0.5), because="not a whole one"),
        Refused("large", x=i64["B"], to=1, c=np.float32(1 << 24), because="not a whole one"),
        Refused("always", x=boolean["B"], to=1, c=np.float32(7), because="for both truth values"),
        Refused("beyond the integers", x=i32["B"], to=11, c=np.float64(1 << 40), because="none of the integers"),
        Refused("many", x=i32[3], to=1, c=f32[3], because=NUMBER),
        Refused("narrower", x=i64["B"], to=6, c=np.int32(0), because="not a whole one"),
    ]  # fmt: skip


@rule(group="logic", safety=EXACT, since=13)
class CompareBeforeView:
    """A view of something, compared with a number, is that of the comparison.

    Sound because each element is compared alone.
    """

    def pattern(op, x, others: Many, attrs: Attrs, c: Const):
        return op.oneof(*COMPARE)(op.oneof(*s.VIEWS)(x, *others, **attrs), c)

    def unless(m):
        if not _narrows(m.c, m.x):
            return NUMBER
        return s.UNKNOWN if array(m.c).ndim > len(dims(m.root.outputs[0]) or ()) else None

    def rewrite(op, m):
        moved = next(n for n in m.nodes if n is not m.root)
        return getattr(op, moved.op_type)(getattr(op, m.root.op_type)(m.x, m.c), *m.others, **m.attrs)

    cases = [
        Case("an axis comes", x=i32["B", "S"], others=[np.array([1])], attrs={}, c=np.int32(0)),
        Refused("many", x=i32["B", 1, 4], others=[np.array([1])], attrs={}, c=i32[4], because=NUMBER),
    ]


@rule(group="logic", safety=EXACT, since=13)
class CompareOfExtreme:
    """The smaller of two is more than a number where both are; the larger is less where both are.

    Sound by the definition of Min and Max; of a NaN neither side is true.
    """

    def pattern(op, x, y, c: Scalar):
        return op.either(
            op.oneof("Greater", "GreaterOrEqual")(op.Min(x, y), c), op.oneof("Less", "LessOrEqual")(op.Max(x, y), c)
        )

    def rewrite(op, m):
        compare = getattr(op, m.root.op_type)
        return op.And(compare(m.x, m.c), compare(m.y, m.c))

    cases = [
        Case("two masks", x=i32["B", 1, "S"], y=i32[4, 1], c=np.int32(0)),
    ]


@rule(group="shapes", safety=CLOSE("a float does not hold whole numbers beyond 2**24"), since=13)
class RangeOfFloats:
    """A range of floats up to a size, in whole steps, is that of integers as floats.

    Sound because all of its numbers are whole.
    """

    def pattern(op, start: Scalar, n: Spec((I32, I64)), delta: Scalar, to):
        return op.Range(start, op.Cast(n, to=to), delta)

    def unless(m):
        start, delta = float(scalar(m.start)), float(scalar(m.delta))
        if any(abs(v) > 1 << 20 or v != int(v) for v in (start, delta)) or not delta:
            return "it begins or goes on with a fraction"
        m.begin, m.step = (np.array(v, m.n.dtype.numpy()) for v in (start, delta))

    def rewrite(op, m):
        return op.Cast(op.Range(m.begin, m.n, m.step), to=m.to)

    cases = [
        Case("positions", start=np.float32(0), n=i32[()], delta=np.float32(1), to=1),
        Case("backwards", start=np.float32(3), n=i64[()], delta=np.float32(-2), to=1),
        Refused("halves", start=np.float32(0), n=i64[()], delta=np.float32(0.5), to=1, because="fraction"),
    ]
