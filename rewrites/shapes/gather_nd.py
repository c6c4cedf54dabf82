"""GatherND that picks whole entries along one axis."""

import numpy as np
from olc.rules import EXACT, Case, Const, Refused, any_type, array, dims, f32, i64, rule

from .. import _shapes as s


@rule(group="shapes", safety=EXACT, since=13)
class GatherNdOfOneIndex:
    """GatherND with indices of one number each is a Gather along the first axis.

    Sound because such an index names an entry of the first axis; both operators count negative ones from the end.
    """

    def pattern(op, x: any_type, i):
        return op.GatherND(x, i)

    def unless(m):
        i = dims(m.i)
        return "the indices are not known to have one number each" if i is None or i[-1] != 1 else None

    def rewrite(op, m):
        return op.Gather(m.x, op.Squeeze(m.i, np.array([len(dims(m.i)) - 1])), axis=0)

    cases = [
        Case("positions", x=f32[8, 3], i=np.array([[[0], [7]], [[-1], [2]]])),
        Refused("pairs", x=f32[2, 2, 3], i=np.array([[0, 1], [1, 0]]), because="one number each"),
        Refused("how many is unknown", x=f32[2, 3], i=i64["N", "K"], because="one number each"),
    ]


@rule(group="shapes", safety=EXACT, since=13)
class GatherNdOfCopies:
    """GatherND of the first axes, all but one of which an Expand made of ones, is a Gather along that one.

    Sound because which of the copies is picked does not matter, and each index is in range. So torch writes
    ``repeat_interleave``: each entry is expanded, and those copies picked that a constant says are wanted.
    """

    def pattern(op, x: any_type, shape: s.VECTOR, i: Const):
        return op.GatherND(op.Expand(x, shape), i)

    def unless(m):
        given, d, wide = array(m.i), dims(m.x), dims(m.nodes[1].outputs[0])
        k = given.shape[-1]
        if d is None or wide is None or len(d) != len(wide) or d[k:] != wide[k:] or not all(isinstance(n, int) for n in wide[:k]):
            return "the Expand is not known to be of the axes that are picked from"
        whole = [a for a in range(k) if d[a] != 1]
        if len(whole) != 1 or d[whole[0]] != wide[whole[0]]:
            return "there is not one axis that is not of copies"
        if not given.size or not ((given >= 0) & (given < np.array(wide[:k]))).all():
            return "an index is not in range"
        m.picked, m.gone = given[..., whole[0]], [a for a in range(k) if a != whole[0]]

    def rewrite(op, m):
        return op.Gather(op.Squeeze(m.x, s.vector(m.gone)) if m.gone else m.x, m.picked, axis=0)

    cases = [
        Case("each twice", x=f32[3, 1, "N", "M"], shape=np.array([1, 2, 1, 1]),
             i=np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]])),
        Case("some", x=f32[1, 3, "N"], shape=np.array([2, 1, 1]), i=np.array([[[1, 2], [0, 1]]])),
        Refused("two axes", x=f32[2, 3, 4], shape=np.array([1, 1, 1]), i=np.array([[1, 2], [0, 0]]), because="not one axis"),
        Refused("behind them", x=f32[2, 1, 1], shape=np.array([1, 3, 4]), i=np.array([[1, 2], [0, 0]]), because="picked from"),
        Refused("from the end", x=f32[2, 1, 4], shape=np.array([1, 3, 1]), i=np.array([[-1, 2], [0, 0]]), because="in range"),
    ]  # fmt: skip
