"""Rounds twice where the original rounds once."""

import numpy as np
from olc.rules import EXACT, Case, Const, array, f32, floats, rule


@rule(group="wrong", safety=EXACT)
class Reciprocal:
    """A division by a constant is a multiplication by its reciprocal, but for the rounding."""

    def pattern(op, x: floats, c: Const):
        return op.Div(x, c)

    def rewrite(op, m):
        c = array(m.c)
        return op.Mul(m.x, np.reciprocal(c).astype(c.dtype))

    cases = [Case("a vector", x=f32["N", 4], c=f32[4])]
