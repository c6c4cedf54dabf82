"""Operators over many inputs or outputs that have one, or whose others are empty."""

import numpy as np
from olc.rules import EXACT, Attrs, Case, Many, Refused, dims, f32, i64, rule

from .. import _shapes as s


@rule(group="noops", safety=EXACT, since=8, keeps_shape=True)
class DropVariadicOfOne:
    """The sum, mean, maximum or minimum of one input is that input.

    Sound because nothing is added, and a mean is divided by 1."""

    def pattern(op, x):
        return op.oneof("Sum", "Mean", "Max", "Min")(x)

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

    def pattern(op, before: Many, x, after: Many, axis):
        return op.Concat(*before, x, *after, axis=axis)

    def unless(m):
        d = dims(m.x)
        if d is None:
            return s.UNKNOWN
        if d[m.axis] != 0:
            return "no input is empty along the axis"
        if not m.before and not m.after:
            return "it is the only input"

    def rewrite(op, m):
        return op.Concat(*m.before, *m.after, axis=m.axis)

    cases = [
        Case("a cache that starts empty", before=[], x=f32["B", 0, 4], after=[f32["B", "S", 4]], axis=1),
        Case("in the middle", before=[f32["B", 2]], x=f32["B", 0], after=[f32["B", 3]], axis=-1),
        Refused("nothing empty", before=[], x=f32["B", 1], after=[f32["B", 2]], axis=1, because="no input is empty"),
        Refused("alone", before=[], x=f32[0, 2], after=[], axis=0, because="the only input"),
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
