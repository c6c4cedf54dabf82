"""What ONNX Runtime's own optimizer would fuse into something slower is written so that it does not.

A session with default options re-fuses what it loads: Add and LayerNormalization become SkipLayerNormalization, whose
kernel is several times slower than the two in some versions. The Add is then a Sum of two inputs: the same numbers, the
same speed, and no part of the optimizer's patterns. Done only where the table of kernels says that the fused operator does
not pay, and Sum is even with Add.
"""

from __future__ import annotations

from .. import ir
from ..passes import Context
from ..passes.edit import erase, inherit, redirect
from .kernels import Kernels

FUSED = {"LayerNormalization": "com.microsoft::SkipLayerNormalization"}
"""Operators that an Add in front is fused with, and into what."""


def run(model: ir.Model, ctx: Context, by: str, kernels: Kernels) -> int:
    """Write such Adds as Sums; the number that changed."""
    if not kernels.pays("Sum"):
        return 0
    changes = 0
    for graph in ir.all_graphs(model):
        for node in list(graph):
            fused = FUSED.get(node.op_type) if node.domain == "" else None
            added = node.inputs[0] if fused is not None else None
            add = None if added is None else added.producer()
            if fused is None or add is None or add.op_type != "Add" or add.domain or ir.owner(add) is not graph:
                continue
            if kernels.pays(fused):
                continue
            total = ir.make_node("Sum", list(add.inputs))
            total.metadata_props.update(add.metadata_props)
            total.name, total.doc_string = add.name, add.doc_string
            graph.insert_before(add, total)
            inherit(total.outputs[0], add.outputs[0])
            redirect(add.outputs[0], total.outputs[0])
            erase(graph, [add])
            ctx.record(by, ir.site(total), f"Add as Sum, so that it is not fused into {fused}, which is slower")
            changes += 1
    return changes
