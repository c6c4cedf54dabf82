"""Slice of a Slice."""

import numpy as np
from olc.rules import EXACT, Case, Many, Refused, dims, f32, i64, rule

from .. import _shapes as s

OPEN = "bounds from the end of a size that is not known"


def cuts(node, rank):
    """A Slice as ``axis: (start, end, step)``; None where a number is not known or an axis is given twice."""
    given = [s.whole(v) for v in node.inputs[1:]]
    if any(g is None and node.inputs[i + 1] is not None for i, g in enumerate(given)):
        return None
    starts, ends, axes, steps = (*given, None, None)[:4]
    axes = s.axes_of(range(len(starts)) if axes is None else axes, rank)
    if axes is None:
        return None
    steps = (1,) * len(starts) if steps is None else steps
    return {a: (b, e, k) for a, b, e, k in zip(axes, starts, ends, steps, strict=True)}


def _join(first, second, size):
    """The cut that makes two cuts of one axis in turn; None where it depends on a size that is not known.

    A known size is counted out. An unknown one does not matter where all bounds count from the front and the steps
    are 1: of the elements from ``a`` to ``b`` those from ``c`` to ``d`` are those from ``a + c`` to ``min(b, a + d)``,
    and both are empty where these bounds cross or lie beyond the end.
    """
    if isinstance(size, int):
        if first[2] == 0 or second[2] == 0:
            return None
        left = range(size)[slice(*first)][slice(*second)]
        if len(left) == 0:
            return 0, 0, 1
        return left.start, left.stop if left.stop >= 0 else -s.LAST, left.step
    (a, b, k), (c, d, n) = first, second
    if k != 1 or n != 1 or min(a, b, c, d) < 0:
        return None
    return min(a + c, s.LAST), min(b, a + d), 1


def write_cuts(op, x, found):
    """The Slice that makes these cuts, or x itself where there are none."""
    if not found:
        return x
    axes = sorted(found)
    starts, ends, steps = ([found[a][i] for a in axes] for i in range(3))
    rest = [s.vector(axes)] if all(k == 1 for k in steps) else [s.vector(axes), s.vector(steps)]
    return op.Slice(x, s.vector(starts), s.vector(ends), *rest)


@rule(group="chains", safety=EXACT, since=10)
class ComposeSlices:
    """A Slice of a Slice is one Slice, with the cuts of both.

    Sound because cuts of different axes do not know of each other, and two of one axis are a cut whose bounds are
    counted out where the size is known, or follow from bounds that count from the front. What is needed as it is anyway (the
    tokens of a picture that are rotated) is cut along other axes where it is.
    """

    def pattern(op, x, a: Many, b: Many):
        return op.Slice(op.shared(op.Slice(x, *a)), *b)

    def unless(m):
        d = dims(m.x)
        if d is None:
            return s.UNKNOWN
        first, second = cuts(m.nodes[1], len(d)), cuts(m.root, len(d))
        if first is None or second is None:
            return "a bound is not known"
        middle = m.root.inputs[0]
        if not first.keys() & second.keys() and any(node.op_type != "Slice" for node, _ in middle.uses()):
            return "what it cuts is needed as it is"
        m.cuts = {**first, **second}
        for axis in first.keys() & second.keys():
            m.cuts[axis] = _join(first[axis], second[axis], d[axis])
            if m.cuts[axis] is None:
                return OPEN

    def rewrite(op, m):
        return write_cuts(op, m.x, m.cuts)

    cases = [
        Case(
            "two axes", x=f32["N", 6, 5],
            a=[np.array([1]), np.array([5]), np.array([1])], b=[np.array([-3]), np.array([s.LAST]), np.array([2])],
        ),
        Case(
            "one axis", x=f32["N", 9],
            a=[np.array([-8]), np.array([s.LAST]), np.array([1])],
            b=[np.array([7]), np.array([0]), np.array([-1]), np.array([-2])],
        ),
        Case(
            "from the front", x=f32["N", "M"],
            a=[np.array([1]), np.array([5]), np.array([0])], b=[np.array([1]), np.array([s.LAST]), np.array([0])],
        ),
        Refused(
            "bounds of the caller", x=f32["N", 9], a=[i64[1], i64[1]], b=[np.array([1]), np.array([2])], because="not",
        ),
    ]  # fmt: skip
