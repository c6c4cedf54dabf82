"""onnxsim as a checked step. The child processes are real; where one must misbehave, its command is replaced."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from olc import ir
from olc.deserialize import from_proto
from olc.passes import Context, simplify
from olc.serialize import to_proto
from onnx import helper, numpy_helper
from pass_oracle import assert_same, feeds, ops, parse, run


def load(proto: Any, folder: str | None = None) -> ir.Model:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    model, problems = from_proto(copy, folder)
    assert not problems
    return model


CHAIN = """g (float[2, 3] x) => (float[3, 2] y) <int64[2] s = {3, 2}> {
    [a] p = Transpose <perm = [1, 0]> (x)
    [b] q = Transpose <perm = [1, 0]> (p)
    [c] r = Identity(q)
    [d] t = Relu(r)
    [e] y = Reshape(t, s)
}"""


def test_a_smaller_result_is_taken_and_computes_the_same() -> None:
    proto = parse(CHAIN)
    model, ctx = load(proto), Context()
    assert simplify.run(model, ctx) == 3
    after = to_proto(model)
    assert ops(after.graph) == ["Relu", "Reshape"]
    feed = feeds(proto)
    assert_same(run(proto, feed), run(after, feed))
    assert ctx.events[-1].detail == "onnxsim: 5 nodes became 2"


def test_provenance_is_joined_back_by_tensor_name() -> None:
    proto = parse(CHAIN)
    proto.graph.doc_string = "graph"
    proto.graph.metadata_props.add(key="of", value="graph")
    proto.metadata_props.add(key="of", value="model")
    proto.producer_name = "exporter"
    node = proto.graph.node[3]
    node.doc_string = "relu"
    node.metadata_props.add(key="namespace", value="/act")
    info = proto.graph.value_info.add(name="t")
    info.type.tensor_type.elem_type = 1
    info.metadata_props.add(key="of", value="value")
    note = proto.graph.quantization_annotation.add(tensor_name="t")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    model = load(proto)
    assert simplify.run(model, Context())
    after = to_proto(model)
    (relu,) = [n for n in after.graph.node if n.op_type == "Relu"]
    assert (relu.name, relu.doc_string, relu.metadata_props[0].value) == ("d", "relu", "/act")
    assert (after.producer_name, after.graph.doc_string) == ("exporter", "graph")
    assert after.metadata_props[0].value == "model"
    assert after.graph.metadata_props[0].value == "graph"
    assert next(v for v in after.graph.value_info if v.name == "t").metadata_props[0].value == "value"
    assert after.graph.quantization_annotation[0].tensor_name == "t"


def test_no_smaller_result_is_refused() -> None:
    proto = parse("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    model, ctx = load(proto), Context()
    graph = model.graph
    assert simplify.run(model, ctx) == 0
    assert model.graph is graph
    assert "not smaller" in ctx.events[-1].detail


def test_minus_zero_survives() -> None:
    """Adding zero is no operation for onnxsim by default, but it turns -0.0 into 0.0."""
    proto = parse("""g (float[4] x) => (float[4] y) <float z = {0}> {
        a = Add(x, z) b = Identity(a) c = Identity(b) y = Neg(c) }""")
    model = load(proto)
    simplify.run(model, Context())
    feed = {"x": np.array([-0.0, 0.0, 1.0, np.nan], np.float32)}
    assert_same(run(proto, feed), run(to_proto(model), feed))


def test_conv_and_batch_normalization_stay_two() -> None:
    """Their fusion rounds otherwise, which is a matter of a CLOSE rule."""
    rng = np.random.default_rng(0)
    proto = parse("""g (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y) {
        a = Identity(x) c = Conv(a, w) y = BatchNormalization(c, s, s, s, s) }""", check=False)  # fmt: skip
    for name, shape in (("w", (2, 2, 1, 1)), ("s", (2,))):
        proto.graph.initializer.append(numpy_helper.from_array(rng.random(shape).astype(np.float32), name))
    model = load(proto)
    assert simplify.run(model, Context()) == 1
    assert ops(to_proto(model).graph) == ["Conv", "BatchNormalization"]


def with_weight(size: int, *, external: Path | None = None, overridable: bool = False) -> Any:
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((size, 2)).astype(np.float32), "w")
    inputs = [helper.make_tensor_value_info("x", 1, [2, size])]
    if overridable:
        inputs.append(helper.make_tensor_value_info("w", 1, [size, 2]))
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Neg", ["w"], ["v"], name="n"),
        helper.make_node("MatMul", ["a", "v"], ["y"]),
    ]
    output = helper.make_tensor_value_info("y", 1, [2, 2])
    proto = helper.make_model(
        helper.make_graph(nodes, "g", inputs, [output], [weight]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    if external is not None:
        onnx.save(proto, external, save_as_external_data=True, location="w.bin", size_threshold=0)
        proto = onnx.load(external, load_external_data=False)
    return proto


def test_large_weights_are_not_shown_and_stay_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    original = simplify._child

    def spy(proto: Any, fold_bytes: int) -> Any:
        shown.append(proto)
        return original(proto, fold_bytes)

    monkeypatch.setattr(simplify, "_child", spy)
    proto = with_weight(1 << 18, external=tmp_path / "m.onnx")
    model = load(proto, str(tmp_path))
    tensor = model.graph.initializers["w"].const_value
    assert simplify.run(model, Context()) == 1
    assert shown[0].ByteSize() < 10_000
    assert not shown[0].graph.initializer
    assert [v.name for v in model.graph.inputs] == ["x"]
    assert model.graph.initializers["w"].const_value is tensor
    assert isinstance(tensor, ir.ExternalTensor)
    # The weight was an input for onnxsim, so that its negation was not folded.
    assert [n.op_type for n in model.graph] == ["Neg", "MatMul"]


def test_small_weights_are_folded() -> None:
    model = load(with_weight(4))
    assert simplify.run(model, Context()) == 2
    assert [n.op_type for n in model.graph] == ["MatMul"]


def test_a_default_that_a_caller_may_override_stays_one() -> None:
    model = load(with_weight(4, overridable=True))
    assert simplify.run(model, Context()) == 1
    assert [v.name for v in model.graph.inputs] == ["x", "w"]
    assert model.graph.inputs[1].is_initializer()
    assert [n.op_type for n in model.graph] == ["Neg", "MatMul"]


def test_large_weights_of_bodies_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplify, "BIG", 4)
    proto = parse("""g (bool c, float[2] x) => (float[2] y) {
        i = Identity(x)
        y = If (c) <then_branch = t () => (float[2] a) <float[2] k = {1, 2}> { a = Add(i, k) },
                    else_branch = f () => (float[2] b) { b = Neg(i) }>
    }""")
    model = load(proto)
    assert simplify.run(model, Context()) == 1
    feed = feeds(proto)
    assert_same(run(proto, feed), run(to_proto(model), feed))


def test_two_large_weights_of_one_name_are_not_risked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplify, "BIG", 4)
    proto = parse("""g (bool c, float[2] x) => (float[2] y) {
        y = If (c) <then_branch = t () => (float[2] a) <float[2] k = {1, 2}> { a = Add(x, k) },
                    else_branch = f () => (float[2] b) <float[2] k = {3, 4}> { b = Add(x, k) }>
    }""")
    ctx = Context()
    assert simplify.run(load(proto), ctx) == 0
    assert "two large initializers are called 'k'" in ctx.events[-1].detail


def test_a_model_that_is_too_large_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplify, "MOST_BYTES", 10)
    ctx = Context()
    assert simplify.run(load(parse(CHAIN)), ctx) == 0
    assert "too many for onnxsim" in ctx.events[-1].detail


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed (SIGSEGV)"),
        ("import time; time.sleep(60)", "took longer than 1 seconds"),
        ("raise ValueError('no such operator')", "failed: ValueError: no such operator"),
        ("import sys; sys.stdout.write('hello, world')", "returned no model"),
        ("import sys; sys.exit(7)", "exit code 7"),
    ],
)
def test_a_child_that_misbehaves(code: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child of these tests is a script instead of onnxsim."""
    script = tmp_path / "misbehaving_child.py"
    script.write_text(code)
    monkeypatch.setattr(simplify, "SECONDS", 1 if "sleep" in code else 60)
    monkeypatch.setattr(simplify, "__name__", "misbehaving_child")
    monkeypatch.syspath_prepend(str(tmp_path))
    model, ctx = load(parse(CHAIN)), Context()
    graph = model.graph
    assert simplify.run(model, ctx) == 0
    assert model.graph is graph
    assert says in ctx.events[-1].detail


def test_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplify, "MEMORY", 64 << 20)
    ctx = Context()
    assert simplify.run(load(parse(CHAIN)), ctx) == 0
    assert "refused: onnxsim" in ctx.events[-1].detail
    assert sys.platform != "win32"


def result(change: Any) -> Any:
    """A child that returns a smaller model, spoilt by ``change``."""

    def child(proto: Any, fold_bytes: int) -> Any:
        smaller = parse("g (float[2, 3] x) => (float[3, 2] y) <int64[2] s = {3, 2}> { t = Relu(x) y = Reshape(t, s) }")
        change(smaller)
        return smaller, ""

    return child


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: setattr(p.graph.input[0], "name", "z"), "the inputs changed from x to z"),
        (lambda p: p.graph.output.add(name="t"), "the outputs changed from y to y, t"),
        (lambda p: setattr(p.opset_import[0], "version", 19), "the opsets changed"),
        (lambda p: setattr(p.graph.node[0], "op_type", "Nothing"), "does not verify"),
        (lambda p: p.graph.node[1].input.__setitem__(0, "nobody"), "does not verify"),
    ],
)
def test_results_that_are_not_believed(change: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplify, "_child", result(change))
    model, ctx = load(parse(CHAIN)), Context()
    graph = model.graph
    assert simplify.run(model, ctx) == 0
    assert model.graph is graph
    assert says in ctx.events[-1].detail


def test_the_declared_types_of_inputs_and_outputs_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(proto: Any) -> None:
        proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "guess"

    monkeypatch.setattr(simplify, "_child", result(rename))
    proto = parse(CHAIN)
    model = load(proto)
    assert simplify.run(model, Context()) == 3
    assert to_proto(model).graph.output[0] == proto.graph.output[0]


def test_functions_stay() -> None:
    proto = parse(
        "g (float[2] x) => (float[2] y) { a = Identity(x) b = own.F(a) y = Neg(b) }",
        imports=', "own" : 1',
        functions='<domain: "own", opset_import: ["" : 18]> F (p) => (q) { r = Exp(p) q = Abs(r) }',
    )
    model = load(proto)
    assert simplify.run(model, Context()) == 1
    feed = feeds(proto)
    assert_same(run(proto, feed), run(to_proto(model), feed))
