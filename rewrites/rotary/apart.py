"""RotaryEmbedding from the first and the second entries of pairs, each turned on its own and then put together."""

import numpy as np
from olc.analysis import dims as dim
from olc.rules import CLOSE, F16, F32, Case, Const, Many, Refused, Spec, dims, elements, f32, rule

from .. import _shapes as s
from .pairs import _every_other, _part, _rotary, _strided


def _no_angle(m):
    """Why the tables are not known to be [batch or 1, .., pairs] with a 1 for the heads; sets ``m.axis``, the heads' own."""
    x, cos = dims(m.x), dims(m.cos)
    known = x is not None and len(x) == 4 and cos is not None and cos == dims(m.sin) and len(cos) == 4 and cos[0] in (1, x[0])
    if known and isinstance(x[3], int) and x[3] == 2 * cos[3]:
        m.axis = next((a for a in (1, 2) if cos[a] == 1 and dim.fits(cos[3 - a], x[3 - a])), None)
        if m.axis is not None:
            return None
    return "the tables are not known to hold one angle for each pair of a token's heads"


def _turned(op, one, two, cos, sin, before, after):
    """Pattern: pairs turned by an angle, first entries in front of second."""
    first, second = op.Sub(op.Mul(one, cos), op.Mul(two, sin)), op.Add(op.Mul(two, cos), op.Mul(one, sin))
    return op.Concat(*before, first, second, *after, axis=-1)


def _among(op, m, turned):
    return op.Concat(*m.before, turned, *m.after, axis=-1) if m.before or m.after else turned


@rule(group="rotary", safety=CLOSE("the same function, summed in another order"), since=23, emits="RotaryEmbedding")
class RotaryPairsApart:
    """Pairs that are turned, their first entries put in front of their second, are RotaryEmbedding and a Transpose.

    Sound because that is its definition with ``interleaved``, which leaves both entries where they were; the Transpose
    puts them apart, as DeepSeek does.
    """

    def pattern(op, x: Spec((F32, F16)), cos, sin, even: Many, odd: Many, before: Many, after: Many):
        one, two = op.shared(op.Slice(x, *even)), op.shared(op.Slice(x, *odd))
        return _turned(op, one, two, cos, sin, before, after)

    def unless(m):
        x, reason = dims(m.x), _no_angle(m)
        if reason is not None:
            return reason
        if [_every_other(numbers, x) for numbers in (m.even, m.odd)] != [(0, x[3] // 2), (1, x[3] // 2)]:
            return "the slices are not the first and the second of each pair"
        return None

    def rewrite(op, m):
        size = dims(m.x)[3]
        pairs = op.Reshape(_rotary(op, m, m.x, interleaved=1), np.array([0, 0, 0, size // 2, 2]))
        apart = op.Reshape(op.Transpose(pairs, perm=(0, 1, 2, 4, 3)), np.array([0, 0, 0, size]))
        return _among(op, m, apart)

    cases = [
        Case("DeepSeek's keys", x=f32["B", 1, "S", 4], cos=f32["B", 1, "S", 2], sin=f32["B", 1, "S", 2], even=_strided(0, 4),
             odd=_strided(1, 4), before=[], after=[]),
        Case("its queries", x=f32["B", 3, "S", 4], cos=f32[1, 1, "S", 2], sin=f32[1, 1, "S", 2], even=_strided(0, 4),
             odd=_strided(1, 4), before=[f32["B", 3, "S", 2]], after=[]),
        Case("heads on the other axis", x=f32["B", "S", 3, 4], cos=f32["B", "S", 1, 2], sin=f32["B", "S", 1, 2],
             even=_strided(0, 4), odd=_strided(1, 4), before=[], after=[f32["B", "S", 3, 1]]),
        Refused("the other way round", x=f32["B", 3, "S", 4], cos=f32["B", 1, "S", 2], sin=f32["B", 1, "S", 2],
                even=_strided(1, 4), odd=_strided(0, 4), before=[], after=[], because="first and the second"),
        Refused("an angle for each head", x=f32["B", 3, 5, 4], cos=f32["B", 3, 5, 2], sin=f32["B", 3, 5, 2],
                even=_strided(0, 4), odd=_strided(1, 4), before=[], after=[], because="one angle for each pair"),
    ]  # fmt: skip


@rule(group="rotary", safety=CLOSE("the same function, summed in another order"), since=23, emits="RotaryEmbedding")
class RotaryPairsTogether:
    """Pairs that are turned, each put back where it was, are RotaryEmbedding with ``interleaved``.

    Sound because that is its definition.
    """

    def pattern(op, x: Spec((F32, F16)), cos, sin, even: Many, odd: Many, u1: Const, u2: Const, joined):
        one, two = op.shared(op.Slice(x, *even)), op.shared(op.Slice(x, *odd))
        first, second = op.Sub(op.Mul(one, cos), op.Mul(two, sin)), op.Add(op.Mul(two, cos), op.Mul(one, sin))
        return op.Reshape(op.Concat(op.Unsqueeze(first, u1), op.Unsqueeze(second, u2), axis=-1), joined)

    def unless(m):
        x, reason = dims(m.x), _no_angle(m)
        if reason is not None:
            return reason
        if [_every_other(numbers, x) for numbers in (m.even, m.odd)] != [(0, x[3] // 2), (1, x[3] // 2)]:
            return "the slices are not the first and the second of each pair"
        if dims(m.root.inputs[0]) != (*x[:3], x[3] // 2, 2) or dims(m.root.outputs[0]) != x:
            return "a Reshape does not join pairs"
        return None

    def rewrite(op, m):
        return _rotary(op, m, m.x, interleaved=1)

    cases = [
        Case("heads first", x=f32["B", 3, "S", 4], cos=f32["B", 1, "S", 2], sin=f32["B", 1, "S", 2], even=_strided(0, 4),
             odd=_strided(1, 4), u1=np.array([4]), u2=np.array([-1]), joined=np.array([0, 0, -1, 4])),
        Case("sequence first", x=f32["B", "S", 3, 4], cos=f32["B", "S", 1, 2], sin=f32["B", "S", 1, 2], even=_strided(0, 4),
             odd=_strided(1, 4), u1=np.array([4]), u2=np.array([-1]), joined=np.array([0, 0, -1, 4])),
        Refused("joined otherwise", x=f32["B", 3, "S", 4], cos=f32["B", 1, "S", 2], sin=f32["B", 1, "S", 2],
                even=_strided(0, 4), odd=_strided(1, 4), u1=np.array([4]), u2=np.array([4]), joined=np.array([0, 3, -1, 2]),
                because="join pairs"),
        Refused("the other way round", x=f32["B", 3, "S", 4], cos=f32["B", 1, "S", 2], sin=f32["B", 1, "S", 2],
                even=_strided(1, 4), odd=_strided(0, 4), u1=np.array([4]), u2=np.array([4]), joined=np.array([0, 0, -1, 4]),
                because="first and the second"),
    ]  # fmt: skip


PARTS = {"low": _part(0, 2), "high": _part(2, 4), "sizes": np.array([2, 2]), "split": 3}


@rule(group="rotary", safety=CLOSE("the same function, summed in another order"), since=23, emits="RotaryEmbedding")
class RotaryHalvesApart:
    """Both halves turned on their own and put together are RotaryEmbedding.

    Sound because that is its definition: a pair is an entry of the first half and the one at its place in the second.
    """

    def pattern(op, x: Spec((F32, F16)), cos, sin, sizes: Const, low: Many, high: Many, before: Many, after: Many, split):
        first, second = op.Split(x, sizes, axis=split, outputs=2)
        one = op.either(op.shared(first), op.shared(op.Slice(x, *low)))
        two = op.either(op.shared(second), op.shared(op.Slice(x, *high)))
        return _turned(op, one, two, cos, sin, before, after)

    def unless(m):
        x, reason = dims(m.x), _no_angle(m)
        if reason is not None:
            return reason
        half = x[3] // 2
        if m.sizes is not None and (elements(m.sizes) != (half, half) or m.split not in (3, -1)):
            return "the parts are not the halves of each head"
        for numbers, start in ((m.low, 0), (m.high, half)):
            if numbers and s.cut(numbers, x) != (3, start, start + half):
                return "the parts are not the halves of each head"
        return None

    def rewrite(op, m):
        return _among(op, m, _rotary(op, m, m.x))

    cases = [
        Case("GPT-OSS", x=f32["B", 3, "S", 4], cos=f32["B", 1, "S", 2], sin=f32["B", 1, "S", 2], **PARTS, before=[], after=[]),
        Case("behind others", x=f32["B", "S", 3, 4], cos=f32[1, "S", 1, 2], sin=f32[1, "S", 1, 2], **PARTS,
             before=[f32["B", "S", 3, 1]], after=[]),
        Refused("an angle for each head", x=f32["B", 3, 5, 4], cos=f32["B", 3, 5, 2], sin=f32["B", 3, 5, 2], **PARTS, before=[],
                after=[], because="one angle for each pair"),
    ]  # fmt: skip


@rule(group="rotary", safety=CLOSE("the same function, summed in another order"), since=23, emits="RotaryEmbedding")
class RotaryHalvesApartOfOne:
    """The same of one sequence, which has no axis for a batch.

    Sound because such an axis may be put in front and taken away again.
    """

    def pattern(op, x: Spec((F32, F16)), cos, sin, sizes: Const, low: Many, high: Many):
        first, second = op.Split(x, sizes, axis=2, outputs=2)
        one = op.either(op.shared(first), op.shared(op.Slice(x, *low)))
        two = op.either(op.shared(second), op.shared(op.Slice(x, *high)))
        return _turned(op, one, two, cos, sin, (), ())

    def unless(m):
        x, cos = dims(m.x), dims(m.cos)
        if x is None or cos is None or cos != dims(m.sin) or not len(x) == len(cos) == 3 or x[2] != 2 * cos[2]:
            return "the tables are not known to hold one angle for each pair of a token's heads"
        m.axis = next((a for a in (0, 1) if cos[a] == 1 and cos[1 - a] == x[1 - a]), None)
        if m.axis is None or not isinstance(cos[2], int):
            return "the tables are not known to hold one angle for each pair of a token's heads"
        half = cos[2]
        if m.sizes is not None and elements(m.sizes) != (half, half):
            return "the parts are not the halves of each head"
        if any(numbers and s.cut(numbers, x) != (2, n, n + half) for numbers, n in ((m.low, 0), (m.high, half))):
            return "the parts are not the halves of each head"
        return None

    def rewrite(op, m):
        front, swap = np.array([0]), (0, 2, 1, 3)
        x = op.Unsqueeze(m.x, front)
        tables = [table if m.axis == 0 else op.Transpose(table, perm=(1, 0, 2)) for table in (m.cos, m.sin)]
        turned = op.RotaryEmbedding(x if m.axis == 0 else op.Transpose(x, perm=swap), *tables)
        return op.Squeeze(turned if m.axis == 0 else op.Transpose(turned, perm=swap), front)

    cases = [
        Case("tokens first", x=f32["S", 3, 4], cos=f32["S", 1, 2], sin=f32["S", 1, 2], sizes=np.array([2, 2]),
             low=_part(0, 2, 2), high=_part(2, 4, 2)),
        Case("heads first", x=f32[3, "S", 4], cos=f32[1, "S", 2], sin=f32[1, "S", 2], sizes=np.array([2, 2]),
             low=_part(0, 2, 2), high=_part(2, 4, 2)),
        Refused("an angle for each head", x=f32[5, 3, 4], cos=f32[5, 3, 2], sin=f32[5, 3, 2], sizes=np.array([2, 2]),
                low=_part(0, 2, 2), high=_part(2, 4, 2), because="one angle for each pair"),
    ]  # fmt: skip
