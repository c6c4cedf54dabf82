"""Concat of a Concat, Concat of the parts of one value, and a part of a Concat."""

import numpy as np
from olc.analysis import dims as dim
from olc.rules import EXACT, Attrs, Case, Const, Many, Refused, array, dims, elements, f32, i64, rule

from .. import _shapes as s


@rule(group="chains", safety=EXACT)
class FlattenConcat:
    """A Concat of Concats along the same axis is one. Sound because the parts stay in their order."""

    def pattern(op, before: Many, parts: Many, after: Many, axis):
        return op.Concat(*before, op.Concat(*parts, axis=axis), *after, axis=axis)

    def rewrite(op, m):
        return op.Concat(*m.before, *m.parts, *m.after, axis=m.axis)

    cases = [
        Case("in front", before=[], parts=[f32["N", 2], f32["N", 3]], after=[f32["N", 1]], axis=1),
        Case("at the end", before=[f32["N", 1]], parts=[f32["M", 1], f32["K", 1]], after=[], axis=0),
    ]


@rule(group="chains", safety=EXACT)
class ConcatOfSplit:
    """The parts of a Split, put together in their order along the same axis, are its input.

    Sound because Split cuts everywhere between its parts and leaves nothing out.
    """

    def pattern(op, x, sizes: Many, rest: Many, axis, attrs: Attrs):
        first, second = op.Split(x, *sizes, axis=axis, outputs=2, **attrs)
        return op.Concat(op.shared(first), op.shared(second), *rest, axis=axis)

    def unless(m):
        if list(m.root.inputs) != list(m.nodes[1].outputs):
            return "it puts other values together than the parts, or not all of them"

    def rewrite(op, m):
        return m.x

    cases = [
        Case("two parts", x=f32["N", 5], sizes=[np.array([2, 3])], rest=[], axis=1),
        Case("before opset 13", x=f32["N", 4], sizes=[], rest=[], axis=-1, attrs={"split": (2, 2)}, opset=11),
        Refused("and another", x=f32["N", 4], sizes=[np.array([2, 2])], rest=[f32["N", 2]], axis=1, because="other values"),
    ]


def _bounds(node, axis, size):
    """Start of a Slice along one axis and how much it takes; None where that is not proved."""
    starts, out = elements(node.inputs[1]), dims(node.outputs[0])
    axes = s.whole(node.inputs[3]) if len(node.inputs) > 3 else (0,)
    steps = s.whole(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else (1,)
    if starts is None or out is None or axes is None or len(starts) != 1 or steps != (1,):
        return None
    if s.axes_of(axes, len(out)) != (axis,):
        return None
    start = starts[0]
    if isinstance(start, int) and start < 0:
        start = dim.add(size, start)
    return (start, out[axis]) if dim.is_nonnegative(start) else None


@rule(group="chains", safety=EXACT, since=10)
class ConcatOfSlices:
    """Slices that follow one another from the first element to the last, put together again, are their input.

    Sound because each is proved to start where the one before it ends, and together they are as long as the input.
    """

    def pattern(op, x, a: Many, b: Many, rest: Many, axis):
        return op.Concat(op.shared(op.Slice(x, *a)), op.shared(op.Slice(x, *b)), *rest, axis=axis)

    def unless(m):
        d = dims(m.x)
        if d is None:
            return s.UNKNOWN
        at = 0
        for v in m.root.inputs:
            n = v.producer()
            found = None
            if n is not None and (n.domain, n.op_type, n.inputs[0]) == ("", "Slice", m.x):
                found = _bounds(n, m.axis, d[m.axis])
            if found is None or found[0] != at:
                return "a part is not proved to start where the one before it ends"
            at = dim.add(at, found[1])
        if at != d[m.axis]:
            return "it leaves out the end"

    def rewrite(op, m):
        return m.x

    cases = [
        Case(
            "halves", x=f32["N", 8], rest=[], axis=1,
            a=[np.array([0]), np.array([4]), np.array([1])], b=[np.array([4]), np.array([s.LAST]), np.array([-1])],
        ),
        Case("rows", x=f32[8, 3], rest=[], axis=0, a=[np.array([0]), np.array([3])], b=[np.array([-5]), np.array([9])]),
        Refused(
            "halves swapped", x=f32["N", 8], rest=[], axis=1, because="the one before it ends",
            a=[np.array([4]), np.array([8]), np.array([1])], b=[np.array([0]), np.array([4]), np.array([1])],
        ),
        Refused(
            "short", x=f32["N", 8], rest=[], axis=1, because="leaves out the end",
            a=[np.array([0]), np.array([4]), np.array([1])], b=[np.array([4]), np.array([7]), np.array([1])],
        ),
    ]  # fmt: skip


@rule(group="chains", safety=EXACT, since=10)
class SliceOfConcat:
    """A Slice of a Concat that lies within one of its parts is a Slice of that part; one of some whole parts is their Concat.

    Sound because the parts before it, and those in it, have sizes that are known.
    """

    def pattern(op, parts: Many, starts: Const, ends: Const, axes: Const, axis):
        return op.Slice(op.shared(op.Concat(*parts, axis=axis)), starts, ends, axes)

    def unless(m):
        start, end, axes = (elements(v) for v in (m.starts, m.ends, m.axes))
        rank = None if dims(m.root.outputs[0]) is None else len(dims(m.root.outputs[0]))
        if rank is None or len(start) != 1 or axes not in ((m.axis,), (m.axis - rank,)) or m.axis < 0:
            return "it is not cut along the axis of the parts alone"
        if not 0 <= start[0] < end[0]:
            return "it is empty, or counted from the end"
        at, m.within, m.kept = 0, None, []
        for part in m.parts:
            d = dims(part)
            size = None if d is None else d[m.axis]
            if at <= start[0] and isinstance(size, int) and end[0] <= at + size:
                m.within = part, start[0] - at, end[0] - at
                return None
            if not isinstance(size, int):
                return "the size of a part is not known"
            if start[0] <= at and at + size <= end[0]:
                m.kept.append(part)
            elif at < end[0] and start[0] < at + size:
                break
            at += size
            if at == end[0]:
                return None
        return "it is neither within one part nor of whole ones"

    def rewrite(op, m):
        if m.within is None:
            return op.Concat(*m.kept, axis=m.axis)
        part, *bounds = m.within
        return op.Slice(part, *(np.array([n]) for n in (*bounds, m.axis)))

    cases = [
        Case("a part", parts=[f32["N", 3], f32["N", 5]], starts=np.array([3]), ends=np.array([8]), axes=np.array([1]), axis=1),
        Case("within the first", parts=[f32[4, 3], f32["M", 3]], starts=np.array([1]), ends=np.array([2]), axes=np.array([-2]),
             axis=0),
        Case("two whole ones", parts=[f32["N", 3], f32["N", 5], f32["N", 2], f32["N", 1]], starts=np.array([3]),
             ends=np.array([10]), axes=np.array([1]), axis=1),
        Refused("of two", parts=[f32["N", 3], f32["N", 5]], starts=np.array([2]), ends=np.array([8]), axes=np.array([1]), axis=1,
                because="within one part"),
        Refused("one and a half", parts=[f32["N", 3], f32["N", 5]], starts=np.array([0]), ends=np.array([6]), axes=np.array([1]),
                axis=1, because="nor of whole ones"),
        Refused("from the end", parts=[f32["N", 3], f32["N", 5]], starts=np.array([-2]), ends=np.array([8]), axes=np.array([1]),
                axis=1, because="counted from the end"),
        Refused("across", parts=[f32["N", 3], f32["N", 5]], starts=np.array([0]), ends=np.array([1]), axes=np.array([0]), axis=1,
                because="not cut along the axis"),
    ]  # fmt: skip


@rule(group="chains", safety=EXACT, since=13)
class PickedPart:
    """One entry that is picked along the axis of a Concat whose parts up to it have one each is that part without the axis.

    Sound because the entry is all of its part. Values that are stacked and picked again are kept apart so.
    """

    def pattern(op, parts: Many, index: Const, axis):
        return op.Gather(op.shared(op.Concat(*parts, axis=axis)), index, axis=axis)

    def unless(m):
        index = array(m.index)
        if index.shape != ():
            return "it is not one entry"
        m.number = int(index)
        if not 0 <= m.number < len(m.parts):
            return "it is counted from the end, or lies behind"
        shapes = [dims(v) for v in m.parts[: m.number + 1]]
        return None if all(d is not None and d[m.axis] == 1 for d in shapes) else "the parts are not known to have one entry"

    def rewrite(op, m):
        return op.Squeeze(m.parts[m.number], np.array([m.axis]))

    cases = [
        Case("stacked", parts=[f32[1, "S", 4], f32[1, "S", 4]], index=np.array(1), axis=0),
        Case("within", parts=[f32["B", 1, 4], f32["B", 3, 4]], index=np.array(0), axis=1),
        Refused("longer", parts=[f32["N", 4], f32[1, 4]], index=np.array(1), axis=0, because="one entry"),
        Refused("a vector", parts=[f32[1, 4], f32[1, 4]], index=np.array([1]), axis=0, because="not one entry"),
        Refused("from the end", parts=[f32[1, 4], f32[1, 4]], index=np.array(-1), axis=0, because="from the end"),
    ]


@rule(group="chains", safety=EXACT, since=14)
class StackAsConcat:
    """Values that are stacked along a new axis in front of another, whose shape is then changed, are a Concat along that other.

    Sound because both put the same elements in the same order: an axis of n parts in front of an axis of d elements is an axis
    of n d elements. What changes the shape afterwards is a Reshape of either, and is written with the sizes of its result.
    """

    def pattern(op, x, y, a: Const, b: Const, rest: Many, axis, target: Many, last: Attrs):
        stack = op.Concat(op.shared(op.Unsqueeze(x, a)), op.shared(op.Unsqueeze(y, b)), *rest, axis=axis)
        return op.oneof(*s.VIEWS)(stack, *target, **last)

    def unless(m):
        parts = [v.producer() for v in m.find("Concat").inputs]
        given, out = dims(m.x), dims(m.roots[0])
        if given is None or out is None or s.odd(m.nodes):
            return s.UNKNOWN
        if any(n is None or (n.domain, n.op_type) != ("", "Unsqueeze") or dims(n.inputs[0]) != given for n in parts):
            return "the parts are not alike"
        rank = len(given) + 1
        axis = m.axis % rank
        if axis == len(given) or any(s.axes_of(s.whole(n.inputs[1]), rank) != (axis,) for n in parts):
            return "the new axis is not in front of another"
        m.at, m.parts = axis, [n.inputs[0] for n in parts]
        joined = (*given[:axis], dim.mul(len(parts), given[axis]), *given[axis + 1 :])
        form = s.view(joined, out, s.inferred_dim(m.root))
        if isinstance(form, str):
            return form
        m.form = form

    def rewrite(op, m):
        return s.write(op, op.Concat(*m.parts, axis=m.at), m.form)

    cases = [
        Case("halves of a head", x=f32["B", 3, 4], y=f32["B", 3, 4], a=np.array([2]), b=np.array([-2]), rest=[], axis=2,
             target=[np.array([0, 0, 8])]),
        Case("in front of all", x=f32["S", 4], y=f32["S", 4], a=np.array([0]), b=np.array([0]), rest=[], axis=0,
             target=[np.array([-1, 4])]),
        Refused("pairs", x=f32["B", 4], y=f32["B", 4], a=np.array([2]), b=np.array([2]), rest=[], axis=2,
                target=[np.array([0, 8])], because="in front of another"),
        Refused("one of more", x=f32["B", 4], y=f32["B", 4], a=np.array([1]), b=np.array([1]), rest=[f32["B", 3, 4]], axis=1,
                target=[np.array([-1, 20])], because="not alike"),
        Refused("unknown sizes", x=f32["B", "S"], y=f32["B", "S"], a=np.array([1]), b=np.array([1]), rest=[], axis=1,
                target=[i64[3]], because="known"),
    ]  # fmt: skip
