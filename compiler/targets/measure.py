"""Fused operators against their parts, timed on this machine: what pays is found out, not believed.

Each comparison is a function in two spellings, at several sizes. Both run as they are written (the runtime's own graph
optimizations are off), in pairs, with one thread. The result is the table that ``kernels.py`` reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import OlcError
from ..evaluation.latency import Paired, paired
from ..quantization import BLOCK, INT7_LIMIT, flipped, nearest_blocks, pack, quantize_linear_weight
from ..session import SessionOptions, run, session
from . import causal_parts, features, flash, one_product, one_rounding, rows
from .kernels import Kernels, Row, where

_HEADER = '<ir_version: 10, opset_import: ["": 23, "com.microsoft": 1]>'
ROWS = ((1, 384), (16, 384), (128, 384), (512, 768))


@dataclass(frozen=True)
class Comparison:
    """A fused operator and its parts.

    Attributes:
        operator: ``domain::Name`` or ``Name``.
        parameters: the graph's inputs as ONNX text, sizes in braces.
        result: type of the output.
        parts, fused: bodies that compute ``y``.
        names, sizes: the names in braces, and the values to measure at.
        constants: further names in braces, whose values follow from a size.
        weights: initializers of both models, by name, for a size.
    """

    operator: str
    parameters: str
    result: str
    parts: str
    fused: str
    names: tuple[str, ...]
    sizes: tuple[tuple[int, ...], ...]
    constants: Mapping[str, Callable[[dict[str, int]], int | str]] = field(default_factory=dict)
    weights: Callable[[dict[str, int]], dict[str, np.ndarray]] | None = None

    def model(self, body: str, size: dict[str, int]) -> bytes:
        import onnx.numpy_helper
        import onnx.parser

        values = {**size, **{name: value(size) for name, value in self.constants.items()}}
        text = f"{_HEADER} g ({self.parameters}) => ({self.result} y) {{ {body} }}"
        for name, value in values.items():
            text = text.replace("{" + name + "}", str(value))
        proto = onnx.parser.parse_model(text)
        held = {i for n in proto.graph.node for i in n.input}
        for name, a in (self.weights(size) if self.weights is not None else {}).items():
            if name in held:
                proto.graph.initializer.append(onnx.numpy_helper.from_array(a, name))
        made: bytes = proto.SerializeToString()
        return made


_X = "float[{rows},{width}] x"
_NORM = f"{_X}, float[{{rows}},{{width}}] s, float[{{width}}] g, float[{{width}}] b"
_Y = "float[{rows},{width}]"
_FLAT = "float[1,{queries},{width}] q, float[1,{keys},{width}] k, float[1,{keys},{width}] v, bool[1,1,{queries},{keys}] mask"
_SPLIT = (
    "shape = Constant<value_ints = [0,0,{heads},{size}]>() back = Constant<value_ints = [0,0,{width}]>() "
    "q0 = Reshape(q, shape) q1 = Transpose<perm = [0,2,1,3]>(q0) k0 = Reshape(k, shape) v0 = Reshape(v, shape) "
    "v1 = Transpose<perm = [0,2,1,3]>(v0) kt = Transpose<perm = [0,2,3,1]>(k0) "
    "zero = Constant<value = float {0.0}>() low = Constant<value = float {-inf}>() c = Constant<value = float {0.125}>() "
    "s0 = MatMul(q1, kt) s1 = Mul(s0, c) w = Where(mask, zero, low) s2 = Add(s1, w) "
    "p = Softmax<axis = -1>(s2) o = MatMul(p, v1) o1 = Transpose<perm = [0,2,1,3]>(o) y = Reshape(o1, back)"
)
_CAPPED = _SPLIT.replace(
    "w = Where", "cap = Constant<value = float {50.0}>() d = Div(s1, cap) t = Tanh(d) u = Mul(t, cap) w = Where"
).replace("Add(s1, w)", "Add(u, w)")
_SUNK = _SPLIT.replace(
    "p = Softmax<axis = -1>(s2)",
    "e = Expand(sinks, column) j = Concat<axis = 3>(s2, e) p0 = Softmax<axis = -1>(j) p = Slice(p0, first, before, axis)",
)
_WIDTH: dict[str, Callable[[dict[str, int]], int | str]] = {"width": lambda s: s["heads"] * s["size"]}


def _sinks(size: dict[str, int]) -> dict[str, np.ndarray]:
    sinks = np.zeros(size["heads"], np.float32)
    return {"sinks": sinks.reshape(1, -1, 1, 1), "column": np.array([1, size["heads"], size["queries"], 1]), "sink": sinks,
            "first": np.array([0]), "before": np.array([-1]), "axis": np.array([3]),
            "last": np.full(1, size["keys"] - 1, np.int32), "total": np.array(size["keys"], np.int32)}  # fmt: skip


def _projections(size: dict[str, int]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    q, k, v = (random.normal(size=(size["width"], size["width"])).astype(np.float32) for _ in range(3))
    sizes = np.full(3, size["width"], np.int64)
    return {"wq": q, "wk": k, "wv": v, "w": np.concatenate([q, k, v], axis=1), "sizes": sizes}


def _projections_in_blocks(size: dict[str, int]) -> dict[str, np.ndarray]:
    whole = _projections(size)
    held = {i: pack(nearest_blocks(whole[name], 4)) for i, name in enumerate(("wq", "wk", "wv", "w"))}
    found = {f"{part}{i}": a for i, w in held.items() for part, a in zip("qsz", (w.weight, w.scale, w.zero), strict=True)}
    return {"sizes": whole["sizes"]} | {name: a for name, a in found.items() if a is not None}


def _projections_in_8_bits(size: dict[str, int]) -> dict[str, np.ndarray]:
    whole = _projections(size)
    found: dict[str, np.ndarray] = {}
    for i, name in enumerate(("wq", "wk", "wv")):
        q, scale = quantize_linear_weight(whole[name])
        q = flipped(q) if features.detect().int8_saturates else q  # as lowering does it
        found |= {f"q{i}": q, f"s{i}": scale, f"z{i}": np.full(len(scale), 128 if q.dtype == np.uint8 else 0, q.dtype)}
    return found


_LINEAR = "float[{rows},{inner}] x"
_PRODUCT = "y = MatMul(x, w)"
LINEARS = ((1, 576, 1536), (1, 768, 3072), (16, 384, 1536), (128, 384, 1536), (128, 768, 3072), (512, 768, 768))


def _rounded(size: dict[str, int]) -> dict[str, np.ndarray]:
    """A weight, and the same in 8 and in 7 bits with a scale for each column and in blocks of 8 and of 4 bits."""
    inner, columns = size["inner"], size["columns"]
    w = np.random.default_rng(0).normal(size=(inner, columns)).astype(np.float32)
    q, scale = quantize_linear_weight(w)
    q7, scale7 = quantize_linear_weight(w, INT7_LIMIT)
    row, row_scale = q, scale
    if features.detect().int8_saturates:  # as rules and lowering do it
        q, row, row_scale = flipped(q), q7, scale7
    zero = np.full(columns, 128 if q.dtype == np.uint8 else 0, q.dtype)
    found = {"w": w, "q": q, "s": scale, "z": zero, "q7": q7, "s7": scale7, "qr": row, "sr": row_scale}
    apart = np.arange(0, 64, 16)  # four channels that stand out
    found |= {"apart": apart, "wide": w[apart], "kept": np.where(np.isin(np.arange(inner), apart), 0, 1).astype(np.float32)}
    for bits in (4, 8):
        held = pack(nearest_blocks(w, bits))
        found |= {f"q{bits}": held.weight, f"s{bits}": held.scale}
        found |= {f"z{bits}": held.zero} if held.zero is not None else {}
    return found


def _linear(rule: str, body: str) -> Comparison:
    return Comparison(rule, _LINEAR, "float[{rows},{columns}]", _PRODUCT, body, ("rows", "inner", "columns"), LINEARS,
                      {"block": lambda s: BLOCK}, _rounded)  # fmt: skip


_EXPERTS = ("tokens", "experts", "width", "inner")
_GATED = 'k = 2, activation_type = "swiglu", swiglu_fusion = 1, activation_alpha = 1.0, activation_beta = 0.0'
_OF_THE_SUM = f"{_GATED}, normalize_routing_weights = 1"


def _experts(size: dict[str, int]) -> dict[str, np.ndarray]:
    """The matrices of experts, and the same in blocks of 8 and of 4 bits."""
    random, found = np.random.default_rng(0), {}
    for name, shape in (("up", (2 * size["inner"], size["width"])), ("down", (size["width"], size["inner"]))):
        one = random.normal(size=shape).astype(np.float32)
        found[name] = np.stack([one] * size["experts"])
        for bits in (4, 8):
            held = pack(nearest_blocks(one.T, bits), zeros=True)
            assert held.zero is not None
            parts = {"q": held.weight.reshape(len(one), -1), "s": held.scale, "z": held.zero}
            found |= {f"{name}{part}{bits}": np.stack([a] * size["experts"]) for part, a in parts.items()}
    return found


def _blocked_experts(rule: str, bits: int) -> Comparison:
    held = ", ".join(f"{name}q{bits}, {name}s{bits}, " for name in ("up", "down"))
    return Comparison(
        rule, "float[{tokens},{width}] x, float[{tokens},{experts}] l", "float[{tokens},{width}]",
        f"y = com.microsoft.MoE<{_OF_THE_SUM}>(x, l, up, , down)",
        f"y = com.microsoft.QMoE<{_OF_THE_SUM}, expert_weight_bits = {bits}, block_size = {BLOCK}, accuracy_level = 4, "
        f'quant_type = "int", weights_prepacked = 0>(x, l, {held}, , , , upz{bits}, downz{bits})',
        _EXPERTS, ((1, 8, 512, 1024), (16, 8, 512, 1024), (128, 8, 512, 1024)), weights=_experts,
    )  # fmt: skip


def _blocked(rule: str, bits: int) -> Comparison:
    of = f"K = {{inner}}, N = {{columns}}, bits = {bits}, block_size = {{block}}, accuracy_level = 4"
    return _linear(rule, f"y = com.microsoft.MatMulNBits<{of}>(x, q{bits}, s{bits}, z{bits})")


_TINY = "tiny = Constant<value = float {1.1754944e-38}>()"


def _int8_attention(size: dict[str, int]) -> str:
    """The body that the rule ``int8-attention`` writes, as text."""
    heads = size["heads"]
    q, k, v, o = (",".join(f"{name}{i}" for i in range(heads)) for name in "QKVo")
    rounded = [
        f"{x}m = ReduceMean({x}, tokens) {x}0 = Sub({x}, {x}m) {x}a = Abs({x}0) {x}l = ReduceMax<keepdims = 0>({x}a) "
        f"{x}g = Max({x}l, tiny) {x}s = Div({x}g, most) {x}q = QuantizeLinear({x}0, {x}s, none)"
        for x in "kv"
    ]
    each = [
        f"s{i} = com.microsoft.MatMulIntegerToFloat(Q{i}, K{i}, qs, ks, qz) t{i} = Add(s{i}, w) m{i} = ReduceMax(t{i}, last) "
        f"d{i} = Sub(t{i}, m{i}) e{i} = Exp(d{i}) n{i} = ReduceSum(e{i}, last) r{i} = QuantizeLinear(e{i}, step, zero) "
        f"p{i} = com.microsoft.MatMulIntegerToFloat(r{i}, V{i}, step, vs, zero) o{i} = Div(p{i}, n{i})"
        for i in range(heads)
    ]
    return " ".join([
        _TINY, f"most = Constant<value = float {{{127 if not features.detect().int8_saturates else INT7_LIMIT}.0}}>() "
        "step = Constant<value = float {0.003921569}>() zero = Constant<value = uint8 {0}>() none = Constant<value = int8 {0}>() "
        "tokens = Constant<value_ints = [1]>() last = Constant<value_ints = [-1]>() c = Constant<value = float {0.125}>() "
        "on = Constant<value = float {0.0}>() off = Constant<value = float {-1e37}>() w0 = Where(mask, on, off) "
        "w = Squeeze(w0, tokens)", *rounded, "qq, q1, qz = DynamicQuantizeLinear(q) qs = Mul(q1, c) "
        f"kt = Transpose<perm = [0,2,1]>(kq) {q} = Split<axis = 2, num_outputs = {heads}>(qq) "
        f"{k} = Split<axis = 1, num_outputs = {heads}>(kt) {v} = Split<axis = 2, num_outputs = {heads}>(vq)", *each,
        f"o = Concat<axis = 2>({o}) y = Add(o, vm)",
    ])  # fmt: skip


def _causal_parts(size: dict[str, int]) -> str:
    """What ``causal_parts.py`` writes of a causal attention, as text."""
    parts = range(causal_parts.PARTS)
    split = (
        f"{', '.join(f'{x}{i}' for i in parts)} = Split<axis = 1, num_outputs = {causal_parts.PARTS}>({x})" for x in "qkv"
    )
    heads = f"q_num_heads = {size['heads']}, kv_num_heads = {size['heads']}, is_causal = 1"
    each = (
        f"y{i}, a{i}, b{i} = Attention<{heads}>(q{i}, k{i}, v{i}{f', , a{i - 1}, b{i - 1}' if i else ''})" for i in parts
    )
    return " ".join([*split, *each, f"y = Concat<axis = 1>({', '.join(f'y{i}' for i in parts)})"])


QKV = "one product for queries, keys and values"
_IN_BLOCKS = "K = {width}, bits = 4, block_size = {block}, accuracy_level = 4"
COMPARISONS = (
    Comparison(
        "com.microsoft::SkipLayerNormalization", _NORM, _Y,
        "t = Add(x, s) y = LayerNormalization<axis = -1, epsilon = 1e-5>(t, g, b)",
        "y = com.microsoft.SkipLayerNormalization<epsilon = 1e-5>(x, s, g, b)", ("rows", "width"), ROWS,
    ),
    Comparison(
        "com.microsoft::SkipSimplifiedLayerNormalization", _NORM, _Y,
        "t = Add(x, s) y = RMSNormalization<axis = -1, epsilon = 1e-5>(t, g)",
        "y = com.microsoft.SkipSimplifiedLayerNormalization<epsilon = 1e-5>(x, s, g)", ("rows", "width"), ROWS,
    ),
    Comparison(
        "Sum", f"{_X}, float[{{rows}},{{width}}] s", _Y, "y = Add(x, s)", "y = Sum(x, s)", ("rows", "width"), ROWS,
    ),
    Comparison(
        "LayerNormalization", f"{_X}, float[{{width}}] g, float[{{width}}] b", _Y,
        "axes = Constant<value_ints = [-1]>() e = Constant<value = float {1e-5}>() two = Constant<value = float {2.0}>() "
        "m = ReduceMean(x, axes) d = Sub(x, m) s = Pow(d, two) v = ReduceMean(s, axes) w = Add(v, e) r = Sqrt(w) "
        "n = Div(d, r) h = Mul(n, g) y = Add(h, b)",
        "y = LayerNormalization<axis = -1, epsilon = 1e-5>(x, g, b)", ("rows", "width"), ROWS,
    ),
    Comparison(
        "RMSNormalization", f"{_X}, float[{{width}}] g", _Y,
        "axes = Constant<value_ints = [-1]>() e = Constant<value = float {1e-5}>() two = Constant<value = float {2.0}>() "
        "s = Pow(x, two) v = ReduceMean(s, axes) w = Add(v, e) r = Sqrt(w) i = Reciprocal(r) n = Mul(x, i) y = Mul(n, g)",
        "y = RMSNormalization<axis = -1, epsilon = 1e-5>(x, g)", ("rows", "width"), ROWS,
    ),
    Comparison(
        "GroupNormalization", "float[1,{channels},{side},{side}] x, float[{channels}] g, float[{channels}] b",
        "float[1,{channels},{side},{side}]",
        "flat = Constant<value_ints = [0,{groups},-1]>() by = Constant<value_ints = [1,{groups},{each}]>() "
        "axes = Constant<value_ints = [2]>() all = Constant<value_ints = [0,{channels},1,1]>() "
        "one = Constant<value_ints = [{channels},1,1]>() "
        "e = Constant<value = float {1e-5}>() r = Reshape(x, flat) m = ReduceMean(r, axes) c = Sub(r, m) s = Mul(c, c) "
        "v = ReduceMean(s, axes) w = Add(v, e) d = Sqrt(w) h = Reshape(g, by) q = Div(h, d) f = Reshape(q, all) "
        "z = Shape(x) n = Reshape(c, z) p = Mul(n, f) o = Reshape(b, one) y = Add(p, o)",
        "y = GroupNormalization<num_groups = {groups}, epsilon = 1e-5>(x, g, b)", ("channels", "side"),
        ((128, 64), (320, 32), (1280, 16)), {"groups": lambda s: 32, "each": lambda s: s["channels"] // 32},
    ),
    Comparison(
        "Gelu", _X, _Y,
        "a = Constant<value = float {1.4142135}>() one = Constant<value = float {1.0}>() h = Constant<value = float {0.5}>() "
        "d = Div(x, a) e = Erf(d) o = Add(e, one) m = Mul(x, o) y = Mul(m, h)",
        "y = Gelu(x)", ("rows", "width"), ROWS,
    ),
    Comparison(
        "com.microsoft::BiasGelu", f"{_X}, float[{{width}}] b", _Y,
        "t = Add(x, b) y = Gelu(t)", "y = com.microsoft.BiasGelu(x, b)", ("rows", "width"), ROWS,
    ),
    Comparison(
        "com.microsoft::QuickGelu", _X, _Y,
        "s = Sigmoid(x) y = Mul(x, s)", "y = com.microsoft.QuickGelu<alpha = 1.0>(x)", ("rows", "width"), ROWS,
    ),
    Comparison(
        "RotaryEmbedding", "float[1,{heads},{rows},{size}] x, float[1,{rows},{half}] c, float[1,{rows},{half}] n",
        "float[1,{heads},{rows},{size}]",
        "a = Constant<value_ints = [0]>() z = Constant<value_ints = [{half}]>() e = Constant<value_ints = [{size}]>() "
        "ax = Constant<value_ints = [3]>() one = Constant<value_ints = [1]>() f = Slice(x, a, z, ax) l = Slice(x, z, e, ax) "
        "m = Neg(l) t = Concat<axis = -1>(m, f) cc = Concat<axis = -1>(c, c) nn = Concat<axis = -1>(n, n) "
        "cu = Unsqueeze(cc, one) nu = Unsqueeze(nn, one) p = Mul(x, cu) q = Mul(t, nu) y = Add(p, q)",
        "y = RotaryEmbedding(x, c, n)", ("heads", "rows", "size"), ((9, 1, 64), (9, 128, 64), (32, 512, 128)),
        {"half": lambda s: s["size"] // 2},
    ),
    Comparison(
        "Attention", _FLAT, "float[1,{queries},{width}]", _SPLIT,
        "y = Attention<q_num_heads = {heads}, kv_num_heads = {heads}, scale = 0.125>(q, k, v, mask)",
        ("queries", "keys", "heads", "size"),
        ((16, 16, 12, 64), (128, 128, 12, 32), (128, 128, 12, 64), (384, 384, 12, 64), (512, 512, 12, 64), (1, 128, 9, 64),
         (1, 1024, 9, 64), (1500, 1500, 6, 64)),
        _WIDTH,
    ),
    Comparison(
        "com.microsoft::MoE", "float[{tokens},{width}] x, float[{tokens},{experts}] l", "float[{tokens},{width}]",
        "two = Constant<value_ints = [2]>() last = Constant<value_ints = [-1]>() a1 = Constant<value_ints = [1]>() "
        "s1 = Constant<value_ints = [-1,1,{width}]>() s2 = Constant<value_ints = [1,2,1]>() "
        "s3 = Constant<value_ints = [-1,{width},1]>() s4 = Constant<value_ints = [-1,1]>() "
        "s5 = Constant<value_ints = [-1,2,{width}]>() p = Softmax<axis = -1>(l) best, at = TopK(p, two) i = Reshape(at, last) "
        "x1 = Reshape(x, s1) x2 = Expand(x1, s2) x3 = Reshape(x2, s3) u = Gather<axis = 0>(up, i) m = MatMul(u, x3) "
        "h = Squeeze(m, two) g, v = Split<axis = 1, num_outputs = 2>(h) e = com.microsoft.QuickGelu<alpha = 1.0>(g) "
        "n = Mul(e, v) n1 = Unsqueeze(n, two) d = Gather<axis = 0>(down, i) o = MatMul(d, n1) o1 = Squeeze(o, two) "
        "w = Reshape(best, s4) o2 = Mul(o1, w) o3 = Reshape(o2, s5) y = ReduceSum<keepdims = 0>(o3, a1)",
        f"y = com.microsoft.MoE<{_GATED}>(x, l, up, , down)", _EXPERTS,
        ((1, 8, 512, 1024), (16, 8, 512, 1024), (128, 8, 512, 1024)),
        weights=lambda s: {"up": np.full((s["experts"], 2 * s["inner"], s["width"]), 0.01, np.float32),
                           "down": np.full((s["experts"], s["width"], s["inner"]), 0.01, np.float32)},
    ),
    Comparison(
        "attention with softcap", _FLAT, "float[1,{queries},{width}]", _CAPPED,
        "y = Attention<q_num_heads = {heads}, kv_num_heads = {heads}, scale = 0.125, softcap = 50.0>(q, k, v, mask)",
        ("queries", "keys", "heads", "size"), ((1, 1024, 8, 64), (128, 128, 8, 64), (512, 512, 8, 64)), _WIDTH,
    ),
    Comparison(
        "com.microsoft::GroupQueryAttention", _FLAT, "float[1,{queries},{width}]", _SUNK,
        "zero = Constant<value = float {0.0}>() low = Constant<value = float {-3.4e38}>() w = Where(mask, zero, low) "
        "y, pk, pv = com.microsoft.GroupQueryAttention<num_heads = {heads}, kv_num_heads = {heads}, scale = 0.125>"
        "(q, k, v, , , last, total, , , , w, sink)",
        ("queries", "keys", "heads", "size"), ((16, 16, 8, 64), (128, 128, 8, 64), (512, 512, 8, 64)), _WIDTH, _sinks,
    ),
    Comparison(
        QKV, _X, _Y, "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) y = Sum(q, k, v)",
        "m = MatMul(x, w) q, k, v = Split<axis = -1>(m, sizes) y = Sum(q, k, v)", ("rows", "width"), ROWS,
        weights=_projections,
    ),
    Comparison(
        one_product.NAME, _X, _Y,
        " ".join(f"y{i} = com.microsoft.MatMulNBits<{_IN_BLOCKS}, N = {{width}}>(x, q{i}, s{i}, z{i})" for i in range(3))
        + " y = Sum(y0, y1, y2)",
        f"m = com.microsoft.MatMulNBits<{_IN_BLOCKS}, N = {{three}}>(x, q3, s3, z3) "
        "a, b, c = Split<axis = -1>(m, sizes) y = Sum(a, b, c)",
        ("rows", "width"), ((1, 384), (1, 576), (1, 768), (16, 384)),
        {"block": lambda s: BLOCK, "three": lambda s: 3 * s["width"]}, _projections_in_blocks,
    ),
    Comparison(
        one_rounding.NAME, _X, _Y,
        " ".join(f"y{i} = com.microsoft.DynamicQuantizeMatMul(x, q{i}, s{i}, z{i})" for i in range(3)) + " y = Sum(y0, y1, y2)",
        "r, s, z = DynamicQuantizeLinear(x) "
        + " ".join(f"y{i} = com.microsoft.MatMulIntegerToFloat(r, q{i}, s, s{i}, z, z{i})" for i in range(3))
        + " y = Sum(y0, y1, y2)",
        ("rows", "width"), ROWS, weights=_projections_in_8_bits,
    ),
    Comparison(
        "com.microsoft::MultiHeadAttention", _FLAT, "float[1,{queries},{width}]",
        "y = Attention<q_num_heads = {heads}, kv_num_heads = {heads}, scale = 0.125>(q, k, v, mask)",
        "zero = Constant<value = float {0.0}>() low = Constant<value = float {-3.4e38}>() w = Where(mask, zero, low) "
        "y = com.microsoft.MultiHeadAttention<num_heads = {heads}, scale = 0.125>(q, k, v, , , w)",
        ("queries", "keys", "heads", "size"),
        ((16, 16, 12, 64), (128, 128, 12, 32), (128, 128, 12, 64), (384, 384, 12, 64), (512, 512, 12, 64), (1500, 1500, 6, 64)),
        _WIDTH,
    ),
    Comparison(
        flash.NAME, _FLAT.partition(", bool")[0], "float[1,{queries},{width}]",
        "y = Attention<q_num_heads = {heads}, kv_num_heads = {heads}>(q, k, v)",
        "y = com.microsoft.MultiHeadAttention<num_heads = {heads}>(q, k, v)",
        ("queries", "keys", "heads", "size"), ((1024, 1024, 8, 64), (1500, 1500, 6, 64), (4096, 4096, 8, 40)), _WIDTH,
    ),
    Comparison(
        causal_parts.TABLE, _FLAT.partition(", bool")[0], "float[1,{queries},{width}]",
        "y = Attention<q_num_heads = {heads}, kv_num_heads = {heads}, is_causal = 1>(q, k, v)", "{body}",
        ("queries", "keys", "heads", "size"), ((256, 256, 12, 64), (512, 512, 12, 64), (1024, 1024, 12, 64)),
        _WIDTH | {"body": _causal_parts},
    ),
    Comparison(
        "int8-attention", _FLAT, "float[1,{queries},{width}]",
        "y = Attention<q_num_heads = {heads}, kv_num_heads = {heads}, scale = 0.125>(q, k, v, mask)", "{body}",
        ("queries", "keys", "heads", "size"),
        ((128, 128, 12, 32), (128, 128, 12, 64), (384, 384, 12, 64), (1500, 1500, 6, 64)), _WIDTH | {"body": _int8_attention},
    ),
    Comparison(
        rows.NAME, _LINEAR, "float[{rows},{columns}]", "p = MatMul(x, w) y = Add(p, b)", "y = Gemm(x, w, b)",
        ("rows", "inner", "columns"), LINEARS, {}, lambda s: _rounded(s) | {"b": np.ones(s["columns"], np.float32)},
    ),
    _linear("int8-linear", "y = com.microsoft.DynamicQuantizeMatMul(x, q, s, z)"),
    _linear("int7-linear", "y = com.microsoft.DynamicQuantizeMatMul(x, q7, s7)"),
    _linear(
        "int8-outlier-linear",
        "r = Mul(x, kept) p = com.microsoft.DynamicQuantizeMatMul(r, qr, sr) g = Gather<axis = -1>(x, apart) "
        "f = MatMul(g, wide) y = Add(p, f)",
    ),
    _linear(
        "int8-row-linear",
        f"{_TINY} axes = Constant<value_ints = [-1]>() a = Abs(x) l = ReduceMax(a, axes) m = Max(l, tiny) d = Div(x, m) "
        "p = com.microsoft.DynamicQuantizeMatMul(d, qr, sr) y = Mul(p, m)",
    ),
    _blocked("int8-block-linear", 8),
    _blocked("int4-block-linear", 4),
    _blocked_experts("int8-block-experts", 8),
    _blocked_experts("int4-block-experts", 4),
    Comparison(
        "int8-conv", "float[1,{channels},{side},{side}] x, uint8[1,{channels},{side},{side}] xq",
        "float[1,{channels},{side},{side}]", "y = Conv<pads = [{pad},{pad},{pad},{pad}]>(x, w)",
        "s = Constant<value = float {0.02}>() z = Constant<value = uint8 {128}>() ws = Constant<value = float {0.01}>() "
        "wz = Constant<value = int8 {0}>() q = QLinearConv<pads = [{pad},{pad},{pad},{pad}]>(xq, s, z, wq, ws, wz, s, z) "
        "y = DequantizeLinear(q, s, z)",
        ("channels", "side", "kernel"), ((64, 56, 3), (256, 14, 3), (256, 28, 1)), {"pad": lambda s: s["kernel"] // 2},
        lambda s: {"w": np.ones((s["channels"], s["channels"], s["kernel"], s["kernel"]), np.float32) / 100,
                   "wq": np.ones((s["channels"], s["channels"], s["kernel"], s["kernel"]), np.int8)},
    ),
)  # fmt: skip
"""What the table holds. (MultiHeadAttention is compared with Attention, not with its parts.) What no rule emits is there to
show that it does not pay; what rounds is compared with what it rounds, under the name of the rule."""


def measure(
    seconds: float = 0.4, say: Callable[[str], None] = lambda text: None, only: str | None = None, seed: int = 0
) -> Kernels:
    """Time all comparisons (or those of one operator) on the installed runtime, ``seconds`` each size."""
    import onnxruntime

    rows = []
    for c in COMPARISONS:
        for size in c.sizes if only in (None, c.operator) else ():
            named = dict(zip(c.names, size, strict=True))
            say(f"{c.operator} at {where(named)}")
            found = _compare(c, named, seconds, seed)
            if found is not None:
                rows.append(Row(c.operator, named, round(found.ratio, 3), round(found.low, 3), round(found.high, 3)))
    return Kernels("onnxruntime", onnxruntime.__version__, features.detect().to_dict(), tuple(rows))


def _compare(c: Comparison, size: dict[str, int], seconds: float, seed: int) -> Paired | None:
    """Parts against fused; None where the runtime has no such operator."""
    options = SessionOptions(optimization="none", threads=1)
    opened = []
    for body in (c.parts, c.fused):
        try:
            opened.append(session(c.model(body, size), options=options))
        except OlcError:
            return None
    feed = dict(_feed(opened[0], seed))
    return paired(lambda: run(opened[0], feed), lambda: run(opened[1], feed), budget_s=seconds, seed=seed, min_pairs=15)


def _feed(opened: Any, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    for i in opened.get_inputs():
        if i.type == "tensor(bool)":
            yield i.name, np.ones(i.shape, bool)
        elif i.type == "tensor(uint8)":
            yield i.name, random.integers(0, 256, i.shape).astype(np.uint8)
        else:
            yield i.name, random.normal(size=i.shape).astype(np.float32)
