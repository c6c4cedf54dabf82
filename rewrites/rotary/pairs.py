"""RotaryEmbedding from pairs side by side: entries 0 and 1, 2 and 3, as GPT-J turns them."""

import numpy as np
from olc.rules import CLOSE, EXACT, F16, F32, Case, Const, Many, Refused, Spec, array, dims, f32, rule

from .. import _shapes as s


def _each_twice(op, table, axes, twice, shape):
    """Pattern: each entry of the table next to itself, with an axis of heads."""
    return op.shared(op.Reshape(op.shared(op.Expand(op.shared(op.Unsqueeze(table, axes)), twice)), shape))


def _turned(op, x, even, odd, u1, u2, joined):
    """Pattern: of each pair the second negated and the first."""
    pairs = op.Concat(op.Unsqueeze(op.Neg(op.Slice(x, *odd)), u1), op.Unsqueeze(op.Slice(x, *even), u2), axis=-1)
    return op.Reshape(pairs, joined)


def _every_other(numbers, shape):
    """(first, number) of the entries that a Slice with step 2 takes of the last axis; None for any other Slice."""
    held = [s.whole(v) for v in numbers]
    if len(held) != 4 or any(h is None or len(h) != 1 for h in held) or held[3] != (2,):
        return None
    (first,), (end,), (axis,) = held[:3]
    if axis % len(shape) != len(shape) - 1 or not 0 <= first <= end:
        return None
    return first, len(range(first, min(end, shape[-1]), 2))


def _shapes_differ(m):
    """Why what joins pairs, or puts entries beside themselves, is not known to do that alone."""
    for node in m.nodes:
        before, after = (dims(v) for v in (node.inputs[0], node.outputs[0]))
        if node.op_type not in ("Unsqueeze", "Expand", "Reshape"):
            continue
        if before is None or after is None:
            return "a shape on the way is not known"
        if node.op_type == "Expand" and (before[-1] != 1 or after != (*before[:-1], 2)):
            return "the Expand does not put each entry beside itself"
        if node.op_type == "Reshape":
            lead, kept = before[:-2], after[:-1]
            if node.inputs[0].producer().op_type == "Expand":  # where the axis of the heads is made does not matter
                lead, kept = ([d for d in given if d != 1] for given in (lead, kept))
            if len(before) < 2 or before[-1] != 2 or after[-1] != 2 * before[-2] or lead != kept:
                return "a Reshape does not join pairs"
        if node.op_type == "Unsqueeze" and after[-1] != 1:
            return "an Unsqueeze does not make an axis for pairs"
    return None


def _heads_axis(m, pairs):
    """The axis of the heads, 1 or 2; a text where the tables are not known to hold an angle for each pair of a token.

    Tables are [batch, sequence, pairs], or without an axis for a batch, or have one for the heads already.
    """
    x, cos, sin = dims(m.x), dims(m.cos), dims(m.sin)
    if cos is not None and cos == sin and len(cos) == 2:
        cos = sin = (1, *cos)
    if cos is None or cos != sin or len(cos) not in (3, 4) or cos[-1] != pairs or cos[0] not in (1, x[0]):
        return "the tables are not known to hold one angle for each pair"
    wide = {dims(n.outputs[0]) for n in m.nodes if n.op_type == "Reshape" and n.inputs[0].producer().op_type == "Expand"}
    for axis in (1, 2):
        table = cos if len(cos) == 4 else (*cos[:axis], 1, *cos[axis:])
        if wide == {(*table[:-1], 2 * pairs)} and table[axis] == 1 and table[3 - axis] == x[3 - axis]:
            return axis
    return "the tables get no axis for the heads"


def _why_not(m, start, pairs):
    """Why the entries from ``start`` on are not so many pairs that are turned."""
    if [_every_other(numbers, dims(m.x)) for numbers in (m.even, m.odd)] != [(start, pairs), (start + 1, pairs)]:
        return "the slices are not the first and the second of each pair"
    found = _shapes_differ(m) or _heads_axis(m, pairs)
    m.axis = found
    return found if isinstance(found, str) else None


def _rotary(op, m, x, **attributes):
    """The operator on [batch, heads, sequence, size], which it wants, with tables for each sequence of the batch."""
    swap = (0, 2, 1, 3)
    shape, tables = dims(m.cos), [m.cos, m.sin]
    if len(shape) != 3:
        put = op.Unsqueeze if len(shape) == 2 else op.Squeeze
        tables = [put(table, np.array([0 if len(shape) == 2 else m.axis])) for table in tables]
    if len(shape) == 2 or shape[0] != dims(m.x)[0]:
        times = op.Concat(op.Shape(m.x, start=0, end=1), np.array([1, 1]), axis=0)
        tables = [op.Expand(table, times) for table in tables]
    x = op.Transpose(x, perm=swap) if m.axis == 2 else x
    turned = op.RotaryEmbedding(x, *tables, **attributes)
    return op.Transpose(turned, perm=swap) if m.axis == 2 else turned


def _heads(x):
    d = dims(x)
    return None if d is not None and len(d) == 4 and isinstance(d[3], int) else "the operand is not known to be of heads"


def _strided(first, end):
    return [np.array([n]) for n in (first, end, 3, 2)]


def _part(first, end, axis=3):
    return [np.array([n]) for n in (first, end, axis)]


TABLES = {"cos": f32["B", "S", 2], "sin": f32["B", "S", 2]}
FIRST = {**TABLES, "a1": np.array([1, 4]), "a2": np.array([1, 4]), "t1": np.array([1, 1, 1, 1, 2]),
         "t2": np.array([1, 1, 1, 1, 2]), "w1": np.array([0, 1, -1, 4]), "w2": np.array([0, 1, -1, 4]),
         "even": _strided(0, 4), "odd": _strided(1, 4), "u1": np.array([4]), "u2": np.array([4])}  # fmt: skip
"""Heads on axis 1."""
SECOND = {**FIRST, "a1": np.array([2, 4]), "a2": np.array([2, 4]), "w1": np.array([0, -1, 1, 4]), "w2": np.array([0, -1, 1, 4])}
"""Heads on axis 2, as in GPT-J, which turns before it moves them."""


@rule(group="rotary", safety=EXACT, since=13)
class AnglesTwice:
    """Cosines of angles that are each put beside themselves are cosines of the angles, each put beside itself.

    Sound because both are the function of the same numbers, entry by entry; it is computed half as often.
    """

    def pattern(op, f: Spec((F32, F16)), axes: Const, twice: Const, shape: Const):
        return op.oneof("Cos", "Sin")(_each_twice(op, f, axes, twice, shape))

    def unless(m):
        return _shapes_differ(m)

    def rewrite(op, m):
        return op.Reshape(op.Expand(op.Unsqueeze(getattr(op, m.root.op_type)(m.f), m.axes), m.twice), m.shape)

    cases = [
        Case("Cohere's", f=f32["B", "S", 2], axes=np.array([3]), twice=np.array([1, 1, 1, 2]), shape=np.array([0, -1, 4])),
        Case("one angle", f=f32["B", 3, 1], axes=np.array([1]), twice=np.array([1, 1, 1, 2]), shape=np.array([0, 1, 6])),
        Refused("more rows too", f=f32[1, "S", 2], axes=np.array([3]), twice=np.array([3, 1, 1, 2]), shape=np.array([0, -1, 4]),
                because="beside itself"),
        Refused("joined otherwise", f=f32["B", 3, 2], axes=np.array([3]), twice=np.array([1, 1, 1, 2]),
                shape=np.array([0, 6, 2]), because="join pairs"),
    ]  # fmt: skip


@rule(group="rotary", safety=EXACT, since=13)
class AxisBeforeTwice:
    """An axis that tables get whose entries were put beside themselves is made before.

    Sound because an axis of one entry may be made anywhere, and the entries stay in their order.
    """

    def pattern(op, f: Spec((F32, F16)), axes: Const, twice: Const, shape: Const, front: Const):
        return op.Unsqueeze(_each_twice(op, f, axes, twice, shape), front)

    def unless(m):
        d, (wide, joined) = dims(m.f), (dims(m.find(op).outputs[0]) for op in ("Expand", "Reshape"))
        if d is None or wide is None or joined is None or s.whole(m.axes) != (len(d),):
            return "what is put beside itself is not known to be entries"
        if wide[:-1] != d or not isinstance(d[-1], int) or joined != (*d[:-1], 2 * d[-1]) or wide[-1] != 2:
            return "what is put beside itself is not known to be entries"
        m.new = s.whole(m.front)
        m.rank = len(d) + len(m.new)
        return None if all(0 <= a < m.rank - 1 for a in m.new) else "the axis is behind the entries, or counts from the end"

    def rewrite(op, m):
        wide = op.Expand(op.Unsqueeze(m.f, s.vector([*m.new, m.rank])), s.vector([1] * m.rank + [2]))
        return op.Reshape(wide, s.vector([0] * (m.rank - 1) + [2 * dims(m.f)[-1]]))

    cases = [
        Case("heads", f=f32["B", "S", 4], axes=np.array([3]), twice=np.array([1, 1, 1, 2]), shape=np.array([0, 0, 8]),
             front=np.array([1])),
        Case("two", f=f32["B", 4], axes=np.array([2]), twice=np.array([1, 1, 2]), shape=np.array([0, 8]), front=np.array([0, 2])),
        Refused("behind", f=f32["B", 4], axes=np.array([2]), twice=np.array([1, 1, 2]), shape=np.array([0, 8]),
                front=np.array([2]), because="behind"),
        Refused("in turn", f=f32["B", 4], axes=np.array([1]), twice=np.array([1, 2, 1]), shape=np.array([0, 8]),
                front=np.array([1]), because="to be entries"),
        Refused("three times", f=f32["B", 4], axes=np.array([2]), twice=np.array([1, 1, 3]), shape=np.array([0, 12]),
                front=np.array([1]), because="to be entries"),
    ]  # fmt: skip


@rule(group="rotary", safety=CLOSE("the same function, summed in another order"), since=23, emits="RotaryEmbedding")
class RotaryPairs:
    """A tensor times cosines, plus each of its pairs swapped and one negated times sines, is RotaryEmbedding.

    Sound because that is its definition with ``interleaved``: a pair is an entry at an even place and the next one, the
    second is negated and comes first, and both entries of a pair get the same cosine and the same sine.
    """

    def pattern(op, x: Spec((F32, F16)), cos, sin, a1: Const, a2: Const, t1: Const, t2: Const, w1: Const, w2: Const,
                even: Many, odd: Many, u1: Const, u2: Const, joined: Const):  # fmt: skip
        return op.Add(
            op.Mul(x, _each_twice(op, cos, a1, t1, w1)),
            op.Mul(_turned(op, x, even, odd, u1, u2, joined), _each_twice(op, sin, a2, t2, w2)),
        )

    def unless(m):
        return _heads(m.x) or _why_not(m, 0, dims(m.x)[3] // 2)

    def rewrite(op, m):
        return _rotary(op, m, m.x, interleaved=1)

    cases = [
        Case("heads first", x=f32["B", 2, "S", 4], **FIRST, joined=np.array([0, 2, -1, 4])),
        Case("sequence first", x=f32["B", "S", 2, 4], **SECOND, joined=np.array([0, -1, 2, 4])),
        Case("tables with an axis of heads", x=f32["B", 2, "S", 4], **{**FIRST, "cos": f32["B", 1, "S", 2],
             "sin": f32["B", 1, "S", 2], "a1": np.array([4]), "a2": np.array([4])}, joined=np.array([0, 2, -1, 4])),
        Case("Cohere", x=f32["B", 2, "S", 4], **{**FIRST, "a1": np.array([3]), "a2": np.array([3]), "t1": np.array([1, 1, 1, 2]),
             "t2": np.array([1, 1, 1, 2])}, joined=np.array([0, 2, -1, 4])),
        Case("angles for all", x=f32["B", 2, "S", 4], **{**FIRST, "cos": f32[1, "S", 2], "sin": f32[1, "S", 2]},
             joined=np.array([0, 2, -1, 4])),
        Case("angles without a batch", x=f32["B", "S", 2, 4], **{**SECOND, "cos": f32["S", 2], "sin": f32["S", 2],
             "a1": np.array([0, 3]), "a2": np.array([0, 3]), "t1": np.array([1, 1, 1, 2]), "t2": np.array([1, 1, 1, 2]),
             "w1": np.array([1, -1, 1, 4]), "w2": np.array([1, -1, 1, 4])}, joined=np.array([0, -1, 2, 4])),
        Refused("the first twice", x=f32["B", 2, "S", 4], **{**FIRST, "odd": _strided(0, 4)}, joined=np.array([0, 2, -1, 4]),
                because="first and the second"),
        Refused("one head, on the other axis", x=f32["B", "S", 5, 4], **{**FIRST, "cos": f32["B", 5, 2], "sin": f32["B", 1, 2]},
                joined=np.array([0, -1, 5, 4]), because="one angle"),
        Refused("one angle for all tokens", x=f32["B", 2, 5, 4], **{**FIRST, "cos": f32["B", 1, 2], "sin": f32["B", 1, 2]},
                joined=np.array([0, 2, 5, 4]), because="no axis for the heads"),
    ]  # fmt: skip


@rule(group="rotary", safety=CLOSE("the same function, summed in another order"), since=23, emits="RotaryEmbedding")
class RotaryPairsPart:
    """The same of a part of each head, the rest of it joined unchanged, is RotaryEmbedding with ``rotary_embedding_dim``.

    Sound because the operator turns that many leading entries and passes the others on: the parts lie one behind the other
    in one tensor.
    """

    def pattern(op, x: Spec((F32, F16)), cos, sin, a1: Const, a2: Const, t1: Const, t2: Const, w1: Const, w2: Const,
                even: Many, odd: Many, u1: Const, u2: Const, joined: Const, part: Many, rest: Many):  # fmt: skip
        turned = op.Add(
            op.Mul(op.Slice(x, *part), _each_twice(op, cos, a1, t1, w1)),
            op.Mul(_turned(op, x, even, odd, u1, u2, joined), _each_twice(op, sin, a2, t2, w2)),
        )
        return op.Concat(turned, op.Slice(x, *rest), axis=-1)

    def unless(m):
        if _heads(m.x) is not None:
            return _heads(m.x)
        cuts = [s.cut(numbers, dims(m.x)) for numbers in (m.part, m.rest)]
        if None in cuts or any(c[0] != 3 for c in cuts):
            return "the slices are not known parts of the last axis"
        (_, start, middle), (_, behind, end) = cuts
        if behind != middle or not start < middle < end:
            return "the slices do not lie one behind the other"
        if (middle - start) % 2 or (end - start) % 2:
            return "the parts are not of an even size"
        m.head, m.size = (start, end), middle - start
        return _why_not(m, start, m.size // 2)

    def rewrite(op, m):
        x = m.x if m.head == (0, dims(m.x)[3]) else op.Slice(m.x, *_part(*m.head))
        return _rotary(op, m, x, interleaved=1, rotary_embedding_dim=m.size)

    cases = [
        Case("GPT-J", x=f32["B", "S", 2, 8], **SECOND, joined=np.array([0, -1, 2, 4]), part=_part(0, 4), rest=_part(4, 8)),
        Case("heads first", x=f32["B", 2, "S", 8], **FIRST, joined=np.array([0, 2, -1, 4]), part=_part(0, 4), rest=_part(4, 8)),
        Case("a head of several", x=f32["B", 2, "S", 16], **{**FIRST, "even": _strided(4, 8), "odd": _strided(5, 8)},
             joined=np.array([0, 2, -1, 4]), part=_part(4, 8), rest=_part(8, 12)),
        Refused("a gap", x=f32["B", 2, "S", 8], **FIRST, joined=np.array([0, 2, -1, 4]), part=_part(0, 4), rest=_part(6, 8),
                because="one behind"),
        Refused("an odd rest", x=f32["B", 2, "S", 8], **FIRST, joined=np.array([0, 2, -1, 4]), part=_part(0, 4),
                rest=_part(4, 7), because="even size"),
        Refused("other entries turned", x=f32["B", 2, "S", 8], **{**FIRST, "even": _strided(4, 8), "odd": _strided(5, 8)},
                joined=np.array([0, 2, -1, 4]), part=_part(0, 4), rest=_part(4, 8), because="first and the second"),
    ]  # fmt: skip


_EACH = np.repeat(np.linspace(-1, 1, 10, dtype=np.float32).reshape(5, 2), 2, axis=1)
ANGLES = {"cos": np.cos(_EACH), "sin": np.sin(_EACH)}
TURNED = {"even": _strided(0, 4), "odd": _strided(1, 4), "u1": np.array([4]), "u2": np.array([4]),
          "joined": np.array([0, 2, -1, 4])}  # fmt: skip


def _once(table):
    """Of a constant table [..., sequence, size] for all texts and heads that holds each entry twice: [1, sequence, pairs]."""
    a = array(table)
    if a.ndim < 2 or a.ndim > 4 or a.size != a.shape[-1] * a.shape[-2] or a.shape[-1] % 2:
        return None
    even, odd = a.reshape(1, *a.shape[-2:])[..., ::2], a[..., 1::2]
    return even if np.array_equal(even[0], odd.reshape(even[0].shape)) else None


@rule(group="rotary", safety=CLOSE("the same function, summed in another order"), since=23, emits="RotaryEmbedding")
class RotaryPairsOfTables:
    """The same with tables that are constants, one row for each token, is RotaryEmbedding.

    Sound for the same reasons: that both entries of a pair get one cosine and one sine is seen in the tables. The patches of a
    picture are turned so (EVA-02).
    """

    def pattern(op, x: Spec((F32, F16)), cos: Const, sin: Const, even: Many, odd: Many, u1: Const, u2: Const, joined: Const):
        return op.Add(op.Mul(x, cos), op.Mul(_turned(op, x, even, odd, u1, u2, joined), sin))

    def unless(m):
        reason = _heads(m.x)
        if reason is not None:
            return reason
        shape = dims(m.x)
        if [_every_other(numbers, shape) for numbers in (m.even, m.odd)] != [(0, shape[3] // 2), (1, shape[3] // 2)]:
            return "the slices are not the first and the second of each pair"
        m.tables = [_once(table) for table in (m.cos, m.sin)]
        if any(t is None or t.shape[1:] != (shape[2], shape[3] // 2) for t in m.tables):
            return "the tables are not known to hold one angle for each pair"
        return _shapes_differ(m)

    def rewrite(op, m):
        times = op.Concat(op.Shape(m.x, start=0, end=1), np.array([1, 1]), axis=0)
        return op.RotaryEmbedding(m.x, *(op.Expand(t, times) for t in m.tables), interleaved=1)

    cases = [
        Case("EVA-02", x=f32["B", 2, 5, 4], **ANGLES, **TURNED),
        Case("with axes for texts and heads", x=f32["B", 2, 5, 4], **{k: v[None, None] for k, v in ANGLES.items()}, **TURNED),
        Refused("angles of their own", x=f32["B", 2, 5, 4], **TURNED,
                **{**ANGLES, "sin": np.linspace(-1, 1, 20, dtype=np.float32).reshape(5, 4)}, because="one angle for each pair"),
        Refused("one row for all", x=f32["B", 2, 5, 4], **{**ANGLES, "cos": ANGLES["cos"][:1]}, **TURNED,
                because="one angle for each pair"),
        Refused("rows for each head", x=f32["B", 5, 5, 4], **{k: np.tile(v, (5, 1, 1)) for k, v in ANGLES.items()},
                **{**TURNED, "joined": np.array([0, 5, -1, 4])}, because="one angle for each pair"),
        Refused("the first twice", x=f32["B", 2, 5, 4], **ANGLES, **{**TURNED, "odd": _strided(0, 4)},
                because="first and the second"),
    ]  # fmt: skip
