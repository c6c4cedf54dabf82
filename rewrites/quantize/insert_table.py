"""Tables of embeddings with rounded rows."""

import numpy as np
from olc.quantization import BLOCK, all_finite, nearest_blocks, pack
from olc.rules import LOSSY, Case, Const, Refused, Spec, array, f32, i32, i64, rule

indices = Spec((*i32.dtypes, *i64.dtypes))
SMALLEST = 1 << 16
"""Numbers below which a table is too small for its bytes to matter."""


@rule(group="quantize", targets=("onnxruntime-cpu",), safety=LOSSY("rows of a table are rounded to 8 bits in blocks"))
class Int8BlockTable:
    """A table of embeddings in 8 bits, a scale and zero point for each 64 numbers of a row.

    Each row is read once for a token, so it is no faster; a quarter of the table's bytes is left, of memory and of the file.
    An index beyond the table, at which Gather fails, gives a row of zeros.
    """

    def pattern(op, table: Const[f32["rows", "columns"]], ids: indices):
        return op.Gather(table, ids, axis=0)

    def unless(m):
        w = array(m.table)
        if w.size < SMALLEST or w.shape[1] < BLOCK:
            return f"the table is {w.shape[0]} x {w.shape[1]}, too small to gain"
        if not all_finite(w):
            return "the table holds numbers that are not finite"

    def rewrite(op, m):
        held = pack(nearest_blocks(array(m.table).T, 8))
        rows = held.weight.reshape(len(held.weight), -1)[:, : array(m.table).shape[1]]
        return op.domain("com.microsoft").GatherBlockQuantized(
            np.ascontiguousarray(rows), m.ids, held.scale, held.zero, bits=8, block_size=BLOCK, gather_axis=0, quantize_axis=1
        )

    cases = [
        Case("words", table=f32[1024, 96], ids=i64["B", "S"]),
        Case("one block", table=f32[1024, 64], ids=i32[()]),
        Refused("token types", table=f32[2, 384], ids=i64["B", "S"], because="too small to gain"),
        Refused("infinite", table=np.full((1024, 64), np.inf, np.float32), ids=i64["N"], because="not finite"),
    ]  # fmt: skip
