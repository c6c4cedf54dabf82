"""Scores and weights of an attention that a mask fills, on the axes that the products have."""

import numpy as np
from olc.rules import EXACT, Attrs, Case, Const, Many, Refused, array, boolean, dims, f32, rule

from .. import _shapes as s


@rule(group="attention", safety=EXACT, since=15)
class ViewBeforeFill:
    """Values that a mask replaces by a number, and whose axes of heads are then split or joined, are split or joined first.

    Sound because the mask is the same for all heads, so that it has 1 on these axes whatever they are, and each element is
    chosen alone.
    """

    def pattern(op, c: boolean, x: f32, k: Const, numbers: Many, attrs: Attrs):
        return op.oneof(*s.VIEWS)(op.Where(c, x, k), *numbers, **attrs)

    def unless(m):
        c, x, out = dims(m.c), dims(m.x), dims(m.roots[0])
        if c is None or x is None or out is None or len(c) != len(x) or dims(m.k) not in ((), (1,)) or s.odd(m.nodes):
            return "condition and values are not known to have the same axes"
        if len(x) < 3 or len(out) < 3 or (x[0], *x[-2:]) != (out[0], *out[-2:]) or len(out) > 4:
            return "other axes than those of heads change"
        if any(n != 1 for n in c[1:-2]):
            return "the mask is not the same for all heads"
        after = (c[0], *(1,) * (len(out) - 3), *c[-2:])
        m.shapes = c, after, x, out
        return None if s.has_view(c, after) and s.has_view(x, out) else s.UNKNOWN

    def rewrite(op, m):
        c, x = s.reshaped(op, m.c, *m.shapes[:2]), s.reshaped(op, m.x, *m.shapes[2:])
        return op.Where(c, x, array(m.k).reshape(()))

    cases = [
        Case("Gemma", c=boolean["B", 1, 1, 3, "T"], x=f32["B", 1, 2, 3, "T"], k=np.float32(0), numbers=[np.array([0, 2, 3, -1])]),
        Case("groups", c=boolean["B", 1, 1, 3, 4], x=f32["B", 2, 2, 3, 4], k=np.zeros(1, np.float32),
             numbers=[np.array([-1, 4, 3, 4])]),
        Refused("rows", c=boolean["B", 1, 1, 3, 4], x=f32["B", 2, 2, 3, 4], k=np.float32(0), numbers=[np.array([-1, 2, 6, 4])],
                because="other axes"),
        Refused("a mask for each head", c=boolean["B", 2, 1, 3, 4], x=f32["B", 2, 1, 3, 4], k=np.float32(0),
                numbers=[np.array([-1, 2, 3, 4])], because="for all heads"),
        Refused("of fewer axes", c=boolean[3], x=f32["B", 1, 3], k=np.float32(0), numbers=[np.array([-1, 3, 1])],
                because="the same axes"),
    ]  # fmt: skip


@rule(group="attention", safety=EXACT, since=15)
class SoftmaxBeforeView:
    """Scores whose axes of heads are split or joined, then filled by a mask, are filled and weighed first.

    Sound for the same reason; a softmax over the last axis knows none of these axes.
    """

    def pattern(op, c: boolean, x: f32, k: Const, numbers: Many, attrs: Attrs):
        return op.Softmax(op.Where(c, op.oneof(*s.VIEWS)(x, *numbers, **attrs), k), axis=-1)

    def unless(m):
        c, x, out = dims(m.c), dims(m.x), dims(m.roots[0])
        if c is None or x is None or out is None or len(c) != len(out) or dims(m.k) not in ((), (1,)) or s.odd(m.nodes):
            return "condition and scores are not known to have the same axes"
        if len(x) != 4 or len(out) < 5 or (x[0], *x[-2:]) != (out[0], *out[-2:]):
            return "other axes than those of heads change"
        if any(n != 1 for n in c[1:-2]):
            return "the mask is not the same for all heads"
        m.shapes = c, (c[0], 1, *c[-2:]), x, out
        return None if s.has_view(*m.shapes[:2]) and s.has_view(x, out) else s.UNKNOWN

    def rewrite(op, m):
        filled = op.Where(s.reshaped(op, m.c, *m.shapes[:2]), m.x, array(m.k).reshape(()))
        return s.reshaped(op, op.Softmax(filled, axis=-1), *m.shapes[2:])

    cases = [
        Case("Gemma", c=boolean["B", 1, 1, 3, "T"], x=f32["B", 2, 3, "T"], k=np.float32(-1e9), numbers=[np.array([0, 1, 2, 3, -1])],
             attrs={}),
        Case("groups", c=boolean["B", 1, 1, 3, 4], x=f32["B", 4, 3, 4], k=np.float32(-1e9), numbers=[np.array([-1, 2, 2, 3, 4])],
             attrs={}),
        Refused("rows", c=boolean["B", 1, 1, 6, 4], x=f32["B", 2, 3, 4], k=np.float32(0), numbers=[np.array([-1, 1, 1, 6, 4])],
                attrs={}, because="other axes"),
        Refused("a mask for each head", c=boolean["B", 2, 1, 3, 4], x=f32["B", 2, 3, 4], k=np.float32(0),
                numbers=[np.array([-1, 2, 1, 3, 4])], attrs={}, because="for all heads"),
        Refused("of fewer axes", c=boolean[3], x=f32["B", 1, 3, 4], k=np.float32(0), numbers=[np.array([-1, 1, 1, 4, 3])],
                attrs={}, because="the same axes"),
    ]  # fmt: skip
