"""Weights of attention that are masked after their softmax, and made to sum to 1 again."""

import numpy as np
from olc.analysis import dims as dim
from olc.assumptions import FINITE
from olc.rules import CLOSE, F32, Attrs, Case, Const, Refused, array, attr, boolean, dims, f32, rule

KEYS = np.array([-1])


@rule(group="attention", safety=CLOSE("weights that underflow beside one that is masked are not lost"), since=13)
class MaskedWeights:
    """Weights of which some are masked, divided by the sum of those that are left, are a softmax of masked scores.

    Sound because ``exp(s_i) / sum(exp(s))`` of the keys that are left, divided by their own sum, is the softmax over these. A
    row that keeps none becomes 0 in both. That an infinite or NaN score would reach the others is assumed not to matter.
    JAX exports ``dot_product_attention`` so.
    """

    def pattern(op, scores: f32, keep: boolean, axes: Const, attrs: Attrs):
        left = op.Mul(op.Softmax(scores, **attrs), op.shared(op.Cast(keep, to=F32)))
        total = op.ReduceSum(left, axes)
        some = op.Greater(total, 0.0)
        return op.Where(some, op.Div(left, op.Where(some, total, 1.0)), 0.0)

    def unless(m):
        whole, keep = dims(m.scores), dims(m.keep)
        if whole is None or keep is None or not whole or len(keep) > len(whole):
            return "the mask is not known to fit the scores"
        if any(n not in (1, w) for n, w in zip(dim.met(keep, whole)[0], whole[len(whole) - len(keep) :], strict=True)):
            return "the mask is not known to fit the scores"
        last = len(whole) - 1
        m.axis = attr(m.find("Softmax"), "axis", -1)
        if {int(a) % len(whole) for a in array(m.axes).reshape(-1)} != {last} or m.axis % len(whole) != last:
            return "weights and sum are not of the last axis"
        m.assumes.add(FINITE)
        return None

    def rewrite(op, m):
        p = op.Softmax(op.Where(m.keep, m.scores, op.constant(-np.inf, m.scores.dtype)), **m.attrs)
        return op.Where(op.IsNaN(p), op.constant(0.0, m.scores.dtype), p)

    cases = [
        Case("causal", scores=f32["B", 2, 3, 3], keep=np.tril(np.ones((1, 1, 3, 3), bool)), axes=KEYS, attrs={"axis": 3}),
        Case("padding", scores=f32["B", 2, "S", "T"], keep=boolean["B", 1, 1, "T"], axes=KEYS, attrs={"axis": -1}),
        Refused("another axis", scores=f32["B", 2, 3, 3], keep=boolean[3, 3], axes=KEYS, attrs={"axis": 2},
                because="of the last axis"),
        Refused("wider", scores=f32[1, 2, 3, 3], keep=boolean[2, 1, 3, 3], axes=KEYS, attrs={"axis": 3},
                because="fit the scores"),
    ]  # fmt: skip
