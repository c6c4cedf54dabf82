"""A case as a model: the pattern function run with a building ``op`` on concrete shapes, constants and choices."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx

from .. import ir
from ..analysis import shapes
from ..builder import Builder, Refusal
from ..ir import DataType, Node, Value
from ..patterns import COMMUTATIVE, Spec
from ..rules import Case, Rule
from . import data

# Inputs that must have rank 1, whatever their number of elements.
_VECTORS = {
    "Reshape": {1}, "Expand": {1}, "Unsqueeze": {1}, "Squeeze": {1}, "Slice": {1, 2, 3, 4}, "Tile": {1}, "Pad": {1, 3},
    "Split": {1}, "ConstantOfShape": {0}, "Resize": {1, 2, 3}, "ReduceSum": {1}, "ReduceMean": {1}, "ReduceMax": {1},
    "ReduceMin": {1}, "ReduceProd": {1}, "ReduceL1": {1}, "ReduceL2": {1}, "ReduceSumSquare": {1}, "ReduceLogSum": {1},
    "ReduceLogSumExp": {1}, "TopK": {1}, "CenterCropPad": {1}, "Upsample": {1},
}  # fmt: skip


class Invalid(Exception):
    """These shapes, values and choices give no legal model; another draw may."""


@dataclass(frozen=True)
class Alias:
    """In place of a parameter's value: the same graph value as that other parameter."""

    of: str


@dataclass(frozen=True)
class Draw:
    """Everything that turns a case into one model.

    Attributes:
        values: the case's values, perhaps perturbed.
        dims: size of each named dim; ``rest`` are the sizes that ``...`` and unspecified shapes stand for.
        dtypes: the dtype picked from each set of dtypes.
        choices: which alternative at each ``either``, ``oneof`` and ``product``, in the order in which they are asked.
        literals: shape of one-element constants: "scalar", "vector" ([1]) , "rank" (as many 1s as the other input has
            dims) or "extra" (one more).
        constants: "initializer", "node" or "mixed".
        declare: shapes of graph inputs as "static" numbers, "symbolic" (named dims by name), "loose" (every dim by
            a name of its own) or "unknown".
        content: how random constants are filled, a profile of ``data``.
        swap: order of operands of commutative operators is random.
        nudge: relative change of numbers that the pattern names.
    """

    values: Mapping[str, Any]
    opset: int
    dims: Mapping[str, int] = field(default_factory=dict)
    rest: tuple[int, ...] = (2, 3)
    dtypes: Mapping[tuple[DataType, ...], DataType] = field(default_factory=dict)
    choices: tuple[int, ...] = ()
    literals: str = "scalar"
    constants: str = "initializer"
    declare: str = "static"
    content: str = "plain"
    swap: bool = False
    nudge: float = 0.0
    seed: int = 0

    def but(self, **changes: Any) -> Draw:
        return replace(self, **changes)

    def shape(self, spec: Spec) -> tuple[int, ...]:
        if spec.dims is None:
            return self.rest
        shape: list[int] = []
        for d in spec.dims:
            shape.extend(self.rest if d is ... else [self.dims[d]] if isinstance(d, str) else [d])
        return tuple(shape)

    def dtype(self, spec: Spec) -> DataType:
        return self.dtypes.get(spec.dtypes, spec.dtypes[0])


@dataclass
class Built:
    """A model made from a draw.

    Attributes:
        inputs: dtype and shape of each graph input.
        interior: values between the pattern's nodes; ``roots``: the graph outputs that the pattern's roots became.
        constants: names of the initializers that the pattern reads.
        asked: how many options each choice had.
    """

    proto: onnx.ModelProto
    inputs: dict[str, tuple[DataType, tuple[int, ...]]]
    roots: list[str]
    interior: list[str]
    constants: list[str]
    asked: list[int]


class _Number:
    """A number that a case gives for a parameter: one constant wherever the parameter is used."""

    def __init__(self, name: str, number: Any) -> None:
        self.name = name
        self.number = number
        self.value: Value | None = None


class CaseBuilder(Builder):
    """The ``op`` that builds a case's graph: the rewriter's, with dtypes followed along and the draw's variations."""

    def __init__(self, opsets: dict[str, int], draw: Draw, domain: str = "", parent: CaseBuilder | None = None) -> None:
        super().__init__(opsets, domain, parent)
        self._draw = draw
        self._asked: list[int] = [] if parent is None else parent._asked
        self._random: np.random.Generator = np.random.default_rng(draw.seed) if parent is None else parent._random
        self._choices: Callable[[int], int] = self._choose

    def domain(self, name: str) -> CaseBuilder:
        self._opsets.setdefault(name, 1)
        return CaseBuilder(self._opsets, self._draw, name, self)

    def _choose(self, options: int) -> int:
        i = len(self._asked)
        self._asked.append(options)
        wanted = self._draw.choices[i] if i < len(self._draw.choices) else 0
        return wanted if wanted < options else 0

    def _make(self, op_type: str) -> Callable[..., Any]:
        plain = super()._make(op_type)

        def build(*inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
            given = {k: a for k, a in attributes.items() if a is not None}
            try:
                result = plain(*inputs, outputs=outputs, **given)
            except Refusal as e:
                raise Invalid(str(e)) from None
            node = self.nodes[-1]
            commutes = self._draw.swap and op_type in COMMUTATIVE and self._domain == "" and len(node.inputs) == 2
            if commutes and self._random.random() < 0.5:
                first, second = node.inputs
                node.replace_input_with(0, second)
                node.replace_input_with(1, first)
            _follow_dtypes(node, self._opsets)
            return result

        return build

    def _value(self, op_type: str, i: int, inputs: tuple[Any, ...]) -> Value | None:
        v = inputs[i]
        if isinstance(v, _Number):
            if v.value is None:
                v.value = self._number(v.number, op_type, i, inputs)
                v.value.name = v.name
            return v.value
        if isinstance(v, bool | int | float):
            return self._number(v * (1 + self._draw.nudge) if self._draw.nudge and v else v, op_type, i, inputs)
        return super()._value(op_type, i, inputs)

    def _number(self, number: Any, op_type: str, i: int, inputs: tuple[Any, ...]) -> Value:
        """A one-element constant in the shape that the draw wants."""
        dtype = self._dtype_for(op_type, i, tuple(o.value if isinstance(o, _Number) else o for o in inputs))
        style = self._draw.literals
        ranks = [len(o.shape) for o in inputs if isinstance(o, Value) and o.shape is not None]
        rank = max(ranks, default=len(self._draw.rest))
        wanted = {"scalar": 0, "vector": 1, "rank": rank, "extra": rank + 1}[style]
        if self._domain == "" and i in _VECTORS.get(op_type, ()):
            wanted = 1
        return self.constant(np.full((1,) * wanted, number), dtype)


def _follow_dtypes(node: Node, opsets: dict[str, int]) -> None:
    """Give the outputs the dtypes that the operator's schema ties to its inputs: literals further on need them."""
    schema = ir.schema_of(node.op_type, node.domain, opsets.get(node.domain, 1))
    for i, out in enumerate(node.outputs):
        dtype: DataType | None = None
        if schema is None:
            if out.dtype is None:
                bare = ir.Graph([], [], nodes=[], opset_imports=opsets)
                shapes.infer_node(node, ir.Model(bare, ir_version=10))
            dtype = next((v.dtype for v in (out, *node.inputs) if v is not None and v.dtype is not None), None)
        elif schema.outputs:
            text = schema.outputs[min(i, len(schema.outputs) - 1)].type_str
            if text.startswith("tensor("):
                dtype = DataType[text[7:-1].upper().replace("FLOAT32", "FLOAT") if text != "tensor(float)" else "FLOAT"]
            else:
                for j, v in enumerate(node.inputs):
                    formal = schema.inputs[min(j, len(schema.inputs) - 1)]
                    if v is not None and v.dtype is not None and formal.type_str == text:
                        dtype = v.dtype
        for name in ("to", "dtype", "output_dtype"):
            chosen = ir.attr(node, name)
            if chosen:
                dtype = DataType(chosen)
        if dtype is not None:
            out.type = ir.TensorType(dtype)


def build(rule: Rule, draw: Draw) -> Built:
    """The model of a draw.

    Raises:
        Invalid: the draw gives no legal model.
    """
    opsets = {"": draw.opset}
    op = CaseBuilder(opsets, draw)
    leaves = _Leaves(rule, draw, op)
    arguments = {name: leaves.make(name) for name in rule.pattern.params}
    result = rule.pattern.function(op, **arguments)
    roots: tuple[Value, ...] = result if isinstance(result, tuple) else (result,)
    needed = _needed(roots)
    nodes = [n for n in op.nodes if n in needed]
    read = dict.fromkeys(v for n in nodes for v in n.inputs if v is not None)
    inputs = [v for v in leaves.inputs if v in read]
    constants = [c for c in op.constants if c in read]
    taken = {str(v.name) for v in inputs}
    for i, n in enumerate(nodes):
        n.name = f"{n.op_type}_{i}"
        for j, o in enumerate(n.outputs):
            o.name = _free(f"t{i}" if len(n.outputs) == 1 else f"t{i}_{j}", taken)
    roots = tuple(dict.fromkeys(roots))
    for i, r in enumerate(roots):
        r.name = _free(f"y{i}" if len(roots) > 1 else "y", taken)
    for i, c in enumerate(constants):
        c.name = _free(c.name or f"c{i}", taken)
    interior = [o.name for n in nodes for o in n.outputs if o not in roots and o in read]
    initializers = _place_constants(draw, constants, nodes)
    graph = ir.Graph(inputs, roots, nodes=nodes, initializers=initializers, opset_imports=opsets, name="case")
    proto = ir.serde.serialize_model(ir.Model(graph, ir_version=10))
    del proto.graph.value_info[:]  # what lies between must be inferred
    return Built(
        declare_outputs(proto), leaves.shapes, [str(r.name) for r in roots], [str(n) for n in interior],
        [str(c.name) for c in initializers], op._asked,
    )  # fmt: skip


def _free(name: str, taken: set[str]) -> str:
    """The name, with as many strokes as make it new."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


class _Leaves:
    """Makes the graph's inputs and constants from a draw's values."""

    def __init__(self, rule: Rule, draw: Draw, op: CaseBuilder) -> None:
        self.rule = rule
        self.draw = draw
        self.op = op
        self.inputs: list[Value] = []
        self.shapes: dict[str, tuple[DataType, tuple[int, ...]]] = {}
        self.made: dict[str, Any] = {}

    def make(self, name: str) -> Any:
        if name not in self.made:
            self.made[name] = self._make(name)
        return self.made[name]

    def _make(self, name: str) -> Any:
        param = self.rule.pattern.params[name]
        value = self.draw.values.get(name)
        if param.kind == "attrs":
            return dict(value or {})
        if param.kind == "many":
            return [self._leaf(f"{name}_{i}", v, "any") for i, v in enumerate(value or ())]
        if self.rule.pattern.roles.get(name) == "attribute":
            return value
        if name not in self.draw.values:
            if param.optional:
                return None
            if param.spec is None:
                raise Invalid(f"the case gives no value for {name!r}")
            value = param.spec
        return self._leaf(name, value, param.kind)

    def _leaf(self, name: str, value: Any, kind: str) -> Any:
        if value is None:
            return None
        if isinstance(value, Alias):
            return self.make(value.of)
        if isinstance(value, bool | int | float):
            return _Number(name, value)
        if isinstance(value, Spec):
            shape, dtype = self.draw.shape(value), self.draw.dtype(value)
            if kind in ("const", "scalar"):
                random = np.random.default_rng([self.draw.seed, zlib.crc32(name.encode())])
                return self._constant(name, data.fill(dtype, shape, self.draw.content, random))
            v = Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(self._declared(name, value, shape)))
            if self.draw.declare == "unknown":
                v.shape = None
            self.shapes[name] = (dtype, shape)
            self.inputs.append(v)
            return v
        if isinstance(value, np.ndarray | np.generic | list | tuple):
            return self._constant(name, np.asarray(value))
        hint = "give a type such as f32['N'], an array, a number or None"
        raise Invalid(f"the case gives {value!r} for {name!r}; {hint}")

    def _constant(self, name: str, array: np.ndarray) -> Value:
        v = self.op.constant(array)
        v.name = name
        return v

    def _declared(self, name: str, spec: Spec, shape: tuple[int, ...]) -> list[int | str]:
        if self.draw.declare == "loose":
            return [f"{name}_{i}" for i in range(len(shape))]
        if self.draw.declare != "symbolic":
            return list(shape)
        rest = [f"rest_{i}" for i in range(len(self.draw.rest))]
        if spec.dims is None:
            return list(rest)
        declared: list[int | str] = []
        for d in spec.dims:
            declared.extend(rest if d is ... else [d])
        return declared


def _needed(roots: tuple[Any, ...]) -> set[Node]:
    """The nodes that the roots depend on: ``either`` builds all its alternatives and keeps one."""
    needed: set[Node] = set()
    stack = []
    for r in roots:
        if not isinstance(r, Value) or r.producer() is None:
            raise Invalid("a root of the pattern is not the result of an operator in this alternative")
        stack.append(r.producer())
    while stack:
        n = stack.pop()
        if n is not None and n not in needed:
            needed.add(n)
            stack.extend(v.producer() for v in n.inputs if v is not None)
    return needed


def _place_constants(draw: Draw, constants: list[Value], nodes: list[Node]) -> list[Value]:
    """Constants as initializers or as Constant nodes in front; returns the initializers."""
    kept: list[Value] = []
    for i, c in enumerate(constants):
        if draw.constants == "initializer" or (draw.constants == "mixed" and (draw.seed + i) % 2):
            kept.append(c)
            continue
        holder = ir.make_node("Constant", [], {"value": ir.Attr("value", ir.AttributeType.TENSOR, c.const_value)})
        holder.name = f"Constant_{c.name}"
        holder.outputs[0].type = c.type
        for user, at in list(c.uses()):
            user.replace_input_with(at, holder.outputs[0])
        holder.outputs[0].name = c.name
        nodes.insert(0, holder)
    return kept


def declare_outputs(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Declare the graph's outputs as onnx's own inference types them; where it cannot, by the dtype that they have.

    Raises:
        Invalid: the inference finds the model wrong.
    """
    blank = onnx.ModelProto()
    blank.CopyFrom(proto)
    for out in blank.graph.output:
        out.ClearField("type")
    try:
        inferred = onnx.shape_inference.infer_shapes(blank, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError) as e:
        raise Invalid(str(e).strip().splitlines()[-1]) from None
    known = {v.name: v for v in inferred.graph.output}
    for out in proto.graph.output:
        dtype = out.type.tensor_type.elem_type
        out.ClearField("type")
        if known[out.name].type.tensor_type.elem_type:
            out.CopyFrom(known[out.name])
        elif dtype:
            out.type.tensor_type.elem_type = dtype
    return proto


def why_invalid(proto: onnx.ModelProto) -> str | None:
    """What onnx's checker says against the model; None where it is legal."""
    missing = _missing_operator(proto, proto.graph.node)
    if missing is not None:
        return missing
    version = next((i.version for i in proto.opset_import if i.domain == ""), 1)
    if any(ir.of_runtime(n.op_type, n.domain, version) for n in proto.graph.node):
        return None  # onnx's checker knows no such operator
    shaped = all(v.type.tensor_type.HasField("shape") for v in [*proto.graph.input, *proto.graph.output])
    try:
        if shaped:
            onnx.checker.check_model(proto, full_check=True)
        else:  # the checker insists on shapes; runtimes do not
            onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError, ValueError) as e:
        return " ".join(str(e).split())[:300]
    return None


def _missing_operator(proto: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> str | None:
    """An operator of the standard domains that the model's opset does not have."""
    opsets = {i.domain: i.version for i in proto.opset_import}
    for n in nodes:
        if n.domain in ("", "ai.onnx.ml") and ir.schema_of(n.op_type, n.domain, opsets.get(n.domain, 1)) is None:
            return f"{n.op_type} is not an operator of opset {opsets.get(n.domain)}"
        for a in n.attribute:
            inner = _missing_operator(proto, a.g.node) if a.type == onnx.AttributeProto.GRAPH else None
            if inner is not None:
                return inner
    return None


def values_of(rule: Rule, case: Case) -> dict[str, Any]:
    """The case's values, with the pattern's own types where the case gives none."""
    values = dict(case.values)
    for name, p in rule.pattern.params.items():
        if name not in values and p.spec is not None and not p.optional and rule.pattern.roles.get(name) == "input":
            values[name] = p.spec
    return values
