"""The emulated errors against ONNX Runtime's own operators, and against loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from olc.quantization import emulate
from olc.quantization.blocks import pack, quantize_blocks
from olc.quantization.weights import flipped, quantize_linear_weight
from onnx import TensorProto as T
from onnx import helper


def layer(rows: int = 40, k: int = 70, n: int = 9, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, k)) * np.exp(rng.normal(0, 1, k))
    return x.astype(np.float32), (rng.standard_normal((k, n)) * rng.uniform(0.1, 2, n)).astype(np.float32)


def relative(exact: np.ndarray, got: np.ndarray) -> float:
    exact = exact.astype(np.float64)
    return float(((exact - got) ** 2).sum() / (exact**2).sum())


def ran(nodes: list[Any], x: np.ndarray, constants: dict[str, np.ndarray]) -> np.ndarray:
    inside = helper.make_tensor_value_info("x", T.FLOAT, list(x.shape))
    out = helper.make_tensor_value_info("y", T.FLOAT, None)
    held = [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    opset = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph(nodes, "g", [inside], [out], held), opset_imports=opset, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def unsigned(q: np.ndarray, s: np.ndarray) -> dict[str, np.ndarray]:
    """A weight of uint8, whose products are exact on every CPU."""
    return {"q": flipped(q), "s": s, "z": np.full(s.shape, 128, np.uint8)}


@pytest.mark.parametrize("shift", [-5.0, 0.0, 5.0])
def test_dynamic_int8_is_what_the_runtime_does(shift: float) -> None:
    x, w = layer()
    x += shift
    q, s = quantize_linear_weight(w)
    node = helper.make_node("DynamicQuantizeMatMul", ["x", "q", "s", "z"], ["y"], domain="com.microsoft")
    got = ran([node], x, unsigned(q, s))
    assert emulate.int8_dynamic(x, w) == pytest.approx(relative(x @ w, got), rel=1e-3)


def test_int8_of_rows_is_what_the_runtime_does_with_rows_of_one_size() -> None:
    x, w = layer()
    x *= np.exp(np.random.default_rng(1).normal(0, 2, (len(x), 1))).astype(np.float32)
    x[3] = 0
    largest = np.maximum(np.abs(x).max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    q, s = quantize_linear_weight(w)
    node = helper.make_node("DynamicQuantizeMatMul", ["x", "q", "s", "z"], ["y"], domain="com.microsoft")
    got = ran([node], x / largest, unsigned(q, s)) * largest
    assert emulate.int8_row(x, w) == pytest.approx(relative(x @ w, got), rel=1e-3)


def test_int8_with_outliers_in_float_is_what_the_runtime_does_with_the_rest() -> None:
    x, w = layer()
    x[:, [4, 31]] *= 60
    apart = np.array([4, 31])
    rest = np.ones(x.shape[1], np.float32)
    rest[apart] = 0
    q, s = quantize_linear_weight(w * rest[:, None])
    node = helper.make_node("DynamicQuantizeMatMul", ["x", "q", "s", "z"], ["y"], domain="com.microsoft")
    got = ran([node], x * rest, unsigned(q, s)) + x[:, apart] @ w[apart]
    assert emulate.int8_outliers(x, w, apart) == pytest.approx(relative(x @ w, got), rel=1e-3)
    assert emulate.int8_outliers(x, w, apart) < 0.1 * emulate.int8_dynamic(x, w)


@pytest.mark.parametrize("clip", [(-1.5, 2.0), (0.5, 4.0), (-3.0, -1.0)])
def test_static_int8_is_what_the_runtime_does(clip: tuple[float, float]) -> None:
    x, w = layer()
    q, s = quantize_linear_weight(w)
    scale, zero = emulate.uint8_grid(*clip)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["qx"]),
        helper.make_node("DequantizeLinear", ["qx", "sx", "zx"], ["dx"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dw"], axis=1),
        helper.make_node("MatMul", ["dx", "dw"], ["y"]),
    ]
    got = ran(nodes, x, unsigned(q, s) | {"sx": np.float32(scale), "zx": np.uint8(zero)})
    assert emulate.static(x, w, *clip) == pytest.approx(relative(x @ w, got), rel=1e-3)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("level", [0, 4])
@pytest.mark.parametrize("k", [64, 70])
def test_blocks_are_what_the_runtime_does(bits: int, level: int, k: int) -> None:
    x, w = layer(k=k)
    packed = pack(quantize_blocks(w, bits, 32))
    node = helper.make_node(
        "MatMulNBits", ["x", "b", "s", "z"], ["y"], domain="com.microsoft",
        K=k, N=9, bits=bits, block_size=32, accuracy_level=level,
    )  # fmt: skip
    got = ran([node], x, {"b": packed.weight, "s": packed.scale, "z": packed.zero})  # type: ignore[dict-item]
    want = relative(x.astype(np.float64) @ w, got)
    assert emulate.block(x, w, bits, 32, level4=level == 4) == pytest.approx(want, rel=0.02)


@pytest.mark.parametrize("bits", [4, 8])
def test_experts_are_what_the_runtime_does(bits: int) -> None:
    """One expert a token, so that each counts with the same share."""
    random = np.random.default_rng(5)
    x, router = (random.normal(size=(30, n)).astype(np.float32) for n in (64, 3))
    up, down = (random.normal(size=(3, *shape)).astype(np.float32) / 8 for shape in ((256, 64), (64, 128)))
    gate = {"activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.7, "activation_beta": 1.0, "k": 1,
            "normalize_routing_weights": 1, "swiglu_limit": 1.5}  # fmt: skip
    held: dict[str, np.ndarray] = {"router": router}
    held |= {f"b{n}": random.normal(size=(3, n)).astype(np.float32) for n in (256, 64)}
    for name, w in (("u", up), ("d", down)):
        parts = [pack(quantize_blocks(one.T, bits, 32, search=bits == 4), zeros=True) for one in w]
        held[name] = np.stack([p.weight.reshape(len(p.weight), -1) for p in parts])
        held[f"{name}s"] = np.stack([p.scale for p in parts])
        held[f"{name}z"] = np.stack([p.zero for p in parts if p.zero is not None])
    rounded = helper.make_node(
        "QMoE", ["x", "router", "u", "us", "b256", "d", "ds", "b64", "", "", "", "uz", "dz"], ["y"], domain="com.microsoft",
        expert_weight_bits=bits, block_size=32, accuracy_level=4, weights_prepacked=0, **gate,
    )  # fmt: skip
    exact = helper.make_node("MoE", ["x", "router", "u", "b256", "d", "b64"], ["y"], domain="com.microsoft", **gate)
    want = relative(ran([exact], x, held | {"u": up, "d": down}), ran([rounded], x, held))
    told = emulate.experts(x, router, up, down, bits, 32, 1, (1.7, 1.0), 1.5, (held["b256"], held["b64"]), most=3)
    assert told == pytest.approx(want, rel=0.02)


def test_grid_is_that_of_the_standard() -> None:
    for low, high in [(-1.0, 2.0), (0.5, 3.0), (-4.0, -1.0), (0.0, 0.0)]:
        x = np.array([low, high], np.float32)
        nodes = [helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
                 helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])]  # fmt: skip
        np.testing.assert_array_equal(ran(nodes, x, {}), emulate.fake_uint8(x, low, high))


def test_rounding_by_loops() -> None:
    x, _ = layer(3, 7)
    s = (2.0 - -1.5) / 255
    z = round(1.5 / s)
    want = [[(min(max(round(float(v) / s) + z, 0), 255) - z) * s for v in row] for row in x]
    np.testing.assert_allclose(emulate.fake_uint8(x, -1.5, 2.0), want, rtol=1e-5, atol=1e-7)


def test_prepared_weights_are_used() -> None:
    x, w = layer()
    q, s = quantize_linear_weight(w)
    assert emulate.int8_dynamic(x, w, (q, s)) == emulate.int8_dynamic(x, w)
    assert emulate.int8_dynamic(x, w, (np.zeros_like(q), s)) == pytest.approx(1)
    assert emulate.static(x, w, -9, 9, (np.zeros_like(q), s)) == pytest.approx(1)
    held = quantize_blocks(w, 4, 16)
    assert emulate.block(x, w, 4, 16, held) == emulate.block(x, w, 4, 16)
    assert emulate.block(x, w, 4, 16, quantize_blocks(w * 0, 4, 16)) == pytest.approx(1)


def test_leading_axes_are_rows() -> None:
    x, w = layer()
    assert emulate.int8_dynamic(x.reshape(2, 20, 70), w) == emulate.int8_dynamic(x, w)


def test_errors_are_in_their_order() -> None:
    x, w = layer()
    assert 0 < emulate.block(x, w, 8, 32) < emulate.block(x, w, 8, 32, level4=True) < emulate.block(x, w, 4, 32)
    assert emulate.static(x, w, -0.1, 0.1) > emulate.int8_dynamic(x, w)


def test_nothing_to_lose() -> None:
    x, w = layer()
    for a, b in ((x * 0, w), (x, w * 0), (x[:0], w), (x[:, :0], w[:0])):
        assert emulate.int8_dynamic(a, b) == emulate.static(a, b, -1, 1) == emulate.block(a, b, 4, 16) == 0
    assert emulate.relative_error(np.zeros(2), np.ones(2)) == math.inf
