"""Right for the shape of its case only."""

from olc.rules import EXACT, Case, Const, f32, rule


@rule(group="wrong", safety=EXACT, since=13)
class ReshapeForOneShape:
    """A Reshape to two dims is a Flatten, if the author looked at one model only."""

    def pattern(op, x, shape: Const):
        return op.Reshape(x, shape)

    def rewrite(op, m):
        return op.Flatten(m.x)

    cases = [Case("a picture", x=f32[2, 3, 4], shape=[2, 12])]
