"""The one spelling of Slice."""

import numpy as np
from olc.rules import EXACT, Case, Const, Many, Refused, array, dims, elements, f32, floats, i64, is_constant, rule

from .. import _shapes as s
from ..chains.slices import write_cuts


def _cuts(m, shape):
    """The cuts of a Slice, sorted, without those that take all; a reason where a bound is not known."""
    given = [None if v is None else elements(v) for v in m.root.inputs[1:]]
    if any(g is None and m.root.inputs[i + 1] is not None for i, g in enumerate(given)):
        return "a bound is not known"
    starts, ends, axes, steps = (*given, None, None)[:4]
    axes = s.axes_of(range(len(starts)) if axes is None else axes, len(shape))
    if axes is None:
        return "a bound is not known"
    found = {}
    for axis, start, end, step in zip(axes, starts, ends, steps or (1,) * len(starts), strict=True):
        size = shape[axis]
        if end == size and not isinstance(size, int):
            end = s.LAST
        if not all(isinstance(n, int) for n in (start, end, step)) or step == 0:
            return "a bound is known at run time only"
        if isinstance(size, int) and step > 0:
            start, end, _ = slice(start, end, step).indices(size)
            end = max(start, end)
            if (start, end) == (0, size) and step == 1:
                continue
        elif step > 0:
            end = s.LAST if end >= 1 << 31 else end
            if (start, end, step) == (0, s.LAST, 1):
                continue
        found[axis] = start, end, step
    return found


@rule(group="shapes", safety=EXACT, since=10)
class CanonicalSlice:
    """A Slice is written with constants: axes from the front and in order, bounds counted out where the size is known.

    Axes of which it takes all are left out, and steps where all are 1. Sound because it takes the same elements.
    """

    def pattern(op, x, starts, ends, rest: Many):
        return op.Slice(x, starts, ends, *rest)

    def unless(m):
        d = dims(m.x)
        if d is None:
            return s.UNKNOWN
        found = _cuts(m, d)
        if isinstance(found, str):
            return found
        axes = sorted(found)
        wanted = [tuple(found[a][i] for a in axes) for i in (0, 1)] + [tuple(axes), tuple(found[a][2] for a in axes)]
        if all(k == 1 for k in wanted[3]):
            wanted.pop()
        if all(map(is_constant, m.root.inputs[1:])) and [s.whole(v) for v in m.root.inputs[1:]] == wanted:
            return "it is in canonical form already"
        m.cuts = found

    def rewrite(op, m):
        return write_cuts(op, m.x, m.cuts)

    cases = [
        Case("the second half", x=f32["N", 8], starts=np.array([4]), ends=np.array([s.LAST]), rest=[np.array([-1])]),
        Case(
            "steps of 1", x=f32["N", "M"], starts=np.array([-3]), ends=np.array([s.LAST]),
            rest=[np.array([1]), np.array([1])],
        ),
        Case(
            "one axis whole", x=f32["N", 8], starts=np.array([2, 0]), ends=np.array([6, s.LAST]),
            rest=[np.array([1, 0]), np.array([2, 1])],
        ),
        Refused(
            "as it should be", x=f32["N", 8], starts=np.array([4]), ends=np.array([8]), rest=[np.array([1])],
            because="canonical form already",
        ),
        Refused("bounds of the caller", x=f32["N", 8], starts=i64[1], ends=np.array([8]), rest=[], because="run time"),
    ]  # fmt: skip


@rule(group="shapes", safety=EXACT, since=13)
class GatherAsSlice:
    """A Gather of entries that lie equally far apart, in their order, is a Slice.

    Sound because both take these entries. JAX exports ``x[..., ::2]`` as a Gather.
    """

    def pattern(op, x: floats, indices: Const, axis):
        return op.Gather(x, indices, axis=axis)

    def unless(m):
        d, given = dims(m.x), array(m.indices)
        if d is None:
            return s.UNKNOWN
        m.at = m.axis % len(d)
        if given.ndim != 1 or given.size < 2 or given.size > 1 << 16 or not isinstance(d[m.at], int):
            return "it does not take several of an axis of known size"
        i = np.where(given < 0, given.astype(np.int64) + d[m.at], given.astype(np.int64))
        steps = np.diff(i)
        if i[0] < 0 or i[-1] >= d[m.at] or steps[0] < 1 or (steps != steps[0]).any():
            return "they do not lie equally far apart"
        m.numbers = [int(i[0]), int(i[-1]) + 1, m.at, int(steps[0])]

    def rewrite(op, m):
        return op.Slice(m.x, *(np.array([n]) for n in m.numbers))

    cases = [
        Case("every other", x=f32["B", 6], indices=np.array([1, 3, 5], np.int32), axis=1),
        Case("some, from the end", x=f32[5, "B"], indices=np.array([2, -2, -1]), axis=0),
        Refused("repeated", x=f32["B", 2], indices=np.array([0, 0, 1, 1]), axis=1, because="equally far apart"),
        Refused("backwards", x=f32["B", 3], indices=np.array([2, 1, 0]), axis=1, because="equally far apart"),
        Refused("one", x=f32["B", 3], indices=np.array([1]), axis=1, because="several"),
    ]
