"""Gelus of ONNX Runtime's domain, with the biases that they add."""

import numpy as np
from olc.rules import CLOSE, Case, Refused, Value, dims, f16, f32, rule

from .._helpers import narrow_floats
from ._common import MS, is_vector

SAME = CLOSE("the same function, rounded elsewhere")


def _biased(op, x, bias):
    return x if bias is None else op.Add(x, bias)


def _why_not(m):
    d, bias = dims(m.x), m.bias
    if bias is not None and (d is None or not d or not is_vector(bias) or dims(bias) != d[-1:]):
        return "the bias is not known to be one number for each column"
    return None


@rule(group="fused", safety=SAME, since=20)
class StandardGelu:
    """ONNX Runtime's Gelu is the standard's, which came later."""

    def pattern(op, x: narrow_floats):
        return op.domain(MS).Gelu(x)

    def rewrite(op, m):
        return op.Gelu(m.x)

    cases = [Case("a hidden layer", x=f32["B", "S", 8]), Case("half precision", x=f16["N", 8])]


@rule(group="fused", safety=SAME, since=20)
class BiasGelu:
    """BiasGelu is Gelu of a sum.

    Sound by its definition; without the bias apart, a linear layer with it would not be known as one.
    """

    def pattern(op, x: narrow_floats, bias):
        return op.domain(MS).BiasGelu(x, bias)

    unless = _why_not

    def rewrite(op, m):
        return op.Gelu(op.Add(m.x, m.bias))

    cases = [
        Case("BERT", x=f32["B", "S", 8], bias=f32[8]),
        Case("half precision", x=f16["N", 8], bias=f16[8]),
        Refused("of unknown length", x=f32["N", "D"], bias=f32["E"], because="one number for each column"),
    ]


@rule(group="fused", safety=SAME, since=20)
class FastGelu:
    """FastGelu is the standard's Gelu by the hyperbolic tangent, of a sum where it has a bias."""

    def pattern(op, x: narrow_floats, bias: Value | None):
        return op.domain(MS).FastGelu(x, bias)

    unless = _why_not

    def rewrite(op, m):
        return op.Gelu(_biased(op, m.x, m.bias), approximate="tanh")

    cases = [
        Case("GPT-2", x=f32["B", "S", 8], bias=f32[8]),
        Case("alone", x=f32["N"], bias=None),
        Refused("of unknown length", x=f32["N", "D"], bias=f32["E"], because="one number for each column"),
    ]


@rule(group="fused", safety=SAME, targets=("tensorrt",))
class QuickGeluParts:
    """QuickGelu is ``x * sigmoid(alpha x)``, which targets without that operator can run."""

    def pattern(op, x: narrow_floats, alpha):
        return op.domain(MS).QuickGelu(x, alpha=alpha)

    def rewrite(op, m):
        alpha = 1.702 if m.alpha is None else float(m.alpha)
        scaled = m.x if alpha == 1 else op.Mul(m.x, op.constant(np.array(alpha), m.x.dtype))
        return op.Mul(m.x, op.Sigmoid(scaled))

    cases = [Case("SiLU", x=f32["B", 8], alpha=1.0), Case("as it is by default", x=f32["B", 8], alpha=None)]
