"""Inputs that ONNX Runtime's kernels do not broadcast, although the operators do, are expanded.

* Attention's mask over queries: the kernel refuses a dim of 1 there ("inconsistent q_sequence_length").
* RotaryEmbedding's cosines and sines over the batch, where there are no position ids.

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


def run(model: ir.Model, ctx: Context, by: str) -> int:
    """Expand what needs it in the main graph; the number of inputs that changed."""
    return _Expand(model, ctx, by).run()


class _Expand:
    def __init__(self, model: ir.Model, ctx: Context, by: str) -> None:
        self.model, self.ctx, self.by = model, ctx, by
        self.sizes: Queries | None = None
        self.made: dict[tuple[ir.Value, tuple[d.Dim, ...]], ir.Value] = {}

    def run(self) -> int:
        changes = 0
        for node in list(self.model.graph):
            if node.domain == "" and node.op_type == "Attention" and len(node.inputs) > 3:
                changes += self.mask(node)
            elif node.domain == "" and node.op_type == "RotaryEmbedding" and len(node.inputs) == 3:
                changes += self.cache(node, 1) + self.cache(node, 2)
        return changes

    def mask(self, node: ir.Node) -> int:
        scores = scores_shape(node)
        mask = node.inputs[3]
        shape = None if mask is None else shapes.dims(mask)
        if scores is None or not shape or shape[-2:] == scores[-2:] or shape[-1] == 1:
            return 0
        return self.expand(node, 3, scores[-2:])

    def cache(self, node: ir.Node, i: int) -> int:
        whole, shape = (None if v is None else shapes.dims(v) for v in (node.inputs[0], node.inputs[i]))
        if whole is None or shape is None or len(shape) != 3 or shape[0] != 1 or whole[0] == 1:
            return 0
        return self.expand(node, i, (whole[0], 1, 1))

    def expand(self, node: ir.Node, i: int, to: tuple[d.Dim, ...]) -> int:
        value = node.inputs[i]
        assert value is not None
        if (value, to) not in self.made:
            self.sizes = self.sizes if self.sizes is not None else Queries(self.model, self.ctx)
            try:
                target = self.sizes.build(self.sizes.vector(to), node)
            except Inexpressible:
                return 0
            new = ir.make_node("Expand", [value, target])
            self.model.graph.insert_before(node, new)
            out = self.made[value, to] = new.outputs[0]
            out.name = self.sizes.names.value(f"{value.name}_expand")
            new.name = self.sizes.names.node(f"Expand_{out.name}")
            shapes.infer_node(new, self.model)
        node.replace_input_with(i, self.made[value, to])
        self.ctx.record(self.by, node.name or node.outputs[0].name, f"input {i} is expanded, which the kernel does not do")
        return 1
