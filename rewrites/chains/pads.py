"""Pad of a Pad."""

import numpy as np
from olc.rules import EXACT, Case, Refused, Value, array, f32, i64, rule

from .. import _shapes as s


def _value(v):
    return 0 if v is None else array(v)


@rule(group="chains", safety=EXACT, since=11)
class ComposePads:
    """Padding twice with the same number is padding once by both amounts.

    Sound because what is added the second time lies outside of what was added first, and holds the same number.
    """

    def pattern(op, x, a, b, value: Value | None, other: Value | None):
        return op.Pad(op.Pad(x, a, value), b, other)

    def unless(m):
        a, b = s.whole(m.a), s.whole(m.b)
        if a is None or b is None:
            return "the pads are not known"
        if min(*a, *b) < 0:
            return "negative pads cut"
        first, second = _value(m.value), _value(m.other)
        if (
            first is None
            or second is None
            or np.asarray(first).tobytes() != np.asarray(second, np.asarray(first).dtype).tobytes()
        ):
            return "they pad with different numbers"
        m.pads = [i + j for i, j in zip(a, b, strict=True)]

    def rewrite(op, m):
        return op.Pad(m.x, s.vector(m.pads), m.value if m.value is not None else m.other)

    cases = [
        Case("zeros", x=f32["N", 4], a=np.array([0, 1, 0, 1]), b=np.array([1, 0, 0, 2])),
        Case("a number", x=f32[3], a=np.array([1, 1]), b=np.array([1, 0]), value=np.float32(2), other=np.float32(2)),
        Refused("two numbers", x=f32[3], a=np.array([1, 1]), b=np.array([1, 0]), value=np.float32(2), because="different"),
        Refused("cut", x=f32[3], a=np.array([1, 1]), b=np.array([0, -1]), because="negative"),
        Refused("pads of the caller", x=f32[3], a=i64[2], b=np.array([0, 1]), because="not known"),
    ]
