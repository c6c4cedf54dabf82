"""Reductions keep their dims or not, so that no Squeeze or Unsqueeze follows."""

import numpy as np
from olc.rules import EXACT, Attrs, Case, Many, Refused, attr, dims, f32, rule

from .. import _shapes as s

REDUCES = (
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
    "ReduceLogSum", "ReduceLogSumExp",
)  # fmt: skip


def _axes(node):
    """The reduced axes from the front, and the input's shape."""
    d = dims(node.inputs[0])
    if d is None:
        return None, None
    if node.op_type in ("ArgMax", "ArgMin"):
        axis = attr(node, "axis", 0)
        return s.axes_of((axis,), len(d)), d
    return s.reduced_axes(node, len(d)), d


def _gone(node):
    axes, d = _axes(node)
    return None if axes is None else tuple(n for i, n in enumerate(d) if i not in axes)


def _kept(node):
    axes, d = _axes(node)
    return None if axes is None else tuple(1 if i in axes else n for i, n in enumerate(d))


@rule(group="shapes", safety=EXACT, since=13)
class ReduceThenSqueeze:
    """A Squeeze of the dims that a reduction kept as 1 is the reduction with ``keepdims=0``.

    Sound because it gives the same numbers in the same order, and the shape is proved to be the same.
    """

    def pattern(op, x, axes: Many, gone, attrs: Attrs):
        return op.Squeeze(op.oneof(*REDUCES)(x, *axes, keepdims=1, **attrs), gone)

    def unless(m):
        if dims(m.roots[0]) is None or _gone(m.nodes[1]) != dims(m.roots[0]):
            return "it does not remove just the reduced dims"

    def rewrite(op, m):
        return getattr(op, m.nodes[1].op_type)(m.x, *m.axes, keepdims=0, **m.attrs)

    cases = [
        Case("pooling", x=f32["N", 8, "H", "W"], axes=[np.array([2, 3])], gone=np.array([-1, -2])),
        Case("by attribute", x=f32["N", 8], axes=[], attrs={"axes": (1,)}, gone=np.array([1]), opset=13),
        Refused("one of two", x=f32["N", 8, 3], axes=[np.array([1, 2])], gone=np.array([1]), because="just the reduced"),
    ]


@rule(group="shapes", safety=EXACT, since=13)
class ReduceThenUnsqueeze:
    """An Unsqueeze that puts back the dims that a reduction removed is the reduction with ``keepdims=1``.

    Sound because it gives the same numbers in the same order, and the shape is proved to be the same.
    """

    def pattern(op, x, axes: Many, back, attrs: Attrs):
        return op.Unsqueeze(op.oneof(*REDUCES)(x, *axes, keepdims=0, **attrs), back)

    def unless(m):
        if dims(m.roots[0]) is None or _kept(m.nodes[1]) != dims(m.roots[0]):
            return "it does not put back just the reduced dims"

    def rewrite(op, m):
        return getattr(op, m.nodes[1].op_type)(m.x, *m.axes, keepdims=1, **m.attrs)

    cases = [
        Case("the last", x=f32["N", 8, 3], axes=[np.array([-1])], back=np.array([2])),
        Refused("elsewhere", x=f32["N", 8], axes=[np.array([1])], back=np.array([0]), because="just the reduced"),
    ]


@rule(group="shapes", safety=EXACT, since=13)
class ArgMaxThenSqueeze:
    """A Squeeze of the dim that ArgMax or ArgMin kept as 1 is that with ``keepdims=0``.

    Sound because it gives the same indices in the same order, and the shape is proved to be the same.
    """

    def pattern(op, x, axis, gone, attrs: Attrs):
        return op.Squeeze(op.oneof("ArgMax", "ArgMin")(x, axis=axis, keepdims=1, **attrs), gone)

    def unless(m):
        if dims(m.roots[0]) is None or _gone(m.nodes[1]) != dims(m.roots[0]):
            return "it does not remove just the reduced dim"

    def rewrite(op, m):
        return getattr(op, m.nodes[1].op_type)(m.x, axis=m.axis, keepdims=0, **m.attrs)

    cases = [
        Case("the last", x=f32["N", 8], axis=-1, gone=np.array([1])),
        Refused("two dims", x=f32["N", 1, 8], axis=2, gone=np.array([1, 2]), because="just the reduced dim"),
    ]
