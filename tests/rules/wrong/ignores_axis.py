"""Forgets an attribute that its pattern binds."""

from olc.rules import EXACT, Case, f32, rule


@rule(group="wrong", safety=EXACT, since=13)
class IgnoresAxis:
    """Softmax reads through Identity, but along the last axis now."""

    def pattern(op, x, axis):
        return op.Softmax(op.Identity(x), axis=axis)

    def rewrite(op, m):
        return op.Softmax(m.x)

    cases = [Case("a matrix", x=f32["N", 4], axis=-1)]
