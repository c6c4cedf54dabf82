"""Attentions of ONNX Runtime's domain as the standard's."""

from itertools import pairwise

import numpy as np
from olc.analysis import dims as dim
from olc.assumptions import FINITE, KEEPS_A_KEY
from olc.passes.masks import DROPPED, SURE
from olc.rules import BOOL, CLOSE, I32, I64, Case, Const, Refused, Spec, Value, array, dims, f32, rule

from ..attention._scale import snapped
from ._common import MS, constant

i32 = Spec((I32,))
FILTER = -10000.0
"""What is added to the score of a key that the mask drops, where the operator does not say."""
SAME = CLOSE("the same products, summed in another order")


def _kind_of_mask(m, batch, queries, keys):
    """Sets ``m.kind`` of the mask, or says why its meaning is not known."""
    m.kind = None
    if m.mask is None:
        return None
    d = dims(m.mask)
    if m.mask.dtype != I32 or d is None:
        return "the mask is not known to be of integers and some number of axes"
    kinds = {(batch,): "ends", (batch, keys): "keys", (batch, queries, keys): "pairs"}
    m.kind = kinds.get(d)
    return None if m.kind else "the mask is not known to have an entry for each text, key or pair"


def _kept(op, m, keys_of):
    """Which keys the mask keeps, with an axis for heads."""
    if m.kind == "ends":  # the keys in front of the end of each text
        keys = op.Squeeze(op.Shape(keys_of, start=1, end=2), np.array([0]))
        numbers = op.Range(np.int64(0), keys, np.int64(1))
        return op.Less(numbers, op.Unsqueeze(op.Cast(m.mask, to=I64), np.array([1, 2, 3])))
    if m.kind == "keys":
        return op.Unsqueeze(op.Greater(m.mask, np.int32(0)), np.array([1, 2]))
    return op.Unsqueeze(op.Greater(m.mask, np.int32(0)), np.array([1]))


def _mask(op, m, queries_of, keys_of):
    """The mask of the standard's operator: which pairs are kept, or what is added to scores; or None."""
    if m.kind is None and (m.added is None or not m.causal):
        return m.added
    kept = None if m.kind is None else _kept(op, m, keys_of)
    if m.causal:  # within the mask, for the operator's own attribute counts on one of all pairs
        numbers = [op.Range(np.int64(0), op.Squeeze(op.Shape(x, start=1, end=2), np.array([0])), np.int64(1)) for x in
                   (keys_of, queries_of)]  # fmt: skip
        earlier = op.LessOrEqual(numbers[0], op.Unsqueeze(numbers[1], np.array([1])))
    if m.boolean:
        return op.And(kept, earlier) if m.causal else kept
    bias = m.added if kept is None else op.Where(kept, np.float32(0), np.float32(m.filter))
    if m.causal:
        bias = op.Where(earlier, bias, np.finfo(np.float32).min)
    return bias if kept is None or m.added is None else op.Add(bias, m.added)


def _why_no_bias_of_scores(m, batch, queries, keys):
    d = None if m.added is None else dims(m.added)
    fits = d is not None and len(d) == 4 and d[0] in (1, batch) and d[1] in (1, m.heads) and d[2:] == (queries, keys)
    if m.added is not None and not fits:
        return "what is added to the scores is not known to fit them"
    m.filter = FILTER if m.low is None else float(m.low)
    m.boolean = m.kind is not None and m.added is None and m.filter <= DROPPED
    if m.kind is not None:
        m.assumes.add(KEEPS_A_KEY)
    if m.boolean and m.filter > SURE:
        m.assumes.add(FINITE)
    return None if -np.inf < m.filter <= 0 else "what drops a key is not a finite number below 0"


def _scaled(m, size):
    """The scale: by the size of a head where it is omitted or 0."""
    return snapped(float(m.scale) if m.scale else None, size)


def _attention(op, m, q, k, v, size):
    attrs = {"scale": _scaled(m, size), "q_num_heads": m.heads, "kv_num_heads": m.heads}
    mask = _mask(op, m, q, k)
    if m.causal and mask is None:
        attrs["is_causal"] = 1
    return op.Attention(q, k, v, mask, **attrs)


def _number_of_heads(m):
    return m.heads if isinstance(m.heads, int) and m.heads > 0 else None


_X = {"x": f32["B", "S", 8], "w": f32[8, 12], "b": f32[12], "heads": 2, "causal": 0, "sizes": None, "scale": None, "low": None}


@rule(group="fused", safety=SAME, since=23)
class AttentionWithProjections:
    """Attention of ONNX Runtime's domain is three projections and the standard's Attention.

    Sound by its definition: the columns of its weight are those of queries, keys and values in turn. Its mask tells which
    keys count, of each text or each pair, or where each text ends; the scores of the others get a number that is added, as
    here. Forms with a cache or with rotary embeddings inside stay.
    """

    def pattern(op, x: f32["batch", "length", "width"], w: Const[f32], b: Const[f32] | None, mask: Value | None,
                added: f32 | None, heads, causal, sizes, scale, low, rotary, shared):  # fmt: skip
        return op.domain(MS).Attention(
            x, w, b, mask, None, added, num_heads=heads, unidirectional=causal, qkv_hidden_sizes=sizes, scale=scale,
            mask_filter_value=low, do_rotary=rotary, past_present_share_buffer=shared,
        )  # fmt: skip

    def unless(m):
        if m.rotary or m.shared:
            return "it rotates, or keeps a cache"
        w, b = array(m.w), constant(m.b)
        if _number_of_heads(m) is None or w.ndim != 2 or dims(m.x)[2] != w.shape[0]:
            return "the weight is not a matrix of the input's width, or the number of heads is unknown"
        m.parts = tuple(m.sizes) if m.sizes else (w.shape[1] // 3,) * 3
        whole = len(m.parts) == 3 and sum(m.parts) == w.shape[1] and m.parts[0] == m.parts[1]
        if not whole or any(n <= 0 or n % m.heads for n in m.parts):
            return "the columns are not those of queries, keys and values"
        if b is not None and b.shape != w.shape[1:]:
            return "the bias is not one number for each column"
        batch, length, _ = dims(m.x)
        return _kind_of_mask(m, batch, length, length) or _why_no_bias_of_scores(m, batch, length, length)

    def rewrite(op, m):
        w, b, ends = array(m.w), constant(m.b), np.cumsum((0, *m.parts))
        parts = []
        for start, end in pairwise(ends):
            y = op.MatMul(m.x, np.ascontiguousarray(w[:, start:end]))
            parts.append(y if b is None else op.Add(y, np.ascontiguousarray(b[start:end])))
        return _attention(op, m, *parts, m.parts[0] // m.heads)

    cases = [
        Case("BERT", **_X, mask=i32["B", "S"], added=None),
        Case("ends of texts", **_X, mask=i32["B"], added=None),
        Case("pairs", **_X, mask=i32["B", "S", "S"], added=f32["B", 2, "S", "S"]),
        Case("causal, something added", **(_X | {"causal": 1}), mask=None, added=f32["B", 2, "S", "S"]),
        Case("causal, filtered little", **(_X | {"causal": 1}), mask=i32["B", "S"], added=None),
        Case("dropped for good", **(_X | {"low": -1e9}), mask=i32["B", "S"], added=None),
        Case("GPT-2", **(_X | {"causal": 1, "scale": 0.3, "low": -3e38}), mask=i32["B", "S"], added=None),
        Case("values of another size", **(_X | {"w": f32[8, 24], "b": None, "sizes": [8, 8, 8]}), mask=None, added=None),
        Case("narrow values", **(_X | {"w": f32[8, 20], "b": f32[20], "sizes": [8, 8, 4]}), mask=None,
             added=f32[1, 2, "S", "S"]),
        Refused("a mask of another length", x=f32["B", "S", 8], w=f32[8, 12], b=f32[12], heads=2, causal=0, mask=i32["B", "T"],
                added=None, because="an entry for each text, key or pair"),
        Refused("columns left over", **(_X | {"w": f32[8, 14], "b": None}), mask=None, added=None,
                because="not those of queries"),
        Refused("rotary", **_X, rotary=1, mask=None, added=None, because="it rotates"),
        Refused("unknown bias of scores", **_X, mask=None, added=f32["C", 2, "S", "S"], because="not known to fit them"),
        Refused("a bias too short", **(_X | {"b": f32[6]}), mask=None, added=None, because="one number for each column"),
        Refused("another width", **(_X | {"w": f32[6, 12]}), mask=None, added=None, because="the input's width"),
        Refused("raises scores", **(_X | {"low": 5.0}), mask=i32["B", "S"], added=None, because="what drops a key"),
        Refused("of truth values", **_X, mask=Spec((BOOL,))["B", "S"], added=None, because="not known to be of integers"),
    ]  # fmt: skip


def _why_no_heads(m):
    """Why the operands are not heads side by side, or their bias is none; sets ``m.sizes``."""
    m.sizes = [dims(x)[2] for x in (m.q, m.k, m.v)]
    if _number_of_heads(m) is None or any(not isinstance(n, int) or n % m.heads for n in m.sizes):
        return "the sizes of heads are unknown"
    if m.sizes[0] != m.sizes[1]:
        return "queries and keys are of unlike sizes"
    if m.b is not None and array(m.b).shape != (sum(m.sizes),):
        return "the bias is not one number for each column"
    return None


def _with_bias(op, m):
    """Queries, keys and values with their parts of the bias."""
    if m.b is None:
        return m.q, m.k, m.v
    ends = np.cumsum((0, *m.sizes))
    parts = [np.ascontiguousarray(array(m.b)[start:end]) for start, end in pairwise(ends)]
    return tuple(op.Add(x, part) for x, part in zip((m.q, m.k, m.v), parts, strict=True))


_QKV = {"q": f32["B", "S", 8], "k": f32["B", "T", 8], "v": f32["B", "T", 8], "heads": 2}


@rule(group="fused", safety=SAME, since=23)
class MultiHeadAttention:
    """MultiHeadAttention of ONNX Runtime's domain is the standard's Attention, its bias added before.

    Sound by its definition, where queries, keys and values come apart and there is no cache.
    """

    def pattern(op, q: f32["batch", "queries", None], k: f32["batch", "keys", None], v: f32["batch", "keys", None],
                b: Const[f32] | None, mask: Value | None, added: f32 | None, heads, causal, scale, low):  # fmt: skip
        return op.domain(MS).MultiHeadAttention(
            q, k, v, b, mask, added, num_heads=heads, unidirectional=causal, scale=scale, mask_filter_value=low
        )

    def unless(m):
        reason = _why_no_heads(m)
        if reason is not None:
            return reason
        (batch, queries, _), keys = dims(m.q), dims(m.k)[1]
        if m.causal and queries != keys:
            return "causal attention of other keys than the queries'"
        return _kind_of_mask(m, batch, queries, keys) or _why_no_bias_of_scores(m, batch, queries, keys)

    def rewrite(op, m):
        return _attention(op, m, *_with_bias(op, m), m.sizes[0] // m.heads)

    cases = [
        Case("Whisper's encoder", **_QKV, b=f32[24], mask=None, added=None, causal=None, scale=None, low=None),
        Case("masked", **_QKV, b=None, mask=i32["B", "T"], added=f32["B", 1, "S", "T"], causal=0, scale=0.5, low=-1e30),
        Case("ends of texts", **_QKV, b=None, mask=i32["B"], added=None, causal=0, scale=None, low=None),
        Case("causal", q=f32["B", "S", 8], k=f32["B", "S", 8], v=f32["B", "S", 8], heads=4, b=None, mask=None, added=None,
             causal=1, scale=None, low=None),
        Refused("of other keys", **_QKV, b=None, mask=None, added=None, causal=1, scale=None, low=None,
                because="other keys than"),
        Refused("unlike sizes", q=f32["B", "S", 8], k=f32["B", "T", 4], v=f32["B", "T", 8], heads=2, b=None, mask=None,
                added=None, causal=0, because="of unlike sizes"),
        Refused("odd", q=f32["B", "S", 6], k=f32["B", "T", 6], v=f32["B", "T", 6], heads=4, b=None, mask=None,
                added=None, causal=0, because="sizes of heads"),
        Refused("a bias too short", **_QKV, b=f32[8], mask=None, added=None, causal=0, because="one number for each column"),
    ]  # fmt: skip


_CACHED = {"q": f32["B", "S", 8], "k": f32["B", "S", 8], "v": f32["B", "S", 8], "past_k": f32["B", 2, "P", 4],
           "past_v": f32["B", 2, "P", 4], "heads": 2}  # fmt: skip


@rule(group="fused", safety=SAME, since=23, targets=("onnxruntime-cpu", "onnxruntime-cuda"))
class MultiHeadAttentionWithCache:
    """The same with keys and values of earlier tokens, which the standard's operator joins in the same way.

    Causal attention stays: the two count tokens of the cache differently.
    """

    def pattern(op, q: f32["batch", "new", None], k: f32["batch", "new", None], v: f32["batch", "new", None],
                b: Const[f32] | None, mask: Value | None, added: f32 | None, past_k: f32["batch", None, "past", None],
                past_v: f32["batch", None, "past", None], heads, causal, scale, low):  # fmt: skip
        return op.domain(MS).MultiHeadAttention(
            q, k, v, b, mask, added, past_k, past_v, num_heads=heads, unidirectional=causal, scale=scale, mask_filter_value=low,
            outputs=3,
        )  # fmt: skip

    def unless(m):
        reason = _why_no_heads(m)
        if reason is not None or m.causal:
            return reason or "causal attention counts the tokens of the cache"
        if [dims(x)[1::2] for x in (m.past_k, m.past_v)] != [(m.heads, n // m.heads) for n in m.sizes[1:]]:
            return "the heads in the cache are not those of keys and values"
        batch, new, _ = dims(m.q)
        total = dim.add(dims(m.past_k)[2], new)
        reason = _kind_of_mask(m, batch, new, total) or _why_no_bias_of_scores(m, batch, new, total)
        return reason or ("ends of texts count from the cache on" if m.kind == "ends" else None)

    def rewrite(op, m):
        attrs = {"scale": _scaled(m, m.sizes[0] // m.heads), "q_num_heads": m.heads, "kv_num_heads": m.heads}
        return op.Attention(*_with_bias(op, m), _mask(op, m, m.q, m.k), m.past_k, m.past_v, outputs=3, **attrs)

    cases = [
        Case("GPT-2", **_CACHED, b=None, mask=None, added=None, causal=None, scale=None, low=None),
        Case("a bias", **_CACHED, b=f32[24], mask=None, added=None, causal=0, scale=0.5, low=None),
        Case("something added", q=f32["B", 3, 8], k=f32["B", 3, 8], v=f32["B", 3, 8], past_k=f32["B", 2, 5, 4],
             past_v=f32["B", 2, 5, 4], heads=2, b=None, mask=None, added=f32["B", 1, 3, 8], causal=0, scale=None, low=None),
        Case("masked", q=f32["B", 3, 8], k=f32["B", 3, 8], v=f32["B", 3, 8], past_k=f32["B", 2, 5, 4],
             past_v=f32["B", 2, 5, 4], heads=2, b=None, mask=i32["B", 8], added=None, causal=0, scale=None, low=-1e30),
        Refused("causal", **_CACHED, b=None, mask=None, added=None, causal=1, because="counts the tokens of the cache"),
        Refused("unlike sizes", **(_CACHED | {"k": f32["B", "S", 4]}), b=None, mask=None, added=None, causal=0,
                because="of unlike sizes"),
        Refused("other heads in the cache", **(_CACHED | {"past_k": f32["B", 4, "P", 2]}), b=None, mask=None, added=None,
                causal=0, because="the heads in the cache"),
        Refused("ends of texts", **_CACHED, b=None, mask=i32["B"], added=None, causal=0, because="count from the cache on"),
    ]  # fmt: skip


ROWS = {"words": f32[7, 8], "places": f32[9, 8], "w": f32[8], "b": f32[8], "epsilon": 1e-12}


def _embedded(op, m):
    """The norm of the rows of words, of their kinds, and of their places, which count from 0 where they are not given."""
    total = op.Gather(m.words, m.ids)
    if m.kinds is not None:
        total = op.Add(total, op.Gather(m.segments, m.kinds))
    if m.positions is not None:
        places = op.Gather(m.places, m.positions)
    else:
        length = op.Shape(m.ids, start=1, end=2)
        places = op.Slice(m.places, np.array([0]), length, np.array([0]))
    return op.LayerNormalization(op.Add(total, places), m.w, m.b, axis=-1, epsilon=m.eps)


def _why_not_embedded(m):
    m.eps = 1e-12 if m.epsilon is None else float(m.epsilon)
    if not 0 <= m.eps < np.inf:
        return "epsilon is not a finite number of at least 0"
    if (m.kinds is None) != (m.segments is None):
        return "kinds of words have no rows"
    if m.kinds is not None and dims(m.kinds) != dims(m.ids):
        return "words and their kinds are not known to be as many"
    if m.positions is not None and dims(m.positions) not in (dims(m.ids), (1, dims(m.ids)[1])):
        return "words and their places are not known to be as many"
    if len({dims(x)[1] for x in (m.words, m.places, m.segments) if x is not None}) > 1:
        return "the rows are not of one length"
    return None


@rule(group="fused", safety=CLOSE("the same sum and norm, rounded elsewhere"), since=17)
class EmbedLayerNorm:
    """EmbedLayerNormalization is LayerNormalization of a sum of rows of two or three tables.

    Sound by its definition; what it gives beside is used by nobody.
    """

    def pattern(op, ids: i32["B", "S"], kinds: i32["B", "S"] | None, words: f32["V", "D"], places: f32["P", "D"],
                segments: f32["K", "D"] | None, w: f32["D"], b: f32["D"], mask: Value | None, positions: i32 | None, epsilon,
                kind):  # fmt: skip
        y, _ = op.domain(MS).EmbedLayerNormalization(
            ids, kinds, words, places, segments, w, b, mask, positions, epsilon=epsilon, mask_index_type=kind, outputs=2
        )
        return y

    unless = _why_not_embedded

    def rewrite(op, m):
        return _embedded(op, m)

    cases = [
        Case("BERT", ids=i32["B", "S"], kinds=i32["B", "S"], segments=f32[7, 8], **ROWS, mask=i32["B", "S"], positions=None),
        Case("DistilBERT", ids=i32["B", "S"], kinds=None, segments=None, **ROWS, mask=None, positions=None),
        Case("places given", ids=i32["B", "S"], kinds=None, segments=None, **ROWS, mask=None, positions=i32[1, "S"]),
        Refused("negative epsilon", ids=i32["B", "S"], kinds=None, segments=None, **(ROWS | {"epsilon": -1.0}), mask=None,
                positions=None, because="epsilon is not"),
        Refused("other places", ids=i32["B", "S"], kinds=None, segments=None, **ROWS, mask=None, positions=i32["C", "S"],
                because="places are not known"),
    ]  # fmt: skip


@rule(group="fused", safety=CLOSE("the same sum and norm, rounded elsewhere"), since=17)
class EmbedLayerNormAndEnds:
    """EmbedLayerNormalization whose mask's index is used, too: the number of ones in each row of the mask."""

    def pattern(op, ids: i32["B", "S"], kinds: i32["B", "S"] | None, words: f32["V", "D"], places: f32["P", "D"],
                segments: f32["K", "D"] | None, w: f32["D"], b: f32["D"], mask: i32["B", "S"], positions: i32 | None,
                epsilon):  # fmt: skip
        y, ends = op.domain(MS).EmbedLayerNormalization(
            ids, kinds, words, places, segments, w, b, mask, positions, epsilon=epsilon, outputs=2
        )
        return y, ends

    unless = _why_not_embedded

    def rewrite(op, m):
        ones = op.Cast(op.Equal(m.mask, np.int32(1)), to=I32)
        return _embedded(op, m), op.ReduceSum(ones, np.array([1]), keepdims=0)

    cases = [
        Case("BERT", ids=i32["B", "S"], kinds=i32["B", "S"], segments=f32[7, 8], **ROWS, mask=i32["B", "S"], positions=None),
        Refused("negative epsilon", ids=i32["B", "S"], kinds=None, segments=None, **(ROWS | {"epsilon": -1.0}),
                mask=i32["B", "S"], positions=None, because="epsilon is not"),
    ]  # fmt: skip


