"""Products in blocks of one activation become one, bit for bit the same."""

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
from olc.targets import one_product
from olc.targets.kernels import Kernels, Row

TARGET = targets.get("onnxruntime-cpu")
RANDOM = np.random.default_rng(6)
WEIGHTS = {"wq": (96, 64), "wk": (96, 32), "wv": (96, 48), "wo": (64, 32)}
BODY = "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) r = Relu(q) y = MatMul(r, wo) m = ReduceMax<keepdims = 0>(v)"


def model(body: str = BODY, outputs: str = "float[N, 32] y, float[N, 32] k, float m", opset: int = 20) -> ir.Model:
    head = f'<ir_version: 10, opset_import: ["": {opset}]> g (float[N, 96] x)'
    proto = onnx.parser.parse_model(f"{head} => ({outputs}) {{ {body} }}")
    for name, shape in WEIGHTS.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(RANDOM.normal(size=shape).astype(np.float32), name))
    for n in proto.graph.node:
        n.name = f"make_{n.output[0]}"
    found = ir.serde.deserialize_model(proto)
    shapes.infer(found)
    return found


def rounded(given: ir.Model, sites: dict[str, frozenset[str]], monkeypatch: pytest.MonkeyPatch, joined: bool = True) -> ir.Model:
    made = given.clone()
    with monkeypatch.context() as m:
        if not joined:
            m.setattr(one_product, "run", lambda *_: 0)
        optimize(made, Options(level=3, sites=sites), Context(target=TARGET))
    return made


def ran(made: ir.Model, path: Path) -> list[np.ndarray]:
    storage.save(made, path)
    x = np.random.default_rng(1).normal(size=(3, 96)).astype(np.float32)
    found: list[np.ndarray] = session(path, threads=1).run(None, {"x": x})
    return found


ALL = frozenset({"make_q", "make_k", "make_v", "make_y"})


@pytest.mark.parametrize("rule", ["int4-block-linear", "int8-block-linear"])
def test_they_become_one_and_give_the_same(rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = model()
    one, many = (rounded(given, {rule: ALL}, monkeypatch, joined) for joined in (True, False))
    count = [Counter(n.op_type for n in m.graph) for m in (one, many)]
    assert (count[0]["MatMulNBits"], count[0]["Split"], count[1]["MatMulNBits"]) == (2, 1, 4)
    assert [v.name for v in one.graph.outputs] == ["y", "k", "m"]
    for a, b in zip(ran(one, tmp_path / "one.onnx"), ran(many, tmp_path / "many.onnx"), strict=True):
        np.testing.assert_array_equal(a, b)
    (joined,) = [n for n in one.graph if n.op_type == "MatMulNBits" and n.name and "joined" in n.name]
    assert set(origins(joined)) == ALL - {"make_y"}
    sizes = [(tmp_path / name).stat().st_size for name in ("one.onnx", "many.onnx")]
    assert sizes[0] < 1.1 * sizes[1]  # no weight is there twice


def test_those_of_other_bits_or_of_the_source_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = model()
    mixed = rounded(given, {"int4-block-linear": frozenset({"make_q"}), "int8-block-linear": frozenset({"make_k"})}, monkeypatch)
    assert Counter(n.op_type for n in mixed.graph)["Split"] == 0
    source = rounded(given, {"int4-block-linear": ALL}, monkeypatch, joined=False)
    again = rounded(source, {}, monkeypatch)
    assert Counter(n.op_type for n in again.graph)["MatMulNBits"] == 4


def test_one_whose_weight_another_reads_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    given = rounded(model(), {"int4-block-linear": ALL}, monkeypatch, joined=False)
    q, k = (next(n for n in given.graph if n.name == name) for name in ("make_q", "make_k"))
    extra = ir.make_node("Identity", [k.inputs[1]])
    given.graph.insert_before(k, [extra])
    assert one_product.run(given, Context(), "lower", TARGET.kernels(), frozenset()) == 1
    assert k in list(given.graph)
    assert q not in list(given.graph)


def test_the_table_of_kernels_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    given = rounded(model(), {"int4-block-linear": ALL}, monkeypatch, joined=False)
    slow = Kernels("onnxruntime", "1", {}, (Row(one_product.NAME, {"rows": 1}, 0.9, 0.9, 0.9),))
    assert one_product.run(given, Context(), "lower", slow, frozenset()) == 0
    assert one_product.run(given, Context(), "lower", slow, None) == 0
    assert one_product.run(given, Context(), "lower", Kernels("onnxruntime", "1", {}, ()), frozenset()) == 2


def test_within_a_branch_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = (
        "zero = Constant<value = float {0.0}>() all = ReduceSum<keepdims = 0>(x) c = Greater(all, zero) "
        "y = If(c) <then_branch = a () => (float[N, 32] t) { q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) "
        "s = ReduceMax<keepdims = 0>(q) u = ReduceMax<keepdims = 0>(v) w = Add(s, u) t = Add(k, w) }, "
        "else_branch = b () => (float[N, 32] e) { e = MatMul(x, wk) }>"
    )
    given = model(body, "float[N, 32] y")
    for graph in ir.all_graphs(given):
        for n in graph:
            n.name = n.name or f"make_{n.outputs[0].name}"
    made = rounded(given, {"int4-block-linear": ALL}, monkeypatch)
    inner = Counter((g.name, n.op_type) for g in ir.all_graphs(made) for n in g)
    assert (inner["a", "MatMulNBits"], inner["a", "Split"]) == (1, 1)
    assert (inner["b", "MatMul"], inner["b", "Split"]) == (1, 0)
    ran(made, tmp_path / "made.onnx")
