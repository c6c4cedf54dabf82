"""Attention from its parts."""

import numpy as np
from olc.analysis import dims as dim
from olc.analysis.functions import holds, keeps_a_key
from olc.assumptions import FINITE, KEEPS_A_KEY
from olc.passes.masks import DROPPED, SURE
from olc.rules import CLOSE, Case, Refused, Scalar, Value, array, boolean, dims, f32, is_constant, rule, scalar

from .. import _shapes as s
from ._scale import snapped


def _probabilities(op, q, k, perm, turned, a, b, c, masked):
    """Softmax of the scaled scores, masked in some way; ``turned``: keys that lie in columns from the start."""
    k_t = op.either(op.shared(op.Transpose(k, perm=perm)), turned)
    # Scaled queries and keys may go to other attentions, too: layers that share their keys.
    scores = op.MatMul(op.either(op.shared(op.Mul(q, a)), q), op.either(op.shared(op.Mul(k_t, b)), k_t))
    return op.Softmax(masked(op.either(op.Mul(scores, c), op.Div(scores, c), scores)), axis=-1)


NARROW = "one entry for all keys would be taken for a mask that is too short"


def _unlike(m):
    """Why these are not the operands of an Attention; else sets ``m.scale``."""
    m.k, m.perm = (m.turned, (0, 1, 2, 3)) if m.k is None else (m.k, s.permutation(m.perm, 4))
    q, k, v = dims(m.q), dims(m.k), dims(m.v)
    if q is None or k is None or v is None or not len(q) == len(k) == len(v) == 4:
        return "the operands are not known to have 4 axes"
    k_t = tuple(k[i] for i in m.perm)
    # One head of keys and values for all queries is stretched by a product, and by the operator.
    if k_t[:2] != v[:2] or k_t[0] != q[0] or k_t[1] not in (1, q[1]):
        return "batch and heads are not known to agree"
    if q[3] != k_t[2] or k_t[3] != v[2]:
        return "the sizes of heads, or the numbers of keys and values, are not known to agree"
    if m.k is m.turned and q[2] != v[2] and not (isinstance(q[2], int) and isinstance(v[2], int) and q[2] > v[2]):
        return "keys that lie in columns would be turned for what may be fewer queries"
    scale = float(np.prod([float(scalar(x)) for x in (m.a, m.b) if x is not None]))
    if m.c is not None:
        number = float(scalar(m.c))
        scale = scale * number if m.find("Div") is None else scale / number if number else np.nan
    if not 0 < scale < np.inf:
        return "the scale is not a positive number"
    m.scale = snapped(scale, q[3])
    m.scores = (*q[:3], k_t[3])
    return None


def _misfit(m, mask):
    """Why a mask or bias is not one of these scores."""
    d, whole = dims(mask), m.scores
    if d is None or not 2 <= len(d) <= 4:
        return "the mask is not known to have 2 to 4 axes"
    d, _ = dim.met(d, whole)
    if any(n not in (1, w) for n, w in zip(d, whole[4 - len(d) :], strict=True)):
        return "the mask is not known to fit the scores"
    if d[-1] != whole[-1]:
        return NARROW
    return None


def _guarded(op, p):
    """Probabilities, with or without the guard that makes rows of NaN 0."""
    return op.either(p, op.Where(op.IsNaN(p), 0.0, p))


def _why_no_mask(m, drop, emptied=False):
    """Why a condition is no mask of the scores, that lets a key through or adds ``drop``; else sets what is assumed.
    ``emptied``: the weights of a query with no key are 0. Sets ``m.open``: no mask is needed for what always holds."""
    reason = _unlike(m) or _misfit(m, m.mask)
    m.open = reason == NARROW and not m.inverted and holds(m.mask, m.scores)
    if reason is not None and not m.open:
        return reason
    if not drop <= DROPPED:
        return "the number added is a bias, not a mask"
    guarded = m.find("IsNaN") is not None
    if m.open:
        m.assumes |= {FINITE} if guarded else set()
        return None
    if guarded or drop > SURE:
        m.assumes.add(FINITE)
    if not emptied and not (guarded and drop == -np.inf) and (m.inverted or not keeps_a_key(m.mask, m.scores)):
        m.assumes.add(KEEPS_A_KEY)
    return None


def _why_not_filled(m):
    """The same of a condition where whose opposite ``m.drop`` takes the place of the scores; sets ``m.inverted``."""
    m.assumes.add(FINITE)
    wheres = [n for n in m.nodes if n.op_type == "Where" and n.inputs[0] is m.mask]
    fill = next(n for n in wheres if m.drop in n.inputs)
    m.inverted = fill.inputs[1] is m.drop
    emptied = next((n for n in wheres if n is not fill), None)
    if emptied is not None and (emptied.inputs[2].producer() is m.find("Softmax")) != m.inverted:
        return "the weights are kept where the scores are not"
    return _why_no_mask(m, float(scalar(m.drop)), emptied is not None)


def _emptied(op, mask, p):
    """Probabilities, guarded against NaN or made 0 where the mask of the scores drops them, as Keras does."""
    return op.either(_guarded(op, p), op.Where(mask, p, 0.0), op.Where(mask, 0.0, p))


def _filled(op, mask, scores, drop):
    """Scores where a condition holds and a number elsewhere, or the other way round."""
    return op.either(op.Where(mask, scores, drop), op.Where(mask, drop, scores))


def _by_condition(op, m):
    return _attention(op, m, None if m.open else op.Not(m.mask) if m.inverted else m.mask)


def _attention(op, m, mask=None):
    perm = [m.perm[i] for i in (0, 1, 3, 2)]
    k = m.k if perm == [0, 1, 2, 3] else op.Transpose(m.k, perm=perm)
    return op.Attention(m.q, k, m.v, mask, scale=m.scale)


KEEP = np.tril(np.ones((3, 3), bool))
TRANSPOSED = (0, 1, 3, 2)
QKV = {"q": f32["B", 2, "S", 4], "k": f32["B", 2, "T", 4], "v": f32["B", 2, "T", 4], "perm": TRANSPOSED,
       "turned": None}  # fmt: skip
SQUARE = {"q": f32["B", 2, 3, 4], "k": f32["B", 2, 3, 4], "v": f32["B", 2, 3, 4], "perm": TRANSPOSED,
          "turned": f32["B", 2, 4, 3]}  # fmt: skip
ZERO, LOW, LEAST = np.float32(0), np.float32(-np.inf), np.finfo(np.float32).min
SCALES = {"a": 0.5, "b": 0.5, "c": 2.0}


@rule(group="attention", safety=CLOSE("the same function, scaled and summed in another order"), since=23, emits="Attention")
class AttentionPlain:
    """Softmax of scaled products of queries and keys, times values, is Attention.

    Sound because that is its definition. The keys enter as they were before the transposition; where there was none, as they
    are where channels lie in front of positions (CoAtNet, SqueezeBERT), they get one. That pays for no fewer queries than
    keys only: it takes longer than the products of a single query. A guard against NaN has nothing to guard against where the
    scores are finite, which is assumed.
    """

    def pattern(op, q: f32, k, v, perm, turned, a: Scalar, b: Scalar, c: Scalar):
        return op.MatMul(_guarded(op, _probabilities(op, q, k, perm, turned, a, b, c, lambda scores: scores)), v)

    def unless(m):
        if m.find("IsNaN") is not None:
            m.assumes.add(FINITE)
        return _unlike(m)

    def rewrite(op, m):
        return _attention(op, m)

    cases = [
        Case("scaled", **QKV, a=0.5, b=1.0, c=1.0),
        Case("heads last", q=f32["B", 2, "S", 4], k=f32["B", "T", 2, 4], v=f32["B", 2, "T", 4], perm=(0, 2, 3, 1),
             turned=None, a=0.3, b=0.25, c=5.0),
        Case("one head of keys for all", q=f32["B", 2, "S", 4], k=f32["B", 1, "T", 4], v=f32["B", 1, "T", 4], perm=TRANSPOSED,
             turned=None, a=0.5, b=1.0, c=1.0),
        Case("a negative scale stays with the queries", **QKV, a=-0.5, b=1.0, c=1.0),
        Case("keys in columns", **SQUARE, a=0.5, b=1.0, c=1.0),
        Refused("one batch for all", q=f32[2, 2, "S", 4], k=f32[1, 2, "T", 4], v=f32[1, 2, "T", 4], perm=TRANSPOSED,
                turned=None, a=0.5, b=1.0, c=1.0, because="batch and heads"),
        Refused("three axes", q=f32[2, "S", 4], k=f32[2, "T", 4], v=f32[2, "T", 4], perm=(0, 2, 1),
                turned=None, a=0.5, b=1.0, c=1.0, because="4 axes"),
    ]  # fmt: skip


@rule(group="attention", safety=CLOSE("the same function, scaled and summed in another order"), since=23, emits="Attention")
class AttentionMasked:
    """Attention whose scores get 0 where a condition holds and a number below all others where not has a boolean mask.

    Sound because a key so masked gets the weight 0, as in the operator. A query with no key at all gets 0 from the
    operator. That is what the guard against NaN gives too where -inf is added; without the guard, or with a finite number,
    it would be NaN or a mean over all keys: then it is proved that each query keeps a key, or assumed and said so. That
    the guard would turn a NaN from elsewhere into 0 is assumed not to matter. A condition with one entry for all keys is left out
    where it is proved that it always holds.
    """

    def pattern(op, q: f32, k, v, perm, turned, a: Scalar, b: Scalar, c: Scalar, mask: boolean, keep: Scalar, drop: Scalar):
        def masked(scores):
            return op.Add(scores, op.shared(op.Where(mask, keep, drop)))

        return op.MatMul(_guarded(op, _probabilities(op, q, k, perm, turned, a, b, c, masked)), v)

    def unless(m):
        keep, drop = float(scalar(m.keep)), float(scalar(m.drop))
        m.inverted = drop == 0
        if m.inverted:
            keep, drop = drop, keep
        if keep != 0:
            return "what is added where the condition holds is not 0"
        return _why_no_mask(m, drop)

    rewrite = _by_condition

    cases = [
        Case("padding", **QKV, **SCALES, mask=boolean["B", 1, 1, "T"], keep=ZERO, drop=LOW),
        Case("causal", **SQUARE, **SCALES, mask=KEEP, keep=ZERO, drop=LEAST),
        Case("the other way round", **SQUARE, **SCALES, mask=~KEEP, keep=LOW, drop=ZERO),
        Case("always holds", **SQUARE, **SCALES, mask=np.ones((3, 1), bool), keep=ZERO, drop=LOW),
        Refused("a bias", **SQUARE, **SCALES, mask=KEEP, keep=ZERO, drop=np.float32(-1e4), because="is a bias"),
        Refused("some queries see none", **SQUARE, **SCALES, mask=KEEP[:, 2:], keep=ZERO, drop=LOW, because="too short"),
        Refused("one entry for all keys", **QKV, **SCALES, mask=boolean["S", 1], keep=ZERO, drop=LOW, because="too short"),
        Refused("not neutral", **SQUARE, **SCALES, mask=KEEP, keep=np.float32(1), drop=LOW, because="is not 0"),
        Refused("wider than the scores", q=f32[1, 2, "S", 4], k=f32[1, 2, "T", 4], v=f32[1, 2, "T", 4], perm=TRANSPOSED,
                turned=None,
                **SCALES, mask=boolean[2, 1, "S", "T"], keep=ZERO, drop=LOW, because="fit the scores"),
    ]  # fmt: skip


@rule(group="attention", safety=CLOSE("the same function, scaled and summed in another order"), since=23, emits="Attention")
class AttentionFilled:
    """Attention whose scores are replaced by a number below all others where a condition does not hold has a boolean mask.

    Sound for the same reasons; that an infinite or NaN score would be replaced too is assumed not to matter. Where the weights
    are made 0 by the same condition, so are those of a query with no key, as in the operator.
    """

    def pattern(op, q: f32, k, v, perm, turned, a: Scalar, b: Scalar, c: Scalar, mask: boolean, drop: Scalar):
        p = _probabilities(op, q, k, perm, turned, a, b, c, lambda scores: _filled(op, mask, scores, drop))
        return op.MatMul(_emptied(op, mask, p), v)

    unless = _why_not_filled

    rewrite = _by_condition

    cases = [
        Case("causal", **SQUARE, **SCALES, mask=np.eye(3, dtype=bool), drop=LEAST),
        Refused("another number", **SQUARE, **SCALES, mask=KEEP, drop=np.float32(-1e4), because="is a bias"),
    ]  # fmt: skip


@rule(group="attention", safety=CLOSE("the same function, scaled and summed in another order"), since=23, emits="Attention")
class AttentionBiasedFilled:
    """Attention whose scores get something added and are then replaced where a condition does not hold has a mask of floats.

    Sound because the mask is what is added where the condition holds, and -inf elsewhere: such a key gets the weight 0. What
    is assumed of masks that are added is assumed here too.
    """

    def pattern(op, q: f32, k, v, perm, turned, a: Scalar, b: Scalar, c: Scalar, bias: Value, mask: boolean, drop: Scalar):
        p = _probabilities(op, q, k, perm, turned, a, b, c, lambda scores: _filled(op, mask, op.Add(scores, bias), drop))
        return op.MatMul(_emptied(op, mask, p), v)

    def unless(m):
        return _why_not_filled(m) or _misfit(m, m.bias)

    def rewrite(op, m):
        low = op.constant(-np.inf, m.q.dtype)
        return _attention(op, m, op.Where(m.mask, low, m.bias) if m.inverted else op.Where(m.mask, m.bias, low))

    cases = [
        Case("DeBERTa", **SQUARE, **SCALES, bias=f32[1, 2, 3, 3], mask=np.eye(3, dtype=bool), drop=LEAST),
        Refused("another number", **SQUARE, **SCALES, bias=f32[3, 3], mask=KEEP, drop=np.float32(-1e4), because="is a bias"),
    ]  # fmt: skip


@rule(group="attention", safety=CLOSE("the same function, scaled and summed in another order"), since=23, emits="Attention")
class AttentionBiased:
    """Attention whose scores get something added has that as its mask.

    Sound because the operator adds a mask of floats to the scaled scores. Where that leaves a query no finite score, runtimes
    disagree: unless the bias is a constant of moderate numbers it is assumed that this does not happen.
    """

    def pattern(op, q: f32, k, v, perm, turned, a: Scalar, b: Scalar, c: Scalar, bias: Value):
        return op.MatMul(_guarded(op, _probabilities(op, q, k, perm, turned, a, b, c, lambda scores: op.Add(scores, bias))), v)

    def unless(m):
        reason = _unlike(m) or _misfit(m, m.bias)
        if reason is not None:
            return reason
        producer = m.bias.producer()
        if producer is not None and producer.op_type == "Where" and all(is_constant(x) for x in producer.inputs[1:]):
            return "the bias is a mask"
        if m.find("IsNaN") is not None:
            m.assumes.add(FINITE)
        if not is_constant(m.bias) or not (array(m.bias).astype(np.float64) > -1e4).all():
            m.assumes.add(KEEPS_A_KEY)
        return None

    def rewrite(op, m):
        return _attention(op, m, m.bias)

    cases = [
        Case("relative positions", **QKV, **SCALES, bias=f32[1, 2, "S", "T"]),
        Refused("one entry for all keys", **QKV, **SCALES, bias=f32["S", 1], because="too short"),
        Case("of a table", **SQUARE, **SCALES, bias=np.linspace(-1, 1, 18).reshape(2, 3, 3).astype(np.float32)),
        Refused("wider than the scores", q=f32[1, 2, "S", 4], k=f32[1, 2, "T", 4], v=f32[1, 2, "T", 4], perm=TRANSPOSED,
                turned=None,
                **SCALES, bias=f32[2, 1, "S", "T"], because="fit the scores"),
    ]  # fmt: skip
