"""Attention whose two products are of integers: queries with keys, and probabilities with values."""

import numpy as np
from olc.analysis import dims as dim
from olc.assumptions import KEEPS_A_KEY
from olc.quantization import weight_limit
from olc.rules import CLOSE, LOSSY, Attrs, Case, Refused, Value, array, attr, boolean, dims, f32, i8, rule, u8

from ._columns import SMALLEST, dynamic

_LOW = np.float32(-1e37)
"""Added to a score that is masked away: so far below all others that its exponential is 0, and finite where all of a row are."""
_STEP = np.float32(1 / 255)


def _signed(op, x, limit):
    """int8 of ``x`` and its scale, symmetric, as the model runs."""
    largest = op.Max(op.ReduceMax(op.Abs(x), keepdims=0), np.finfo(np.float32).tiny)
    scale = op.Div(largest, np.float32(limit))
    return op.QuantizeLinear(x, scale, np.int8(0)), scale


def _parts(op, x, count, axis):
    return [x] if count == 1 else op.Split(x, axis=axis, num_outputs=count, outputs=count)


def _joined(op, parts):
    return parts[0] if len(parts) == 1 else op.Concat(*parts, axis=2)


def _masks(op, m):
    """What is added to the scores of each head, [batch, queries, keys]."""
    if m.mask is None:
        return [None] * m.heads
    added = op.Where(m.mask, np.float32(0), _LOW) if m.mask.dtype in boolean.dtypes else m.mask
    if len(dims(m.mask)) < 4:
        return [added] * m.heads
    parts = _parts(op, added, m.heads, 1) if dims(m.mask)[1] != 1 else [added]
    squeezed = [op.Squeeze(part, np.array([1])) for part in parts]
    return squeezed if len(squeezed) > 1 else squeezed * m.heads


def _unfit(m, widths, keys):
    """Why the attention is not rounded, or None; ``keys`` is how many there are. Sets ``m.heads``, ``m.kv`` and ``m.size``."""
    if attr(m.root, "is_causal", 0) or attr(m.root, "softcap", 0.0):
        return "scores are masked by place, or capped"
    if attr(m.root, "softmax_precision", 1) != 1:
        return "the softmax has another type"
    m.heads, m.kv = attr(m.root, "q_num_heads", 0), attr(m.root, "kv_num_heads", 0)
    q, _, v = widths
    if not all(isinstance(w, int) for w in widths) or not m.kv or m.heads % m.kv or q % m.heads or v % m.kv:
        return "the heads are not known"
    m.size = q // m.heads
    if min(m.size, v // m.kv) < SMALLEST:
        return f"heads of {m.size} channels are too small to gain"
    if m.mask is None:
        return None
    shape = dims(m.mask)
    whole = shape is not None and 2 <= len(shape) <= 4 and dim.broadcast(shape[-1], keys) == shape[-1]
    if m.mask.dtype not in (*boolean.dtypes, *f32.dtypes) or not whole:
        return "the mask is not known to be one of all keys"
    if len(shape) > 2 and shape[-3] != 1 and (len(shape) < 4 or shape[-3] != m.heads):
        return "the mask is not known to be for all heads alike, or for each"
    m.assumes.add(KEEPS_A_KEY)


def _attend(op, m, keys, k_unit, values, v_unit, means):
    """The result [batch, queries, width] of int8 keys [batch, size, keys] and values [batch, keys, size] of each head, and of
    the means that values are less, of each head or of all."""
    q, q_unit, q_zero = dynamic(op, m.q)
    scale = attr(m.root, "scale", None)
    q_unit = op.Mul(q_unit, np.float32(m.size**-0.5 if scale is None else scale))
    queries, each, last = _parts(op, q, m.heads, 2), m.heads // m.kv, np.array([-1])
    zero, made = np.int8(0), []
    for i, mask in enumerate(_masks(op, m)):
        query, key = op.DequantizeLinear(queries[i], q_unit, q_zero), op.DequantizeLinear(keys[i // each], k_unit, zero)
        scores = op.MatMul(query, key)
        scores = scores if mask is None else op.Add(scores, mask)
        grown = op.Exp(op.Sub(scores, op.ReduceMax(scores, last)))
        rounded = op.DequantizeLinear(op.QuantizeLinear(grown, _STEP, np.uint8(0)), _STEP, np.uint8(0))
        product = op.MatMul(rounded, op.DequantizeLinear(values[i // each], v_unit, zero))
        made.append(op.Div(product, op.ReduceSum(grown, last)))
    repeated = means if len(means) == 1 and m.kv > 1 else [mean for mean in means for _ in range(each)]
    return op.Add(_joined(op, made), _joined(op, repeated))


@rule(
    group="quantize", since=23, targets=("onnxruntime-cpu",),
    safety=LOSSY("queries, keys, values and probabilities are rounded to 8 bits: cosine about 0.9995 to the original"),
)  # fmt: skip
class Int8Attention:
    """Attention with both of its products in integers, head by head. It gains where there are hundreds of queries and keys.

    The mean of the keys is taken from all of them first, and that of the values given back to the result: sound because a
    number added to all scores of a query is lost in its softmax, and because probabilities sum to 1 (SageAttention, Zhang
    et al. 2024, section 4.2). What is rounded are the exponentials, of which each row's largest is 1, and a row is divided
    by their sum afterwards: probabilities themselves would be all 0 where a query attends to many keys alike.
    That a query has a key is assumed of every mask: of one that has none the result is the mean of the values.
    """

    def pattern(op, q: f32, k: f32, v: f32, mask: Value | None, attrs: Attrs):
        return op.Attention(q, k, v, mask, **attrs)

    def unless(m):
        q, k, v = dims(m.q), dims(m.k), dims(m.v)
        if q is None or k is None or v is None or not len(q) == len(k) == len(v) == 3:
            return "the operands are not known to have 3 axes"
        return _unfit(m, (q[2], k[2], v[2]), k[1])

    def rewrite(op, m):
        limit, tokens = weight_limit(m.k), np.array([1])
        k, k_unit = _signed(op, op.Sub(m.k, op.ReduceMean(m.k, tokens)), limit)
        mean = op.ReduceMean(m.v, tokens)
        v, v_unit = _signed(op, op.Sub(m.v, mean), limit)
        keys = _parts(op, op.Transpose(k, perm=(0, 2, 1)), m.kv, 1)
        means = [mean] if m.heads == m.kv else _parts(op, mean, m.kv, 2)
        return _attend(op, m, keys, k_unit, _parts(op, v, m.kv, 2), v_unit, means)

    cases = [
        Case("an encoder", q=f32["B", "S", 64], k=f32["B", "T", 64], v=f32["B", "T", 32], mask=None,
             attrs={"q_num_heads": 2, "kv_num_heads": 2}),
        Case("one head, a scale", q=f32["B", "S", 16], k=f32["B", "T", 16], v=f32["B", "T", 16], mask=f32["S", "T"],
             attrs={"q_num_heads": 1, "kv_num_heads": 1, "scale": 0.5}),
        Case("fewer heads of keys, a mask", q=f32["B", "S", 64], k=f32["B", "T", 32], v=f32["B", "T", 48],
             mask=boolean["B", 1, "S", "T"], attrs={"q_num_heads": 4, "kv_num_heads": 2}),
        Case("a bias of places", q=f32["B", "S", 32], k=f32["B", "S", 32], v=f32["B", "S", 32], mask=f32[1, 2, "S", "S"],
             attrs={"q_num_heads": 2, "kv_num_heads": 2, "scale": 1.0}),
        Refused("causal", q=f32["B", "S", 32], k=f32["B", "S", 32], v=f32["B", "S", 32], mask=None,
                attrs={"q_num_heads": 2, "kv_num_heads": 2, "is_causal": 1}, because="masked by place"),
        Refused("4 axes", q=f32["B", 2, "S", 32], k=f32["B", 2, "S", 32], v=f32["B", 2, "S", 32], mask=None, attrs={},
                because="3 axes"),
        Refused("tiny", q=f32["B", "S", 16], k=f32["B", "S", 16], v=f32["B", "S", 16], mask=None,
                attrs={"q_num_heads": 2, "kv_num_heads": 2}, because="too small to gain"),
        Refused("a mask of one key", q=f32["B", "S", 32], k=f32["B", "T", 32], v=f32["B", "T", 32], mask=f32["S", 1],
                attrs={"q_num_heads": 2, "kv_num_heads": 2}, because="one of all keys"),
        Refused("a mask of heads", q=f32[3, "S", 32], k=f32[3, "T", 32], v=f32[3, "T", 32], mask=f32[2, "S", "T"],
                attrs={"q_num_heads": 2, "kv_num_heads": 2}, because="for all heads alike"),
    ]  # fmt: skip


@rule(
    group="quantize", since=23, targets=("onnxruntime-cpu",),
    safety=LOSSY("queries, keys, values and probabilities are rounded to 8 bits: cosine about 0.9995 to the original"),
)  # fmt: skip
class Int8AttentionWithCache:
    """``int8-attention`` of an Attention with a cache, which stays float: a prompt has hundreds of queries and keys, too.

    Sound for the same reasons. All keys and values are rounded anew at each step, so it does not gain where there are few
    queries.
    """

    def pattern(op, q: f32, k: f32, v: f32, mask: Value | None, past_k: f32, past_v: f32, attrs: Attrs):
        return op.Attention(q, k, v, mask, past_k, past_v, outputs=3, **attrs)

    def unless(m):
        q, k, v, present = dims(m.q), dims(m.k), dims(m.v), dims(m.root.outputs[1])
        if None in (q, k, v, present) or not len(q) == len(k) == len(v) == 3:
            return "the operands are not known to have 3 axes"
        return _unfit(m, (q[2], k[2], v[2]), present[2])

    def rewrite(op, m):
        limit, tokens, one = weight_limit(m.k), np.array([2]), np.array([1])

        def heads(x):
            split = op.Reshape(x, np.array([0, 0, m.kv, dims(x)[2] // m.kv]))
            return op.Transpose(split, perm=(0, 2, 1, 3))

        def apart(x):
            return [op.Squeeze(part, one) for part in _parts(op, x, m.kv, 1)]

        keys, values = op.Concat(m.past_k, heads(m.k), axis=2), op.Concat(m.past_v, heads(m.v), axis=2)
        k, k_unit = _signed(op, op.Sub(keys, op.ReduceMean(keys, tokens)), limit)
        mean = op.ReduceMean(values, tokens)
        v, v_unit = _signed(op, op.Sub(values, mean), limit)
        turned = op.Transpose(k, perm=(0, 1, 3, 2))
        return _attend(op, m, apart(turned), k_unit, apart(v), v_unit, apart(mean)), keys, values

    cases = [
        Case("a decoder", q=f32["B", "S", 64], k=f32["B", "S", 32], v=f32["B", "S", 48], past_k=f32["B", 2, "P", 16],
             past_v=f32["B", 2, "P", 24], mask=None, attrs={"q_num_heads": 4, "kv_num_heads": 2}),
        Case("one head", q=f32["B", "S", 32], k=f32["B", "S", 16], v=f32["B", "S", 16], past_k=f32["B", 1, "P", 16],
             past_v=f32["B", 1, "P", 16], mask=None, attrs={"q_num_heads": 2, "kv_num_heads": 1, "scale": 0.3}),
        Case("a mask", q=f32[1, 3, 32], k=f32[1, 3, 32], v=f32[1, 3, 32], past_k=f32[1, 2, 4, 16], past_v=f32[1, 2, 4, 16],
             mask=boolean[1, 1, 3, 7], attrs={"q_num_heads": 2, "kv_num_heads": 2}),
        Refused("causal", q=f32["B", "S", 32], k=f32["B", "S", 32], v=f32["B", "S", 32], past_k=f32["B", 2, "P", 16],
                past_v=f32["B", 2, "P", 16], mask=None, attrs={"q_num_heads": 2, "kv_num_heads": 2, "is_causal": 1},
                because="masked by place"),
        Refused("4 axes", q=f32["B", 2, "S", 16], k=f32["B", 2, "S", 16], v=f32["B", 2, "S", 16], past_k=f32["B", 2, "P", 16],
                past_v=f32["B", 2, "P", 16], mask=None, attrs={}, because="3 axes"),
    ]  # fmt: skip


@rule(group="quantize-lower", targets=("onnxruntime-cpu",), since=19,
      safety=CLOSE("sums of integers times a product of scales instead of sums of scaled numbers"))  # fmt: skip
class IntegerProduct:
    """A product of activations, the first in uint8 and the second in int8, is MatMulIntegerToFloat.

    Sound because the kernel sums in 32-bit integers what the QDQ form sums in floats.
    """

    def pattern(op, a: u8, a_unit: f32[()], a_zero: Value | None, b: i8, b_unit: f32[()], b_zero: Value | None):
        first, second = op.DequantizeLinear(a, a_unit, a_zero), op.DequantizeLinear(b, b_unit, b_zero)
        return op.MatMul(op.shared(first), op.shared(second))

    def unless(m):
        if array(m.b) is not None:
            return "the second factor is a constant: other kernels hold it packed"
        shapes = dims(m.a), dims(m.b)
        return "a factor is not known to have rank 2 or more" if any(d is None or len(d) < 2 for d in shapes) else None

    def rewrite(op, m):
        return op.domain("com.microsoft").MatMulIntegerToFloat(m.a, m.b, m.a_unit, m.b_unit, m.a_zero, m.b_zero)

    cases = [
        Case("scores", a=u8["B", "S", 16], a_unit=f32[()], a_zero=u8[()], b=i8["B", 16, "T"], b_unit=f32[()], b_zero=np.int8(0)),
        Case("no zero points", a=u8["S", 16], a_unit=f32[()], a_zero=None, b=i8[16, 5], b_unit=np.float32(0.01), b_zero=None),
        Refused("a weight", a=u8["S", 16], a_unit=f32[()], a_zero=None, b=np.ones((16, 3), np.int8), b_unit=np.float32(1),
                b_zero=None, because="a constant"),
        Refused("a vector", a=u8[16], a_unit=f32[()], a_zero=None, b=i8[16, 3], b_unit=np.float32(1), b_zero=None,
                because="rank 2"),
    ]  # fmt: skip
