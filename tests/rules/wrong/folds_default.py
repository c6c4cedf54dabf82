"""Looks at an initializer's content without asking whether a caller may override it."""

import numpy as np
from olc.rules import EXACT, Case, f32, floats, rule


@rule(group="wrong", safety=EXACT)
class FoldsDefault:
    """A product with ones is the other factor, if the ones are not a default that the caller overrides."""

    def pattern(op, x: floats, ones):
        return op.Neg(op.Mul(x, ones))

    def unless(m):
        if m.ones.const_value is None or not np.all(m.ones.const_value.numpy() == 1) or m.ones.const_value.size > 4:
            return "the other factor is not one"

    def rewrite(op, m):
        return op.Neg(m.x)

    cases = [
        Case("a vector of ones", x=f32["N", 4], ones=np.ones(4, np.float32)),
    ]
