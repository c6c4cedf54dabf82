"""The attribute ``allowzero`` of Reshape, where it does not matter."""

import numpy as np
from olc.rules import EXACT, Case, Refused, any_type, elements, f32, i64, rule


@rule(group="shapes", safety=EXACT, since=14)
class AllowzeroWithInferredDim:
    """Reshape with ``allowzero`` to a target that leaves one dim to be inferred needs no ``allowzero``.

    Sound because the standard forbids a 0 beside -1 in that mode: whenever such a Reshape runs, its target holds no 0, and
    without a 0 both modes are the same.
    """

    def pattern(op, x: any_type, shape):
        return op.Reshape(x, shape, allowzero=1)

    def unless(m):
        held = elements(m.shape)
        return None if held is not None and -1 in held else "no dim is known to be inferred"

    def rewrite(op, m):
        return op.Reshape(m.x, m.shape)

    cases = [
        Case("one inferred", x=f32[2, 3, 4], shape=np.array([-1, 4])),
        Refused("none", x=f32[2, 3, 4], shape=np.array([6, 4]), because="inferred"),
        Refused("of the caller", x=f32[2, 3, 4], shape=i64[2], because="inferred"),
    ]  # fmt: skip
