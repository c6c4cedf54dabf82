"""Running counts, as exporters write positions that skip padding."""

import numpy as np
from olc.rules import EXACT, I32, I64, Attrs, Case, Const, Refused, Spec, array, boolean, dims, f32, i32, i64, rule


@rule(group="shapes", safety=EXACT, since=13)
class CountInInt32:
    """Counting true values in int64 and casting the counts to int32 is counting in int32.

    Sound because a count is at most the number of elements along one axis, and no tensor has 2**31 of them; were there
    more, both would wrap to the same number.
    """

    def pattern(op, x: boolean, axis, attrs: Attrs):
        return op.Cast(op.CumSum(op.Cast(x, to=I64), axis, **attrs), to=I32)

    def rewrite(op, m):
        return op.CumSum(op.Cast(m.x, to=I32), m.axis, **m.attrs)

    cases = [
        Case("positions", x=boolean["B", "S"], axis=np.array(1), attrs={}),
        Case("before each", x=boolean["B", "S"], axis=np.array(0), attrs={"exclusive": 1}),
    ]  # fmt: skip


@rule(group="shapes", safety=EXACT, since=13)
class CumSumAxis:
    """The axis of a CumSum is an int64 that counts from the front.

    Sound because both dtypes and both ways of counting name the same axis.
    """

    def pattern(op, x, axis: Const[Spec((I32, I64))], attrs: Attrs):
        return op.CumSum(x, axis, **attrs)

    def unless(m):
        d, axis = dims(m.x), array(m.axis)
        if d is None or axis.size != 1:
            return "the rank is not known"
        m.wanted = np.array(int(axis.reshape(-1)[0]) % len(d), dtype=np.int64)
        if axis.dtype == np.int64 and axis.shape == () and axis == m.wanted:
            return "it is one already"
        return None

    def rewrite(op, m):
        return op.CumSum(m.x, m.wanted, **m.attrs)

    cases = [
        Case("int32", x=f32["B", "S"], axis=np.array(1, np.int32), attrs={}),
        Case("from the end", x=i64["B", "S"], axis=np.array(-1), attrs={"reverse": 1}),
        Refused("as it should be", x=i32["B", "S"], axis=np.array(1), attrs={}, because="already"),
    ]  # fmt: skip
