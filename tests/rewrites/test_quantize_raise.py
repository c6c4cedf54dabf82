"""Files that onnxruntime.quantization.quantize_dynamic writes: what becomes of their integer products."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from olc import frontend, ir, storage, targets
from olc.analysis import shapes
from olc.passes import Context
from olc.pipeline import Options, optimize
from olc.rewriter import Rewriter
from olc.rules import registry
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

import models

TARGET = targets.get("onnxruntime-cpu")
RANDOM = np.random.default_rng(5)


def save(path: Path, nodes: list[onnx.NodeProto], x: list, weights: dict[str, np.ndarray]) -> None:
    graph = helper.make_graph(
        nodes, "float",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in weights.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def mlp(path: Path, x: list) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("Add", ["a", "b"], ["c"], name="bias"),
        helper.make_node("Relu", ["c"], ["d"], name="relu"),
        helper.make_node("MatMul", ["d", "v"], ["y"], name="second"),
    ]
    normal = RANDOM.normal
    save(path, nodes, x, {"w": normal(size=(32, 48)), "b": normal(size=48) + 1, "v": normal(size=(48, 16)) + 0.3})


def cnn(path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["c"], name="relu"),
        helper.make_node("Conv", ["c", "v"], ["y"], name="depthwise", group=8),
    ]
    normal = RANDOM.normal
    save(path, nodes, ["N", 3, 9, 9], {"w": normal(size=(8, 3, 3, 3)), "b": normal(size=8), "v": normal(size=(8, 1, 3, 3))})


def compiled(source: Path, to: Path) -> Counter[str]:
    model = frontend.load(source)
    optimize(model, Options(level=2, strict=True), Context(target=TARGET))
    storage.save(model, to)
    return Counter(n.op_type for n in model.graph)


def outputs(path: Path, x: np.ndarray) -> np.ndarray:
    return models.cpu_session(path).run(None, {"x": x.astype(np.float32)})[0]


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("x", [["B", "S", 32], ["N", 32]], ids=len)
def test_matmul_integer_is_raised_and_lowered(x, signed, per_channel, tmp_path: Path):
    mlp(tmp_path / "float.onnx", x)
    kind = QuantType.QInt8 if signed else QuantType.QUInt8
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "int8.onnx", per_channel=per_channel, weight_type=kind)
    assert Counter(n.op_type for n in onnx.load(tmp_path / "int8.onnx").graph.node)["MatMulInteger"] == 2
    found = compiled(tmp_path / "int8.onnx", tmp_path / "out.onnx")
    assert found["MatMulInteger"] == found["Cast"] == found["Mul"] == 0
    assert found["DynamicQuantizeMatMul"] == 2 or not signed
    feed = RANDOM.normal(size=[5 if isinstance(n, str) else n for n in x])
    before, after = (outputs(tmp_path / f"{name}.onnx", feed) for name in ("int8", "out"))
    # A number on the border of two steps may fall to the other side.
    np.testing.assert_allclose(after, before, rtol=0, atol=0.02 * float(np.abs(before).max()))
    assert np.linalg.norm(after - before) < 2e-3 * np.linalg.norm(before)


@pytest.mark.parametrize("signed", [False, True])
def test_conv_integer_has_unsigned_weights(signed, tmp_path: Path):
    cnn(tmp_path / "float.onnx")
    kind = QuantType.QInt8 if signed else QuantType.QUInt8
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "int8.onnx", weight_type=kind)
    found = compiled(tmp_path / "int8.onnx", tmp_path / "out.onnx")
    assert found["ConvInteger"] == 2
    model = onnx.load(tmp_path / "out.onnx")
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    assert {kinds[n.input[1]] for n in model.graph.node if n.op_type == "ConvInteger"} == {onnx.TensorProto.UINT8}
    feed = RANDOM.normal(size=(2, 3, 9, 9))
    np.testing.assert_array_equal(outputs(tmp_path / "out.onnx", feed), outputs(tmp_path / "int8.onnx", feed))


def test_a_weight_stored_as_int8_is_used_as_it_is():
    recipe = models.find("minilm-l6")
    model = frontend.load(recipe.build("int8")["encoder"])
    result = optimize(model, Options(level=2, strict=True), Context(target=TARGET))
    assert result.outcome.applied["gather-bytes"] == 2  # two tables stay bytes until their rows are picked
    shapes.infer(model)
    weights = {v.name for v in model.graph.initializers.values() if v.dtype == ir.DataType.INT8}
    outcome = Rewriter(model, [registry()["stored-int8-linear"]], Context(target=TARGET), strict=True).run()
    assert outcome.applied["stored-int8-linear"] == 36
    assert {v.name for v in model.graph.initializers.values() if v.dtype == ir.DataType.INT8} == weights


def test_grids_survive_the_round_trip():
    """What quantize-of-dequantize rests on, for every number and many scales, in the runtime's own arithmetic."""
    q = np.arange(256, dtype=np.float32)
    with np.errstate(all="ignore"):
        bits = RANDOM.integers(np.float32(2.0**-126).view(np.uint32), np.float32(1e36).view(np.uint32), 2000)
        for scale in bits.astype(np.uint32).view(np.float32):
            for zero in (0, 1, 128, 255):
                back = np.clip(np.rint((q - np.float32(zero)) * scale / scale) + np.float32(zero), 0, 255)
                assert np.array_equal(back, q), (scale, zero)
