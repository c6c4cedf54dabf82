"""Softmax and LogSoftmax from their parts."""

import numpy as np
from olc.rules import CLOSE, Case, Const, Refused, array, dims, f32, floats, rule


def _axes(v, rank):
    return {int(a) % rank for a in array(v).reshape(-1)}


@rule(group="activations", safety=CLOSE("the same function, rounded elsewhere"), since=18)
class Softmax:
    """``exp(x - max) / sum(exp(x - max))`` along one axis is Softmax.

    Sound because that is its definition, with the maximum taken off for range. The form without the maximum overflows
    where Softmax does not, and is left alone.
    """

    def pattern(op, x: floats, axes: Const, axes2: Const):
        e = op.Exp(op.Sub(x, op.ReduceMax(x, axes)))
        total = op.ReduceSum(e, axes2)
        return op.either(op.Div(e, total), op.Mul(e, op.Reciprocal(total)))

    def unless(m):
        d = dims(m.x)
        if not d or len(_axes(m.axes, len(d))) != 1 or _axes(m.axes, len(d)) != _axes(m.axes2, len(d)):
            return "maximum and sum are not over the same single axis"

    def rewrite(op, m):
        return op.Softmax(m.x, axis=int(array(m.axes).reshape(-1)[0]))

    cases = [
        Case("attention weights", x=f32["B", "S", 4], axes=np.array([-1]), axes2=np.array([2])),
        Case("channels", x=f32[1, 4, "N"], axes=np.array([1]), axes2=np.array([1])),
        Refused("two axes", x=f32["B", 3, 4], axes=np.array([1, 2]), axes2=np.array([1, 2]), because="single axis"),
        Refused("another axis", x=f32["B", 4, 4], axes=np.array([1]), axes2=np.array([2]), because="the same"),
    ]


@rule(group="activations", safety=CLOSE("the same function, rounded elsewhere"), since=18)
class SoftmaxOfShifted:
    """A Softmax of values whose maximum along its axis was taken off is that of the values.

    Sound because a number that all values lose alike cancels in it, and it takes the maximum off itself.
    """

    def pattern(op, x: floats, axes: Const, axis):
        return op.Softmax(op.Sub(x, op.ReduceMax(x, axes)), axis=axis)

    def unless(m):
        d = dims(m.x)
        if not d or _axes(m.axes, len(d)) != {m.axis % len(d)}:
            return "the maximum is not along the axis of the Softmax"

    def rewrite(op, m):
        return op.Softmax(m.x, axis=m.axis)

    cases = [
        Case("GPT-OSS", x=f32["B", 2, "S", 4], axes=np.array([-1]), axis=-1),
        Refused("another axis", x=f32["B", 3, 4], axes=np.array([1]), axis=2, because="not along"),
    ]


@rule(group="activations", safety=CLOSE("small probabilities no longer vanish"), since=13)
class LogSoftmax:
    """The logarithm of Softmax is LogSoftmax.

    Sound because that is its definition; it also stays finite where Softmax underflows to 0.
    """

    def pattern(op, x: floats, axis):
        return op.Log(op.Softmax(x, axis=axis))

    def rewrite(op, m):
        return op.LogSoftmax(m.x, axis=m.axis)

    cases = [Case("classes", x=f32["N", 8], axis=-1), Case("channels", x=f32["N", 4, "L"], axis=1)]
