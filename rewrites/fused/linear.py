"""Products and convolutions that ONNX Runtime joined with what is around them."""

import numpy as np
from olc.rules import CLOSE, F32, F64, Attrs, Case, Refused, Spec, Value, dims, f32, rule

from ._common import MS

wide = Spec((F32, F64))
APART = CLOSE("the same products, rounded elsewhere")


def _turned(op, value, turn):
    rank = len(dims(value))
    return op.Transpose(value, perm=(*range(rank - 2), rank - 1, rank - 2)) if turn else value


@rule(group="fused", safety=APART)
class FusedMatMul:
    """FusedMatMul is a product of operands whose last two axes may be swapped, times a number.

    Sound by its definition. Where other axes are moved as well, it stays.
    """

    def pattern(op, a: wide, b: wide, alpha, transA, transB, transBatchA, transBatchB):
        return op.domain(MS).FusedMatMul(
            a, b, alpha=alpha, transA=transA, transB=transB, transBatchA=transBatchA, transBatchB=transBatchB
        )

    def unless(m):
        if m.transBatchA or m.transBatchB:
            return "axes of the batch are moved"
        if any(d is None or len(d) < 2 for d in (dims(m.a), dims(m.b))):
            return "the operands are not known to be matrices"
        m.factor = 1.0 if m.alpha is None else float(m.alpha)
        return None if abs(m.factor) < np.inf else "the factor is not finite"

    def rewrite(op, m):
        y = op.MatMul(_turned(op, m.a, m.transA), _turned(op, m.b, m.transB))
        return y if m.factor == 1 else op.Mul(y, m.factor)

    cases = [
        Case("scores", a=f32["B", 2, "S", 8], b=f32["B", 2, "T", 8], alpha=0.25, transA=0, transB=1, transBatchA=0,
             transBatchB=0),
        Case("both turned", a=f32[8, 3], b=f32[4, 8], alpha=None, transA=1, transB=1, transBatchA=None, transBatchB=None),
        Case("a factor", a=f32["N", 8], b=f32[8, 4], alpha=-2.0, transA=None, transB=None, transBatchA=0, transBatchB=0),
        Refused("batches moved", a=f32[3, 2, 8], b=f32[2, 8, 4], alpha=1.0, transA=0, transB=0, transBatchA=1, transBatchB=0,
                because="axes of the batch"),
        Refused("a vector", a=f32[8], b=f32[8, 4], alpha=2.0, transA=0, transB=0, transBatchA=0, transBatchB=0,
                because="not known to be matrices"),
    ]  # fmt: skip


_PLAIN = ("Relu", "Sigmoid", "Tanh")


def _why_unknown(m, numbers):
    """Sets ``m.numbers``, what the activation is given, or says why it is not one of those known."""
    name = m.activation.decode() if isinstance(m.activation, bytes) else m.activation
    m.act, m.numbers = name, [float(n) for n in numbers if n is not None]
    needs = {"LeakyRelu": 1, "Clip": 2, "HardSigmoid": 2}
    if name in _PLAIN:
        return None
    if name not in needs:
        return f"the activation {name} is not known"
    return None if len(m.numbers) == needs[name] else f"the activation {name} is not given all its numbers"


def _activated(op, m, y):
    if m.act == "LeakyRelu":
        return op.LeakyRelu(y, alpha=m.numbers[0])
    if m.act == "HardSigmoid":
        return op.HardSigmoid(y, alpha=m.numbers[0], beta=m.numbers[1])
    if m.act == "Clip":
        return op.Clip(y, *(op.constant(np.array(n), m.x.dtype) for n in m.numbers))
    return getattr(op, m.act)(y)


@rule(group="fused", safety=APART, since=11)
class FusedConv:
    """FusedConv is a convolution, what is added to it, and an activation.

    Sound by its definition. Runtimes join the two again when they load a model, where that pays.
    """

    def pattern(op, x: f32, w: f32, b: Value | None, z: Value | None, activation, activation_params, attrs: Attrs):
        return op.domain(MS).FusedConv(
            x, w, b, z, activation=activation, activation_params=activation_params, **attrs
        )

    def unless(m):
        if m.z is not None and (dims(m.z) is None or dims(m.z) != dims(m.roots[0])):
            return "what is added is not known to have the shape of the result"
        return _why_unknown(m, m.activation_params or ()) if m.activation is not None else None

    def rewrite(op, m):
        y = op.Conv(m.x, m.w, m.b, **m.attrs)
        if m.z is not None:
            y = op.Add(y, m.z)
        return y if m.activation is None else _activated(op, m, y)

    cases = [
        Case("a block", x=f32["N", 3, 5, 5], w=f32[4, 3, 3, 3], b=f32[4], z=None, activation="Relu", activation_params=None,
             attrs={"pads": [1, 1, 1, 1]}),
        Case("with a shortcut", x=f32["N", 3, 5, 5], w=f32[4, 3, 1, 1], b=f32[4], z=f32["N", 4, 5, 5], activation="Relu",
             activation_params=None, attrs={}),
        Case("clipped", x=f32["N", 4, 6], w=f32[4, 1, 3], b=None, z=None, activation="Clip", activation_params=[0.0, 6.0],
             attrs={"group": 4}),
        Case("leaky", x=f32["N", 3, 5, 5], w=f32[4, 3, 3, 3], b=f32[4], z=None, activation="LeakyRelu", activation_params=[0.1],
             attrs={}),
        Case("hard", x=f32["N", 3, 5, 5], w=f32[4, 3, 3, 3], b=f32[4], z=None, activation="HardSigmoid",
             activation_params=[0.2, 0.5], attrs={"strides": [2, 2]}),
        Case("another", x=f32["N", 3, 5], w=f32[4, 3, 3], b=f32[4], z=None, activation="Sigmoid", activation_params=None,
             attrs={}),
        Refused("stretched", x=f32["N", 3, 5], w=f32[4, 3, 3], b=f32[4], z=f32[1, 4, 1], activation="Relu",
                activation_params=None, attrs={}, because="the shape of the result"),
        Refused("without its numbers", x=f32["N", 3, 5], w=f32[4, 3, 3], b=f32[4], z=None, activation="Clip",
                activation_params=[0.0], attrs={}, because="not given all its numbers"),
        Refused("of another kind", x=f32["N", 3, 5], w=f32[4, 3, 3], b=f32[4], z=None, activation="Elu", activation_params=[1.0],
                attrs={}, because="is not known"),
    ]  # fmt: skip


@rule(group="fused", safety=APART, since=11)
class FusedGemm:
    """FusedGemm is Gemm and an activation."""

    def pattern(op, x: f32, w: f32, b: Value | None, activation, activation_alpha, activation_beta, activation_gamma,
                attrs: Attrs):  # fmt: skip
        return op.domain(MS).FusedGemm(
            x, w, b, activation=activation, activation_alpha=activation_alpha, activation_beta=activation_beta,
            activation_gamma=activation_gamma, **attrs,
        )  # fmt: skip

    def unless(m):
        if m.activation is None or m.activation_gamma is not None:
            return "the activation is not one that is known"
        return _why_unknown(m, (m.activation_alpha, m.activation_beta))

    def rewrite(op, m):
        return _activated(op, m, op.Gemm(m.x, m.w, m.b, **m.attrs))

    cases = [
        Case("a classifier", x=f32["N", 8], w=f32[4, 8], b=f32[4], activation="Relu", activation_alpha=None,
             activation_beta=None, activation_gamma=None, attrs={"transB": 1}),
        Case("leaky", x=f32["N", 8], w=f32[8, 4], b=None, activation="LeakyRelu", activation_alpha=0.2, activation_beta=None,
             activation_gamma=None, attrs={"alpha": 0.5}),
        Refused("of another kind", x=f32["N", 8], w=f32[8, 4], b=None, activation="Elu", activation_alpha=1.0,
                activation_beta=None, activation_gamma=None, attrs={}, because="is not known"),
        Refused("of three numbers", x=f32["N", 8], w=f32[8, 4], b=None, activation="Relu", activation_alpha=1.0,
                activation_beta=1.0, activation_gamma=1.0, attrs={}, because="not one that is known"),
    ]  # fmt: skip
