"""Convolutional networks on grids of uint8, against onnxruntime.quantization.quantize_static with the same calibration."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from olc import frontend, ir, storage, targets
from olc.analysis import shapes
from olc.evaluation.executed import executed
from olc.passes import Context, cse, dce, dedupe_initializers
from olc.quantization.facts import Observed, note
from olc.rewriter import Rewriter
from olc.rules import registry
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import models

TARGET = targets.get("onnxruntime-cpu")
RULES = (
    "int8-conv", "int8-add", "int8-mul", "int8-global-average-pool", "int8-average-pool", "int8-sigmoid", "int8-leaky-relu",
    "int8-concat", "int8-hard-sigmoid",
)  # fmt: skip


def network(path: Path, gate_op: str = "Sigmoid", dead: bool = False) -> None:
    """A stem with MaxPool, a depthwise and a pointwise convolution with a residual sum, a gate, two branches, a head."""
    random = np.random.default_rng(7)
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, np.ndarray] = {}

    def node(op: str, inputs: list[str], **attributes) -> str:
        name = f"v{len(nodes)}"
        nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def conv(x: str, ins: int, outs: int, size: int, group: int = 1, **attributes) -> str:
        i = len(weights)
        weights[f"w{i}"] = random.normal(size=(outs, ins // group, size, size)) * np.sqrt(2 * group / (ins * size * size))
        weights[f"b{i}"] = random.normal(size=outs) * 0.1
        if dead:  # a channel whose weights fell to nothing beside its bias
            weights[f"w{i}"][0] *= 1e-20
        return node("Conv", [x, f"w{i}", f"b{i}"], pads=[size // 2] * 4, group=group, **attributes)

    x = node("MaxPool", [node("Relu", [conv("x", 3, 16, 3, strides=[2, 2])])], kernel_shape=[2, 2], strides=[2, 2])
    weights["six"], weights["zero"] = np.array(6.0), np.array(0.0)
    y = node("Clip", [conv(x, 16, 16, 3, 16), "zero", "six"])
    x = node("Relu", [node("Add", [conv(y, 16, 16, 1), x])])
    gate = node(gate_op, [conv(node("GlobalAveragePool", [x]), 16, 16, 1)])
    x = node("Mul", [x, gate])
    x = node("Concat", [conv(x, 16, 8, 1), node("Relu", [conv(x, 16, 8, 3)])], axis=1)
    nodes.append(helper.make_node("GlobalAveragePool", [conv(x, 16, 32, 3)], ["y"], name="head"))
    graph = helper.make_graph(
        nodes, "cnn",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(a, np.float32), name) for name, a in weights.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)


def feeds(seed: int, count: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"x": random.normal(size=(1, 3, 32, 32)).astype(np.float32)} for _ in range(count)]


def ranges(path: Path, inputs: list[dict[str, np.ndarray]]) -> dict[str, Observed]:
    """Lowest and highest number of every float value."""
    proto = onnx.load(path)
    names = [o for n in proto.graph.node for o in n.output]
    del proto.graph.output[:]
    proto.graph.output.extend(helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
    probe = path.with_name("probe.onnx")
    onnx.save(proto, probe)
    session = models.cpu_session(probe)
    runs = [{**f, **dict(zip(names, session.run(None, f), strict=True))} for f in inputs]
    return {n: Observed(float(min(r[n].min() for r in runs)), float(max(r[n].max() for r in runs))) for n in ["x", *names]}


def quantized(source: Path, facts: dict[str, Observed], to: Path, rules: tuple[str, ...] = RULES) -> ir.Model:
    model, ctx = frontend.load(source), Context(target=TARGET)
    shapes.infer(model)
    note(model, facts, target=TARGET)
    found = registry()
    Rewriter(model, [found[r] for r in rules], ctx, strict=True).run()
    dedupe_initializers.run(model, ctx)
    cse.run(model, ctx)
    Rewriter(model, [found["quantize-of-dequantize"]], ctx, strict=True).run()
    dce.run(model, ctx)
    storage.save(model, to)
    return model


def by_peer(source: Path, inputs: list[dict[str, np.ndarray]], to: Path) -> None:
    class Reader(CalibrationDataReader):
        left = iter(inputs)

        def get_next(self):
            return next(self.left, None)

    quantize_static(
        source, to, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip


def error(a: Path, b: Path) -> float:
    first, second = models.cpu_session(a), models.cpu_session(b)
    x, y = (np.concatenate([s.run(None, f)[0] for f in feeds(2, 4)]) for s in (first, second))
    return float(np.linalg.norm(x - y) / np.linalg.norm(x))


@pytest.mark.parametrize("gate", ["Sigmoid", "HardSigmoid"])
def test_as_close_as_the_peer_and_in_integers_throughout(gate, tmp_path: Path):
    source, ours, peer = (tmp_path / f"{n}.onnx" for n in ("float", "ours", "peer"))
    network(source, gate)
    calibration = feeds(1, 8)
    quantized(source, ranges(source, calibration), ours)
    by_peer(source, calibration, peer)
    assert error(source, ours) < 1.25 * error(source, peer) < 0.1
    run = {e.operator: e.count for e in executed(ours, feeds(2, 1)[0])}
    assert run["QLinearConv"] == 7
    assert run["QLinearMul"] == run["QLinearConcat"] == 1
    assert run["QLinearAdd"] + run.get("QLinearSigmoid", 0) == 2  # HardSigmoid is a sum
    assert run["QLinearGlobalAveragePool"] == 2
    assert not {"Conv", "FusedConv", "Relu", "Clip", "Add", "Mul", "Concat", "GlobalAveragePool", gate} & set(run)


def test_only_what_is_calibrated_is_rounded(tmp_path: Path):
    source, ours = tmp_path / "float.onnx", tmp_path / "ours.onnx"
    network(source)
    facts = ranges(source, feeds(1, 2))
    convs = [n for n in onnx.load(source).graph.node if n.op_type == "Conv"]
    last = convs[-1].output[0]
    model = quantized(source, {last: facts[last], convs[-1].input[0]: facts[convs[-1].input[0]]}, ours)
    kinds = Counter(n.op_type for n in model.graph)
    assert kinds["QuantizeLinear"] == 2  # the head is not calibrated
    assert kinds["DequantizeLinear"] == 4
    assert error(source, ours) < 0.05


def test_a_bias_beside_dead_weights_fits(tmp_path: Path):
    source, ours = tmp_path / "float.onnx", tmp_path / "ours.onnx"
    network(source, dead=True)
    quantized(source, ranges(source, feeds(1, 8)), ours, ("int8-conv",))
    assert error(source, ours) < 0.1


