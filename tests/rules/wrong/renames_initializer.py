"""Touches a weight that others may know by name."""

from olc.rules import EXACT, Case, Const, f32, rule


@rule(group="wrong", safety=EXACT)
class RenamesInitializer:
    """Subtraction of a constant as it was, under a name that we like better."""

    def pattern(op, x, w: Const):
        return op.Add(op.Neg(x), w)

    def rewrite(op, m):
        m.w.name = "better_name"
        return op.Sub(m.w, m.x)

    cases = [Case("a vector", x=f32["N", 4], w=f32[4])]
