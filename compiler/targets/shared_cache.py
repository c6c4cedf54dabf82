"""Attention with a cache as an operator that writes the cache in place, where past and present are one buffer.

ONNX's Attention copies the whole cache at each step, from past to present. ``GroupQueryAttention`` writes only the new
tokens where a caller binds one buffer to both; then the past's shape is the buffer's, and says nothing about the tokens
in use. So these are taken from the attention mask, everywhere: it has one entry for each key. What the mask means is given
as an added number, 0 or the least float; the operator itself is causal, which is proved of the mask first.

The artifact runs the ordinary way too, with pasts of exact length. It says in its metadata how the number of tokens is told
(``decoding.SHARED``), and ``olc.decoder`` shares the buffers.

Sound because the operator's keys are the cache's first T - S and the S new ones, T being the entries of the mask
(``mask-covers-keys``), and because a key that the condition excludes has weight exp(least - max) = 0. A query without any key
gets a mean of values in place of 0 (``mask-keeps-a-key``, unless the mask is proved to keep one); it must not be NaN, which
would enter the cache.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .. import ir
from ..analysis import dims as d
from ..analysis import shapes
from ..analysis.functions import Functions, coordinate, keeps_a_key
from ..assumptions import KEEPS_A_KEY
from ..decoding import SHARED
from ..errors import Unsupported
from ..passes import Context
from ..passes.masks import past_length, scores_shape
from ..passes.size_queries import Inexpressible, Queries

NAME = "shared_cache"
DOMAIN = "com.microsoft"
OPERATOR = "GroupQueryAttention"
NO_MASK = "no input (an attention mask) has an entry for each key, to tell how many are in use"
HINT = "compile without the shared cache: the loop of olc.decoder runs either form"
_PLAIN = {"scale", "q_num_heads", "kv_num_heads", "softmax_precision"}
"""Attributes of Attention that are carried over, or do nothing here."""


def run(model: ir.Model, ctx: Context) -> int:
    """Give the main graph's attentions with a cache the shared form; the number that changed. All of them, or an error.

    Raises:
        Unsupported: the target lacks the operator, there is no cache, or an attention is not of a form that it has.
            The model is as it was.
    """
    if SHARED in model.metadata_props:
        return 0
    shapes.infer(model)
    where = model.graph.name or None
    form = None if ctx.target is None else ctx.target.table.signature(OPERATOR, DOMAIN, 1)
    if form is None or "query_seqlens" not in [p.name for p in form.inputs]:
        raise Unsupported(f"the target has no {OPERATOR} that takes chunks of tokens in a batch", where=where, hint=HINT)
    runs = None if ctx.target is None else ctx.target.table.supports(OPERATOR, DOMAIN, 1, {"T": "float", "T_CACHE": "float"})
    if not runs:  # in float16 caches would be cast, and no longer be one buffer
        raise Unsupported(f"the target's {OPERATOR} has no kernel of float32", where=where, hint=HINT)
    found = [n for n in model.graph if n.domain == "" and n.op_type == "Attention" and len(n.inputs) > 5 and n.inputs[4]]
    if not found:
        raise Unsupported("no attention keeps a cache", where=where, hint=f"export the model with its cache, or {HINT}")
    sizes = Queries(model, ctx)
    facts = [_read(node, sizes, ctx) for node in found]
    queries = _asked(facts, sizes)
    if len({(f.total, f.batch, f.new) for f in facts}) != 1:
        raise Unsupported("attentions differ in the inputs that tell their numbers of tokens", where=where, hint=HINT)
    _Write(model, ctx, sizes, facts[0]).run(facts, queries)
    return len(found)


@dataclass(frozen=True)
class _Facts:
    """An attention with a cache.

    Attributes:
        total: input and axis with an entry for each key.
        batch, new: sizes of its queries.
    """

    node: ir.Node
    mask: ir.Value
    total: tuple[ir.Value, int]
    batch: d.Dim
    new: d.Dim
    assumed: frozenset[str]


def _read(node: ir.Node, sizes: Queries, ctx: Context) -> _Facts:
    """What there is to know of an attention, which is proved to be of the form that the operator has."""

    def refuse(why: str) -> Unsupported:
        return Unsupported(f"the cache of {ir.site(node)} cannot be shared: {why}", hint=HINT)

    q, k, v = (None if x is None else shapes.dims(x) for x in node.inputs[:3])
    if any(x is None or x.dtype != ir.DataType.FLOAT for x in (*node.inputs[:3], *node.inputs[4:6])):
        raise refuse("it is not in float32")
    few = ir.attr(node, "kv_num_heads", 0)
    if q is None or k is None or v is None or len(q) != 3 or k != v or not few or not isinstance(k[2], int):
        raise refuse("queries, keys and values are not [batch, tokens, width], of one width of heads")
    if (k[2] // few) % 8:
        raise refuse(f"heads are {k[2] // few} wide, no multiple of 8")
    mask, bounds = node.inputs[3], scores_shape(node)
    if mask is None:
        raise refuse(NO_MASK)
    odd = sorted(name for name in node.attributes.keys() - _PLAIN if ir.attr(node, name))
    if odd or any(x is not None for x in node.inputs[6:]) or len(node.outputs) < 3 or any(o.name for o in node.outputs[3:]):
        raise refuse(f"it uses {odd[0] if odd else 'inputs or outputs'} that the operator lacks")
    for past, present in zip(node.inputs[4:6], node.outputs[1:3], strict=True):
        assert past is not None
        if not past.is_graph_input() or not present.is_graph_output() or present.uses():
            raise refuse("past and present are not an input and an output of the model, and nothing else")
    shape = shapes.dims(mask)
    if bounds is None or mask.dtype != ir.DataType.BOOL or shape is None or len(shape) != 4:
        raise refuse("it has no mask of conditions")
    functions = Functions(bounds)
    condition = functions.condition(mask, tuple(coordinate(i) for i in range(4)))
    causal = functions.clause("ge", d.sub(d.add(coordinate(2), past_length(node)), coordinate(3)))
    if not causal.clauses <= condition.clauses:
        raise refuse(f"its mask is not known to hide later tokens: {condition}")
    total = _total(functions)
    if total is None:
        raise refuse(NO_MASK)
    assumed = functions.assumed | (set() if keeps_a_key(mask, bounds) else {KEEPS_A_KEY})
    forbidden = ctx.why_not(assumed)
    if forbidden:
        raise refuse(forbidden)
    if shape[2:] != bounds[2:] and (shape[2] == 1 or shape[3] == 1):
        raise refuse("its mask has not an entry for each query and key")
    try:
        sizes.vector((bounds[0],))
    except Inexpressible:
        raise refuse("the size of a batch is not told by the inputs") from None
    if bounds[2] not in sizes.place:
        raise refuse("no input has an axis for the new tokens")
    return _Facts(node, mask, total, bounds[0], bounds[2], frozenset(assumed))


def _total(functions: Functions) -> tuple[ir.Value, int] | None:
    """The input, and its axis, of which a condition reads an entry for each key."""
    for read in functions.reads.values():
        if read.value.is_graph_input() and coordinate(3) in read.at:
            axis, shape = read.at.index(coordinate(3)), shapes.dims(read.value)
            if shape is not None and functions.covers(coordinate(3), shape[axis]):
                return read.value, axis
    return None


def _asked(facts: Sequence[_Facts], sizes: Queries) -> list[ir.Node]:
    """The Shape nodes that ask a past for its length, which is that of the buffer from now on.

    Raises:
        Unsupported: a past is read otherwise.
    """
    found = []
    for past in dict.fromkeys(x for f in facts for x in f.node.inputs[4:6]):
        assert past is not None
        for user, i in past.uses():
            if user.op_type == "Attention" and user.domain == "" and i in (4, 5) and user in [f.node for f in facts]:
                continue
            shape = shapes.dims(past) or ()
            start, end, _ = slice(ir.attr(user, "start", 0), ir.attr(user, "end")).indices(len(shape))
            asks = user.op_type == "Shape" and user.domain == "" and ir.owner(user) is sizes.graph
            if asks and (start, end) == (2, 3):
                found.append(user)
            elif not asks or start <= 2 < end:
                raise Unsupported(f"{past.name!r} is read by {ir.site(user)}, which expects its exact length", hint=HINT)
    return found


class _Write:
    def __init__(self, model: ir.Model, ctx: Context, sizes: Queries, facts: _Facts) -> None:
        self.model, self.ctx, self.sizes, self.graph = model, ctx, sizes, model.graph
        self.first = next(iter(model.graph))
        (value, axis), one = facts.total, ir.DataType.INT32
        total = self.node("Shape", [value], start=axis or None, end=axis + 1)
        batch, new = (self.sizes.build(self.sizes.vector((n,)), self.first) for n in (facts.batch, facts.new))
        self.past = self.node("Sub", [total, new])
        total32, new32 = (self.node("Cast", [v], to=int(one)) for v in (total, new))
        self.total = self.node("Squeeze", [total32])
        self.last = self.node("Expand", [self.node("Sub", [total32, self.constant(np.array([1], np.int32))]), batch])
        self.new = self.node("Expand", [new32, batch])
        self.biases: dict[ir.Value, ir.Value] = {}

    def run(self, facts: Sequence[_Facts], queries: Sequence[ir.Node]) -> None:
        for query in queries:
            ir.replace_value(query.outputs[0], self.past)
            self.graph.remove(query, safe=True)
        for f in facts:
            self.attention(f)
        told = {"total": facts[0].total, "new": self.sizes.place[facts[0].new]}
        self.model.metadata_props[SHARED] = json.dumps({key: [value.name, axis] for key, (value, axis) in told.items()})
        self.model.opset_imports.setdefault(DOMAIN, 1)
        self.graph.sort()
        shapes.infer(self.model)

    def attention(self, facts: _Facts) -> None:
        old = facts.node
        bias = self.bias(facts.mask, old)
        inputs = [*old.inputs[:3], *old.inputs[4:6], self.last, self.total, *[None] * 3, bias, *[None] * 5, self.new]
        attributes = {
            "num_heads": ir.attr(old, "q_num_heads"), "kv_num_heads": ir.attr(old, "kv_num_heads"),
            "scale": ir.attr(old, "scale"),
        }  # fmt: skip
        new = ir.make_node(OPERATOR, inputs, attributes, domain=DOMAIN, outputs=3, name=old.name)
        new.metadata_props.update(old.metadata_props)
        self.graph.insert_before(old, new)
        for before, after in zip(old.outputs, new.outputs, strict=False):
            name, kept = before.name, (before.type, before.shape)
            ir.replace_value(before, after)
            after.name, (after.type, after.shape) = name, kept
        self.graph.remove(old, safe=True)
        self.ctx.relied.update(facts.assumed)
        self.ctx.record(NAME, new.name, "the cache is written in place where past and present share a buffer")

    def bias(self, mask: ir.Value, before: ir.Node) -> ir.Value:
        """0 where the condition holds, else the least float: one for all attentions of a mask."""
        if mask not in self.biases:
            keep, drop = (self.constant(np.array(x, np.float32)) for x in (0, np.finfo(np.float32).min))
            self.biases[mask] = self.node("Where", [mask, keep, drop], before)
        return self.biases[mask]

    def node(self, op: str, inputs: Sequence[ir.Value], before: ir.Node | None = None, **attributes: int | None) -> ir.Value:
        new = ir.make_node(op, list(inputs), {k: v for k, v in attributes.items() if v is not None})
        self.graph.insert_before(before if before is not None else self.first, new)
        new.outputs[0].name = self.sizes.names.value("cache")
        new.name = self.sizes.names.node(f"{op}_{new.outputs[0].name}")
        shapes.infer_node(new, self.model)
        return new.outputs[0]

    def constant(self, data: np.ndarray) -> ir.Value:
        value = ir.make_constant(data, name=self.sizes.names.value("cache"))
        self.graph.register_initializer(value)
        return value
