"""Where with a known condition or equal branches."""

import numpy as np
from olc.assumptions import UNSELECTED
from olc.rules import CLOSE, EXACT, Case, Const, Refused, Scalar, array, boolean, f32, i32, is_constant, rule

from .. import _shapes as s

WIDER = "the result may be wider"


def _fits(m, value):
    return None if s.same_dims(value, m.roots[0]) else WIDER


@rule(group="logic", safety=EXACT, since=9)
class DropWhereOfConstant:
    """Where with a condition that is true everywhere, or nowhere, is that branch. Sound by the definition of Where."""

    def pattern(op, c: Const, x, y):
        return op.Where(c, x, y)

    def unless(m):
        a = array(m.c)
        if a.size == 0 or (a.any() and not a.all()):
            return "the condition is true here and false there"
        m.taken = m.x if a.all() else m.y
        return _fits(m, m.taken)

    def rewrite(op, m):
        return m.taken

    cases = [
        Case("true", c=np.array(True), x=f32["N", 4], y=f32[1]),
        Case("false", c=np.array([False] * 4), x=f32[1], y=f32["N", 4]),
        Refused("both", c=np.array([True, False]), x=f32["N", 2], y=f32[1], because="here and false there"),
        Refused("wider", c=np.array(True), x=f32["N", 1], y=f32[4], because="wider"),
    ]


@rule(group="logic", safety=EXACT, since=9)
class DropWhereOfSame:
    """Where with one value in both branches is that value. Sound by the definition of Where."""

    def pattern(op, c, x):
        return op.Where(c, x, x)

    def unless(m):
        return _fits(m, m.x)

    def rewrite(op, m):
        return m.x

    cases = [
        Case("the same", c=boolean["N", 1], x=f32["N", 4]),
        Refused("wider", c=boolean["N", 4], x=f32["N", 1], because="wider"),
    ]


@rule(group="logic", safety=CLOSE("ONNX Runtime loses the sign of a zero in the first branch"), since=9)
class WhereOfNot:
    """Where of a negated condition is Where with the branches swapped, by the definition of Where and Not."""

    def pattern(op, c, x, y):
        return op.Where(op.Not(c), x, y)

    def rewrite(op, m):
        return op.Where(m.c, m.y, m.x)

    cases = [Case("a mask", c=boolean["N", 4], x=f32["N", 4], y=f32[1])]


@rule(group="logic", safety=EXACT, since=9)
class WhereOfTruth:
    """Where that gives True and False is its condition, and with False and True its negation.

    Sound by the definition of Where.
    """

    def pattern(op, c, x: Const, y: Const):
        return op.Where(c, x, y)

    def unless(m):
        x, y = array(m.x), array(m.y)
        if x.dtype != bool or x.size == 0 or y.size == 0 or not (x == x.flat[0]).all() or not (y == y.flat[0]).all():
            return "the branches are not one truth value each"
        if x.flat[0] == y.flat[0]:
            return "both branches are the same"
        m.negated = not x.flat[0]
        return _fits(m, m.c)

    def rewrite(op, m):
        return op.Not(m.c) if m.negated else m.c

    cases = [
        Case("itself", c=boolean["N", 4], x=np.array(True), y=np.array([False])),
        Case("its negation", c=boolean["N", 4], x=np.array(False), y=np.array(True)),
        Refused("numbers", c=boolean["N"], x=np.float32(1), y=np.float32(0), because="not one truth value"),
        Refused("both true", c=boolean["N"], x=np.array(True), y=np.array(True), because="the same"),
        Refused("wider", c=boolean["N", 1], x=np.array([True, True]), y=np.array(False), because="wider"),
    ]


@rule(group="logic", safety=CLOSE("a zero may lose its sign"), since=9)
class WhereByProducts:
    """A value times a condition, plus another times its negation, is Where: how tf2onnx writes it up to opset 15.

    Sound because one of the factors is 1 and the other 0, and a number times 0 is 0; of an infinity or a NaN that is not so,
    of which it is assumed that none is dropped (integers have none).
    """

    def pattern(op, c: boolean, x, y, to):
        holds = op.shared(op.Cast(c, to=to))
        fails = op.either(op.shared(op.Cast(op.shared(op.Not(c)), to=to)), op.shared(op.Sub(1.0, holds)))
        return op.Add(op.shared(op.Mul(holds, x)), op.shared(op.Mul(fails, y)))

    def unless(m):
        if not m.x.dtype.is_floating_point():
            return None
        if any(is_constant(v) and not np.isfinite(array(v).astype(np.float64)).all() for v in (m.x, m.y)):
            return "one of them is not finite"
        m.assumes.add(UNSELECTED)

    def rewrite(op, m):
        return op.Where(m.c, m.x, m.y)

    cases = [
        Case("a mask", c=boolean["N", 1, 4], x=f32["N", 3, 4], y=f32[1], to=1),
        Case("indices", c=boolean["N"], x=i32["N"], y=i32["N"], to=6),
        Refused("an infinity", c=boolean["N"], x=f32["N"], y=np.float32(-np.inf), to=1, because="not finite"),
    ]


@rule(group="logic", safety=EXACT, since=9)
class WhereOfAndTrue:
    """A condition that is stretched to the shape of what it chooses by an And with ones needs no ones.

    Sound because Where stretches it itself.
    """

    def pattern(op, ones: Const, shape: s.VECTOR, c: boolean, x, y):
        stretched = op.And(op.shared(op.Expand(ones, shape)), c)
        return op.either(op.Where(stretched, x, y), op.Where(stretched, y, x))

    def unless(m):
        ones = m.find("Expand").outputs[0]
        if not array(m.ones).all():
            return "not all of them are True"
        return None if s.same_dims(ones, m.x) and s.same_dims(ones, m.roots[0]) else "they are not of the shape of a branch"

    def rewrite(op, m):
        return op.Where(m.c, *(m.y if v is m.y else m.x for v in m.root.inputs[1:]))

    cases = [
        Case("Keras's softmax", ones=np.array(True), shape=np.array([2, 3]), c=boolean[3], x=f32[2, 3], y=f32[1]),
        Refused("holes", ones=np.array([True, False]), shape=np.array([3, 2]), c=boolean[2], x=f32[3, 2], y=f32[1],
                because="not all of them"),
        Refused("wider", ones=np.array(True), shape=np.array([2, 3]), c=boolean[3], x=f32[3], y=f32[1], because="of a branch"),
    ]  # fmt: skip


@rule(group="logic", safety=CLOSE("a zero may lose its sign"), since=9)
class WhereOfComplement:
    """A number times one minus a condition is that number where the condition does not hold, and 0 where it does.

    Sound because the difference is 0 or 1.
    """

    def pattern(op, c: boolean, to, k: Scalar):
        return op.Mul(op.Sub(1.0, op.shared(op.Cast(c, to=to))), k)

    def unless(m):
        if array(m.k).dtype.kind != "f" or not np.isfinite(array(m.k).astype(np.float64)).all():
            return "the number is not a finite float"

    def rewrite(op, m):
        return op.Where(m.c, np.zeros_like(array(m.k)), m.k)

    cases = [
        Case("T5's mask", c=boolean["B", 1, 1, "S"], to=1, k=np.float32(-1e9)),
        Refused("an infinity", c=boolean["B"], to=1, k=np.float32(-np.inf), because="not a finite"),
    ]
