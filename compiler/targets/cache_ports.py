"""Attentions that keep a cache, for TensorRT, whose parser takes the standard's Attention with one output and no past.

Past and new keys and values are put together by Concat, which gives the present ones, and the attention reads those. Where it
was causal it gets a mask: a query sees the keys up to its own place, which is past those of the cache.

Sound because that is how the standard defines the operator's cache (Attention-23), and its ``is_causal`` beside one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ir
from ..analysis import shapes
from ..passes import Context
from ..passes.edit import Names, constant


def run(model: ir.Model, ctx: Context, by: str) -> int:
    """Write the caches out, in the main graph; the number of attentions changed."""
    found = [n for n in model.graph if _kept(n)]
    work = _Work(model) if found else None
    for node in found:
        assert work is not None
        work.write(node)
        ctx.record(by, ir.site(node), "its cache is written as Concat, since the target's Attention has none")
    return len(found)


def _kept(node: ir.Node) -> bool:
    """Is it an attention with past keys and values, of known heads, that gives nothing of its scores?"""
    if node.domain != "" or node.op_type != "Attention" or len(node.inputs) < 6 or len(node.outputs) < 3:
        return False
    shape = None if node.inputs[0] is None else shapes.dims(node.inputs[0])
    heads = all(ir.attr(node, name, 0) for name in ("q_num_heads", "kv_num_heads"))
    if shape is None or not (len(shape) == 4 or (len(shape) == 3 and heads)):
        return False
    more = any(v is not None for v in node.inputs[6:]) or any(o.uses() or o.is_graph_output() for o in node.outputs[3:])
    return not more and all(v is not None for v in node.inputs[4:6])


class _Work:
    def __init__(self, model: ir.Model) -> None:
        self.model, self.graph, self.names = model, model.graph, Names(model)
        self.before: ir.Node
        self.known: dict[Any, ir.Value] = {}

    def write(self, node: ir.Node) -> None:
        self.before = node
        q, k, v, mask, past_k, past_v = node.inputs[:6]
        assert q is not None
        assert past_k is not None
        flat = len(shapes.dims(q) or ()) == 3
        many, few = (ir.attr(node, name, 0) for name in ("q_num_heads", "kv_num_heads"))
        if flat:
            q, k, v = (self.heads(x, count) for x, count in ((q, many), (k, few), (v, few)))
        whole = [self.node("Concat", [past, new], axis=2) for past, new in ((past_k, k), (past_v, v))]
        if ir.attr(node, "is_causal", 0):
            mask = self.causal(q, whole[0], mask)
        keep = {name: a for name, a in node.attributes.items() if name not in ("q_num_heads", "kv_num_heads", "is_causal")}
        made = self.node("Attention", [q, *whole, *([mask] if mask is not None else [])], **keep)
        attention = made.producer()
        assert attention is not None
        attention.metadata_props.update(node.metadata_props)
        if flat:
            made = self.node("Reshape", [self.node("Transpose", [made], perm=[0, 2, 1, 3]), self.vector(0, 0, -1)])
        for old, new in zip(node.outputs[:3], (made, *whole), strict=True):
            new.type, new.shape = old.type, old.shape
            if old.name and (old.uses() or old.is_graph_output()):
                ir.replace_value(old, new)
        name, node.name = node.name, None
        self.graph.remove(node, safe=True)
        attention.name = name

    def heads(self, x: ir.Value | None, count: int) -> ir.Value:
        """[batch, tokens, heads * width] as [batch, heads, tokens, width]."""
        return self.node("Transpose", [self.node("Reshape", [x, self.vector(0, 0, count, -1)])], perm=[0, 2, 1, 3])

    def causal(self, q: ir.Value, keys: ir.Value, mask: ir.Value | None) -> ir.Value:
        """The mask [queries, keys] of a causal attention, and what ``mask`` [.., queries, keys] lets through besides."""
        total, new = (self.node("Squeeze", [self.node("Shape", [x], start=2, end=3)]) for x in (keys, q))
        zero, one = (self.constant(np.array(i, np.int64)) for i in (0, 1))
        places = self.node("Range", [zero, total, one])
        own = self.node("Range", [self.node("Sub", [total, new]), total, one])
        seen = self.node("LessOrEqual", [places, self.node("Unsqueeze", [own, self.vector(1)])])
        if mask is None:
            return seen
        if mask.dtype == ir.DataType.BOOL:
            return self.node("And", [mask, seen])
        assert mask.dtype is not None
        return self.node("Where", [seen, mask, self.constant(np.array(-np.inf, mask.dtype.numpy()))])

    def node(self, op: str, inputs: list[ir.Value | None], **attributes: Any) -> ir.Value:
        new = ir.make_node(op, inputs, attributes)
        self.graph.insert_before(self.before, new)
        new.outputs[0].name = self.names.value(op.lower())
        new.name = self.names.node(f"{op}_{new.outputs[0].name}")
        shapes.infer_node(new, self.model)
        return new.outputs[0]

    def vector(self, *numbers: int) -> ir.Value:
        return self.constant(np.array(numbers, np.int64))

    def constant(self, a: np.ndarray) -> ir.Value:
        key = a.dtype, a.shape, a.tobytes()
        if key not in self.known:
            self.known[key] = constant(self.graph, self.names, "size", a)
        return self.known[key]
