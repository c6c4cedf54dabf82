"""What is elementwise happens before an Expand."""

import numpy as np
from olc.rules import EXACT, Attrs, Case, Refused, boolean, dims, f32, rule

from .. import _shapes as s

UNARY = (
    "Abs", "Cast", "Ceil", "Cos", "Erf", "Exp", "Floor", "IsNaN", "Log", "Neg", "Not", "Reciprocal", "Relu", "Round",
    "Sigmoid", "Sign", "Sin", "Sqrt", "Tanh",
)  # fmt: skip
BINARY = (
    "Add", "Sub", "Mul", "Div", "And", "Or", "Xor", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual",
    "Max", "Min",
)  # fmt: skip


def _wider(m, *others):
    """Why another operand may be larger than what is expanded."""
    own = dims(m.x)
    for v in others:
        d = dims(v)
        if own is None or d is None or len(d) > len(own):
            return "another operand is not proved to be as small"
        for a, b in zip(d[::-1], own[::-1], strict=False):
            if a not in (1, b):
                return "another operand is not proved to be as small"
    return None


def _earlier(op, m):
    """The operator on what is expanded, then the Expand."""
    wide = m.find("Expand").outputs[0]
    inputs = [m.x if v is wide else v for v in m.root.inputs]
    return op.Expand(getattr(op, m.root.op_type)(*inputs, **m.root.attributes), m.shape)


@rule(group="shapes", safety=EXACT, since=13)
class ExpandAfterUnary:
    """A function of each element is applied before an Expand. Sound because copies give the same results."""

    def pattern(op, x, shape: s.VECTOR, attrs: Attrs):
        return op.oneof(*UNARY)(op.Expand(x, shape), **attrs)

    def rewrite(op, m):
        return _earlier(op, m)

    cases = [
        Case("a row", x=f32["N", 1], shape=np.array([1, 4])),
        Case("a mask", x=boolean["N", 1], shape=np.array([1, 4])),
    ]


@rule(group="shapes", safety=EXACT, since=13)
class ExpandAfterBinary:
    """An operator on an Expand and something no larger than what is expanded comes first.

    Sound because the other operand is proved to add no dim, so that copies give the same results.
    """

    def pattern(op, x, shape: s.VECTOR, y):
        wide = op.Expand(x, shape)
        return op.either(op.oneof(*BINARY)(wide, y), op.oneof(*BINARY)(y, wide))

    def unless(m):
        return _wider(m, m.y)

    def rewrite(op, m):
        return _earlier(op, m)

    cases = [
        Case("a number", x=f32["N", 1], shape=np.array([1, 4]), y=f32[()]),
        Case("truth values", x=boolean["N", 1], shape=np.array([1, 4]), y=boolean[1, 1]),
        Refused("a larger one", x=f32["N", 1], shape=np.array([1, 4]), y=f32["N", 4], because="not proved to be as small"),
    ]


@rule(group="shapes", safety=EXACT, since=13)
class ExpandAfterWhere:
    """Where on an Expand and what is no larger than what is expanded comes first.

    Sound because the other operands are proved to add no dim, so that copies give the same results.
    """

    def pattern(op, x, shape: s.VECTOR, y, z):
        wide = op.Expand(x, shape)
        return op.either(op.Where(wide, y, z), op.Where(y, wide, z), op.Where(y, z, wide))

    def unless(m):
        return _wider(m, m.y, m.z)

    def rewrite(op, m):
        return _earlier(op, m)

    cases = [
        Case("a mask", x=boolean["N", 1], shape=np.array([1, 4]), y=f32[()], z=f32[1]),
        Case("numbers", x=f32["N", 1], shape=np.array([1, 4]), y=boolean[1], z=f32[1]),
        Refused("a larger one", x=f32["N", 1], shape=np.array([1, 4]), y=boolean[4], z=f32[1], because="as small"),
    ]
