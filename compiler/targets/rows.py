"""Linear layers with a bias work on rows: MatMul and Add on [..., K] are one Gemm on [rows, K].

Gemm's kernel starts its sums from the bias; Add goes through the whole product once more. Gemm takes two dims only, so what lies
between linear layers (norms, activations, residuals) works on rows as well, and a Reshape, which copies nothing, stands only
where something else begins: attention, the model's outputs. A region of such nodes is changed where it has at least as many Adds
to save as it needs Reshapes.

Sound because each operator of a region computes every row (all of the last axis) by itself: a linear layer, a norm of the last
axis, and what goes element by element between tensors of one shape or with a vector along the last axis.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

import numpy as np

from .. import ir
from ..analysis import shapes
from ..analysis.dims import Dim
from ..passes import Context
from ..passes.edit import Names, constant
from ..rewriter import origins
from .kernels import Kernels

NAME = "linear layer on rows"
"""How the table of kernels calls it."""
THREADS = 2
"""Gemm's kernel writes the bias in one thread, Add goes through the product in all: with more than some it is the slower one."""
SINCE = 15
"""The opset of Shape's ``end``."""
_ELEMENTWISE = {("", op) for op in (
    "Abs", "Add", "Div", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mul", "Neg", "Relu", "Sigmoid",
    "Softplus", "Sqrt", "Sub", "Sum", "Tanh",
)} | {("com.microsoft", "QuickGelu")}  # fmt: skip
_NORMS = {("", op) for op in ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")}


def run(model: ir.Model, ctx: Context, by: str, kernels: Kernels, threads: int) -> int:
    """Write such regions so; the number of Gemms made."""
    if threads > THREADS or not kernels.pays(NAME) or (ir.opset_of(model) or 0) < SINCE:
        return 0
    made = 0
    names: Names | None = None
    for graph in ir.all_graphs(model, functions=False):
        for region in _regions(graph):
            if region.layers and len(region.layers) >= region.reshapes:
                names = names or Names(model)
                made += _Rewriter(model, ctx, by, graph, names, region).run()
    return made


@dataclass
class _Region:
    """Nodes that work on rows, in order.

    Attributes:
        lead: all dims but the last of every value between them.
        nodes: of each, which of its inputs hold its rows.
        layers: the product of each node that adds a bias to one.
        reshapes: how many are needed at the borders.
    """

    lead: tuple[Dim, ...]
    nodes: dict[ir.Node, list[int]] = field(default_factory=dict)
    layers: dict[ir.Node, ir.Node] = field(default_factory=dict)
    reshapes: int = 0


def _regions(graph: ir.Graph) -> list[_Region]:
    """The regions of a graph: nodes joined by the values whose rows they make and read."""
    data: dict[ir.Node, list[int]] = {}
    parent: dict[ir.Value, ir.Value] = {}

    def root(value: ir.Value) -> ir.Value:
        while parent[value] is not value:
            parent[value] = value = parent[parent[value]]
        return value

    for node in graph:
        read = _data(node)
        if not read or not ((node.domain, node.op_type) == ("", "MatMul") or any(v.producer() in data for v in _at(node, read))):
            continue
        data[node] = read
        made = parent[node.outputs[0]] = node.outputs[0]
        for v in _at(node, read):
            parent[root(parent.setdefault(v, v))] = made
    found: dict[ir.Value, _Region] = {}
    for node, read in data.items():
        made = node.outputs[0]
        region = found.setdefault(root(made), _Region((shapes.dims(made) or ())[:-1]))
        region.nodes[node] = read
        product = _product(node)
        if product in data:
            region.layers[node] = product
    for region in found.values():
        inside = region.nodes
        entered = {v for n, read in inside.items() for v in _at(n, read) if v.producer() not in inside}
        left = [v for n in inside for v in n.outputs if v.is_graph_output() or _outside(v, inside)]
        region.reshapes = sum(not _entered_free(v, graph) for v in entered) + len(left) if len(region.lead) > 1 else 0
    return list(found.values())


def _at(node: ir.Node, places: list[int]) -> list[ir.Value]:
    return [v for i in places if (v := node.inputs[i]) is not None]


def _data(node: ir.Node) -> list[int]:
    """Which inputs of a node hold its rows, if it works on rows; none of any other node."""
    kind = (node.domain, node.op_type)
    out = shapes.dims(node.outputs[0]) if len(node.outputs) == 1 else None
    if not out or len(out) < 2 or not isinstance(out[-1], int) or 0 in out:
        return []
    known = [() if v is None else shapes.dims(v) for v in node.inputs]
    if None in known or any(v is not None and v.dtype != ir.DataType.FLOAT for v in node.inputs):
        return []
    if kind == ("", "MatMul"):
        x, weight = (s or () for s in known)
        return [0] if len(weight) == 2 and len(x) > 1 and x[:-1] == out[:-1] and isinstance(x[-1], int) and x[-1] else []
    if kind in _NORMS and ir.attr(node, "axis", -1) not in (-1, len(out) - 1):
        return []
    if kind not in _ELEMENTWISE | _NORMS or any(s != out and len(s or ()) > 1 for s in known):
        return []
    return [i for i, s in enumerate(known) if s == out]


def _product(node: ir.Node) -> ir.Node | None:
    """The MatMul to whose result the node, its only reader, adds a bias [N] or one number, if that is what it does."""
    if node.domain or node.op_type not in ("Add", "Sum") or len(node.inputs) != 2:
        return None
    for value, bias in (tuple(node.inputs), tuple(node.inputs)[::-1]):
        product = None if value is None else value.producer()
        if value is None or bias is None or product is None or (product.domain, product.op_type) != ("", "MatMul"):
            continue
        if not ir.is_constant(product.inputs[1]):
            continue  # where a DequantizeLinear makes it, the runtime's fusions know MatMul
        width = (shapes.dims(value) or (None,))[-1]
        if shapes.dims(bias) in ((width,), (1,), ()) and len(ir.uses(value)) == 1 and not value.is_graph_output():
            return product
    return None


def _width(value: ir.Value) -> int:
    """The last axis of a value with rows."""
    width = (shapes.dims(value) or (0,))[-1]
    assert isinstance(width, int)
    return width


def _outside(value: ir.Value, inside: Container[ir.Node]) -> list[tuple[ir.Node, int]]:
    """Who reads a value's rows as something else: no Reshape to sizes that do not ask for those of what it reads."""
    found = []
    for node, i in ir.uses(value):
        sizes = ir.array(node.inputs[1]) if (node.domain, node.op_type, i) == ("", "Reshape", 0) else None
        if node not in inside and (sizes is None or 0 in sizes):
            found.append((node, i))
    return found


def _reshaped(value: ir.Value) -> ir.Value | None:
    """What the Reshape that makes a value reads, if one does: it has the same rows."""
    node = value.producer()
    return node.inputs[0] if node is not None and (node.domain, node.op_type) == ("", "Reshape") else None


def _entered_free(value: ir.Value, graph: ir.Graph) -> bool:
    """Is it made by a Reshape that nothing else needs, or are its rows made already, as in a model compiled before?"""
    if _reshaped(value) is not None and len(ir.uses(value)) == 1 and not value.is_graph_output():
        return True
    for node, i in ir.uses(value):
        if (node.domain, node.op_type, i) == ("", "Reshape", 0) and ir.owner(node) is graph:
            sizes = ir.array(node.inputs[1])
            if sizes is not None and sizes.tolist() == [-1, _width(value)]:
                return True
    return False


class _Rewriter:
    """Changes one region. The values in it keep their names, and those that others read get a Reshape behind them."""

    def __init__(self, model: ir.Model, ctx: Context, by: str, graph: ir.Graph, names: Names, region: _Region) -> None:
        self.model, self.ctx, self.by, self.graph, self.names, self.region = model, ctx, by, graph, names, region
        self.rows: dict[ir.Value, ir.Value] = {}
        self.targets: dict[int, ir.Value] = {}
        self.like: ir.Value | None = None
        """What entered first: all its sizes but the last are those of `lead`."""
        self.lead: ir.Value | None = None
        """Those but the last as a vector."""

    def run(self) -> int:
        products = set(self.region.layers.values())
        for node, read in self.region.nodes.items():
            if node in products:
                continue  # goes with what adds its bias
            declared = node.outputs[0].shape
            last = self.layer(node, self.region.layers[node]) if node in self.region.layers else self.on_rows(node, read)
            if len(self.region.lead) == 1:
                shapes.infer_node(last, self.model)
                continue
            self.facts(last)
            self.leave(last, declared)
        for value in self.rows:
            maker, holder, needed = value.producer(), ir.graph_of(value), ir.uses(value) or value.is_graph_output()
            if maker is not None and holder is not None and _reshaped(value) and not needed:
                holder.remove(maker, safe=True)  # its own reader passed it by
        return len(products)

    def on_rows(self, node: ir.Node, read: list[int]) -> ir.Node:
        for i in read:
            node.replace_input_with(i, self.enter(node.inputs[i], node))
        if "axis" in node.attributes:
            node.attributes["axis"] = ir.make_attr("axis", -1)
        return node

    def layer(self, add: ir.Node, product: ir.Node) -> ir.Node:
        """Write a product and what adds a bias to it as Gemm."""
        old = add.outputs[0]
        bias = add.inputs[1] if add.inputs[0] is product.outputs[0] else add.inputs[0]
        gemm = ir.make_node("Gemm", [self.enter(product.inputs[0], add), product.inputs[1], bias], {})
        whole = ",".join(dict.fromkeys((*origins(product), *origins(add))))
        gemm.metadata_props.update(product.metadata_props | {"olc.from": whole})
        self.graph.insert_before(add, gemm)
        name, new = old.name, gemm.outputs[0]
        new.type, new.shape = old.type, old.shape
        ir.replace_value(old, new)
        old.name, new.name = None, name
        gemm.name, product.name = product.name, None
        self.graph.remove([add, product], safe=True)
        self.ctx.record(self.by, ir.site(gemm), "on rows, its bias in Gemm")
        return gemm

    def enter(self, value: ir.Value | None, reader: ir.Node) -> ir.Value:
        """The rows of a value that a node reads."""
        assert value is not None
        if value not in self.rows and len(self.region.lead) > 1:
            self.like = self.like or value
            sizes = self.constant([-1, _width(value)])
            rows = self.node("Reshape", [_reshaped(value) or value, sizes], reader, f"{value.name}_rows")
            self.graph.insert_before(reader, rows)
            self.rows[value] = rows.outputs[0]
        return self.rows.get(value, value)

    def leave(self, node: ir.Node, declared: ir.Shape | None) -> None:
        """Give those outside the region what the node makes in its old shape."""
        rows = node.outputs[0]
        self.rows[rows] = rows
        wanted, name = _outside(rows, self.region.nodes), rows.name or ""
        if not wanted and not rows.is_graph_output():
            return
        others = [use for use in ir.uses(rows) if use not in wanted]
        made = self.whole(node)
        whole = made[-1].outputs[0]
        whole.shape = declared
        for reader, i in wanted:
            reader.replace_input_with(i, whole)
        if rows.is_graph_output():
            rows.replace_all_uses_with(whole, replace_graph_outputs=True)
            rows.name, whole.name = self.names.value(f"{name}_rows"), name
            for reader, i in (*others, (made[-1], 0)):
                reader.replace_input_with(i, rows)
        self.graph.insert_after(node, made)

    def whole(self, node: ir.Node) -> list[ir.Node]:
        """The nodes that give what a node makes in its old shape, the last a Reshape."""
        rows, made = node.outputs[0], list[ir.Node]()
        width = _width(rows)
        lead = [d if isinstance(d, int) else -1 for d in self.region.lead]
        zeros = {"allowzero": 1} if lead.count(-1) > 1 else {}
        like, target = self.like, self.targets.get(width)
        assert like is not None
        if target is None and not zeros:
            target = self.constant([*lead, width])
        elif target is None and shapes.dims(like) == (*self.region.lead, width):
            made = [self.node("Shape", [like], node, f"{like.name}_sizes")]
        elif target is None:
            if self.lead is None:
                made = [self.node("Shape", [like], node, f"{like.name}_lead", end=-1)]
                self.lead = made[0].outputs[0]
            made.append(self.node("Concat", [self.lead, self.constant([width])], node, f"{rows.name}_sizes", axis=0))
        self.targets[width] = target = target or made[-1].outputs[0]
        return [*made, self.node("Reshape", [rows, target], node, f"{rows.name}_whole", **zeros)]

    def node(self, op: str, inputs: list[ir.Value | None], of: ir.Node, name: str, **attributes: int) -> ir.Node:
        new = ir.make_node(op, inputs, attributes)
        new.outputs[0].name, new.name = self.names.value(name), self.names.node(name)
        new.outputs[0].type = ir.TensorType(ir.DataType.FLOAT if op == "Reshape" else ir.DataType.INT64)
        new.metadata_props["olc.from"] = ",".join(origins(of))
        self.facts(new)
        return new

    def facts(self, node: ir.Node) -> None:
        """Derive what is known of a node's result, which had another shape or none."""
        node.outputs[0].shape = None
        shapes.infer_node(node, self.model)
        found = shapes.dims(node.outputs[0])
        if found is not None:
            node.outputs[0].shape = ir.Shape([d if isinstance(d, int) else None for d in found])

    def constant(self, numbers: Sequence[Dim]) -> ir.Value:
        return constant(self.model.graph, self.names, "_".join(map(str, ("shape", *numbers))), np.array(numbers, np.int64))
