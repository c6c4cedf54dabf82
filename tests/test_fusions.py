"""Expected and missed fusions: blocks are counted from structure, and what did not fuse comes with a reason."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir
import pytest
from olc import targets
from olc.assumptions import KEEPS_A_KEY
from olc.fusions import survey
from olc.passes import Context
from olc.pipeline import Options, optimize
from olc.rules import registry

HEADS = "float[B, 2, S, 4] q, float[B, 2, S, 4] k, float[B, 2, S, 4] v, bool[B, 1, 1, S] mask"
SCORES = (
    "kt = Transpose<perm = [0, 1, 3, 2]>(k) s = MatMul(q, kt) c = Constant<value = float {0.5}>() s1 = Mul(s, c) "
    "zero = Constant<value = float {0.0}>() low = Constant<value = float {-3.4e38}>() w = Where(mask, zero, low) s2 = Add(s1, w) "
)
NORM = (
    "axes = Constant<value_ints = [AXIS]>() e = Constant<value = float {1e-5}>() m = ReduceMean(x, axes) d = Sub(x, m) "
    "two = Constant<value = float {2.0}>() p = Pow(d, two) a = ReduceMean(p, axes) b = Add(a, e) r = Sqrt(b) y = Div(d, r)"
)
GELU = (
    "r = Constant<value = float {ROOT}>() one = Constant<value = float {1.0}>() h = Constant<value = float {0.5}>() "
    "d = Div(x, r) e = Erf(d) o = Add(e, one) t = Mul(x, o) y = Mul(t, h)"
)


def surveyed(inputs: str, body: str, level: int = 2, opset: int = 20, strict: frozenset[str] = frozenset()) -> dict[str, tuple]:
    """Kind -> (fused, expected, reasons of those that were missed)."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}]> g ({inputs}) => (float[?] y) {{ {body} }}')
    source = onnx_ir.from_proto(proto)
    ctx = Context(target=targets.get("onnxruntime-cpu"), unassumed=strict)
    result = optimize(source.clone(), Options(level=level), ctx)
    found = survey(source, result.model, registry(), ctx, result.outcome.refused)
    return {f.kind: (f.fused, f.expected, [m.reason for m in f.missed]) for f in found}


def test_an_attention_in_parts_is_one() -> None:
    heads = "float[B, 256, 16] q, float[B, 256, 16] k, float[B, 256, 16] v"
    body = "[attention] y = Attention<q_num_heads = 2, kv_num_heads = 2, is_causal = 1>(q, k, v)"
    assert surveyed(heads, body, opset=23) == {"attention": (1, 1, [])}


def test_what_jax_writes_is_expected() -> None:
    body = (
        "s = Einsum<equation = \"...qhd,...khd->...hqk\">(q, k) a = Softmax<axis = -1>(s) "
        "y = Einsum<equation = \"...hqk,...khd->...qhd\">(a, v)"
    )
    heads = "float[B, S, 2, 4] q, float[B, S, 2, 4] k, float[B, S, 2, 4] v"
    assert surveyed(heads, body) == {"attention": (1, 1, [])}
    norm = (
        "axes = Constant<value_ints = [-1]>() e = Constant<value = float {1e-5}>() z = Constant<value = float {0.0}>() "
        "m = ReduceMean(x, axes) d = Sub(x, m) q = Mul(x, x) a = ReduceMean(q, axes) mm = Mul(m, m) v = Sub(a, mm) c = Max(v, z) "
        "b = Add(c, e) r = Sqrt(b) y = Div(d, r)"
    )
    assert surveyed("float[B, S, 8] x", norm) == {"layer norm": (1, 1, [])}


def test_an_attention_that_fuses() -> None:
    body = f"{SCORES} a = Softmax<axis = -1>(s2) y = MatMul(a, v)"
    assert surveyed(HEADS, body) == {"attention": (1, 1, [])}


@pytest.mark.parametrize(("body", "reason"), [
    (f"{SCORES} a = Softmax<axis = 2>(s2) y = MatMul(a, v)", "axis"),
    (f"{SCORES.replace('{0.5}', '{-0.5}')} a = Softmax<axis = -1>(s2) sum = Add(a, a) y = MatMul(a, sum)", "also used by"),
    (f"{SCORES} t = Tanh(s2) a = Softmax<axis = -1>(t) y = MatMul(a, v)", "Tanh"),
])  # fmt: skip
def test_an_attention_that_does_not(body: str, reason: str) -> None:
    fused, expected, reasons = surveyed(HEADS, body)["attention"]
    assert (fused, expected, len(reasons)) == (0, 1, 1)
    assert reason in reasons[0]
    assert reasons[0]


def test_strict_is_a_reason() -> None:
    body = f"{SCORES} a = Softmax<axis = -1>(s2) y = MatMul(a, v)"
    found = surveyed(HEADS, body, strict=frozenset({KEEPS_A_KEY}))
    assert found["attention"][:2] == (0, 1)
    assert "--strict forbids" in found["attention"][2][0]


def test_a_level_is_a_reason() -> None:
    found = surveyed("float[B, 8] x", GELU.replace("ROOT", "1.4142135"), level=1)
    assert found == {"gelu": (0, 1, ["it fits, but was not applied at this level"])}


@pytest.mark.parametrize(("axis", "expected"), [("-1", (1, 1, [])), ("1", (0, 1, ["the means are not over the last axes"]))])
def test_norms(axis: str, expected: tuple) -> None:
    assert surveyed("float[B, 4, S, 8] x", NORM.replace("AXIS", axis))["layer norm"] == expected


def test_a_gelu_with_another_root_says_what_was_wanted() -> None:
    assert surveyed("float[B, 8] x", GELU.replace("ROOT", "1.4142135")) == {"gelu": (1, 1, [])}
    fused, expected, reasons = surveyed("float[B, 8] x", GELU.replace("ROOT", "1.5"))["gelu"]
    assert (fused, expected, len(reasons)) == (0, 1, 1)


@pytest.mark.parametrize("end", ["y = Softmax<axis = -1>(s)", "p = Softmax<axis = -1>(s) y = Relu(p)"])
def test_a_classifier_is_no_attention(end: str) -> None:
    assert "attention" not in surveyed("float[B, 8] x, float[8, 3] w", f"s = MatMul(x, w) {end}")


@pytest.mark.parametrize("body", [
    "a = Softmax<axis = -1>(x) y = Neg(a)",
    "s = Sigmoid(x) t = Neg(x) y = Mul(s, t)",
    "y = Erf(x)",
    "r = Sqrt(x) y = Div(x, r)",
    "t = Tanh(x) y = Mul(t, t)",
    "n = Neg(x) c = Concat<axis = 0>(n, x) y = Neg(c)",
])  # fmt: skip
def test_what_is_no_block_is_not_expected(body: str) -> None:
    assert surveyed("float[B, 8] x", body) == {}


def test_a_batch_norm_behind_a_convolution() -> None:
    inputs = "float[1, 2, 6, 6] x, float[3] live"
    init = "".join(f"{n} = Constant<value = float[3] {{1.0, 2.0, 0.5}}>() " for n in ("s", "b", "m", "va"))
    weights = ", ".join(str(round(float(w), 3)) for w in np.random.default_rng(0).normal(size=54))
    conv = f"w = Constant<value = float[3, 2, 3, 3] {{{weights}}}>() c = Conv(x, w) "
    fused = surveyed(inputs, f"{init}{conv} y = BatchNormalization(c, s, b, m, va)")
    assert fused == {"batch norm in convolution": (1, 1, [])}
    kept = surveyed(inputs, f"{init}{conv} y = BatchNormalization(c, live, b, m, va)")
    assert kept["batch norm in convolution"][:2] == (0, 1)
    assert kept["batch norm in convolution"][2][0]


@pytest.mark.parametrize(("largest", "width", "expected"), [
    ("", 8, (1, 1, [])), ("<largest = 0>", 8, (1, 1, [])), ("", 5, (0, 1, ["experts give 5 channels and read 8"])),
])  # fmt: skip
def test_experts_are_counted(largest: str, width: int, expected: tuple) -> None:
    body = f"""
    two = Constant<value_ints = [2]>() last = Constant<value_ints = [-1]>() a1 = Constant<value_ints = [1]>()
    s1 = Constant<value_ints = [-1, 1, 8]>() s2 = Constant<value_ints = [1, 2, 1]>() s3 = Constant<value_ints = [-1, 8, 1]>()
    s4 = Constant<value_ints = [-1, 1]>() s5 = Constant<value_ints = [-1, 2, {width}]>() halves = Constant<value_ints = [6, 6]>()
    w1 = Constant<value_ints = [4, 12, 8]>() w2 = Constant<value_ints = [4, {width}, 6]>()
    up = ConstantOfShape<value = float[1] {{0.1}}>(w1) down = ConstantOfShape<value = float[1] {{0.1}}>(w2)
    p = Softmax<axis = -1>(l) best, at = TopK{largest}(p, two) i = Reshape(at, last)
    x1 = Reshape(x, s1) x2 = Expand(x1, s2) x3 = Reshape(x2, s3) u = Gather<axis = 0>(up, i) m = MatMul(u, x3)
    h = Squeeze(m, two) g, v = Split<axis = 1>(h, halves) e = Sigmoid(g) f = Mul(g, e) n = Mul(f, v) n1 = Unsqueeze(n, two)
    d = Gather<axis = 0>(down, i) o = MatMul(d, n1) o1 = Squeeze(o, two) w = Reshape(best, s4) o2 = Mul(o1, w)
    o3 = Reshape(o2, s5) y = ReduceSum<keepdims = 0>(o3, a1)
    """
    found = surveyed("float[N, 8] x, float[N, 4] l", body)["mixture of experts"]
    assert found == expected
