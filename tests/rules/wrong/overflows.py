"""The same function of real numbers, but half precision overflows on the way."""

from olc.rules import CLOSE, Case, f16, f32, rule


@rule(group="wrong", safety=CLOSE("the square root is taken last"), since=13)
class Overflows:
    """The absolute value is the root of the square, where the square is finite."""

    def pattern(op, x):
        return op.Abs(x)

    def rewrite(op, m):
        return op.Sqrt(op.Mul(m.x, m.x))

    cases = [Case("half", x=f16["N"]), Case("single", x=f32["N"])]
