"""What a model costs, by arithmetic on its shapes: parameters, multiply-adds, bytes moved. Nothing is run.

Counts follow the usual convention of 2 floating-point operations a multiply-add, so a [M, K] x [K, N] product costs 2MKN.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from .. import ir
from ..ir import Model, Node, Value
from . import dims as dim
from . import shapes


@dataclass(frozen=True)
class NodeCost:
    """One node: its floating-point operations and the bytes of its inputs and outputs; None where a shape is unknown."""

    node: str
    op: str
    flops: int | None
    bytes: int | None


@dataclass
class ModelCost:
    """A model: sums over the main graph and, once each, the bodies of its control flow.

    Attributes:
        parameters: elements of all initializers. ``parameter_bytes``: their size in bytes.
        dtypes: initializer bytes by dtype name.
        flops: sum over the nodes whose shapes are known; ``unknown`` counts the others.
        sizes: the value that each named dim was given.
    """

    parameters: int = 0
    parameter_bytes: int = 0
    dtypes: Counter[str] = field(default_factory=Counter)
    operators: Counter[str] = field(default_factory=Counter)
    flops: int = 0
    unknown: int = 0
    nodes: list[NodeCost] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)


def shape_of(value: Value | None, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
    """The concrete shape of a value when every named dim is given a size; None where it stays unknown or the sizes do not fit."""
    d = shapes.dims(value) if value is not None else None
    if d is None or any(not dim.all_names(x) <= sizes.keys() for x in d):
        return None
    try:
        return tuple(int(dim.evaluate(x, sizes)) for x in d)
    except (ValueError, ZeroDivisionError):
        return None


def bytes_of(value: Value, sizes: Mapping[str, int]) -> int | None:
    """How many bytes a value takes; None where its shape or type stays unknown. Texts have no size of their own."""
    shape = shape_of(value, sizes)
    if shape is None or value.dtype is None or value.dtype == ir.DataType.STRING:
        return None
    return int(prod(shape) * value.dtype.itemsize)


def of_node(node: Node, sizes: Mapping[str, int]) -> NodeCost:
    """The cost of one node at the given sizes (named dim to value)."""
    ins = [shape_of(v, sizes) for v in node.inputs]
    outs = [shape_of(v, sizes) for v in node.outputs]
    moved = [bytes_of(v, sizes) for v in (*node.inputs, *node.outputs) if v is not None]
    known = [n for n in moved if n is not None]
    name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return NodeCost(node.name or "?", name, _flops(node, ins, outs), sum(known) if len(known) == len(moved) else None)


def _flops(node: Node, ins: list[Any], outs: list[Any]) -> int | None:
    out = outs[0] if outs else None
    if node.op_type in _FREE:
        return 0
    if out is None:
        return None
    n = prod(out)
    kind = node.op_type
    if kind in _MATMUL:
        at = _MATMUL[kind]
        a = ins[0] if len(ins) > at and ins[at] is not None else None
        if a is None or ins[0] is None:
            return None
        inner = ins[0][0] if kind == "Gemm" and ir.attr(node, "transA", 0) else ins[0][-1]
        return int(2 * n * inner)
    if kind in ("Conv", "ConvInteger", "QLinearConv", "FusedConv", "ConvTranspose"):
        w = ins[3] if kind == "QLinearConv" and len(ins) > 3 else ins[1]
        if w is None or ins[0] is None:
            return None
        over = prod(ins[0]) if kind == "ConvTranspose" else n
        return int(2 * over * prod(w[1:]))
    if kind in ("LSTM", "GRU", "RNN"):
        if len(ins) < 3 or None in (ins[0], ins[1], ins[2]):
            return None
        steps = ins[0][0] * ins[0][1]
        return int(2 * steps * (prod(ins[1]) + prod(ins[2])))
    if kind in ("Attention", "MultiHeadAttention"):
        q, k = ins[0], ins[1] if len(ins) > 1 else None
        if q is None or k is None:
            return None
        return int(4 * prod(q) * k[-2])
    return int(n * _PER_ELEMENT.get(kind, 1))


_FREE = frozenset({
    "Constant", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Shape", "Size", "Cast", "Transpose", "Concat",
    "Split", "Slice", "Gather", "GatherND", "GatherElements", "Expand", "Tile", "Pad", "If", "Loop", "Scan", "Range",
    "ConstantOfShape", "Dropout",
})  # fmt: skip
_MATMUL = {"MatMul": 1, "Gemm": 1, "FusedMatMul": 1, "MatMulInteger": 1, "DynamicQuantizeMatMul": 1, "MatMulNBits": 0,
           "MatMulIntegerToFloat": 1}  # fmt: skip
_PER_ELEMENT = {
    "Softmax": 5, "LogSoftmax": 5, "LayerNormalization": 8, "RMSNormalization": 6, "Gelu": 10, "FastGelu": 10, "Erf": 8,
    "Sigmoid": 4, "Tanh": 6, "QuickGelu": 6, "BatchNormalization": 2, "Exp": 4, "Pow": 4, "Sqrt": 2,
}  # fmt: skip


def of_model(model: Model, sizes: Mapping[str, int] | None = None) -> ModelCost:
    """The cost of a model. ``sizes`` gives named dims; the others are taken as 1 and named in ``ModelCost.sizes``.

    Shapes must have been inferred (``shapes.infer``).
    """
    cost = ModelCost(sizes=dict(sizes or {}))
    for v in model.graph.inputs:
        for x in shapes.dims(v) or ():
            for s in dim.symbols(x):
                cost.sizes.setdefault(s, 1)
    seen: set[int] = set()
    for g in ir.all_graphs(model):
        for v in g.initializers.values():
            t = v.const_value
            if t is None or id(t) in seen:
                continue
            seen.add(id(t))
            cost.parameters += t.size
            cost.parameter_bytes += t.nbytes
            cost.dtypes[t.dtype.name.lower()] += t.nbytes
        for n in g:
            c = of_node(n, cost.sizes)
            cost.operators[c.op] += 1
            cost.nodes.append(c)
            if c.flops is None:
                cost.unknown += 1
            else:
                cost.flops += c.flops
    return cost
