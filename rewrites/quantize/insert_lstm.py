"""LSTMs with their weights in 8 bits: a rule each for one of which the outputs, the last of them too, or all states are read."""

import numpy as np
from olc.quantization import INT7_LIMIT, all_finite, quantize_linear_weight
from olc.rules import LOSSY, Attrs, Case, Const, Refused, Value, array, attr, f32, rule

_ROUNDED = LOSSY("weights are rounded to 7 bits, inputs and the hidden state at each step to 8 bits in their range")


def _pattern(count):
    def pattern(op, x: f32, w: Const[f32], r: Const[f32], b: Value | None, lengths: Value | None, h: Value | None,
                c: Value | None, p: Value | None, attrs: Attrs):  # fmt: skip
        return op.LSTM(x, w, r, b, lengths, h, c, p, outputs=count, **attrs)

    return pattern


def _unfit(m):
    if attr(m.root, "layout", 0):
        return "the batch comes first"
    if not all_finite(array(m.w)) or not all_finite(array(m.r)):
        return "the weights hold numbers that are not finite"


def _codes(w):
    """Weights [directions, 4 * hidden, K] as [directions, K, 4 * hidden], and the scale and zero of each column."""
    codes, scales = map(np.stack, zip(*(quantize_linear_weight(one.T, INT7_LIMIT) for one in w), strict=True))
    return codes, scales, np.zeros(scales.shape, np.int8)


def _rewrite(count):
    def rewrite(op, m):
        (w, *of_w), (r, *of_r) = _codes(array(m.w)), _codes(array(m.r))
        attrs = {name: value for name, value in m.attrs.items() if name != "layout"}
        return op.domain("com.microsoft").DynamicQuantizeLSTM(
            m.x, w, r, m.b, m.lengths, m.h, m.c, m.p, *of_w, *of_r, outputs=count, **attrs
        )

    return rewrite


_NONE = {"b": None, "lengths": None, "h": None, "c": None, "p": None}
_SMALL = {"x": f32["T", "N", 8], "w": f32[1, 32, 8], "r": f32[1, 32, 8]}
_BOTH = {"x": f32["T", "N", 8], "w": f32[2, 32, 8], "r": f32[2, 32, 8]}
_WAYS = {"hidden_size": 8, "direction": "bidirectional"}


@rule(group="quantize", targets=("onnxruntime-cpu",), safety=_ROUNDED)
class Int8Lstm:
    """An LSTM whose two matrices are int8, symmetric with a scale for each row of a gate; what they read is rounded at each step.

    Gates, cell state and biases stay in float, so the error of a step enters the next one through the hidden state, which is
    within ±1, and what the forget gate keeps. Codes are within ±64: beyond that the kernel of a CPU without dot products of 8
    bits saturates, and this operator names the kernel, so no lowering could choose another.
    """

    pattern, unless, rewrite = _pattern(1), _unfit, _rewrite(1)

    cases = [
        Case("forward", **_NONE | {"b": f32[1, 128]}, x=f32["T", "N", 16], w=f32[1, 64, 16], r=f32[1, 64, 16],
             attrs={"hidden_size": 16}),
        Case("both ways, with states", **_BOTH, **_NONE | {"h": f32[2, "N", 8], "c": f32[2, "N", 8]}, attrs=_WAYS),
        Case("of some lengths", **_NONE | {"b": f32[1, 64], "lengths": np.array([2, 4], np.int32), "p": f32[1, 24]},
             x=f32[4, 2, 8], w=f32[1, 32, 8], r=f32[1, 32, 8], attrs={"hidden_size": 8}),
        Refused("infinite", **_SMALL | {"w": np.full((1, 32, 8), np.inf, np.float32)}, **_NONE, attrs={"hidden_size": 8},
                because="not finite"),
        Refused("batch first", **_SMALL, **_NONE, attrs={"hidden_size": 8, "layout": 1}, because="the batch comes first"),
    ]  # fmt: skip


@rule(group="quantize", targets=("onnxruntime-cpu",), safety=_ROUNDED)
class Int8LstmAndLast:
    """``int8-lstm`` of an LSTM whose last output is read, too, or alone.

    Sound for the same reasons.
    """

    pattern, unless, rewrite = _pattern(2), _unfit, _rewrite(2)

    cases = [
        Case("both ways", **_BOTH, **_NONE | {"b": f32[2, 64]}, attrs=_WAYS),
        Refused("infinite", **_SMALL | {"r": np.full((1, 32, 8), np.nan, np.float32)}, **_NONE, attrs={"hidden_size": 8},
                because="not finite"),
    ]  # fmt: skip


@rule(group="quantize", targets=("onnxruntime-cpu",), safety=_ROUNDED)
class Int8LstmAndStates:
    """``int8-lstm`` of an LSTM whose states are read, too: a model that is run step by step hands them to its next step.

    Sound for the same reasons: the states that are handed on are float.
    """

    pattern, unless, rewrite = _pattern(3), _unfit, _rewrite(3)

    cases = [
        Case("a step", **_SMALL, **_NONE | {"h": f32[1, "N", 8], "c": f32[1, "N", 8]}, attrs={"hidden_size": 8}),
        Refused("infinite", **_SMALL | {"w": np.full((1, 32, 8), np.inf, np.float32)}, **_NONE, attrs={"hidden_size": 8},
                because="not finite"),
    ]  # fmt: skip
