"""Inputs that ONNX Runtime's kernels do not broadcast, although the operators do, are expanded.

* Attention's mask over queries: the kernel refuses a dim of 1 there ("inconsistent q_sequence_length").
* RotaryEmbedding's cosines and sines over the batch, where there are no position ids.

Batch and heads of a mask it broadcasts itself. A mask with one entry for all keys is left alone: some take it for a mask
that is too short, and those of later opsets do.
"""

from __future__ import annotations

import contextlib

import numpy as np

from .. import ir
from ..analysis import dims as d
from ..analysis import shapes
from ..passes import Context
from ..passes.masks import scores_shape
from ..passes.size_queries import Inexpressible, Queries


def run(model: ir.Model, ctx: Context, by: str) -> int:
    """Expand what needs it, in bodies too; the number of inputs that changed."""
    return sum(_Expand(model, ctx, by, graph).run() for graph in ir.all_graphs(model, functions=False))


class _Expand:
    def __init__(self, model: ir.Model, ctx: Context, by: str, graph: ir.Graph) -> None:
        self.model, self.ctx, self.by, self.graph = model, ctx, by, graph
        self.sizes: Queries | None = None
        self.made: dict[tuple[ir.Value, tuple[d.Dim, ...]], ir.Value] = {}

    def run(self) -> int:
        changes = 0
        for node in list(self.graph):
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
        q, k = node.inputs[0], node.inputs[1]
        asked = [(q, -2), (k, -2), *([(node.inputs[4], 2)] if len(node.inputs) > 4 and node.inputs[4] is not None else [])]
        return self.expand(node, 3, scores[-2:], asked)

    def cache(self, node: ir.Node, i: int) -> int:
        whole, shape = (None if v is None else shapes.dims(v) for v in (node.inputs[0], node.inputs[i]))
        if whole is None or shape is None or len(shape) != 3 or shape[0] != 1 or whole[0] == 1:
            return 0
        return self.expand(node, i, (whole[0], 1, 1), [(node.inputs[0], 0)])

    def expand(self, node: ir.Node, i: int, to: tuple[d.Dim, ...], asked: list[tuple[ir.Value | None, int]]) -> int:
        value = node.inputs[i]
        assert value is not None
        if (value, to) not in self.made:
            self.made[value, to] = self.node("Expand", [value, self.target(node, to, asked)], node)
        node.replace_input_with(i, self.made[value, to])
        self.ctx.record(self.by, node.name or node.outputs[0].name, f"input {i} is expanded, which the kernel does not do")
        return 1

    def target(self, node: ir.Node, to: tuple[d.Dim, ...], asked: list[tuple[ir.Value | None, int]]) -> ir.Value:
        """The vector of sizes: asked of the model's inputs where they have them, else of the node's operands (the second
        size is the sum of all but the first asked for: keys, and those in the cache)."""
        self.sizes = self.sizes if self.sizes is not None else Queries(self.model, self.ctx)
        if self.graph is self.model.graph:
            with contextlib.suppress(Inexpressible):
                return self.sizes.build(self.sizes.vector(to), node)
        found: list[ir.Value | None] = []
        for value, axis in asked:
            shape = None if value is None else shapes.dims(value)
            at = axis % len(shape or (0,))
            found.append(self.node("Shape", [value], node, start=at or None, end=at + 1))
        while len(found) > 2:
            found[1:3] = [self.node("Add", found[1:3], node)]
        return self.node("Concat", [*found, *[self.constant(1)] * (len(to) - len(found))], node, axis=0)

    def node(self, op: str, inputs: list[ir.Value | None], before: ir.Node, **attributes: int | None) -> ir.Value:
        assert self.sizes is not None
        new = ir.make_node(op, inputs, {k: v for k, v in attributes.items() if v is not None})
        self.graph.insert_before(before, new)
        new.outputs[0].name = self.sizes.names.value(op.lower())
        new.name = self.sizes.names.node(f"{op}_{new.outputs[0].name}")
        shapes.infer_node(new, self.model)
        return new.outputs[0]

    def constant(self, number: int) -> ir.Value:
        assert self.sizes is not None
        value = ir.make_constant(np.array([number], np.int64), name=self.sizes.names.value("one"))
        self.graph.register_initializer(value)
        return value
