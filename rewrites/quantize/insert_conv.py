"""Convolutions and what lies between them, rounded to 8 bits: all inputs and the output of an operator on grids of uint8.

A runtime makes integer kernels of operators that stand between DequantizeLinear and QuantizeLinear. The grid of an
activation is that of the value that it was dequantized from, else it follows from what calibration observed.
"""

import numpy as np
from olc.quantization import all_finite, int8_form, observed, prepared, shift_form, weight_limit
from olc.quantization.emulate import uint8_grid
from olc.rules import LOSSY, U8, Attrs, Case, Const, Many, Refused, array, attr, f32, is_constant, rule, u8

_MOVES = frozenset(("Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"))
_ROUNDED = LOSSY("weights and activations are rounded to 8 bits: cosine about 0.99 to the original")


def _moves(node):
    """Are its results numbers of its first input, and so on the same grid?"""
    return node.op_type in _MOVES or (node.op_type == "Resize" and attr(node, "mode", "nearest") == "nearest")


def _source(v):
    """The DequantizeLinear of one uint8 grid that the value comes from, or None."""
    n = v.producer()
    if n is None or n.domain or n.op_type != "DequantizeLinear" or n.inputs[0].dtype != U8:
        return None
    scale = array(n.inputs[1])
    return n if scale is not None and scale.size == 1 and all(map(is_constant, n.inputs[1:])) else None


def _between(low, high):
    """Scale and zero point of the uint8 grid over a range, widened to hold 0; None where the range is not finite."""
    if not np.isfinite(np.float32(high) - np.float32(low)):
        return None
    scale, zero = uint8_grid(low, high)
    return scale, np.uint8(zero)


def _grid(v):
    """Scale and zero point for a value; None where nothing tells its range."""
    a = array(v)
    if a is not None:
        return _between(a.min(), a.max()) if a.size and all_finite(a) else None
    moved = v
    while (n := moved.producer()) is not None and n.domain == "" and _moves(n):
        moved = n.inputs[0]
    source = _source(moved)
    if source is not None:
        zero = array(source.inputs[2]) if len(source.inputs) > 2 else np.uint8(0)
        return np.float32(array(source.inputs[1]).item()), np.uint8(zero.item())
    seen = observed(v)
    return None if seen is None else _between(seen.low, seen.high)


def _rounded(op, v, grid):
    return op.DequantizeLinear(op.QuantizeLinear(v, *grid), *grid)


def _inputs(op, m):
    """The inputs on their grids."""
    return [v if _source(v) else _rounded(op, v, grid) if array(v) is None else _constant(op, array(v), grid)
            for v, grid in m.rounded]  # fmt: skip


def _constant(op, a, grid):
    scale, zero = grid
    q = np.rint(a.astype(np.float64) / float(scale)) + int(zero)
    return op.DequantizeLinear(np.clip(q, 0, 255).astype(np.uint8), *grid)


def _activated(op, y, low, high):
    return op.either(op.Relu(y), op.Clip(y, low, high), y)


def _unfit(m, *inputs):
    """Why the operator is not rounded, or None. Sets ``m.rounded``, inputs and their grids, and ``m.out``, that of the result.

    The grid of a result that is activated ends where the activation ends, so that rounding activates it.
    """
    result = m.root.outputs[0]
    users = [n for n, _ in result.uses()]
    if m.root.op_type in ("Conv", "Add") and len(users) == 1 and _clips(users[0]) and not result.is_graph_output():
        return "it is rounded after its activation"
    if m.root.op_type == "Clip" and not _clips(m.root):
        return "the bounds of Clip are not constants around 0"
    rounded = [(v, _grid(v)) for v in inputs]
    seen = observed(result)
    if seen is None or any(grid is None for _, grid in rounded):
        if all(_source(v) for v in inputs) and users and all(n.op_type == "QuantizeLinear" for n in users):
            return "it is rounded already"
        return "no calibration range"
    low, high = _bounds(m.root)
    m.rounded, m.out = rounded, _between(max(seen.low, low), min(seen.high, high))
    if m.out is None:
        return "the calibration range is not finite"


def _bounds(node):
    """What an activation leaves, everything where the node is none."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type != "Clip":
        return -np.inf, np.inf
    given = [array(v) if v is not None else None for v in [*node.inputs, None, None][1:3]]
    return tuple(float(default if a is None else a.item()) for a, default in zip(given, (-np.inf, np.inf), strict=True))


def _clips(node):
    """Is it an activation that a grid can stand for?"""
    if node.op_type == "Relu":
        return True
    if node.op_type != "Clip" or not all(v is None or is_constant(v) for v in node.inputs[1:]):
        return False
    low, high = _bounds(node)
    return low <= 0 <= high


def _conv_weight(w, b, scale_x, limit, ready):
    """A weight as int8 in ±limit with a scale for each output channel, and the bias as int32 on the grid of the products.

    A channel whose weights are next to nothing gets a scale at which its bias fits. ``ready`` is what a preparation made of
    the weight, or None: its codes stand where they have the same scale.
    """
    flat = w.reshape(len(w), -1).astype(np.float64)
    scale = np.abs(flat).max(axis=1, initial=0.0) / limit
    if b is not None:
        scale = np.maximum(scale, np.abs(b.astype(np.float64)) / (float(scale_x) * 2.0**30))
    scale = np.where(scale < 1e-30, 1.0, scale).astype(np.float32)
    q = np.clip(np.rint(flat / scale[:, None]), -limit, limit).astype(np.int8)
    if ready is not None:
        q = np.where((ready[1] == scale)[:, None], ready[0].reshape(q.shape), q)
    q = q.reshape(w.shape)
    if b is None:
        return q, scale, None, None
    unit = scale_x * scale
    return q, scale, np.rint(b.astype(np.float64) / unit).astype(np.int32), unit


@rule(group="quantize", since=19, targets=("onnxruntime-cpu",), safety=_ROUNDED)
class Int8Conv:
    """A convolution, perhaps with Relu or Clip after it, whose input, weight, bias and output are rounded to 8 bits.

    The weight is symmetric with a scale for each output channel. The activation is gone: what it would cut lies beyond the
    grid. A preparation may have found what rounding takes from the mean of each channel: the bias gives it back.
    """

    def pattern(op, x: f32, w: Const[f32], b: Const[f32] | None, attrs: Attrs, low: Const | None, high: Const | None):
        return _activated(op, op.Conv(x, w, b, **attrs), low, high)

    def unless(m):
        if not all(all_finite(array(v)) for v in (m.w, m.b) if v is not None):
            return "a weight is not finite"
        return _unfit(m, m.x)

    def rewrite(op, m):
        scale_x, _ = m.rounded[0][1]
        limit, b = weight_limit(m.w), None if m.b is None else array(m.b)
        shift = prepared(m.w, shift_form(limit))
        if shift is not None:
            b = shift if b is None else b + shift
        q, scale, b, unit = _conv_weight(array(m.w), b, scale_x, limit, prepared(m.w, int8_form(limit)))
        bias = None if b is None else op.DequantizeLinear(b, unit, axis=0)
        y = op.Conv(*_inputs(op, m), op.DequantizeLinear(q, scale, axis=0), bias, **m.attrs)
        return _rounded(op, y, m.out)

    cases = [
        Case("a block", observed={"x": (-3, 3), "y": (-30, 30)}, x=f32["N", 4, 5, 5], w=f32[6, 4, 3, 3], b=f32[6],
             attrs={"pads": [1, 1, 1, 1]}, low=np.float32(0), high=np.float32(20)),
        Case("depthwise", observed={"x": (-3, 3), "y": (-8, 8)}, x=f32["N", 4, 7], w=f32[4, 1, 3], b=None,
             attrs={"group": 4, "strides": [2]}, low=None, high=None),
        Refused("not calibrated", x=f32["N", 4, 7], w=f32[4, 4, 3], b=None, attrs={}, low=None, high=None,
                because="no calibration range"),
        Refused("infinite", observed={"x": (-3, 3), "y": (-8, 8)}, x=f32["N", 1, 7], w=np.full((1, 1, 3), np.inf, np.float32),
                b=None, attrs={}, low=None, high=None, because="not finite"),
    ]  # fmt: skip


def _dequantized(op, q, scale, zero):
    return op.shared(op.DequantizeLinear(q, scale, zero))


@rule(group="quantize", since=19, targets=("onnxruntime-cpu",), safety=_ROUNDED)
class Int8Add:
    """A sum of two activations, one of them rounded before, on grids of 8 bits, perhaps with Relu or Clip after it."""

    def pattern(op, q: u8, scale: Const[f32], zero: Const[u8] | None, b: f32, low: Const | None, high: Const | None):
        return _activated(op, op.Add(_dequantized(op, q, scale, zero), b), low, high)

    def unless(m):
        return _unfit(m, *m.find("Add").inputs)

    def rewrite(op, m):
        return _rounded(op, op.Add(*_inputs(op, m)), m.out)

    cases = [
        Case("a residual", observed={"q": (0, 8), "b": (-3, 3), "y": (-9, 16)}, q=u8["N", 4, 3, 3], scale=np.float32(0.5),
             zero=np.uint8(1), b=f32["N", 4, 3, 3], low=np.float32(-4), high=None),
        Refused("not calibrated", q=u8["N", 4], scale=np.float32(0.5), zero=None, b=f32["N", 4], low=None, high=None,
                because="no calibration range"),
    ]  # fmt: skip


@rule(group="quantize", since=19, targets=("onnxruntime-cpu",), safety=_ROUNDED)
class Int8Mul:
    """A product of two activations, one of them rounded before, on grids of 8 bits."""

    def pattern(op, q: u8, scale: Const[f32], zero: Const[u8] | None, b: f32):
        return op.Mul(_dequantized(op, q, scale, zero), b)

    def unless(m):
        return _unfit(m, *m.root.inputs)

    def rewrite(op, m):
        return _rounded(op, op.Mul(*_inputs(op, m)), m.out)

    cases = [
        Case("a gate", observed={"q": (0, 8), "b": (0, 1), "y": (-9, 9)}, q=u8["N", 4, 3, 3], scale=np.float32(0.5),
             zero=np.uint8(1), b=f32["N", 4, 1, 1]),
        Refused("not calibrated", q=u8["N", 4], scale=np.float32(0.5), zero=None, b=f32["N", 4],
                because="no calibration range"),
    ]  # fmt: skip


@rule(group="quantize", since=19, targets=("onnxruntime-cpu",), safety=_ROUNDED)
class Int8HardSigmoid:
    """A HardSigmoid of an activation that was rounded before is a sum on a grid from 0 to 1, which cuts it there.

    A grid whose scale is multiplied by alpha holds the multiples by alpha; what is left is to add beta. So it stays in bytes,
    where no runtime has a HardSigmoid.
    """

    def pattern(op, q: u8, scale: Const[f32], zero: Const[u8] | None, alpha, beta):
        return op.HardSigmoid(_dequantized(op, q, scale, zero), alpha=alpha, beta=beta)

    def unless(m):
        if _source(m.root.inputs[0]) is None:
            return "the input is not on one grid"
        m.scaled = np.float32(m.alpha * array(m.scale).item())
        if not 1e-30 < m.scaled < 1e30 or not 0 < m.beta <= 1:
            return "alpha or beta is not of a usual size"

    def rewrite(op, m):
        zero = np.uint8(0) if m.zero is None else array(m.zero).reshape(())
        beta = op.DequantizeLinear(np.uint8(255), np.float32(m.beta / 255), np.uint8(0))
        return _rounded(op, op.Add(op.DequantizeLinear(m.q, m.scaled, zero), beta), _between(0, 1))

    cases = [
        Case("a gate", observed={"q": (0, 12)}, q=u8["N", 4, 3, 3], scale=np.float32(0.5), zero=np.uint8(6), alpha=0.2, beta=0.5),
        Refused("falling", q=u8["N", 4], scale=np.float32(0.5), zero=None, alpha=-0.2, beta=0.5, because="of a usual size"),
        Refused("many grids", q=u8["N", 2], scale=np.array([0.5, 1], np.float32), zero=None, alpha=0.2, beta=0.5,
                because="not on one grid"),
    ]  # fmt: skip


def _alone(m):
    return _unfit(m, m.root.inputs[0])


def _again(op, m):
    return _rounded(op, getattr(op, m.root.op_type)(*_inputs(op, m), **m.attrs), m.out)


_Q = {"observed": {"q": (0, 12), "y": (-3, 3)}, "q": u8["N", 4, 5, 5], "scale": np.float32(0.5), "zero": np.uint8(6)}
_UNSEEN = {"q": u8["N", 4, 5, 5], "scale": np.float32(0.5), "zero": None, "because": "no calibration range"}


@rule(group="quantize", since=19, targets=("onnxruntime-cpu",), safety=_ROUNDED)
class Int8Sigmoid:
    """A Sigmoid of an activation that was rounded before, rounded again: a table of 256 bytes."""

    def pattern(op, q: u8, scale: Const[f32], zero: Const[u8] | None, attrs: Attrs):
        return op.Sigmoid(_dequantized(op, q, scale, zero), **attrs)

    unless, rewrite = _alone, _again
    cases = [Case("a gate", attrs={}, **_Q), Refused("not calibrated", attrs={}, **_UNSEEN)]


@rule(group="quantize", since=19, targets=("onnxruntime-cpu",), safety=_ROUNDED)
class Int8LeakyRelu:
    """A LeakyRelu of an activation that was rounded before, rounded again: a table of 256 bytes."""

    def pattern(op, q: u8, scale: Const[f32], zero: Const[u8] | None, attrs: Attrs):
        return op.LeakyRelu(_dequantized(op, q, scale, zero), **attrs)

    unless, rewrite = _alone, _again
    cases = [Case("half", attrs={"alpha": 0.5}, **_Q), Refused("not calibrated", attrs={}, **_UNSEEN)]


@rule(group="quantize", since=19, targets=("onnxruntime-cpu",), safety=_ROUNDED)
class Int8GlobalAveragePool:
    """An average over all positions of an activation that was rounded before, rounded again; the sums are of integers."""

    def pattern(op, q: u8, scale: Const[f32], zero: Const[u8] | None, attrs: Attrs):
        return op.GlobalAveragePool(_dequantized(op, q, scale, zero), **attrs)

    unless, rewrite = _alone, _again
    cases = [Case("a head", attrs={}, **_Q), Refused("not calibrated", attrs={}, **_UNSEEN)]


@rule(group="quantize", since=19, targets=("onnxruntime-cpu",), safety=_ROUNDED)
class Int8AveragePool:
    """An average over windows of an activation that was rounded before, rounded again; the sums are of integers."""

    def pattern(op, q: u8, scale: Const[f32], zero: Const[u8] | None, attrs: Attrs):
        return op.AveragePool(_dequantized(op, q, scale, zero), **attrs)

    def unless(m):
        if any(d != 1 for d in attr(m.root, "dilations", ())):
            return "the integer kernel has no dilations"
        m.attrs = {name: a for name, a in m.attrs.items() if name != "dilations"}  # not even of 1
        return _unfit(m, m.root.inputs[0])

    rewrite = _again
    cases = [
        Case("windows", attrs={"kernel_shape": [2, 2], "dilations": [1, 1]}, **_Q),
        Refused("dilated", attrs={"kernel_shape": [2, 2], "dilations": [2, 2]}, **{**_UNSEEN, "because": "has no dilations"}),
        Refused("not calibrated", attrs={"kernel_shape": [2, 2]}, **_UNSEEN),
    ]


@rule(group="quantize", since=19, targets=("onnxruntime-cpu",), safety=_ROUNDED)
class Int8Concat:
    """Activations put together, one of them rounded before, on one grid of 8 bits.

    Not where one of them ranges over a 16th of the whole or less: of boxes in pixels and scores from 0 to 1 on one grid the
    scores would all be 0.
    """

    def pattern(op, before: Many, q: u8, scale: Const[f32], zero: Const[u8] | None, after: Many, axis):
        return op.Concat(*before, _dequantized(op, q, scale, zero), *after, axis=axis)

    def unless(m):
        reason = _unfit(m, *m.root.inputs)
        if reason is not None:
            return reason
        # a part may range over less than its grid, which was made for what it comes from
        spans = [min(float(scale), (seen.high - seen.low) / 255 if (seen := observed(v)) is not None else np.inf)
                 for v, (scale, _) in m.rounded]  # fmt: skip
        if any(span <= float(m.out[0]) / 16 for span in spans):
            return "one of them would lose its last 4 bits on the grid of all"

    def rewrite(op, m):
        return _rounded(op, op.Concat(*_inputs(op, m), axis=m.axis), m.out)

    cases = [
        Case("two branches", observed={"after_0": (-3, 3), "y": (-3, 3)}, before=[], q=u8["N", 4, 3, 3],
             scale=np.float32(0.02), zero=np.uint8(128), after=[f32["N", 2, 3, 3]], axis=1),
        Refused("boxes and scores", observed={"after_0": (0, 1), "y": (0, 640)}, before=[], q=u8["N", 4, 3],
                scale=np.float32(2.5),
                zero=np.uint8(0), after=[f32["N", 2, 3]], axis=1, because="last 4 bits"),
        Refused("not calibrated", before=[], q=u8["N", 4], scale=np.float32(0.5), zero=None, after=[f32["N", 4]], axis=1,
                because="no calibration range"),
    ]  # fmt: skip
