"""Smoothing leaves the function as it is, whatever place the division finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from olc import ir, storage
from olc.analysis import shapes
from olc.errors import BadInput
from olc.passes import Context, smooth
from olc.quantization import Observed
from olc.quantization.facts import note
from olc.session import run, session

K, N = 16, 24
CHANNELS = np.geomspace(0.1, 50, K).astype(np.float32)


def model(body: str, outputs: str = f"float[B, {N}] y") -> ir.Model:
    text = f'<ir_version: 10, opset_import: ["" : 23]> g (float[B, {K}] x) => ({outputs}) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    for i, n in enumerate(proto.graph.node):
        n.name = f"{n.op_type}_{i}"
    random = np.random.default_rng(1)
    sizes = {"w": (K, N), "v": (K, N), "t": (N, K), "u": (K, K), "g": (K,), "b": (K,), "c": (N,)}
    sizes |= dict.fromkeys("ef", (K, K // 2))
    held = {i for n in proto.graph.node for i in n.input}
    for name in sorted(held & sizes.keys()):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(random.normal(size=sizes[name]).astype(np.float32), name))
    made = ir.serde.deserialize_model(proto)
    shapes.infer(made)
    note(made, {"h": Observed(-1.0, 1.0, CHANNELS)})
    return made


def outputs(m: ir.Model, tmp_path: Path) -> list[np.ndarray]:
    storage.save(m, tmp_path / "m.onnx")
    x = np.random.default_rng(2).normal(size=(5, K)).astype(np.float32)
    return list(run(session(tmp_path / "m.onnx"), {"x": x}).values())


PLACES = {
    "a norm": ("h = LayerNormalization(x, g, b) y = MatMul(h, w)", "divided in the LayerNormalization", 0),
    "a norm without bias": ("h = RMSNormalization(x, g) y = MatMul(h, w)", "divided in the RMSNormalization", 0),
    "a norm that others read": ("h = LayerNormalization(x, g, b) m = MatMul(h, w) r = ReduceSum(h) y = Add(m, r)",
                                "divided by a Mul", 1),
    "a gate": ("s = Sigmoid(x) p = MatMul(x, u) h = Mul(s, p) y = MatMul(h, w)", "divided in the columns of MatMul_1", 0),
    "a gate with a bias": ("s = Sigmoid(x) p = MatMul(x, u) q = Add(b, p) h = Mul(s, q) y = MatMul(h, w)",
                           "divided in the columns of MatMul_1", 0),
    "values of an attention": (
        "a = Constant<value_ints = [0]>() z = Unsqueeze(x, a) p = MatMul(z, u) q = Add(p, b) "
        "h = Attention<q_num_heads = 2, kv_num_heads = 2>(z, z, q) m = MatMul(h, w) y = Squeeze(m, a)",
        "divided in the columns of MatMul_2", 0,
    ),
    "values that others read": (
        "a = Constant<value_ints = [0]>() z = Unsqueeze(x, a) p = MatMul(z, u) q = Add(p, b) "
        "h = Attention<q_num_heads = 2, kv_num_heads = 2>(z, q, q) m = MatMul(h, w) y = Squeeze(m, a)", "divided by a Mul", 1,
    ),
    "fewer heads of values": (
        "a = Constant<value_ints = [0]>() z = Unsqueeze(x, a) p = MatMul(z, e) k = MatMul(z, f) "
        "h = Attention<q_num_heads = 2, kv_num_heads = 1>(z, k, p) m = MatMul(h, w) y = Squeeze(m, a)", "divided by a Mul", 1,
    ),
    "anything": ("h = Tanh(x) y = MatMul(h, w)", "divided by a Mul", 1),
    "two readers": ("h = RMSNormalization(x, g) m = MatMul(h, w) n = MatMul(h, v) y = Add(m, n)",
                    "divided in the RMSNormalization", 0),
    "Gemm, turned": ("h = Tanh(x) y = Gemm<transB = 1>(h, t, c)", "divided by a Mul", 1),
    "a Transpose": ("h = RMSNormalization(x, g) q = Transpose(t) y = MatMul(h, q)", "divided in the RMSNormalization", 0),
}  # fmt: skip


@pytest.mark.parametrize(("body", "where", "products"), PLACES.values(), ids=PLACES)
def test_the_function_stays(body: str, where: str, products: int, tmp_path: Path) -> None:
    m = model(body)
    before, muls = outputs(m, tmp_path), sum(n.op_type == "Mul" for n in m.graph)
    weights = {v.name: ir.array(v) for v in m.graph.initializers.values()}
    ctx = Context()
    assert smooth.run(m, ctx, {"h": 0.5}) == 1
    assert ctx.events[0].detail.endswith(where)
    assert sum(n.op_type == "Mul" for n in m.graph) == muls + products
    # float32: sums of 16 products of numbers that factors move by a few powers of two
    for a, b in zip(before, outputs(m, tmp_path), strict=True):
        np.testing.assert_allclose(b, a, rtol=2e-5, atol=2e-5)
    read = [ir.array(n.inputs[1]) for n in m.graph if n.op_type in ("MatMul", "Gemm")]
    assert not any(np.array_equal(w, old) for w in read for name, old in weights.items() if name in "wvt")


def test_what_the_layer_reads_is_flatter(tmp_path: Path) -> None:
    m = model("h = Tanh(x) y = MatMul(h, w)")
    smooth.run(m, Context(), {"h": 1.0})
    factors = 1 / ir.array(next(n for n in m.graph if n.op_type == "Mul").inputs[1])
    np.testing.assert_allclose(factors, CHANNELS, rtol=1e-6)


@pytest.mark.parametrize(("name", "why"), [("nothing", "no linear layer"), ("x2", "nothing was calibrated")])
def test_a_plan_that_does_not_fit_is_refused(name: str, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        smooth.run(model("x2 = Tanh(x) y = MatMul(x2, w)"), Context(), {name: 0.5})
