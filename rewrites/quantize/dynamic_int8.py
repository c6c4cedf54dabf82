"""Linear layers in int8, activations quantized while the model runs."""

import numpy as np
from olc.quantization import all_finite, quantize_linear_weight
from olc.rules import LOSSY, Case, Const, Refused, array, dims, f32, rule

SMALLEST = 16
"""Rows or columns below which a product is too small to gain anything."""

matrix = f32["rows", "columns"]


def _weight(m):
    turned = bool(m.root.op_type == "Gemm" and m.transB) != (m.find("Transpose") is not None)
    return array(m.w).T if turned else array(m.w)


def _vector(b, columns, rank):
    """The constant as a bias for each column; None where it is something else."""
    a = array(b)
    if a is None or a.ndim > rank or a.size not in (1, columns) or a.shape[-1:] not in ((), (1,), (columns,)):
        return None
    return np.ascontiguousarray(np.broadcast_to(a.reshape(-1), (columns,)))


def _bias_is_elsewhere(m, columns, rank):
    """Sets ``m.bias``; or why another node should be the root, or none."""
    m.bias = None if m.b is None else _vector(m.b, columns, rank)
    if m.b is not None and m.bias is None:
        return "the bias is not one number for each column"
    uses = m.roots[0].uses()
    if m.root.op_type == "MatMul" and len(uses) == 1:
        user, i = uses[0]
        if user.op_type == "Add" and user.domain == "" and _vector(user.inputs[1 - i], columns, rank) is not None:
            return "its bias is added by the next node, which takes both"
    return None


@rule(
    group="quantize", targets=("onnxruntime-cpu",),
    safety=LOSSY("weights and activations are rounded to 8 bits: cosine about 0.99 to the original"),
)  # fmt: skip
class DynamicInt8Linear:
    """A linear layer (MatMul, MatMul and Add, or Gemm with constant weight) computed in int8.

    The weight is rounded once, symmetrically with a scale for each column; the activation when the model runs, by one
    scale and zero point for the whole tensor. Three times the speed of float32 where the CPU has int8 dot products, a
    quarter of the weight's size. A weight that an embedding shares, be it transposed, is stored twice, once in each form.

    One scale for the whole activation means that a token with huge values takes the resolution of all others. The
    second feed-forward layers of SmolLM2 have such tokens (all layers in int8: cosine 0.81 on a prompt; without those:
    0.985), so which layers may act must be measured on prompts, not on single steps.
    """

    def pattern(op, x: f32, w: Const[matrix], b: Const | None, transB):
        weight = op.either(w, op.shared(op.Transpose(w, perm=(1, 0))))
        product = op.MatMul(x, weight)
        return op.either(op.Add(product, b), product, op.Gemm(x, weight, b, transB=transB))

    def unless(m):
        d = dims(m.x)
        if d is None or len(d) < 2:
            return "the input is not known to have rank 2 or more"
        w = _weight(m)
        if min(w.shape) < SMALLEST:
            return f"the weight is {w.shape[0]} x {w.shape[1]}, too small to gain"
        if not all_finite(w):
            return "the weight holds numbers that are not finite"
        return _bias_is_elsewhere(m, w.shape[1], len(d))

    def rewrite(op, m):
        q, scale = quantize_linear_weight(_weight(m))
        return op.domain("com.microsoft").DynamicQuantizeMatMul(m.x, q, scale, None, m.bias)

    cases = [
        Case("a projection", x=f32["B", "S", 32], w=f32[32, 16], b=f32[16], transB=0),
        Case("a classifier", x=f32["N", 16], w=f32[16, 16], b=f32[1, 16], transB=1),
        Case("a number as bias", x=f32["N", 32], w=f32[32, 48], b=0.5, transB=0),
        Refused("tiny", x=f32["N", 32], w=f32[32, 8], b=f32[8], transB=0, because="too small to gain"),
        Refused("infinite", x=f32["N", 16], w=np.full((16, 16), np.inf, np.float32), b=f32[16], transB=0,
                because="not finite"),
        Refused("a vector", x=f32[16], w=f32[16, 16], b=f32[16], transB=0, because="rank 2 or more"),
    ]  # fmt: skip
