"""Reductions and pools over nothing, or over one element."""

import numpy as np
from olc.rules import CLOSE, EXACT, Attrs, Case, Many, Refused, attr, dims, f32, rule

from .. import _shapes as s


def _over_ones(m):
    """Why the reduction may not be of single elements; else how to spell what is left of it."""
    d, out = dims(m.x), dims(m.roots[0])
    if d is None or out is None:
        return s.UNKNOWN
    axes = s.reduced_axes(m.root, len(d))
    if axes is None or attr(m.root, "keepdims", 1) not in (0, 1):
        return "the axes are not known"
    if any(d[a] != 1 for a in axes):
        return "it reduces more than one element"
    form = s.view(d, out)
    if isinstance(form, str):
        return form
    m.form = form


ONE_CASES = [
    Case("an axis of 1", x=f32["N", 1, 4], axes=[np.array([1])], attrs={"keepdims": 0}),
    Case("kept", x=f32["N", 1, 1], axes=[np.array([1, -1])], attrs={}),
    Refused("more", x=f32["N", 3], axes=[np.array([1])], attrs={}, because="more than one element"),
]


@rule(group="noops", safety=EXACT, since=13)
class DropMaxOfOne:
    """The maximum or minimum over axes of size 1 is a change of shape. Sound because it is the only element."""

    def pattern(op, x, axes: Many, attrs: Attrs):
        return op.oneof("ReduceMax", "ReduceMin")(x, *axes, **attrs)

    def unless(m):
        return _over_ones(m)

    def rewrite(op, m):
        return s.write(op, m.x, m.form)

    cases = ONE_CASES


@rule(group="noops", safety=CLOSE("a sum of -0.0 alone may be 0.0"), since=13)
class DropSumOfOne:
    """The sum, mean or product over axes of size 1 is the only element; what is left is the change of shape."""

    def pattern(op, x, axes: Many, attrs: Attrs):
        return op.oneof("ReduceSum", "ReduceMean", "ReduceProd")(x, *axes, **attrs)

    def unless(m):
        return _over_ones(m)

    def rewrite(op, m):
        return s.write(op, m.x, m.form)

    cases = ONE_CASES


def _window_of_one(m):
    if any(k != 1 for k in m.kernel):
        return "the window is larger than 1"
    if any(k != 1 for k in attr(m.root, "strides", ())):
        return "it skips elements"
    if any(attr(m.root, "pads", ())):
        return "it pads"


POOL_CASES = [
    Case("a window of 1", x=f32["N", 2, "H", "W"], kernel=(1, 1), attrs={"strides": (1, 1)}),
    Refused("skipping", x=f32["N", 2, "H", "W"], kernel=(1, 1), attrs={"strides": (2, 2)}, because="skips"),
    Refused("a larger window", x=f32["N", 2, 3, 3], kernel=(2, 2), attrs={}, because="larger than 1"),
]


@rule(group="noops", safety=CLOSE("some runtimes lose a NaN in a maximum"), since=8, keeps_shape=True)
class DropMaxPoolOfOne:
    """A maximum over windows of one element at every position is the input. Sound because it is the only one."""

    def pattern(op, x, kernel, attrs: Attrs):
        return op.MaxPool(x, kernel_shape=kernel, **attrs)

    def unless(m):
        if s.others_used(m.root):
            return s.OTHERS
        return _window_of_one(m)

    def rewrite(op, m):
        return m.x

    cases = POOL_CASES


@rule(group="noops", safety=CLOSE("a mean of -0.0 alone may be 0.0"), keeps_shape=True)
class DropAveragePoolOfOne:
    """A mean over windows of one element at every position is the input."""

    def pattern(op, x, kernel, attrs: Attrs):
        return op.AveragePool(x, kernel_shape=kernel, **attrs)

    unless = _window_of_one

    def rewrite(op, m):
        return m.x

    cases = POOL_CASES


@rule(group="noops", safety=CLOSE("a mean of -0.0 alone may be 0.0"))
class DropGlobalPoolOfOne:
    """A mean or maximum over one position is that position."""

    def pattern(op, x):
        return op.oneof("GlobalAveragePool", "GlobalMaxPool")(x)

    def unless(m):
        d = dims(m.x)
        if d is None:
            return s.UNKNOWN
        if any(n != 1 for n in d[2:]):
            return "there is more than one position"

    def rewrite(op, m):
        return m.x

    cases = [
        Case("one position", x=f32["N", 4, 1, 1]),
        Refused("more", x=f32["N", 4, 2, 1], because="more than one position"),
    ]
