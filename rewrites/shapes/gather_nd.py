"""GatherND that picks whole entries of the first axis."""

import numpy as np
from olc.rules import EXACT, Case, Refused, any_type, dims, f32, i64, rule


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
