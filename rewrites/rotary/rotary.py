"""RotaryEmbedding from halves that are swapped, and on [batch, sequence, width]."""

import numpy as np
from olc.analysis import dims as dim
from olc.rules import CLOSE, EXACT, F16, F32, Attrs, Case, Const, Many, Refused, Spec, dims, elements, f32, rule

from .. import _layout as layout
from .. import _shapes as s
from ._doubled import doubled


def _of_angles(op, function, f, table, axes):
    """Cosine or sine of the angles, for both halves, with an axis of heads; ``table`` where they were computed before."""
    return op.shared(op.Unsqueeze(op.either(op.shared(function(op.shared(op.Concat(f, f, axis=-1)))), table), axes))


def _wide(table):
    """The dims of a table with an axis for the heads; one with fewer axes is for all of them."""
    d = dims(table)
    return None if d is None or not 1 < len(d) <= 4 else (*(1,) * (4 - len(d)), *d)


def _cache(op, function, m, table, wide=None):
    """Cosines or sines of the angles for each sequence of the batch: the operator takes no other."""
    given = next(v for v in (wide, table, m.f) if v is not None)
    rank, size = len(dims(given)), dims(given)[-1]
    if wide is not None:
        table, rank = (op.Squeeze(wide, _BETWEEN[m.axis]), 3 if m.axis else 2) if rank == 4 else (wide, rank)
    cache = function(m.f) if table is None else op.Slice(table, *_part(0, size // 2, rank - 1))
    cache = op.Unsqueeze(cache, np.array([0])) if rank == 2 else cache
    if rank != 2 and dims(given)[0] == dims(m.x)[0] and m.axis:
        return cache
    at = 0 if m.axis else 1
    return op.Expand(cache, op.Concat(op.Shape(m.x, start=at, end=at + 1), np.array([1, 1]), axis=0))


_HEADS_FIRST = {0: ((1, 2, 0, 3), (2, 0, 1, 3)), 2: ((0, 2, 1, 3), (0, 2, 1, 3))}
"""Which order makes [batch, heads, tokens, size] of an operand, and which makes it what it was, by ``m.axis``."""
_BETWEEN = {axis: np.array(axes) for axis, axes in {0: [1, 2], 1: [1], 2: [2]}.items()}
"""The axes of 1 of tables on four axes, by ``m.axis``."""
_TOKENS = {0: 0, 1: 2, 2: 1}
"""The axis of the tokens, by ``m.axis``."""


def _rotary(op, m, x, *caches, **attributes):
    """The operator on heads in front of the sequence, which it wants."""
    if m.axis == 1:
        return op.RotaryEmbedding(x, *caches, **attributes)
    there, back = _HEADS_FIRST[m.axis]
    return op.Transpose(op.RotaryEmbedding(op.Transpose(x, perm=there), *caches, **attributes), perm=back)


def _why_no_pairs(m, half, *wide):
    """Why the angles are not one for each pair of an operand with so many pairs, with heads on axis 1 (or 2: ``m.axis``; 0
    where tokens lie in front of texts and heads). ``wide``: tables that have an axis for the heads, or go for all of them."""
    x, places = dims(m.x), {0, 1, 2}
    for axes in (m.a1, m.a2):
        places &= {0, 1, 2} if axes is None else {a for a, made in _BETWEEN.items() if elements(axes) == tuple(made)}
    wide = [table for table in wide if table is not None]
    for table in wide:
        d = _wide(table)
        fit = {a for a, axes in _BETWEEN.items() if d is not None and all(d[n] == 1 for n in axes)}
        places &= fit if d is None or len(dims(table)) == 4 else fit & {1}
    if not places:
        return "cosines and sines get no axis for the heads"
    for axis in sorted(places, key=(1, 2, 0).index):
        shapes = [(v, size) for v, size in ((m.f, half), (m.cos, 2 * half), (m.sin, 2 * half)) if v is not None]
        found = [(dims(v) or (), size) for v, size in shapes]
        found += [(tuple(n for a, n in enumerate(d) if a not in _BETWEEN[axis]), 2 * half) for d in map(_wide, wide)]
        if axis == 0:  # the same for all texts
            found = [((1, *d), size) for d, size in found]
        if all(len(d) == 3 and d[2] == size and dim.fits(d[1], x[_TOKENS[axis]]) and d[0] in (1, x[0]) for d, size in found):
            m.axis = axis
            break
    else:
        return "the angles are not known to be one for each pair"
    if not all(doubled(table) for table in (m.cos, m.sin, *wide) if table is not None):
        return "the angles are not known to be the same for both halves"
    return None


def _cuts(m, *slices):
    """Where the last axis of the heads is cut: (first, end) of each Slice; a text where that is not known."""
    shape = dims(m.x)
    if shape is None or len(shape) != 4 or not isinstance(shape[3], int):
        return "the operand is not known to be of heads"
    found = [s.cut(inputs, shape) for inputs in slices]
    if any(c is None or c[0] != 3 for c in found):
        return "the slices are not known parts of the last axis"
    return [c[1:] for c in found]


def _part(first, end, axis=3):
    return [np.array([n]) for n in (first, end, axis)]


TABLE = np.tile(np.linspace(-1, 1, 10, dtype=np.float32).reshape(1, 5, 2), 2)
HEADS = {"f": f32["B", "S", 2], "cos": TABLE, "sin": TABLE, "a1": np.array([1]), "a2": np.array([1])}
HALVES = {"first": _part(0, 2), "second": _part(2, 4)}
WHOLE = {**HALVES, "cos4": TABLE[:, None], "sin4": TABLE[:, None]}
CACHES = {"cos": f32["B", "S", 2], "sin": f32["B", "S", 2]}


@rule(group="rotary", safety=CLOSE("the same function, summed in another order"), since=23, emits="RotaryEmbedding")
class RotaryHalves:
    """A tensor times cosines, plus its halves swapped and one negated times sines, is RotaryEmbedding.

    Sound because that is its definition where pairs are an entry of the first half and the one of the second: the halves
    meet exactly, the second is negated and comes first, and both cosines and sines are the same twice, of angles or read
    from tables that are proved to be so. Heads may lie on either axis; the operator wants them in front.
    """

    def pattern(op, x: Spec((F32, F16)), f, cos, sin, a1: Const, a2: Const, cos4, sin4, first: Many, second: Many):
        turned = op.Concat(op.Neg(op.Slice(x, *second)), op.Slice(x, *first), axis=-1)
        cosines, sines = _of_angles(op, op.Cos, f, cos, a1), _of_angles(op, op.Sin, f, sin, a2)
        return op.Add(op.Mul(x, op.either(cosines, cos4)), op.Mul(turned, op.either(sines, sin4)))

    def unless(m):
        cuts = _cuts(m, m.first, m.second)
        if isinstance(cuts, str):
            return cuts
        size = dims(m.x)[3]
        if size % 2 or cuts != [(0, size // 2), (size // 2, size)]:
            return "the slices are not the two halves"
        return _why_no_pairs(m, size // 2, m.cos4, m.sin4)

    def rewrite(op, m):
        return _rotary(op, m, m.x, _cache(op, op.Cos, m, m.cos, m.cos4), _cache(op, op.Sin, m, m.sin, m.sin4))

    cases = [
        Case("Llama's", x=f32["B", 2, "S", 4], **HEADS, **WHOLE),
        Case("of tables", x=f32["B", 2, 5, 4], **{**HEADS, "f": f32["B", 5, 2]}, **WHOLE),
        Case("angles for all", x=f32["B", 2, "S", 4], **{**HEADS, "f": f32[1, "S", 2]}, **{**WHOLE, "first": _part(0, 2),
             "second": _part(2, 1 << 62)}),
        Case("sequence first", x=f32["B", 5, 2, 4], **{**HEADS, "f": f32["B", 5, 2], "a1": np.array([2]), "a2": np.array([2])},
             **{**WHOLE, "cos4": TABLE[:, :, None], "sin4": TABLE[:, :, None]}),
        Case("tables without an axis for heads", x=f32["B", 2, 5, 4], **HEADS, **{**HALVES, "cos4": TABLE[0], "sin4": TABLE}),
        Case("tokens in front", x=f32["S", "B", 2, 4], **{**HEADS, "f": f32["S", 2], "cos": TABLE[0], "sin": TABLE[0],
             "a1": np.array([1, 2]), "a2": np.array([1, 2])}, **{**HALVES, "cos4": TABLE[0][:, None, None],
             "sin4": TABLE[0][:, None, None]}),
        Refused("a table for each head", x=f32["B", "S", "S", 4], **{**HEADS, "a1": np.array([3]), "a2": np.array([3])},
                **{**WHOLE, "cos4": f32["S", "S", 4], "sin4": f32["S", "S", 4]}, because="no axis for the heads"),
        Refused("uneven halves", x=f32["B", 2, "S", 4], **HEADS, **{**WHOLE, "first": _part(0, 1), "second": _part(1, 4)},
                because="two halves"),
        Refused("no axis for heads", x=f32["B", "S", "S", 4], **{**HEADS, "a1": np.array([3]), "a2": np.array([3])},
                **{**WHOLE, "cos4": f32["B", "S", "S", 4], "sin4": f32["B", "S", "S", 4]}, because="no axis for the heads"),
        Refused("halves of their own", x=f32[3, 2, 5, 4], **{**HEADS, "f": f32[1, 1, 2], "cos": f32[1, 5, 4],
                "sin": f32[1, 5, 4]}, **{**WHOLE, "cos4": f32[1, 1, 5, 4], "sin4": f32[1, 1, 5, 4]},
                because="the angles are not known to be"),
        Refused("one angle for all", x=f32[3, 2, 5, 4], **{**HEADS, "f": f32[1, 1, 2], "cos": f32[1, 1, 4],
                "sin": f32[1, 1, 4]}, **{**WHOLE, "cos4": f32[1, 1, 1, 4], "sin4": f32[1, 1, 1, 4]},
                because="for each pair"),
    ]  # fmt: skip


@rule(group="rotary", safety=CLOSE("the same function, summed in another order"), since=23, emits="RotaryEmbedding")
class RotaryPart:
    """The same of a part of each head, the rest of it joined unchanged, is RotaryEmbedding with ``rotary_embedding_dim``.

    Sound because the operator turns that many leading entries and passes the others on: the parts lie one behind the other
    in one tensor, which may hold more (queries, keys and values together).
    """

    def pattern(op, x: Spec((F32, F16)), f, cos, sin, a1: Const, a2: Const, part: Many, first: Many, second: Many, rest: Many):
        turned = op.Concat(op.Neg(op.Slice(x, *second)), op.Slice(x, *first), axis=-1)
        rotated = op.Add(
            op.Mul(op.Slice(x, *part), _of_angles(op, op.Cos, f, cos, a1)),
            op.Mul(turned, _of_angles(op, op.Sin, f, sin, a2)),
        )
        return op.Concat(rotated, op.Slice(x, *rest), axis=-1)

    def unless(m):
        cuts = _cuts(m, m.part, m.first, m.second, m.rest)
        if isinstance(cuts, str):
            return cuts
        (start, middle), *halves, (behind, end) = cuts
        half = (middle - start) // 2
        if halves != [(start, start + half), (start + half, middle)] or behind != middle or not half or end <= behind:
            return "the slices do not lie one behind the other"
        if (middle - start) % 2 or (end - start) % 2:
            return "the parts are not of an even size"
        m.head, m.turned = (start, end), 2 * half
        return _why_no_pairs(m, half)

    def rewrite(op, m):
        x = m.x if m.head == (0, dims(m.x)[3]) else op.Slice(m.x, *_part(*m.head))
        caches = _cache(op, op.Cos, m, m.cos), _cache(op, op.Sin, m, m.sin)
        return _rotary(op, m, x, *caches, rotary_embedding_dim=m.turned)

    cases = [
        Case("GPT-NeoX", x=f32["B", 2, "S", 24], **HEADS, **HALVES, part=_part(0, 4), rest=_part(4, 8)),
        Case("a whole head", x=f32["B", 2, "S", 8], **{**HEADS, "f": f32[1, "S", 2]}, **HALVES, part=_part(0, 4),
             rest=_part(4, 8)),
        Refused("a gap", x=f32["B", 2, "S", 8], **HEADS, **HALVES, part=_part(0, 4), rest=_part(5, 8), because="one behind"),
        Refused("an odd rest", x=f32["B", 2, "S", 8], **HEADS, **HALVES, part=_part(0, 4), rest=_part(4, 7), because="even"),
        Case("sequence first", x=f32["B", "S", 2, 8], **{**HEADS, "a1": np.array([2]), "a2": np.array([2])}, **HALVES,
             part=_part(0, 4), rest=_part(4, 8)),
        Refused("no axis for heads", x=f32["B", "S", "S", 8], **{**HEADS, "a1": np.array([3]), "a2": np.array([3])}, **HALVES,
                part=_part(0, 4), rest=_part(4, 8), because="no axis for the heads"),
    ]  # fmt: skip


@rule(group="rotary", safety=EXACT, since=23)
class RotaryOfPart:
    """RotaryEmbedding of the first entries of each head, joined with the others, is one with ``rotary_embedding_dim``.

    Sound because that is what the attribute means: so many leading entries are turned, the others pass.
    """

    def pattern(op, x: f32, cos, sin, heads, part: Many, rest: Many, attrs: Attrs):
        turned = op.RotaryEmbedding(op.Slice(x, *part), cos, sin, num_heads=heads, rotary_embedding_dim=0, **attrs)
        return op.Concat(turned, op.Slice(x, *rest), axis=-1)

    def unless(m):
        cuts = _cuts(m, m.part, m.rest)
        if isinstance(cuts, str):
            return cuts
        size, m.turned = dims(m.x)[3], cuts[0][1]
        if size % 2 or not 0 < m.turned < size or cuts != [(0, m.turned), (m.turned, size)]:
            return "the slices are not a head in two parts"
        return None

    def rewrite(op, m):
        return op.RotaryEmbedding(m.x, m.cos, m.sin, rotary_embedding_dim=m.turned, **m.attrs)

    cases = [
        Case("Phi", x=f32["B", 2, "S", 8], **CACHES, heads=2, attrs={}, part=_part(0, 4), rest=_part(4, 8)),
        Case("pairs side by side", x=f32["B", 2, "S", 8], **CACHES, heads=0, attrs={"interleaved": 1}, part=_part(0, 4),
             rest=_part(4, 8)),
        Refused("a gap", x=f32["B", 2, "S", 8], **CACHES, heads=2, attrs={}, part=_part(0, 4), rest=_part(5, 8),
                because="in two parts"),
        Refused("another axis", x=f32["B", 2, 4, 4], cos=f32["B", 2, 2], sin=f32["B", 2, 2], heads=2, attrs={},
                part=_part(0, 2, 2), rest=_part(2, 4, 2), because="of the last axis"),
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
