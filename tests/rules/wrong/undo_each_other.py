"""Each rule's result is what the other rewrites."""

from olc.rules import EXACT, Case, f32, rule


@rule(group="wrong", safety=EXACT)
class SubToAddNeg:
    """A difference is a sum with the negated value, by the definition of IEEE 754."""

    def pattern(op, x, y):
        return op.Sub(x, y)

    def rewrite(op, m):
        return op.Add(m.x, op.Neg(m.y))

    cases = [Case("two vectors", x=f32["N"], y=f32["N"])]


@rule(group="wrong", safety=EXACT)
class AddNegToSub:
    """A sum with a negated value is a difference, by the definition of IEEE 754."""

    def pattern(op, x, y):
        return op.Add(x, op.Neg(y))

    def rewrite(op, m):
        return op.Sub(m.x, m.y)

    cases = [Case("two vectors", x=f32["N"], y=f32["N"])]
