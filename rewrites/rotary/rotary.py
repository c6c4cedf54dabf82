"""RotaryEmbedding from halves that are swapped, and on [batch, sequence, width]."""

import numpy as np
from olc.rules import CLOSE, EXACT, F16, F32, Attrs, Case, Const, Many, Refused, Spec, dims, elements, f32, rule

from .. import _layout as layout


def _of_angles(op, function, f, axes):
    """Cosine or sine of the angles, for both halves, with an axis of heads."""
    return op.shared(op.Unsqueeze(op.shared(function(op.shared(op.Concat(f, f, axis=-1)))), axes))


def _cache(op, function, m):
    """Cosines or sines of the angles for each sequence of the batch: the operator takes no other."""
    cache = function(m.f)
    if dims(m.f)[0] == dims(m.x)[0]:
        return cache
    return op.Expand(cache, op.Concat(op.Shape(m.x, start=0, end=1), np.array([1, 1]), axis=0))


AXES = {"a1": np.array([1]), "a2": np.array([1]), "axis1": np.array([3]), "axis2": np.array([3])}
TWO_PARTS = {
    "start0": np.array([0]), "end0": np.array([4]), "start1": np.array([4]), "end1": np.array([8]), "axis0": np.array([3]),
    "axis1": np.array([3]),
}  # fmt: skip
PARTS = {
    "start0": np.array([0]), "end0": np.array([4]), "start1": np.array([0]), "end1": np.array([2]), "start2": np.array([2]),
    "end2": np.array([4]), "start3": np.array([4]), "end3": np.array([8]), "axis0": np.array([3]), "axis3": np.array([3]),
}  # fmt: skip
HALVES = {"start1": np.array([0]), "end1": np.array([2]), "start2": np.array([2]), "end2": np.array([4])}


@rule(group="rotary", safety=CLOSE("the same function, summed in another order"), since=23, emits="RotaryEmbedding")
class RotaryHalves:
    """A tensor times cosines, plus its halves swapped and one negated times sines, is RotaryEmbedding.

    Sound because that is its definition where pairs are an entry of the first half and the one of the second: the halves
    meet exactly, the second is negated and comes first, and both cosines and sines are of the same angles twice.
    """

    def pattern(
        op, x: Spec((F32, F16)), f, a1: Const, a2: Const, start1: Const, end1: Const, axis1: Const, start2: Const, end2: Const,
        axis2: Const,
    ):
        first, second = op.Slice(x, start1, end1, axis1), op.Slice(x, start2, end2, axis2)
        turned = op.Concat(op.Neg(second), first, axis=-1)
        return op.Add(
            op.Mul(x, _of_angles(op, op.Cos, f, a1)), op.Mul(turned, _of_angles(op, op.Sin, f, a2))
        )

    def unless(m):
        x, f = dims(m.x), dims(m.f)
        if x is None or f is None or len(x) != 4 or len(f) != 3 or not isinstance(x[3], int) or x[3] % 2:
            return "the operand is not known to be of heads of an even size"
        half = x[3] // 2
        bounds = [elements(v) for v in (m.start1, m.end1, m.start2, m.end2)]
        if bounds[0] != (0,) or bounds[1] != (half,) or bounds[2] != (half,) or bounds[3] is None:
            return "the slices are not the two halves"
        if elements(m.axis1) != (3,) or elements(m.axis2) != (3,):
            return "the slices are not along the last axis"
        if not isinstance(bounds[3][0], int) or bounds[3][0] < x[3]:
            return "the slices are not the two halves"
        if elements(m.a1) != (1,) or elements(m.a2) != (1,):
            return "cosines and sines get no axis for the heads"
        if f[2] != half or f[1] != x[2] or f[0] not in (1, x[0]):
            return "the angles are not known to be one for each pair"
        return None

    def rewrite(op, m):
        return op.RotaryEmbedding(m.x, _cache(op, op.Cos, m), _cache(op, op.Sin, m))

    cases = [
        Case("Llama's", x=f32["B", 2, "S", 4], f=f32["B", "S", 2], **AXES, **HALVES),
        Case("angles for all", x=f32["B", 2, "S", 4], f=f32[1, "S", 2], **AXES, **{**HALVES, "end2": np.array([1 << 62])}),
        Refused("uneven halves", x=f32["B", 2, "S", 4], f=f32["B", "S", 2], **AXES,
                **{**HALVES, "end1": np.array([1]), "start2": np.array([1])}, because="two halves"),
        Refused("no axis for heads", x=f32["B", "S", "S", 4], f=f32["B", "S", 2], **HALVES,
                **{**AXES, "a1": np.array([2]), "a2": np.array([2])}, because="no axis for the heads"),
    ]  # fmt: skip


@rule(group="rotary", safety=CLOSE("the same function, summed in another order"), since=23, emits="RotaryEmbedding")
class RotaryPart:
    """The same of a part of each head, the rest of it joined unchanged, is RotaryEmbedding with ``rotary_embedding_dim``.

    Sound because the operator turns that many leading entries and passes the others on: the parts lie one behind the other
    in one tensor, which may hold more (queries, keys and values together).
    """

    def pattern(
        op, x: Spec((F32, F16)), f, a1: Const, a2: Const, start0: Const, end0: Const, axis0: Const, start1: Const, end1: Const,
        axis1: Const, start2: Const, end2: Const, axis2: Const, start3: Const, end3: Const, axis3: Const,
    ):
        part = op.Slice(x, start0, end0, axis0)
        first, second = op.Slice(x, start1, end1, axis1), op.Slice(x, start2, end2, axis2)
        turned = op.Concat(op.Neg(second), first, axis=-1)
        rotated = op.Add(
            op.Mul(part, _of_angles(op, op.Cos, f, a1)), op.Mul(turned, _of_angles(op, op.Sin, f, a2))
        )
        return op.Concat(rotated, op.Slice(x, start3, end3, axis3), axis=-1)

    def unless(m):
        x, f = dims(m.x), dims(m.f)
        if x is None or f is None or len(x) != 4 or len(f) != 3 or not isinstance(x[3], int):
            return "the operand is not known to be of heads"
        cuts = [elements(v) for v in (m.start0, m.end0, m.start1, m.end1, m.start2, m.end2, m.start3, m.end3)]
        if any(c is None or len(c) != 1 or not isinstance(c[0], int) or c[0] < 0 for c in cuts):
            return "the slices are not known"
        start0, end0, start1, end1, start2, end2, start3, end3 = (min(c[0], x[3]) for c in cuts)
        if any(elements(v) != (3,) for v in (m.axis0, m.axis1, m.axis2, m.axis3)):
            return "the slices are not along the last axis"
        half = (end0 - start0) // 2
        wanted = (start0, start0 + half, start0 + half, start0 + 2 * half, start0 + 2 * half)
        if (start1, end1, start2, end2, start3) != wanted or end0 != start3 or not half or end3 <= start3 or (end3 - start0) % 2:
            return "the slices do not lie one behind the other"
        if elements(m.a1) != (1,) or elements(m.a2) != (1,):
            return "cosines and sines get no axis for the heads"
        if f[2] != half or f[1] != x[2] or f[0] not in (1, x[0]):
            return "the angles are not known to be one for each pair"
        m.part = (start0, end3, 2 * half)
        return None

    def rewrite(op, m):
        start, end, turned = m.part
        whole = (start, end) == (0, dims(m.x)[3])
        x = m.x if whole else op.Slice(m.x, np.array([start]), np.array([end]), np.array([3]))
        return op.RotaryEmbedding(
            x, _cache(op, op.Cos, m), _cache(op, op.Sin, m), rotary_embedding_dim=turned
        )

    cases = [
        Case("GPT-NeoX", x=f32["B", 2, "S", 24], f=f32["B", "S", 2], **AXES, **PARTS),
        Case("a whole head", x=f32["B", 2, "S", 8], f=f32[1, "S", 2], **AXES, **PARTS),
        Refused("a gap", x=f32["B", 2, "S", 8], f=f32["B", "S", 2], **AXES, **{**PARTS, "start3": np.array([5])},
                because="one behind the other"),
        Refused("no axis for heads", x=f32["B", "S", "S", 8], f=f32["B", "S", 2], **PARTS,
                **{**AXES, "a1": np.array([2]), "a2": np.array([2])}, because="no axis for the heads"),
    ]  # fmt: skip


@rule(group="rotary", safety=EXACT, since=23)
class RotaryOfPart:
    """RotaryEmbedding of the first entries of each head, joined with the others, is one with ``rotary_embedding_dim``.

    Sound because that is what the attribute means: so many leading entries are turned, the others pass.
    """

    def pattern(
        op, x: f32, cos, sin, heads, start0: Const, end0: Const, axis0: Const, start1: Const, end1: Const, axis1: Const,
        attrs: Attrs,
    ):
        part, rest = op.Slice(x, start0, end0, axis0), op.Slice(x, start1, end1, axis1)
        turned = op.RotaryEmbedding(part, cos, sin, num_heads=heads, rotary_embedding_dim=0, **attrs)
        return op.Concat(turned, rest, axis=-1)

    def unless(m):
        x = dims(m.x)
        if x is None or len(x) != 4 or not isinstance(x[3], int) or not isinstance(x[1], int):
            return "the operand is not known to be of heads"
        if elements(m.axis0) != (3,) or elements(m.axis1) != (3,):
            return "the slices are not along the last axis"
        cuts = [elements(v) for v in (m.start0, m.end0, m.start1, m.end1)]
        if any(c is None or len(c) != 1 or not isinstance(c[0], int) or c[0] < 0 for c in cuts):
            return "the slices are not known"
        start, m.turned, other, end = (c[0] for c in cuts)
        if start != 0 or other != m.turned or end < x[3] or not 0 < m.turned < x[3] or x[3] % 2:
            return "the slices are not a head in two parts"
        return None

    def rewrite(op, m):
        return op.RotaryEmbedding(m.x, m.cos, m.sin, rotary_embedding_dim=m.turned, **m.attrs)

    cases = [
        Case("Phi", x=f32["B", 2, "S", 8], cos=f32["B", "S", 2], sin=f32["B", "S", 2], heads=2, attrs={}, **TWO_PARTS),
        Case("pairs side by side", x=f32["B", 2, "S", 8], cos=f32["B", "S", 2], sin=f32["B", "S", 2], heads=0,
             attrs={"interleaved": 1}, **TWO_PARTS),
        Refused("a gap", x=f32["B", 2, "S", 8], cos=f32["B", "S", 2], sin=f32["B", "S", 2], heads=2, attrs={},
                **{**TWO_PARTS, "start1": np.array([5])}, because="in two parts"),
    ]  # fmt: skip


@rule(group="rotary", safety=EXACT, since=23)
class RotaryFlat:
    """RotaryEmbedding of heads that were split off acts on the tensor before, and the heads are split after.

    Sound because with three axes the operator splits the last one into heads itself.
    """

    def pattern(op, x, shape: Const, x4, cos, sin, attrs: Attrs):
        return op.RotaryEmbedding(layout.heads_of(op, x, shape, x4), cos, sin, **attrs)

    def unless(m):
        return None if layout.is_split(m.root.inputs[0]) else "the operand is not known to be heads that were split off"

    def rewrite(op, m):
        x = m.root.inputs[0]
        _, heads, _, size = dims(x)
        others = {k: v for k, v in m.attrs.items() if k != "num_heads"}
        turned = op.RotaryEmbedding(layout.join_heads(op, x), m.cos, m.sin, num_heads=heads, **others)
        return layout.split_heads(op, turned, heads, size)

    cases = [
        Case("queries", x=f32["B", "S", 8], shape=np.array([0, 0, 2, 4]), x4=f32["B", 2, "S", 4],
             cos=f32["B", "S", 2], sin=f32["B", "S", 2], attrs={}),
        Refused("rows of another length", x=f32["B", 6, 8], shape=np.array([0, 12, 1, 4]), x4=f32["B", 1, 12, 4],
                cos=f32["B", 12, 2], sin=f32["B", 12, 2], attrs={}, because="split off"),
    ]  # fmt: skip


@rule(group="rotary", safety=EXACT, since=23)
class RotaryHeadCount:
    """The number of heads that RotaryEmbedding is told although its operand has an axis of heads is dropped.

    Sound because with four axes the operator reads it off the operand; so does the part of each head that is turned.
    """

    def pattern(op, x, others: Many, attrs: Attrs):
        return op.RotaryEmbedding(x, *others, **attrs)

    def unless(m):
        d = dims(m.x)
        if d is None or len(d) != 4:
            return "the operand is not known to have an axis of heads"
        return None if m.root.attributes.get("num_heads") else "no number of heads is given"

    def rewrite(op, m):
        return op.RotaryEmbedding(m.x, *m.others, **{k: v for k, v in m.attrs.items() if k != "num_heads"})

    cases = [
        Case("Qwen3", x=f32["B", 2, "S", 4], others=[f32["B", "S", 2], f32["B", "S", 2]], attrs={"num_heads": 2}),
        Case("in part", x=f32["B", 2, "S", 8], others=[f32["B", "S", 2], f32["B", "S", 2]],
             attrs={"num_heads": 2, "rotary_embedding_dim": 4}),
        Refused("three axes", x=f32["B", "S", 8], others=[f32["B", "S", 2], f32["B", "S", 2]], attrs={"num_heads": 2},
                because="an axis of heads"),
        Refused("none", x=f32["B", 2, "S", 4], others=[f32["B", "S", 2], f32["B", "S", 2]], attrs={}, because="no number"),
    ]  # fmt: skip
