"""Clips and Relus in a row."""

import numpy as np
from olc.rules import CLOSE, EXACT, Case, Const, Refused, f32, floats, i64, numbers, rule, scalar

RELU = (0.0, None)


def _bounds(low, high):
    """Both bounds as numbers, None for one that is left out; None where they are not numbers in order."""
    found = [None if v is None else scalar(v) for v in (low, high)]
    if any(v is not None and (f is None or f != f) for v, f in zip((low, high), found, strict=True)):
        return None
    low, high = found
    return None if low is not None and high is not None and low > high else (low, high)


def _seen_through(v, low, high):
    """A bound of the first Clip, clipped by the second."""
    if low is not None and v < low:
        return low
    return high if high is not None and v > high else v


def _compose(first, second):
    """The bounds of one Clip that does what two do in turn.

    A bound that is left out means the largest finite number to some runtimes, so it is stronger than an infinity.
    """
    found = []
    for i in range(2):
        bound = second[i] if first[i] is None else _seen_through(first[i], *second)
        found.append(None if bound == (-np.inf, np.inf)[i] and None in (first[i], second[i]) else bound)
    return found


def _composed(m):
    """Why two Clips are not one; else sets its bounds."""
    first, second = _bounds(m.a, m.b), _bounds(m.c, m.d)
    if first is None or second is None:
        return "the bounds are not numbers in order"
    m.bounds = _compose(first, second)


@rule(group="chains", safety=EXACT, since=12)
class ComposeClips:
    """A Clip of a Clip is one, with the first bounds clipped by the second.

    Sound because both pick one of the value and the bounds, by order alone. A bound of 0.0 leaves open which of 0.0
    and -0.0 is picked, so that is left to the rule below.
    """

    def pattern(op, x: numbers, a: Const | None, b: Const | None, c: Const | None, d: Const | None):
        return op.Clip(op.shared(op.Clip(x, a, b)), c, d)

    def unless(m):
        if m.x.dtype.is_floating_point() and any(v is not None and scalar(v) == 0 for v in (m.a, m.b, m.c, m.d)):
            return "a bound is 0.0"
        return _composed(m)

    def rewrite(op, m):
        return op.Clip(m.x, *m.bounds)

    cases = [
        Case("narrower", x=f32["N"], a=np.float32(-1), b=np.float32(6), c=np.float32(1), d=np.float32(2)),
        Case("one bound each", x=f32["N"], a=np.float32(-1), c=None, d=np.float32(6)),
        Case("apart", x=f32["N"], a=np.float32(-2), b=np.float32(1), c=np.float32(2), d=np.float32(3)),
        Case("integers", x=i64["N"], a=np.int64(0), b=np.int64(5), c=np.int64(1)),
        Refused("crossed", x=f32["N"], a=np.float32(2), b=np.float32(1), c=np.float32(1), because="in order"),
        Refused("at 0", x=f32["N"], a=np.float32(0.0), c=np.float32(-1), because="a bound is 0.0"),
    ]


@rule(group="chains", safety=CLOSE("the sign of a zero"), since=12)
class ComposeClipsAtZero:
    """A Clip of a Clip is one, with the first bounds clipped by the second, by order alone."""

    def pattern(op, x: floats, a: Const | None, b: Const | None, c: Const | None, d: Const | None):
        return op.Clip(op.shared(op.Clip(x, a, b)), c, d)

    def unless(m):
        return _composed(m)

    def rewrite(op, m):
        return op.Clip(m.x, *m.bounds)

    cases = [
        Case("ReLU, then 6", x=f32["N"], a=np.float32(0), c=None, d=np.float32(6)),
        Refused("crossed", x=f32["N"], a=np.float32(1), b=np.float32(0), c=np.float32(0), because="in order"),
    ]


@rule(group="chains", safety=CLOSE("the sign of a zero"), since=12)
class ClipOfRelu:
    """Relu is a Clip at 0, so Clip of Relu and Relu of Clip are one Clip.

    Sound because both pick one of the value and the bounds, by order alone.
    """

    def pattern(op, x: numbers, low: Const | None, high: Const | None):
        return op.either(op.Clip(op.shared(op.Relu(x)), low, high), op.Relu(op.shared(op.Clip(x, low, high))))

    def unless(m):
        bounds = _bounds(m.low, m.high)
        if bounds is None:
            return "the bounds are not numbers in order"
        pair = (RELU, bounds) if m.root.op_type == "Clip" else (bounds, RELU)
        m.bounds = [v if v is None or m.x.dtype.is_floating_point() else int(v) for v in _compose(*pair)]

    def rewrite(op, m):
        return op.Clip(m.x, *m.bounds)

    cases = [
        Case("ReLU6", x=f32["N"], low=np.float32(0), high=np.float32(6)),
        Case("below 0", x=f32["N"], low=np.float32(-1), high=np.float32(1)),
        Refused("crossed", x=f32["N"], low=np.float32(1), high=np.float32(0), because="in order"),
    ]


@rule(group="chains", safety=CLOSE("Clip without a bound stops at the largest finite number; Relu keeps +inf"), since=12)
class ClipAsRelu:
    """A Clip at 0 without an upper bound is Relu. Sound by the definition of Relu."""

    def pattern(op, x: floats, low: Const, high: Const | None):
        return op.Clip(x, low, high)

    def unless(m):
        if scalar(m.low) != 0:
            return "the lower bound is not 0"
        if m.high is not None and scalar(m.high) != np.inf:
            return "it has an upper bound"

    def rewrite(op, m):
        return op.Relu(m.x)

    cases = [
        Case("no upper bound", x=f32["N"], low=np.float32(0)),
        Case("up to infinity", x=f32["N"], low=np.float32(0), high=np.float32(np.inf)),
        Refused("at 1", x=f32["N"], low=np.float32(1), because="not 0"),
        Refused("ReLU6", x=f32["N"], low=np.float32(0), high=np.float32(6), because="upper bound"),
    ]


@rule(group="chains", safety=CLOSE("the sign of a zero"), since=8)
class MaxAsRelu:
    """The maximum with 0 is Relu. Sound by the definition of Relu."""

    def pattern(op, x: floats):
        return op.Max(x, 0.0)

    def rewrite(op, m):
        return op.Relu(m.x)

    cases = [Case("a row", x=f32["N"])]
