"""Norms of a sum, and the norms that ONNX Runtime had before the standard did."""

import numpy as np
from olc.rules import BF16, CLOSE, F16, Case, Refused, Spec, Value, dims, f16, f32, rule

from .._helpers import narrow_floats
from ._common import MS, epsilon, is_product, is_vector, wide

SUMMED = CLOSE("the same sum and norm, rounded elsewhere")
half = Spec((F16, BF16))
_SUM = {"x": f32["B", "S", 8], "skip": f32["B", "S", 8], "w": f32[8]}


def _summed(op, x, skip, bias):
    """``x + skip + bias``, the bias first added to what it is the bias of."""
    if bias is None:
        return op.Add(x, skip)
    if is_product(skip) and not is_product(x):
        return op.Add(x, op.Add(skip, bias))
    return op.Add(op.Add(x, bias), skip)


def _why_not(m):
    """The operator takes the norm over the last axis of what has the shape of its first input."""
    x, skip = dims(m.x), dims(m.skip)
    if x is None or skip is None or len(x) not in (2, 3) or len(skip) > len(x):
        return "the operands are not known to have 2 or 3 axes"
    if any(n not in (1, d) for n, d in zip(skip[::-1], x[::-1], strict=False)) or skip[-1:] != x[-1:]:
        return "what is added is not known to have the shape of the first operand, or one that broadcasts to it"
    if not all(v is None or is_vector(v) for v in (m.w, vars(m).get("b"), m.bias)):
        return "scale and bias are not known to be vectors"
    m.eps = epsilon(m)
    return "epsilon is not a finite number of at least 0" if m.eps is None else None


def _layer_norm(op, m, total, cast=lambda op, value: value):
    return op.LayerNormalization(total, cast(op, m.w), None if m.b is None else cast(op, m.b), axis=-1, epsilon=m.eps)


def _rms_norm(op, m, total, cast=lambda op, value: value):
    return op.RMSNormalization(total, cast(op, m.w), axis=-1, epsilon=m.eps)


def _in_float32(op, m, norm):
    """As the kernel for half precision computes: the sum in float32, each result rounded once."""
    total = _summed(op, *(None if v is None else wide(op, v) for v in (m.x, m.skip, m.bias)))
    y = norm(op, m, total, wide)
    return op.Cast(y, to=m.x.dtype), op.Cast(total, to=m.x.dtype)


@rule(group="fused", safety=SUMMED, since=17)
class SkipLayerNorm:
    """SkipLayerNormalization is LayerNormalization of a sum.

    Sound by its definition: what it gives beside, mean and deviation, is used by nobody.
    """

    def pattern(op, x: f32, skip: f32, w, b: Value | None, bias: Value | None, epsilon):
        return op.domain(MS).SkipLayerNormalization(x, skip, w, b, bias, epsilon=epsilon)

    unless = _why_not

    def rewrite(op, m):
        return _layer_norm(op, m, _summed(op, m.x, m.skip, m.bias))

    cases = [
        Case("BERT", **_SUM, b=f32[8], bias=f32[8], epsilon=1e-12),
        Case("no bias, nothing shifted", **_SUM, b=None, bias=None, epsilon=1e-5),
        Case("two axes", x=f32["N", 8], skip=f32["N", 8], w=f32[8], b=f32[8], bias=None, epsilon=1e-5),
        Case("one row of positions", x=f32["B", "S", 8], skip=f32[1, "S", 8], w=f32[8], b=f32[8], bias=None, epsilon=None),
        Case("positions alone", x=f32["B", "S", 8], skip=f32["S", 8], w=f32[8], b=f32[8], bias=f32[8], epsilon=1e-5),
        Refused("stretched", x=f32[1, 3, 8], skip=f32[2, 3, 8], w=f32[8], b=f32[8], bias=None, epsilon=1e-5,
                because="the shape of the first operand"),
        Refused("negative epsilon", **_SUM, b=f32[8], bias=None, epsilon=-1.0, because="epsilon is not"),
    ]  # fmt: skip


@rule(group="fused", safety=SUMMED, since=17)
class SkipLayerNormAndSum:
    """SkipLayerNormalization whose sum is used, too, is that sum and its LayerNormalization."""

    def pattern(op, x: f32, skip: f32, w, b: Value | None, bias: Value | None, epsilon):
        y, _, _, total = op.domain(MS).SkipLayerNormalization(x, skip, w, b, bias, epsilon=epsilon, outputs=4)
        return y, total

    unless = _why_not

    def rewrite(op, m):
        total = _summed(op, m.x, m.skip, m.bias)
        return _layer_norm(op, m, total), total

    cases = [
        Case("GPT-2", **_SUM, b=f32[8], bias=f32[8], epsilon=1e-5),
        Case("no bias", **_SUM, b=None, bias=None, epsilon=None),
        Refused("stretched", x=f32[1, 3, 8], skip=f32[2, 3, 8], w=f32[8], b=f32[8], bias=None, epsilon=1e-5,
                because="the shape of the first operand"),
    ]  # fmt: skip


@rule(group="fused", safety=SUMMED, since=23)
class SkipRmsNorm:
    """SkipSimplifiedLayerNormalization is RMSNormalization of a sum.

    Sound by its definition: what it gives beside, the deviation, is used by nobody.
    """

    def pattern(op, x: f32, skip: f32, w, bias: Value | None, epsilon):
        return op.domain(MS).SkipSimplifiedLayerNormalization(x, skip, w, bias, epsilon=epsilon)

    unless = _why_not

    def rewrite(op, m):
        return _rms_norm(op, m, _summed(op, m.x, m.skip, m.bias))

    cases = [
        Case("Llama", **_SUM, bias=None, epsilon=1e-5),
        Case("with a bias", **_SUM, bias=f32[8], epsilon=None),
        Case("two axes", x=f32["N", 8], skip=f32["N", 8], w=f32[8], bias=None, epsilon=1e-6),
        Refused("stretched", x=f32[1, 3, 8], skip=f32[2, 3, 8], w=f32[8], bias=None, epsilon=1e-5,
                because="the shape of the first operand"),
    ]  # fmt: skip


@rule(group="fused", safety=SUMMED, since=23)
class SkipRmsNormAndSum:
    """SkipSimplifiedLayerNormalization whose sum is used, too, is that sum and its RMSNormalization."""

    def pattern(op, x: f32, skip: f32, w, bias: Value | None, epsilon):
        y, _, _, total = op.domain(MS).SkipSimplifiedLayerNormalization(x, skip, w, bias, epsilon=epsilon, outputs=4)
        return y, total

    unless = _why_not

    def rewrite(op, m):
        total = _summed(op, m.x, m.skip, m.bias)
        return _rms_norm(op, m, total), total

    cases = [
        Case("Llama", **_SUM, bias=None, epsilon=1e-5),
        Case("with a bias", **_SUM, bias=f32[8], epsilon=None),
        Refused("negative epsilon", **_SUM, bias=None, epsilon=-1.0, because="epsilon is not"),
    ]  # fmt: skip


_HALF = {"x": f16["B", "S", 8], "skip": f16["B", "S", 8], "w": f16[8]}
IN_HALF = ("onnxruntime-cpu", "tensorrt")
"""Targets on which a sum and a norm in float32 cost no more than in half precision, or on which the fused operator is none."""


@rule(group="fused", safety=SUMMED, since=17, targets=IN_HALF)
class SkipLayerNormInHalf:
    """SkipLayerNormalization in half precision is LayerNormalization of a sum, both in float32.

    Sound because that is how the kernel computes it: a sum in half precision might overflow.
    """

    def pattern(op, x: half, skip: half, w: half, b: half | None, bias: half | None, epsilon):
        return op.domain(MS).SkipLayerNormalization(x, skip, w, b, bias, epsilon=epsilon)

    unless = _why_not

    def rewrite(op, m):
        return _in_float32(op, m, _layer_norm)[0]

    cases = [
        Case("BERT", **_HALF, b=f16[8], bias=f16[8], epsilon=1e-12),
        Case("nothing shifted", **_HALF, b=None, bias=None, epsilon=1e-5),
        Refused("negative epsilon", **_HALF, b=None, bias=None, epsilon=-1.0, because="epsilon is not"),
    ]


@rule(group="fused", safety=SUMMED, since=17, targets=IN_HALF)
class SkipLayerNormAndSumInHalf:
    """The same where the sum is used, too."""

    def pattern(op, x: half, skip: half, w: half, b: half | None, bias: half | None, epsilon):
        y, _, _, total = op.domain(MS).SkipLayerNormalization(x, skip, w, b, bias, epsilon=epsilon, outputs=4)
        return y, total

    unless = _why_not

    def rewrite(op, m):
        return _in_float32(op, m, _layer_norm)

    cases = [
        Case("GPT-2", **_HALF, b=f16[8], bias=f16[8], epsilon=1e-12),
        Refused("negative epsilon", **_HALF, b=None, bias=None, epsilon=-1.0, because="epsilon is not"),
    ]


@rule(group="fused", safety=SUMMED, since=23, targets=IN_HALF)
class SkipRmsNormInHalf:
    """SkipSimplifiedLayerNormalization in half precision is RMSNormalization of a sum, both in float32.

    Sound because that is how the kernel computes it: a sum in half precision might overflow.
    """

    def pattern(op, x: half, skip: half, w: half, bias: half | None, epsilon):
        return op.domain(MS).SkipSimplifiedLayerNormalization(x, skip, w, bias, epsilon=epsilon)

    unless = _why_not

    def rewrite(op, m):
        return _in_float32(op, m, _rms_norm)[0]

    cases = [
        Case("Llama", **_HALF, bias=None, epsilon=1e-5),
        Refused("negative epsilon", **_HALF, bias=None, epsilon=-1.0, because="epsilon is not"),
    ]


@rule(group="fused", safety=SUMMED, since=23, targets=IN_HALF)
class SkipRmsNormAndSumInHalf:
    """The same where the sum is used, too."""

    def pattern(op, x: half, skip: half, w: half, bias: half | None, epsilon):
        y, _, _, total = op.domain(MS).SkipSimplifiedLayerNormalization(x, skip, w, bias, epsilon=epsilon, outputs=4)
        return y, total

    unless = _why_not

    def rewrite(op, m):
        return _in_float32(op, m, _rms_norm)

    cases = [
        Case("Llama", **_HALF, bias=f16[8], epsilon=1e-5),
        Refused("negative epsilon", **_HALF, bias=None, epsilon=-1.0, because="epsilon is not"),
    ]


@rule(group="fused", safety=CLOSE("the same norm, rounded elsewhere"), since=23)
class StandardRmsNorm:
    """SimplifiedLayerNormalization, which ONNX Runtime keeps in the standard's domain, is RMSNormalization.

    Sound because it is the same function with the same attributes; the deviation that it may give beside is used by nobody.
    """

    def pattern(op, x: narrow_floats, w: narrow_floats, axis, epsilon, stash_type):
        return op.SimplifiedLayerNormalization(x, w, axis=axis, epsilon=epsilon, stash_type=stash_type)

    def unless(m):
        d, w = dims(m.x), dims(m.w)
        if m.stash_type != 1 or m.x.dtype != m.w.dtype:
            return "it does not compute in float32, or gives another type than it takes"
        if d is None or w is None or not d:
            return "the input is not known to have an axis"
        m.from_ = m.axis % len(d)
        if w != d[m.from_ :]:
            return "the scale is not known to have the shape of the normalised axes"
        return None if 0 <= m.epsilon < np.inf else "epsilon is not a finite number of at least 0"

    def rewrite(op, m):
        return op.RMSNormalization(m.x, m.w, axis=m.from_ - len(dims(m.x)), epsilon=m.epsilon)

    cases = [
        Case("Llama", x=f32["B", "S", 8], w=f32[8], axis=-1, epsilon=1e-6, stash_type=1),
        Case("as it is by default", x=f32["N", 8], w=f32[8], axis=None, epsilon=None, stash_type=None),
        Case("two axes", x=f32["N", 3, 4], w=f32[3, 4], axis=1, epsilon=1e-6, stash_type=1),
        Refused("computed in half", x=f32["N", 8], w=f32[8], axis=-1, epsilon=1e-6, stash_type=10,
                because="does not compute in float32"),
        Refused("a scale of one", x=f32["N", 8], w=f32[1], axis=-1, epsilon=1e-6, stash_type=1,
                because="not known to have the shape"),
        Refused("negative epsilon", x=f32["N", 8], w=f32[8], axis=-1, epsilon=-1.0, stash_type=1, because="epsilon is not"),
    ]  # fmt: skip
