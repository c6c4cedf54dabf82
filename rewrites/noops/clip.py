"""Clip without bounds."""

import numpy as np
from olc.rules import CLOSE, EXACT, Case, Const, Refused, array, dims, f32, floats, i64, numbers, rule

from .. import _shapes as s


def _free(bound, lowest):
    """Does the bound exclude nothing? An infinity does not, nor the end of an integer type's range."""
    a = array(bound)
    if a.size != 1:
        return False
    if bound.dtype.is_floating_point():
        return float(a.reshape(-1)[0]) == (-np.inf if lowest else np.inf)
    info = np.iinfo(a.dtype)
    return a.reshape(-1)[0] == (info.min if lowest else info.max)


@rule(group="noops", safety=EXACT, since=11, keeps_shape=True)
class DropInfiniteClip:
    """A Clip from minus to plus infinity is its input, and so is one over all numbers of an integer type.

    Sound because every value lies within, and NaN stays NaN.
    """

    def pattern(op, x: numbers, low: Const, high: Const):
        return op.Clip(x, low, high)

    def unless(m):
        if not (_free(m.low, True) and _free(m.high, False)):
            return "it has a bound"

    def rewrite(op, m):
        return m.x

    cases = [
        Case("infinities", x=f32["N"], low=np.float32(-np.inf), high=np.float32(np.inf)),
        Case("the whole range", x=i64["N"], low=np.int64(-(1 << 63)), high=np.int64((1 << 63) - 1), opset=12),
        Refused("a lower one", x=f32["N"], low=np.float32(0), high=np.float32(np.inf), because="it has a bound"),
        Refused(
            "the largest number", x=f32["N"], low=np.float32(-np.inf), high=np.finfo(np.float32).max,
            because="it has a bound",
        ),
    ]  # fmt: skip


@rule(group="noops", safety=CLOSE("a bound that is left out may cut infinities"), since=11, keeps_shape=True)
class DropClipWithoutBounds:
    """A Clip whose bounds are left out or infinite is its input: every finite value lies within."""

    def pattern(op, x: floats, low: Const | None, high: Const | None):
        return op.Clip(x, low, high)

    def unless(m):
        if not ((m.low is None or _free(m.low, True)) and (m.high is None or _free(m.high, False))):
            return "it has a bound"

    def rewrite(op, m):
        return m.x

    cases = [
        Case("none", x=f32["N"]),
        Case("one infinite", x=f32["N"], low=None, high=np.float32(np.inf)),
        Refused("an upper one", x=f32["N"], low=None, high=np.float32(6), because="it has a bound"),
    ]


@rule(group="noops", safety=EXACT, since=8)
class DropMaxOfLeast:
    """The maximum with minus infinity, and the minimum with infinity, is the other operand.

    Sound because every number is at least as large, or as small, and NaN stays NaN. JAX begins its maxima so.
    """

    def pattern(op, x: floats, c: Const):
        return op.either(op.Max(x, c), op.Min(x, c))

    def unless(m):
        if not _free(m.c, m.root.op_type == "Max"):
            return "it has a bound"
        return None if dims(m.c) == () or s.same_dims(m.x, m.roots[0]) else "the constant may widen the result"

    def rewrite(op, m):
        return m.x

    cases = [
        Case("of a softmax", x=f32["N"], c=np.float32(-np.inf)),
        Case("from above", x=f32["B", "S"], c=np.array([np.inf], np.float32)),
        Refused("a lower one", x=f32["N"], c=np.float32(-1e30), because="it has a bound"),
        Refused("more axes", x=f32["N"], c=np.full((1, 1), -np.inf, np.float32), because="widen"),
    ]
