"""Constant folding: a result that is the same on every run is computed now and becomes an initializer.

Two ways lead there. A value whose elements the shape analysis proves to be numbers (the Shape of a static tensor, a
Gather of it) is written down, whatever produces it. A node whose inputs are all constants is evaluated, by the kernels
that would have run it (ONNX Runtime without graph optimizations, in one session for all nodes of a round; the
reference evaluator for what that cannot run), so the numbers are those of a run. (What reads them may still round
otherwise in the last bit: ONNX Runtime packs the weights of an LSTM where they are constant, and sums in that order.)

Left alone, because it would not be the same, not be worth it, or not be safe:

* random operators, Dropout, operators of other domains, nodes with bodies, strings, sequences and optionals;
* DequantizeLinear and DynamicQuantizeLinear, and casts of narrow integers to wider types: so a weight is stored;
* what would grow the model: the size of a result is known before it is computed, and it is at most ``ctx.fold_bytes``
  or not larger than the constants that end with it; all results together add at most ``ctx.fold_total``;
* products (MatMul, Conv) above ``ctx.fold_bytes``, whatever they replace: their time is not bounded by their size;
* an integer division whose divisor is not known to be free of zeros (it would end the process).

A large tensor in a data file is not read. Where only its layout or float type changes (Transpose, Reshape, Cast) it
becomes a lazy tensor, computed when it is saved or looked at; anything else with it stays in the graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from .. import ir
from ..analysis import shapes
from ..analysis.shape_rules import core
from . import Context
from .edit import annotated, erase, redirect
from .fold_run import run_nodes

NAME = "fold"

_T = ir.DataType

_NEVER = frozenset(
    (
        "Constant", "Dropout", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
        "Multinomial", "Bernoulli", "DequantizeLinear", "DynamicQuantizeLinear", "If", "Loop", "Scan", "SequenceMap",
        "ImageDecoder",
    )
)  # fmt: skip
# Operators whose time grows no faster than their inputs and outputs: these may replace large constants.
_LINEAR = frozenset(
    (
        "Abs", "Add", "Cast", "CastLike", "Clip", "Concat", "Div", "DepthToSpace", "Expand", "Flatten", "Gather",
        "Identity", "Mul", "Neg", "Pad", "QuantizeLinear", "Reciprocal", "Reshape", "Slice", "SpaceToDepth", "Split",
        "Sqrt", "Squeeze", "Sub", "Transpose", "Trilu", "Unsqueeze", "Where",
    )
)  # fmt: skip
_LAYOUT = frozenset(
    (
        "Cast", "Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze",
    )
)  # fmt: skip
_LAZY_FLOATS = frozenset((_T.FLOAT, _T.DOUBLE, _T.FLOAT16, _T.BFLOAT16))
# A cast from these of more elements than _SMALL tells how a weight is stored.
_PACKED = frozenset(t for t in _T if t not in (_T.UNDEFINED, _T.STRING, _T.BOOL) and t.bitwidth <= 8)
_SMALL = 1024
# External tensors above this many bytes are never read here.
_MAPPED = 1 << 20
# Results of one session, in bytes and in nodes, after which the next one is started: what is replaced can then be let
# go, and ONNX Runtime's time to make a session grows faster than the number of its nodes.
_BATCH, _BATCH_NODES = 256 << 20, 2000


def run(model: ir.Model, ctx: Context) -> int:
    """Fold in the main graph, in bodies and in functions (there into Constant nodes); the number of nodes folded."""
    if NAME in ctx.skip:
        return 0
    if not shapes.known(model):
        shapes.infer(model)
    folder = _Folder(model, ctx)
    in_functions: dict[int, dict[str, int]] = {}
    for function in model.functions.values():
        for graph in _with_bodies(function.graph):
            in_functions[id(graph)] = dict(function.opset_imports or model.opset_imports)
    for graph in ir.all_graphs(model):
        opsets = in_functions.get(id(graph))
        folder.graph(graph, dict(model.opset_imports) if opsets is None else opsets, opsets is not None)
    return folder.changes


def _with_bodies(graph: ir.Graph) -> Iterable[ir.Graph]:
    yield graph
    for node in graph:
        for body in ir.subgraphs(node):
            yield from _with_bodies(body)


class _Folder:
    """One run of the pass over one model."""

    def __init__(self, model: ir.Model, ctx: Context) -> None:
        self.model = model
        self.ctx = ctx
        self.changes = 0
        self.added = 0
        self.pinned = annotated(model)
        self.one_reader: dict[ir.Value, bool] = {}
        self.pending: dict[ir.Value, int] = {}  # results of nodes chosen for evaluation, with their bytes

    def graph(self, graph: ir.Graph, opsets: dict[str, int], in_function: bool) -> None:
        self.pending.clear()
        chosen: list[ir.Node] = []
        gone: list[ir.Node] = []
        size = 0
        for node in list(graph):
            if self._spared(node):
                continue
            if self._written(graph, node, in_function) or self._passed_on(node) or self._laid_out(graph, node):
                gone.append(node)
            elif self._foldable(node):
                chosen.append(node)
                size += sum(self.pending[v] for v in node.outputs if v in self.pending)
            if size > _BATCH or len(chosen) >= _BATCH_NODES:
                gone.extend(self._evaluated(graph, chosen, opsets, in_function))
                chosen, size = [], 0
                self.pending.clear()
        gone.extend(self._evaluated(graph, chosen, opsets, in_function))
        self._removed(graph, gone)

    def _spared(self, node: ir.Node) -> bool:
        if not self.ctx.skip:
            return False
        return f"{NAME}@{node.name}" in self.ctx.skip or any(f"{NAME}@{v.name}" in self.ctx.skip for v in node.outputs)

    # ------------------------------------------------------------------------------------ written down, passed on

    def _written(self, graph: ir.Graph, node: ir.Node, in_function: bool) -> bool:
        """Write down the results that are known number by number. True where no result of the node is used any more."""
        if node.op_type == "Constant" or all(core.ELEMENTS not in v.meta.data for v in node.outputs):
            return False
        for value in node.outputs:
            held = core.elements(value)
            shape = core.dims(value)
            dtype = value.dtype
            if held is None or shape is None or not _used(value) or dtype is None or dtype not in core.INTEGERS:
                continue
            if (
                core.count(shape) is None
                or not all(isinstance(e, int) for e in held)
                or (node.op_type == "Identity" and value.is_graph_output())
            ):
                continue
            data = np.array(held, dtype=dtype.numpy()).reshape(core.static(shape))
            self._replace(graph, node, value, ir.Tensor(data), in_function)
        return not any(_used(v) for v in node.outputs)

    def _passed_on(self, node: ir.Node) -> bool:
        """An Identity of a constant is that constant: a second copy of a weight would be made otherwise."""
        if node.op_type != "Identity" or node.domain not in ("", "ai.onnx"):
            return False
        source, result = node.inputs[0], node.outputs[0]
        if not ir.is_constant(source) or result.is_graph_output() or result.name in self.pinned:
            return False
        assert source is not None
        result.replace_all_uses_with(source)
        self.changes += 1
        self.ctx.record(NAME, node.name, f"Identity of the constant {source.name!r}")
        return True

    # --------------------------------------------------------------------------------------------- what may fold

    def _foldable(self, node: ir.Node) -> bool:
        """Choose a node for evaluation, if all that is asked of it holds; its results then count as constants."""
        if node.op_type in _NEVER or node.domain not in ("", "ai.onnx") or not node.inputs:
            return False
        if not any(v is not None for v in node.inputs) or any(a.is_ref() for a in node.attributes.values()):
            return False
        if not all(v is None or v in self.pending or ir.is_constant(v) for v in node.inputs):
            return False
        if node.op_type == "Identity" and node.inputs[0] not in self.pending:
            return False  # of a constant, for a graph output: it is what folding would make
        if any(_is_graph(a) for a in node.attributes.values()):
            return False
        size = 0
        sizes: dict[ir.Value, int] = {}
        for value in node.outputs:
            if not value.name and not _used(value):
                continue
            bytes_ = _bytes(value)
            if bytes_ is None or value.name in self.pinned:
                return False
            sizes[value] = bytes_
            size += bytes_
        if not sizes or not any(_used(v) for v in sizes) or any(v.dtype == _T.STRING for v in node.inputs if v):
            return False
        if not self._affordable(node, size) or not self._divides(node) or _unpacks(node):
            return False
        self.pending.update(sizes)
        return True

    def _affordable(self, node: ir.Node, size: int) -> bool:
        inputs = [v for v in dict.fromkeys(node.inputs) if v is not None]
        if any(v not in self.pending and _far(v) for v in inputs):
            return False
        ending = sum(_held(v, self.pending) for v in inputs if self._has_one_reader(v))
        if size > self.ctx.fold_bytes and (size > ending or node.op_type not in _LINEAR):
            return False
        grown = max(0, size - ending)
        if self.added + grown > self.ctx.fold_total:
            return False
        self.added += grown
        return True

    def _has_one_reader(self, value: ir.Value) -> bool:
        """Whether one node reads the value. Asked once: a constant may have thousands, and only loses them here."""
        known = self.one_reader.get(value)
        if known is None:
            known = self.one_reader[value] = len({u.node for u in value.uses()}) == 1
        return known

    def _divides(self, node: ir.Node) -> bool:
        """False for an integer division by what could be zero: the runtime's kernel would trap."""
        if node.op_type not in ("Div", "Mod"):
            return True
        divisor = node.inputs[1]
        if divisor is None or (divisor.dtype is not None and divisor.dtype.is_floating_point()):
            return True
        data = ir.array(divisor)
        if data is None:
            known = core.elements(divisor)
            return known is not None and all(isinstance(e, int) and e != 0 for e in known)
        return bool(np.all(data != 0))

    # ----------------------------------------------------------------------------------------------- evaluating

    def _evaluated(self, graph: ir.Graph, nodes: list[ir.Node], opsets: dict[str, int], in_function: bool) -> list[ir.Node]:
        """Evaluate the chosen nodes, put the results that others use into the graph; the nodes that are done."""
        if not nodes:
            return []
        inside = set(nodes)
        wanted = [v for n in nodes for v in n.outputs if _used(v) and _leaves(v, inside)]
        found, failed = run_nodes(nodes, wanted, opsets)
        for value in wanted:
            node = value.producer()
            data = found.get(value)
            if data is None or node is None:
                continue
            tensor = ir.Tensor(data)
            shape = core.dims(value)
            if tensor.dtype != value.dtype or tuple(data.shape) != shape:
                said = None if shape is None else [str(n) for n in shape]
                failed[node] = f"is {tensor.dtype}{list(data.shape)}, was taken to be {value.dtype}{said}"
                continue
            self._replace(graph, node, value, tensor, in_function)
        for node, why in failed.items():
            self.ctx.record(NAME, node.name, f"left: {why.splitlines()[0][:200] if why else 'cannot be evaluated'}")
        return [n for n in nodes if n not in failed]

    def _laid_out(self, graph: ir.Graph, node: ir.Node) -> bool:
        """Replace a change of layout of a large tensor in a data file by a lazy tensor."""
        if node.op_type not in _LAYOUT or node.domain not in ("", "ai.onnx"):
            return False
        source, result = node.inputs[0], node.outputs[0]
        if source is None or not ir.is_constant(source) or not _far(source):
            return False
        others = [v for v in node.inputs[1:] if v is not None]
        size = _bytes(result)
        if size is None or result.is_graph_output() or result.name in self.pinned or not _used(result):
            return False
        if any(not ir.is_constant(v) for v in others) or any(a.is_ref() for a in node.attributes.values()):
            return False
        tensor: Any = ir.tensor(source)
        casts = node.op_type == "Cast"
        if casts and not (tensor.dtype in _LAZY_FLOATS and result.dtype in _LAZY_FLOATS):
            return False
        if size > self.ctx.fold_bytes and (size > tensor.nbytes or not self._has_one_reader(source)):
            return False
        order = ir.attr(node, "perm") if node.op_type == "Transpose" else None
        shape = core.static(core.dims(result) or ())
        dtype = result.dtype
        assert dtype is not None
        make = _transposed(tensor, order) if node.op_type == "Transpose" else _reshaped(tensor, shape, dtype)
        lazy = ir.LazyTensor(make, dtype=dtype, shape=ir.Shape(shape), name=result.name)
        self._replace(graph, node, result, lazy, in_function=False)
        return True

    # ------------------------------------------------------------------------------------------------ replacing

    def _replace(self, graph: ir.Graph, node: ir.Node, value: ir.Value, tensor: Any, in_function: bool) -> None:
        """Let a constant take the place of a node's result, under its name; a graph output keeps a node (Identity)."""
        name = value.name or f"{node.name or node.op_type}_{value.index()}"
        if value.is_graph_output() or value.name in self.pinned:
            name = self._free(graph, f"{name}_value")
        else:
            value.name = None
        tensor.name = name
        if in_function:
            maker = ir.make_node("Constant", [], {"value": ir.Attr("value", ir.AttributeType.TENSOR, tensor)})
            new = maker.outputs[0]
            new.name, new.type, new.shape = name, ir.TensorType(tensor.dtype), ir.Shape(tensor.shape)
            maker.name = f"{node.name or name}_folded"
            maker.metadata_props.update(node.metadata_props)
            graph.insert_before(node, maker)
            shapes.infer_node(maker, self.model)
        else:
            new = ir.make_constant(tensor, name)
            new.metadata_props.update(value.metadata_props)
            graph.register_initializer(new)
        redirect(value, new, self.pinned)
        self.changes += 1
        self.ctx.record(NAME, node.name, f"{node.op_type} is the constant {name!r}")

    def _free(self, graph: ir.Graph, base: str) -> str:
        taken = self._names()
        name, number = base, 0
        while name in taken:
            number += 1
            name = f"{base}_{number}"
        taken.add(name)
        return name

    def _names(self) -> set[str]:
        known: set[str] | None = getattr(self, "_taken", None)
        if known is None:
            known = set()
            for g in ir.all_graphs(self.model):
                known |= set(g.initializers) | {v.name for v in g.inputs if v.name}
                known |= {v.name for n in g for v in n.outputs if v.name}
            self._taken = known
        return known

    def _removed(self, graph: ir.Graph, nodes: list[ir.Node]) -> None:
        """Take out what was folded, from the last to the first, where nothing needs it any more."""
        gone: set[ir.Node] = set()
        for node in reversed(list(dict.fromkeys(nodes))):
            outputs = node.outputs
            if all(not v.is_graph_output() and {u.node for u in v.uses()} <= gone for v in outputs):
                gone.add(node)
        erase(graph, [n for n in nodes if n in gone])


def _used(value: ir.Value) -> bool:
    return value.is_graph_output() or bool(value.uses())


def _leaves(value: ir.Value, inside: set[ir.Node]) -> bool:
    """Whether someone outside of the nodes reads the value."""
    return value.is_graph_output() or any(u.node not in inside for u in value.uses())


def _bytes(value: ir.Value) -> int | None:
    """The bytes of a tensor of static shape, else None. The size of a string is not known."""
    shape = core.dims(value)
    if shape is None or value.dtype is None or value.dtype == _T.STRING or not core.is_tensor(value):
        return None
    size = core.count(shape)
    return None if size is None else math.ceil(size * value.dtype.bitwidth / 8)


def _held(value: ir.Value, pending: dict[ir.Value, int]) -> int:
    if value in pending:
        return pending[value]
    t = ir.tensor(value)
    return 0 if t is None else int(t.nbytes)


def _far(value: ir.Value) -> bool:
    """A large constant that is not in memory."""
    t = ir.tensor(value)
    return isinstance(t, ir.ExternalTensor | ir.LazyTensor) and t.nbytes > _MAPPED


def _is_graph(a: ir.Attr) -> bool:
    return a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _unpacks(node: ir.Node) -> bool:
    """A cast of stored small integers (or 8-bit floats) to the type that is computed with."""
    source, result = node.inputs[0], node.outputs[0]
    if node.op_type not in ("Cast", "CastLike") or source is None or source.dtype not in _PACKED:
        return False
    shape = core.dims(source)
    wider = result.dtype is not None and source.dtype is not None and result.dtype.bitwidth > source.dtype.bitwidth
    size = None if shape is None else core.count(shape)
    return wider and (size is None or size > _SMALL)


def _transposed(tensor: Any, order: Any) -> Any:
    return lambda: ir.Tensor(np.ascontiguousarray(np.transpose(tensor.numpy(), order)))


def _reshaped(tensor: Any, shape: list[int], dtype: Any) -> Any:
    def make() -> Any:
        with np.errstate(over="ignore"):
            return ir.Tensor(tensor.numpy().astype(dtype.numpy(), copy=False).reshape(shape))

    return make
