"""Operators that broadcast need nothing expanded in front of them."""

import numpy as np
from olc.rules import EXACT, Attrs, Case, Refused, boolean, dims, f32, i64, rule

from .. import _shapes as s

BINARY = (
    "Add", "Sub", "Mul", "Div", "Mod", "And", "Or", "Xor", "Equal", "Less", "Greater", "LessOrEqual",
    "GreaterOrEqual", "Max", "Min", "Sum", "Mean", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift",
)  # fmt: skip
"""Not Pow: some runtimes have another algorithm for an exponent that is one number."""


def _reached(out, *values):
    """Is every dim of the result proved to be that dim of one of the values, aligned at the end?

    Then broadcasting these gives that shape: where another has another size there, it can only be 1.
    """
    shapes = [dims(v) for v in values]
    if out is None or any(d is None for d in shapes):
        return False
    return all(any(len(d) >= i and d[-i] == out[-i] for d in shapes) for i in range(1, len(out) + 1))


def _instead(op, m, new):
    """The root with ``new`` in place of the one matched operand (of ``y + y`` only the first)."""
    inputs = list(m.root.inputs)
    inputs[inputs.index(m.nodes[1].outputs[0])] = new
    return getattr(op, m.root.op_type)(*inputs, **m.root.attributes)


WIDER = "the other operand is not proved to have the full shape"
CASES = [
    Case("to the full shape", x=f32["N", 1], shape=np.array([1, 4]), y=f32["N", 4]),
    Case("a row", x=f32[4], shape=np.array([3, 4]), y=f32[3, 1]),
    Refused("wider than the other", x=f32["N", 1], shape=np.array([1, 4]), y=f32["N", 1], because=WIDER),
    Refused("by the caller", x=f32[1, 4], shape=i64[2], y=f32[1, 1], because=WIDER),
]


FILLED = [
    Case("zeros", shape=np.array([3, 4]), value=None, y=f32[3, 4]),
    Case("a number", shape=np.array([1, 4]), value=np.array([2.0], np.float32), y=f32["N", 4]),
    Refused("wider than the other", shape=np.array([3, 4]), value=None, y=f32[3, 1], because=WIDER),
]


def _number(value):
    """What ConstantOfShape fills with, as a constant of rank 0."""
    return np.zeros((), np.float32) if value is None else value.numpy().reshape(())


@rule(group="shapes", safety=EXACT, since=13)
class ExpandBeforeBroadcast:
    """An operator that broadcasts reads what its first operand was before it was expanded.

    Sound because the other operand, or the operand itself, is proved to have each dim of the result.
    """

    def pattern(op, x, shape: s.VECTOR, y, attrs: Attrs):
        return op.oneof(*BINARY)(op.shared(op.Expand(x, shape)), y, **attrs)

    def unless(m):
        return None if _reached(dims(m.roots[0]), m.x, m.y) else WIDER

    def rewrite(op, m):
        return _instead(op, m, m.x)

    cases = CASES


@rule(group="shapes", safety=EXACT, since=13)
class ExpandBeforeBroadcastSecond:
    """An operator that broadcasts reads what its second operand was before it was expanded.

    Sound because the other operand, or the operand itself, is proved to have each dim of the result.
    """

    def pattern(op, x, shape: s.VECTOR, y, attrs: Attrs):
        return op.oneof(*BINARY)(y, op.shared(op.Expand(x, shape)), **attrs)

    def unless(m):
        return None if _reached(dims(m.roots[0]), m.x, m.y) else WIDER

    def rewrite(op, m):
        return _instead(op, m, m.x)

    cases = CASES


@rule(group="shapes", safety=EXACT, since=13)
class ExpandBeforeWhere:
    """Where reads what an operand was before it was expanded.

    Sound because one of the operands is proved to have each dim of the result.
    """

    def pattern(op, x, shape: s.VECTOR, y, z):
        wide = op.shared(op.Expand(x, shape))
        return op.either(op.Where(wide, y, z), op.Where(y, wide, z), op.Where(y, z, wide))

    def unless(m):
        return None if _reached(dims(m.roots[0]), m.x, m.y, m.z) else WIDER

    def rewrite(op, m):
        return _instead(op, m, m.x)

    cases = [
        Case("condition", x=boolean["N", 1], shape=np.array([1, 4]), y=f32["N", 4], z=f32[()]),
        Case("value", x=f32["N", 1], shape=np.array([1, 4]), y=boolean["N", 4], z=f32[1]),
        Case("between them", x=f32["N", 1], shape=np.array([1, 4]), y=boolean["N", 1], z=f32[4]),
        Refused("wider", x=f32["N", 1], shape=np.array([1, 4]), y=boolean["N", 1], z=f32[1], because=WIDER),
    ]


@rule(group="shapes", safety=EXACT, since=13)
class FilledBeforeBroadcast:
    """An operator that broadcasts reads one number where an operand is a tensor filled with it.

    Sound because the other operand is proved to have each dim of the result.
    """

    def pattern(op, shape: s.VECTOR, value, y, attrs: Attrs):
        return op.oneof(*BINARY)(op.shared(op.ConstantOfShape(shape, value=value)), y, **attrs)

    def unless(m):
        return None if _reached(dims(m.roots[0]), m.y) else WIDER

    def rewrite(op, m):
        return _instead(op, m, _number(m.value))

    cases = FILLED


@rule(group="shapes", safety=EXACT, since=13)
class FilledBeforeBroadcastSecond:
    """An operator that broadcasts reads one number where its second operand is a tensor filled with it.

    Sound because the other operand is proved to have each dim of the result.
    """

    def pattern(op, shape: s.VECTOR, value, y, attrs: Attrs):
        return op.oneof(*BINARY)(y, op.shared(op.ConstantOfShape(shape, value=value)), **attrs)

    def unless(m):
        return None if _reached(dims(m.roots[0]), m.y) else WIDER

    def rewrite(op, m):
        return _instead(op, m, _number(m.value))

    cases = FILLED


@rule(group="shapes", safety=EXACT, since=13)
class FilledBeforeWhere:
    """Where reads one number where an operand is a tensor filled with it.

    Sound because the other operands are proved to have each dim of the result.
    """

    def pattern(op, shape: s.VECTOR, value, y, z):
        wide = op.shared(op.ConstantOfShape(shape, value=value))
        return op.either(op.Where(wide, y, z), op.Where(y, wide, z), op.Where(y, z, wide))

    def unless(m):
        return None if _reached(dims(m.roots[0]), m.y, m.z) else WIDER

    def rewrite(op, m):
        return _instead(op, m, _number(m.value))

    cases = [
        Case("value", shape=np.array([3, 4]), value=None, y=boolean[3, 4], z=f32[1]),
        Case("condition", shape=np.array([3, 4]), value=np.array([True]), y=f32[3, 1], z=f32[4]),
        Refused("wider", shape=np.array([3, 4]), value=None, y=boolean[1, 4], z=f32[1], because=WIDER),
    ]
