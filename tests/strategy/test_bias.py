"""Corrected biases: each shift is what lacks behind corrected layers, as the whole model shows, and other inputs gain by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from olc import ir, storage, targets
from olc.analysis import shapes
from olc.driver import compile
from olc.errors import BadInput
from olc.evaluation.padding import as_it_is, without_padding
from olc.passes import Context
from olc.pipeline import Options, optimize
from olc.quantization import int8_form, shift_form
from olc.quantization.facts import note
from olc.report import Report
from olc.rules import registry
from olc.strategy import bias
from olc.strategy.budget import Budget
from olc.strategy.calibrate import calibrate
from olc.strategy.plan import Choice, Plan
from olc.strategy.probe import watch
from olc.strategy.rounding import named

TARGET = targets.get("onnxruntime-cpu")
LIMIT = 64 if TARGET.features()["int8_saturates"] else 127
SITES = [("int8-conv", name) for name in ("act0", "act1", "conv2")]


def network() -> ir.Model:
    """Three convolutions, of which the second has no bias, with weights that lie badly on their grids and inputs above 0."""
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[1, 3, 12, 12] x) => (float[1, 6] y) '
        "<float low = {0}, float high = {6}> { "
        "[conv0] a0 = Conv<pads = [1,1,1,1]>(x, w0, b0) [act0] h0 = Relu(a0) "
        "[conv1] a1 = Conv<pads = [1,1,1,1], group = 8>(h0, w1) [act1] h1 = Clip(a1, low, high) "
        "[conv2] a2 = Conv(h1, w2, b2) m = GlobalAveragePool(a2) y = Flatten(m) }"
    )
    random = np.random.default_rng(3)
    for i, shape in enumerate(((8, 3, 3, 3), (8, 1, 3, 3), (6, 8, 1, 1))):
        w = random.normal(size=shape).astype(np.float32) / 8
        w[(slice(None), 0, *(0,) * (w.ndim - 2))] *= 40  # one number decides on the grid of all
        proto.graph.initializer.append(onnx.numpy_helper.from_array(w, f"w{i}"))
    for name, size in (("b0", 8), ("b2", 6)):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(random.normal(size=size).astype(np.float32), name))
    made = ir.serde.deserialize_model(proto)
    shapes.infer(made)
    return made


def pictures(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"x": (1 + random.normal(size=(1, 3, 12, 12))).astype(np.float32)} for _ in range(count)]


def prepared(seen: list[dict[str, np.ndarray]]) -> tuple[ir.Model, dict[str, Any]]:
    model = network()
    facts = calibrate(model, seen, 1)
    note(model, facts, target=TARGET)
    return model, facts


def rounded(facts: dict[str, Any], weights: dict[str, dict[str, Any]]) -> ir.Model:
    sites = {"int8-conv": frozenset(name for _, name in SITES)}
    options = Options(level=3, sites=sites, facts=facts, weights=weights)
    return optimize(network(), options, Context(target=TARGET)).model


def channel_means(model: ir.Model, feeds: list[dict[str, np.ndarray]]) -> list[np.ndarray]:
    """Of each convolution's output the mean of each channel over all feeds."""
    names = [n.outputs[0].name or "" for n in model.graph if n.op_type == "Conv"]
    seen = list(watch(model, names, feeds, 1))
    return [np.mean([values[name].mean(axis=(0, 2, 3)) for values in seen], axis=0) for name in names]


def test_each_shift_is_what_lacks_behind_layers_that_are_corrected() -> None:
    feeds = pictures(6)
    model, facts = prepared(feeds)
    shifts = bias.corrected(model, registry(), Context(target=TARGET), SITES, feeds, as_it_is, 1)
    ought = channel_means(model, feeds)
    corrections: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(("w0", "w1", "w2")):
        lacks = ought[i] - channel_means(rounded(facts, corrections), feeds)[i]
        shift = shifts[name][shift_form(LIMIT)]
        assert shift.dtype == np.float32
        at = shift != 0
        assert at.any()
        # The whole model holds biases in 32 bits and computes in another order: float32 sums of some 30 products of size 1.
        np.testing.assert_allclose(shift[at], lacks[at], atol=2e-3 * np.abs(ought[i]).max())
        corrections[name] = shifts[name]


def test_other_inputs_are_nearer_for_it() -> None:
    feeds, others = pictures(6), pictures(6, seed=1)
    model, facts = prepared([*feeds, *others])
    shifts = bias.corrected(model, registry(), Context(target=TARGET), SITES, feeds, as_it_is, 1)
    ought = np.concatenate([found["y"] for found in watch(model, ["y"], others, 1)])
    off = [
        np.square(np.concatenate([found["y"] for found in watch(rounded(facts, weights), ["y"], others, 1)]) - ought).sum()
        for weights in (shifts, {})
    ]
    assert off[0] < 0.7 * off[1]


def test_a_channel_whose_lack_is_chance_stays() -> None:
    off = np.array([[1, 1, 2, np.inf], [1, -1, 3, 1], [1, 0.5, -1, 1]])
    others = [[np.mean([off[j][c] for j in range(3) if j != i]) for c in range(4)] for i in range(3)]
    expected = [
        off[:, c].mean() if np.isfinite(off[:, c]).all() and sum((off[i][c] - others[i][c]) ** 2 for i in range(3)) < sum(
            off[:, c] ** 2) else 0 for c in range(4)
    ]  # fmt: skip
    np.testing.assert_allclose(bias._shift(off), expected, rtol=1e-6)
    assert (np.array(expected) == 0).tolist() == [False, True, True, True]


def test_time_and_a_plan_say_which() -> None:
    feeds = pictures(3)
    model, _ = prepared(feeds)

    def made(feeds: Any = feeds, **options: Any) -> dict[str, Any]:
        return bias.corrected(model, registry(), Context(target=TARGET), SITES, feeds, as_it_is, 1, **options)

    left = iter((True, False))
    assert made(more=lambda: next(left)).keys() == {"w0"}
    assert made(only=[named("w2", shift_form(LIMIT))]).keys() == {"w2"}
    assert made(only=[named("w2", int8_form(LIMIT))]) == {}
    assert made(feeds[:1]) == {}, "nothing is left to judge"


def test_a_plan_corrects_them_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("olc.evaluation.evaluate.Evaluation.slower", False)
    storage.save(network(), tmp_path / "m.onnx")
    (tmp_path / "data").mkdir()
    for i, feed in enumerate(pictures(6)):
        np.savez(tmp_path / "data" / f"{i}.npz", **feed)
    names = tuple(named(name, shift_form(LIMIT)) for name in ("w0", "w1", "w2"))
    plan = Plan(TARGET.name, 3, sites={site: Choice(True, "") for site in SITES}, rounded=names)
    options: dict[str, Any] = {"level": 3, "measure": False, "budget": Budget(0.5, None), "threads": 1, "samples": 3}
    found = [
        compile(tmp_path / "m.onnx", tmp_path / "out.onnx", plan=p, data=str(tmp_path / "data"), **options).artifact["sha256"]
        for p in (plan, plan, replace(plan, rounded=()))
    ]
    assert found[0] == found[1] != found[2]
    options["samples"] = 1
    fewer = compile(tmp_path / "m.onnx", tmp_path / "out.onnx", plan=plan, data=str(tmp_path / "data"), **options)
    assert fewer.artifact["sha256"] == found[0], "what is learnt from is not what is compared on"
    for i in range(2, 6):
        (tmp_path / "data" / f"{i}.npz").unlink()
    with pytest.raises(BadInput, match="3 of the weights and biases"):
        compile(tmp_path / "m.onnx", tmp_path / "out.onnx", plan=plan, data=str(tmp_path / "data"), **options)


def layers() -> ir.Model:
    """A product with a bias after it, one without, and a Gemm, whose weights lie badly on their grids, of positive inputs."""
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[B, S, 32] x, int64[B, S] attention_mask) => (float[R, 32] y) '
        "<int64[2] flat = {-1, 32}> { [p0] a0 = MatMul(x, w0) z0 = Add(a0, b0) h0 = Relu(z0) [p1] a1 = MatMul(h0, w1) "
        "h1 = Relu(a1) f = Reshape(h1, flat) [p2] y = Gemm<transB = 1>(f, w2, b2) }"
    )
    random = np.random.default_rng(5)
    for i in range(3):
        w = random.normal(size=(32, 32)).astype(np.float32) / 8
        w[0] *= 60  # one row, or input channel, decides on the grid of all
        proto.graph.initializer.append(onnx.numpy_helper.from_array(w if i < 2 else np.ascontiguousarray(w.T), f"w{i}"))
    for name in ("b0", "b2"):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(random.normal(size=32).astype(np.float32), name))
    made = ir.serde.deserialize_model(proto)
    for n in list(made.graph)[:2]:
        n.metadata_props["olc.from"] = "fully_connected"  # the product and its bias were one node
    shapes.infer(made)
    return made


def texts(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Two rows of six tokens each; of the second row the last three are padding, and far from all others."""
    random, mask = np.random.default_rng(seed), np.array([[1] * 6, [1] * 3 + [0] * 3])
    drawn = [np.abs(random.normal(size=(2, 6, 32))).astype(np.float32) for _ in range(count)]
    return [{"x": x * np.where(mask, 1, 3).astype(np.float32)[..., None], "attention_mask": mask} for x in drawn]


def test_of_linear_layers_too_and_padded_tokens_do_not_count() -> None:
    feeds, model, rule = texts(6), layers(), "int7-linear"
    sites = [(rule, name) for name in ("p0", "p1", "p2")]
    note(model, {}, target=TARGET)
    _, keep = without_padding(model)
    shifts = bias.corrected(model, registry(), Context(target=TARGET), sites, feeds, keep, 1)
    form = shift_form(64)

    def means(model: ir.Model) -> list[np.ndarray]:
        """Of the values before each Relu, and of the output, over the tokens that are no padding."""
        read = [n.inputs[0].name or "" for n in model.graph if n.op_type == "Relu"]
        found = []
        for feed, values in zip(feeds, watch(model, [*read, "y"], feeds, 1), strict=True):
            kept = feed["attention_mask"].reshape(-1) != 0
            found.append([values[name].reshape(-1, 32)[kept].mean(axis=0) for name in (*read, "y")])
        return list(np.mean(found, axis=0))

    ought, corrections = means(model), {}
    for i, name in enumerate(("w0", "w1")):
        options = Options(level=3, sites={rule: frozenset(n for _, n in sites)}, weights=dict(corrections))
        made = optimize(layers(), options, Context(target=TARGET)).model
        assert [n.op_type for n in made.graph].count("DynamicQuantizeMatMul") == 3
        lacks, shift = ought[i] - means(made)[i], shifts[name][form]
        at = shift != 0
        assert at.any()
        np.testing.assert_allclose(shift[at], lacks[at], atol=2e-3 * np.abs(ought[i]).max())
        corrections[name] = shifts[name]


@pytest.fixture
def carried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Plan], Report]:
    """A compile of the layers by a plan, with texts."""
    monkeypatch.setattr("olc.evaluation.evaluate.Evaluation.slower", False)
    storage.save(layers(), tmp_path / "m.onnx")
    (tmp_path / "data").mkdir()
    for i, feed in enumerate(texts(6)):
        np.savez(tmp_path / "data" / f"{i}.npz", **feed)
    options: dict[str, Any] = {"level": 3, "measure": False, "budget": Budget(0.5, None), "threads": 1, "samples": 1}
    return lambda plan: compile(tmp_path / "m.onnx", tmp_path / "out.onnx", plan=plan, data=str(tmp_path / "data"), **options)


def test_a_plan_corrects_those_of_linear_layers_again(carried_out: Callable[[Plan], Report]) -> None:
    sites = {("int7-linear", name): Choice(True, "") for name in ("p0", "p1")}
    plan = Plan(TARGET.name, 3, sites=sites, rounded=tuple(named(name, shift_form(64)) for name in ("w0", "w1")))
    found = [
        carried_out(p).artifact["sha256"]
        for p in (plan, plan, replace(plan, rounded=()))
    ]
    assert found[0] == found[1] != found[2]


def test_a_plan_whose_rounding_uses_no_bias_needs_none(carried_out: Callable[[Plan], Report]) -> None:
    """A search that corrected biases of one scheme, and chose another, names both."""
    sites = {("int8-row-linear", name): Choice(True, "") for name in ("p0", "p1")}
    plan = Plan(TARGET.name, 3, sites=sites, rounded=tuple(named(name, shift_form(127)) for name in ("w0", "w1")))
    assert Plan.loads(carried_out(plan).plan).kept() == sites.keys()
