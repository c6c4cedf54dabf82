"""A case's graph put into surroundings that its author may not have thought of.

On each of them the rule must leave the graph alone or keep every result, those of other consumers included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from .. import ir
from ..ir import DataType
from .case_model import Built, declare_outputs
from .draws import other_values

Inputs = dict[str, tuple[DataType, tuple[int, ...]]]


@dataclass
class Candidate:
    """A model to rewrite.

    Attributes:
        contents: what some inputs hold, arrays to try in order; the others are filled at random.
        seed: of their contents.
        assumed: the assumptions that the rewrite of it relied on; its inputs are filled so that they hold.
    """

    proto: ModelProto
    inputs: Inputs
    contents: dict[str, list[np.ndarray]] = field(default_factory=dict)
    seed: int = 0
    assumed: frozenset[str] = frozenset()


Mutate = Callable[[Built], "Candidate | None"]


def of(built: Built, opset: int) -> Iterator[tuple[str, Mutate]]:
    """The mutants of a case, each with what was done to it."""
    for name in built.interior:
        yield f"interior value {name} has another consumer", partial(_consumer, name=name)
        yield f"interior value {name} is a graph output", partial(_output, name=name)
    for name in built.interior[:1]:
        yield f"interior value {name} is captured by an If branch", partial(_captured, name=name)
    for name in _unused_outputs(built):
        yield f"output {name} of a matched node is used", partial(_output, name=name)
    yield "the root is followed by another operator", partial(followed, keep=False)
    yield "the root is a graph output and has a consumer", partial(followed, keep=True)
    yield "the root is captured by an If branch", partial(_captured, name=built.roots[0])
    if built.inputs:
        yield "the inputs come from operators", _computed_inputs
    for name in built.constants:
        yield f"constant {name} is a graph input", partial(_variable, name=name, keep=False)
        yield f"constant {name} can be overridden by the caller", partial(_variable, name=name, keep=True)
        yield f"constant {name} has another consumer", partial(_consumer, name=name)
    for i, n in enumerate(built.proto.graph.node):
        for name in _other_attributes(n, opset):
            for seed in range(2):
                change = partial(_attribute, at=i, name=name, opset=opset, seed=seed)
                yield f"{n.op_type} has another {name}", change
        if _extra_output(n, opset):
            yield f"the extra output of {n.op_type} is used", partial(_more_outputs, at=i)
    yield "two copies share inputs and constants", _twice
    if len(built.roots) > 1:
        yield "one root depends on another", _chained
    yield "inside an If branch, inputs and constants captured", partial(_in_if, inner=False)
    yield "inside a Loop body, constants inside", _in_loop
    yield "inside an If branch, constants inside", partial(_in_if, inner=True)
    yield "inside a function", _in_function


def _copy(b: Built) -> Candidate:
    proto = ModelProto()
    proto.CopyFrom(b.proto)
    return Candidate(proto, dict(b.inputs))


def _types(b: Built) -> dict[str, ValueInfoProto]:
    """Types of all values, by onnx's own inference."""
    inferred = onnx.shape_inference.infer_shapes(b.proto, data_prop=True)
    g = inferred.graph
    known = {v.name: v for v in [*g.value_info, *g.input, *g.output]}
    for t in g.initializer:
        known.setdefault(t.name, helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)))
    return known


def _typed(b: Built, name: str, new: str) -> ValueInfoProto | None:
    found = _types(b).get(name)
    if found is None or not found.type.tensor_type.elem_type:
        return None
    v = ValueInfoProto()
    v.CopyFrom(found)
    v.name = new
    return v


def _output(b: Built, name: str) -> Candidate | None:
    out = _typed(b, name, name)
    if out is None:
        return None
    c = _copy(b)
    c.proto.graph.output.append(out)
    return c


def _consumer(b: Built, name: str) -> Candidate | None:
    out = _typed(b, name, f"seen_{name}")
    if out is None:
        return None
    c = _copy(b)
    c.proto.graph.node.append(helper.make_node("Identity", [name], [out.name], name="other_consumer"))
    c.proto.graph.output.append(out)
    return c


def _captured(b: Built, name: str) -> Candidate | None:
    """A later If reads the value from one of its branches."""
    out = _typed(b, name, "seen_by_if")
    if out is None:
        return None
    c = _copy(b)
    branches = []
    for branch in ("then", "else"):
        inner = ValueInfoProto()
        inner.CopyFrom(out)
        inner.name = f"{branch}_out"
        node = helper.make_node("Identity", [name], [inner.name], name=f"{branch}_reader")
        branches.append(helper.make_graph([node], branch, [], [inner]))
    _condition(c)
    c.proto.graph.node.append(
        helper.make_node("If", ["cond"], [out.name], then_branch=branches[0], else_branch=branches[1], name="reader")
    )
    c.proto.graph.output.append(out)
    return c


def _condition(c: Candidate) -> None:
    c.proto.graph.input.append(helper.make_tensor_value_info("cond", TensorProto.BOOL, []))
    c.inputs["cond"] = (DataType.BOOL, ())


def _unused_outputs(b: Built) -> list[str]:
    known = {"", *b.interior, *b.roots}
    return [o for n in b.proto.graph.node if n.op_type != "Constant" for o in n.output if o not in known]


def followed(b: Built, keep: bool) -> Candidate | None:
    """Each root is read by another operator; with ``keep`` it stays a graph output too."""
    c = _copy(b)
    g = c.proto.graph
    for i, root in enumerate(b.roots):
        out = ValueInfoProto()
        out.CopyFrom(next(v for v in g.output if v.name == root))
        out.name = f"after_{root}"
        g.node.append(helper.make_node("Identity", [root], [out.name], name=f"after_{i}"))
        g.output.append(out)
        if not keep:
            g.output.remove(next(v for v in g.output if v.name == root))
    return c


def _computed_inputs(b: Built) -> Candidate | None:
    """Graph inputs are read through an operator, so that no leaf of the pattern is a graph input."""
    c = _copy(b)
    g = c.proto.graph
    first = []
    for v in g.input:
        for n in g.node:
            _rename_inputs(n, {v.name: f"computed_{v.name}"})
        first.append(helper.make_node("Identity", [v.name], [f"computed_{v.name}"], name=f"source_{v.name}"))
    _set_nodes(g, [*first, *g.node])
    return c


def _set_nodes(g: GraphProto, nodes: list[NodeProto]) -> None:
    copies = [_copied(n) for n in nodes]
    del g.node[:]
    g.node.extend(copies)


def _copied(n: NodeProto) -> NodeProto:
    copy = NodeProto()
    copy.CopyFrom(n)
    return copy


def _rename_inputs(n: NodeProto, names: dict[str, str]) -> None:
    for i, name in enumerate(n.input):
        n.input[i] = names.get(name, name)
    for a in n.attribute:
        for g in [a.g] if a.type == AttributeProto.GRAPH else []:
            for inner in g.node:
                _rename_inputs(inner, names)


def _variable(b: Built, name: str, keep: bool) -> Candidate | None:
    """The constant is given by the caller; with ``keep`` the initializer stays as its default."""
    c = _copy(b)
    g = c.proto.graph
    tensor = next(t for t in g.initializer if t.name == name)
    a = numpy_helper.to_array(tensor)
    g.input.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
    if not keep:
        g.initializer.remove(tensor)
    c.contents[name] = [*_unlike(a)[:3], a]
    return c


def _unlike(a: np.ndarray) -> list[np.ndarray]:
    """Other contents of that shape and dtype, likely ones first."""
    if a.dtype.kind == "b":
        return [~a]
    if a.dtype.kind in "iuf" or a.dtype.name == "bfloat16":
        with np.errstate(all="ignore"):
            changed = [np.asarray(a + a.dtype.type(1), a.dtype), np.zeros_like(a)]
        # Axes and shapes are still legal in another order.
        reverse = [np.ascontiguousarray(a[::-1])] if a.dtype.kind in "iu" and a.ndim == 1 else []
        return [b for b in [*reverse, *changed] if not np.array_equal(a, b)]
    return []


def _other_attributes(n: NodeProto, opset: int) -> list[str]:
    """Attributes that the node leaves at their default or sets to it: those the pattern did not speak of are among
    them."""
    schema = ir.schema_of(n.op_type, n.domain, opset if n.domain == "" else 1)
    return [] if schema is None or n.op_type in ("Constant", "If", "Loop", "Scan") else sorted(schema.attributes)


def _attribute(b: Built, at: int, name: str, opset: int, seed: int) -> Candidate | None:
    c = _copy(b)
    if at >= len(c.proto.graph.node):
        return None
    n = c.proto.graph.node[at]
    schema = ir.schema_of(n.op_type, n.domain, opset if n.domain == "" else 1)
    declared = schema.attributes.get(name) if schema is not None else None
    if declared is None:
        return None
    set_to = next((a for a in n.attribute if a.name == name), None)
    source = set_to if set_to is not None else declared.default_value
    old: Any = helper.get_attribute_value(source) if source.name else _without_default(declared.type.name)
    new = other_values(name, old, np.random.default_rng([at, seed]))
    if new is None:
        return None
    if set_to is not None:
        n.attribute.remove(set_to)
    n.attribute.append(helper.make_attribute(name, new))
    declare_outputs(c.proto)
    return c


def _without_default(kind: str) -> Any:
    return {"INT": 0, "FLOAT": 0.0, "INTS": [0, 1]}.get(kind)


def _extra_output(n: NodeProto, opset: int) -> bool:
    schema = ir.schema_of(n.op_type, n.domain, opset if n.domain == "" else 1)
    if schema is None or n.op_type in ("Split", "If", "Loop", "Scan"):
        return False
    return len(n.output) < min(schema.max_output, 4)


def _more_outputs(b: Built, at: int) -> Candidate | None:
    c = _copy(b)
    g = c.proto.graph
    if at >= len(g.node):
        return None
    g.node[at].output.append("extra_output")
    inferred = onnx.shape_inference.infer_shapes(c.proto, data_prop=True)
    found = next((v for v in inferred.graph.value_info if v.name == "extra_output"), None)
    if found is None or not found.type.tensor_type.elem_type:
        return None
    g.output.append(found)
    return c


def _renamed(nodes: list[NodeProto], suffix: str) -> tuple[list[NodeProto], dict[str, str]]:
    """Copies of nodes whose outputs have the suffix."""
    names = {o: o + suffix for n in nodes for o in n.output if o}
    copies = []
    for n in nodes:
        copy = _copied(n)
        copy.name += suffix
        _rename_inputs(copy, names)
        for i, o in enumerate(copy.output):
            copy.output[i] = names.get(o, o)
        copies.append(copy)
    return copies, names


def _twice(b: Built) -> Candidate | None:
    c = _copy(b)
    g = c.proto.graph
    copies, names = _renamed([n for n in g.node if n.op_type != "Constant"], "_copy")
    g.node.extend(copies)
    for v in list(g.output):
        out = ValueInfoProto()
        out.CopyFrom(v)
        out.name = names[v.name]
        g.output.append(out)
    return c


def _chained(b: Built) -> Candidate | None:
    """An input of the last root that the first does not read comes from the first root."""
    c = _copy(b)
    g = c.proto.graph
    types = _types(b)
    first, last = b.roots[0], b.roots[-1]
    behind = _behind(g, first)
    for v in g.input:
        same = types[v.name].type == types[first].type
        if v.name in behind or v.name not in _behind(g, last) or not same:
            continue
        for n in g.node:
            _rename_inputs(n, {v.name: "passed_on"})
        passing = helper.make_node("Identity", [first], ["passed_on"], name="passes_on")
        before = [any(o in behind for o in n.output) for n in g.node]
        ahead = [n for n, yes in zip(g.node, before, strict=True) if yes]
        _set_nodes(g, [*ahead, passing, *(n for n, yes in zip(g.node, before, strict=True) if not yes)])
        g.input.remove(v)
        del c.inputs[v.name]
        return c
    return None


def _behind(g: GraphProto, name: str) -> set[str]:
    """Names of the values that a value depends on, itself included."""
    found: set[str] = set()
    stack = [name]
    while stack:
        x = stack.pop()
        if x not in found:
            found.add(x)
            stack.extend(i for n in g.node if x in n.output for i in n.input)
    return found


def _branch(b: Built, suffix: str, inner: bool) -> tuple[GraphProto, dict[str, str]]:
    """The case's nodes as a body; with ``inner`` the initializers move into it."""
    g = b.proto.graph
    copies, names = _renamed(list(g.node), suffix)
    tensors = []
    if inner:
        for t in g.initializer:
            copy = TensorProto()
            copy.CopyFrom(t)
            copy.name += suffix
            tensors.append(copy)
        for n in copies:
            _rename_inputs(n, {t.name: t.name + suffix for t in g.initializer})
    outputs = []
    for v in g.output:
        out = ValueInfoProto()
        out.CopyFrom(v)
        out.name = names[v.name]
        outputs.append(out)
    return helper.make_graph(copies, f"body{suffix}", [], outputs, initializer=tensors), names


def _in_if(b: Built, inner: bool) -> Candidate | None:
    c = _copy(b)
    g = c.proto.graph
    then, _ = _branch(b, "_then", inner)
    other, _ = _branch(b, "_else", inner)
    _condition(c)
    _set_nodes(
        g, [helper.make_node("If", ["cond"], list(b.roots), then_branch=then, else_branch=other, name="branching")]
    )
    if inner:
        del g.initializer[:]
    return c


def _in_loop(b: Built) -> Candidate | None:
    """The case once as it is, then again in each iteration of a loop that hands its results on."""
    c = _copy(b)
    g = c.proto.graph
    body, _ = _branch(b, "_body", inner=True)
    outside, first = _renamed(list(g.node), "_first")
    body.input.extend([
        helper.make_tensor_value_info("iteration", TensorProto.INT64, []),
        helper.make_tensor_value_info("go_on_in", TensorProto.BOOL, []),
    ])
    for v in g.output:
        before = ValueInfoProto()
        before.CopyFrom(v)
        before.name = f"before_{v.name}"
        body.input.append(before)
    body.node.append(helper.make_node("Identity", ["go_on_in"], ["go_on"], name="going_on"))
    body.output.insert(0, helper.make_tensor_value_info("go_on", TensorProto.BOOL, []))
    g.initializer.extend([
        numpy_helper.from_array(np.asarray(2, np.int64), "trips"), numpy_helper.from_array(np.asarray(True), "always"),
    ])  # fmt: skip
    start = ["trips", "always", *(first[r] for r in b.roots)]
    _set_nodes(g, [*outside, helper.make_node("Loop", start, list(b.roots), body=body, name="looping")])
    return c


def _in_function(b: Built) -> Candidate | None:
    """The case as the body of a function of the model, its constants as Constant nodes."""
    c = _copy(b)
    g = c.proto.graph
    constants = [helper.make_node("Constant", [], [t.name], value=t, name=f"Constant_{t.name}") for t in g.initializer]
    inputs = [v.name for v in g.input]
    body = helper.make_function(
        "olc.test", "Body", inputs, list(b.roots), [*constants, *(_copied(n) for n in g.node)],
        list(b.proto.opset_import),
    )  # fmt: skip
    c.proto.functions.append(body)
    c.proto.opset_import.append(helper.make_opsetid("olc.test", 1))
    _set_nodes(g, [helper.make_node("Body", inputs, list(b.roots), domain="olc.test", name="calling")])
    del g.initializer[:]
    return c
