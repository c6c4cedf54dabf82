"""The result has another dtype."""

from olc.rules import EXACT, F32, Case, f32, rule


@rule(group="wrong", safety=EXACT, since=13)
class ChangesDtype:
    """A cast to a wider type is not needed, if nobody looks at the type."""

    def pattern(op, x, to):
        return op.Relu(op.Cast(x, to=to))

    def rewrite(op, m):
        return op.Relu(m.x)

    cases = [Case("to itself", x=f32["N"], to=F32)]
