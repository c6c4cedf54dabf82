"""Attention in integers: its emulated error against what the compiled graph does, and what it is good for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from olc import ir, storage, targets
from olc.analysis import shapes
from olc.passes import Context
from olc.pipeline import Options, optimize
from olc.quantization import emulate, weight_limit
from olc.quantization.facts import note
from olc.rewriter import Rewriter
from olc.rules import registry
from olc.session import run, session
from olc.strategy.layers import errors

TARGET = targets.get("onnxruntime-cpu")
TEXT = """<ir_version: 10, opset_import: ["": 23]>
    g (float[B,S,{q}] q, float[B,T,{k}] k, float[B,T,{v}] v{mask}) => (float[B,S,{y}] y)
    {{ [attention] y = Attention<q_num_heads = {heads}, kv_num_heads = {kv}{scale}>(q, k, v{read}) }}"""


def model(heads: int, kv: int, size: int, wide: int, mask: str | None, scale: float | None = None) -> ir.Model:
    text = TEXT.format(
        q=heads * size, k=kv * size, v=kv * wide, y=heads * wide, heads=heads, kv=kv,
        mask="" if mask is None else f", {mask} mask", read="" if mask is None else ", mask",
        scale="" if scale is None else f", scale = {scale}",
    )  # fmt: skip
    made = ir.serde.deserialize_model(onnx.parser.parse_model(text))
    shapes.infer(made)
    return made


def outputs(m: ir.Model, feed: dict[str, np.ndarray], tmp_path: Any) -> np.ndarray:
    storage.save(m, tmp_path / "m.onnx")
    found: np.ndarray = run(session(tmp_path / "m.onnx", threads=1), feed)["y"]
    return found


def rounded(m: ir.Model) -> ir.Model:
    made = m.clone()
    ctx = Context(target=TARGET)
    optimize(made, Options(level=3, sites={"int8-attention": frozenset({"attention"})}, strict=True), ctx)
    assert [e.by for e in ctx.events if e.number is not None].count("int8-attention") == 1
    return made


def draw(batch: int, queries: int, keys: int, q: int, k: int, v: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Values and keys that are far from 0, as those of a trained model are."""
    rng = np.random.default_rng(seed)
    far = {"q": 0.0, "k": 3.0, "v": -2.0}
    sizes = {"q": (batch, queries, q), "k": (batch, keys, k), "v": (batch, keys, v)}
    return {n: (rng.normal(size=s) + far[n] * rng.normal(size=s[2])).astype(np.float32) for n, s in sizes.items()}


@pytest.mark.parametrize(
    ("heads", "kv", "wide", "mask", "scale"),
    [(2, 2, 16, None, None), (4, 2, 24, None, 0.5), (4, 1, 16, "bool[B,1,S,T]", None), (2, 2, 16, "float[1,2,S,T]", 0.2)],
)
def test_the_emulated_error_is_that_of_the_compiled_graph(
    tmp_path: Any, heads: int, kv: int, wide: int, mask: str | None, scale: float | None
) -> None:
    m = model(heads, kv, 16, wide, mask, scale)
    feed = draw(2, 40, 50, heads * 16, kv * 16, kv * wide)
    rng = np.random.default_rng(1)
    if mask is not None:
        feed["mask"] = rng.random((2, 1, 40, 50)) < 0.7 if "bool" in mask else rng.normal(size=(1, 2, 40, 50)).astype(np.float32)
    exact, got = outputs(m, feed, tmp_path), outputs(rounded(m), feed, tmp_path)
    error = float(np.square(exact - got).sum() / np.square(exact).sum())
    limit = 64 if TARGET.features()["int8_saturates"] else 127
    told = emulate.attention(feed["q"], feed["k"], feed["v"], feed.get("mask"), (heads, kv), scale, limit)
    assert told == pytest.approx(error, rel=0.05)  # numbers that lie between two codes fall to either side
    assert 0 < error < 3e-4


def test_with_a_cache_it_is_the_same_of_all_keys(tmp_path: Any) -> None:
    text = """<ir_version: 10, opset_import: ["": 23]>
        g (float[B,40,64] q, float[B,40,32] k, float[B,40,32] v, float[B,2,10,16] past_k, float[B,2,10,16] past_v,
           bool[B,1,40,50] mask)
        => (float[B,40,64] y, float[B,2,50,16] ks, float[B,2,50,16] vs)
        { [attention] y, ks, vs = Attention<q_num_heads = 4, kv_num_heads = 2>(q, k, v, mask, past_k, past_v) }"""
    m = ir.serde.deserialize_model(onnx.parser.parse_model(text))
    shapes.infer(m)
    drawn = draw(2, 40, 50, 64, 32, 32)
    past = {f"past_{n}": drawn[n][:, :10].reshape(2, 10, 2, 16).swapaxes(1, 2).copy() for n in "kv"}
    mask = np.random.default_rng(1).random((2, 1, 40, 50)) < 0.7
    feed = {"q": drawn["q"], "k": drawn["k"][:, 10:], "v": drawn["v"][:, 10:], "mask": mask, **past}
    made = m.clone()
    sites = {"int8-attention-with-cache": frozenset({"attention"})}
    optimize(made, Options(level=3, sites=sites, strict=True), Context(target=TARGET))
    assert [n.op_type for n in made.graph].count("MatMulIntegerToFloat") == 8
    found = []
    for each in (m, made):
        storage.save(each, tmp_path / "m.onnx")
        found.append(run(session(tmp_path / "m.onnx", threads=1), feed))
    for name in ("ks", "vs"):
        np.testing.assert_array_equal(found[0][name], found[1][name])
    error = float(np.square(found[0]["y"] - found[1]["y"]).sum() / np.square(found[0]["y"]).sum())
    limit = 64 if TARGET.features()["int8_saturates"] else 127
    assert emulate.attention(drawn["q"], drawn["k"], drawn["v"], mask, (4, 2), None, limit) == pytest.approx(error, rel=0.05)
    note(m, {}, target=TARGET)
    told = errors(m, [("int8-attention-with-cache", "attention")], [feed], 1)["int8-attention-with-cache", "attention"]
    assert told == pytest.approx(error, rel=0.5)


def test_the_estimate_of_a_first_step_has_an_empty_cache() -> None:
    text = """<ir_version: 10, opset_import: ["": 23]>
        g (float[1,40,32] q, float[1,40,32] k, float[1,40,32] v, float[1,2,P,16] past_k, float[1,2,P,16] past_v)
        => (float[1,40,32] y, float[1,2,T,16] ks, float[1,2,T,16] vs)
        { [attention] y, ks, vs = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v, , past_k, past_v) }"""
    m = ir.serde.deserialize_model(onnx.parser.parse_model(text))
    feed = draw(1, 40, 40, 32, 32, 32) | dict.fromkeys(("past_k", "past_v"), np.zeros((1, 2, 0, 16), np.float32))
    site = "int8-attention-with-cache", "attention"
    assert errors(m, [site], [feed], 1)[site] == pytest.approx(emulate.attention(feed["q"], feed["k"], feed["v"], None, (2, 2)))


def test_a_query_that_attends_to_thousands_of_keys_alike_is_near(tmp_path: Any) -> None:
    """Of whose probabilities, each less than a thousandth, a grid from 0 to 1 would leave nothing."""
    m = model(2, 2, 16, 16, None)
    feed = draw(1, 8, 3000, 32, 32, 32)
    feed["q"] /= 100
    exact, got = outputs(m, feed, tmp_path), outputs(rounded(m), feed, tmp_path)
    assert np.square(exact - got).sum() < 1e-4 * np.square(exact).sum()


def test_keys_far_from_0_lose_nothing(tmp_path: Any) -> None:
    """What all keys have in common is no part of a softmax, and is not rounded."""
    m, feed = model(2, 2, 16, 16, None), draw(1, 40, 50, 32, 32, 32)
    near = float(np.square(outputs(m, feed, tmp_path) - outputs(rounded(m), feed, tmp_path)).sum())
    far = feed | {"k": feed["k"] + np.float32(100)}
    # The scores of the float model, far from 0 themselves, are rounded to 24 bits: a little is lost there.
    exact = outputs(m, feed, tmp_path)
    assert float(np.square(exact - outputs(rounded(m), far, tmp_path)).sum()) < 2 * near


def test_no_float_product_is_left_and_no_mask_is_lost(tmp_path: Any) -> None:
    m = model(2, 2, 16, 16, "bool[B,1,S,T]")
    made = rounded(m)
    kinds = [n.op_type for n in made.graph]
    assert kinds.count("MatMulIntegerToFloat") == 4
    assert "MatMul" not in kinds
    feed = draw(1, 6, 9, 32, 32, 32) | {"mask": np.ones((1, 1, 6, 9), bool)}
    feed["mask"][..., 4:] = False
    moved = feed | {"k": feed["k"].copy(), "v": feed["v"].copy()}
    moved["k"][:, 4:] += 0.1
    same = outputs(made, feed, tmp_path), outputs(made, moved, tmp_path)
    assert np.abs(same[0] - same[1]).max() < 0.05 * np.abs(same[0]).max()


@pytest.mark.parametrize(("saturates", "limit"), [(True, 64), (False, 127)])
def test_codes_are_smaller_where_the_kernel_saturates(saturates: bool, limit: int) -> None:
    m = model(2, 2, 16, 16, None)
    note(m, {}, target=SimpleNamespace(features=lambda: {"int8_saturates": saturates}))  # type: ignore[arg-type]
    assert [weight_limit(v) for v in m.graph.inputs] == [limit] * 3
    rule = registry().select(["LOSSY"], 23, TARGET.name)
    Rewriter(m, [r for r in rule if r.name == "int8-attention"], Context(target=TARGET), strict=True).run()
    scales = [ir.array(n.inputs[1]) for n in m.graph if n.op_type == "Div"]
    assert [float(s) for s in scales if s is not None] == [limit] * 2
