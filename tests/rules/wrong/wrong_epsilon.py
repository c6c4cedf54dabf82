"""Off by what only small numbers show."""

from olc.rules import CLOSE, Case, Const, f32, rule


@rule(group="wrong", safety=CLOSE("one kernel"), since=18)
class WrongEpsilon:
    """The root of a mean square plus epsilon, with the epsilon outside of the root."""

    def pattern(op, x, axes: Const):
        return op.Div(x, op.Sqrt(op.Add(op.ReduceMean(op.Mul(x, x), axes, keepdims=1), 1e-5)))

    def rewrite(op, m):
        return op.Div(m.x, op.Add(op.Sqrt(op.ReduceMean(op.Mul(m.x, m.x), m.axes)), 1e-5))

    cases = [Case("a block", x=f32["B", 8], axes=[-1])]
