"""Attention of many queries to many keys without a mask is MultiHeadAttention, whose kernel never holds all scores at once.

The standard operator's kernel writes the scores of all queries and keys to memory and reads them again: from about 1,000 of each
on that is what takes the time (1,500 frames of speech in 6 heads are 54 MB of scores, an image's 4,096 places in 8 heads 537 MB).
The kernel of com.microsoft::MultiHeadAttention goes through blocks of keys that stay in the cache (FlashAttention, Dao et al.
2022), as long as there is no mask. With fewer it is the slower of the two, so where sizes are not known nothing is done.
"""

from __future__ import annotations

from .. import ir
from ..analysis import shapes
from ..passes import Context
from .kernels import PAYS, Kernels

DOMAIN = "com.microsoft"
NAME = "attention without a mask"
"""How the table of kernels calls it."""
MANY = 1024
"""Queries and keys from which on it is done, if the table does not say that it is slower."""
_ALLOWED = {"q_num_heads", "kv_num_heads", "scale"}


def run(model: ir.Model, ctx: Context, by: str, kernels: Kernels) -> int:
    """Write such attentions so; the number that changed."""
    changes = 0
    for graph in ir.all_graphs(model, functions=False):
        for node in list(graph):
            size = _size(node)
            if size is None or min(size["queries"], size["keys"]) < MANY or (kernels.near(NAME, size) or 1.0) < PAYS:
                continue
            model.opset_imports.setdefault(DOMAIN, 1)
            node.domain, node.op_type, heads = DOMAIN, "MultiHeadAttention", size["heads"]
            for name in ("q_num_heads", "kv_num_heads"):
                del node.attributes[name]
            node.attributes["num_heads"] = ir.make_attr("num_heads", heads)
            ctx.record(by, ir.site(node), f"as MultiHeadAttention: {size['queries']:,} queries, {size['keys']:,} keys, no mask")
            changes += 1
    return changes


def _size(node: ir.Node) -> dict[str, int] | None:
    """Queries, keys, heads and their size of an attention of the plainest kind; None of any other."""
    if (node.domain, node.op_type) != ("", "Attention") or set(node.attributes) - _ALLOWED:
        return None
    if any(v is not None for v in node.inputs[3:]) or len(node.outputs) > 1:
        return None
    heads = ir.attr(node, "q_num_heads", 0)
    q, k, v = node.inputs[:3]
    if not heads or heads != ir.attr(node, "kv_num_heads", 0) or q is None or k is None or v is None:
        return None
    known = [shapes.dims(q), shapes.dims(k)]
    if any(x.dtype != ir.DataType.FLOAT for x in (q, k, v)) or any(s is None or len(s) != 3 for s in known):
        return None
    (_, queries, width), (_, keys, _) = known  # type: ignore[misc]
    if not all(isinstance(n, int) for n in (queries, keys, width)):
        return None
    return {"queries": int(queries), "keys": int(keys), "heads": heads, "size": int(width) // heads}  # type: ignore[arg-type]
