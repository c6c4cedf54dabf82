"""Repeating along one axis, as exporters write it."""

import numpy as np
from olc.rules import EXACT, Attrs, Case, Const, Many, Refused, any_type, array, dims, f32, i64, rule

from .. import _shapes as s

MOST = 4096
"""Indices that the rule writes at most."""


def _repeated(src, wide, out):
    """The new dim, and axis and indices of the Gather that an Expand of it joined with a neighbour is; else None.

    Not along the last axis, where a Gather would pick single elements.
    """
    if len(src) != len(wide):
        return None
    grown = [i for i, (a, b) in enumerate(zip(src, wide, strict=True)) if a != b]
    if len(grown) != 1 or src[grown[0]] != 1 or not isinstance(wide[grown[0]], int):
        return None
    at, times = grown[0], wide[grown[0]]
    for axis in (at - 1, at):  # the dims at axis and axis + 1 become one
        if axis < 0 or axis + 2 >= len(wide):
            continue
        n = wide[axis] if axis < at else wide[axis + 1]
        if isinstance(n, int) and n * times <= MOST and out == (*wide[:axis], n * times, *wide[axis + 2 :]):
            order = np.arange(n)
            return at, axis, np.repeat(order, times) if axis < at else np.tile(order, times)
    return None


@rule(group="shapes", safety=EXACT, since=13)
class RepeatAsGather:
    """Repeating the entries of an axis, written as an Expand of a new dim that is then joined with it, is a Gather.

    So are keys and values repeated for grouped heads. It needs no sizes that are known at run time only.
    Sound because entry i of the joined axis is a copy of entry ``i // times`` (of ``i % size`` where the new dim comes
    first), and the shapes are proved to be those.
    """

    def pattern(op, x, shape: s.VECTOR, numbers: Many, attrs: Attrs):
        return op.oneof("Reshape", "Flatten")(op.Expand(x, shape), *numbers, **attrs)

    def unless(m):
        shapes = dims(m.x), dims(m.nodes[1].outputs[0]), dims(m.roots[0])
        if None in shapes or s.odd(m.nodes):
            return s.UNKNOWN
        m.found = _repeated(*shapes)
        if m.found is None:
            return "it does not repeat along one axis of known size"

    def rewrite(op, m):
        new, axis, indices = m.found
        return op.Gather(op.Squeeze(m.x, s.vector([new])), indices, axis=axis)

    cases = [
        Case(
            "grouped heads", x=f32["B", 3, 1, "S", 4], shape=np.array([1, 1, 2, 1, 1]),
            numbers=[np.array([0, 6, -1, 4])],
        ),
        Case("in turn", x=f32["B", 1, 3, "S"], shape=np.array([1, 2, 1, 1]), numbers=[np.array([0, 6, -1])]),
        Refused(
            "single elements", x=f32["B", 3, 1], shape=np.array([1, 1, 2]), numbers=[np.array([0, 6])],
            because="along one axis",
        ),
        Refused(
            "two dims", x=f32[1, 3, 1, 2], shape=np.array([2, 1, 2, 1]), numbers=[np.array([2, 6, 2])],
            because="along one axis",
        ),
        Refused(
            "sizes of the caller", x=f32[1, 3, 1, 2], shape=i64[4], numbers=[np.array([2, 6, 2])],
            because="along one axis",
        ),
    ]  # fmt: skip


@rule(group="shapes", safety=EXACT, since=13)
class RepeatOfLast:
    """A Gather that repeats each entry of the last axis is an Expand of a new axis that is joined with it.

    Sound because entry i of the joined axis is a copy of entry ``i // times``. Along the last axis a Gather would pick single
    elements, and the tables of rotary embeddings are written so.
    """

    def pattern(op, x: any_type, i: Const, axis):
        return op.Gather(x, i, axis=axis)

    def unless(m):
        d, i = dims(m.x), array(m.i)
        if d is None or m.axis % len(d) != len(d) - 1 or len(d) < 2 or not isinstance(d[-1], int) or i.ndim != 1:
            return "it does not pick from a last axis of known size"
        if not d[-1] or i.size % d[-1] or i.size == d[-1] or not np.array_equal(i, np.repeat(np.arange(d[-1]), i.size // d[-1])):
            return "it does not repeat each entry"
        m.times = i.size // d[-1]

    def rewrite(op, m):
        n = len(dims(m.x))
        wide = op.Expand(op.Unsqueeze(m.x, s.vector([n])), s.vector([1] * n + [m.times]))
        return op.Reshape(wide, s.vector([0] * (n - 1) + [m.times * dims(m.x)[-1]]))

    cases = [
        Case("each twice", x=f32["B", "S", 3], i=np.array([0, 0, 1, 1, 2, 2]), axis=-1),
        Refused("in turn", x=f32["B", 2], i=np.array([0, 1, 0, 1]), axis=1, because="repeat each"),
        Refused("some twice", x=f32["B", 2], i=np.array([0, 0, 1]), axis=1, because="repeat each"),
        Refused("as they are", x=f32["B", 2], i=np.array([0, 1]), axis=1, because="repeat each"),
        Refused("not the last", x=f32[2, "N"], i=np.array([0, 0, 1, 1]), axis=0, because="a last axis"),
    ]  # fmt: skip
