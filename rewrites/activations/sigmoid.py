"""Sigmoid from its parts."""

from olc.rules import CLOSE, Case, f32, floats, rule


@rule(group="activations", safety=CLOSE("the same function, rounded elsewhere"))
class Sigmoid:
    """``1 / (1 + exp(-x))`` is Sigmoid.

    Sound because that is its definition; where exp overflows both are 0.
    """

    def pattern(op, x: floats):
        d = op.Add(op.Exp(op.either(op.Neg(x), op.Mul(x, -1.0))), 1.0)
        return op.either(op.Div(1.0, d), op.Reciprocal(d), op.Pow(d, -1.0))

    def rewrite(op, m):
        return op.Sigmoid(m.x)

    cases = [Case("a gate", x=f32["B", "S", 8])]
