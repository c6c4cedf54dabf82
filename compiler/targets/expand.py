"""Inputs that ONNX Runtime's kernels do not broadcast, although the operators do, are expanded.

* Attention's mask over queries: the kernel refuses a dim of 1 there ("inconsistent q_sequence_length").

Batch and heads of a mask it broadcasts itself. A mask with one entry for all keys is left alone: some take it for a mask
that is too short, and those of later opsets do.
"""

from __future__ import annotations

from .. import ir
from ..analysis import dims as d
from ..analysis import shapes
from ..passes import Context
from ..passes.masks import scores_shape
from ..passes.size_queries import Inexpressible, Queries


def masks(model: ir.Model, ctx: Context, by: str) -> int:
    """Expand the masks of the main graph's attentions to queries and keys; the number that changed."""
    sizes: Queries | None = None
    made: dict[tuple[ir.Value, d.Dim, d.Dim], ir.Value] = {}
    changes = 0
    for node in list(model.graph):
        mask = node.inputs[3] if node.op_type == "Attention" and node.domain == "" and len(node.inputs) > 3 else None
        scores = scores_shape(node) if mask is not None else None
        shape = None if mask is None else shapes.dims(mask)
        if mask is None or scores is None or shape is None or not shape or shape[-2:] == scores[-2:] or shape[-1] == 1:
            continue
        key = (mask, scores[-2], scores[-1])
        if key not in made:
            sizes = sizes if sizes is not None else Queries(model, ctx)
            try:
                target = sizes.build(sizes.vector(scores[-2:]), node)
            except Inexpressible:
                continue
            new = ir.make_node("Expand", [mask, target])
            model.graph.insert_before(node, new)
            made[key] = new.outputs[0]
            made[key].name = sizes.names.value(f"{mask.name}_expand")
            new.name = sizes.names.node(f"Expand_{made[key].name}")
            shapes.infer_node(new, model)
        node.replace_input_with(3, made[key])
        ctx.record(by, node.name or node.outputs[0].name, "its mask is expanded to queries and keys")
        changes += 1
    return changes
