"""Writing to a range of a value: what exporters make of an assignment to a slice."""

import numpy as np
from olc.rules import EXACT, Case, Const, Refused, array, attr, dims, f32, i64, rule


@rule(group="chains", safety=EXACT, since=11)
class ScatterOfRange:
    """ScatterND over consecutive indices of the first axis is what lies before them, what is written and what lies behind.

    Sound because each index is written once, with all that it holds.
    """

    def pattern(op, data, indices: Const[i64["count", 1]], updates):
        return op.ScatterND(data, indices, updates)

    def unless(m):
        whole, part, at = dims(m.data), dims(m.updates), array(m.indices).reshape(-1)
        if attr(m.root, "reduction", "none") != "none":
            return "it adds to what is there"
        if not at.size or at[0] < 0 or not np.array_equal(at, np.arange(at[0], at[0] + at.size)):
            return "the indices are not consecutive"
        if whole is None or part is None or not isinstance(whole[0], int):
            return "the size is not known"
        if part != (at.size, *whole[1:]) or at[-1] >= whole[0]:
            return "what is written does not fit"
        m.start, m.end, m.size = int(at[0]), int(at[-1]) + 1, whole[0]
        return None

    def rewrite(op, m):
        parts, axis = [m.updates], np.array([0])
        if m.start > 0:
            parts.insert(0, op.Slice(m.data, np.array([0]), np.array([m.start]), axis))
        if m.end < m.size:
            parts.append(op.Slice(m.data, np.array([m.end]), np.array([m.size]), axis))
        return op.Concat(*parts, axis=0)

    cases = [
        Case("in the middle", data=f32[8, "N"], indices=np.array([[2], [3], [4]]), updates=f32[3, "N"]),
        Case("the first", data=f32[8, 2, 3], indices=np.array([[0], [1]]), updates=f32[2, 2, 3]),
        Case("all", data=f32[3, "N"], indices=np.array([[0], [1], [2]]), updates=f32[3, "N"]),
        Refused("turned", data=f32[8, "N"], indices=np.array([[3], [2]]), updates=f32[2, "N"], because="not consecutive"),
        Refused("from the end", data=f32[8, "N"], indices=np.array([[-2], [-1]]), updates=f32[2, "N"], because="not consecutive"),
    ]  # fmt: skip
