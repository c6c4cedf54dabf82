"""The refused case is refused for another reason than it says."""

from olc.rules import EXACT, Case, Refused, dims, f32, rule


@rule(group="wrong", safety=EXACT)
class SilentRefusal:
    """Relu twice is Relu, since it leaves what it gave alone."""

    def pattern(op, x):
        return op.Relu(op.Relu(x))

    def unless(m):
        return "the rank is unknown" if dims(m.x) is None else None

    def rewrite(op, m):
        return op.Relu(m.x)

    cases = [Case("a vector", x=f32["N"]), Refused("never refused", x=f32["N"], because="the rank is unknown")]
