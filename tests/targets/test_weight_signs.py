"""Weights of 8-bit products on CPUs with and without dot products of 8 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from olc import ir, targets
from olc.passes import Context
from olc.pipeline import Options, optimize
from olc.quantization import INT7_LIMIT, INT8_LIMIT, Observed, weight_limit
from olc.quantization.facts import note
from olc.session import session
from olc.targets import features, weight_signs
from onnx import helper, numpy_helper

TARGET = targets.get("onnxruntime-cpu")
AVX2 = features.Features("x86_64", "some CPU", ("avx", "avx2", "fma"), 2, 2)
VNNI = features.Features("x86_64", "some CPU", ("avx", "avx2", "fma", "avx512_vnni"), 2, 2)
NEON = features.Features("aarch64", "some CPU", ("neon",), 2, 2)
RANDOM = np.random.default_rng(2)


@pytest.fixture
def cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(features, "detect", lambda: request.param)
    return request.param


def product(q: np.ndarray, scale: Any, zero: np.ndarray | None, bias: bool = False) -> onnx.ModelProto:
    held = {"q": q, "s": np.asarray(scale, np.float32), **({} if zero is None else {"z": zero})}
    held |= {"b": RANDOM.normal(size=q.shape[1]).astype(np.float32)} if bias else {}
    inputs = ["x", "q", "s", *(["z" if zero is not None else ""] if bias or zero is not None else []), *(["b"] if bias else [])]
    node = helper.make_node("DynamicQuantizeMatMul", inputs, ["y"], name="product", domain="com.microsoft")
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", size]) for n, size in zip("xy", q.shape, strict=True))
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(a, n) for n, a in held.items()])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def codes(low: int, high: int, dtype: Any) -> np.ndarray:
    return RANDOM.integers(low, high, (24, 16), endpoint=True).astype(dtype)


def outputs(model: ir.Model | onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    proto = model if isinstance(model, onnx.ModelProto) else ir.serde.serialize_model(model)
    found: np.ndarray = session(proto.SerializeToString()).run(None, {"x": x})[0]
    return found


SMALL_X = RANDOM.normal(size=(5, 24)).astype(np.float32)
KINDS = [
    (codes(-127, 127, np.int8), 0.01, None, False),
    (codes(-127, 127, np.int8), np.linspace(0.5, 2, 16), None, True),
    (codes(-128, 127, np.int8), np.linspace(0.5, 2, 16), codes(-9, 9, np.int8)[0], True),
    (codes(-100, 127, np.int8), 0.01, np.asarray(-3, np.int8), False),
]


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_the_sign_changes_and_the_numbers_do_not(kind: int) -> None:
    q, scale, zero, bias = KINDS[kind]
    model = ir.serde.deserialize_model(product(q, scale, zero, bias))
    saturating, dot = ({"int8_dot": d, "int8_saturates": not d} for d in (False, True))
    assert weight_signs.run(model, Context(), "test", saturating, frozenset()) == 1
    node = next(iter(model.graph))
    assert ir.array(node.inputs[1]).dtype == ir.array(node.inputs[3]).dtype == np.uint8
    # By hand, since kernels of int8 may saturate: the activation on its grid, exact sums, scales, bias.
    lo, hi = min(0.0, SMALL_X.min()), max(0.0, SMALL_X.max())
    unit = np.float32((hi - lo) / 255)
    point = np.rint(-lo / unit)
    x = np.clip(np.rint(SMALL_X / unit) + point, 0, 255) - point
    want = x @ (q.astype(np.float64) - (0 if zero is None else zero.astype(np.float64))) * unit * np.asarray(scale, np.float32)
    want += 0 if not bias else ir.array(node.inputs[4])
    np.testing.assert_allclose(outputs(model, SMALL_X), want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
    # And back, for the CPUs on which int8 is exact and faster.
    assert weight_signs.run(model, Context(), "test", dot, None) == 1
    np.testing.assert_array_equal(ir.array(node.inputs[1]), q)
    np.testing.assert_array_equal(ir.array(node.inputs[3]), np.zeros(np.shape(scale)) if zero is None else zero)


def test_what_cannot_saturate_or_was_not_olcs_stays() -> None:
    cpu = {"int8_dot": False, "int8_saturates": True}
    for q, before in ((codes(-64, 64, np.int8), frozenset()), (codes(-127, 127, np.int8), {("product", weight_signs.OPERATOR)}),
                      (codes(-127, 127, np.int8), None), (codes(0, 255, np.uint8), frozenset())):  # fmt: skip
        model = ir.serde.deserialize_model(product(q, 0.01, None))
        assert weight_signs.run(model, Context(), "test", cpu, before) == 0
    neither = {"int8_dot": False, "int8_saturates": False}
    for q in (codes(-127, 127, np.int8), codes(0, 255, np.uint8)):
        assert weight_signs.run(ir.serde.deserialize_model(product(q, 0.01, None)), Context(), "test", neither, frozenset()) == 0


def linear() -> ir.Model:
    w = RANDOM.normal(size=(64, 48)).astype(np.float32)
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["N", size]) for n, size in (("x", 64), ("y", 48)))
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="mm")
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(w, "w")])
    return ir.serde.deserialize_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


@pytest.mark.parametrize(("cpu", "rule", "dtype", "largest"), [
    (AVX2, "int8-linear", np.uint8, 255), (AVX2, "int7-linear", np.int8, 64), (VNNI, "int8-linear", np.int8, 127),
    (NEON, "int8-linear", np.int8, 127),
], indirect=["cpu"])  # fmt: skip
def test_what_is_rounded_suits_the_cpu(cpu: features.Features, rule: str, dtype: Any, largest: int) -> None:
    model = linear()
    optimize(model, Options(level=3, sites={rule: frozenset({"mm"})}), Context(target=TARGET))
    (node,) = (n for n in model.graph if n.op_type == weight_signs.OPERATOR)
    q = ir.array(node.inputs[1])
    assert q.dtype == dtype
    assert q.max() == largest


@pytest.mark.parametrize("cpu", [AVX2], indirect=True)
def test_a_sources_own_product_in_a_branch_stays(cpu: features.Features) -> None:
    branch = product(codes(-127, 127, np.int8), 0.01, None).graph
    model = linear()
    graph = ir.serde.serialize_model(model).graph
    del branch.input[:]
    branch.node[0].input[0], branch.node[0].output[0], branch.output[0].name = "y0", "b", "b"
    graph.node[0].output[0] = graph.node[0].name = "y0"
    w = numpy_helper.from_array(RANDOM.normal(size=(64, 24)).astype(np.float32), "w")
    graph.initializer[0].CopyFrom(w)
    graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch, name="choice"))
    graph.input.append(helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []))
    graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 16]))
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = ir.serde.deserialize_model(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    optimize(model, Options(level=3, sites={"int8-linear": frozenset({"y0"})}), Context(target=TARGET))
    kinds = [ir.array(n.inputs[1]).dtype for g in ir.all_graphs(model) for n in g if n.op_type == weight_signs.OPERATOR]
    assert sorted(map(str, kinds)) == ["int8", "int8", "uint8"]


@pytest.mark.parametrize(("cpu", "limit"), [(AVX2, INT7_LIMIT), (VNNI, INT8_LIMIT), (NEON, INT8_LIMIT)], indirect=["cpu"])
def test_weights_of_convolutions_are_told_their_limit(cpu: features.Features, limit: int) -> None:
    model = linear()
    note(model, {"x": Observed(-1, 1)}, target=TARGET)
    assert weight_limit(model.graph.initializers["w"]) == limit
