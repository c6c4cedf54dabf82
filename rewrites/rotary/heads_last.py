"""Rotary embeddings of [batch, sequence, heads, size]: brought into the form that the other rules know."""

import numpy as np
from olc.rules import EXACT, F16, F32, Attrs, Case, Const, Many, Refused, Spec, dims, elements, f32, floats, i64, rule

from .. import _shapes as s

HEADS_FIRST = (0, 2, 1, 3)


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


@rule(group="rotary", safety=EXACT, since=13)
class RotaryBeforeHeads:
    """A rotary embedding before heads are moved to the front is that of heads at the front.

    Sound because each element is computed from two of its own head and position, and from tables that are the same for all
    heads.
    """

    def pattern(op, x: Spec((F32, F16)), first: Many, second: Many, cos, sin, a1: Const, a2: Const, perm):
        turned = op.Concat(op.Neg(op.Slice(x, *second)), op.Slice(x, *first), axis=3)
        tables = op.shared(op.Unsqueeze(cos, a1)), op.shared(op.Unsqueeze(sin, a2))
        return op.Transpose(op.Add(op.Mul(x, tables[0]), op.Mul(turned, tables[1])), perm=perm)

    def unless(m):
        d = dims(m.x)
        if d is None or len(d) != 4 or m.perm != HEADS_FIRST:
            return "it is not heads that are moved to the front"
        if elements(m.a1) != (2,) or elements(m.a2) != (2,) or any(len(dims(v) or ()) != 3 for v in (m.cos, m.sin)):
            return "cosines and sines get no axis for the heads"
        if any(s.cut(inputs, d) is None or s.cut(inputs, d)[0] != 3 for inputs in (m.first, m.second)):
            return "the parts are not of the last axis"

    def rewrite(op, m):
        x = op.Transpose(m.x, perm=HEADS_FIRST)
        turned = op.Concat(op.Neg(op.Slice(x, *m.second)), op.Slice(x, *m.first), axis=3)
        heads = np.array([1])
        return op.Add(op.Mul(x, op.Unsqueeze(m.cos, heads)), op.Mul(turned, op.Unsqueeze(m.sin, heads)))

    cases = [
        Case("Keras's Llama", x=f32["B", "S", 2, 4], first=s.part(0, 2, 3), second=s.part(2, 4, 3), cos=f32["B", "S", 4],
             sin=f32[1, "S", 4], a1=np.array([2]), a2=np.array([2]), perm=HEADS_FIRST),
        Refused("other axes", x=f32["B", "S", 2, 4], first=s.part(0, 2, 3), second=s.part(2, 4, 3), cos=f32["B", "S", 4],
                sin=f32["B", "S", 4], a1=np.array([2]), a2=np.array([2]), perm=(0, 2, 3, 1), because="not heads"),
        Refused("an axis of texts", x=f32["B", "B", 2, 4], first=s.part(0, 2, 3), second=s.part(2, 4, 3), cos=f32["B", 2, 4],
                sin=f32["B", 2, 4], a1=np.array([1]), a2=np.array([1]), perm=HEADS_FIRST, because="no axis for the heads"),
    ]  # fmt: skip
