"""Fusions on graphs as exporters write them, on near misses of each, and on real models.

Every rule's own cases, refusals and soundness fuzz run with those of all other rules; here is what a case cannot say:
whole spellings, graphs that differ from the pattern in one number, unknown shapes, and what onnx's reference evaluator
gets wrong.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from olc import frontend, ir, storage, targets
from olc.analysis import shapes
from olc.passes import Context, dce
from olc.pipeline import Options, optimize
from olc.quantization import all_finite, quantize_linear_weight
from olc.rewriter import Rewriter
from olc.rules import registry
from olc.targets import weight_signs
from onnx import parser

import models

TARGET = targets.get("onnxruntime-cpu")
CLOSE_GROUPS = ("activations", "conv", "gelu", "linear", "norms", "silu")


def parsed(nodes: str, signature: str = "float[2,3,8] x => float y", constants: str = "", opset: int = 23) -> ir.Model:
    left, right = signature.split("=>")
    text = f"""<ir_version: 10, opset_import: ["" : {opset}]>
        case ({left}) => ({right}) <{constants}> {{ {nodes} }}"""
    model = ir.serde.deserialize_model(parser.parse_model(text))
    shapes.infer(model)
    return model


def fused(model: ir.Model, *groups: str) -> list[str]:
    """Operators that are left after the rules of the groups, in order."""
    opset = ir.opset_of(model)
    rules = [r for r in registry() if r.group in (groups or CLOSE_GROUPS) and r.applies(opset, TARGET.name)]
    Rewriter(model, rules, Context(target=TARGET), strict=True).run()
    return [n.op_type for n in model.graph if n.op_type != "Constant"]


def outputs(model: ir.Model, feed: dict[str, np.ndarray], optimized: bool = False) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    proto = model if isinstance(model, onnx.ModelProto) else ir.serde.serialize_model(model)
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feed)


def test_two_attentions_to_the_same_scaled_keys() -> None:
    """Layers that share keys and values, whose scaled keys are computed once."""
    nodes = """c = Constant<value_float = 0.5>() t = Transpose<perm = [0, 1, 3, 2]>(k) scaled = Mul(t, c)
        s1 = MatMul(q, scaled) p1 = Softmax(s1) a = MatMul(p1, v) s2 = MatMul(r, scaled) p2 = Softmax(s2) b = MatMul(p2, v)"""
    text = ", ".join(f"float[B,2,S,4] {n}" for n in "qr") + ", float[B,2,T,4] k, float[B,2,T,4] v"
    assert fused(parsed(nodes, f"{text} => float[B,2,S,4] a, float[B,2,S,4] b"), "attention") == ["Attention", "Attention"]


# --- attention with channels in front of positions ------------------------------------------------------------------

CHANNELS = "float[B, 2, 4, S] q, float[B, 2, 4, T] k, float[B, 2, 4, T] v => float y"
QUERIES = "qt = Transpose<perm = [0, 1, 3, 2]>(q) s = MatMul(qt, k) c = Mul(s, half) p = Softmax<axis = -1>(c) "
WEIGHED = {
    "weights first": "vt = Transpose<perm = [0, 1, 3, 2]>(v) a = MatMul(p, vt) y = Transpose<perm = [0, 1, 3, 2]>(a)",
    "weights last": "pt = Transpose<perm = [0, 1, 3, 2]>(p) y = MatMul(v, pt)",
}


@pytest.mark.parametrize("weighed", WEIGHED)
def test_attention_with_channels_in_front(weighed: str) -> None:
    signature = CHANNELS.replace("T]", "S]")
    body = QUERIES + WEIGHED[weighed]
    model = parsed(body, signature, "float half = {0.5}")
    before = ir.serde.serialize_model(model)
    left = fused(model, "attention", "linear", "chains")
    assert Counter(left) == {"Attention": 1, "Transpose": 4}
    rng = np.random.default_rng(0)
    feed = {n: rng.standard_normal((2, 2, 4, 5)).astype(np.float32) for n in "qkv"}
    np.testing.assert_allclose(outputs(model, feed)[0], outputs(before, feed)[0], rtol=1e-5, atol=1e-6)


def test_two_softmaxes_are_not_both_put_first() -> None:
    body = "p = Softmax<axis = -1>(a) r = Softmax<axis = -1>(b) t = Transpose<perm = [0, 1, 3, 2]>(r) y = MatMul(p, t)"
    left = fused(parsed(body, "float[B, 2, 4, 4] a, float[B, 2, 4, 4] b => float y"), "linear", "chains")
    assert Counter(left) == {"Softmax": 2, "Transpose": 1, "MatMul": 1}


def test_keys_in_columns_are_not_turned_for_few_queries() -> None:
    """A cache whose keys lie in columns: turning all of them takes longer than the products of one query."""
    assert "Attention" not in fused(parsed(QUERIES + WEIGHED["weights first"], CHANNELS, "float half = {0.5}"), "attention")
    more = CHANNELS.replace("S", "9").replace("T", "5")
    assert "Attention" in fused(parsed(QUERIES + WEIGHED["weights first"], more, "float half = {0.5}"), "attention")


# --- spellings -----------------------------------------------------------------------------------------------------

GELU = (
    "float r2 = {1.4142135}, float half = {0.5}, float one = {1}, float three = {3}, float c = {0.044715}, "
    "float k = {0.7978846}"
)

SPELLINGS = {
    "BERT, TorchScript": ("d = Div(x, r2) e = Erf(d) p = Add(e, one) m = Mul(x, p) y = Mul(m, half)", "none"),
    "BERT, dynamo": ("d = Div(x, r2) e = Erf(d) p = Add(e, one) h = Mul(half, p) y = Mul(x, h)", "none"),
    "halved first": ("h = Mul(x, half) d = Div(x, r2) e = Erf(d) p = Add(one, e) y = Mul(h, p)", "none"),
    "GPT-2": (
        "c3 = Pow(x, three) a = Mul(c3, c) s = Add(x, a) i = Mul(s, k) t = Tanh(i) p = Add(t, one) h = Mul(x, half) "
        "y = Mul(h, p)", "tanh",
    ),
    "Gemma, TorchScript": (
        "x2 = Mul(x, x) x3 = Mul(x, x2) a = Mul(x3, c) s = Add(x, a) i = Mul(k, s) t = Tanh(i) p = Add(t, one) "
        "m = Mul(x, p) y = Mul(m, half)", "tanh",
    ),
    "Gemma, dynamo": (
        "x2 = Mul(x, x) x3 = Mul(x2, x) a = Mul(c, x3) s = Add(x, a) i = Mul(s, k) t = Tanh(i) p = Add(t, one) "
        "h = Mul(half, p) y = Mul(x, h)", "tanh",
    ),
    "fast": (
        "x2 = Mul(x, x) a = Mul(c, x2) s = Add(one, a) b = Mul(x, k) i = Mul(b, s) t = Tanh(i) p = Add(one, t) "
        "h = Mul(half, x) y = Mul(h, p)", "tanh",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_gelu_spellings(name):
    nodes, approximate = SPELLINGS[name]
    model = parsed(nodes, constants=GELU)
    feed = {"x": np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32) * 3}
    before = outputs(model, feed)
    assert fused(model) == ["Gelu"]
    assert ir.attr(next(iter(model.graph)), "approximate", "none") == approximate
    np.testing.assert_allclose(outputs(model, feed)[0], before[0], rtol=1e-5, atol=1e-6)


BERT = SPELLINGS["BERT, TorchScript"][0]
NEWGELU = SPELLINGS["GPT-2"][0]


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        (BERT, GELU.replace("1.4142135", "1.5")),
        (BERT, GELU.replace("half = {0.5}", "half = {0.51}")),
        (BERT, GELU.replace("one = {1}", "one = {1.01}")),
        (BERT.replace("Mul(x, p)", "Mul(z, p)"), GELU),
        (BERT.replace("Erf", "Tanh"), GELU),
        (NEWGELU, GELU.replace("0.044715", "0.05")),
        (NEWGELU, GELU.replace("0.7978846", "0.8")),
        (NEWGELU, GELU.replace("three = {3}", "three = {2}")),
        (NEWGELU.replace("s = Add(x, a)", "s = Add(z, a)"), GELU),
        (NEWGELU.replace("s = Add(x, a)", "s = Sub(x, a)"), GELU),
    ],
)
def test_near_misses_of_gelu_stay(nodes, constants):
    model = parsed(nodes, "float[2,3,8] x, float[2,3,8] z => float y", constants)
    assert "Gelu" not in fused(model)


def test_gelu_inside_a_gate_and_twice():
    """The factor after the Gelu is not one of its own."""
    model = parsed(BERT.replace("y =", "g =") + " y = Mul(g, z)", "float[2,3,8] x, float[2,3,8] z => float y", GELU)
    assert fused(model) == ["Gelu", "Mul"]


def test_gelu_whose_inner_value_is_used_stays():
    model = parsed(BERT, "float[2,3,8] x => float y, float e", GELU)
    assert "Gelu" not in fused(model)


def test_double_precision_stays():
    """The numbers in the pattern are only as good as float32."""
    model = parsed(BERT, "double[4] x => double y", GELU.replace("float", "double"))
    assert "Gelu" not in fused(model)


def test_gelu_waits_for_its_opset():
    assert "Gelu" not in fused(parsed(BERT, constants=GELU, opset=19))


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("s = Sigmoid(x) y = Mul(x, s)", "QuickGelu"),
        ("s = Sigmoid(x) y = Mul(s, x)", "QuickGelu"),
        ("a = Mul(x, q) s = Sigmoid(a) y = Mul(x, s)", "QuickGelu"),
        ("a = Add(x, three) b = Clip(a, zero, six) m = Mul(x, b) y = Div(m, six)", "HardSwish"),
        ("a = Add(x, three) b = Clip(a, zero, six) d = Div(b, six) y = Mul(d, x)", "HardSwish"),
        ("s = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) y = Mul(s, x)", "HardSwish"),
        ("a = Add(x, three) b = Clip(a, zero, six) y = Div(b, six)", "HardSigmoid"),
        ("n = Neg(x) e = Exp(n) d = Add(one, e) y = Div(one, d)", "Sigmoid"),
        ("a = Mul(x, q2) y = Max(a, x)", "LeakyRelu"),
    ],
)
def test_activations(nodes, expected):
    numbers = {"q": 1.702, "q2": 0.2, "zero": 0, "one": 1, "three": 3, "six": 6}
    model = parsed(nodes, constants=", ".join(f"float {k} = {{{v}}}" for k, v in numbers.items()))
    feed = {"x": np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32) * 3}
    before = outputs(model, feed)
    assert fused(model) == [expected]
    np.testing.assert_allclose(outputs(model, feed)[0], before[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("nodes", "absent"),
    [
        ("s = Sigmoid(x) y = Mul(z, s)", "QuickGelu"),
        ("a = Add(x, three) b = Clip(a, zero, six) m = Mul(x, b) y = Div(m, three)", "HardSwish"),
        ("a = Add(x, three) b = Clip(a, zero, three) m = Mul(x, b) y = Div(m, six)", "HardSwish"),
        ("a = Add(x, one) b = Clip(a, zero, six) m = Mul(x, b) y = Div(m, six)", "HardSwish"),
        ("s = HardSigmoid<alpha = 0.2, beta = 0.5>(x) y = Mul(s, x)", "HardSwish"),
        ("s = HardSigmoid<alpha = 0.16666667, beta = 0.4>(x) y = Mul(s, x)", "HardSwish"),
        ("a = Add(x, three) b = Clip(a, zero, six) y = Div(b, three)", "HardSigmoid"),
        ("e = Exp(x) d = Add(one, e) y = Div(one, d)", "Sigmoid"),
        ("n = Neg(x) e = Exp(n) d = Add(three, e) y = Div(one, d)", "Sigmoid"),
        ("a = Mul(x, three) y = Max(a, x)", "LeakyRelu"),
    ],
)
def test_near_misses_of_activations_stay(nodes, absent):
    constants = "float zero = {0}, float one = {1}, float three = {3}, float six = {6}"
    assert absent not in fused(parsed(nodes, "float[2,3,8] x, float[2,3,8] z => float y", constants))


def test_silu_in_double_stays():
    assert fused(parsed("s = Sigmoid(x) y = Mul(x, s)", "double[4] x => double y")) == ["Sigmoid", "Mul"]


# --- norms ---------------------------------------------------------------------------------------------------------

EPS = (
    "float eps = {0.00001}, float two = {2}, float one = {1}, int64[1] last = {-1}, int64[1] mid = {1}, "
    "float[8] w = {1,2,3,4,5,6,7,8}, float[8] b = {8,7,6,5,4,3,2,1}"
)
LAYER_NORM = (
    "m = ReduceMean(x, last) d = Sub(x, m) p = Pow(d, two) v = ReduceMean(p, last) e = Add(v, eps) s = Sqrt(e) "
    "n = Div(d, s) nw = Mul(n, w) y = Add(nw, b)"
)
RMS_NORM = (
    "p = Pow(x, two) v = ReduceMean(p, last) e = Add(v, eps) s = Sqrt(e) r = Reciprocal(s) n = Mul(x, r) y = Mul(w, n)"
)


@pytest.mark.parametrize("shape", ["[2,3,8]", "[B,S,8]", "[2,3,4,8]"])
@pytest.mark.parametrize(("nodes", "expected"), [(LAYER_NORM, "LayerNormalization"), (RMS_NORM, "RMSNormalization")])
def test_norms_with_scale_and_bias_become_one_operator(nodes, expected, shape):
    model = parsed(nodes, f"float{shape} x => float y", EPS)
    feed = {"x": np.random.default_rng(0).normal(size=(2, 3, 4, 8) if "4" in shape else (2, 3, 8)).astype(np.float32)}
    before = outputs(model, feed)
    assert fused(model) == [expected]
    node = next(iter(model.graph))
    assert ir.attr(node, "axis") == -1
    assert ir.attr(node, "epsilon") == pytest.approx(1e-5, rel=1e-6)
    np.testing.assert_array_equal(ir.array(node.inputs[1]), np.arange(1, 9, dtype=np.float32))
    np.testing.assert_allclose(outputs(model, feed)[0], before[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "signature"),
    [
        (LAYER_NORM, "float[2,8,D] x => float y"),
        (LAYER_NORM, "float[] x => float y"),
        (LAYER_NORM.replace("v = ReduceMean(p, last)", "v = ReduceMean(p, mid)"), "float[2,8,8] x => float y"),
        (LAYER_NORM.replace("last", "mid"), "float[2,8,8] x => float y"),
        (LAYER_NORM.replace("two", "one"), "float[2,3,8] x => float y"),
        (LAYER_NORM.replace("ReduceMean(p, last)", "ReduceSum(p, last)"), "float[2,3,8] x => float y"),
        (LAYER_NORM.replace("Div(d, s)", "Div(x, s)"), "float[2,3,8] x => float y"),
        (LAYER_NORM.replace("Div(d, s)", "Div(d, e)"), "float[2,3,8] x => float y"),
        (RMS_NORM, "float[2,8,D] x => float y"),
        (RMS_NORM, "float[] x => float y"),
        (RMS_NORM.replace("last", "mid"), "float[2,8,8] x => float y"),
        (RMS_NORM.replace("two", "one"), "float[2,3,8] x => float y"),
        (RMS_NORM.replace("ReduceMean", "ReduceSum"), "float[2,3,8] x => float y"),
        (RMS_NORM.replace("ReduceMean(p, last)", "ReduceMean<keepdims = 0>(p, last)"), "float[8,8,8] x => float y"),
        (RMS_NORM.replace("Mul(x, r)", "Mul(p, r)"), "float[2,3,8] x => float y"),
    ],
)
def test_near_misses_of_norms_stay(nodes, signature):
    found = fused(parsed(nodes, signature, EPS))
    assert not {"LayerNormalization", "RMSNormalization"} & set(found)


def test_half_precision_norm_keeps_its_scale_after_the_cast():
    """Llama in half precision: computed in float32, scaled in half."""
    nodes = RMS_NORM.replace("x,", "c,").replace("y = Mul(w, n)", "h = Cast<to = 10>(n) y = Mul(w, h)")
    nodes = f"c = Cast<to = 1>(x) {nodes}"
    model = parsed(nodes, "float16[2,3,8] x => float16 y", EPS.replace("float[8] w", "float16[8] w"))
    assert fused(model) == ["RMSNormalization"]


# --- convolutions --------------------------------------------------------------------------------------------------


def convolution(op: str, group: int, bias: bool, rest: list[onnx.NodeProto], **attributes) -> onnx.ModelProto:
    """x[1,4,6,6] into a convolution to 4 channels, then ``rest``, which reads t and the constants c and bn0 to bn3."""
    random = np.random.default_rng(1)
    arrays = {"w": random.normal(size=(4, 4 // group, 3, 3)), "c": random.normal(size=(1, 4, 1, 1))}
    arrays |= {f"bn{i}": random.uniform(0.5, 2, 4) for i in range(4)} | ({"b": random.normal(size=4)} if bias else {})
    conv = onnx.helper.make_node(op, ["x", "w", *(["b"] if bias else [])], ["t"], group=group, **attributes)
    graph = onnx.helper.make_graph(
        [conv, *rest], "case",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4, 6, 6])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(a.astype(np.float32), k) for k, a in arrays.items()],
    )  # fmt: skip
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize(
    "rest",
    [
        [onnx.helper.make_node("BatchNormalization", ["t", "bn0", "bn1", "bn2", "bn3"], ["y"], epsilon=1e-3)],
        [onnx.helper.make_node("Mul", ["c", "t"], ["m"]), onnx.helper.make_node("Add", ["m", "c"], ["y"])],
        [onnx.helper.make_node("Div", ["t", "c"], ["m"]), onnx.helper.make_node("Sub", ["m", "c"], ["y"])],
    ],
    ids=["batch norm", "affine", "division and difference"],
)
def test_constants_go_into_convolutions_of_any_grouping(op, group, bias, rest):
    """On ONNX Runtime: onnx's reference evaluator gives every group of ConvTranspose the first group's bias."""
    proto = convolution(op, group, bias, rest, strides=[2, 2], pads=[1, 1, 1, 1])
    model = ir.serde.deserialize_model(proto)
    shapes.infer(model)
    feed = {"x": np.random.default_rng(2).normal(size=(1, 4, 6, 6)).astype(np.float32)}
    assert fused(model, "conv") == [op]
    np.testing.assert_allclose(outputs(model, feed)[0], outputs(proto, feed)[0], rtol=1e-4, atol=1e-4)


def test_batch_norm_in_training_stays():
    inputs = ["t", "bn0", "bn1", "bn2", "bn3"]
    node = onnx.helper.make_node("BatchNormalization", inputs, ["y", "mean", "var"], training_mode=1)
    model = ir.serde.deserialize_model(convolution("Conv", 1, False, [node]))
    shapes.infer(model)
    assert fused(model, "conv") == ["Conv", "BatchNormalization"]


def test_large_shared_weight_is_not_copied():
    w, c = np.ones((256, 256, 3, 3), np.float32), np.full((1, 256, 1, 1), 2, np.float32)
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["t"]), onnx.helper.make_node("Mul", ["t", "c"], ["y"]),
        onnx.helper.make_node("Conv", ["x", "w"], ["z"]),
    ]  # fmt: skip
    graph = onnx.helper.make_graph(
        nodes, "case", [onnx.helper.make_tensor_value_info("x", 1, [1, 256, 4, 4])],
        [onnx.helper.make_tensor_value_info(n, 1, None) for n in "yz"],
        [onnx.numpy_helper.from_array(w, "w"), onnx.numpy_helper.from_array(c, "c")],
    )  # fmt: skip
    model = ir.serde.deserialize_model(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)]))
    shapes.infer(model)
    assert fused(model, "conv") == ["Conv", "Mul", "Conv"]


def test_padding_does_not_go_into_pooling():
    constants = "int64[8] p = {0,0,1,1,0,0,1,1}, float zero = {0}"
    for pool in ("MaxPool", "AveragePool"):
        nodes = f"q = Pad(x, p, zero) y = {pool}<kernel_shape = [2,2]>(q)"
        model = parsed(nodes, "float[1,2,5,5] x => float y", constants)
        assert fused(model, "conv") == ["Pad", pool]


def test_mean_without_a_convolution_stays():
    model = parsed("y = ReduceMean(x, a)", "float[1,2,5,5] x => float y", "int64[2] a = {2,3}")
    assert fused(model, "conv") == ["ReduceMean"]


# --- linear --------------------------------------------------------------------------------------------------------


def test_scales_around_linear_layers_end_in_the_weight():
    constants = "float[2,2] w = {1,2,3,4}, float[2] b = {5,6}, float c = {0.5}, float[2] d = {2,4}"
    model = parsed("a = Mul(x, c) m = MatMul(a, w) n = Add(b, m) y = Mul(n, d)", "float[3,4,2] x => float y", constants)
    feed = {"x": np.random.default_rng(0).normal(size=(3, 4, 2)).astype(np.float32)}
    before = outputs(model, feed)
    assert fused(model, "linear") == ["MatMul", "Add"]
    np.testing.assert_allclose(outputs(model, feed)[0], before[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "signature"),
    [
        ("m = MatMul(x, w) y = Add(m, b)", "float[3,2] x => float y, float m"),
        ("m = MatMul(x, w) y = Add(m, b)", "float[4,3,2] x => float y"),
        ("m = MatMul(x, w) y = Add(m, b)", "float[] x => float y"),
        ("m = MatMul(x, w) y = Add(m, z)", "float[3,2] x, float[3,2] z => float y"),
    ],
)
def test_products_that_are_not_plain_matrices_stay(nodes, signature):
    model = parsed(nodes, signature, "float[2,2] w = {1,2,3,4}, float[2] b = {5,6}")
    assert fused(model, "linear") == ["MatMul", "Add"]


# --- int8 ----------------------------------------------------------------------------------------------------------


def test_quantized_weight_is_close_and_symmetric():
    w = np.random.default_rng(0).normal(size=(300, 70)).astype(np.float32) * np.linspace(1e-3, 10, 70, dtype=np.float32)
    q, scale = quantize_linear_weight(w)
    assert q.dtype == np.int8
    assert q.shape == w.shape
    assert scale.dtype == np.float32
    assert np.abs(q.astype(int)).max() == 127
    assert (np.abs(q * scale - w) <= scale * 0.5001).all()
    seven, _ = quantize_linear_weight(w, limit=64)
    assert np.abs(seven.astype(int)).max() == 64


def test_quantized_weight_in_pieces_is_the_same(monkeypatch):
    w = np.random.default_rng(0).normal(size=(17, 23)).astype(np.float32)
    whole = quantize_linear_weight(w)
    monkeypatch.setattr("olc.quantization.weights._CHUNK", 40)
    for a, b in zip(whole, quantize_linear_weight(w), strict=True):
        np.testing.assert_array_equal(a, b)


def test_quantizing_odd_weights():
    zero = np.zeros((4, 3), np.float32)
    q, scale = quantize_linear_weight(zero)
    assert not q.any()
    assert (scale == 1).all()
    tiny = np.full((4, 3), 1e-45, np.float32)
    q, scale = quantize_linear_weight(tiny)
    assert np.isfinite(scale).all()
    empty, scale = quantize_linear_weight(np.zeros((0, 3), np.float32))
    assert empty.shape == (0, 3)
    assert scale.shape == (3,)
    with pytest.raises(ValueError, match="rank 3"):
        quantize_linear_weight(np.zeros((1, 2, 3), np.float32))
    for bad in (np.inf, -np.inf, np.nan):
        w = np.ones((4, 3), np.float32)
        w[2, 1] = bad
        assert not all_finite(w)
        with pytest.raises(ValueError, match="not finite"):
            quantize_linear_weight(w)
    assert all_finite(zero)
    assert all_finite(np.float32(1.0))


def linear(rank: int, form: str) -> onnx.ModelProto:
    random = np.random.default_rng(3)
    w = random.normal(size=(64, 48)).astype(np.float32)
    b = random.normal(size=48).astype(np.float32)
    nodes = {
        "MatMul": [onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="root")],
        "MatMul, Add": [
            onnx.helper.make_node("MatMul", ["x", "w"], ["m"], name="product"),
            onnx.helper.make_node("Add", ["b", "m"], ["y"], name="root"),
        ],
        "Gemm": [onnx.helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="root", transB=1)],
    }[form]
    graph = onnx.helper.make_graph(
        nodes, "case",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["B", "S", 64][3 - rank :])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(w.T) if form == "Gemm" else w, "w"),
         onnx.numpy_helper.from_array(b, "b")],
    )  # fmt: skip
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)


@pytest.mark.parametrize("rows", [1, 7, 128])
@pytest.mark.parametrize(("rank", "form"), [(3, "MatMul"), (3, "MatMul, Add"), (2, "MatMul, Add"), (2, "Gemm")])
def test_int8_linear_is_one_operator_and_close(rank, form, rows):
    proto = linear(rank, form)
    model = ir.serde.deserialize_model(proto)
    shapes.infer(model)
    rule = registry()["int8-linear"]
    site = "product" if form == "MatMul, Add" else "root"
    outcome = Rewriter(model, [rule], Context(target=TARGET), strict=True, sites={rule.name: frozenset({site})}).run()
    assert outcome.changes == 1
    lower = [r for r in registry() if r.group == "quantize-lower"]
    Rewriter(model, lower, Context(target=TARGET), strict=True).run()
    dce.run(model, Context())
    (node,) = model.graph
    assert (node.op_type, len(node.inputs)) == ("DynamicQuantizeMatMul", 3 if form == "MatMul" else 5)
    # The same on every CPU: with int8 weights some saturate.
    weight_signs.run(model, Context(), "test", {"int8_dot": False, "int8_saturates": True}, frozenset())
    x = np.random.default_rng(4).normal(size=(2, rows, 64)[3 - rank :]).astype(np.float32)
    before, after = outputs(proto, {"x": x})[0], outputs(model, {"x": x})[0]
    assert before.shape == after.shape
    assert np.linalg.norm(after - before) < 0.02 * np.linalg.norm(before)


def test_int8_needs_a_site():
    model = ir.serde.deserialize_model(linear(3, "MatMul"))
    shapes.infer(model)
    rule = registry()["int8-linear"]
    outcome = Rewriter(model, [rule], Context(target=TARGET), strict=True, sites={rule.name: frozenset()}).run()
    assert outcome.changes == 0


def test_a_flattened_product_with_a_vector_is_left_alone():
    proto = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[B, 5, 8] x) => (float[B, 5, 1] y) '
        "<int64[2] flat = {-1, 8}, int64[3] back = {-1, 5, 1}> { f = Reshape(x, flat) p = MatMul(f, w) y = Reshape(p, back) }"
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(8, np.float32), "w"))
    model = ir.serde.deserialize_model(proto)
    result = optimize(model, Options(level=2, strict=True), Context(target=TARGET))
    assert sum(n.op_type == "MatMul" for n in result.model.graph) == 1


# --- real models ---------------------------------------------------------------------------------------------------

REAL = [
    ("minilm-l6", "dynamo_op18", "encoder", {"Gelu": 6, "LayerNormalization": 13, "Erf": 0}),
    ("minilm-l6", "ts_op17", "encoder", {"Gelu": 6, "LayerNormalization": 13, "Erf": 0}),
    ("whisper-tiny-en", "dynamo_op18", "encoder", {"Gelu": 6, "Erf": 0, "Mul": 0}),
    ("whisper-tiny-en", "ts_op17", "encoder", {"Gelu": 6, "Erf": 0, "Mul": 0}),
    ("smollm2-135m", "dynamo_op18", "decoder", {"RMSNormalization": 61, "QuickGelu": 30, "Pow": 0, "Sigmoid": 0}),
    ("ppocrv4", "mobile", "det", {"BatchNormalization": 0, "Conv": 62, "HardSigmoid": 34, "Clip": 0}),
    ("ppocrv4", "mobile", "rec", {"BatchNormalization": 0, "LayerNormalization": 5, "QuickGelu": 7, "Clip": 0}),
    ("efficientnet-lite0", "ts_op13", "classifier", {"Pad": 0, "Conv": 49, "GlobalAveragePool": 1}),
    ("efficientnet-lite0", "dynamo_op18", "classifier", {"Conv": 49, "GlobalAveragePool": 1, "ReduceMean": 0}),
    ("keras-mlp", "keras_op18", "classifier", {"Gemm": 3, "MatMul": 0}),
]
LONG = {("smollm2-135m", "dynamo_op18"), ("whisper-tiny-en", "ts_op17")}


@pytest.mark.parametrize(("name", "variant", "role", "expected"), [
    pytest.param(*case, id="-".join(case[:3]), marks=pytest.mark.long if case[:2] in LONG else []) for case in REAL
])  # fmt: skip
def test_real_models(name, variant, role, expected, tmp_path: Path):
    recipe = models.find(name)
    source = recipe.build(variant)[role]
    model = frontend.load(source)
    optimize(model, Options(level=2, strict=True), Context(target=TARGET))
    found = Counter(n.op_type for g in ir.all_graphs(model) for n in g)
    assert {k: found[k] for k in expected} == expected
    storage.save(model, tmp_path / "model.onnx")
    feed = recipe.feeds(recipe.build(variant))[role][0]
    before, after = (models.cpu_session(p).run(None, feed) for p in (source, tmp_path / "model.onnx"))
    for a, b in zip(before, after, strict=True):
        # Relative to the largest number of the output; to 1 where all are tiny (a page without text).
        room = 1e-4 * max(1.0, float(np.abs(a).max(initial=0.0)))
        np.testing.assert_allclose(b, a, rtol=0, atol=room)
