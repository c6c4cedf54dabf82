"""What ONNX Runtime's own optimizer would fuse into something slower is written so that it does not.

A session with default options re-fuses what it loads: Add and LayerNormalization become SkipLayerNormalization, whose
kernel is several times slower than the two in some versions. The Add is then a Sum of two inputs: the same numbers, the
same speed, and no part of the optimizer's patterns. Done only where the table of kernels says that the fused operator does
not pay, and Sum is even with Add.
"""

from __future__ import annotations

from .. import ir
from ..passes import Context
from .kernels import Kernels

FUSED = {"LayerNormalization": "com.microsoft::SkipLayerNormalization"}
"""Operators that the runtime fuses with an Add in front, and into what."""


def run(model: ir.Model, ctx: Context, by: str, kernels: Kernels) -> int:
    """Write such Adds as Sums; the number that changed."""
    slow = {op: fused for op, fused in FUSED.items() if not kernels.pays(fused)}
    if not slow or not kernels.pays("Sum"):
        return 0
    changes = 0
    for graph in ir.all_graphs(model):
        for node in graph:
            added = node.inputs[0] if node.domain == "" and node.op_type in slow else None
            add = None if added is None else added.producer()
            if add is None or add.op_type != "Add" or add.domain or ir.owner(add) is not graph:
                continue
            add.op_type = "Sum"
            ctx.record(by, ir.site(add), f"Add as Sum, so that it is not fused into {slow[node.op_type]}, which is slower")
            changes += 1
    return changes
