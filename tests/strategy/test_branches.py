"""-O3 within the branches of Ifs: a layer of both is rounded in both or in neither, and what is seen of it is what ran."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from olc import ir, storage
from olc.driver import compile
from olc.passes import Context, shared_layers, smooth
from olc.pipeline import Few, Options, optimize
from olc.quantization import INT7_LIMIT, INT8_LIMIT, block_form, emulate, pack, quantize_linear_weight, weight_limit
from olc.quantization.facts import note, prepared
from olc.rules import registry
from olc.session import run, session
from olc.strategy import layers, quantize, rounding, search
from olc.strategy.budget import Budget
from olc.strategy.calibrate import calibrate
from olc.strategy.learnt import carried_out
from olc.strategy.plan import Choice, Plan
from olc.strategy.probe import watch
from olc.strategy.rounding import least_squares
from olc.strategy.sensitivity import sensitivities

from tests.merged import WIDTH, by_hand, feeds, merged, nodes_of, weights
from tests.quantizing import TARGET, Bench, searched

MATRIX = (WIDTH, WIDTH)
T = f"float[B, {WIDTH}]"


def named() -> ir.Model:
    m = merged()
    shared_layers.run(m, Context())
    return m


def name_of(m: ir.Model, weight: str) -> str:
    (name,) = {n.name for n in nodes_of(m, weight)}
    return name or ""


def read_of(m: ir.Model, weight: str) -> str:
    (name,) = {n.inputs[0].name for n in nodes_of(m, weight)}
    return name or ""


class Branched(Bench):
    """Its table counts what branches hold."""

    def open(self, path: Path, options: object) -> object:
        opened = super().open(path, options)
        self.kernels[id(opened)] = Counter(n.op_type for graph in ir.all_graphs(storage.load(path)) for n in graph)
        return opened


@pytest.fixture(autouse=True)
def bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.quantizing.Bench", Branched)
    monkeypatch.setattr("tests.quantizing.FEEDS", feeds())
    monkeypatch.setattr("olc.strategy.search.node_times", lambda path, *_: dict.fromkeys(ir.sites(storage.load(path)), 1.0))


def matrices(m: ir.Model, dtype: type[np.generic]) -> dict[str, int]:
    """How many weights of that type the main graph and its bodies hold."""
    held = Counter[str]()
    for graph in ir.all_graphs(m):
        arrays = (ir.array(v) for v in graph.initializers.values())
        held[graph.name or ""] += sum(a.size >= WIDTH**2 // 2 and a.dtype == dtype for a in arrays)
    return {name: n for name, n in held.items() if n}


def outputs_agree(m: ir.Model, tmp_path: Path, cosine: float) -> None:
    storage.save(m, tmp_path / "made.onnx")
    opened = session(tmp_path / "made.onnx", threads=1)
    for feed in feeds():
        a, b = run(opened, feed)["y"].ravel(), by_hand(feed)["y"].ravel()
        assert a @ b > cosine * np.linalg.norm(a) * np.linalg.norm(b)


# --- what is seen of values -------------------------------------------------------------------------------------------


def test_values_of_the_branch_that_ran_are_in_view() -> None:
    m = named()
    names = {w: read_of(m, w) for w in ("w0", "w1", "w2", "w3")}
    given = next(n.outputs[0].name for n in m.graph.node(0).attributes["then_branch"].value if n.op_type == "Identity")
    for feed, values in zip(feeds(), watch(m, [*names.values(), given, "y"], feeds(), 1), strict=True):
        wanted = by_hand(feed)
        assert {w for w, name in names.items() if name in values} == wanted.keys() - {"y"}
        for weight, name in names.items():
            if weight in wanted:
                np.testing.assert_allclose(values[name], wanted[weight], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(values["y"], wanted["y"], rtol=1e-4, atol=1e-4)
        assert (given in values) == bool(feed["c"])  # what is given by the branch already


def test_what_lies_two_branches_deep_is_in_view_too() -> None:
    m = named()
    deep = {n.op_type: n.inputs[0].name for graph in ir.all_graphs(m) for n in graph if n.op_type in ("Neg", "Abs")}
    seen = [{op for op, name in deep.items() if name in values} for values in watch(m, [*deep.values()], feeds(), 1)]
    assert seen == [set(), {"Neg"}, {"Abs"}]


def test_facts_are_of_all_that_ran() -> None:
    m = named()
    facts = calibrate(m, feeds(), 1)
    for weight, ways in (("w0", feeds()), ("w1", feeds()), ("w2", feeds()[1:]), ("w3", feeds()[1:])):
        x = np.concatenate([by_hand(f)[weight] for f in ways])
        seen = facts[read_of(m, weight)]
        assert (seen.low, seen.high) == pytest.approx((x.min(), x.max()), rel=1e-4)
    note(m, facts)
    assert all(n.inputs[0].meta["olc.observed"] is facts[n.inputs[0].name] for w in ("w0", "w1") for n in nodes_of(m, w))


def test_what_the_target_asks_of_weights_it_asks_in_branches() -> None:
    m = named()
    (inner,) = (ir.owner(n) for n in nodes_of(m, "w2"))
    moved = m.graph.initializers.pop("w2")
    inner.register_initializer(moved)
    for saturates, limit in ((True, INT7_LIMIT), (False, INT8_LIMIT)):
        note(m, {}, {"w2": {"form": 1}}, SimpleNamespace(features=lambda s=saturates: {"int8_saturates": s}))  # type: ignore[arg-type]
        assert {weight_limit(v) for v in (moved, *(n.inputs[0] for n in nodes_of(m, "w2")))} == {limit}
        assert prepared(moved, "form") == 1


@pytest.mark.parametrize(("weight", "ran"), [("w1", slice(0, 2)), ("w2", slice(1, 3))])
def test_errors_are_of_the_first_samples_with_which_a_layer_runs(weight: str, ran: slice) -> None:
    m = named()
    (error,) = layers.errors(m, [("int8-linear", name_of(m, weight))], feeds(), 1).values()
    w = weights()[weight]
    q, scale = quantize_linear_weight(w)
    wanted = []
    for feed in feeds()[ran]:
        x = by_hand(feed)[weight]
        wanted.append(emulate.relative_error(x @ w, emulate.fake_uint8(x, x.min(), x.max()) @ (q * scale)))
    assert error == pytest.approx(np.mean(wanted), rel=1e-2)
    assert layers.errors(m, [("int8-linear", name_of(m, "w2"))], feeds()[:1], 1) == {}


def test_what_arrives_is_measured_where_a_layer_runs() -> None:
    """Noise at w1's own output is the model's; behind w2 a norm, and a layer more."""
    m = named()
    for n in nodes_of(m, "w1"):  # what a branch gives is what the layer makes
        ir.owner(n).outputs[:] = [n.outputs[0]]
    names = [name_of(m, w) for w in ("w1", "w2", "w3")]
    told = sensitivities(m, names, feeds(), lambda feed, values: dict(values), 1)
    assert told[names[0]] == pytest.approx(0.5, rel=0.1)  # noise at right angles
    alone = sensitivities(m, names[1:], feeds()[:1], lambda feed, values: dict(values), 1)
    assert set(alone.values()) == {1.0}  # nothing was measured
    assert 0.05 < told[names[1]] < 5
    assert told[names[1]] != told[names[0]]


# --- what is rounded ----------------------------------------------------------------------------------------------------


def asking(**options: object) -> SimpleNamespace:
    asked = {"rules": registry(), "target": TARGET, "quantize": "int8", "keep_float": (), "notes": []}
    return SimpleNamespace(**asked | {"ctx": Context(target=TARGET), "feeds": feeds(), "threads": 1} | options)


def test_one_layer_is_one_site() -> None:
    m = named()
    found = quantize.sites(asking(), m)["int8"]
    assert found == sorted(("int8-linear", name_of(m, w)) for w in ("w0", "w1", "w2", "w3"))


def test_layers_of_a_branch_that_no_sample_took_stay_in_float() -> None:
    m, asked = named(), asking(feeds=feeds()[:1])
    assert {node for _, node in quantize.sites(asked, m)["int8"]} == {name_of(m, "w0"), name_of(m, "w1")}
    assert any(note.startswith("2 layers in branches that no sample took") for note in asked.notes)


def test_a_layer_that_fits_in_one_branch_only_is_none() -> None:
    m = named()
    first = nodes_of(m, "w1")[0]
    first.inputs[0].meta["olc.dims"] = None
    first.inputs[0].shape = None
    m.graph.initializers["w1"].shape = ir.Shape(MATRIX)
    rule = registry()["int8-linear"]
    fit = quantize.fitting(m, rule, ir.sites(m))
    assert name_of(m, "w0") in fit
    assert name_of(m, "w1") not in fit


@pytest.mark.parametrize(("pattern", "weight"), [("h3", "w1"), ("w1", "w1"), ("n1", "w3"), ("n2", "w3")])
def test_a_layer_that_a_user_names_in_one_branch_stays_in_both(pattern: str, weight: str) -> None:
    m = named()
    found = quantize.sites(asking(keep_float=(pattern,)), m)["int8"]
    assert ("int8-linear", name_of(m, weight)) not in found
    assert len(found) == 3


@pytest.mark.parametrize(("asked", "kernel"), [("int8", "DynamicQuantizeMatMul"), ("int4", "MatMulNBits")])
def test_both_branches_are_rounded_and_weights_are_stored_once(asked: str, kernel: str, tmp_path: Path) -> None:
    plan, found = searched(merged(), tmp_path, cosine=0.95, quantize=asked)
    assert Counter(rule for rule, _ in plan.kept()) == {f"{asked if asked == 'int8' else 'int8-block'}-linear": 4}
    assert not [n for n in found.notes if "stay in float" in n]
    result = optimize(merged(), plan.options(r.group for r in registry()), Context(target=TARGET))
    assert Counter(n.op_type for g in ir.all_graphs(result.model) for n in g)[kernel] == 7
    held = Counter(matrices(result.model, np.int8)) + Counter(matrices(result.model, np.uint8))
    assert held["g"] >= 2  # w0 and w1; w3 is read further in
    assert sum(held.values()) == 4
    assert not matrices(result.model, np.float32)
    outputs_agree(result.model, tmp_path, 0.99)


def looped() -> ir.Model:
    """Two layers, and Loops that read a weight of theirs, beside them and in a branch. What these hold has the names of those."""
    held = weights()
    body = (f"b{{0}} (int64 i{{0}}, bool g{{0}}, {T} v{{0}}) => (bool o{{0}}, {T} z{{0}}) "
            f"{{{{ o{{0}} = Identity(g{{0}}) [{{1}}] z{{0}} = MatMul(v{{0}}, w1) }}}}")  # fmt: skip
    text = (f'<ir_version: 10, opset_import: ["" : 23]> g ({T} x, bool c, bool d, int64 n) => ({T} y) {{ '
            f"[h1] h1 = MatMul(x, w0) l = Loop (n, , h1) <body = {body.format(0, 'h1')}> "
            f"y = If (c) < then_branch = t () => ({T} p) {{ k = Loop (n, , l) <body = {body.format(1, 'h2')}> "
            f"[h2] p = MatMul(k, w1) }}, else_branch = e () => ({T} q) {{ [h2] q = MatMul(l, w1) }} > }}")  # fmt: skip
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(held[w], w) for w in ("w0", "w1"))
    onnx.checker.check_model(proto)
    return ir.serde.deserialize_model(proto)


def test_layers_of_loops_stay_whatever_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = [f | {"n": np.array(2)} for f in feeds()]
    monkeypatch.setattr("tests.quantizing.FEEDS", ways)
    plan, found = searched(looped(), tmp_path, cosine=0.95, quantize="int8")
    assert Counter(rule for rule, _ in plan.kept()) == {"int8-linear": 2}
    assert any("2 layers within bodies of Loop" in n for n in found.notes)
    result = optimize(looped(), plan.options(r.group for r in registry()), Context(target=TARGET))
    bodies = {g.name: Counter(n.op_type for n in g) for g in ir.all_graphs(result.model)}
    assert [bodies[g]["DynamicQuantizeMatMul"] for g in ("g", "t", "e", "b0", "b1")] == [1, 1, 1, 0, 0]
    assert bodies["b0"]["MatMul"] == bodies["b1"]["MatMul"] == 1
    storage.save(result.model, tmp_path / "made.onnx")
    opened, held = session(tmp_path / "made.onnx", threads=1), weights()
    for feed in ways:
        times = 2 + 2 * bool(feed["c"]) + 1
        a, b = run(opened, feed)["y"].ravel(), (feed["x"] @ held["w0"] @ np.linalg.matrix_power(held["w1"], times)).ravel()
        assert a @ b > 0.99 * np.linalg.norm(a) * np.linalg.norm(b)


def test_a_weight_that_both_branches_make_anew_is_one_layer() -> None:
    m = merged()
    for i, n in enumerate(nodes_of(m, "w1")):
        read = list(n.outputs[0].uses())
        scaled = ir.make_node("Mul", [n.outputs[0], m.graph.initializers["s"]], name=f"scaled_{i}")
        scaled.outputs[0].name = f"scaled_{i}"
        ir.owner(n).insert_after(n, [scaled])
        for user, at in read:
            user.replace_input_with(at, scaled.outputs[0])
    made = optimize(m, Options(level=3), Context(target=TARGET)).model
    assert not nodes_of(made, "w1")  # the scale is in the weight
    assert Counter(rule for rule, _ in quantize.sites(asking(), made)["int8"]) == {"int8-linear": 4}


def test_two_bodies_hold_the_weights_that_their_branches_share(tmp_path: Path) -> None:
    """ONNX Runtime packs weights of the graph around a branch, and not those of one further out."""
    fused = optimize(merged(), Options(level=3), Context(target=TARGET)).model
    rounded = [("int4-block-linear", name_of(fused, w)) for w in ("w0", "w1", "w2", "w3")]
    few = Few("x", 40 * WIDTH, quantize.by_rule(rounded))
    made = optimize(merged(), Options(level=3, few=few), Context(target=TARGET)).model
    held = matrices(made, np.uint8)
    assert held == {"few": 2, "fresh": 2}  # w0 and w1; w2 and w3, which are read further in
    assert matrices(made, np.float32) == {"more": 4}
    outputs_agree(made, tmp_path, 0.97)
    exact = optimize(merged(), Options(level=3, few=replace(few, most=39 * WIDTH)), Context(target=TARGET)).model
    outputs_agree(exact, tmp_path, 0.999999)


def test_a_plan_says_the_same_again(tmp_path: Path) -> None:
    plan, _ = searched(merged(), tmp_path, cosine=0.9999, quantize="int8")
    again = Plan.loads(plan.dumps())
    made = [optimize(merged(), p.options(r.group for r in registry()), Context(target=TARGET)).model for p in (plan, again)]
    assert storage.to_bytes(made[0]) == storage.to_bytes(made[1])
    told = {(rule, node) for rule, node in again.sites if rule == "int8-linear"}
    assert len(told) == 4


def test_the_report_tells_of_layers_that_one_branch_has(tmp_path: Path) -> None:
    plan, found = searched(merged(), tmp_path, cosine=0.95, quantize="int8")
    rows = {r["node"]: r for r in search.layers(found, plan) if r["kept"]}
    assert len(rows) == 4
    assert all(before > 0 and after > 0 for before, after in (r["microseconds"] for r in rows.values()))


def test_schemes_are_mixed_by_layer(tmp_path: Path) -> None:
    """The budget has no room for all: a layer goes back in both of its branches, or nowhere."""
    plan, found = searched(merged(), tmp_path, cosine=0.9999, quantize="int8")
    kept = [node for _, node in plan.kept()]
    assert 0 < len(kept) == len(set(kept)) < 4
    result = optimize(merged(), plan.options(r.group for r in registry()), Context(target=TARGET))
    ways = Counter(n.op_type for g in ir.all_graphs(result.model) for n in g)
    fused = optimize(merged(), Options(level=3), Context(target=TARGET)).model
    floats = {w for w in ("w0", "w1", "w2", "w3") if name_of(fused, w) not in kept}
    assert floats
    assert ways["MatMul"] == sum(len(nodes_of(fused, w)) for w in floats)
    assert found.errors
    assert found.arrived


# --- what is learnt -----------------------------------------------------------------------------------------------------


def test_a_shared_activation_is_smoothed_once(tmp_path: Path) -> None:
    m = named()
    note(m, calibrate(m, feeds(), 1))
    assert smooth.run(m, Context(), {read_of(m, "w1"): 0.5}) == 1
    optimize(m, Options(level=1), Context(target=TARGET))
    assert sum(v.shape == ir.Shape(MATRIX) for g in ir.all_graphs(m) for v in g.initializers.values()) == 4
    assert not nodes_of(m, "w1")
    outputs_agree(m, tmp_path, 0.999999)


def test_a_layer_that_reads_what_has_two_names_is_not_smoothed() -> None:
    """Its one weight cannot be that of both."""
    m, channels = named(), np.geomspace(0.01, 100, WIDTH).astype(np.float32)
    name, seen = read_of(m, "w1"), calibrate(m, feeds(), 1)
    far = {name: layers.Observed(-100, 100, channels), "apart": layers.Observed(-100, 100, channels)}
    for n in nodes_of(m, "w1"):  # what makes it has the channel that stands out
        scale = ir.make_constant(channels, f"far_of_{ir.owner(n).name}")
        m.graph.register_initializer(scale)
        n.inputs[0].producer().replace_input_with(1, scale)
    note(m, seen | far)
    assert name in layers.alphas(m, {name_of(m, "w1")}, feeds(), 1)
    nodes_of(m, "w1")[1].inputs[0].name = "apart"
    note(m, seen | far)
    assert not layers.alphas(m, {name_of(m, "w1")}, feeds(), 1)


def test_least_squares_sees_both_branches() -> None:
    random = np.random.default_rng(7)
    mix = random.normal(size=(4, WIDTH)).astype(np.float32)
    fed = [f | {"x": (random.normal(size=(200, 4)) @ mix).astype(np.float32) / 4} for f in (*feeds(), *feeds())]
    m = named()
    both = [("int4-block-linear", name_of(m, w)) for w in ("w0", "w2")]
    made = least_squares(m, both, fed, lambda feed, values: dict(values), 1)
    assert made.keys() == {"w0", "w2"}
    x, w = by_hand(fed[0])["w0"], weights()["w0"]
    assert emulate.block(x, w, 4, 64, made["w0"][block_form(4)]) < 0.9 * emulate.block(x, w, 4, 64)
    options = Options(level=3, sites=quantize.by_rule(both), weights=made)
    result = optimize(merged(), options, Context(target=TARGET)).model
    assert sum(matrices(result, np.uint8).values()) == 2
    held = [ir.array(v) for g in ir.all_graphs(result) for v in g.initializers.values()]
    for weight in made:  # as it was rounded with care, in both branches
        assert sum(np.array_equal(a, pack(made[weight][block_form(4)]).weight) for a in held) == 1


def test_a_plan_with_what_was_learnt_is_carried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of activations and weights are those of the search."""
    monkeypatch.setattr("olc.evaluation.evaluate.Evaluation.slower", False)
    fused = optimize(merged(), Options(level=3), Context(target=TARGET)).model
    note(fused, calibrate(fused, feeds(), 1), target=TARGET)
    alphas, sites = {read_of(fused, "w1"): 0.8}, {("int8-row-linear", name_of(fused, "w1")): Choice(True, "")}
    [layer] = rounding.layers_of(fused, sites, alphas)
    plan = Plan(TARGET.name, 3, sites=sites, smooth=alphas, rounded=(rounding.named(layer.constant.name or "", layer.form),))
    storage.save(merged(), tmp_path / "m.onnx")
    (tmp_path / "data").mkdir()
    for i, feed in enumerate(f for f in feeds() for _ in range(2)):  # every other one judges
        np.savez(tmp_path / "data" / f"{i}.npz", **feed)
    options = {"plan": plan, "data": str(tmp_path / "data"), "samples": 3, "threads": 1}
    compile(tmp_path / "m.onnx", tmp_path / "out.onnx", level=3, measure=False, budget=Budget(0.9, None), **options)
    made = storage.load(tmp_path / "out.onnx")
    (codes,) = (ir.array(v) for g in ir.all_graphs(made) for v in g.initializers.values() if v.dtype == ir.DataType.INT8)
    again = carried_out(fused, plan, registry(), Context(target=TARGET), feeds(), lambda feed, values: dict(values), 1)
    np.testing.assert_array_equal(codes, again[layer.constant.name or ""][layer.form][0])
    assert not np.array_equal(codes, quantize_linear_weight(layer.weights[0], layer.limit)[0])
    assert Counter(n.op_type for g in ir.all_graphs(made) for n in g)["DynamicQuantizeMatMul"] == 2
    outputs_agree(made, tmp_path, 0.999)
