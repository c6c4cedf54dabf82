"""GatherND that picks whole entries of the first axis."""

import numpy as np
from olc.rules import EXACT, Case, Refused, any_type, dims, elements, f32, i64, rule


@rule(group="shapes", safety=EXACT, since=13)
class GatherNdOfOneIndex:
    """GatherND with indices of one number each, written with a last axis of 1, is a Gather along the first axis.

    Sound because such an index names an entry of the first axis; both operators count negative ones from the end.
    """

    def pattern(op, x: any_type, i, axes):
        return op.GatherND(x, op.Unsqueeze(i, axes))

    def unless(m):
        i, axes = dims(m.i), elements(m.axes)
        if i is None or axes is None or axes not in ((len(i),), (-1,)):
            return "the indices are not known to have one number each"
        return None

    def rewrite(op, m):
        return op.Gather(m.x, m.i, axis=0)

    cases = [
        Case("positions", x=f32[8, 3], i=np.array([[0, 7], [-1, 2]]), axes=np.array([2])),
        Refused("pairs", x=f32[2, 2, 3], i=np.array([[0, 1], [1, 0]]), axes=np.array([0]), because="one number each"),
        Refused("unknown axes", x=f32[2, 3], i=np.array([[0, 1]]), axes=i64[1], because="one number each"),
    ]  # fmt: skip
