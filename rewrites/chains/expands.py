"""Expand of an Expand, and of a Tile."""

import numpy as np
from olc.analysis import dims as dim
from olc.rules import EXACT, Case, Refused, Value, dims, elements, f32, i64, rule

from .. import _shapes as s


def _reach(src, target, out):
    """Does an Expand of that shape to the target give ``out``?"""
    if max(len(src), len(target)) != len(out):
        return False
    pad = [(1,) * (len(out) - len(d)) + tuple(d) for d in (src, target)]
    return all(dim.broadcast(a, b) == d for a, b, d in zip(*pad, out, strict=True))


@rule(group="chains", safety=EXACT, since=8)
class ComposeExpands:
    """An Expand of an Expand is one, to the last shape. Sound because that is proved to follow from the first input."""

    def pattern(op, x, a: s.VECTOR, b: Value):
        return op.Expand(op.shared(op.Expand(x, a)), b)

    def unless(m):
        src, out, target = dims(m.x), dims(m.roots[0]), elements(m.b)
        if src is None or out is None:
            return s.UNKNOWN
        if target is not None and _reach(src, target, out):
            m.target = None
            return None
        if not all(isinstance(n, int) for n in out):
            return "the sizes are not known"
        m.target = out

    def rewrite(op, m):
        return op.Expand(m.x, m.b if m.target is None else s.vector(m.target))

    cases = [
        Case("one dim, then the other", x=f32[1, 4, 1], a=np.array([3, 1, 1]), b=np.array([1, 1, 5])),
        Case("more dims", x=f32["N", 1], a=np.array([1, 3]), b=np.array([2, 1, 3])),
        Refused("sizes of the caller", x=f32[1, 4], a=i64[2], b=i64[2], because="not known"),
    ]


@rule(group="chains", safety=EXACT, since=8)
class TileAsExpand:
    """A Tile that repeats only dims of 1 is an Expand.

    Sound because repeating a dim of 1 broadcasts it, and the other dims are repeated once.
    """

    def pattern(op, x, repeats):
        return op.Tile(x, repeats)

    def unless(m):
        d, repeats = dims(m.x), elements(m.repeats)
        if d is None or repeats is None:
            return s.UNKNOWN
        if any(n != 1 and r != 1 for n, r in zip(d, repeats, strict=True)):
            return "it repeats a dim that may be larger than 1"

    def rewrite(op, m):
        return op.Expand(m.x, m.repeats)

    cases = [
        Case("a row", x=f32[1, "N"], repeats=np.array([3, 1])),
        Refused("more", x=f32["N", 2], repeats=np.array([1, 2]), because="larger than 1"),
        Refused("repeats of the caller", x=f32["N", 2], repeats=i64[2], because="larger than 1"),
    ]
