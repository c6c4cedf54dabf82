"""Rotary embeddings of tokens that have several positions, and of tokens in front of texts and heads."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from olc import ir, targets
from olc.passes import Context
from olc.pipeline import Options, optimize

HALVES = """
        zero = Constant<value_ints = [0]>() four = Constant<value_ints = [4]>() eight = Constant<value_ints = [8]>()
        last = Constant<value_ints = [3]>() h1 = Slice(x, zero, four, last) h2 = Slice(x, four, eight, last) m = Neg(h2)
        t = Concat<axis = -1>(m, h1) p = Mul(x, c) q = Mul(t, s) y = Add(p, q) }"""


def fuses(text: str, rest: str = HALVES, **shapes: tuple[int, ...]) -> bool:
    """Whether there is a RotaryEmbedding at -O2, which then gives what the source does."""
    proto = onnx.parser.parse_model(text + rest)
    model = ir.serde.deserialize_model(proto)
    optimize(model, Options(level=2, strict=True), Context(target=targets.get("onnxruntime-cpu")))
    rng = np.random.default_rng(0)
    feed = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    results = (ort.InferenceSession(m.SerializeToString()).run(None, feed)[0] for m in (proto, ir.serde.serialize_model(model)))
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-6)
    return "RotaryEmbedding" in {n.op_type for n in model.graph}


def sections(cosines: str) -> str:
    """As Qwen2-VL: of each half, one entry by the first kind of position and three by the second."""
    picked = "".join(
        f"{f}a, {f}b, {f}d, {f}e = Split<axis = 3>({f}w, sizes) {f}0 = Gather({f}a, i0) "
        f"{f}1 = Gather({f}b, i1) {f}2 = Gather({f}d, i0) {f}3 = Gather({f}e, i1) "
        for f in "cs"
    )
    return f"""<ir_version: 10, opset_import: ["" : 23]> g (float[B,3,S,8] x, float[2,B,S,4] f) => (float[B,3,S,8] y) {{
        i0 = Constant<value_int = 0>() i1 = Constant<value_int = 1>() heads = Constant<value_ints = [1]>()
        sizes = Constant<value_ints = [1, 3, 1, 3]>() w = Concat<axis = -1>(f, f) cw = Cos(w) sw = Sin(w) {picked}
        call = Concat<axis = 2>({cosines}) sall = Concat<axis = 2>(s0, s1, s2, s3) c = Unsqueeze(call, heads)
        s = Unsqueeze(sall, heads) """


def test_sections_with_positions_of_several_kinds() -> None:
    assert fuses(sections("c0, c1, c2, c3"), x=(2, 3, 5, 8), f=(2, 2, 5, 4))


def test_sections_in_another_order_in_the_second_half_are_refused() -> None:
    assert not fuses(sections("c0, c1, c1, c0"), x=(2, 3, 5, 8), f=(2, 2, 5, 4))


def test_tokens_in_front_with_stacked_tables() -> None:
    """As Conformer: tables of cosines and sines, stacked and picked again, for tokens in front of texts and heads."""
    text = """<ir_version: 10, opset_import: ["" : 23]> g (float[S,B,3,8] x, float[S,4] f) => (float[S,B,3,8] y) {
        i0 = Constant<value_int = 0>() i1 = Constant<value_int = 1>() front = Constant<value_ints = [0]>()
        heads = Constant<value_ints = [1, 2]>() w = Concat<axis = -1>(f, f) cw = Cos(w) sw = Sin(w) c4 = Unsqueeze(cw, heads)
        s4 = Unsqueeze(sw, heads) c5 = Unsqueeze(c4, front) s5 = Unsqueeze(s4, front) both = Concat<axis = 0>(c5, s5)
        c = Gather(both, i0) s = Gather(both, i1) """
    assert fuses(text, x=(5, 2, 3, 8), f=(5, 4))


def test_pairs_that_a_view_takes_apart_with_tables_cut_to_the_tokens() -> None:
    """As llama2.c: entries of pairs picked of an axis of their own, tables of the longest text."""
    text = """<ir_version: 10, opset_import: ["" : 23]> g (float[B,S,24] x, float[64,4] f) => (float[B,S,3,8] y) {
        shape = Constant<value_ints = [0, 0, 3, 4, 2]>() ones = Constant<value_ints = [1, 1]>()
        last = Constant<value_ints = [4]>() pairs = Reshape(x, shape)
        a, b = Split<axis = 4>(pairs, ones) r = Squeeze(a, last) i = Squeeze(b, last)
        zero = Constant<value_ints = [0]>() n = Shape<start = 1, end = 2>(x) t = Slice(f, zero, n, zero)
        axes = Constant<value_ints = [0, 2]>() ct = Cos(t) st = Sin(t) c = Unsqueeze(ct, axes) s = Unsqueeze(st, axes)
        rc = Mul(r, c) is = Mul(i, s) rs = Mul(r, s) ic = Mul(i, c) one = Sub(rc, is) two = Add(rs, ic)
        u = Unsqueeze(one, last) v = Unsqueeze(two, last) both = Concat<axis = -1>(u, v)
        joined = Constant<value_ints = [0, 0, 3, 8]>() y = Reshape(both, joined) }"""
    assert fuses(text, "", x=(2, 5, 24), f=(64, 4))
