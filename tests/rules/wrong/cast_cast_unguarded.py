"""The middle type may round: the guard is missing."""

from olc.rules import EXACT, F32, F64, Case, f16, f32, rule


@rule(group="wrong", safety=EXACT, since=13)
class CastCastUnguarded:
    """Two casts are the last one, which holds only where the first is exact."""

    def pattern(op, x, mid, to):
        return op.Cast(op.Cast(x, to=mid), to=to)

    def rewrite(op, m):
        return op.Cast(m.x, to=m.to)

    cases = [Case("widening", x=f16["N"], mid=F32, to=F64), Case("the same type", x=f32["N"], mid=F32, to=F32)]
