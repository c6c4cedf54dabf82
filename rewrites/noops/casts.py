"""Casts that convert nothing."""

from olc.rules import BOOL, EXACT, F16, F32, I64, Attrs, Case, Refused, any_type, boolean, f16, f32, f64, i64, rule


@rule(group="noops", safety=EXACT, keeps_shape=True)
class DropCast:
    """A Cast to the type that the input has is the input.

    Sound because it converts nothing, by the operator's definition."""

    def pattern(op, x: any_type, to, attrs: Attrs):
        return op.Cast(x, to=to, **attrs)

    def unless(m):
        if int(m.x.dtype) != m.to:
            return "it changes the type"

    def rewrite(op, m):
        return m.x

    cases = [
        Case("float to float", x=f32["N"], to=F32),
        Case("bool to bool", x=boolean["N", 3], to=BOOL),
        Case("a size", x=i64[1], to=I64),
        Refused("a real one", x=f32["N"], to=F16, because="it changes the type"),
    ]


@rule(group="noops", safety=EXACT, since=15)
class CastLikeToCast:
    """CastLike is Cast to the type of its second input.

    Sound because that input's values do not matter, by the operator's definition."""

    def pattern(op, x, like: any_type, attrs: Attrs):
        return op.CastLike(x, like, **attrs)

    def rewrite(op, m):
        return op.Cast(m.x, to=m.like.dtype, **m.attrs)

    cases = [
        Case("to half", x=f32["N"], like=f16[2]),
        Case("to the same", x=f32["N"], like=f32[2]),
        Case("to double", x=f32["N"], like=f64["K"]),
    ]
