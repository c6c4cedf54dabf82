"""Products in blocks that read one activation are one product, of which a Split gives each its columns.

Sound because a column of a product comes of a column of the weight alone. It gains where few rows are multiplied: each call
rounds the activation anew, and reads a small weight that is not in the cache, which is over before the processor reads ahead.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

import numpy as np

from .. import ir
from ..passes import Context
from ..passes.edit import Names, constant
from ..rewriter import origins
from .kernels import Kernels

DOMAIN, OPERATOR = "com.microsoft", "MatMulNBits"
NAME = "one product in blocks for queries, keys and values"
"""How the table of kernels calls it."""
SPLIT_SINCE = 13
"""The opset from which Split takes sizes as an input."""


def run(model: ir.Model, ctx: Context, by: str, kernels: Kernels, before: Set[tuple[str, str]] | None) -> int:
    """Join such products; the number that are gone.

    Args:
        before: names and operators of the nodes that were there before olc rounded; None where it did not.
    """
    if before is None or not kernels.pays(NAME) or (ir.opset_of(model) or 0) < SPLIT_SINCE:
        return 0
    names: Names | None = None
    gone = 0
    for graph in ir.all_graphs(model, functions=False):
        alike: dict[Any, list[ir.Node]] = {}
        for n in graph:
            key = _key(n) if (n.domain, n.op_type) == (DOMAIN, OPERATOR) and (ir.site(n), OPERATOR) not in before else None
            if key is not None:
                alike.setdefault(key, []).append(n)
        for found in alike.values():
            if len(found) > 1:
                names = names or Names(model)
                ctx.record(by, ir.site(found[0]), f"one product with {', '.join(ir.site(n) for n in found[1:])}")
                _join(model.graph, graph, names, found)
                gone += len(found) - 1
    return gone


def _key(node: ir.Node) -> Any:
    """What products have in common that can be one; None for one that cannot: a weight that others read would be there twice."""
    x, *held = (*node.inputs, None, None)[:4]
    more = any(v is not None for v in node.inputs[4:])
    known = [v for v in held if v is not None]
    if x is None or more or len(known) < 2:
        return None
    arrays = [ir.array(v) for v in known]
    if any(a is None or a.ndim < 2 for a in arrays) or any(len(v.uses()) > 1 or v.is_graph_output() for v in known):
        return None
    numbers = tuple(ir.attr(node, name, 0) for name in ("K", "bits", "block_size", "accuracy_level"))
    return (x, *numbers, *(a.dtype for a in arrays if a is not None))


def _join(main: ir.Graph, graph: ir.Graph, names: Names, found: Sequence[ir.Node]) -> None:
    first, columns = found[0], [ir.attr(n, "N", 0) for n in found]
    held = []
    for i, v in enumerate(first.inputs):
        if i > 0 and v is not None:
            parts = [a for n in found if (a := ir.array(n.inputs[i])) is not None]
            held.append(constant(main, names, f"{v.name}_joined", np.concatenate(parts)))
    attributes = {name: ir.attr(first, name, 0) for name in ("K", "bits", "block_size", "accuracy_level")} | {"N": sum(columns)}
    product = ir.make_node(OPERATOR, [first.inputs[0], *held], attributes, domain=DOMAIN)
    sizes = constant(main, names, f"{first.outputs[0].name}_columns", np.array(columns))
    split = ir.make_node("Split", [product.outputs[0], sizes], {"axis": -1}, outputs=len(found))
    like = first.outputs[0]
    product.outputs[0].type = like.type
    product.outputs[0].shape = None if like.shape is None else ir.Shape([*list(like.shape)[:-1], sum(columns)])
    product.outputs[0].name = names.value(f"{like.name}_joined")
    whole = ",".join(dict.fromkeys(name for n in found for name in origins(n)))
    for node in (product, split):
        node.metadata_props.update(first.metadata_props | {"olc.from": whole})
    product.name, split.name = names.node(f"{ir.site(first)}_joined"), names.node(f"{ir.site(first)}_columns")
    graph.insert_before(first, [product, split])
    for n, new in zip(found, split.outputs, strict=True):
        old, name = n.outputs[0], n.outputs[0].name
        new.type, new.shape = old.type, old.shape
        ir.replace_value(old, new)
        old.name, new.name = None, name
        graph.remove(n, safe=True)
