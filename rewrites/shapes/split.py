"""Parts of a tensor, cut one by one or all at once."""

import numpy as np
from olc.rules import EXACT, Case, Many, Refused, any_type, dims, f32, rule

from .. import _shapes as s


def _part(first, end, axis=1):
    return [np.array([n]) for n in (first, end, axis)]


_MOST = 8
"""Uses of a tensor beyond which its Slices are not looked at in twos and threes."""


def _why_no_split(m, *parts):
    """Why the Slices do not cut an axis into parts, in order and without rest; else sets ``m.axis`` and ``m.sizes``."""
    shape = dims(m.x)
    if not shape:
        return "the shape is not known"
    if len(m.x.uses()) > _MOST:
        return "it is cut into more parts"
    cuts = [s.cut(inputs, shape) for inputs in parts]
    if None in cuts or len({c[0] for c in cuts}) != 1:
        return "the Slices do not cut one axis of known size"
    m.axis = cuts[0][0]
    edges = [cuts[0][1], *(c[2] for c in cuts)]
    if [c[1] for c in cuts] != edges[:-1] or edges[0] != 0 or edges[-1] != shape[m.axis] or len(set(edges)) != len(edges):
        return "the parts do not lie one behind the other, from end to end"
    if any(n.op_type == "Neg" for v in m.roots for n, _ in v.uses()):
        return "a part is negated: two of them are the halves of a rotary embedding"
    m.sizes = np.diff(edges).astype(np.int64)
    return None


@rule(group="shapes", safety=EXACT, since=13)
class ThreeSlicesAsSplit:
    """Three Slices that cut an axis into parts, in order and without rest, are one Split.

    So are queries, keys and values cut from what one linear layer makes of all three. Sound because the parts are proved
    to lie one behind the other and to cover the axis.
    """

    def pattern(op, x: any_type, one: Many, two: Many, three: Many):
        return op.Slice(x, *one), op.Slice(x, *two), op.Slice(x, *three)

    def unless(m):
        return _why_no_split(m, m.one, m.two, m.three)

    def rewrite(op, m):
        return op.Split(m.x, m.sizes, axis=m.axis, outputs=3)

    cases = [
        Case("queries, keys and values", x=f32["B", "S", 12], one=_part(0, 4, 2), two=_part(4, 8, 2),
             three=_part(8, 1 << 60, -1)),
        Refused("a gap", x=f32["B", 12], one=_part(0, 4), two=_part(5, 8), three=_part(8, 12), because="one behind"),
        Refused("not to the end", x=f32["B", 12], one=_part(0, 4), two=_part(4, 8), three=_part(8, 11), because="from end"),
        Refused("two axes", x=f32[12, 12], one=_part(0, 4), two=_part(4, 8, 0), three=_part(8, 12), because="one axis"),
    ]  # fmt: skip


@rule(group="shapes", safety=EXACT, since=13)
class TwoSlicesAsSplit:
    """Two Slices that cut an axis into parts, in order and without rest, are one Split.

    So are what passes and what gates of a gated layer. Sound because the parts are proved to lie one behind the other and
    to cover the axis.
    """

    def pattern(op, x: any_type, one: Many, two: Many):
        return op.Slice(x, *one), op.Slice(x, *two)

    def unless(m):
        if len(dims(m.x) or ()) > 3:
            return "heads are cut into what a rotary embedding turns and the rest"
        return _why_no_split(m, m.one, m.two)

    def rewrite(op, m):
        return op.Split(m.x, m.sizes, axis=m.axis, outputs=2)

    cases = [
        Case("a gate", x=f32["B", "S", 12], one=_part(0, 6, 2), two=_part(6, 1 << 60, -1)),
        Case("unequal parts", x=f32["B", 12], one=_part(0, 4), two=_part(4, 12)),
        Refused("heads", x=f32["B", 2, "S", 8], one=_part(0, 4, 3), two=_part(4, 8, 3), because="rotary embedding"),
        Refused("not to the end", x=f32["B", 12], one=_part(0, 4), two=_part(4, 8), because="from end"),
        Refused("two axes", x=f32[12, 12], one=_part(0, 4), two=_part(4, 12, 0), because="one axis"),
    ]  # fmt: skip
