"""The new node reads what it replaces."""

from olc.rules import EXACT, Case, f32, rule


@rule(group="wrong", safety=EXACT)
class ReadsItsOwnResult:
    """The absolute value of an absolute value is itself, so it may be taken once more, of itself."""

    def pattern(op, x):
        return op.Abs(op.Abs(x))

    def rewrite(op, m):
        return op.Abs(m.root.outputs[0])

    cases = [Case("a vector", x=f32["N"])]
