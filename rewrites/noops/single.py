"""Operators over many inputs or outputs that have one, or whose others are empty."""

import numpy as np
from olc.rules import CLOSE, EXACT, Attrs, Case, Many, Refused, dims, f32, i64, rule

from .. import _shapes as s


@rule(group="noops", safety=EXACT, since=8, keeps_shape=True)
class DropMaxOfOneInput:
    """The maximum or minimum of one input is that input. Sound because there is no other to pick."""

    def pattern(op, x):
        return op.oneof("Max", "Min")(x)

    def rewrite(op, m):
        return m.x

    cases = [Case("one input", x=f32["N", 4])]


@rule(group="noops", safety=CLOSE("a sum that starts from 0 makes -0.0 to 0.0"), since=8, keeps_shape=True)
class DropSumOfOneInput:
    """The sum or mean of one input is that input: nothing is added, and a mean is divided by 1."""

    def pattern(op, x):
        return op.oneof("Sum", "Mean")(x)

    def rewrite(op, m):
        return m.x

    cases = [Case("one input", x=f32["N", 4])]


@rule(group="noops", safety=EXACT, keeps_shape=True)
class DropConcatOfOne:
    """A Concat of one input is that input. Sound by the operator's definition."""

    def pattern(op, x, axis):
        return op.Concat(x, axis=axis)

    def rewrite(op, m):
        return m.x

    cases = [Case("one input", x=f32["N", 4], axis=1), Case("a size", x=i64[1], axis=0)]


@rule(group="noops", safety=EXACT)
class ConcatWithoutEmpty:
    """An input that is empty along the axis leaves the Concat. Sound because it adds nothing."""

    def pattern(op, parts: Many, axis):
        return op.Concat(*parts, axis=axis)

    def unless(m):
        if any(dims(v) is None for v in m.parts):
            return s.UNKNOWN
        m.kept = [v for v in m.parts if dims(v)[m.axis] != 0]
        if len(m.kept) == len(m.parts):
            return "no input is empty along the axis"
        if not m.kept:
            return "all inputs are empty along the axis"

    def rewrite(op, m):
        return op.Concat(*m.kept, axis=m.axis)

    cases = [
        Case("a cache that starts empty", parts=[f32["B", 0, 4], f32["B", "S", 4]], axis=1),
        Case("in the middle", parts=[f32["B", 2], f32["B", 0], f32["B", 3]], axis=-1),
        Refused("nothing empty", parts=[f32["B", 1], f32["B", 2]], axis=1, because="no input is empty"),
        Refused("all empty", parts=[f32[0, 2], f32[0, 2]], axis=0, because="all inputs are empty"),
    ]


@rule(group="noops", safety=EXACT, keeps_shape=True)
class DropSplitIntoOne:
    """The only part of a Split is its input. Sound because the parts together are as large as the input."""

    def pattern(op, x, sizes: Many, two: Many, attrs: Attrs):
        first, _ = op.Split(x, *two, outputs=2, **attrs)
        return op.either(op.Split(x, *sizes, **attrs), first)

    def unless(m):
        if len(m.root.outputs) > 1:
            return "it has other parts"

    def rewrite(op, m):
        return m.x

    cases = [
        Case("one part", x=f32["N", 4], sizes=[np.array([4])], two=[np.array([4])], attrs={"axis": 1}),
        Case("by number", x=f32["N", 4], sizes=[], two=[np.array([4])], attrs={"axis": 1, "num_outputs": 1}),
        Case("before opset 13", x=f32["N", 4], sizes=[], two=[], attrs={"axis": 1, "split": (4,)}, opset=11),
        Refused(
            "two parts", x=f32["N", 4], sizes=[np.array([4.0])], two=[np.array([3, 1])], attrs={"axis": 1},
            because="it has other parts",
        ),
    ]  # fmt: skip
