"""Takes all attributes and keeps some."""

from olc.rules import EXACT, Attrs, Case, f32, rule


@rule(group="wrong", safety=EXACT, since=13)
class IgnoresRestOfAttributes:
    """ArgMax reads through Identity and forgets select_last_index and keepdims on the way."""

    def pattern(op, x, axis, attrs: Attrs):
        return op.ArgMax(op.Identity(x), axis=axis, **attrs)

    def rewrite(op, m):
        return op.ArgMax(m.x, axis=m.axis)

    cases = [Case("a matrix", x=f32["N", 4], axis=1)]
