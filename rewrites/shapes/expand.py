"""The one spelling of Expand."""

import numpy as np
from olc.rules import EXACT, Case, Refused, dims, f32, i64, is_constant, rule

from .. import _shapes as s


def _target(src, out):
    """The constants to expand to: 1 where the input has the size already; None where a size must be computed."""
    lead = len(out) - len(src)
    if lead < 0:
        return None
    target = [1 if i >= lead and src[i - lead] == d else d for i, d in enumerate(out)]
    return target if all(isinstance(d, int) for d in target) else None


@rule(group="shapes", safety=EXACT, since=13)
class CanonicalExpand:
    """An Expand is written with constants: 1 for a dim that stays, so that sizes known at run time only are not needed.

    Where only dims of 1 come in front it is an Unsqueeze. Sound because the shape is proved to be the same.
    """

    def pattern(op, x, shape: s.VECTOR):
        return op.Expand(x, shape)

    def unless(m):
        src, out = dims(m.x), dims(m.roots[0])
        if src is None or out is None:
            return s.UNKNOWN
        m.form = s.view(src, out) if out == (1,) * (len(out) - len(src)) + src else None
        m.target = _target(src, out)
        if m.target is None:
            return "a size is known at run time only"
        if m.form is None and is_constant(m.shape) and s.whole(m.shape) == tuple(m.target):
            return "it is in canonical form already"

    def rewrite(op, m):
        return op.Expand(m.x, s.vector(m.target)) if m.form is None else s.write(op, m.x, m.form)

    cases = [
        Case("a size that it has", x=f32[3, 1], shape=np.array([3, 4])),
        Case("only dims of 1", x=f32["N"], shape=np.array([1, 1, 1])),
        Case("fewer dims than the input", x=f32["N", 4], shape=np.array([4])),
        Refused("as it should be", x=f32["N", 1], shape=np.array([1, 4]), because="canonical form already"),
        Refused("sizes of the caller", x=f32["N", 1], shape=i64[2], because="at run time only"),
    ]
