"""Transposes with changes of shape around or between them."""

import numpy as np
from olc.rules import EXACT, Attrs, Case, Many, Refused, dims, f32, i64, rule

from .. import _layout as layout
from .. import _shapes as s


def _steps(m):
    """The chain from x to the root, first step first; None where a shape on the way is not known."""
    if s.odd(m.nodes):
        return None
    steps = []
    for node in reversed(m.nodes):
        before, after = dims(node.inputs[0]), dims(node.outputs[0])
        if before is None or after is None:
            return None
        perm = node.attributes.get("perm")
        if node.op_type != "Transpose":
            steps.append(("view", after))
        else:
            steps.append(("move", s.permutation(None if perm is None else perm.value, len(before))))
    return steps


def _shorter(m):
    """Why no shorter chain is known to do what the match does; else sets ``m.steps``."""
    steps = _steps(m)
    if steps is None:
        return s.UNKNOWN
    found = layout.simplify(dims(m.x), steps)
    if isinstance(found, str):
        return found
    if len(found) >= len(steps):
        return "no shorter chain does the same"
    m.steps = found


@rule(group="chains", safety=EXACT, since=13)
class TransposeBetweenViews:
    """A Transpose between two changes of shape needs one of them, or none, where they do not tear dims apart.

    Sound because both chains move the same parts to the same places: each shape on the way is proved to split or join
    the dims of the one before it. The transposed keys of attention, written as a Reshape to three dims, a Transpose
    and a Reshape back, are one Transpose.
    """

    def pattern(op, x, a: Many, b: Many, perm, first: Attrs, last: Attrs):
        moved = op.Transpose(op.oneof(*s.VIEWS)(x, *a, **first), perm=perm)
        return op.oneof(*s.VIEWS)(moved, *b, **last)

    def unless(m):
        return _shorter(m)

    def rewrite(op, m):
        return layout.write(op, m.x, m.steps)

    cases = [
        Case(
            "keys", x=f32["B", 2, 9, 4], a=[np.array([-1, 9, 4])], perm=(0, 2, 1), b=[np.array([-1, 2, 4, 9])],
        ),
        Case("split for nothing", x=f32["B", 18], a=[np.array([0, 2, 9])], perm=(0, 1, 2), b=[np.array([0, 18])]),
        Case("a whole dim", x=f32[2, 3, 4], a=[np.array([6, 4])], perm=(1, 0), b=[np.array([4, 2, 3])]),
        Refused(
            "heads merged", x=f32["B", 9, 8], a=[np.array([0, 9, 2, 4])], perm=(0, 2, 1, 3), b=[np.array([0, 2, 36])],
            because="no shorter chain",
        ),
        Refused("torn", x=f32[4, 6], a=[np.array([6, 4])], perm=(1, 0), b=[np.array([6, 4])], because="split or join"),
    ]  # fmt: skip


@rule(group="chains", safety=EXACT, since=13)
class ViewBetweenTransposes:
    """A change of shape between two Transposes needs one of them, or none, where it does not tear dims apart.

    Sound because both chains move the same parts to the same places: the shapes are proved to split or join dims.
    """

    def pattern(op, x, a: Many, first, last, attrs: Attrs):
        return op.Transpose(op.oneof(*s.VIEWS)(op.Transpose(x, perm=first), *a, **attrs), perm=last)

    def unless(m):
        return _shorter(m)

    def rewrite(op, m):
        return layout.write(op, m.x, m.steps)

    cases = [
        Case("heads and back", x=f32["B", 9, 2, 4], first=(0, 2, 1, 3), a=[np.array([-1, 9, 4])], last=(1, 0, 2)),
        Case("batch in front", x=f32[2, 3, 4, 5], first=(2, 3, 0, 1), a=[np.array([20, 2, 3])], last=(1, 2, 0)),
        Refused("torn", x=f32[4, 6], first=(1, 0), a=[np.array([4, 6])], last=(1, 0), because="split or join"),
        Refused("sizes of the caller", x=f32[4, 6], first=(1, 0), a=[i64[3]], last=(1, 0, 2), because="not "),
    ]


@rule(group="chains", safety=EXACT, since=13)
class TransposeWithView:
    """A Transpose and a change of shape that only puts dims of 1 elsewhere are one Transpose.

    Sound because both chains move the same parts to the same places, and a dim of 1 has one index. Keys of one text, written
    as a Reshape to three dims and turned, are then as those of many.
    """

    def pattern(op, x, perm, a: Many, attrs: Attrs):
        view = op.oneof(*s.VIEWS)
        return op.either(view(op.Transpose(x, perm=perm), *a, **attrs), op.Transpose(view(x, *a, **attrs), perm=perm))

    def unless(m):
        return _shorter(m)

    def rewrite(op, m):
        return layout.write(op, m.x, m.steps)

    cases = [
        Case("keys of one text", x=f32[1, 9, 2, 4], perm=(2, 3, 1, 0), a=[np.array([1, 2, 4, 9])]),
        Case("keys of one text, turned last", x=f32[1, 9, "H", 4], perm=(1, 2, 0, 3), a=[np.array([9, -1, 1, 4])]),
        Refused("heads joined", x=f32["B", 2, 9, 4], perm=(0, 2, 1, 3), a=[np.array([0, 9, 8])], because="no shorter chain"),
    ]
