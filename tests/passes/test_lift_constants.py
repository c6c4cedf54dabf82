"""Constant nodes to initializers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from olc import ir
from olc.driver import compile
from olc.passes import Context, lift_constants
from onnx import helper, numpy_helper
from pass_oracle import assert_same, feeds, load, ops, parse, run, save, transform


@pytest.mark.parametrize(
    ("attribute", "dtype"),
    [
        ("value = float[2] {1.5, -0.0}", "float[2]"),
        ("value_float = 2.5", "float"),
        ("value_floats = [1.0, 2.0]", "float[2]"),
        ("value_int = 3", "int64"),
        ("value_ints = [1, 2]", "int64[2]"),
        ('value_string = "a"', "string"),
        ('value_strings = ["a", "b"]', "string[2]"),
    ],
)
def test_every_form_of_value(attribute: str, dtype: str) -> None:
    proto = parse(f"g (float[1] x) => ({dtype} y) {{ c = Constant <{attribute}>() y = Identity(c) }}")
    after, changes, _ = transform(lift_constants, proto)
    assert changes == 1
    assert ops(after.graph) == ["Identity"]
    assert [t.name for t in after.graph.initializer] == ["c"]


def test_a_constant_that_is_a_graph_output_stays() -> None:
    proto = parse("g (float[1] x) => (float[1] y, float[1] z) { y = Constant <value = float[1] {1}>() z = Add(x, y) }")
    after, changes, _ = transform(lift_constants, proto)
    assert changes == 0
    assert ops(after.graph) == ["Constant", "Add"]


def test_constants_of_bodies_become_initializers_of_the_body() -> None:
    proto = parse("""g (bool c, float[2] x) => (float[2] y) {
        y = If (c) <
          then_branch = t () => (float[2] a) { k = Constant <value_float = 2.0>() a = Mul(x, k) },
          else_branch = e () => (float[2] b) { b = Constant <value_floats = [1.0, 2.0]>() }
        >
    }""")
    after, changes, _ = transform(lift_constants, proto)
    assert changes == 1
    assert ops(after.graph) == ["If", ["Mul"], ["Constant"]]
    assert [t.name for t in after.graph.node[0].attribute[0].g.initializer] == ["k"]


def test_function_bodies_keep_their_constants() -> None:
    proto = parse(
        "g (float[2] x) => (float[2] y) { y = own.F <alpha = 2.0> (x) }",
        imports=', "own" : 1',
        functions="""<domain: "own", opset_import: ["" : 18]>
        F <alpha> (a) => (b) {
            k = Constant <value_float: float = @alpha>() c = Mul(a, k)
            l = Constant <value_float = 3.0>() b = Add(c, l)
        }""",
    )
    after, changes, _ = transform(lift_constants, proto)
    assert changes == 0
    assert [n.op_type for n in after.functions[0].node] == ["Constant", "Mul", "Constant", "Add"]


def test_metadata_and_documentation_of_value_and_node_survive() -> None:
    proto = parse("g (float[1] x) => (float[1] y) { c = Constant <value_float = 1.0>() y = Add(x, c) }")
    node = proto.graph.node[0]
    node.doc_string = "from the exporter"
    node.metadata_props.add(key="namespace", value="/layer.0")
    info = helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, [])
    info.metadata_props.add(key="mine", value="kept")
    proto.graph.value_info.append(info)
    after, _, _ = transform(lift_constants, proto)
    (found,) = [v for v in after.graph.value_info if v.name == "c"]
    assert {m.key: m.value for m in found.metadata_props} == {"namespace": "/layer.0", "mine": "kept"}
    assert found.doc_string == "from the exporter"


def test_the_tensor_tells_the_type_not_a_wrong_declaration() -> None:
    proto = parse("g (float[2] x) => (float[2] y) { c = Constant <value_float = 1.0>() y = Add(x, c) }")
    proto.graph.value_info.append(helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, [7]))
    model = load(proto)
    lift_constants.run(model, Context())
    value = model.graph.initializers["c"]
    assert value.dtype == ir.DataType.FLOAT
    assert list(value.shape) == []


def test_sparse_values_stay() -> None:
    values = numpy_helper.from_array(np.array([1.0], np.float32), "v")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([1], np.int64), "i"), [3])
    node = helper.make_node("Constant", [], ["c"], sparse_value=sparse)
    model = ir.Model(ir.Graph([], [], nodes=[ir.make_node("Constant", [])], opset_imports={"": 18}), ir_version=10)
    assert lift_constants.run(model, Context()) == 0  # a Constant without any dense value
    assert node.attribute[0].type == onnx.AttributeProto.SPARSE_TENSOR


def test_ir_version_3_lists_initializers_as_inputs_which_means_nothing() -> None:
    weight = numpy_helper.from_array(np.array([1.0, -0.0], np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2]) for n in ("x", "w")],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])],
        [weight],
    )
    proto = helper.make_model(graph, ir_version=3, opset_imports=[helper.make_opsetid("", 8)])
    model, ctx = load(proto), Context()
    assert lift_constants.run(model, ctx) == 1
    after = save(model)
    assert [v.name for v in after.graph.input] == ["x"]
    assert after.ir_version == 4
    assert ir.is_constant(model.graph.initializers["w"])
    feed = feeds(proto)
    assert_same(run(proto, feed), run(after, feed))


def test_from_ir_version_4_an_input_with_a_default_stays() -> None:
    proto = parse("g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }", ir_version=8)
    model = load(proto)
    assert lift_constants.run(model, Context()) == 0
    assert [v.name for v in model.graph.inputs] == ["x", "w"]


@pytest.mark.parametrize(("version", "told"), [(3, False), (8, True)])
def test_what_is_said_of_initializers_that_are_inputs(version: int, told: bool, tmp_path: Path) -> None:
    text = f"""<ir_version: {version}, opset_import: ["": 9]> g (float[N, 2] x, float[2] k) => (float[N, 2] y)
        <float[2] k = {{1, 2}}> {{ y = Add(x, k) }}"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    report = compile(tmp_path / "m.onnx", tmp_path / "o.onnx", level=1, evaluate=False, cache="off")
    assert any("a caller may override them" in note for note in report.notes) == told
