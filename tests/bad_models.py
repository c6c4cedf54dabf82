"""Small models, each with one thing wrong, and what must be said about it: for any test of bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
from onnx import TensorProto as T
from onnx import helper

from tests.proto_tools import opset, tensor_input


def model_of(
    nodes: list[Any], initializers: list[Any] | None = None, inputs: Any = None, outputs: Any = None, version: int = 17
) -> Any:
    graph = helper.make_graph(
        nodes,
        "g",
        [tensor_input("x")] if inputs is None else inputs,
        [tensor_input("y")] if outputs is None else outputs,
        initializers or [],
    )
    return helper.make_model(graph, opset_imports=opset(("", version)), ir_version=8)


def node(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    return helper.make_node(op, inputs, outputs, name=attributes.pop("name", None), **attributes)


def branchy(then: Any, other: Any = None, outputs: int = 1) -> Any:
    other = other or helper.make_graph([node("Neg", ["x"], ["e"])], "e", [], [tensor_input("e")])
    names = ["y", *(f"y{i}" for i in range(1, outputs))]
    choice = node("If", ["c"], names, name="choice", then_branch=then, else_branch=other)
    inputs = [tensor_input("x"), tensor_input("c", (), T.BOOL)]
    return model_of([node("Abs", ["x"], ["before"]), choice], inputs=inputs)


def body(nodes: list[Any], outputs: list[str], inputs: Any = (), initializers: Any = ()) -> Any:
    return helper.make_graph(nodes, "then", list(inputs), [tensor_input(o) for o in outputs], list(initializers))


def weight(name: str = "w", dims: Any = (2,), count: int = 2, **change: Any) -> Any:
    t = helper.make_tensor(name, T.FLOAT, [count], [0.0] * count)
    del t.dims[:]
    t.dims.extend(dims)
    for field, value in change.items():
        setattr(t, field, value)
    return t


def typed_weight(**fields: Any) -> Any:
    return onnx.TensorProto(name="w", **fields)


def changed(model: Any, change: Callable[[Any], None]) -> Any:
    change(model)
    return model


def sequence(name: str, dtype: int) -> Any:
    return helper.make_value_info(name, helper.make_sequence_type_proto(helper.make_tensor_type_proto(dtype, [2])))


RELU = [node("Relu", ["x"], ["y"], name="r")]
ADD_W = [node("Add", ["x", "w"], ["y"], name="add")]


def function_model(f: Any, *more: Any) -> Any:
    model = model_of([helper.make_node("F", ["x"], ["y"], name="call", domain="local")])
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.functions.extend([f, *more])
    return model


def function(name: str, nodes: list[Any], outputs: list[str], **kw: Any) -> Any:
    return helper.make_function("local", name, ["a"], outputs, nodes, opset(("", 17), ("local", 1)), **kw)


#: name: (model, part of ``what``, part of ``hint``)
MODELS: dict[str, tuple[Any, str, str | None]] = {
    # versions
    "no opset": (changed(model_of(RELU), lambda m: m.ClearField("opset_import")), "imports no operator set", "export"),
    "opset of another domain only": (
        changed(model_of(RELU), lambda m: setattr(m.opset_import[0], "domain", "custom")),
        "domain 'ai.onnx' is used but not imported",
        "add an opset import",
    ),
    "opset too new": (
        model_of(RELU, version=999),
        "opset 999 of ai.onnx; the installed onnx knows up to",
        "pip install",
    ),
    "opset zero": (model_of(RELU, version=0), "opset 0 of ai.onnx does not exist", None),
    "opset twice": (
        changed(model_of(RELU), lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx", 13))),
        "domain 'ai.onnx' is imported at versions 17 and 13",
        "keep one",
    ),
    "ir too new": (changed(model_of(RELU), lambda m: setattr(m, "ir_version", 99)), "IR version 99", "pip install"),
    "no ir version": (changed(model_of(RELU), lambda m: m.ClearField("ir_version")), "IR version 0", "not ONNX"),
    # operators
    "unknown operator": (
        model_of([node("Rleu", ["x"], ["y"])]),
        "ai.onnx has no operator 'Rleu' at opset 17",
        "spelling",
    ),
    "operator of a later opset": (
        model_of([node("Gelu", ["x"], ["y"])]),
        "ai.onnx has no operator 'Gelu' at opset 17",
        "opset",
    ),
    "deprecated operator": (
        model_of([node("Upsample", ["x", "w"], ["y"])], [weight()]),
        "Upsample is deprecated since opset",
        "convert",
    ),
    "unknown domain, not imported": (
        model_of([helper.make_node("Do", ["x"], ["y"], domain="mine")]),
        "domain 'mine' is used but not imported",
        "import",
    ),
    "unknown ml operator": (
        changed(
            model_of([helper.make_node("Do", ["x"], ["y"], domain="ai.onnx.ml")]),
            lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3)),
        ),
        "ai.onnx.ml has no operator 'Do'",
        None,
    ),
    # attributes and counts
    "unknown attribute": (
        model_of([node("Relu", ["x"], ["y"], axis=1)]),
        "attribute 'axis' is not one of Relu's",
        "none",
    ),
    "attribute of the wrong type": (
        model_of([node("Softmax", ["x"], ["y"], axis=1.5)]),
        "attribute 'axis' of Softmax must be INT, not FLOAT",
        None,
    ),
    "missing attribute": (model_of([node("Cast", ["x"], ["y"])]), "Cast needs the attribute 'to'", None),
    "attribute twice": (
        changed(
            model_of([node("Softmax", ["x"], ["y"], axis=1)]),
            lambda m: m.graph.node[0].attribute.append(helper.make_attribute("axis", 0)),
        ),
        "attribute 'axis' is given twice",
        "keep one",
    ),
    "attribute reference outside a function": (
        changed(
            model_of([node("Softmax", ["x"], ["y"])]),
            lambda m: m.graph.node[0].attribute.add(name="axis", type=2, ref_attr_name="k"),
        ),
        "refers to 'k' of a function, but this is no function",
        None,
    ),
    "too few inputs": (model_of([node("Add", ["x"], ["y"])]), "Add takes 2 inputs, not 1", None),
    "too many outputs": (model_of([node("Relu", ["x"], ["y", "z"])]), "Relu takes 1 outputs, not 2", None),
    "required input left out": (
        model_of([node("Add", ["x", ""], ["y"])]),
        "input 1 (B) of Add must not be left out",
        None,
    ),
    # names and wiring
    "dangling input": (
        model_of([node("Add", ["x", "ghost"], ["y"], name="a")]),
        "reads 'ghost', which nothing defines",
        None,
    ),
    "dangling output": (
        model_of(RELU, outputs=[tensor_input("nope")]),
        "output 'nope' is not defined by anything",
        None,
    ),
    "cycle": (
        model_of([node("Add", ["x", "b"], ["a"], name="n1"), node("Relu", ["a"], ["b"], name="n2"), *RELU]),
        "nodes wait for one another: Add 'n1' -> Relu 'n2' -> Add 'n1'",
        "no cycle",
    ),
    "cycle through a body": (
        branchy(body([node("Neg", ["y"], ["t"])], ["t"])),
        "nodes wait for one another: If 'choice' -> If 'choice'",
        None,
    ),
    "value defined twice": (
        model_of([*RELU, node("Abs", ["x"], ["y"], name="b")]),
        "'y' is defined twice",
        "another name",
    ),
    "node output equals an input": (model_of([node("Relu", ["x"], ["x"]), *RELU]), "'x' is defined twice", None),
    "node output equals an initializer": (
        model_of([node("Abs", ["x"], ["w"]), *ADD_W], [weight()]),
        "'w' is defined twice, the second time by Abs",
        None,
    ),
    "initializer twice": (model_of(ADD_W, [weight(), weight()]), "initializer 'w' is defined twice", "keep one"),
    "initializer dense and sparse": (
        changed(
            model_of(ADD_W, [weight()]),
            lambda m: m.graph.sparse_initializer.append(
                helper.make_sparse_tensor(weight(dims=[1], count=1), helper.make_tensor("", T.INT64, [1], [0]), [2])
            ),
        ),
        "initializer 'w' is defined twice",
        None,
    ),
    "initializer without name": (model_of(RELU, [weight(name="")]), "an initializer has no name", None),
    "input twice": (model_of(RELU, inputs=[tensor_input("x"), tensor_input("x")]), "'x' is defined twice", None),
    "output twice": (model_of(RELU, outputs=[tensor_input("y")] * 2), "'y' is an output twice", "Identity"),
    "input without name": (
        model_of(RELU, inputs=[tensor_input("x"), tensor_input("")]),
        "a value (input) has no name",
        None,
    ),
    "input without type": (
        model_of(RELU, inputs=[tensor_input("x"), onnx.ValueInfoProto(name="z")]),
        "graph input 'z' has no type",
        "declare",
    ),
    "no nodes, no outputs": (model_of([], outputs=[]), "the graph has no nodes and no outputs", "right file"),
    # bodies
    "body hides an outer result": (
        branchy(body([node("Neg", ["x"], ["before"])], ["before"])),
        "is already defined in a graph around",
        "another name",
    ),
    "body returns an outer value": (
        branchy(body([], ["before"])),
        "output 'before' is not defined in this body",
        "Identity",
    ),
    "body returns nothing known": (branchy(body([], ["lost"])), "output 'lost' is not defined by anything", None),
    "body reads a sibling's value": (
        branchy(body([node("Neg", ["e"], ["t"])], ["t"])),
        "reads 'e', which nothing defines",
        None,
    ),
    "branches give different counts": (
        branchy(body([node("Neg", ["x"], ["t"]), node("Exp", ["x"], ["u"])], ["t", "u"])),
        "then_branch has 2 outputs, but the node needs 1",
        None,
    ),
    "branch with inputs": (
        branchy(body([node("Neg", ["i"], ["t"])], ["t"], [tensor_input("i")])),
        "then_branch has 1 inputs, but the node",
        None,
    ),
    # types
    "types mixed": (
        model_of([node("Add", ["x", "i"], ["y"])], [helper.make_tensor("i", T.INT64, [2], [1, 2])]),
        "Add mixes FLOAT and INT64 where one type is needed",
        "Cast",
    ),
    "type not allowed": (
        model_of([node("Not", ["x"], ["y"])], outputs=[tensor_input("y", dtype=T.BOOL)]),
        "input 0 (X) of Not may not be FLOAT",
        "allowed: BOOL",
    ),
    "declared result type is wrong": (
        model_of(RELU, outputs=[tensor_input("y", dtype=T.DOUBLE)]),
        "Relu mixes FLOAT and DOUBLE",
        None,
    ),
    "a sequence where a tensor is due": (
        model_of(RELU, inputs=[sequence("x", T.FLOAT)]),
        "input 0 (X) of Relu may not be seq(tensor(float))",
        "allowed: ",
    ),
    "sequences mixed": (
        model_of(
            [node("SequenceInsert", ["x", "t"], ["y"])],
            inputs=[sequence("x", T.FLOAT), tensor_input("t")],
            outputs=[sequence("y", T.INT64)],
        ),
        "SequenceInsert mixes seq(tensor(float)) and seq(tensor(int64))",
        None,
    ),
    "unknown element type": (
        changed(model_of(RELU), lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 77)),
        "unknown element type 77",
        None,
    ),
    "initializer unlike its declaration": (
        model_of(ADD_W, [weight()], inputs=[tensor_input("x"), tensor_input("w", dtype=T.DOUBLE)]),
        "initializer 'w' is declared DOUBLE but holds FLOAT",
        None,
    ),
    "initializer of another shape": (
        model_of(ADD_W, [weight()], inputs=[tensor_input("x"), tensor_input("w", [3])]),
        "initializer 'w' is declared [3] but holds [2]",
        None,
    ),
    # tensors
    "too few numbers": (
        model_of(ADD_W, [weight(dims=[3])]),
        "FLOAT[3] needs 3 entries in float_data but holds 2",
        "damaged",
    ),
    "too few bytes": (
        model_of(ADD_W, [typed_weight(data_type=1, dims=[2], raw_data=b"1234567")]),
        "needs 8 bytes but holds 7",
        None,
    ),
    "too many bytes": (
        model_of(ADD_W, [typed_weight(data_type=1, dims=[2], raw_data=bytes(9))]),
        "needs 8 bytes but holds 9",
        None,
    ),
    "no data": (
        model_of(ADD_W, [typed_weight(data_type=1, dims=[2])]),
        "needs 2 entries in float_data but holds 0",
        None,
    ),
    "data in the wrong field": (
        model_of(ADD_W, [typed_weight(data_type=1, dims=[2], int32_data=[1, 2])]),
        "holds its data in int32_data",
        None,
    ),
    "too few int4 bytes": (
        model_of(ADD_W, [typed_weight(data_type=T.INT4, dims=[5], raw_data=bytes(2))]),
        "needs 3 bytes but holds 2",
        None,
    ),
    "negative dim": (model_of(ADD_W, [weight(dims=[-1])]), "negative dimension in its shape [-1]", None),
    "terabytes": (
        model_of(ADD_W, [typed_weight(data_type=1, dims=[1 << 40], raw_data=b"1234")]),
        "needs 4,398,046,511,104 bytes",
        None,
    ),
    "overflowing dims": (
        model_of(ADD_W, [typed_weight(data_type=1, dims=[1 << 62, 1 << 62], raw_data=b"1")]),
        "would have 21,267,647",
        None,
    ),
    "overflow to zero": (
        model_of(ADD_W, [typed_weight(data_type=1, dims=[1 << 32, 1 << 32], raw_data=b"")]),
        "would have 18,446,744",
        None,
    ),
    "a hundred dims": (model_of(ADD_W, [weight(dims=[1] * 99 + [2])]), "has 100 dimensions", None),
    "unknown tensor type": (model_of(ADD_W, [weight(data_type=77)]), "unknown element type 77", None),
    "no tensor type": (model_of(ADD_W, [weight(data_type=0)]), "has no element type", None),
    "strings miscounted": (
        model_of(ADD_W, [typed_weight(data_type=8, dims=[3], string_data=[b"a"])]),
        "needs 3 strings but holds 1 strings",
        None,
    ),
    "wrong tensor in an attribute": (
        model_of([node("Constant", [], ["w"], value=weight(dims=[5])), *ADD_W]),
        "FLOAT[5] needs 5 entries",
        None,
    ),
    "sparse index outside": (
        changed(
            model_of(ADD_W),
            lambda m: m.graph.sparse_initializer.append(
                helper.make_sparse_tensor(weight(dims=[1], count=1), helper.make_tensor("", T.INT64, [1], [2]), [2])
            ),
        ),
        "an index outside it",
        None,
    ),
    "sparse indices miscounted": (
        changed(
            model_of(ADD_W),
            lambda m: m.graph.sparse_initializer.append(
                helper.make_sparse_tensor(weight(), helper.make_tensor("", T.INT64, [1], [0]), [2])
            ),
        ),
        "is sparse with 2 values but indices INT64[1]",
        None,
    ),
    # functions
    "function of a future opset": (
        function_model(helper.make_function("local", "F", ["a"], ["b"], [node("Neg", ["a"], ["b"])], opset(("", 999)))),
        "opset 999 of ai.onnx; the installed onnx knows up to",
        "pip install",
    ),
    "function attribute unknown": (
        changed(
            function_model(function("F", [node("Neg", ["a"], ["b"])], ["b"])),
            lambda m: m.graph.node[0].attribute.append(helper.make_attribute("k", 1)),
        ),
        "function F has no attribute 'k'",
        None,
    ),
    "function twice": (
        function_model(*[function("F", [node("Neg", ["a"], ["b"])], ["b"])] * 2),
        "function 'local:F' is defined twice",
        None,
    ),
    "function calls itself": (
        function_model(function("F", [helper.make_node("F", ["a"], ["b"], domain="local")], ["b"])),
        "functions call one another in a circle: local:F -> local:F",
        None,
    ),
    "functions call each other": (
        function_model(
            function("F", [helper.make_node("G", ["a"], ["b"], domain="local")], ["b"]),
            function("G", [helper.make_node("F", ["a"], ["b"], domain="local")], ["b"]),
        ),
        "local:F -> local:G -> local:F",
        None,
    ),
    "function output undefined": (
        function_model(function("F", [node("Neg", ["a"], ["b"])], ["c"])),
        "output 'c' is not defined by anything",
        None,
    ),
    "function reads what it has not": (
        function_model(function("F", [node("Add", ["a", "x"], ["b"])], ["b"])),
        "reads 'x', which nothing defines",
        None,
    ),
    "function without opset": (
        function_model(helper.make_function("local", "F", ["a"], ["b"], [node("Neg", ["a"], ["b"])], [])),
        "domain 'ai.onnx' is used but not imported",
        None,
    ),
    "function attribute missing at the call": (
        function_model(function("F", [node("Neg", ["a"], ["b"])], ["b"], attributes=["k"])),
        "F needs the attribute 'k'",
        None,
    ),
    "function attribute not declared": (
        function_model(
            function(
                "F",
                [changed(node("Softmax", ["a"], ["b"]), lambda n: n.attribute.add(name="axis", type=2, ref_attr_name="q"))],
                ["b"],
            )
        ),
        "refers to 'q', which is not declared",
        None,
    ),
    # devices
    "device without name": (
        changed(model_of(RELU), lambda m: m.graph.node[0].device_configurations.add()),
        "a device configuration lacks",
        None,
    ),
}
