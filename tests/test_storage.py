"""A model saved after no change says the same, in every field that ONNX has."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from olc import ir, storage
from onnx import TensorProto as T
from onnx import helper

from tests.proto_tools import difference, everything, normal, opset, relu_chain, tensor_input


def through(model: Any) -> Any:
    """The model after load and save."""
    return onnx.ModelProto.FromString(storage.to_bytes(storage.load_proto(model)))


def graph_of(nodes: list[Any], inputs: list[Any], outputs: list[Any], initializers: Any = (), version: int = 17) -> Any:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    return helper.make_model(graph, opset_imports=opset(("", version)), ir_version=10)


# every field


def test_every_field_survives() -> None:
    model = everything()
    assert difference(normal(model), normal(through(model))) == ""


#: Fields of messages that a model can hold but that ``everything`` leaves out, with the reason.
UNUSED = {
    "TensorProto.segment": "no tool writes it; kept as read in tensors that hold their data",
    "TensorProto.string_data": "test_every_dtype_survives",
    "TensorProto.uint64_data": "test_every_dtype_survives",
    "TensorProto.double_data": "test_every_dtype_survives",
    "TensorProto.external_data": "external data has its own tests",
    "TensorProto.data_location": "external data has its own tests",
    "Segment.begin": "as TensorProto.segment",
    "Segment.end": "as TensorProto.segment",
    "TypeProto.opaque_type": "test_an_opaque_type_survives",
    "Opaque.domain": "test_an_opaque_type_survives",
    "Opaque.name": "test_an_opaque_type_survives",
    "FunctionProto.status": "gone from ONNX",
    "FunctionProto.since_version": "gone from ONNX",
}


def test_everything_means_everything() -> None:
    """A field that a new onnx brings must be added to ``everything``, so that it cannot be lost unnoticed."""
    known: set[str] = set()

    def declared(descriptor: Any) -> None:
        for f in descriptor.fields:
            name = f"{descriptor.name}.{f.name}"
            if name not in known:
                known.add(name)
                if f.message_type is not None:
                    declared(f.message_type)

    seen: set[str] = set()

    def used(message: Any) -> None:
        for f, value in message.ListFields():
            seen.add(f"{message.DESCRIPTOR.name}.{f.name}")
            if f.message_type is not None:
                for part in value if f.is_repeated else [value]:
                    used(part)

    declared(onnx.ModelProto.DESCRIPTOR)
    used(everything())
    assert known - seen - UNUSED.keys() == set()
    assert UNUSED.keys() & seen == set()


def test_an_opaque_type_survives() -> None:
    odd = onnx.ValueInfoProto(name="odd")
    odd.type.opaque_type.domain, odd.type.opaque_type.name = "org.example", "Handle"
    odd.type.denotation = "HANDLE"
    incomplete = onnx.ValueInfoProto(name="incomplete")
    incomplete.type.sequence_type.SetInParent()
    shape_only = onnx.ValueInfoProto(name="shape_only")
    shape_only.type.tensor_type.shape.dim.add(dim_value=3)
    model = relu_chain(1)
    model.graph.input.extend([odd, incomplete])
    model.graph.value_info.append(shape_only)
    model.graph.node.add(op_type="Make", domain="d", output=["shape_only"])
    model.opset_import.add(domain="d", version=1)
    assert difference(normal(model), normal(through(model))) == ""


def test_odd_value_info_survives() -> None:
    """Twice the same name, against the declaration of an input, and without a type for an initializer."""
    model = everything()
    for name, dims in (("scaled", [7, 7, 7]), ("x", [9, 9]), ("not_there", [2])):
        model.graph.value_info.append(tensor_input(name, dims))
    model.graph.value_info.append(onnx.ValueInfoProto(name="half"))
    model.graph.value_info[-1].doc_string = "no type"
    saved = through(model)
    assert difference(normal(model), normal(saved)) != ""  # half is listed with its type now, which is more
    entry = next(i for i in saved.graph.value_info if i.name == "half")
    assert entry.doc_string == "no type"
    entry.ClearField("type")
    assert difference(normal(model), normal(saved)) == ""


def typed(dtype: int, count: int) -> Any | None:
    """A tensor of the dtype in its typed field, with bit patterns that differ."""
    numbers = [(i * 37 + 1) % 2 if dtype == T.BOOL else (i * 37 + 1) % 200 for i in range(count)]
    t = onnx.TensorProto(name="w", data_type=dtype, dims=[count])
    bits = ir.DataType(dtype).bitwidth if dtype != T.STRING else 0
    if dtype in (T.FLOAT, T.COMPLEX64):
        t.float_data.extend(float(n) for n in numbers * (bits // 32))
    elif dtype in (T.DOUBLE, T.COMPLEX128):
        t.double_data.extend(float(n) for n in numbers * (bits // 64))
    elif dtype == T.INT64:
        t.int64_data.extend(numbers)
    elif dtype in (T.UINT32, T.UINT64):
        t.uint64_data.extend(numbers)
    elif dtype == T.STRING:
        t.string_data.extend(bytes([n, 0xFF, 0]) for n in numbers)
    else:
        packed = -(-count * bits // 8) if bits in (2, 4) else count
        limit = {6: 64, 1: 2}.get(bits, 256)
        t.int32_data.extend(n % limit for n in numbers[:packed])
    return t


@pytest.mark.parametrize("dtype", [v for k, v in T.DataType.items() if k != "UNDEFINED"])
def test_every_dtype_survives(dtype: int) -> None:
    forms = [typed(dtype, 5)]
    if dtype != T.STRING:
        size = -(-5 * ir.DataType(dtype).bitwidth // 8)
        data = bytes((i * 89 + 3) % (2 if dtype == T.BOOL else 251) for i in range(size))
        if ir.DataType(dtype).bitwidth == 6:
            data = data[:-1] + b"\x01"  # bits past the end must be zero
        forms.append(onnx.TensorProto(name="w", data_type=dtype, dims=[5], raw_data=data))
    for form in forms:
        node = helper.make_node("Keep", ["w"], ["y"], domain="d", attribute=form)
        model = graph_of([node], [], [tensor_input("y", [5], dtype)], [form])
        model.opset_import.add(domain="d", version=1)
        saved = through(model)
        assert difference(model, saved) == ""
        held = ir.array(storage.load_proto(model).graph.initializers["w"])
        assert held is not None
        assert held.shape == (5,)


def test_outputs_have_a_type_message_as_exporters_write_it() -> None:
    """ONNX Runtime asks for one in bodies too."""
    assert all(o.HasField("type") for a in through(everything()).graph.node[0].attribute for o in a.g.output)


def test_names_of_dims_and_left_out_inputs_survive() -> None:
    x = tensor_input("x", ["batch size", None, "past + seq", 0])
    nodes = [helper.make_node("Clip", ["x", "", "hi"], ["y"]), helper.make_node("Dropout", ["y"], ["z", ""])]
    hi = helper.make_tensor("hi", T.FLOAT, [], [1])
    model = graph_of(nodes, [x], [tensor_input("z", ["batch size", None, "past + seq", 0])], [hi])
    saved = through(model)
    assert difference(model, saved) == ""
    assert list(saved.graph.node[0].input) == ["x", "", "hi"]
    assert list(saved.graph.node[1].output) == ["z", ""]


def test_a_sparse_initializer_is_a_constant_of_its_dense_form() -> None:
    values = helper.make_tensor("w", T.FLOAT, [2], [5, 6])
    at = helper.make_tensor("", T.INT64, [2, 2], [0, 1, 2, 0])
    model = graph_of(
        [helper.make_node("Add", ["x", "w"], ["y"])], [tensor_input("x", [3, 2])], [tensor_input("y", [3, 2])]
    )
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, at, [3, 2]))
    loaded = storage.load_proto(model)
    value = loaded.graph[0].inputs[1]
    assert ir.is_constant(value)
    assert ir.array(value).tolist() == [[0, 5], [0, 0], [6, 0]]
    value.name = "renamed"
    saved = onnx.ModelProto.FromString(storage.to_bytes(loaded))
    assert saved.graph.sparse_initializer[0].values.name == "renamed"
    assert not saved.graph.initializer


def test_tensor_metadata_is_not_doubled() -> None:
    """onnx-ir 1.1.0 appends a tensor's metadata to itself at every save."""
    model = everything()
    twice = through(through(model))
    assert [e.key for e in twice.graph.initializer[0].metadata_props] == ["origin", "b"]


def test_the_callers_proto_is_left_alone() -> None:
    model = everything()
    before = model.SerializeToString(deterministic=True)
    loaded = storage.load_proto(model)
    loaded.graph.initializers["w"].name = "other"
    loaded.graph.initializers["half"].metadata_props["k"] = "v"
    storage.to_bytes(loaded)
    assert model.SerializeToString(deterministic=True) == before


def test_nodes_out_of_order_are_sorted_and_nothing_else_changes() -> None:
    model = relu_chain(6)
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node]
    expected = through(model)
    del model.graph.node[:]
    model.graph.node.extend(nodes[::-1])
    assert difference(expected, through(model)) == ""


def test_a_body_may_read_what_a_later_node_of_an_unsorted_graph_makes() -> None:
    branch = helper.make_graph([helper.make_node("Neg", ["late"], ["t"])], "b", [], [tensor_input("t")])
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["e"])], "c", [], [tensor_input("e")])
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=other),
        helper.make_node("Abs", ["x"], ["late"]),
    ]
    loaded = storage.load_proto(
        graph_of(nodes, [tensor_input("x"), tensor_input("c", (), T.BOOL)], [tensor_input("y")])
    )
    assert [n.op_type for n in loaded.graph] == ["Abs", "If"]


def test_a_body_input_that_hides_an_outer_name_is_renamed() -> None:
    """onnx.checker and ONNX Runtime accept it; our graphs keep every name once."""
    inputs = [tensor_input("i", (), T.INT64), tensor_input("x", (), T.BOOL), tensor_input("a")]
    nodes = [helper.make_node("Identity", ["x"], ["go"]), helper.make_node("Add", ["a", "k"], ["b"])]
    outputs = [tensor_input("go", (), T.BOOL), tensor_input("b")]
    body = helper.make_graph(nodes, "body", inputs, outputs, [helper.make_tensor("k", T.FLOAT, [2], [1, 1])])
    outer = [helper.make_node("Abs", ["x"], ["a"]), helper.make_node("Add", ["a", "k"], ["k_1"]),
             helper.make_node("Loop", ["m", "", "k_1"], ["y"], body=body)]  # fmt: skip
    given = [helper.make_tensor("m", T.INT64, [], [3]), helper.make_tensor("k", T.FLOAT, [2], [5, 5])]
    model = graph_of(outer, [tensor_input("x")], [tensor_input("y")], given)
    onnx.checker.check_model(model)
    saved = through(model)
    inner = saved.graph.node[2].attribute[0].g
    assert [i.name for i in inner.input] == ["i", "x_1", "a_1"]
    assert [t.name for t in inner.initializer] == ["k_2"]  # k_1 is taken
    feed = {"x": np.array([1, -2], np.float32)}
    assert run(saved, feed).tolist() == run(model, feed).tolist() == [9, 10]


def test_what_a_body_makes_may_have_a_name_that_it_does_not_see() -> None:
    """So Optimum merges decoders: the branches' results are called as those of the If. Such a name is renamed."""
    branches = [
        helper.make_graph([helper.make_node(op, ["x"], ["late"]), helper.make_node("Exp", ["late"], ["y"])], op, [],
                          [tensor_input("y")])
        for op in ("Neg", "Abs")
    ]  # fmt: skip
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Neg", ["y"], ["late"]),
    ]
    given = [tensor_input("x"), tensor_input("c", (), T.BOOL)]
    model = graph_of(nodes, given, [tensor_input("late"), tensor_input("y")])
    onnx.checker.check_model(model)
    saved = through(model)
    made = [[list(n.output) for n in a.g.node] for a in saved.graph.node[0].attribute]
    assert sorted(made) == [[["late_1"], ["y_1"]], [["late_2"], ["y_2"]]]
    for c in (True, False):
        feed = {"x": np.array([1, -2], np.float32), "c": np.array(c)}
        assert run(saved, feed).tolist() == run(model, feed).tolist()


def run(model: Any, feeds: dict[str, Any]) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])
