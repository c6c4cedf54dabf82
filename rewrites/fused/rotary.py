"""RotaryEmbedding of ONNX Runtime's domain as the standard's."""

from olc.rules import CLOSE, Case, Const, Refused, array, dims, f16, f32, i64, rule

from .._helpers import narrow_floats
from ._common import MS

_TABLES = {"cos": f32[16, 4], "sin": f32[16, 4], "packed": None, "scale": None, "part": None}


@rule(group="fused", safety=CLOSE("the same products, rounded elsewhere"), since=23)
class StandardRotaryEmbedding:
    """RotaryEmbedding of ONNX Runtime's domain is the standard's, of the rows of its tables at the positions.

    Sound because it is the same function: positions that lie outside of the tables end the run of either. One position from
    which all tokens count on stays, and so do texts that are packed.
    """

    def pattern(op, x: narrow_floats, positions: i64["B", "S"], cos: Const, sin: Const, interleaved, heads, part, packed, scale):
        return op.domain(MS).RotaryEmbedding(
            x, positions, cos, sin, interleaved=interleaved, num_heads=heads, rotary_embedding_dim=part,
            is_packed_batching=packed, scale=scale,
        )  # fmt: skip

    def unless(m):
        if m.packed or m.scale not in (None, 1.0):
            return "it packs texts, or scales"
        d, tables = dims(m.x), array(m.cos).shape
        if d is None or len(d) not in (3, 4) or len(tables) != 2 or array(m.sin).shape != tables:
            return "the input is not known to have 3 or 4 axes, or the tables 2"
        if (d[0], d[-2]) != dims(m.positions):
            return "it is not known that each token has a position"
        size, part = 2 * tables[1], m.part or 0
        if len(d) == 4:
            m.attrs = {}
            whole = d[3]
        else:
            if not isinstance(d[2], int) or (part and not m.heads):
                return "the size of heads is unknown"
            heads = m.heads if part else d[2] // size
            if not heads or d[2] % heads:
                return "the size of heads is unknown"
            m.attrs, whole = {"num_heads": heads}, d[2] // heads
        if part and part != whole:
            m.attrs["rotary_embedding_dim"] = part
        if size != (part or whole):
            return "the tables are not of the size of heads"
        if m.interleaved:
            m.attrs["interleaved"] = 1
        return None

    def rewrite(op, m):
        return op.RotaryEmbedding(m.x, op.Gather(m.cos, m.positions), op.Gather(m.sin, m.positions), **m.attrs)

    cases = [
        Case("Llama", x=f32["B", "S", 16], positions=i64["B", "S"], **_TABLES, interleaved=0, heads=None),
        Case("heads apart", x=f32["B", 2, "S", 8], positions=i64["B", "S"], **_TABLES, interleaved=1, heads=0),
        Case("a part of each head", x=f32["B", "S", 24], positions=i64["B", "S"], **(_TABLES | {"part": 8}), interleaved=0,
             heads=2),
        Case("half precision", x=f16["B", "S", 16], positions=i64["B", "S"], **(_TABLES | {"cos": f16[16, 4], "sin": f16[16, 4]}),
             interleaved=0, heads=2),
        Refused("from one position on", x=f32["B", "S", 16], positions=i64[1, 1], **_TABLES, interleaved=0, heads=None,
                because="each token has a position"),
        Refused("scaled", x=f32["B", "S", 16], positions=i64["B", "S"], **(_TABLES | {"scale": 2.0}), interleaved=0, heads=None,
                because="or scales"),
        Refused("narrow tables", x=f32["B", 2, "S", 12], positions=i64["B", "S"], **_TABLES, interleaved=0, heads=None,
                because="not of the size of heads"),
        Refused("five axes", x=f32["B", 2, 2, "S", 8], positions=i64["B", "S"], **_TABLES, interleaved=0, heads=None,
                because="3 or 4 axes"),
        Refused("unknown size", x=f32["B", "S", "H"], positions=i64["B", "S"], **_TABLES, interleaved=0, heads=None,
                because="the size of heads is unknown"),
    ]  # fmt: skip
