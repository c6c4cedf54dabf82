"""Raises on shapes that its case does not have."""

from olc.rules import EXACT, Case, dims, f32, rule


@rule(group="wrong", safety=EXACT, since=13)
class Crashes:
    """Relu twice is Relu, whatever the second dim, which is looked at all the same."""

    def pattern(op, x):
        return op.Relu(op.Relu(x))

    def unless(m):
        return "the second dim is large" if dims(m.x)[1] == 4096 else None

    def rewrite(op, m):
        return op.Relu(m.x)

    cases = [Case("a matrix", x=f32[2, 3])]
