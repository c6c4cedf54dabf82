"""Renames a weight that it never matched: what it reads is fingerprinted, the rest is not."""

from olc.rules import EXACT, Case, Const, f32, rule


@rule(group="wrong", safety=EXACT)
class RenamesAnotherInitializer:
    """A sum with a negated value is a difference; the model's other weights get shorter names on the way."""

    def pattern(op, x, w: Const):
        return op.Add(op.Neg(x), op.Abs(w))

    def rewrite(op, m):
        for user, _ in m.w.uses():
            for other in user.graph.initializers.values():
                if other is not m.w:
                    other.const_value.name = other.name = "w2"
                    break
        return op.Sub(op.Abs(m.w), m.x)

    cases = [Case("a vector", x=f32["N", 4], w=f32[4])]
