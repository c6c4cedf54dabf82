"""Chains of Reshape, Flatten, Squeeze and Unsqueeze."""

import numpy as np
from olc.analysis import dims as dim
from olc.rules import EXACT, Attrs, Case, Const, Many, Refused, array, dims, elements, f32, i64, rule

from .. import _shapes as s


def _target_holds(node, out):
    """Does a Reshape name the size of each dim itself, so that it gives the same whatever the shape of its input?

    Returns the ``allowzero`` to write with it: a size named 0 must not be copied from another input.
    """
    target = elements(node.inputs[1]) if node.op_type == "Reshape" else None
    if target is None or out is None or len(target) != len(out):
        return None
    if not all(t in (-1, d) for t, d in zip(target, out, strict=True)):
        return None
    return 0 if all(t == -1 or dim.is_positive(t) for t in target) else 1


@rule(group="chains", safety=EXACT, since=14)
class ComposeViews:
    """A chain of Reshape, Flatten, Squeeze and Unsqueeze is one of them, or none.

    Sound because each keeps the elements in their order, so that only the shapes at both ends matter. The target is
    written anew for the shape that the new node reads, since a 0 copies a dim of that.
    """

    def pattern(op, x, a: Many, b: Many, first: Attrs, last: Attrs):
        return op.oneof(*s.VIEWS)(op.shared(op.oneof(*s.VIEWS)(x, *a, **first)), *b, **last)

    def unless(m):
        if s.odd(m.nodes):
            return s.UNKNOWN
        src, out = dims(m.x), dims(m.roots[0])
        m.form, m.zero = None, _target_holds(m.root, out)
        if src is not None and out is not None:
            form = s.view(src, out, s.inferred_dim(m.root))
            if not isinstance(form, str):
                m.form = form
                return None
            return None if m.zero is not None else form
        return None if m.zero is not None else s.UNKNOWN

    def rewrite(op, m):
        if m.form is not None:
            return s.write(op, m.x, m.form)
        return op.Reshape(m.x, m.root.inputs[1], allowzero=m.zero or None)

    cases = [
        Case("a zero copies from the middle", x=f32[2, 3, 4], a=[np.array([6, 4])], b=[np.array([0, 2, 2])]),
        Case("split and joined", x=f32["B", "S", 8], a=[np.array([0, 0, 2, 4])], b=[np.array([0, 0, 8])]),
        Case("joined and split", x=f32["B", 6, 8], a=[np.array([-1, 8])], b=[np.array([-1, 6, 2, 4])]),
        Case("a new dim on the way", x=f32["N", 4], a=[np.array([-1])], b=[np.array([-1, 2])]),
        Refused("sizes of the caller", x=f32["A", "B"], a=[np.array([-1])], b=[i64[2]], because="no"),
    ]


@rule(group="chains", safety=EXACT, since=15)
class SqueezeOfReshape:
    """A Reshape to sizes that are computed, and then without some axes of 1, is one to the sizes that are left.

    Sound because the elements stay in their order; the sizes are those of the input.
    """

    def pattern(op, x, sizes: Many, axes: Const, first: Attrs):
        return op.Squeeze(op.Reshape(x, op.shared(op.Concat(*sizes, axis=0)), **first), axes)

    def unless(m):
        src, out = dims(m.x), dims(m.roots[0])
        if src is None or out is None or s.odd(m.nodes):
            return s.UNKNOWN
        if not s.has_view(src, out):
            return "a size is not one of the input's"

    def rewrite(op, m):
        return s.reshaped(op, m.x, dims(m.x), dims(m.roots[0]))

    cases = [
        Case("heads", x=f32["B", 4, 3], sizes=[np.array([n]) for n in (-1, 2, 2, 1, 3)], axes=np.array([3])),
        Refused("sizes of the caller", x=f32[2, "B"], sizes=[i64[1], np.array([1]), i64[1]], axes=np.array([1]),
                because="one of the input's"),
    ]  # fmt: skip


@rule(group="chains", safety=EXACT, since=14)
class ConstantWithinOnes:
    """What gets a constant added, or is multiplied by one, between axes of 1 that come and go needs no such axes.

    Sound because the constant has one entry along them. Windows of one picture, whose scores get the mask of their window, are
    an axis more for the time of the sum.
    """

    def pattern(op, x, axes: Const, c: Const, again: Const):
        more = op.Unsqueeze(x, axes)
        return op.Squeeze(op.either(op.Add(more, c), op.Mul(more, c)), again)

    def unless(m):
        before, given = dims(m.x), array(m.c)
        if before is None:
            return s.UNKNOWN
        rank = len(before) + len(array(m.axes).reshape(-1))
        axes, again = ({int(a) % rank for a in array(v).reshape(-1)} for v in (m.axes, m.again))
        if given.ndim > rank:
            return "the constant has more axes"
        shape = (1,) * (rank - given.ndim) + given.shape
        if axes != again or any(shape[a] != 1 for a in axes):
            return "other axes go"
        m.shape = tuple(n for a, n in enumerate(shape) if a not in axes)

    def rewrite(op, m):
        combine = op.Add if m.find("Add") is not None else op.Mul
        return combine(m.x, array(m.c).reshape(m.shape))

    cases = [
        Case("windows of one picture", x=f32["W", 2, 4, 4], axes=np.array([0]), c=np.ones((1, 1, 2, 1, 4), np.float32),
             again=np.array([0])),
        Case("an axis counted from the end", x=f32["N", 3], axes=np.array([-2]), c=np.ones((1, 3), np.float32),
             again=np.array([1])),
        Refused("another axis", x=f32[1, 3], axes=np.array([1]), c=np.ones(3, np.float32), again=np.array([0]),
                because="other axes go"),
        Refused("a constant that is larger", x=f32[1, 3], axes=np.array([0]), c=np.ones((1, 1, 1, 3), np.float32),
                again=np.array([0]), because="more axes"),
    ]  # fmt: skip
