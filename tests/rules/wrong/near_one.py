"""Takes a number that is nearly one for one."""

from olc.rules import EXACT, Case, Scalar, f32, floats, rule, scalar


@rule(group="wrong", safety=EXACT)
class NearOne:
    """A product with one is the other factor, and what is nearly one is as good as one."""

    def pattern(op, x: floats, c: Scalar):
        return op.Neg(op.Mul(x, c))

    def unless(m):
        return None if abs(scalar(m.c) - 1) < 1e-5 else "the number is not one"

    def rewrite(op, m):
        return op.Neg(m.x)

    cases = [Case("one", x=f32["N"], c=1.0)]
