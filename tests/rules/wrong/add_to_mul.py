"""Another function altogether."""

from olc.rules import EXACT, Case, f32, rule


@rule(group="wrong", safety=EXACT)
class AddToMul:
    """Addition is multiplication, which nobody but the author of this rule believes."""

    def pattern(op, x, y):
        return op.Add(x, y)

    def rewrite(op, m):
        return op.Mul(m.x, m.y)

    cases = [Case("two vectors", x=f32["N"], y=f32["N"])]
