"""Operators that exporters write although ONNX has none of that name, where there is no doubt what they mean.

No runtime opens such a file. It is read as what was meant; a compile says so, and compares with a file that says it in ONNX.
Adding one is a function here.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np

from . import ir

REPAIRED = "olc.repaired"
"""Key in ``model.meta``: what was read otherwise than it is written, in words."""

_Repair = Callable[[ir.Node, "_Writer"], ir.Value]


class _Writer:
    def __init__(self, node: ir.Node, graph: ir.Graph, taken: set[str]) -> None:
        self.before, self.graph, self.taken = node, graph, taken

    def __call__(self, op: str, *inputs: ir.Value | None, **attributes: object) -> ir.Value:
        new = ir.make_node(op, list(inputs), attributes, name=f"{self.before.name or self.before.op_type}/{op}")
        base = name = f"{self.before.outputs[0].name}/{op}"
        for number in count():
            if name not in self.taken:
                break
            name = f"{base}_{number}"
        self.taken.add(name)
        new.outputs[0].name = name
        self.graph.insert_before(self.before, new)
        return new.outputs[0]

    def number(self, n: float, like: ir.Value) -> ir.Value:
        """A constant of the dtype of ``like``, which a file need not state."""
        return self("CastLike", self("Constant", value=ir.Tensor(np.array(n, np.float32))), like)


def _erfc(node: ir.Node, op: _Writer) -> ir.Value:
    """tf2onnx has no rule for TensorFlow's complement of the error function, by which Keras computes an exact Gelu."""
    x = node.inputs[0]
    assert x is not None
    return op("Add", op("Erf", op("Neg", x)), op.number(1.0, x))


REPAIRS: dict[str, tuple[_Repair, str, int]] = {"Erfc": (_erfc, "1 - erf(x)", 15)}
"""Operator of the standard domain to how it is written, what it means, and from which opset that can be written."""


def run(model: ir.Model) -> None:
    """Write such operators as what they mean, in every graph; ``model.meta`` holds what was found."""
    version = ir.opset_of(model) or 0
    found = [
        (graph, node) for graph in ir.all_graphs(model, functions=False) for node in graph
        if node.op_type in REPAIRS and node.domain in ("", "ai.onnx") and version >= REPAIRS[node.op_type][2]
        and (node.domain, node.op_type, node.overload) not in model.functions
        and len(node.inputs) == len(node.outputs) == 1 and node.inputs[0] is not None
    ]  # fmt: skip
    if not found:
        return
    graphs = list(ir.all_graphs(model))
    taken = {v.name or "" for g in graphs for v in (*g.inputs, *g.initializers.values(), *(o for n in g for o in n.outputs))}
    for graph, node in found:
        ir.replace_value(node.outputs[0], REPAIRS[node.op_type][0](node, _Writer(node, graph, taken)))
        graph.remove(node, safe=True)
    counts = {op: sum(n.op_type == op for _, n in found) for op in REPAIRS}
    model.meta[REPAIRED] = [
        f"{counts[op]} node{'s' if counts[op] > 1 else ''} of the operator {op}, which ONNX does not have, read as {meaning}"
        for op, (_, meaning, _) in REPAIRS.items() if counts[op]
    ]  # fmt: skip
