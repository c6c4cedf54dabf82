"""Clip without bounds."""

import numpy as np
from olc.rules import EXACT, Case, Const, Refused, array, f32, i64, numbers, rule


def _free(bound, lowest):
    """Does the bound exclude nothing? An infinity does not, nor the end of an integer type's range."""
    if bound is None:
        return True
    a = array(bound)
    if a.size != 1:
        return False
    if bound.dtype.is_floating_point():
        return float(a.reshape(-1)[0]) == (-np.inf if lowest else np.inf)
    info = np.iinfo(a.dtype)
    return a.reshape(-1)[0] == (info.min if lowest else info.max)


@rule(group="noops", safety=EXACT, since=11)
class DropClipWithoutBounds:
    """A Clip that has no bounds, or infinite ones, is its input.

    Sound because every value lies within them, and NaN stays NaN."""

    def pattern(op, x: numbers, low: Const | None, high: Const | None):
        return op.Clip(x, low, high)

    def unless(m):
        if not (_free(m.low, True) and _free(m.high, False)):
            return "it has a bound"

    def rewrite(op, m):
        return m.x

    cases = [
        Case("none", x=f32["N"]),
        Case("infinite ones", x=f32["N"], low=np.float32(-np.inf), high=np.float32(np.inf)),
        Case("one infinite", x=f32["N"], low=None, high=np.float32(np.inf)),
        Case("the whole range", x=i64["N"], low=np.int64(-(1 << 63)), high=None, opset=12),
        Refused("a lower one", x=f32["N"], low=np.float32(0), high=None, because="it has a bound"),
        Refused("the largest finite", x=f32["N"], low=None, high=np.finfo(np.float32).max, because="it has a bound"),
    ]
