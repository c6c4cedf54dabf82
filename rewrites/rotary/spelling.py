"""Halves and angles of rotary embeddings in the form that the other rules know."""

import numpy as np
from olc.analysis import dims as dim
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


SPLIT = {"sizes": np.array([1, 1]), "axis": 4}


@rule(group="rotary", safety=EXACT, since=13)
class OneOfEachPair:
    """The first or the second entries of the pairs that the last axis is cut into are every other entry of it.

    Sound because a pair is two entries side by side. llama2.c's rotary embedding takes its pairs apart so, others by a step of 2.
    """

    def pattern(op, x: floats, shape: Const, first: Many, sizes: Const, axes: Const, axis):
        pairs = op.shared(op.Reshape(x, shape))
        one, two = op.Split(pairs, sizes, axis=axis, outputs=2)
        return op.Squeeze(op.either(op.Slice(pairs, *first), op.shared(one), op.shared(two)), axes)

    def unless(m):
        d, pairs = dims(m.x), dims(m.find("Reshape").outputs[0])
        if not d or pairs is None or not isinstance(d[-1], int) or len(pairs) <= len(d) or pairs[: len(d) - 1] != d[:-1]:
            return "the Reshape is not known to cut the last axis into pairs"
        if pairs[-1] != 2 or not all(isinstance(n, int) for n in pairs[len(d) - 1 :]):
            return "the Reshape is not known to cut the last axis into pairs"
        last, part = len(pairs) - 1, m.root.inputs[0]
        if m.find("Split") is None:
            cut = s.cut(m.first, pairs)
        else:
            number = list(m.find("Split").outputs).index(part)
            cut = (m.axis % len(pairs), number, number + 1) if s.whole(m.sizes) == (1, 1) else None
        if cut is None or cut[0] != last or cut[2] != cut[1] + 1 or s.axes_of(s.whole(m.axes), len(pairs)) != (last,):
            return "it is not one entry of each pair"
        m.number, m.pairs, m.rank = cut[1], pairs, len(d)

    def rewrite(op, m):
        *kept, n, _ = m.pairs[m.rank - 1 :]
        x = op.Reshape(m.x, s.vector([0] * (m.rank - 1) + [*kept, 2 * n])) if kept else m.x
        return op.Slice(x, *(np.array([i]) for i in (m.number, 2 * n, len(m.pairs) - 2, 2)))

    cases = [
        Case("first", x=f32["B", "S", 2, 4], shape=np.array([0, 0, 2, 2, 2]), first=s.part(0, 1, 4), axes=np.array([4]), **SPLIT),
        Case("second", x=f32["B", 4], shape=np.array([-1, 2, 2]), first=s.part(1, 2, 2), axes=np.array([-1]),
             **{**SPLIT, "axis": 2}),
        Case("of heads", x=f32["B", "S", 8], shape=np.array([0, 0, 2, 2, 2]), first=s.part(1, 2, 4), axes=np.array([4]), **SPLIT),
        Refused("of each four", x=f32["B", 8], shape=np.array([0, 2, 4]), first=s.part(0, 1, 2), axes=np.array([2]),
                sizes=np.array([1, 3]), axis=2, because="into pairs"),
        Refused("a pair", x=f32["B", 4], shape=np.array([0, 2, 2]), first=s.part(0, 1, 1), axes=np.array([1]),
                **{**SPLIT, "axis": 1}, because="one entry of each"),
    ]  # fmt: skip


@rule(group="rotary", safety=EXACT, since=15)
class EachBesideItself:
    """Entries that are put into one column, which is stretched to two and cut into rows again, get an axis that is stretched.

    Sound because both put each entry beside itself, in the order in which they lie. GPT-J's and CodeGen's first angles, which
    have no axis for a batch, get one.
    """

    def pattern(op, x: floats, column: Const, wide: Const, shape: Const):
        return op.Reshape(op.shared(op.Expand(op.shared(op.Reshape(x, column)), wide)), shape)

    def unless(m):
        d, out = dims(m.x), dims(m.roots[0])
        column, stretched = (dims(m.find("Expand").inputs[0]), dims(m.find("Expand").outputs[0]))
        if d is None or out is None or column is None or stretched is None or len(d) != 2:
            return "it is not known to be a table of two axes"
        if column != (dim.product(d), 1) or stretched != (column[0], 2):
            return "it is not one column that is stretched to two"
        if len(out) < 3 or out[0] != 1:
            return "the result gets no axis for a batch"
        m.before, m.after = (1, *d, 2), out
        return None if s.has_view(m.before, m.after) else s.UNKNOWN

    def rewrite(op, m):
        table = op.Expand(op.Unsqueeze(m.x, np.array([0, 3])), np.array([1, 1, 1, 2]))
        return s.reshaped(op, table, m.before, m.after)

    cases = [
        Case("GPT-J", x=f32["S", 2], column=np.array([-1, 1]), wide=np.array([1, 2]), shape=np.array([1, -1, 1, 4])),
        Refused("three times", x=f32["S", 2], column=np.array([-1, 1]), wide=np.array([1, 3]), shape=np.array([1, -1, 1, 6]),
                because="stretched to two"),
        Refused("rows", x=f32["S", 2], column=np.array([-1, 2]), wide=np.array([1, 2]), shape=np.array([1, -1, 1, 2]),
                because="one column"),
        Refused("no batch", x=f32["S", 2], column=np.array([-1, 1]), wide=np.array([1, 2]), shape=np.array([-1, 4]),
                because="for a batch"),
        Refused("three axes", x=f32[2, 3, 2], column=np.array([-1, 1]), wide=np.array([1, 2]), shape=np.array([1, 2, 3, 4]),
                because="two axes"),
    ]  # fmt: skip
