"""Loses the sign of zero."""

from olc.rules import EXACT, Case, f32, rule


@rule(group="wrong", safety=EXACT)
class AddsZero:
    """A sum with zero is the value itself, except that -0.0 + 0.0 is 0.0."""

    def pattern(op, x):
        return op.Add(x, 0)

    def rewrite(op, m):
        return m.x

    cases = [Case("a vector", x=f32["N"])]
