"""Attention whose weights leave something to a sink."""

import numpy as np
from olc.analysis.functions import FALSE, Functions, coordinate
from olc.rules import CLOSE, Attrs, Case, Const, Many, Refused, Scalar, Value, array, boolean, dims, f32, rule, scalar

from .. import _layout as layout
from .. import _shapes as s
from .core import DROPPED, _probabilities, _why_no_mask
from .heads import why_not_joined


def _is_causal(mask, scores):
    """Is it proved that no query sees a key behind its own?"""
    functions = Functions(scores)
    at = tuple(coordinate(i) for i in range(4))
    condition = functions.condition(mask, at)
    behind = functions.clause("ge", at[2] - at[3])
    return condition != FALSE and functions.both((condition, behind)) == condition and not functions.assumed


def _flat(op, x, perm, width):
    """What ``perm`` makes [batch, heads, sequence, size], as [batch, sequence, heads * size]."""
    order = tuple(perm[i] for i in (0, 2, 1, 3))
    return op.Reshape(x if order == (0, 1, 2, 3) else op.Transpose(x, perm=order), s.vector([0, 0, width]))


CAUSAL = np.tril(np.ones((1, 1, 3, 3), bool))
_CASE = {"q": f32[2, 2, 3, 8], "k": f32[2, 3, 2, 8], "v": f32[2, 2, 3, 8], "perm": (0, 2, 3, 1), "turned": None, "a": 0.5,
         "b": 1.0, "c": 1.0, "sink": np.array([-1, 1], np.float32).reshape(1, 2, 1, 1), "sizes": np.array([2, 2, 3, 1]),
         "starts": np.array([0]), "ends": np.array([-1]), "axes": np.array([-1])}  # fmt: skip
LOWEST = np.finfo(np.float32).min


@rule(group="attention", targets=("onnxruntime-cpu",), safety=CLOSE("the same function, scaled and summed in another order"),
      since=15, emits="com.microsoft::GroupQueryAttention")  # fmt: skip
class AttentionWithSinks:
    """Causal attention whose scores get one more column, a number for each head, that is dropped after the softmax has sinks.

    Sound because that is what the operator's ``head_sink`` does: a share of the weights goes to no value. The operator lets no
    query see keys behind it, which the mask is proved to forbid; what else the mask drops is added to the scores. A query with
    no key at all leaves everything to the sink, in both. An empty batch ends the runtime's process: the kernel divides by it.
    """

    def pattern(op, q: f32, k, v, perm, turned, a: Scalar, b: Scalar, c: Scalar, mask: boolean, drop: Scalar, sink: Const,
                sizes: Value, starts: Const, ends: Const, axes: Const):  # fmt: skip
        def joined(scores):
            masked = op.Add(scores, op.shared(op.Where(mask, 0.0, drop)))
            return op.Concat(masked, op.shared(op.Expand(sink, sizes)), axis=3)

        return op.MatMul(op.Slice(_probabilities(op, q, k, perm, turned, a, b, c, joined), starts, ends, axes), v)

    def unless(m):
        if m.k is None:
            return "the keys lie in columns"
        reason = _why_no_mask(m, float(scalar(m.drop)), emptied=True)
        if reason is not None:
            return reason
        if not (array(m.sink) > DROPPED / 2).all():
            return "a sink is as low as what drops a key"  # and takes nothing of a query without one
        sliced, (batch, heads, queries, keys) = m.find("Slice"), m.scores
        if dims(sliced.outputs[0]) != m.scores or s.whole(m.starts) != (0,) or s.whole(m.axes) not in ((3,), (-1,)):
            return "it is not the last column that is dropped"
        if array(m.sink).shape != (1, heads, 1, 1) or dims(m.find("Expand").outputs[0]) != (batch, heads, queries, 1):
            return "the column is not one number for each head"
        if dims(m.v)[1] != heads:
            return "keys and values do not have a head for each of the queries"
        size = dims(m.q)[3]
        if queries != keys or size != dims(m.v)[3]:
            return "queries, keys and values are not known to be as many and as long"
        if not isinstance(size, int) or size % 8:
            return "the size of a head is not a multiple of 8, as the operator has it"
        mask = dims(m.mask)
        if len(mask) != 4 or mask[2:] != (queries, keys):
            return "the mask does not have its own entry for each query"
        return None if _is_causal(m.mask, m.scores) else "the mask is not proved to be causal"

    def rewrite(op, m):
        heads, size = m.scores[1], dims(m.q)[3]
        as_is, keys_as = (0, 1, 2, 3), tuple(m.perm[i] for i in (0, 1, 3, 2))
        q, k, v = (_flat(op, x, perm, heads * size) for x, perm in ((m.q, as_is), (m.k, keys_as), (m.v, as_is)))
        keys = op.Cast(op.Shape(m.mask, start=3, end=4), to=6)
        last = op.Expand(op.Sub(keys, np.array([1], np.int32)), op.Shape(q, start=0, end=1))
        bias = op.Where(m.mask, np.float32(0), array(m.drop).reshape(()))
        y, _, _ = op.domain("com.microsoft").GroupQueryAttention(
            q, k, v, None, None, last, op.Squeeze(keys), None, None, None, bias, array(m.sink).reshape(-1), outputs=3,
            num_heads=heads, kv_num_heads=heads, scale=m.scale,
        )  # fmt: skip
        return layout.split_heads(op, y, heads, size)

    cases = [
        Case("GPT-OSS", **_CASE, mask=CAUSAL, drop=LOWEST),
        Case("a window", **_CASE, mask=CAUSAL & ~np.tril(CAUSAL, -2), drop=LOWEST),
        Refused("small heads", **_CASE | dict.fromkeys("qv", f32[2, 2, 3, 4]) | {"k": f32[2, 3, 2, 4]}, mask=CAUSAL, drop=LOWEST,
                because="multiple of 8"),
        Refused("no sink", **{**_CASE, "sink": np.full((1, 2, 1, 1), -np.inf, np.float32)}, mask=CAUSAL, drop=LOWEST,
                because="as low as"),
        Refused("both ways", **_CASE, mask=np.ones((1, 1, 3, 3), bool), drop=LOWEST, because="not proved to be causal"),
        Refused("a bias", **_CASE, mask=CAUSAL, drop=np.float32(-1e4), because="is a bias"),
        Refused("one mask for all queries", **_CASE, mask=np.array([[[[True, False, False]]]]), drop=LOWEST,
                because="for each query"),
        Refused("the first column goes", **{**_CASE, "starts": np.array([1]), "ends": np.array([9])}, mask=CAUSAL, drop=LOWEST,
                because="not the last column"),
        Refused("one head of keys", **_CASE | {"k": f32[2, 3, 1, 8], "v": f32[2, 1, 3, 8]}, mask=CAUSAL, drop=LOWEST,
                because="a head for each"),
        Refused("more keys than queries", **{**_CASE, "k": f32[2, 5, 2, 8], "v": f32[2, 2, 5, 8]}, drop=LOWEST,
                mask=np.tril(np.ones((1, 1, 3, 5), bool)), because="as many and as long"),
    ]  # fmt: skip


_KV = {"k": f32[2, 3, 2, 8], "v": f32[2, 3, 2, 8], "whole": np.array([0, 0, 32]), "whole2": np.array([0, 0, 32])}
_OTHERS = [None, None, np.array([2, 2], np.int32), np.array(3, np.int32), None, None, None, f32[1, 1, 3, 3], f32[4]]
TWICE, IN_ALL = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])


@rule(group="attention", targets=("onnxruntime-cpu",), safety=CLOSE("the same products, summed in another order"), since=15)
class GroupedHeadsWithSinks:
    """Keys and values whose heads are repeated for those of the queries enter an attention with sinks as they are.

    Sound for the same reason as `grouped-heads`: the operator lets each head of keys stand for as many of the queries.
    """

    def pattern(op, q, k, v, i: Const, j: Const, whole: Const, whole2: Const, others: Many, heads, same, attrs: Attrs):
        keys, values = op.Reshape(op.Gather(k, i, axis=2), whole), op.Reshape(op.Gather(v, j, axis=2), whole2)
        y, _, _ = op.domain("com.microsoft").GroupQueryAttention(
            q, keys, values, *others, num_heads=heads, kv_num_heads=same, outputs=3, **attrs
        )
        return y

    def unless(m):
        return why_not_joined(m) or ("there is a cache" if any(x is not None for x in m.others[:2]) else None)

    def rewrite(op, m):
        k, v = (op.Reshape(x, np.array([0, 0, dims(x)[2] * dims(x)[3]])) for x in (m.k, m.v))
        few = dims(m.k)[2]
        return op.domain("com.microsoft").GroupQueryAttention(
            m.q, k, v, *m.others, num_heads=m.heads, kv_num_heads=few, outputs=3, **m.attrs
        )[0]

    cases = [
        Case("two for one", q=f32[2, 3, 32], **_KV, i=TWICE, j=TWICE, others=_OTHERS, heads=4, same=4, attrs={"scale": 0.5}),
        Refused("repeated as a whole", q=f32[2, 3, 32], **_KV, i=IN_ALL, j=IN_ALL, others=_OTHERS, heads=4, same=4, attrs={},
                because="each in turn"),
    ]  # fmt: skip
