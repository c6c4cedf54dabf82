"""RotaryEmbedding of all tokens but the first ones."""

import numpy as np
from olc.assumptions import FINITE
from olc.rules import CLOSE, Attrs, Case, Const, Many, Refused, array, dims, f32, rule

from .. import _shapes as s


def _times(op, table, times):
    """Pattern: a constant table, repeated for each sequence of the batch or not."""
    return op.either(op.shared(op.Expand(table, times)), table)


def _part(first, end, axis=2):
    return [np.array([n]) for n in (first, end, axis)]


PARTS = {"sizes": np.array([1, 4]), "first": _part(0, 1), "rest": _part(1, 5)}
TABLES = {"cos": f32[1, 4, 2], "sin": f32[1, 4, 2], "times": np.array([1, 1, 1])}


@rule(group="rotary", safety=CLOSE("a zero may lose its sign"), since=23)
class RotaryBehind:
    """RotaryEmbedding of all tokens but the first ones, joined with these, is one of all that turns the first by no angle.

    Sound because turning by no angle changes no finite number: the tables get cosines of 1 and sines of 0 in front. It is done
    to queries and keys of an Attention alone, which are assumed to be finite with its scores. DINOv3 turns patches only.
    """

    def pattern(op, x: f32, sizes: Const, first: Many, rest: Many, cos: Const, sin: Const, times, turn: Attrs, other,
                others: Many, attrs: Attrs):  # fmt: skip
        def whole(kept, moved):
            turned = op.RotaryEmbedding(moved, _times(op, cos, times), _times(op, sin, times), **turn)
            return op.Concat(kept, turned, axis=2)

        tokens = op.either(whole(*op.Split(x, sizes, axis=2, outputs=2)), whole(op.Slice(x, *first), op.Slice(x, *rest)))
        return op.either(op.Attention(tokens, other, *others, **attrs), op.Attention(other, tokens, *others, **attrs))

    def unless(m):
        x, cos = dims(m.x), dims(m.cos)
        if x is None or len(x) != 4:
            return "the operand is not known to be of heads"
        if len(m.root.outputs) > 1:
            return "it has other outputs"
        cuts = [s.cut(numbers, x) for numbers in (m.first, m.rest) if numbers]
        m.number = s.whole(m.sizes)[0] if m.sizes is not None else 0 if None in cuts else cuts[0][2]
        if not m.number or not isinstance(x[2], int) or (cuts and cuts != [(2, 0, m.number), (2, m.number, x[2])]):
            return "the tokens are not known to be the first and all others"
        if len(cos) != 3 or cos != dims(m.sin) or cos[1] != x[2] - m.number:
            return "the tables are not for each token of their own"
        m.assumes.add(FINITE)
        return None

    def rewrite(op, m):
        tables = []
        for table, number in ((m.cos, 1), (m.sin, 0)):
            a = array(table)
            longer = np.concatenate([np.full((a.shape[0], m.number, a.shape[2]), number, a.dtype), a], axis=1)
            if m.times is None:
                tables.append(longer)
            else:
                tables.append(op.Expand(longer, op.Concat(op.Shape(m.x, start=0, end=1), np.array([1, 1]), axis=0)))
        turned = op.RotaryEmbedding(m.x, *tables, **m.turn)
        pair = (turned, m.other) if m.root.inputs[1] is m.other else (m.other, turned)
        return op.Attention(*pair, *m.others, **m.attrs)

    cases = [
        Case("DINOv3", x=f32["B", 2, 5, 4], **PARTS, **TABLES, turn={}, other=f32["B", 2, 5, 4], others=[f32["B", 2, 5, 4]],
             attrs={"scale": 0.5}),
        Refused("unknown", x=f32["B", 2, "S", 4], **PARTS, **TABLES, turn={}, other=f32["B", 2, 5, 4],
                others=[f32["B", 2, 5, 4]], attrs={}, because="the first and all others"),
    ]  # fmt: skip
