"""ONNX Runtime's CPU execution provider.

The capability table is generated from the installed runtime's kernel registry::

    python -m olc.targets.onnxruntime_cpu --write
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from .. import ir
from ..passes import Context
from ..session import CPU
from . import causal_parts, flash, one_product, one_rounding, protect, registry, rows, weight_signs
from .declared import Declared


class OnnxRuntimeCpu(Declared):
    """The target ``onnxruntime-cpu``.

    The preferred opset is 23: the first with the standard Attention, RotaryEmbedding and RMSNormalization, each with
    a kernel, and the last at which nothing that had a kernel has lost it but a few random operators and RoiAlign
    (lost at 22); 24 brings only TensorScatter, and 25 and 28 lose Attention and QuantizeLinear.
    """

    name = "onnxruntime-cpu"
    opset = 23
    file = __file__
    cure = "export the model with layout=0 (time first)"

    def features(self) -> dict[str, Any]:
        from .features import Features, detect

        found = detect() if self.machine is None else Features.from_dict(self.machine.cpu)
        return found.to_dict() | {"int8_dot": found.int8_dot, "int8_saturates": found.int8_saturates}

    def finish(self, model: ir.Model, ctx: Context, before: Set[tuple[str, str]] | None) -> int:
        """Besides, large attentions without a mask go to the kernel that blocks them (``flash.py``), what the runtime would fuse
        into something slower is written so that it does not (``protect.py``), weights of 8 bits get the sign that suits the CPU
        (``weight_signs.py``), products of one activation become one (``one_product.py``), or round it once
        (``one_rounding.py``)."""
        by = f"lower:{self.name}"
        changes = super().finish(model, ctx, before)
        changes += flash.run(model, ctx, by, self.kernels())
        changes += protect.run(model, ctx, by, self.kernels())
        changes += weight_signs.run(model, ctx, by, self.features(), before)
        changes += one_product.run(model, ctx, by, self.kernels(), before)
        return changes + one_rounding.run(model, ctx, by, self.kernels())

    def arrange(self, model: ir.Model, ctx: Context) -> int:
        """Linear layers with a bias work on rows (``rows.py``), causal attentions of many queries in parts
        (``causal_parts.py``)."""
        by = f"lower:{self.name}"
        changes = rows.run(model, ctx, by, self.kernels(), ctx.threads or self.features()["cores"])
        return changes + causal_parts.run(model, ctx, by, self.kernels())

    def limit(self, node: ir.Node) -> str | None:
        """What kernels refuse although the registry lists them: known from their source, not from the registry."""
        if node.domain == "" and node.op_type in ("LSTM", "GRU", "RNN") and ir.attr(node, "layout", 0) == 1:
            return f"{node.op_type} with layout=1 (batch first) has no implementation"
        return None


TARGET = OnnxRuntimeCpu()

if __name__ == "__main__":
    raise SystemExit(registry.main(__file__, lambda: registry.generate(CPU)))
