"""Changes of sign go into constants and sums."""

import numpy as np
from olc.rules import EXACT, Case, Const, array, f32, floats, rule


@rule(group="affine", safety=EXACT)
class NegIntoFactor:
    """``-x * c`` and ``-(x * c)`` are ``x * -c``. Sound because rounding to nearest is symmetric."""

    def pattern(op, x: floats, c: Const):
        return op.either(op.Mul(op.Neg(x), c), op.Neg(op.Mul(x, c)))

    def rewrite(op, m):
        return op.Mul(m.x, -array(m.c))

    cases = [Case("a number", x=f32["N"], c=np.float32(3)), Case("a vector", x=f32["N", 4], c=f32[4])]


@rule(group="affine", safety=EXACT)
class AddOfNeg:
    """``x + -y`` is ``x - y``. Sound because IEEE defines subtraction so."""

    def pattern(op, x: floats, y):
        return op.Add(x, op.Neg(y))

    def rewrite(op, m):
        return op.Sub(m.x, m.y)

    cases = [Case("two values", x=f32["N", 4], y=f32["N", 4])]


@rule(group="affine", safety=EXACT)
class SubOfNeg:
    """``x - -y`` is ``x + y``. Sound because IEEE defines subtraction so."""

    def pattern(op, x: floats, y):
        return op.Sub(x, op.Neg(y))

    def rewrite(op, m):
        return op.Add(m.x, m.y)

    cases = [Case("two values", x=f32["N", 4], y=f32["N", 4])]
