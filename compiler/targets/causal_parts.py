"""Attention of many queries none of which sees a later key goes part by part: the first queries with the first keys, and so on.

ONNX Runtime's kernel computes all scores, of which a causal mask drops half. Queries, keys and values are split into parts along
the tokens; each part is an Attention whose cache is what the parts before it have seen, so the last one's cache is that of
the whole. Of the scores ``(PARTS + 1) / (2 * PARTS)`` are left, and those of one part stay in the processor's caches.

Sound because an entry that the mask drops counts as 0 in its row's softmax: a row is computed from the keys that it sees.

Where the number of queries is fixed it is done as the last step (``run``). Where it is open, as a prompt's, an If asks for it
(``fit`` and ``split``): that costs a step of one token something, so the strategy measures it (``strategy/quantize.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from .. import ir
from ..analysis import dims as d
from ..analysis import shapes
from ..passes import Context
from ..passes.edit import Names, constant
from ..passes.masks import RANK, causal, scores_shape
from ..rewriter import origins
from .kernels import PAYS, Kernels

NAME = "causal-parts"
TABLE = "causal attention in parts"
"""How the table of kernels calls it."""
PARTS = 8
PART_OF = "olc.part"
"""Key in a node's metadata: the attention that it is a part or a form of."""
MANY = 256
"""Queries from which on it is done, if the table does not say that it is slower. ``Split`` into ``PARTS`` leaves none empty."""
TARGETS = ("onnxruntime-cpu",)
"""Those whose kernel computes what a mask drops."""
_ALLOWED = {"q_num_heads", "kv_num_heads", "scale", "is_causal", "softcap", "softmax_precision"}


def run(model: ir.Model, ctx: Context, by: str, kernels: Kernels) -> int:
    """Split attentions whose number of queries is fixed; how many changed."""
    found = []
    for graph in ir.all_graphs(model, functions=False):
        for node in graph:
            size = _size(node)
            if size is not None and (kernels.near(TABLE, size) or 1.0) >= PAYS and _fits(node, ctx):
                found.append(node)
    names = Names(model) if found else None
    for node in found:
        ctx.relied.update(causal(node) or ())
        ctx.record(by, ir.site(node), f"in {PARTS} parts: no query sees a later key")
        place = ir.owner(node)
        assert names is not None
        assert place is not None
        parts = _Parts(model, names, node)
        place.insert_before(node, parts.nodes)
        for old, new in zip(node.outputs, parts.outputs, strict=False):
            name, new.type, new.shape = old.name, old.type, old.shape
            ir.replace_value(old, new)
            old.name, new.name = None, name
        place.remove(node, safe=True)
    return len(found)


def fit(model: ir.Model, ctx: Context) -> list[str]:
    """Names of the attentions, of which the number of queries is open, that can be split where it is large."""
    nodes, few = ir.sites(model), _few(model)
    return [name for name, found in nodes.items() if all(_open(n) and ir.owner(n) not in few and _fits(n, ctx) for n in found)]


def split(model: ir.Model, ctx: Context, sites: Collection[str]) -> int:
    """Give these attentions a second form for ``MANY`` queries and more; how many changed."""
    names: Names | None = None
    changes = 0
    for site, found in ir.sites(model).items():
        for node in found if site in sites else ():
            if not (_open(node) and _fits(node, ctx)):
                continue
            names = names or Names(model)
            ctx.relied.update(causal(node) or ())
            ctx.record(NAME, site, f"in {PARTS} parts from {MANY} queries on")
            _branch(model, names, node)
            changes += 1
    return changes


def _branch(model: ir.Model, names: Names, node: ir.Node) -> None:
    graph, site, wanted = ir.owner(node), ir.site(node), [v for v in node.outputs if v.name]
    assert graph is not None
    size = ir.make_node("Shape", [node.inputs[0]], {"start": 1, "end": 2})
    axes = constant(graph, names, "olc_first", np.array([0]))
    scalar = ir.make_node("Squeeze", [size.outputs[0], axes])
    test = ir.make_node("GreaterOrEqual", [scalar.outputs[0], constant(graph, names, "olc_many", np.array(MANY))])
    parts = _Parts(model, names, node)
    whole = ir.make_node(node.op_type, list(node.inputs), dict(node.attributes), outputs=len(node.outputs))
    for old, made in zip(node.outputs, whole.outputs, strict=True):
        made.name, made.type, made.shape = names.value(f"{old.name}_whole") if old.name else old.name, old.type, old.shape
    for old, made in zip(node.outputs, parts.outputs, strict=False):
        made.type, made.shape = old.type, old.shape
    many = ir.Graph([], parts.outputs[: len(wanted)], nodes=parts.nodes, name=names.value(f"{site}_many"))
    few = ir.Graph([], whole.outputs[: len(wanted)], nodes=[whole], name=names.value(f"{site}_few"))
    choice = ir.make_node("If", [test.outputs[0]], {"then_branch": many, "else_branch": few}, outputs=len(wanted))
    before = [size, scalar, test]
    graph.insert_before(node, [*before, choice])
    for n, what in zip(before, ("queries", "count", "many"), strict=True):
        n.outputs[0].name = names.value(f"{site}_{what}")
        shapes.infer_node(n, model)
    for old, new in zip(wanted, choice.outputs, strict=True):
        new.type, new.shape = old.type, old.shape
    shapes.infer_node(choice, model)
    for old, new in zip(wanted, choice.outputs, strict=True):
        name = old.name
        ir.replace_value(old, new)
        old.name, new.name = None, name
    whole.name, node.name = names.node(f"{site}_whole"), None
    choice.name = site
    whole.metadata_props[PART_OF] = site
    for n in (*before, choice, whole):
        n.metadata_props.update(node.metadata_props)
        n.metadata_props["olc.from"] = ",".join(origins(node)) or site
        n.name = n.name or names.node(n.outputs[0].name or "")
    graph.remove(node, safe=True)


class _Parts:
    """The nodes of an attention in parts, not yet in a graph; ``outputs`` are the result and both caches."""

    def __init__(self, model: ir.Model, names: Names, node: ir.Node) -> None:
        self.model, self.names, self.node, self.site = model, names, node, ir.site(node)
        self.nodes: list[ir.Node] = []
        q, k, v, mask, *past = (*node.inputs, *[None] * 6)[:6]
        split = [self.parts(x, 1) for x in (q, k, v) if x is not None]
        masks: Sequence[ir.Value | None] = [None] * PARTS if mask is None else self.masks(mask, split[0][0], past[0])
        made: list[ir.Value] = []
        caches: Sequence[ir.Value | None] = past
        for i in range(PARTS):
            inputs = [split[0][i], split[1][i], split[2][i], masks[i], *caches]
            while inputs[-1] is None:
                inputs.pop()
            y, *caches = self.add("Attention", inputs, dict(node.attributes), 3, f"part_{i}")
            made.append(y)
        self.outputs = [*self.add("Concat", made, {"axis": 1}, 1, "parts"), *(v for v in caches if v is not None)]

    def masks(self, mask: ir.Value, first: ir.Value, past: ir.Value | None) -> list[ir.Value]:
        """The mask of each part: its queries, and the keys up to its last one."""
        graph = self.model.graph
        rank = len(shapes.dims(mask) or ())
        rows = self.parts(mask, rank - 2)
        (count,) = self.add("Shape", [first], {"start": 1, "end": 2}, 1, "count")
        before = None if past is None else self.add("Shape", [past], {"start": 2, "end": 3}, 1, "before")[0]
        start, axis = (constant(graph, self.names, f"olc_{n}", np.array([n])) for n in (0, rank - 1))
        cut = []
        for i, row in enumerate(rows[:-1], 1):
            times = constant(graph, self.names, f"olc_{i}", np.array([i]))
            (end,) = self.add("Mul", [count, times], {}, 1, "end")
            end = end if before is None else self.add("Add", [end, before], {}, 1, "keys")[0]
            cut += self.add("Slice", [row, start, end, axis], {}, 1, f"mask_{i - 1}")
        return [*cut, rows[-1]]

    def parts(self, x: ir.Value, axis: int) -> list[ir.Value]:
        return self.add("Split", [x], {"axis": axis, "num_outputs": PARTS}, PARTS, "split")

    def add(
        self, op: str, inputs: Sequence[ir.Value | None], attributes: dict[str, object], outputs: int, what: str
    ) -> list[ir.Value]:
        new = ir.make_node(op, list(inputs), attributes, outputs=outputs)
        for v in new.outputs:
            v.name = self.names.value(f"{self.site}_{what}")
        new.name = self.names.node(f"{self.site}_{what}")
        new.metadata_props.update(self.node.metadata_props | {PART_OF: self.site})
        new.metadata_props["olc.from"] = ",".join(origins(self.node)) or self.site
        shapes.infer_node(new, self.model)
        self.nodes.append(new)
        return list(new.outputs)


def _is_part(node: ir.Node) -> bool:
    """Is it a part itself? Its queries are split along the tokens."""
    split = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    return split is not None and split.op_type == "Split" and ir.attr(split, "axis", 0) in (1, -2)


def _few(model: ir.Model) -> set[ir.Graph]:
    """Branches that run for few queries: the other branch of their If is in parts."""
    found: set[ir.Graph] = set()
    for node in ir.nodes_once(model):
        ways = list(ir.subgraphs(node)) if (node.domain, node.op_type) == ("", "If") else []
        if any(n.op_type == "Attention" and _is_part(n) for way in ways for n in way):
            found.update(ways)
    return found


def _open(node: ir.Node) -> bool:
    q = None if not node.inputs or node.inputs[0] is None else shapes.dims(node.inputs[0])
    return q is not None and len(q) == 3 and not isinstance(q[1], int)


def _fits(node: ir.Node, ctx: Context) -> bool:
    """Is it an attention, of three axes, of which it is known that no query sees a later key?"""
    if (node.domain, node.op_type) != ("", "Attention") or set(node.attributes) - _ALLOWED:
        return False
    if any(v is not None for v in node.inputs[6:]) or any(v.name for v in node.outputs[3:]):
        return False
    if not node.outputs[0].name or len({bool(v.name) for v in node.outputs[1:3]}) > 1:
        return False  # the kernel that reads a cache writes both
    if _is_part(node) or any(f"{NAME}{at}" in ctx.skip for at in ("", f"@{ir.site(node)}")):
        return False
    known = [None if v is None else shapes.dims(v) for v in node.inputs[:3]]
    if any(s is None or len(s) != 3 or not isinstance(s[2], int) for s in known) or known[0][1] != known[1][1]:  # type: ignore[index]
        return False
    if len(node.inputs) > 3 and node.inputs[3] is not None and not _has_rows(node, node.inputs[3]):
        return False
    assumed = causal(node)
    return assumed is not None and ctx.why_not(assumed) is None


def _has_rows(node: ir.Node, mask: ir.Value) -> bool:
    """Has the mask a row for each query? One that is for all of them cannot be split."""
    scores, shape = scores_shape(node), shapes.dims(mask)
    return scores is not None and shape is not None and 2 <= len(shape) <= RANK and d.met(shape, scores)[0][-2] == scores[-2]


def _size(node: ir.Node) -> dict[str, int] | None:
    """Queries, heads and their size of an attention with a fixed number of many queries."""
    if (node.domain, node.op_type) != ("", "Attention") or node.inputs[0] is None:
        return None
    q, heads = shapes.dims(node.inputs[0]), ir.attr(node, "q_num_heads", 0)
    if q is None or len(q) != 3 or not heads or not isinstance(q[1], int) or not isinstance(q[2], int) or q[1] < MANY:
        return None
    return {"queries": q[1], "heads": heads, "size": q[2] // heads}
