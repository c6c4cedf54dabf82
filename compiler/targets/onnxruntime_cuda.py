"""ONNX Runtime's CUDA execution provider. What it has no kernel for, the runtime gives to the CPU.

The capability table is generated where onnxruntime-gpu is installed::

    python -m olc.targets.onnxruntime_cuda --write
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from .. import ir
from ..passes import Context
from . import registry
from .capabilities import DECOMPOSED, YES, Support
from .declared import Declared
from .onnxruntime_cpu import TARGET as CPU_TARGET


class OnnxRuntimeCuda(Declared):
    """The target ``onnxruntime-cuda``: the operators of ``onnxruntime-cpu`` at opset 23, which all have kernels of float16."""

    name = "onnxruntime-cuda"
    opset = 23
    file = __file__
    providers = ("CUDAExecutionProvider",)
    runtime = "onnxruntime-cuda"
    half = True

    def finish(self, model: ir.Model, ctx: Context, before: Set[tuple[str, str]] | None) -> int:
        """Besides, blocks of weights are multiplied as they are: there the activation is not rounded, as on the CPU."""
        changes = super().finish(model, ctx, before)
        for node in (n for g in ir.all_graphs(model, functions=False) for n in g):
            if (node.domain, node.op_type) == ("com.microsoft", "MatMulNBits") and ir.attr(node, "accuracy_level", 0):
                node.attributes.pop("accuracy_level")
                ctx.record(f"lower:{self.name}", ir.site(node), "its activation is not rounded")
                changes += 1
        return changes

    def node_support(
        self, node: ir.Node, model: ir.Model, opsets: Mapping[str, int] | None = None, lowered: bool = False
    ) -> Support:
        """As for any target; a node without a kernel or a body here runs by one of the CPU's."""
        found = super().node_support(node, model, opsets, lowered)
        if found.how in (YES, DECOMPOSED):
            return found
        other = CPU_TARGET.node_support(node, model, opsets, lowered)
        return Support(other.how, f"on the CPU: {found.reason}") if other else found


TARGET = OnnxRuntimeCuda()

if __name__ == "__main__":
    raise SystemExit(registry.main(__file__, lambda: registry.generate(TARGET.providers[0])))
