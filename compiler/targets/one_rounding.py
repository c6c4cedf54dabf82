"""Products in 8 bits that read one activation round it once.

Sound because DynamicQuantizeMatMul is DynamicQuantizeLinear and MatMulIntegerToFloat, bit for bit: queries, keys and values
find the same scale and zero point. It gains where there are many rows, or where all of a decoder's layers read one encoder.
"""

from __future__ import annotations

from .. import ir
from ..passes import Context
from ..passes.edit import Names
from ..rewriter import origins
from .kernels import Kernels

DOMAIN, OPERATOR = "com.microsoft", "DynamicQuantizeMatMul"
NAME = "one rounding for queries, keys and values"
"""How the table of kernels calls it."""
SINCE = 11
"""The opset of DynamicQuantizeLinear."""


def run(model: ir.Model, ctx: Context, by: str, kernels: Kernels) -> int:
    """Round each activation once; the number of roundings that are gone."""
    if not kernels.pays(NAME) or (ir.opset_of(model) or 0) < SINCE:
        return 0
    names: Names | None = None
    gone = 0
    for graph in ir.all_graphs(model, functions=False):
        readers: dict[ir.Value, list[ir.Node]] = {}
        for n in graph:
            if (n.domain, n.op_type) == (DOMAIN, OPERATOR) and n.inputs[0] is not None:
                readers.setdefault(n.inputs[0], []).append(n)
        for x, found in readers.items():
            if len(found) > 1:
                names = names or Names(model)
                ctx.record(by, ir.site(found[0]), f"one rounding with {', '.join(ir.site(n) for n in found[1:])}")
                _round_once(graph, names, x, found)
                gone += len(found) - 1
    return gone


def _round_once(graph: ir.Graph, names: Names, x: ir.Value, found: list[ir.Node]) -> None:
    rounding = ir.make_node("DynamicQuantizeLinear", [x], {}, outputs=3)
    rounding.name = names.node(f"{ir.site(found[0])}_rounded")
    rounding.metadata_props["olc.from"] = ",".join(dict.fromkeys(name for n in found for name in origins(n)))
    kinds = ((ir.DataType.UINT8, x.shape), (ir.DataType.FLOAT, ir.Shape([])), (ir.DataType.UINT8, ir.Shape([])))
    for v, (dtype, shape), what in zip(rounding.outputs, kinds, ("codes", "scale", "zero"), strict=True):
        v.type, v.shape, v.name = ir.TensorType(dtype), shape, names.value(f"{x.name}_{what}")
    codes, scale, zero = rounding.outputs
    graph.insert_before(found[0], [rounding])
    for n in found:
        w, w_scale, w_zero, bias = (*n.inputs[1:], None, None)[:4]
        product = ir.make_node("MatMulIntegerToFloat", [codes, w, scale, w_scale, zero, w_zero, bias], {}, domain=DOMAIN)
        product.metadata_props.update(n.metadata_props)
        old, new = n.outputs[0], product.outputs[0]
        new.type, new.shape, name = old.type, old.shape, old.name
        graph.insert_before(n, [product])
        ir.replace_value(old, new)
        old.name, new.name = None, name
        product.name, n.name = n.name, None
        graph.remove(n, safe=True)
