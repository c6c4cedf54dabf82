"""Keeps a value of one match and uses it in another, which may lie in another body."""

from olc.rules import EXACT, Case, f32, rule

_built = {}


@rule(group="wrong", safety=EXACT)
class Captures:
    """Equal operators are computed once, wherever the first of them lies."""

    def pattern(op, x, y):
        return op.Add(op.Neg(x), y)

    def rewrite(op, m):
        key = (id(m.x), id(m.y))
        if key not in _built or _built[key][0] is not m.x:
            _built[key] = (m.x, op.Sub(m.y, m.x))
        return _built[key][1]

    cases = [Case("two vectors", x=f32["N"], y=f32["N"])]
