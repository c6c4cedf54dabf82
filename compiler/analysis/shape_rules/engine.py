"""Runs the rules: over a model, a graph, one node; keeps what belongs to one model (its new symbols, its sizes)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from ... import ir
from .. import dims as d
from ..dims import Dim, Poly, Supply
from . import core, fallback
from .core import DIMS, ELEMENTS, REALS, Dims, Site, Unknown

# Names that exporters give to sizes that they do not know: two of them need not be equal.
_NAMELESS = frozenset({"", "?", "-1", "None", "unk", "unknown", "dynamic"})
# Bodies nest at most this deep before inference gives up (a crafted file could call functions without end).
_DEEPEST = 32
# Calls of a function re-infer its body; beyond this many nodes in all that is given up.
_CALL_BUDGET = 20_000


class Engine:
    """What inference of one model shares: the supply of new symbols and the dims known to be sizes of tensors."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.supply = Supply()
        self.sizes: set[Poly] = set()
        self.fitting: dict[Dim, int] = {}
        self.unproved: set[Dim] = set()
        self.names: set[str] = set()
        self.opsets: Mapping[str, int] = model.opset_imports
        self.bound: Mapping[str, ir.Attr] | None = None
        self.depth = 0
        self.budget = _CALL_BUDGET

    def note_size(self, n: Poly) -> None:
        """A dim of a tensor is >= 0, also where the polynomial alone does not prove it (``s - 1``)."""
        if not d.is_nonnegative(n):
            self.sizes.add(n)

    def note_fitting(self, span: Dim, node: ir.Node) -> None:
        """What a node of the main graph needs to be >= 0, or the run ends: kept where it is of the inputs' own sizes, and not of
        a node that nobody reads, which runtimes leave out."""
        if not any(v.uses() or v.is_graph_output() for v in node.outputs):
            return
        rest, least = _shifted(d.without_floor(span))
        if isinstance(rest, Poly) and node.graph is self.model.graph and d.all_names(rest) <= self.names:
            self.fitting[rest] = min(least, self.fitting.get(rest, least))

    def nonnegative(self, n: Dim) -> bool:
        """Proved >= 0, or the size of some tensor of the model, or it follows from what lets the model run to its end."""
        if d.is_nonnegative(n) or n in self.sizes or self._fits(n):
            return True
        self.unproved.add(n)
        return False

    def _fits(self, n: Dim) -> bool:
        rest, more = _shifted(d.without_floor(n))
        return rest in self.fitting and more >= self.fitting[rest]

    # ------------------------------------------------------------------------------------------------- running

    def run(self) -> None:
        """Infer the whole model afresh; twice where what the model needs in order to run says more of what came before."""
        self.fitting.clear()
        self._once()
        if any(self._fits(n) for n in self.unproved):
            self._once()

    def _once(self) -> None:
        self.unproved.clear()
        self.supply.reset()
        self.sizes.clear()
        self.names.clear()
        self.budget = _CALL_BUDGET
        for graph in ir.all_graphs(self.model):
            _forget(graph)
        for value in self.model.graph.inputs:
            self.declare(value)
        self.graph(self.model.graph)
        for function in self.model.functions.values():
            self._alone(function)

    def _alone(self, function: ir.Function) -> None:
        """A function's body seen without a call: nothing is known of its inputs."""
        outer = self.opsets, self.bound
        self.opsets, self.bound = function.opset_imports or self.opsets, None
        _forget_below(function.graph)
        for value in function.inputs:
            value.meta.data[DIMS] = None
        self.graph(function.graph)
        self.opsets, self.bound = outer

    def graph(self, graph: ir.Graph) -> None:
        """Infer every node of a graph whose inputs have their facts."""
        for node in graph:
            self.node(node)

    def declare(self, value: ir.Value) -> None:
        """Take the declared shape of an input of the model as a fact."""
        data = value.meta.data
        if not core.is_tensor(value):
            data[DIMS] = None
            return
        if value.shape is None:
            default: Any = value.const_value if value.is_initializer() else None
            data[DIMS] = None if default is None else tuple(int(n) for n in default.shape)
            return
        shape: list[Dim] = []
        for n in value.shape:
            found = read_declared(n)
            if found is None:
                shape.append(self.supply.fresh())
                continue
            shape.append(found)
            if isinstance(found, Poly):
                self.names |= d.symbols(found)
                self.note_size(found)
        data[DIMS] = tuple(shape)

    def node(self, node: ir.Node) -> None:
        """Derive the facts of a node's outputs; where nothing can be derived they are stated as unknown."""
        domain = node.domain
        if domain == "ai.onnx":
            domain = ""
        version = self.opsets.get(domain)
        if version is None:
            version = self.opsets.get("ai.onnx", 1) if domain == "" else 1
        outputs = node.outputs
        for value in outputs:
            data = value.meta.data
            if DIMS in data:
                data.pop(ELEMENTS, None)
                data.pop(REALS, None)
            data[DIMS] = None
        untyped = any(v.type is None for v in outputs)
        if untyped:
            default_types(node, domain, version, self)
        before = self.supply.count
        rule = core.lookup(domain, node.op_type)
        function = self.model.functions.get(node.op_identifier()) if self.model.functions else None
        if function is not None:
            self._call(node, function)
        elif rule is not None:
            # A fact is missing, or the node is one that would not run. What was stated of other outputs stands.
            with suppress(Unknown, IndexError, ValueError, OverflowError):
                rule(Site(node, self, version, self.bound))
            if untyped and any(v.type is None and v.name for v in outputs):
                fallback.infer(node, domain, version, self, types_only=True)
        else:
            fallback.infer(node, domain, version, self)
        for value in outputs:
            if value.shape is not None and not value.is_graph_output():
                self._fill(value, before)

    def _fill(self, value: ir.Value, before: int) -> None:
        """Let the declared shape of an intermediate value say what its facts do not."""
        data = value.meta.data
        found: Dims | None = data[DIMS]
        declared = value.shape
        assert declared is not None
        if found is None:
            if core.is_tensor(value):
                read = [self._trusted(n) for n in declared]
                data[DIMS] = tuple(self.supply.fresh() if n is None else n for n in read)
            return
        if self.supply.count == before or len(found) != len(declared):
            return
        filled = list(found)
        for i, n in enumerate(found):
            if isinstance(n, Poly) and self._is_new(n, before):
                said = self._trusted(declared[i])
                if said is not None:
                    filled[i] = said
        data[DIMS] = tuple(filled)

    def _is_new(self, n: Poly, before: int) -> bool:
        if len(n.terms) != 1 or len(n.terms[0][0]) != 1 or n.terms[0][1] != 1:
            return False
        name = n.terms[0][0][0].name
        return name[0] == self.supply.prefix and name[1:].isdecimal() and int(name[1:]) > before

    def _trusted(self, declared: Any) -> Dim | None:
        """A declared dim of an intermediate: a number, or an expression over the names of the model's inputs."""
        found = read_declared(declared)
        if isinstance(found, Poly) and not d.symbols(found) <= self.names:
            return None
        return found

    # ------------------------------------------------------------------------------------------------- calling

    def body(self, graph: ir.Graph, inputs: Sequence[tuple[Dims | None, core.Elements | None, Any]]) -> None:
        """Infer a body whose inputs have the given dims, elements and dtypes.

        Raises:
            Unknown: bodies nest too deep.
        """
        if self.depth >= _DEEPEST:
            raise Unknown
        for value, (shape, items, dtype) in zip(graph.inputs, inputs, strict=False):
            data = value.meta.data
            data[DIMS] = shape
            data.pop(ELEMENTS, None)
            data.pop(REALS, None)
            core.set_type(value, dtype)
            if items is not None:
                data[ELEMENTS] = items
        for value in graph.inputs[len(inputs) :]:
            value.meta.data[DIMS] = None
        self.depth += 1
        try:
            self.graph(graph)
        finally:
            self.depth -= 1

    def _call(self, node: ir.Node, function: ir.Function) -> None:
        """The facts of a call: those of the body, with the call's inputs and attributes."""
        size = len(function.graph)
        if self.depth >= _DEEPEST or self.budget < size:
            return
        self.budget -= size
        bound = {a.name: a for a in function.attributes.values() if a.value is not None}
        for a in node.attributes.values():
            if not a.is_ref():
                bound[a.name] = a
            elif self.bound is not None and (a.ref_attr_name or "") in self.bound:
                bound[a.name] = self.bound[a.ref_attr_name or ""]
            else:
                bound.pop(a.name, None)
        outer = self.opsets, self.bound
        self.opsets, self.bound = function.opset_imports or self.opsets, bound
        # The body belongs to every call: its values keep what is true of all of them.
        kept = [(v, v.type, _facts(v)) for g in _bodies(function.graph) for v in _values(g)]
        _forget_below(function.graph)
        try:
            given = [(None, None, None) if v is None else (core.dims(v), core.elements(v), v.dtype) for v in node.inputs]
            self.body(function.graph, given)
            for value, inner in zip(node.outputs, function.outputs, strict=False):
                data = value.meta.data
                data[DIMS] = core.dims(inner)
                held = core.elements(inner)
                if held is not None:
                    data[ELEMENTS] = held
                if value.type is None:
                    value.type = inner.type
        except Unknown:
            pass
        finally:
            for v, type_, facts in kept:
                v.type = type_
                _forget_value(v)
                v.meta.data.update(facts)
            self.opsets, self.bound = outer


def _shifted(p: Dim) -> tuple[Dim, int]:
    """A dim as a polynomial without a constant, and the constant."""
    constant = p if isinstance(p, int) else dict(p.terms).get((), 0)
    return d.sub(p, constant), constant


def read_declared(n: Any) -> Dim | None:
    """A dim of a declared shape: an int, a polynomial for an expression, a symbol for another name, None if unknown."""
    if isinstance(n, int):
        return n if n >= 0 else None
    text = n if isinstance(n, str) else n.value
    if text is None or text in _NAMELESS or text.startswith("?") or "@" in text:
        return None  # "?" names the unknown, and "@" coordinates (functions.py)
    return _read_name(text)


@lru_cache(maxsize=4096)
def _read_name(text: str) -> Dim:
    found = d.parse(text)
    return d.symbol(text) if found is None or isinstance(found, int) else found


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *(v for n in graph for v in n.outputs)]


def _bodies(graph: ir.Graph) -> list[ir.Graph]:
    return [graph, *(g for n in graph for s in ir.subgraphs(n) for g in _bodies(s))]


def _forget_below(graph: ir.Graph) -> None:
    for g in _bodies(graph):
        _forget(g)


def _forget(graph: ir.Graph) -> None:
    for value in graph.inputs:
        _forget_value(value)
    for node in graph:
        for value in node.outputs:
            _forget_value(value)


def _facts(value: ir.Value) -> dict[str, Any]:
    data = value.meta.data
    return {k: data[k] for k in (DIMS, ELEMENTS, REALS) if k in data}


def _forget_value(value: ir.Value) -> None:
    data = value.meta.data
    if data:
        data.pop(DIMS, None)
        data.pop(ELEMENTS, None)
        data.pop(REALS, None)


# ------------------------------------------------------------------------------------------------------ types


@lru_cache(maxsize=4096)
def _type_plan(op_type: str, domain: str, version: int) -> tuple[tuple[Any, ...], bool] | None:
    """For each formal output its dtype, or the index of the formal input that has it; and whether the last repeats."""
    schema = ir.schema_of(op_type, domain, version)
    if schema is None:
        return None
    seen: dict[str, int] = {}
    for i, p in enumerate(schema.inputs):
        if p.is_homogeneous:  # the inputs of a Loop or Scan share a letter, but not a type
            seen.setdefault(p.type_str, i)
    kinds: list[Any] = []
    constraints = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    for p in schema.outputs:
        source = seen.get(p.type_str)
        allowed = constraints.get(p.type_str, [p.type_str])
        fixed = _TYPE_NAMES.get(allowed[0]) if len(allowed) == 1 else None
        kinds.append(fixed if fixed is not None else source)
    variadic = bool(schema.outputs) and schema.outputs[-1].option.name == "Variadic"
    return tuple(kinds), variadic


_TYPE_NAMES = {
    f"tensor({name})": dtype
    for name, dtype in {
        "float": ir.DataType.FLOAT,
        "double": ir.DataType.DOUBLE,
        "float16": ir.DataType.FLOAT16,
        "bfloat16": ir.DataType.BFLOAT16,
        "int64": ir.DataType.INT64,
        "int32": ir.DataType.INT32,
        "int16": ir.DataType.INT16,
        "int8": ir.DataType.INT8,
        "uint64": ir.DataType.UINT64,
        "uint32": ir.DataType.UINT32,
        "uint16": ir.DataType.UINT16,
        "uint8": ir.DataType.UINT8,
        "bool": ir.DataType.BOOL,
        "string": ir.DataType.STRING,
    }.items()
}


def default_types(node: ir.Node, domain: str, version: int, engine: Engine) -> None:
    """Set the dtypes that follow from the schema alone: fixed ones, and type variables shared with an input."""
    plan = _type_plan(node.op_type, domain, version)
    if plan is None:
        return
    kinds, variadic = plan
    inputs = node.inputs
    for i, value in enumerate(node.outputs):
        if value.type is not None:
            continue
        if i < len(kinds):
            kind = kinds[i]
        elif variadic:
            kind = kinds[-1]
        else:
            continue
        if kind is None:
            continue
        if not isinstance(kind, ir.DataType):
            source = inputs[kind] if kind < len(inputs) else None
            if source is None or not isinstance(source.type, ir.TensorType):
                continue
            kind = source.type.dtype
        value.type = ir.TensorType(kind)
