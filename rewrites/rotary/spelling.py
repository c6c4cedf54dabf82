"""Halves and angles of rotary embeddings in the form that the other rules know."""

import numpy as np
from olc.rules import EXACT, Attrs, Case, Const, Many, Refused, dims, f32, floats, i64, rule

from .. import _shapes as s


@rule(group="rotary", safety=EXACT, since=13)
class HalvesAsSlices:
    """Halves that are swapped, one of them negated, are cut by two Slices, not by a Split, as other exporters write them.

    Sound because the parts of a Split are Slices. (`two-slices-as-split` leaves a part that is negated alone.)
    """

    def pattern(op, x: floats, sizes: Many, axis, attrs: Attrs):
        first, second = op.Split(x, *sizes, axis=axis, outputs=2, **attrs)
        return op.Concat(op.Neg(second), op.shared(first), axis=axis)

    def unless(m):
        d, halves = dims(m.x), [dims(v) for v in m.find("Split").outputs]
        if d is None or None in halves or not all(isinstance(h[m.axis % len(d)], int) for h in halves):
            return "the sizes of the parts are not known"
        m.at = m.axis % len(d)
        m.middle, m.end = halves[0][m.at], halves[0][m.at] + halves[1][m.at]

    def rewrite(op, m):
        first, second = (op.Slice(m.x, *s.part(a, b, m.at)) for a, b in ((0, m.middle), (m.middle, m.end)))
        return op.Concat(op.Neg(second), first, axis=m.axis)

    cases = [
        Case("Keras's Llama", x=f32["B", "S", 2, 4], sizes=[np.array([2, 2])], axis=3, attrs={}),
        Refused("unknown sizes", x=f32["B", "D"], sizes=[i64[2]], axis=1, attrs={}, because="not known"),
    ]


@rule(group="rotary", safety=EXACT)
class AnglesBeforeView:
    """Cosines and sines of what gets an axis of heads are taken before. Sound because each element is taken alone."""

    def pattern(op, x: floats, axes: Const):
        return op.oneof("Cos", "Sin")(op.shared(op.Unsqueeze(x, axes)))

    def rewrite(op, m):
        return op.Unsqueeze(getattr(op, m.root.op_type)(m.x), m.axes)

    cases = [Case("angles", x=f32["B", "S", 4], axes=np.array([2]), opset=18)]
