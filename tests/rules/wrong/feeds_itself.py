"""The result contains what the rule rewrites."""

from olc.rules import EXACT, Case, f32, rule


@rule(group="wrong", safety=EXACT)
class FeedsItself:
    """Two negations around a sum change nothing, so that this is exact, and never done."""

    def pattern(op, x, y):
        return op.Add(x, y)

    def rewrite(op, m):
        return op.Neg(op.Neg(op.Add(m.x, m.y)))

    cases = [Case("two vectors", x=f32["N"], y=f32["N"])]
