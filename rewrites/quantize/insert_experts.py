"""Mixtures of experts with their matrices in blocks, each of which has a scale and a zero point."""

import numpy as np
from olc.quantization import BLOCK, all_finite, nearest_blocks, pack
from olc.rules import LOSSY, Attrs, Case, Const, Refused, array, attr, f32, rule

GATED = {"k": 2, "activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.0, "activation_beta": 0.0}


def _experts(op, x: f32, router: f32, up: Const[f32], up_bias: Const | None, down: Const[f32],
             down_bias: Const | None, attrs: Attrs):
    return op.domain("com.microsoft").MoE(x, router, up, up_bias, down, down_bias, **attrs)


def _unfit(m):
    up, down = array(m.up), array(m.down)
    if up.ndim != 3 or down.ndim != 3:
        return "the matrices are not three-dimensional"
    if up.shape[2] % BLOCK or down.shape[2] % BLOCK:
        return f"tokens of {up.shape[2]} channels and {down.shape[2]} within an expert are not whole blocks of {BLOCK}"
    if attr(m.root, "activation_type", "relu") != "swiglu" or attr(m.root, "swiglu_fusion", 0) != 1:
        return "the experts are not gated, their gates and what these gate row by row"
    if attr(m.root, "use_sparse_mixer", 0):
        return "the two kernels read the router otherwise"
    if not all_finite(up) or not all_finite(down):
        return "the weights hold numbers that are not finite"


def _packed(w, bits):
    """Matrices [experts, N, K] as the operator's codes [experts, N, K * bits / 8], scales [experts, N, K / BLOCK] and zeros."""
    held = [pack(nearest_blocks(one.T, bits), zeros=True) for one in w]
    return [np.stack(parts) for parts in zip(*((p.weight.reshape(len(p.scale), -1), p.scale, p.zero) for p in held), strict=True)]


def _blocked(op, m, bits):
    up, up_scale, up_zero = _packed(array(m.up), bits)
    down, down_scale, down_zero = _packed(array(m.down), bits)
    # Without shares of its own the kernel weighs by shares of the picked experts' sum, whatever the attribute says.
    shares = None if attr(m.root, "normalize_routing_weights", 0) else op.Softmax(m.router, axis=-1)
    # Layout 0 is the one that the operator's documentation gives; others are a provider's own.
    return op.domain("com.microsoft").QMoE(
        m.x, m.router, up, up_scale, m.up_bias, down, down_scale, m.down_bias, None, None, None, up_zero, down_zero, None, shares,
        expert_weight_bits=bits, block_size=BLOCK, accuracy_level=4, quant_type="int", weights_prepacked=0, **m.attrs,
    )  # fmt: skip


_cases = [
    Case("of a row of tokens", x=f32["N", 64], router=f32["N", 4], up=f32[4, 256, 64], up_bias=None, down=f32[4, 64, 128],
         down_bias=None, attrs=GATED),
    Case("of texts, with biases", x=f32[2, 3, 128], router=f32[6, 3], up=f32[3, 128, 128], up_bias=f32[3, 128],
         down=f32[3, 128, 64], down_bias=f32[3, 128], attrs={**GATED, "normalize_routing_weights": 1}),
    Refused("no whole blocks", x=f32["N", 64], router=f32["N", 4], up=f32[4, 96, 64], up_bias=None, down=f32[4, 64, 48],
            down_bias=None, attrs=GATED, because="not whole blocks of 64"),
    Refused("infinite", x=f32["N", 64], router=f32["N", 2], up=np.full((2, 128, 64), np.inf, np.float32), up_bias=None,
            down=f32[2, 64, 64], down_bias=None, attrs=GATED, because="not finite"),
    Refused("another router", x=f32["N", 64], router=f32["N", 2], up=f32[2, 128, 64], up_bias=None, down=f32[2, 64, 64],
            down_bias=None, attrs={**GATED, "use_sparse_mixer": 1}, because="read the router otherwise"),
    Refused("not gated", x=f32["N", 64], router=f32["N", 2], up=f32[2, 64, 64], up_bias=None, down=f32[2, 64, 64],
            down_bias=None, attrs={"k": 1, "activation_type": "relu"}, because="not gated"),
]  # fmt: skip


@rule(
    group="quantize", targets=("onnxruntime-cpu",),
    safety=LOSSY("weights are rounded to 8 bits in blocks, activations to 8 bits in each row's blocks"),
)  # fmt: skip
class Int8BlockExperts:
    """Gated experts with their matrices in 8 bits, a scale and zero point for each 64 channels that a row reads.

    Who is asked, and with which share, is decided in float as before. A token reads the matrices of its few experts, each
    once, so what it costs is their bytes; many tokens share them.
    """

    pattern, unless, cases = _experts, _unfit, _cases

    def rewrite(op, m):
        return _blocked(op, m, 8)


@rule(
    group="quantize", targets=("onnxruntime-cpu",),
    safety=LOSSY("weights are rounded to 4 bits in blocks, activations to 8 bits in each row's blocks"),
)  # fmt: skip
class Int4BlockExperts:
    """Gated experts with their matrices in 4 bits, a scale and zero point for each 64 channels that a row reads.

    An eighth of what are nearly all the bytes of such a model.
    """

    pattern, unless, cases = _experts, _unfit, _cases

    def rewrite(op, m):
        return _blocked(op, m, 4)
