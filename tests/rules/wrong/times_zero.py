"""NaN and infinities times zero are NaN."""

from olc.rules import EXACT, Case, f32, floats, rule


@rule(group="wrong", safety=EXACT, since=9)
class TimesZero:
    """A product with zero is zero, but for NaN, infinities and negative numbers."""

    def pattern(op, x: floats):
        return op.Mul(x, 0)

    def rewrite(op, m):
        return op.CastLike(op.ConstantOfShape(op.Shape(m.x)), m.x)

    cases = [Case("a vector", x=f32["N"], opset=18)]
