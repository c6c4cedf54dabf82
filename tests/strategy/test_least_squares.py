"""Least squares of whole models: what a convolution reads, what is kept, and that it reaches the artifact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from olc import ir, storage, targets
from olc.analysis import shapes
from olc.driver import compile
from olc.passes import Context
from olc.pipeline import Options, optimize
from olc.quantization import int8_form, quantize_linear_weight
from olc.quantization.facts import note
from olc.rules import registry
from olc.session import run, session
from olc.strategy import rounding
from olc.strategy.budget import Budget
from olc.strategy.calibrate import calibrate
from olc.strategy.learnt import carried_out
from olc.strategy.plan import Choice, Plan
from olc.strategy.quantize import NOT_TIMED

from tests.quantizing import FAR, FEEDS, model, normed

TARGET = targets.get("onnxruntime-cpu")
LIMIT = 64 if TARGET.features()["int8_saturates"] else 127


def keep(feed: Any, values: Any) -> dict[str, Any]:
    return dict(values)


@pytest.mark.parametrize(
    ("shape", "channels", "attributes"),
    [
        ((6, 4, 3, 3), 4, "pads = [1, 1, 1, 1]"),
        ((6, 2, 3, 2), 4, "group = 2, pads = [0, 1, 2, 0], strides = [2, 1]"),
        ((4, 1, 3, 3), 4, "group = 4, dilations = [2, 1], strides = [1, 2]"),
        ((5, 4, 1), 4, ""),
        ((3, 4, 2, 2, 2), 4, "pads = [1, 0, 0, 0, 1, 0]"),
        ((6, 4, 3, 2), 4, "auto_pad = \"SAME_UPPER\", strides = [2, 1]"),
        ((6, 4, 4, 3), 4, "auto_pad = \"SAME_LOWER\", strides = [3, 2]"),
        ((6, 4, 13, 15), 4, "auto_pad = \"SAME_UPPER\""),
    ],
)
def test_a_convolution_is_a_product_of_its_patches(shape: tuple[int, ...], channels: int, attributes: str) -> None:
    random = np.random.default_rng(0)
    w = random.normal(size=shape).astype(np.float32)
    sizes = (2, channels, 9, 8, 7)[: len(shape)]
    given = f"<{attributes}>" if attributes else ""
    dims = ",".join(map(str, sizes))
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g (float[{dims}] x) => (float y) {{ y = Conv{given}(x, w) }}'
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    x = random.normal(size=sizes).astype(np.float32)
    expected = session(proto.SerializeToString(), threads=1).run(None, {"x": x})[0]
    node = ir.serde.deserialize_model(proto).graph[0]
    read = rounding.patches(x, shape[2:], node)
    weights = w.reshape(len(read), shape[0] // len(read), -1).swapaxes(1, 2)
    made = np.moveaxis(read @ weights, 0, 1).reshape(-1, shape[0])
    np.testing.assert_allclose(made, np.moveaxis(expected, 1, -1).reshape(-1, shape[0]), rtol=1e-4, atol=1e-4)


def test_of_many_patches_some_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    node = ir.make_node("Conv", [None, None], {"pads": [1, 1, 1, 1]})
    monkeypatch.setattr(rounding, "PATCHES", 50)
    read = rounding.patches(np.ones((1, 2, 40, 40), np.float32), (3, 3), node)
    assert read.shape == (1, 50, 18)


def convolutions(clip: bool = True) -> ir.Model:
    """Three convolutions, the second one of each channel alone, whose weights lie badly on their grids."""
    after = "Clip(a{0}, low, high)" if clip else "Relu(a{0})"
    body = " ".join(
        f"[conv{i}] a{i} = Conv<{attributes}>({x}, w{i}, b{i}) [act{i}] h{i} = {after.format(i)}"
        for i, (x, attributes) in enumerate(
            (("x", "pads = [1,1,1,1]"), ("h0", "pads = [1,1,1,1], group = 8"), ("h1", "pads = [0,0,0,0]"))
        )
    )
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[1, 3, 12, 12] x) => (float[1, 6] y) '
        f"<float low = {{0}}, float high = {{6}}> {{ {body} m = GlobalAveragePool(h2) y = Flatten(m) }}"
    )
    random = np.random.default_rng(1)
    for i, shape in enumerate(((8, 3, 3, 3), (8, 1, 3, 3), (6, 8, 1, 1))):
        w = random.normal(size=shape).astype(np.float32) / 8
        w[:, 0] *= 40  # one input decides on the grid of all
        proto.graph.initializer.append(onnx.numpy_helper.from_array(w, f"w{i}"))
        proto.graph.initializer.append(onnx.numpy_helper.from_array(random.normal(size=shape[0]).astype(np.float32), f"b{i}"))
    made = ir.serde.deserialize_model(proto)
    shapes.infer(made)
    return made


def pictures(count: int = 4) -> list[dict[str, np.ndarray]]:
    """Whose channels move together, so that one weight can make good what another loses."""
    random = np.random.default_rng(2)
    return [{"x": (random.normal(size=(1, 1, 12, 12)) + 0.1 * random.normal(size=(1, 3, 12, 12))).astype(np.float32)}
            for _ in range(count)]  # fmt: skip


def test_convolutions_keep_what_gains_on_other_inputs() -> None:
    m, feeds = convolutions(), pictures()
    made = rounding.least_squares(m, [("int8-conv", f"act{i}") for i in range(3)], feeds, keep, 1)
    assert made
    for name, forms in made.items():
        (q, scale) = forms[int8_form(127)]
        w = ir.array(m.graph.initializers[name])
        assert w is not None
        assert q.shape == w.shape
        assert q.dtype == np.int8
        nearest, same = quantize_linear_weight(w.reshape(len(w), -1).T)
        np.testing.assert_array_equal(scale, same)
        assert not np.array_equal(q.reshape(len(w), -1).T, nearest)


def test_what_was_rounded_is_in_the_artifact_with_and_without_smoothing() -> None:
    """Smoothing makes other weights, of which least squares is done then."""
    source = model(channel=True)
    fused = optimize(source.clone(), Options(level=2), Context(target=TARGET)).model
    facts = calibrate(fused, FEEDS, 1)
    for v in (*fused.graph.inputs, *(v for n in fused.graph for v in n.outputs)):
        if v.name in facts:
            v.meta["olc.observed"] = facts[v.name]
    sites = [("int8-linear", "h4")]
    for alphas in ({}, {"a3": 0.8}):
        weights = rounding.least_squares(fused, sites, FEEDS, keep, 1, only=[_name(fused, alphas)], smoothed=alphas)
        [(name, forms)] = weights.items()
        assert (name == "w3") == (not alphas)
        options = Options(level=3, sites={"int8-linear": frozenset({"h4"})}, smooth=alphas, facts=facts, weights=weights)
        made = optimize(source.clone(), options, Context(target=TARGET)).model
        held = [ir.array(v) for v in made.graph.initializers.values() if v.dtype in (ir.DataType.INT8, ir.DataType.UINT8)]
        codes = forms[int8_form(127)][0]
        signed = [a.astype(int) - (128 if a.dtype == np.uint8 else 0) for a in held if a is not None]
        assert any(np.array_equal(a, codes) for a in signed)


def _name(fused: ir.Model, alphas: dict[str, float]) -> str:
    [layer] = rounding.layers_of(fused, [("int8-linear", "h4")], alphas)
    return rounding.named(layer.constant.name or "", layer.form)


def test_a_plan_with_rounded_convolutions_gives_the_same_file_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("olc.evaluation.evaluate.Evaluation.slower", False)
    faster = NOT_TIMED.__class__(2.0, 2.0, 2.0, 2.0, "faster", 8, 1, NOT_TIMED.a, NOT_TIMED.b, 0.0, 0)
    monkeypatch.setattr("olc.strategy.search.Search.pair", lambda *_: faster)
    storage.save(convolutions(), tmp_path / "m.onnx")
    (tmp_path / "data").mkdir()
    for i, feed in enumerate(pictures(8)):
        np.savez(tmp_path / "data" / f"{i}.npz", **feed)
    data, options = str(tmp_path / "data"), {"level": 3, "threads": 1, "samples": 4}
    bound = Budget(0.9, None)
    first = compile(tmp_path / "m.onnx", tmp_path / "a.onnx", data=data, budget=bound, **options)
    told = next(t["error"] for t in first.trials if t["what"].startswith("all 3 layers int8") or "layers int8" in t["what"])
    tight = Budget(1 - 0.8 * told, None)
    second = compile(tmp_path / "m.onnx", tmp_path / "b.onnx", data=data, budget=tight, **options)
    plan = Plan.loads(second.plan)
    assert [name for name in plan.rounded if name.endswith(f"@{int8_form(LIMIT)}")]
    third = compile(tmp_path / "m.onnx", tmp_path / "c.onnx", data=data, budget=tight, plan=plan, **options)
    assert third.artifact["sha256"] == second.artifact["sha256"]
    assert run(session(tmp_path / "c.onnx", threads=1), pictures(1)[0]).keys() == {"y"}


def test_a_plan_with_smoothed_and_rounded_weights_is_carried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What smoothing makes rests on the facts of calibration, and so does the form of a weight."""
    monkeypatch.setattr("olc.evaluation.evaluate.Evaluation.slower", False)
    source = model(channel=True)
    fused = optimize(source.clone(), Options(level=2), Context(target=TARGET)).model
    note(fused, calibrate(fused, FEEDS, 1), target=TARGET)
    sites = {("int8-row-linear", "h4"): Choice(True, "")}
    [layer] = rounding.layers_of(fused, sites, {"a3": 0.8})
    assert layer.form == int8_form(LIMIT)
    name = rounding.named(layer.constant.name or "", layer.form)
    plan = Plan(TARGET.name, 3, sites=sites, smooth={"a3": 0.8}, rounded=(name,))
    again = carried_out(fused, plan, registry(), Context(target=TARGET), FEEDS, keep, 1)
    assert again.keys() == {layer.constant.name}
    storage.save(source, tmp_path / "m.onnx")
    (tmp_path / "data").mkdir()
    for i, feed in enumerate(FEEDS * 2):
        np.savez(tmp_path / "data" / f"{i}.npz", **feed)
    codes = []
    for rounded in ((name,), ()):
        options = {"plan": replace(plan, rounded=rounded), "data": str(tmp_path / "data"), "samples": 3, "threads": 1}
        compile(tmp_path / "m.onnx", tmp_path / "out.onnx", level=3, measure=False, budget=Budget(0.5, None), **options)
        held = storage.load(tmp_path / "out.onnx").graph.initializers.values()
        codes.append(next(ir.array(v) for v in held if v.dtype == ir.DataType.INT8 and v.shape == layer.constant.shape))
    assert not np.array_equal(*codes)


def test_the_last_of_the_inputs_with_most_rows_judges_whatever_follows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a decoder come after its prompts: one row would judge."""
    made = model()
    shapes.infer(made)
    sites = [("int8-linear", ir.site(n)) for n in made.graph if n.op_type == "MatMul"]
    rows = np.random.default_rng(5).normal(size=(3, 40, FEEDS[0]["x"].shape[-1])).astype(np.float32)
    feeds = [{"x": x, "r": FAR[: len(x)]} for x in (rows[0, :30], rows[1], rows[2], rows[0, :1], rows[1, :1])]
    judged, sums = [], []
    monkeypatch.setattr(rounding.Layer, "error", lambda self, read, weight: judged.append(read) or 1.0)
    plain = rounding.Layer.rounded
    monkeypatch.setattr(rounding.Layer, "rounded", lambda self, s: sums.append(s) or plain(self, s))
    rounding.least_squares(made, sites, feeds, keep, 1)
    assert any(np.allclose(read[0], rounding.evened(normed(rows[2])), atol=1e-4) for read in judged)
    assert all(read.shape[1] == 40 for read in judged)
    learnt = [rounding.evened(normed(x)) for x in (rows[0, :30], rows[1], rows[0, :1], rows[1, :1])]
    assert any(np.allclose(s[0], sum(x.T @ x for x in learnt), rtol=1e-4, atol=1e-3) for s in sums)
