"""Acts at opsets that do not have what it writes."""

from olc.rules import CLOSE, Case, f32, rule


@rule(group="wrong", safety=CLOSE("one kernel"), since=7)
class IllegalOperator:
    """The product of a value and its HardSigmoid is HardSwish, which opset 7 does not have."""

    def pattern(op, x):
        return op.Mul(x, op.HardSigmoid(x, alpha=1 / 6, beta=0.5))

    def rewrite(op, m):
        return op.HardSwish(m.x)

    cases = [Case("a vector", x=f32["N"])]
