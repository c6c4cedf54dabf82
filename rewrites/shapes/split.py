"""Parts of a tensor, cut one by one or all at once."""

import numpy as np
from olc.rules import EXACT, Case, Const, Refused, any_type, dims, elements, f32, rule


def _cut(start, end, axis, shape):
    """(axis, first, last) of a Slice with one axis, or None."""
    held = [elements(v) for v in (start, end, axis)]
    if any(h is None or len(h) != 1 or not isinstance(h[0], int) for h in held):
        return None
    first, last, at = (h[0] for h in held)
    at %= len(shape)
    return (at, first, min(last, shape[at])) if isinstance(shape[at], int) and 0 <= first <= last else None


@rule(group="shapes", safety=EXACT, since=13)
class ThreeSlicesAsSplit:
    """Three Slices that cut an axis into parts, in order and without rest, are one Split.

    So are queries, keys and values cut from what one linear layer makes of all three. Sound because the parts are proved
    to lie one behind the other and to cover the axis.
    """

    def pattern(
        op, x: any_type, s1: Const, e1: Const, a1: Const, s2: Const, e2: Const, a2: Const, s3: Const, e3: Const, a3: Const
    ):
        return op.Slice(x, s1, e1, a1), op.Slice(x, s2, e2, a2), op.Slice(x, s3, e3, a3)

    def unless(m):
        shape = dims(m.x)
        if not shape:
            return "the shape is not known"
        cuts = [_cut(*c, shape) for c in ((m.s1, m.e1, m.a1), (m.s2, m.e2, m.a2), (m.s3, m.e3, m.a3))]
        if None in cuts or len({c[0] for c in cuts}) != 1:
            return "the Slices do not cut one axis of known size"
        m.axis = cuts[0][0]
        edges = [cuts[0][1], *(c[2] for c in cuts)]
        if [c[1] for c in cuts] != edges[:3] or edges[0] != 0 or edges[3] != shape[m.axis] or len(set(edges)) != 4:
            return "the parts do not lie one behind the other, from end to end"
        if any(n.op_type == "Neg" for v in m.roots for n, _ in v.uses()):
            return "a part is negated: two of them are the halves of a rotary embedding"
        m.sizes = np.diff(edges).astype(np.int64)
        return None

    def rewrite(op, m):
        return op.Split(m.x, m.sizes, axis=m.axis, outputs=3)

    cases = [
        Case("queries, keys and values", x=f32["B", "S", 12], s1=np.array([0]), e1=np.array([4]), a1=np.array([2]),
             s2=np.array([4]), e2=np.array([8]), a2=np.array([2]), s3=np.array([8]), e3=np.array([1 << 60]), a3=np.array([-1])),
        Refused("a gap", x=f32["B", 12], s1=np.array([0]), e1=np.array([4]), a1=np.array([1]), s2=np.array([5]),
                e2=np.array([8]), a2=np.array([1]), s3=np.array([8]), e3=np.array([12]), a3=np.array([1]), because="one behind"),
        Refused("not to the end", x=f32["B", 12], s1=np.array([0]), e1=np.array([4]), a1=np.array([1]), s2=np.array([4]),
                e2=np.array([8]), a2=np.array([1]), s3=np.array([8]), e3=np.array([11]), a3=np.array([1]), because="from end"),
        Refused("two axes", x=f32[12, 12], s1=np.array([0]), e1=np.array([4]), a1=np.array([1]), s2=np.array([4]),
                e2=np.array([8]), a2=np.array([0]), s3=np.array([8]), e3=np.array([12]), a3=np.array([1]), because="one axis"),
    ]  # fmt: skip
