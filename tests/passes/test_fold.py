"""Constant folding: what it computes, what it leaves alone, and that what it writes equals what a run gives."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from olc import ir
from olc.analysis import shapes
from olc.passes import Context, fold
from onnx_ir import serde

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "analysis"))

from test_shape_node_cases import cases, plain, variant


def parsed(text: str, weights: Mapping[str, np.ndarray] | None = None) -> ir.Model:
    """A model from ONNX text (graph with initializers), large weights added by name."""
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]>\n' + text)
    for name, data in (weights or {}).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(data, name))
    return serde.deserialize_model(proto)


def run(model: ir.Model, **limits: Any) -> Context:
    ctx = Context(**limits)
    shapes.infer(model)
    fold.run(model, ctx)
    return ctx


def operators(model: ir.Model) -> list[str]:
    return [n.op_type for g in ir.all_graphs(model) for n in g]


def outputs(model: ir.Model | onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    proto = model if isinstance(model, onnx.ModelProto) else serde.serialize_model(model)
    session = ort.InferenceSession(proto.SerializeToString(), options)
    return list(session.run(None, dict(feeds)))


def same(text: str, feeds: Mapping[str, Any], left: Sequence[str], **limits: Any) -> ir.Model:
    """Fold, check the operators that are left, check that the outputs are those of the unfolded model."""
    before = outputs(parsed(text), feeds)
    model = parsed(text)
    run(model, **limits)
    assert operators(model) == list(left)
    for a, b in zip(before, outputs(model, feeds), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    onnx.checker.check_model(serde.serialize_model(model))
    return model


X = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_shape_of_a_static_tensor() -> None:
    same(
        """g (float[3,4] x) => (float[4,3] y) <int64 i = {1}, int64 j = {0}> {
            s = Shape(x)  a = Gather<axis=0>(s, i)  b = Gather<axis=0>(s, j)
            u = Unsqueeze(a, ax)  v = Unsqueeze(b, ax)  t = Concat<axis=0>(u, v)  y = Reshape(x, t)
        }""".replace("int64 j = {0}", "int64 j = {0}, int64[1] ax = {0}"),
        {"x": X},
        ["Reshape"],
    )


def test_symbolic_sizes_stay() -> None:
    model = parsed("g (float[n,4] x) => (int64[2] y) { y = Shape(x) }")
    run(model)
    assert operators(model) == ["Shape"]


def test_chain_of_constants_becomes_one_initializer() -> None:
    model = same(
        """g (float[3,4] x) => (float[3,4] y) <float[4] w = {1,2,3,4}, float c = {2}> {
            a = Mul(w, c)  b = Exp(a)  d = Sub(b, w)  y = Add(x, d)
        }""",
        {"x": X},
        ["Add"],
    )
    assert sorted(model.graph.initializers) == ["c", "d", "w"]


def test_a_graph_output_keeps_its_name() -> None:
    model = same(
        "g (float[3,4] x) => (float[4] y, float[3,4] z) <float[4] w = {1,2,3,4}> { y = Neg(w)  z = Add(x, y) }",
        {"x": X},
        ["Identity", "Add"],
    )
    assert [v.name for v in model.graph.outputs] == ["y", "z"]
    assert "y" not in model.graph.initializers
    assert run(model).events == []  # and is not folded again


def test_random_operators_and_dropout_never() -> None:
    text = """g (float[3] x) => (float[3] y, float[3] z, float[3] d)
        <float[3] w = {1,2,3}, float r = {0.5}, bool t = {1}> {
        a = RandomNormalLike(w)  y = Add(a, x)  b = Bernoulli(w)  z = Add(b, x)  c = Dropout(w, r, t)  d = Add(c, x)
    }"""
    model = parsed(text)
    run(model)
    assert operators(model) == ["RandomNormalLike", "Add", "Bernoulli", "Add", "Dropout", "Add"]


def test_overridable_initializer_is_no_constant() -> None:
    model = parsed("g (float[2] w) => (float[2] y) <float[2] v = {1,2}> { y = Neg(w) }")
    w = model.graph.inputs[0]
    w.const_value = ir.Tensor(np.ones(2, np.float32), name="w")
    model.graph.register_initializer(w)
    run(model)
    assert operators(model) == ["Neg"]


@pytest.mark.parametrize(
    "body",
    [
        "big = ConstantOfShape(n)",
        "big = Expand(one, n)",
        "big = Tile(one, n)",
        "r = Range(zero, m, one0)  big = Cast<to=1>(r)",
    ],
)
def test_large_results_are_not_made(body: str) -> None:
    text = f"""g (float x) => (float y) <int64[2] n = {{12000, 12000}}, float[1,1] one = {{1}}, int64 zero = {{0}},
        int64 m = {{144000000}}, int64 one0 = {{1}}> {{
        {body}  s = ReduceSum<keepdims=0>(big)  y = Add(s, x)
    }}"""
    model = parsed(text)
    run(model)
    assert operators(model)[-2:] == ["ReduceSum", "Add"]
    assert len(operators(model)) == body.count("=") - body.count("<") + 2


def test_budget_counts_all_results() -> None:
    makers = "  ".join(f"a{i} = ConstantOfShape(n)  y{i} = Add(a{i}, x)" for i in range(8))
    out = ", ".join(f"float[1000] y{i}" for i in range(8))
    model = parsed(f"g (float[1000] x) => ({out}) <int64[1] n = {{1000}}> {{ {makers} }}")
    run(model, fold_total=16_000)
    assert operators(model).count("ConstantOfShape") == 4


def test_large_weight_is_transposed_only_where_it_is_not_doubled() -> None:
    w = {"w": np.random.default_rng(0).standard_normal((700, 600)).astype(np.float32)}
    once = parsed("g (float[2,600] x) => (float[2,700] y) { t = Transpose(w)  y = MatMul(x, t) }", w)
    run(once)
    assert operators(once) == ["MatMul"]
    np.testing.assert_array_equal(ir.array(once.graph.node(0).inputs[1]), w["w"].T)
    twice = parsed(
        "g (float[2,600] x, int64[1] i) => (float[2,700] y, float[1,600] z) "
        "{ t = Transpose(w)  y = MatMul(x, t)  z = Gather(w, i) }",
        w,
    )
    run(twice)
    assert operators(twice) == ["Transpose", "MatMul", "Gather"]


def test_large_product_stays() -> None:
    rng = np.random.default_rng(0)
    w = {k: rng.standard_normal((600, 600)).astype(np.float32) for k in "ab"}
    model = parsed("g (float[2,600] x) => (float[2,600] y) { t = MatMul(a, b)  y = MatMul(x, t) }", w)
    run(model)
    assert operators(model) == ["MatMul", "MatMul"]


def test_quantized_weights_stay_quantized() -> None:
    w = {"q": np.ones((64, 64), np.int8)}
    text = """g (float[2,64] x) => (float[2,64] y, float[2,64] z) <float s = {0.5}, int8 p = {0}> {
        d = DequantizeLinear(q, s, p)  y = MatMul(x, d)  c = Cast<to=1>(q)  m = Mul(c, s)  z = MatMul(x, m)
    }"""
    model = parsed(text, w)
    run(model)
    assert operators(model) == ["DequantizeLinear", "MatMul", "Cast", "Mul", "MatMul"]


def test_quantize_linear_of_a_weight_folds() -> None:
    same(
        """g (float[3,4] x) => (float[3,4] y) <float[4] w = {-1.5, 0.5, 2.5, 300}, float s = {1}, int8 p = {0}> {
            q = QuantizeLinear(w, s, p)  d = DequantizeLinear(q, s, p)  y = Add(x, d)
        }""",
        {"x": X},
        ["DequantizeLinear", "Add"],
    )


def test_integer_division_by_zero_stays() -> None:
    text = """g (int64[2] x) => (int64[2] y, int64[2] z) <int64[2] a = {4, 5}, int64[2] b = {2, 0}> {
        c = Div(a, b)  y = Add(c, x)  e = Sub(b, b)  f = Mod(a, e)  z = Add(f, x)
    }"""
    model = parsed(text)
    run(model)
    assert operators(model) == ["Div", "Add", "Mod", "Add"]


def test_integer_division_rounds_towards_zero() -> None:
    same(
        """g (int64[4] x) => (int64[4] y) <int64[4] a = {7, -7, 7, -7}, int64[4] b = {2, 2, -2, -2}> {
            c = Div(a, b)  y = Add(c, x)
        }""",
        {"x": np.zeros(4, np.int64)},
        ["Add"],
    )


def test_identity_of_a_weight_makes_no_copy() -> None:
    model = same(
        """g (float[3,4] x) => (float[3,4] y) <float[4] w = {1,2,3,4}> {
            i = Identity(w)  j = Identity(w)  a = Add(x, i)  y = Mul(a, j)
        }""",
        {"x": X},
        ["Add", "Mul"],
    )
    assert list(model.graph.initializers) == ["w"]


def test_bodies_fold_into_their_own_graph() -> None:
    text = """g (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
        y = If (c) <then_branch = t () => (float[2] a) { n = Neg(w)  a = Add(x, n) },
                    else_branch = e () => (float[2] b) { m = Exp(w)  b = Mul(x, m) }>
    }"""
    model = same(text, {"c": np.array(True), "x": np.array([3, 4], np.float32)}, ["If", "Mul", "Add"])
    held = [sorted(g.initializers) for g in ir.all_graphs(model)]
    assert sorted(held) == [["m"], ["n"], ["w"]]


def test_functions_fold_into_constant_nodes() -> None:
    text = """g (float[2] x) => (float[2] y) { y = local.f(x) }
    <opset_import: ["" : 21], domain: "local"> f (x) => (y) {
        w = Constant<value = float[2] {1, 2}>()  n = Neg(w)  y = Add(x, n)
    }"""
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21, "local" : 1]>\n' + text)
    model = serde.deserialize_model(proto)
    run(model)
    assert operators(model) == ["f", "Constant", "Constant", "Add"]
    onnx.checker.check_model(serde.serialize_model(model))
    np.testing.assert_array_equal(outputs(model, {"x": np.zeros(2, np.float32)})[0], [-1, -2])


def test_skipped_nodes_stay() -> None:
    text = "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { n = Neg(w)  y = Add(x, n) }"
    model = parsed(text)
    run(model, skip=frozenset({"fold@n"}))
    assert operators(model) == ["Neg", "Add"]
    run(model, skip=frozenset({"fold"}))
    assert operators(model) == ["Neg", "Add"]
    run(model)
    assert operators(model) == ["Add"]


def test_a_node_that_cannot_run_stays_and_is_named() -> None:
    text = """g (float[1] x) => (float[1] y, float[2] z) <float[3] w = {1,2,3}, int64[1] i = {7}, float[2] v = {1,2}> {
        a = Gather(w, i)  b = Neg(a)  y = Add(x, b)  n = Neg(v)  z = Add(x, n)
    }"""
    model = parsed(text)
    ctx = run(model)
    assert operators(model) == ["Gather", "Neg", "Add", "Add"]
    assert any(e.detail.startswith("left:") for e in ctx.events)


def test_external_weight_stays_in_its_file(tmp_path: Path) -> None:
    w = np.random.default_rng(0).standard_normal((1024, 512)).astype(np.float32)
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> '
        "g (float[2,512] x, int64[2] i) => (float[2,1024] y, float16[2,512] z) "
        "{ t = Transpose(w)  y = MatMul(x, t)  h = Cast<to=10>(v)  z = Gather(h, i) }"
    )
    for name in "wv":
        proto.graph.initializer.append(onnx.numpy_helper.from_array(w, name))
    onnx.save_model(proto, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=1000)
    import onnx_ir

    model = onnx_ir.load(tmp_path / "m.onnx")
    run(model)
    assert operators(model) == ["MatMul", "Gather"]
    t, h = model.graph.initializers["t"], model.graph.initializers["h"]
    assert type(t.const_value).__name__ == type(h.const_value).__name__ == "LazyTensor"
    np.testing.assert_array_equal(t.const_value.numpy(), w.T)
    np.testing.assert_array_equal(h.const_value.numpy(), w.astype(np.float16))
    assert (t.const_value.nbytes, h.const_value.nbytes) == (w.nbytes, w.nbytes // 2)


def test_thousands_of_nodes_take_one_session() -> None:
    lines = ["v0 = Neg(w)"] + [f"v{i} = Add(v{i - 1}, w)" for i in range(1, 3000)]
    model = parsed(f"g (float[2] x) => (float[2] y) <float[2] w = {{1, 2}}> {{ {'  '.join(lines)}  y = Add(x, v2999) }}")
    made = Counter[str]()
    session = ort.InferenceSession

    class Counted(session):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            made["sessions"] += 1
            super().__init__(*args, **kwargs)

    ort.InferenceSession = Counted
    try:
        run(model)
    finally:
        ort.InferenceSession = session
    assert operators(model) == ["Add"]
    assert made["sessions"] <= 2


@cache
def _folded_cases() -> tuple[list[str], Counter[str], int]:
    """Fold every node test whose inputs became constants; (wrong results, operators left, cases folded whole)."""
    wrong: list[str] = []
    left: Counter[str] = Counter()
    whole = 0
    for case in cases():
        inputs, expected = ([plain(x) for x in side] for side in case.data_sets[0])
        feeds = {i.name: x for i, x in zip(case.model.graph.input, inputs, strict=False)}
        proto, feeds = variant(case.model, feeds, "constants")
        model = serde.deserialize_model(proto)
        run(model, fold_bytes=64 << 20)
        for n in model.graph:
            if n.op_type != "Identity":
                left[n.op_type] += 1
        done = 0
        for value, x in zip(model.graph.outputs, expected, strict=True):
            producer = value.producer()
            if producer is None or producer.op_type != "Identity" or not ir.is_constant(producer.inputs[0]):
                continue
            got = ir.array(producer.inputs[0])
            assert got is not None
            done += 1
            why = differs(got, np.asarray(x), case.rtol, case.atol)
            if why and not runtime_agrees(case, value.name, got):
                wrong.append(f"{case.name} {value.name}: {why}")
        whole += done == len(expected)
    return wrong, left, whole


def differs(got: np.ndarray, want: np.ndarray, rtol: float, atol: float) -> str | None:
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"{got.dtype}{got.shape}, expected {want.dtype}{want.shape}"
    if want.dtype.kind in "biu":
        return None if np.array_equal(got, want) else f"{got} expected {want}"
    a, b = (x.astype(np.complex128 if x.dtype.kind == "c" else np.float64) for x in (got, want))
    return None if np.allclose(a, b, rtol=rtol, atol=atol, equal_nan=True) else f"{got} expected {want}"


def runtime_agrees(case: Any, name: str, got: np.ndarray) -> bool:
    """Where onnx expects other numbers than ONNX Runtime gives, folding gives what the run would have given."""
    inputs, _ = ([plain(x) for x in side] for side in case.data_sets[0])
    feeds = {i.name: x for i, x in zip(case.model.graph.input, inputs, strict=False)}
    want = dict(zip([o.name for o in case.model.graph.output], outputs(case.model, feeds), strict=True))[name]
    return got.dtype == want.dtype and np.array_equal(got, want, equal_nan=got.dtype.kind == "f")


def test_node_cases_fold_to_their_results() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrong, left, whole = _folded_cases()
    print(f"{whole} of {len(cases())} cases folded whole; left: {dict(left.most_common(20))}")
    assert not wrong, "\n".join(w[:300] for w in wrong[:30])
    assert whole > 1400
