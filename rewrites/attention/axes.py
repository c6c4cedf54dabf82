"""Scores and weights of an attention that a mask fills, on the axes that the products have."""

import numpy as np
from olc.analysis import dims as dim
from olc.rules import EXACT, Attrs, Case, Const, Many, Refused, Scalar, array, boolean, dims, f32, rule

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
        Case("Gemma", c=boolean["B", 1, 1, 3, "T"], x=f32["B", 2, 3, "T"], k=np.float32(-1e9), attrs={},
             numbers=[np.array([0, 1, 2, 3, -1])]),
        Case("groups", c=boolean["B", 1, 1, 3, 4], x=f32["B", 4, 3, 4], k=np.float32(-1e9), numbers=[np.array([-1, 2, 2, 3, 4])],
             attrs={}),
        Refused("rows", c=boolean["B", 1, 1, 6, 4], x=f32["B", 2, 3, 4], k=np.float32(0), numbers=[np.array([-1, 1, 1, 6, 4])],
                attrs={}, because="other axes"),
        Refused("a mask for each head", c=boolean["B", 2, 1, 3, 4], x=f32["B", 2, 3, 4], k=np.float32(0),
                numbers=[np.array([-1, 2, 1, 3, 4])], attrs={}, because="for all heads"),
        Refused("of fewer axes", c=boolean[3], x=f32["B", 1, 3, 4], k=np.float32(0), numbers=[np.array([-1, 1, 1, 4, 3])],
                attrs={}, because="the same axes"),
    ]  # fmt: skip


def _scaled(op, q, k, a):
    scores = op.MatMul(q, k)
    return op.either(op.Mul(scores, a), op.Div(scores, a), scores)


def _not_five(m):
    """Why these are not the operands of an attention on five axes; else sets ``m.merged``, their shapes and those on four."""
    shapes = [dims(x) for x in (m.q, m.k, m.v)]
    if any(d is None or len(d) != 5 for d in shapes):
        return "the operands are not known to have 5 axes"
    if any(d[:3] != shapes[0][:3] for d in shapes):
        return "batch, parts and heads are not known to agree"
    first = dim.product(shapes[0][:2])
    m.merged = [(d, (first, *d[2:])) for d in shapes]
    (before, after), _, (values, _) = m.merged
    m.back = (*after[:3], values[4]), (*before[:4], values[4])
    return None if all(s.has_view(*to) for to in (*m.merged, m.back)) else "there are as many parts as only a run can tell"


def _on_four(op, m, biased=lambda scores: scores):
    q, k, v = (s.reshaped(op, x, *to) for x, to in zip((m.q, m.k, m.v), m.merged, strict=True))
    scores = op.MatMul(q, k)
    if m.a is not None:
        scores = op.Div(scores, m.a) if m.find("Div") is not None else op.Mul(scores, m.a)
    return s.reshaped(op, op.MatMul(op.Softmax(biased(scores), axis=-1), v), *m.back)


_FIVE = {"q": f32[1, 4, 2, 3, 5], "k": f32[1, 4, 2, 5, 3], "v": f32[1, 4, 2, 3, 6], "a": np.float32(0.5)}


@rule(group="attention", safety=EXACT, since=15)
class FifthAxis:
    """Attention within parts of each text or picture, on an axis of their own, is that of as many texts.

    Sound because products and softmax treat all axes but the last two alike, and in their order.
    """

    def pattern(op, q: f32, k: f32, v: f32, a: Scalar):
        return op.MatMul(op.Softmax(_scaled(op, q, k, a), axis=-1), v)

    unless, rewrite = _not_five, _on_four

    cases = [
        Case("windows of a picture", **_FIVE),
        Case("heads in front", q=f32["B", 3, 4, 5, 6], k=f32["B", 3, 4, 6, 5], v=f32["B", 3, 4, 5, 6], a=np.float32(2)),
        Refused("four axes", q=f32[4, 2, 3, 5], k=f32[4, 2, 5, 3], v=f32[4, 2, 3, 6], a=np.float32(0.5), because="5 axes"),
        Refused("one head of keys", **{**_FIVE, "k": f32[1, 4, 1, 5, 3]}, because="to agree"),
    ]  # fmt: skip


@rule(group="attention", safety=EXACT, since=15)
class FifthAxisWithBias:
    """The same with a bias, or a mask that is added.

    Sound for the same reason; a bias that is not the same for all parts is so for all texts only where there is one.
    """

    def pattern(op, q: f32, k: f32, v: f32, a: Scalar, bias: f32):
        return op.MatMul(op.Softmax(op.Add(_scaled(op, q, k, a), bias), axis=-1), v)

    def unless(m):
        reason, given = _not_five(m), dims(m.bias)
        if reason is not None:
            return reason
        if given is None or len(given) > 5:
            return "the bias is not known to fit the scores"
        batch, parts = ((1,) * (5 - len(given)) + given)[:2]
        if batch != 1 or (parts != 1 and dims(m.q)[0] != 1):
            return "the bias is not the same for all texts"
        m.bias_to = given, ((parts, *given[-3:]) if len(given) > 3 else given)
        return None if s.has_view(*m.bias_to) else s.UNKNOWN

    def rewrite(op, m):
        return _on_four(op, m, lambda scores: op.Add(scores, s.reshaped(op, m.bias, *m.bias_to)))

    cases = [
        Case("windows of a picture", **_FIVE, bias=f32[1, 4, 1, 3, 3]),
        Case("heads in front", q=f32[2, 3, 4, 5, 6], k=f32[2, 3, 4, 6, 5], v=f32[2, 3, 4, 5, 6], a=np.float32(2),
             bias=f32[4, 5, 5]),
        Refused("for each part of each", q=f32[2, 4, 1, 3, 5], k=f32[2, 4, 1, 5, 3], v=f32[2, 4, 1, 3, 6], a=np.float32(0.5),
                bias=f32[1, 4, 1, 3, 3], because="for all texts"),
        Refused("for each text", q=f32[2, 4, 1, 3, 5], k=f32[2, 4, 1, 5, 3], v=f32[2, 4, 1, 3, 6], a=np.float32(0.5),
                bias=f32[2, 1, 1, 3, 3], because="for all texts"),
    ]  # fmt: skip
