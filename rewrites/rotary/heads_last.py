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


def _turned(op, x, part, first, second, cos, sin):
    """A part of each head, turned: times cosines, and its halves swapped, one negated, times sines."""
    swapped = op.Concat(op.Neg(op.Slice(x, *second)), op.Slice(x, *first), axis=3)
    return op.Add(op.Mul(part, cos), op.Mul(swapped, sin))


def _why_not_last(m, *parts):
    d = dims(m.x)
    if d is None or len(d) != 4 or any(len(dims(v) or ()) != 3 for v in (m.cos, m.sin)):
        return "it is not known to be of heads"
    if elements(m.a1) != (2,) or elements(m.a2) != (2,):
        return "cosines and sines get no axis for the heads"
    if any(s.cut(inputs, d) is None or s.cut(inputs, d)[0] != 3 for inputs in parts):
        return "the parts are not of the last axis"


def _tables(op, m):
    return (op.Unsqueeze(v, np.array([1])) for v in (m.cos, m.sin))


TABLES = {"cos": f32["B", "S", 4], "sin": f32[1, "S", 4], "a1": np.array([2]), "a2": np.array([2])}
WRONG = {"cos": f32["B", 2, 4], "sin": f32["B", 2, 4], "a1": np.array([1]), "a2": np.array([1])}


@rule(group="rotary", safety=EXACT, since=13)
class RotaryHeadsLast:
    """A rotary embedding of [batch, sequence, heads, size] is that of heads in front of the sequence, moved back.

    Sound because each element is computed from two of its own head and position, and from tables that are the same for all
    heads. The Transposes are taken up by what splits and moves the heads.
    """

    def pattern(op, x: Spec((F32, F16)), first: Many, second: Many, cos, sin, a1: Const, a2: Const):
        return _turned(op, x, x, first, second, op.shared(op.Unsqueeze(cos, a1)), op.shared(op.Unsqueeze(sin, a2)))

    def unless(m):
        return _why_not_last(m, m.first, m.second)

    def rewrite(op, m):
        x = op.Transpose(m.x, perm=HEADS_FIRST)
        return op.Transpose(_turned(op, x, x, m.first, m.second, *_tables(op, m)), perm=HEADS_FIRST)

    cases = [
        Case("Keras's Llama", x=f32["B", "S", 2, 4], first=s.part(0, 2, 3), second=s.part(2, 4, 3), **TABLES),
        Refused("an axis of texts", x=f32["B", "B", 2, 4], first=s.part(0, 2, 3), second=s.part(2, 4, 3), **WRONG,
                because="no axis for the heads"),
        Refused("other halves", x=f32["B", "S", 4, 4], first=s.part(0, 2, 2), second=s.part(2, 4, 2), **TABLES,
                because="last axis"),
    ]  # fmt: skip


@rule(group="rotary", safety=EXACT, since=13)
class RotaryPartHeadsLast:
    """The same of a part of each head, joined with the rest. Sound for the same reason."""

    def pattern(op, x: Spec((F32, F16)), part: Many, first: Many, second: Many, rest: Many, cos, sin, a1: Const, a2: Const):
        tables = op.shared(op.Unsqueeze(cos, a1)), op.shared(op.Unsqueeze(sin, a2))
        return op.Concat(_turned(op, x, op.Slice(x, *part), first, second, *tables), op.Slice(x, *rest), axis=3)

    def unless(m):
        return _why_not_last(m, m.part, m.first, m.second, m.rest)

    def rewrite(op, m):
        x = op.Transpose(m.x, perm=HEADS_FIRST)
        turned = _turned(op, x, op.Slice(x, *m.part), m.first, m.second, *_tables(op, m))
        return op.Transpose(op.Concat(turned, op.Slice(x, *m.rest), axis=3), perm=HEADS_FIRST)

    cases = [
        Case("Keras's GPT-NeoX", x=f32["B", "S", 2, 8], part=s.part(0, 4, 3), first=s.part(0, 2, 3), second=s.part(2, 4, 3),
             rest=s.part(4, 8, 3), **TABLES),
        Refused("an axis of texts", x=f32["B", "B", 2, 8], part=s.part(0, 4, 3), first=s.part(0, 2, 3), second=s.part(2, 4, 3),
                rest=s.part(4, 8, 3), **WRONG, because="no axis for the heads"),
    ]  # fmt: skip
