"""Gelu by the error function: ``x/2 * (1 + erf(x / sqrt(2)))``."""

from olc.rules import CLOSE, Case, Refused, Scalar, array, f16, f32, floats, rule, scalar

from .. import _helpers as h


@rule(group="gelu", safety=CLOSE("the same function, rounded elsewhere"), since=20, emits="Gelu")
class ErfGelu:
    """The five operators of an exact Gelu are Gelu.

    Sound because the factors are those of the definition, in any order, and ``x`` is the same value in both places;
    the number inside Erf may be off by 1e-4, which is how exporters write 1/sqrt(2).
    """

    def pattern(op, x: h.narrow_floats, r):
        erf = op.Erf(op.product(x, scale=r))
        return op.either(
            op.product(x, op.Add(erf, 1.0), scale=0.5),
            op.product(x, op.Add(op.Mul(erf, 0.5), 0.5)),
        )

    def unless(m):
        if not h.near(m.r, 0.5**0.5, m.x.dtype):
            return f"Erf takes x times {m.r:.6g}, not x / sqrt(2)"

    def rewrite(op, m):
        return op.Gelu(m.x)

    cases = [
        Case("a hidden layer", x=f32["B", "S", 8], r=0.5**0.5),
        Case("exporters' rounding", x=f32["N"], r=1 / 1.4142),
        Case("half precision", x=f16["N", 4], r=0.70703125),
        Refused("another slope", x=f32["N"], r=0.75, because="not x / sqrt(2)"),
        Refused("not a Gelu in float32", x=f32["N"], r=0.7073, because="not x / sqrt(2)"),
    ]


@rule(group="gelu", safety=CLOSE("a runtime's error function may be off by a digit on one side"), since=9)
class ErfOfNegative:
    """The error function of a negative multiple is the negative of that of the positive one.

    Sound because it is odd. JAX writes ``1 + erf(y)`` as ``erfc(-y)``, which is exported as ``1 - erf(-y)``.
    """

    def pattern(op, x: floats, c: Scalar):
        return op.Erf(op.Mul(x, c))

    def unless(m):
        return None if float(scalar(m.c)) < 0 else "the factor is not negative"

    def rewrite(op, m):
        return op.Neg(op.Erf(op.Mul(m.x, -array(m.c))))

    cases = [
        Case("a hidden layer", x=f32["B", 8], c=-(0.5**0.5)),
        Refused("positive", x=f32["B"], c=0.5, because="not negative"),
    ]
