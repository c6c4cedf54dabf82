"""Gelu by the hyperbolic tangent: ``x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))``."""

from olc.rules import CLOSE, Case, Refused, f16, f32, rule

from .. import _helpers as h

OUTER = (2 / 3.141592653589793) ** 0.5
CUBE = 0.044715


@rule(group="gelu", safety=CLOSE("the same function, rounded elsewhere"), since=20)
class TanhGelu:
    """The eight or nine operators of the tanh approximation are Gelu with ``approximate="tanh"``.

    Sound because the argument of Tanh is the polynomial ``c1 x + c3 x^3`` with the two coefficients of the definition,
    whichever of its spellings the exporter chose: the factor sqrt(2/pi) outside the sum (``k``, with ``c`` inside),
    multiplied into it (``c1`` and ``c3``), or x taken out of it. The erf form is another function and is not touched.
    """

    def pattern(op, x: h.narrow_floats, k, c, c1, c3):
        def cube(scale):
            return op.either(op.product(op.Pow(x, 3.0), scale=scale), op.product(x, x, x, scale=scale))

        def square(scale):
            return op.either(op.product(x, x, scale=scale), op.product(op.Pow(x, 2.0), scale=scale))

        argument = op.either(
            op.product(op.Add(x, cube(c)), scale=k),
            op.Add(op.product(x, scale=c1), cube(c3)),
            op.product(x, op.Add(square(c), 1.0), scale=k),
        )
        return op.product(x, op.Add(op.Tanh(argument), 1.0), scale=0.5)

    def unless(m):
        k, cubic = (m.k, m.k * m.c) if m.c1 is None else (m.c1, m.c3)
        if not h.near(k, OUTER, m.x.dtype):
            return f"the linear term of the argument of Tanh is {k:.6g}, not sqrt(2/pi)"
        if not h.near(cubic, OUTER * CUBE, m.x.dtype, 2e-4):
            return f"the cubic term of the argument of Tanh is {cubic:.6g}, not 0.044715 sqrt(2/pi)"

    def rewrite(op, m):
        return op.Gelu(m.x, approximate="tanh")

    cases = [
        Case("a hidden layer", x=f32["B", "S", 8], k=OUTER, c=CUBE, c1=OUTER, c3=OUTER * CUBE),
        Case("half precision", x=f16["N", 4], k=OUTER, c=CUBE, c1=OUTER, c3=OUTER * CUBE),
        Refused("another slope", x=f32["N"], k=0.8, c=CUBE, c1=0.8, c3=0.8 * CUBE, because="linear term"),
        Refused("another cubic term", x=f32["N"], k=OUTER, c=0.045, c1=OUTER, c3=OUTER * 0.045, because="cubic term"),
    ]
