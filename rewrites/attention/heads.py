"""Heads of an Attention: repeated ones are dropped, keys and values in the cache get its ports, and heads that are split
off by Reshape and Transpose are left to the operator."""

import numpy as np
from olc.rules import CLOSE, EXACT, Attrs, Case, Const, Refused, Value, array, attr, boolean, dims, f32, rule

from .. import _layout as layout


def _repeats(indices, heads):
    """Do the indices repeat each of the heads as often as the others, in order?"""
    i = array(indices)
    return heads and i.ndim == 1 and i.size % heads == 0 and np.array_equal(i, np.repeat(np.arange(heads), i.size // heads))


_PORTS = ("onnxruntime-cpu", "onnxruntime-cuda")
"""Targets whose Attention takes a cache."""


@rule(group="attention", safety=CLOSE("the same products, summed in another order"), since=23)
class GroupedHeads:
    """Keys and values whose heads are repeated for the heads of the queries enter Attention as they are.

    Sound because the operator lets query head i see head ``i // (query heads / key heads)``, which is what repeating each
    head in turn gives. Heads that are repeated as a whole (0, 1, 0, 1) are another model and stay.
    """

    def pattern(op, q, k, v, i: Const, j: Const, mask: Value | None, attrs: Attrs):
        return op.Attention(q, op.Gather(k, i, axis=1), op.Gather(v, j, axis=1), mask, **attrs)

    def unless(m):
        q, k, v = dims(m.q), dims(m.k), dims(m.v)
        if q is None or k is None or v is None or not len(q) == len(k) == len(v) == 4:
            return "the operands are not known to have 4 axes"
        if not isinstance(k[1], int) or k[1] != v[1] or array(m.i).shape != (q[1],):
            return "the numbers of heads are not known to agree"
        if not np.array_equal(array(m.i), array(m.j)) or not _repeats(m.i, k[1]):
            return "heads are not repeated each in turn"
        return None

    def rewrite(op, m):
        return op.Attention(m.q, m.k, m.v, m.mask, **m.attrs)

    cases = [
        Case("two for one", q=f32["B", 4, "S", 8], k=f32["B", 2, "T", 8], v=f32["B", 2, "T", 8], mask=None,
             i=np.array([0, 0, 1, 1]), j=np.array([0, 0, 1, 1]), attrs={"scale": 0.5}),
        Case("one for all, masked", q=f32["B", 3, "S", 8], k=f32["B", 1, "T", 8], v=f32["B", 1, "T", 8],
             mask=boolean["S", "T"], i=np.zeros(3, np.int64), j=np.zeros(3, np.int64), attrs={"scale": 0.5}),
        Refused("repeated as a whole", q=f32["B", 4, "S", 8], k=f32["B", 2, "T", 8], v=f32["B", 2, "T", 8], mask=None,
                i=np.array([0, 1, 0, 1]), j=np.array([0, 1, 0, 1]), attrs={}, because="each in turn"),
        Refused("keys and values unlike", q=f32["B", 4, "S", 8], k=f32["B", 2, "T", 8], v=f32["B", 2, "T", 8], mask=None,
                i=np.array([0, 0, 1, 1]), j=np.array([0, 1, 0, 1]), attrs={}, because="each in turn"),
    ]  # fmt: skip


TWICE, IN_ALL = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
_FLAT_KV = {"k": f32["B", "T", 2, 8], "v": f32["B", "T", 2, 8], "whole": np.array([0, 0, 32]), "whole2": np.array([0, 0, 32])}


def why_not_joined(m):
    """Why the keys and values of ``m.root`` are not heads repeated each in turn and joined."""
    k, v = dims(m.k), dims(m.v)
    if k is None or v is None or not len(k) == len(v) == 4 or not all(isinstance(n, int) for n in (*k[2:], *v[2:])):
        return "the operands are not known to have 4 axes, heads and their size among them"
    if k[2] != v[2] or m.heads != m.same or m.heads != array(m.i).size:
        return "the numbers of heads do not agree"
    if not np.array_equal(array(m.i), array(m.j)) or not _repeats(m.i, k[2]):
        return "heads are not repeated each in turn"
    if [dims(x) for x in m.root.inputs[1:3]] != [(*d[:2], m.heads * d[3]) for d in (k, v)]:
        return "the heads are not joined as they were repeated"
    return None


@rule(group="attention", safety=CLOSE("the same products, summed in another order"), since=23)
class GroupedFlatHeads:
    """The same of operands whose heads are joined again once they are repeated (multi-head operators of other tools)."""

    def pattern(op, q, k, v, i: Const, j: Const, whole: Const, whole2: Const, mask: Value | None, heads, same, attrs: Attrs):
        keys, values = op.Reshape(op.Gather(k, i, axis=2), whole), op.Reshape(op.Gather(v, j, axis=2), whole2)
        return op.Attention(q, keys, values, mask, q_num_heads=heads, kv_num_heads=same, **attrs)

    def unless(m):
        return why_not_joined(m)

    def rewrite(op, m):
        k, v = (op.Reshape(x, np.array([0, 0, dims(x)[2] * dims(x)[3]])) for x in (m.k, m.v))
        return op.Attention(m.q, k, v, m.mask, q_num_heads=m.heads, kv_num_heads=dims(m.k)[2], **m.attrs)

    cases = [
        Case("two for one", q=f32["B", "S", 32], **_FLAT_KV, i=TWICE, j=TWICE, mask=None, heads=4, same=4, attrs={"scale": 0.5}),
        Case("masked", q=f32["B", "S", 32], **_FLAT_KV, i=TWICE, j=TWICE, mask=boolean["S", "T"], heads=4, same=4, attrs={}),
        Refused("repeated as a whole", q=f32["B", "S", 32], **_FLAT_KV, i=IN_ALL, j=IN_ALL, mask=None,
                heads=4, same=4, attrs={}, because="each in turn"),
        Refused("five axes", q=f32["B", "S", 32], **(_FLAT_KV | {"k": f32["B", "T", 2, 2, 4]}), i=TWICE, j=TWICE, mask=None,
                heads=4, same=4, attrs={}, because="not known to have 4 axes"),
        Refused("other heads", q=f32["B", "S", 32], **_FLAT_KV, i=TWICE, j=TWICE, mask=None, heads=8, same=8, attrs={},
                because="numbers of heads do not agree"),
        Refused("joined otherwise", q=f32[1, 4, 32], k=f32[1, 4, 2, 8], v=f32[1, 4, 2, 8], whole=np.array([4, 1, 32]),
                whole2=np.array([4, 1, 32]), i=TWICE, j=TWICE, mask=None, heads=4, same=4, attrs={}, because="are not joined as"),
    ]  # fmt: skip


@rule(group="attention", targets=_PORTS, safety=EXACT, since=23)
class CachePorts:
    """Keys and values joined to those of earlier tokens are left to Attention's own ports for them.

    Sound because the operator joins past and current along the same axis, in the same order, and gives the result out.
    """

    def pattern(op, q, k, v, past_k, past_v, mask: Value | None, attrs: Attrs):
        keys, values = op.Concat(past_k, k, axis=2), op.Concat(past_v, v, axis=2)
        return op.Attention(q, keys, values, mask, **attrs), keys, values

    def unless(m):
        past_k, past_v, k, v = (dims(x) for x in (m.past_k, m.past_v, m.k, m.v))
        if None in (past_k, past_v, k, v) or len(past_k) != 4:
            return "the operands are not known to have 4 axes"
        if past_k[2] != past_v[2] or k[2] != v[2]:
            return "keys and values are not known to be as many"
        if past_k[:2] != k[:2] or past_v[:2] != v[:2]:
            return "batch and heads of the cache are not known to be those of the keys"
        return "causal attention counts the tokens of the cache" if attr(m.root, "is_causal", 0) else None

    def rewrite(op, m):
        return op.Attention(m.q, m.k, m.v, m.mask, m.past_k, m.past_v, outputs=3, **m.attrs)

    cases = [
        Case("decoder", q=f32["B", 4, "S", 8], k=f32["B", 2, "S", 8], v=f32["B", 2, "S", 8], past_k=f32["B", 2, "P", 8],
             past_v=f32["B", 2, "P", 8], mask=None, attrs={"scale": 0.25}),
        Refused("causal", q=f32["B", 2, "S", 8], k=f32["B", 2, "S", 8], v=f32["B", 2, "S", 8], past_k=f32["B", 2, "P", 8],
                past_v=f32["B", 2, "P", 8], mask=None, attrs={"is_causal": 1}, because="counts the tokens"),
        Refused("unlike", q=f32["B", 2, "S", 8], k=f32["B", 2, "S", 8], v=f32["B", 2, "S", 8], past_k=f32["B", 2, "P", 8],
                past_v=f32["B", 2, "Q", 8], mask=None, attrs={}, because="not known to be as many"),
        Refused("another batch", q=f32[2, 2, "S", 8], k=f32[2, 2, "S", 8], v=f32[2, 2, "S", 8], past_k=f32[2, 2, "P", 8],
                past_v=f32["C", 2, "P", 8], mask=None, attrs={}, because="batch and heads of the cache"),
    ]  # fmt: skip


def _operands(m):
    """Queries, keys and values as the operator gets them."""
    return m.find("Attention").inputs[:3]


def _not_split(m):
    """Why the operands are not heads of 3-D tensors; else sets ``m.counts`` for queries, and for keys and values."""
    if not all(layout.is_split(x) for x in _operands(m)):
        return "the operands are not known to be heads that were split off"
    heads = [dims(x)[1] for x in _operands(m)]
    if heads[1] != heads[2] or heads[0] % heads[1]:
        return "keys and values have other heads"
    m.counts = {"q_num_heads": heads[0], "kv_num_heads": heads[1]}
    return None


def _flat(op, m, *others, outputs):
    operands = (layout.join_heads(op, x) for x in _operands(m))
    attrs = {k: v for k, v in m.attrs.items() if k not in m.counts}
    return op.Attention(*operands, m.mask, *others, outputs=outputs, **attrs, **m.counts)


def _split(op, m, y):
    q, _, v = _operands(m)
    return layout.split_heads(op, y, dims(q)[1], dims(v)[3])


TORN = {f"s{i}": np.array([0, 12, 1, 4]) for i in (1, 2, 3)} | dict.fromkeys(("q4", "k4", "v4"), f32["B", 1, 12, 4])
SHAPES = {"s1": np.array([0, 0, 4, 4]), "s2": np.array([0, 0, 2, 4]), "s3": np.array([0, 0, 2, 4]),
          "q4": f32["B", 4, "S", 4], "k4": f32["B", 2, "T", 4], "v4": f32["B", 2, "T", 4]}  # fmt: skip
"""How heads are split in the cases; the last three are heads that come from elsewhere."""


@rule(group="attention", safety=EXACT, since=23)
class FlatHeads:
    """Attention whose heads were split from [batch, sequence, width] takes these as they are; its result is split after.

    Sound because with three axes the operator splits and joins heads itself, given their numbers. Where the heads were
    joined again, that and the split cancel each other.
    """

    def pattern(op, q, k, v, s1: Const, s2: Const, s3: Const, q4, k4, v4, mask: Value | None, attrs: Attrs):
        heads = (layout.heads_of(op, q, s1, q4), layout.heads_of(op, k, s2, k4), layout.heads_of(op, v, s3, v4))
        return op.Attention(*heads, mask, **attrs)

    unless = _not_split

    def rewrite(op, m):
        return _split(op, m, _flat(op, m, outputs=1))

    cases = [
        Case("encoder", q=f32["B", "S", 16], k=f32["B", "T", 8], v=f32["B", "T", 8], mask=None, attrs={"scale": 0.5}, **SHAPES),
        Case("masked", q=f32["B", "S", 16], k=f32["B", "T", 8], v=f32["B", "T", 8], mask=boolean["S", "T"], attrs={}, **SHAPES),
        Case("counts that are there already", q=f32["B", "S", 16], k=f32["B", "T", 8], v=f32["B", "T", 8], mask=None,
             attrs={"q_num_heads": 4, "kv_num_heads": 2}, **SHAPES),
        Refused("rows of another length", q=f32["B", 6, 8], k=f32["B", 6, 8], v=f32["B", 6, 8], mask=None, attrs={},
                **TORN, because="split off"),
        Refused("odd heads", q=f32["B", "S", 12], k=f32["B", "T", 8], v=f32["B", "T", 8], mask=None, attrs={},
                **{**SHAPES, "s1": np.array([0, 0, 3, 4]), "q4": f32["B", 3, "S", 4]}, because="other heads"),
    ]  # fmt: skip


@rule(group="attention", targets=_PORTS, safety=EXACT, since=23)
class FlatHeadsWithCache:
    """The same of an Attention with a cache, which keeps its four axes.

    Sound for the same reason; past and present have an axis of heads in either form.
    """

    def pattern(op, q, k, v, s1: Const, s2: Const, s3: Const, q4, k4, v4, mask: Value | None, past_k, past_v, attrs: Attrs):
        heads = (layout.heads_of(op, q, s1, q4), layout.heads_of(op, k, s2, k4), layout.heads_of(op, v, s3, v4))
        return op.Attention(*heads, mask, past_k, past_v, outputs=3, **attrs)

    unless = _not_split

    def rewrite(op, m):
        y, keys, values = _flat(op, m, m.past_k, m.past_v, outputs=3)
        return _split(op, m, y), keys, values

    cases = [
        Case("decoder", q=f32["B", "S", 16], k=f32["B", "S", 8], v=f32["B", "S", 8], mask=None, attrs={"scale": 0.5},
             past_k=f32["B", 2, "P", 4], past_v=f32["B", 2, "P", 4], **SHAPES),
        Refused("rows of another length", q=f32["B", 6, 8], k=f32["B", 6, 8], v=f32["B", 6, 8], mask=None, attrs={},
                **TORN,
                past_k=f32["B", 1, "P", 4], past_v=f32["B", 1, "P", 4], because="split off"),
    ]  # fmt: skip
