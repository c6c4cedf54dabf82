"""Products in 8 bits of one activation round it once, bit for bit the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from olc import ir, storage, targets
from olc.analysis import shapes
from olc.passes import Context
from olc.pipeline import Options, optimize
from olc.rewriter import origins
from olc.session import session
from olc.targets import one_rounding
from olc.targets.kernels import Kernels, Row

TARGET = targets.get("onnxruntime-cpu")
SITES = {"int8-linear": frozenset({"make_q", "make_k", "make_v", "make_y"})}


def model() -> ir.Model:
    """Three products of one activation, one of them with a bias and one the graph's output, and one of another."""
    random = np.random.default_rng(6)
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[N, 96] x) => (float[N, 32] y, float[N, 32] k, float m) '
        "{ q = MatMul(x, wq) k = MatMul(x, wk) v0 = MatMul(x, wv) v = Add(v0, bv) r = Relu(q) y = MatMul(r, wo) "
        "m = ReduceMax<keepdims = 0>(v) }"
    )
    for name, shape in {"wq": (96, 64), "wk": (96, 32), "wv": (96, 48), "wo": (64, 32), "bv": (48,)}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name))
    for n in proto.graph.node:
        n.name = "make_v" if n.output[0] == "v0" else f"make_{n.output[0]}"
    found = ir.serde.deserialize_model(proto)
    shapes.infer(found)
    return found


def rounded(monkeypatch: pytest.MonkeyPatch, once: bool) -> ir.Model:
    made = model()
    with monkeypatch.context() as m:
        if not once:
            m.setattr(one_rounding, "run", lambda *_: 0)
        optimize(made, Options(level=3, sites=SITES), Context(target=TARGET))
    return made


def test_it_is_rounded_once_and_the_same_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, many = (rounded(monkeypatch, once) for once in (True, False))
    count = [Counter(n.op_type for n in made.graph) for made in (one, many)]
    assert (count[0]["DynamicQuantizeLinear"], count[0]["MatMulIntegerToFloat"], count[0]["DynamicQuantizeMatMul"]) == (1, 3, 1)
    assert count[1]["DynamicQuantizeMatMul"] == 4
    x, found = np.random.default_rng(1).normal(size=(3, 96)).astype(np.float32), []
    for made in (one, many):
        storage.save(made, tmp_path / "m.onnx")
        found.append(session(tmp_path / "m.onnx", threads=1).run(None, {"x": x}))
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)
    (rounding,) = [n for n in one.graph if n.op_type == "DynamicQuantizeLinear"]
    assert {"make_q", "make_k", "make_v"} <= set(origins(rounding))
    names = [n.name for n in one.graph]
    assert len(set(names)) == len(names)


def test_not_where_the_table_says_that_it_is_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Kernels("onnxruntime", "1", {}, (Row(one_rounding.NAME, {"rows": 1}, 0.8, 0.7, 0.9),))
    monkeypatch.setattr(type(TARGET), "kernels", lambda self: slow)
    made = rounded(monkeypatch, True)
    assert Counter(n.op_type for n in made.graph)["DynamicQuantizeMatMul"] == 4
