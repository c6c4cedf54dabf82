"""Layers: normalisations, attention, rotary embedding, recurrent cells, quantisation."""

from __future__ import annotations

from .. import dims as d
from ..dims import Dim
from .core import Dims, Site, Unknown, normal_axis, rule
from .elementwise import _dtype_of

# ----------------------------------------------------------------------------------------------- normalisation


@rule("BatchNormalization")
def batch_normalization(s: Site) -> None:
    s.out(0, s.dims(0))
    for i in range(1, len(s.outputs)):
        s.out(i, s.dims(3))


@rule("GroupNormalization")
def group_normalization(s: Site) -> None:
    s.out(0, s.dims(0))


@rule("LayerNormalization", "RMSNormalization")
def layer_normalization(s: Site) -> None:
    x = s.dims(0)
    axis = normal_axis(s.attr("axis", -1), len(x))
    s.out(0, x)
    for i in (1, 2):
        s.out(i, x[:axis] + (1,) * (len(x) - axis), dtype=_dtype_of(s.attr("stash_type", 1)))


# --------------------------------------------------------------------------------------------------- attention


@rule("RotaryEmbedding")
def rotary_embedding(s: Site) -> None:
    s.out(0, s.dims(0))


@rule("Attention")
def attention(s: Site) -> None:
    """Operands [batch, heads, length, size] or [batch, length, heads*size]; the cache is always 4-D."""
    q, k, v = s.dims(0), s.dims(1), s.dims(2)
    own: Dim
    if len(q) == 4:
        heads, length, own, size = q[1], q[2], k[2], v[3]
        shared, key_size = k[1], k[3]
        y: Dims = (q[0], heads, length, size)
    elif len(q) == 3:
        count, few = s.attr("q_num_heads"), s.attr("kv_num_heads")
        if not count or not few:
            raise Unknown
        heads, length, own, shared = count, q[1], k[1], few
        key_size, size = d.floordiv(k[2], few), d.floordiv(v[2], few)
        y = (q[0], length, d.mul(count, size))
    else:
        raise Unknown
    every = own
    if s.has(4):
        past = s.dims_or_none(4)
        every = s.fresh() if past is None else d.add(past[2], own)
    s.out(0, y)
    s.out(1, (q[0], shared, every, key_size))
    s.out(2, (q[0], shared, every, size))
    s.out(3, (q[0], heads, length, every))


@rule("FlexAttention", domain="ai.onnx.preview")
def flex_attention(s: Site) -> None:
    s.out(0, (*s.dims(0)[:3], s.dims(2)[3]))


@rule("LinearAttention")
def linear_attention(s: Site) -> None:
    """Operands [batch, length, heads*size]; state [batch, heads, key size, value size]."""
    q, k, v = s.dims(0), s.dims(1), s.dims(2)
    heads, few = s.attr("q_num_heads"), s.attr("kv_num_heads")
    size = d.floordiv(v[2], few)
    s.out(0, (q[0], q[1], d.mul(size, heads)))
    s.out(1, (q[0], few, d.floordiv(k[2], few), size), dtype=s.dtype(3) if s.has(3) else None)


@rule("CausalConvWithState")
def causal_conv_with_state(s: Site) -> None:
    x, w = s.dims(0), s.dims(1)
    s.out(0, x)
    s.out(1, (x[0], x[1], d.sub(w[2], 1)))


@rule("SwiGLU")
def swiglu(s: Site) -> None:
    s.out(0, s.dims(0))


# ----------------------------------------------------------------------------------------------------- signals


@rule("STFT")
def stft(s: Site) -> None:
    """Signal [batch, length, 1 or 2] to [batch, frames, bins, 2]."""
    signal, step = s.dims(0), s.vector(1)[0]
    if s.has(3):
        length = s.vector(3)[0]
    elif s.has(2):
        length = s.dims(2)[0]
    else:
        raise Unknown
    frames = d.add(d.floordiv(d.sub(signal[1], length), step, nonzero=True), 1)
    bins = d.add(d.floordiv(length, 2), 1) if s.attr("onesided", 1) else length
    s.out(0, (signal[0], frames, bins, 2))


@rule("DFT")
def dft(s: Site) -> None:
    """Signal [..., 1 or 2], transformed along one axis."""
    out = list(s.dims(0))
    axis = s.attr("axis", 1) if s.version < 20 else (s.ints(2)[0] if s.has(2) else -2)
    axis = normal_axis(axis, len(out))
    half, inverse = s.attr("onesided", 0), s.attr("inverse", 0)
    if half and inverse:
        out[-1] = 1
        n = s.vector(1)[0] if s.has(1) else d.mul(d.sub(out[axis], 1), 2)
    else:
        out[-1] = 2
        n = s.vector(1)[0] if s.has(1) else out[axis]
        n = d.add(d.floordiv(n, 2), 1) if half else n
    out[axis] = n
    s.out(0, tuple(out))


# --------------------------------------------------------------------------------------------------- recurrent


@rule("LSTM", "GRU", "RNN")
def recurrent(s: Site) -> None:
    x = s.dims(0)
    ways = 2 if s.attr("direction", "forward") == "bidirectional" else 1
    hidden: Dim | None = s.attr("hidden_size")
    if hidden is None:
        hidden = s.dims(2)[2]
    batch_first = s.version >= 14 and s.attr("layout", 0)
    if batch_first:
        batch, length = x[0], x[1]
        s.out(0, (batch, length, ways, hidden))
        last: Dims = (batch, ways, hidden)
    else:
        length, batch = x[0], x[1]
        s.out(0, (length, ways, batch, hidden))
        last = (ways, batch, hidden)
    s.out(1, last)
    s.out(2, last)


# ------------------------------------------------------------------------------------------------ quantisation


@rule("QuantizeLinear")
def quantize_linear(s: Site) -> None:
    wanted = _dtype_of(s.attr("output_dtype", 0) or None)
    s.out(0, s.dims(0), dtype=s.dtype(2) if s.has(2) else wanted or _dtype_of(2))


@rule("DequantizeLinear")
def dequantize_linear(s: Site) -> None:
    wanted = _dtype_of(s.attr("output_dtype", 0) or None)
    s.out(0, s.dims(0), dtype=wanted or s.dtype(1))


@rule("DynamicQuantizeLinear")
def dynamic_quantize_linear(s: Site) -> None:
    s.out(1, ())
    s.out(2, ())
    s.out(0, s.dims(0))
