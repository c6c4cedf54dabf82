"""What -O3 rounds, where a table stands in for the clock: a model is as fast as its kernels say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from olc import ir, storage, targets
from olc.analysis import shapes
from olc.driver import compile
from olc.evaluation.latency import Paired, Side
from olc.passes import Context, float16
from olc.pipeline import Options, optimize
from olc.quantization import Observed, block_form, emulate, quantize_linear_weight
from olc.quantization.facts import note
from olc.rules import Registry, registry
from olc.session import SessionOptions, run, session
from olc.settings import Settings
from olc.strategy import layers, quantize, search
from olc.strategy.calibrate import calibrate
from olc.strategy.part import Fit
from olc.strategy.plan import Body, Choice, Plan
from olc.strategy.rounding import least_squares

from tests.planted import linear, times
from tests.quantizing import FAR, FEEDS, LAYERS, SPEED, TARGET, WIDTH, Bench, Phases, model, normed, searched


@pytest.fixture(autouse=True)
def profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer takes the same time."""
    monkeypatch.setattr("olc.strategy.search.node_times", lambda *_: {f"h{i + 1}": 1.0 for i in range(LAYERS)})


def decoder() -> tuple[ir.Model, list[dict[str, np.ndarray]]]:
    """Tokens through linear layers, and samples of one token and of many in turn."""
    made, random = model(), np.random.default_rng(4)
    table = ir.make_constant(random.normal(size=(50, WIDTH)).astype(np.float32), "table")
    ids = ir.Value(name="input_ids", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["N"]))
    made.graph.register_initializer(table)
    looked = ir.make_node("Gather", [table, ids], name="embedding")
    looked.outputs[0].name = "embedded"
    x = made.graph.inputs[0]
    x.replace_all_uses_with(looked.outputs[0])
    made.graph.inputs[:] = [ids]
    made.graph.insert_before(made.graph[0], [looked])
    shapes.infer(made)
    return made, [{"input_ids": random.integers(0, 50, n)} for n in (1, 40, 1, 30)]


def test_few_tokens_get_a_body_of_their_own_where_nothing_pays_for_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, feeds = decoder()
    monkeypatch.setattr("tests.quantizing.Bench", Phases)
    monkeypatch.setattr("tests.quantizing.FEEDS", feeds)
    slow = SPEED | {"MatMulNBits": 0.5, "DynamicQuantizeMatMul": 0.5, "Div": 1.0}
    monkeypatch.setattr(Phases, "SPEEDS", {"few": Phases.SPEEDS["few"], "more": slow})
    plan, _ = searched(made, tmp_path, cosine=0.99)
    assert plan.few is not None
    assert not [site for site, c in plan.sites.items() if c.keep]
    assert {rule for (rule, _), c in plan.few.sites.items() if c.keep} == {"int8-block-linear"}
    result = optimize(made.clone(), plan.options(r.group for r in registry()), Context(target=TARGET))
    bodies = {g.name: Counter(n.op_type for n in g) for g in ir.all_graphs(result.model)}
    assert bodies["few"]["MatMulNBits"] == bodies["more"]["MatMul"] == LAYERS


@pytest.mark.parametrize(("overhead", "long"), [(1.0, 1.0), (3.0, 1.0), (1.0, 1000.0)])
def test_few_tokens_get_a_body_of_their_own_where_that_is_faster(
    overhead: float, long: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little of the time of all samples they take."""
    made, feeds = decoder()
    monkeypatch.setattr("tests.quantizing.Bench", Phases)
    monkeypatch.setattr("tests.quantizing.FEEDS", feeds)
    monkeypatch.setattr(Phases, "overhead", overhead)
    monkeypatch.setattr(Phases, "long", long)
    plan, _ = searched(made, tmp_path, cosine=0.99)
    if overhead > 1:  # two bodies are slower than one
        assert plan.few is None
        assert len(kept(plan)) == 1
        return
    assert plan.few is not None
    assert (plan.few.name, plan.few.most) == ("input_ids", 4)
    assert {rule for (rule, _), c in plan.sites.items() if c.keep} == {"int8-linear"}
    assert {rule for (rule, _), c in plan.few.sites.items() if c.keep} == {"int8-block-linear"}
    assert Plan.loads(plan.dumps()).options([]) == plan.options([])
    result = optimize(made.clone(), plan.options(r.group for r in registry()), Context(target=TARGET))
    assert result.body is not None
    storage.save(result.model, tmp_path / "two.onnx")
    opened, source = session(tmp_path / "two.onnx", threads=1), session(tmp_path / "source.onnx", threads=1)
    for feed in feeds:
        a, b = run(opened, feed)["y"].ravel(), run(source, feed)["y"].ravel()
        assert a @ b > 0.99 * np.linalg.norm(a) * np.linalg.norm(b)
    assert Counter(n.op_type for g in ir.all_graphs(result.model) for n in g)["MatMulNBits"] == LAYERS


def kept(plan: Plan) -> Counter[str]:
    return Counter(rule for rule, _ in plan.kept())


def test_everything_where_the_budget_allows_it(tmp_path: Path) -> None:
    plan, bench = searched(model(), tmp_path)
    assert kept(plan) == {"int8-linear": LAYERS}
    assert all(c.why for c in plan.sites.values())
    told = {r["node"]: r["microseconds"] for r in search.layers(bench, plan) if r["kept"]}
    assert set(told) == {f"h{i + 1}" for i in range(LAYERS)}
    assert all(before > 0 and after > 0 for before, after in told.values())


def test_what_breaks_the_budget_goes_to_a_closer_scheme(tmp_path: Path) -> None:
    """A token that stands out takes int8's resolution from the others, where there is no scale for each row."""
    plan, bench = searched(model(token=True), tmp_path, cosine=0.999)
    assert kept(plan) == {"int8-linear": LAYERS - 1, "int8-row-linear": 1}
    assert ("int8-row-linear", f"h{LAYERS}") in plan.kept()
    alone = {node: e for (rule, node), e in bench.errors.items() if rule == "int8-linear"}
    assert max(alone, key=lambda n: alone[n]) == f"h{LAYERS}"


def attending() -> tuple[ir.Model, list[dict[str, np.ndarray]]]:
    """A linear layer, an attention of what it gives, and another linear layer."""
    text = (f'<ir_version: 10, opset_import: ["" : 23]> g (float[B, S, {WIDTH}] x) => (float[B, S, {WIDTH}] y) {{ '
            "[h1] a = MatMul(x, w0) [attention] b = Attention<q_num_heads = 2, kv_num_heads = 2>(a, a, a) "
            "[h2] y = MatMul(b, w1) }")  # fmt: skip
    proto = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    for i in range(2):
        w = random.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 8
        proto.graph.initializer.append(onnx.numpy_helper.from_array(w, f"w{i}"))
    made = ir.serde.deserialize_model(proto)
    shapes.infer(made)
    return made, [{"x": random.normal(size=(1, 20, WIDTH)).astype(np.float32)} for _ in range(3)]


def test_attention_and_linear_layers_are_rounded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither scheme reaches what the other does."""
    made, feeds = attending()
    monkeypatch.setattr("tests.quantizing.FEEDS", feeds)
    monkeypatch.setattr("tests.quantizing.SPEED", SPEED | {"Attention": 0.2, "MatMulIntegerToFloat": 2.0})
    monkeypatch.setattr("olc.strategy.search.node_times", lambda *_: {"h1": 1.0, "attention": 5.0, "h2": 1.0})
    plan, bench = searched(made, tmp_path)
    assert kept(plan) == {"int8-linear": 2, "int8-attention": 1}
    assert 0 < bench.errors["int8-attention", "attention"] < 1e-3


def test_a_scheme_that_cannot_be_faster_than_what_fits_waits_for_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what it is, or by the table; where what is ahead of it does not fit it does not wait."""
    told: dict[str, float] = {"int8-linear": 3.0, "int8-block-linear": 2.0, "int4-block-linear": 4.0}
    monkeypatch.setattr(Bench, "foretold", lambda self, best, sites, part: told.get(sites[0][0]))
    _, bench = searched(model(), tmp_path)
    tried = [t.what for t in bench.trials if "layers" in t.what]
    more = ["int7"] if TARGET.features()["int8_saturates"] else []
    assert [what.split()[-1] for what in tried] == ["int8", *more, "int4-block", "int8-row", "int8-block"]
    _, bench = searched(model(token=True), tmp_path, cosine=0.999)
    tried = [t.what.split()[-1] for t in bench.trials if t.what.startswith("all")]
    assert [what for what in tried if what not in more][:2] == ["int8", "int8-row"]


def test_samples_of_equal_shapes_are_one_to_a_profile() -> None:
    """A sequence is a list of arrays, whose shapes may differ."""
    a, b = np.ones((2, 3)), np.ones((4, 3))
    feeds = [{"x": a}, {"x": b}, {"x": a * 2}, {"x": [a, b]}, {"x": [b, a]}, {"x": [a, b]}]
    assert search._alike(feeds) == [0, 1, 0, 3, 4, 3]


def test_mixtures_met_on_the_way_are_kept_for_what_fails_where_it_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors are foretold a hundred times too large, so that the first mixture is closer than it need be."""
    monkeypatch.setattr("olc.strategy.part.errors", lambda *a: {site: 100 * e for site, e in layers.errors(*a).items()})
    plan, bench = searched(model(token=True), tmp_path, cosine=0.9999)
    closer, last = bench.fits
    assert (closer.timed, last.timed, set(last.sites)) == (False, True, plan.kept())
    assert 1 < closer.speed < last.speed
    assert closer.error < last.error
    then, _ = search.next_best(plan, bench.fits, last.error)
    assert then.kept() == set(closer.sites)


def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nine: str) -> tuple[ir.Model, Registry]:
    """Four layers that a LOSSY rule makes much faster, wrongly so at the second."""
    monkeypatch.setitem(SPEED, "FusedMatMul", 8.0)
    made = f"{nine} if ir.array(m.w).flat[0] == 9 else {times(1.0)}"
    m = model()
    w = ir.array(m.graph.initializers["w1"]).copy()
    w[0, 0] = 9
    m.graph.initializers["w1"].const_value = ir.Tensor(w, name="w1")
    return m, registry([linear(tmp_path, made)])


@pytest.mark.parametrize("slowest", [f"h{i + 1}" for i in range(LAYERS)])
def test_the_layer_that_breaks_the_budget_stays_float_alone(
    slowest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is known of the rule's errors, so that layers go by their time, the slowest last; h2 has to go."""
    took = {f"h{i + 1}": i + 1.0 for i in range(LAYERS)} | {slowest: 9.0}
    monkeypatch.setattr("olc.strategy.search.node_times", lambda *_: took)
    m, rules = planted(tmp_path, monkeypatch, times(-1.0))
    plan, _ = searched(m, tmp_path, rules=rules)
    assert {node for rule, node in plan.kept() if rule == "planted-linear"} == {"h1", "h3", "h4"}
    assert "the budget is exceeded" in plan.sites["planted-linear", "h2"].why


def test_a_layer_that_was_skipped_is_no_site() -> None:
    ctx = Context(target=TARGET, skip=frozenset({"int8-linear@h2", "int4-block-linear"}))
    asking = SimpleNamespace(rules=registry(), target=TARGET, quantize="auto", keep_float=(), ctx=ctx, feeds=[])
    found = quantize.sites(asking, model())  # type: ignore[arg-type]
    assert found["int8"] == [("int8-linear", f"h{i}") for i in (1, 3, 4)]
    assert not found.get("int4-block")


def test_with_data_the_channel_is_smoothed(tmp_path: Path) -> None:
    plan, _ = searched(model(channel=True), tmp_path, cosine=0.999, data=True)
    assert kept(plan) == {"int8-linear": LAYERS}
    assert list(plan.smooth) == [f"a{LAYERS - 1}"]
    assert Plan.loads(plan.dumps()) == plan


def test_nothing_where_nothing_fits_or_nothing_is_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, _ = searched(model(), tmp_path, cosine=1.0)
    assert not plan.kept()
    assert {c.why for c in plan.sites.values() if "budget" in c.why}
    monkeypatch.setitem(SPEED, "DynamicQuantizeMatMul", 1.0)
    monkeypatch.setitem(SPEED, "MatMulNBits", 0.5)
    plan, _ = searched(model(), tmp_path)
    assert not plan.kept()
    assert all("no difference shown" in c.why or "slower" in c.why for c in plan.sites.values())


@pytest.mark.parametrize(("asked", "rules"), [
    ("int4", {"int4-block-linear"}), ("int8", {"int8-linear"}), ("none", set()), ("auto", {"int8-linear"}),
])  # fmt: skip
def test_what_a_user_asks_for(asked: str, rules: set[str], tmp_path: Path) -> None:
    plan, _ = searched(model(), tmp_path, cosine=0.9, quantize=asked)
    # Blocks of 4 and of 8 bits are equally fast in the table, so that int4 has to be tried and need not be kept.
    assert set(kept(plan)) == rules or (asked == "int4" and set(kept(plan)) == {"int8-block-linear"})
    assert ("int4-block-linear" in {rule for rule, _ in plan.sites}) == (asked in ("int4", "auto"))


@pytest.mark.parametrize(("cosine", "fits"), [(0.999, True), (0.9999999, False)])
def test_experts_are_layers(cosine: float, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one mixture of experts and one linear layer that costs nothing."""
    random = np.random.default_rng(6)
    gated = 'k = 2, activation_type = "swiglu", swiglu_fusion = 1, activation_alpha = 1.0, activation_beta = 0.0'
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]> g (float[B, 64] x, float[B, 1] r) => (float[B, 64] y) '
        f"{{ [route] l = MatMul(x, wr) [experts] m = com.microsoft.MoE<{gated}>(x, l, up, , down) y = Mul(m, r) }}"
    )
    for name, shape in (("wr", (64, 4)), ("up", (4, 256, 64)), ("down", (4, 64, 128))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array((random.normal(size=shape) / 8).astype(np.float32), name))
    monkeypatch.setitem(SPEED, "MoE", 1.0)
    monkeypatch.setitem(SPEED, "QMoE", 4.0)
    monkeypatch.setattr("olc.strategy.search.node_times", lambda *_: {"experts": 1.0})
    made = ir.serde.deserialize_model(proto)
    shapes.infer(made)
    plan, bench = searched(made, tmp_path, cosine=cosine, keep_float=("route",))
    assert kept(plan).keys() == ({"int8-block-experts"} if fits else set())
    if not fits:
        assert 0 < bench.errors["int8-block-experts", "experts"] < 0.1 * bench.errors["int4-block-experts", "experts"]
    plan, _ = searched(made, tmp_path, cosine=cosine, keep_float=("exp*", "route"))
    assert not plan.sites


@pytest.mark.parametrize("pattern", ["h2", "w1", "h[2]"])
def test_layers_that_stay_float_by_name(pattern: str, tmp_path: Path) -> None:
    plan, _ = searched(model(), tmp_path, keep_float=(pattern,))
    assert {node for _, node in plan.sites} == {f"h{i + 1}" for i in range(LAYERS)} - {"h2"}


def test_the_next_choice_has_a_smaller_error() -> None:
    sites = [("int8-linear", "a"), ("int8-linear", "b")]
    plan = Plan("t", 3, sites={s: Choice(True, "") for s in sites}, smooth={"v": 0.5})
    fits = [Fit(3.0, 0.01, tuple(sites), {"v": 0.5}), Fit(2.0, 0.004, (sites[1],), {}), Fit(2.5, 0.009, (sites[0],), {})]
    then, error = search.next_best(plan, fits, 0.01)
    assert (then.kept(), then.smooth, error) == ({sites[1]}, {}, 0.004)
    last, _ = search.next_best(then, fits, error)
    assert not last.kept()


def test_of_two_bodies_the_one_for_many_goes_back_to_float_first() -> None:
    site, other = ("int8-linear", "a"), ("int4-block-linear", "a")
    few = Body("ids", 4, {other: Choice(True, "")}, {})
    plan = Plan("t", 3, sites={site: Choice(True, "")}, smooth={"v": 0.5}, few=few)
    then, error = search.next_best(plan, [Fit(2.0, 0.004, (site,), {})], 0.01)
    assert (then.kept(), then.smooth, then.few, error) == ({other}, {}, few, 0.01)
    closer = ("int8-block-linear", "a")
    few_fits = [Fit(4.0, 0.004, (other,), {}), Fit(3.0, 0.0035, (site,), {}), Fit(2.5, 0.001, (closer,), {"v": 0.4})]
    third, error = search.next_best(then, [], error, few_fits)
    assert third.few is not None
    assert (third.kept(), third.few.smooth) == ({closer}, {"v": 0.4}), "not that which is hardly closer"
    last, _ = search.next_best(third, [Fit(2.0, 0.004, (site,), {})], error, few_fits)
    assert (last.kept(), last.few) == ({site}, None)


def test_calibration_sees_every_sample() -> None:
    facts = calibrate(model(), FEEDS, 1)
    x = normed(np.concatenate([f["x"] for f in FEEDS]))
    seen = facts["a0"]
    assert (seen.low, seen.high) == pytest.approx((x.min(), x.max()), rel=1e-5)
    np.testing.assert_allclose(seen.channels, np.abs(x).max(axis=0), rtol=1e-5)


def test_errors_are_those_of_the_layer() -> None:
    m = model()
    found = layers.errors(m, [("int8-linear", "h1"), ("int4-block-linear", "h1")], FEEDS[:1], 1)
    x, w = normed(FEEDS[0]["x"]), ir.array(next(v for v in m.graph.initializers.values() if v.name == "w0"))
    q, scale = quantize_linear_weight(w)
    rounded = emulate.fake_uint8(x, x.min(), x.max()) @ (q * scale)
    assert found["int8-linear", "h1"] == pytest.approx(emulate.relative_error(x @ w, rounded), rel=1e-3)
    assert found["int4-block-linear", "h1"] > 3 * found["int8-linear", "h1"]


def test_errors_of_a_layer_that_reads_what_a_caller_may_override() -> None:
    m = model()
    x = m.graph.inputs[0]
    x.const_value, x.shape = ir.Tensor(FEEDS[0]["x"], name="x"), ir.Shape([40, WIDTH])
    m.graph.initializers["x"] = x
    first = next(n for n in m.graph if n.name == "h1")
    first.replace_input_with(0, x)
    (error,) = layers.errors(m, [("int8-linear", "h1")], [{"r": FAR}], 1).values()
    w = ir.array(m.graph.initializers["w0"])
    q, scale = quantize_linear_weight(w)
    x0 = FEEDS[0]["x"]
    rounded = emulate.fake_uint8(x0, x0.min(), x0.max()) @ (q * scale)
    assert error == pytest.approx(emulate.relative_error(x0 @ w, rounded), rel=1e-3)


def test_an_operator_without_weights_is_judged_by_what_it_reads_and_gives() -> None:
    m = model()
    node = next(n for n in m.graph if n.name == "t0")
    found = []
    for reach in (5.0, 500.0):
        node.inputs[0].meta["olc.observed"] = Observed(-reach, reach)
        found.append(layers.errors(m, [("int8-sigmoid", "t0")], FEEDS[:1], 1)["int8-sigmoid", "t0"])
    assert found[1] > 100 * found[0] > 0


def learnt(*nodes: str) -> list[tuple[str, str]]:
    return [("int4-block-linear", node) for node in nodes]


def test_least_squares_keeps_what_gains_on_other_inputs() -> None:
    """Activations that move together: what one weight loses another can make good."""
    random = np.random.default_rng(7)
    mix = random.normal(size=(4, WIDTH)).astype(np.float32)
    feeds = [{"x": (random.normal(size=(200, 4)) @ mix).astype(np.float32) / 4, "r": FAR[:1]} for _ in range(3)]
    m = model()
    made = least_squares(m, learnt("h1", "h2"), feeds, lambda feed, values: dict(values), 1)
    assert "w0" in made
    x, w = normed(feeds[-1]["x"]), ir.array(m.graph.initializers["w0"])
    assert emulate.block(x, w, 4, 64, made["w0"][block_form(4)]) < 0.9 * emulate.block(x, w, 4, 64)
    assert least_squares(m, learnt("h1"), feeds[:1], lambda feed, values: dict(values), 1) == {}


def test_every_scheme_names_rules_that_there_are() -> None:
    known = {r.name for r in registry() if r.safety.level == "LOSSY"}
    assert {name for members in quantize.SCHEMES.values() for name in members} <= known | {float16.NAME}
    assert {*layers.ESTIMATES, *layers.OF_NODES} <= known


def test_what_is_found_is_what_is_carried_out() -> None:
    """HardSwish has no kernel: the search sees the parts that lowering writes out, and so must the compile."""
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 22]> g (float[1, 8, 6, 6] x) => (float[1, 8, 6, 6] y) '
        "{ a = Conv(x, w) b = HardSwish(a) c = Conv(b, w) d = HardSwish(c) y = Conv(d, w) }"
    )
    for n in proto.graph.node:
        n.name = n.output[0]
    random = np.random.default_rng(3)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(random.normal(size=(8, 8, 1, 1)).astype(np.float32), "w"))
    source = ir.serde.deserialize_model(proto)
    fused = optimize(source.clone(), Options(level=2), Context(target=TARGET)).model
    facts = calibrate(fused, [{"x": random.normal(size=(1, 8, 6, 6)).astype(np.float32)}], 1)
    note(fused, facts)
    ctx = Context(target=TARGET)
    asking = SimpleNamespace(rules=registry(), target=TARGET, quantize="auto", keep_float=(), ctx=ctx, feeds=[])
    (found,) = quantize.sites(asking, fused).values()  # type: ignore[arg-type]
    assert len(found) > 3  # more than the convolutions
    ctx = Context(target=TARGET)
    optimize(source, Options(level=3, sites=quantize.by_rule(found), facts=facts), ctx)
    assert set(found) <= {(e.by, e.site) for e in ctx.events if e.number is not None}


def test_a_layer_in_a_loop_stays_as_it_is() -> None:
    """No estimate looks into what runs many times."""
    m = model()
    given = f"bool on, float[B, {WIDTH}] z"
    body = onnx.parser.parse_graph(
        f"body (int64 i, bool go, float[B, {WIDTH}] a) => ({given}) {{ on = Identity(go) z = MatMul(a, w1) }}"
    )
    body.node[1].name = "inner"
    proto = ir.serde.serialize_model(m)
    proto.graph.node.append(onnx.helper.make_node("Loop", ["n", "", "x"], ["v"], "loop", body=body))
    proto.graph.input.append(onnx.helper.make_tensor_value_info("n", onnx.TensorProto.INT64, []))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("v", onnx.TensorProto.FLOAT, ["B", WIDTH]))
    inside = ir.serde.deserialize_model(proto)
    asking = SimpleNamespace(feeds=[],
        rules=registry(), target=TARGET, quantize="int8", keep_float=("w3",), ctx=Context(target=TARGET), notes=[]
    )  # fmt: skip
    found = quantize.sites(asking, inside)["int8"]  # type: ignore[arg-type]
    assert found == [("int8-linear", f"h{i}") for i in (1, 2, 3)]
    assert any("1 layers within bodies of Loop" in note for note in asking.notes)


def test_convolutions_that_nobody_saw_the_ranges_of_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """<ir_version: 10, opset_import: ["" : 23]> g (float[1, 4, 9] x, float[4, 4, 3] other) => (float[1, 4, 3] y)
        { a = Conv(x, w)  b = Relu(a)  c = Conv(b, w)  y = Conv(c, other) }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 4, 3), np.float32), "w"))
    for target, expected in (("onnxruntime-cpu", 2), ("onnxruntime-cuda", 0), ("tensorrt", 2)):
        asking = SimpleNamespace(rules=registry(), target=targets.get(target), ctx=Context(), keep_float=())
        assert quantize.unseen(asking, ir.serde.deserialize_model(proto)) == expected  # type: ignore[arg-type]
    feeds = [{"x": np.ones((1, 4, 9), np.float32), "other": np.ones((4, 4, 3), np.float32)}]
    monkeypatch.setattr("tests.quantizing.FEEDS", feeds)
    monkeypatch.setattr("tests.quantizing.SPEED", SPEED | {"Conv": 1.0})
    for asked in ("auto", "none"):
        _, bench = searched(ir.serde.deserialize_model(proto), tmp_path, quantize=asked)
        assert any(text.startswith("2 convolutions stay in float") for text in bench.notes) == (asked == "auto")


def test_a_weight_that_two_layers_read_is_rounded_to_the_nearest() -> None:
    m = model()
    (second,) = (n for n in m.graph if n.name == "h2")
    second.replace_input_with(1, m.graph.initializers["w0"])
    random = np.random.default_rng(7)
    feeds = [{"x": random.normal(size=(200, WIDTH)).astype(np.float32), "r": FAR[:1]} for _ in range(3)]
    made = least_squares(m, learnt("h1", "h2", "h3"), feeds, lambda feed, values: dict(values), 1)
    assert "w0" not in made


def test_a_lossy_site_that_the_runtime_refuses_is_taken_back_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = "op.Add(op.MatMul(m.x, m.w), op.Gather(op.constant(np.ones(3, np.float32)), op.constant(np.array(9))))"
    m, _ = planted(tmp_path, monkeypatch, bad)
    storage.save(m, tmp_path / "source.onnx")
    monkeypatch.setattr(search, "PAIR_SECONDS", 0.01)
    settings = Settings(level=3, rules=[str(tmp_path / "planted.py")], measure=False, seconds=600, dims={"B": 2})
    made = compile(tmp_path / "source.onnx", tmp_path / "out.onnx", settings)
    assert [(t["rule"], t["node"]) for t in made.taken_back] == [("planted-linear", "h2")]


@pytest.mark.parametrize(("faster", "kept"), [
    ({"threads": 1}, "runtime level all, 1 thread"),
    ({"config": {"session.intra_op.allow_spinning": "0"}}, "runtime level all, threads that do not spin"),
    ({"parallel": True, "arena": False}, "runtime level all, branches in parallel, no memory arena"),
    ({}, "runtime level all"),
])  # fmt: skip
def test_how_the_model_is_opened_is_chosen_by_measurement(
    faster: dict[str, object], kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[object, SessionOptions]] = []

    class Opening(Bench):
        def open(self, path: Path, options: SessionOptions) -> object:  # type: ignore[override]
            made = super().open(path, options)
            opened.append((made, options))
            return made

        def pair(self, a: object, b: object, part: object = None) -> Paired:
            options = {id(made): o for made, o in opened}
            gains = [sum(getattr(options[id(x)], name) == value for name, value in faster.items()) for x in (a, b)]
            ratio, side = 1.0 + 0.5 * (gains[1] - gains[0]), Side(1.0, 1.0, 1.0, 1.0)
            verdict = "faster" if ratio > 1 else "slower" if ratio < 1 else "no difference shown"
            return Paired(ratio, ratio, ratio, ratio, verdict, 8, 1, side, side, 0.0, 0)

    monkeypatch.setattr("olc.targets.features.cores", lambda: 4)
    monkeypatch.setattr("tests.quantizing.Bench", Opening)
    plan, bench = searched(model(), tmp_path, quantize="none", threads=None)
    assert plan.session.text == kept
    assert Plan.loads(plan.dumps()).session == plan.session
    assert [t.kept for t in bench.trials].count(True) == len(faster)


def test_one_thread_is_asked_nothing_about_threads() -> None:
    assert [*search.opened_as(1)[-1]] == ["arena"]
    assert not {"threads", "config", "parallel"} & {k for change in search.opened_as(1) for k in change}
    assert not any("threads" in change for change in search.opened_as(8)), "the user has said how many"


@pytest.mark.parametrize(("speed", "keep"), [(0.5, False), (2.0, True)])
def test_a_planted_fusion_is_kept_only_where_it_is_not_slower(
    speed: float, keep: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SPEED, "FusedMatMul", speed)
    m, rules = model(), registry([linear(tmp_path, times(1.0), "CLOSE", "sluggish")])
    plan, _ = searched(m, tmp_path, rules=rules, quantize="none")
    assert plan.groups["sluggish"].keep == keep
    made = optimize(m, plan.options(r.group for r in rules), Context(target=TARGET), rules)
    assert Counter(n.op_type for n in made.model.graph)["FusedMatMul"] == (LAYERS if keep else 0)
    others = {group: c.keep for group, c in plan.groups.items() if group != "sluggish"}
    assert all(others.values()), "it goes alone"


def test_the_front_is_one_of_speed_error_and_size() -> None:
    def trial(what: str, speed: float, error: float, size: int, against: str = "") -> search.Trial:
        return search.Trial(what, speed, speed, speed, "faster", True, error, "", against, size)

    found = search.front([
        trial("fast", 3.0, 0.02, 100), trial("close", 2.0, 0.001, 100), trial("small", 1.5, 0.03, 50),
        trial("beaten", 1.9, 0.01, 100),
        trial("in part", 9.0, 0.0, 1, against="float, few tokens"), trial("fast", 3.0, 0.02, 101),
    ])  # fmt: skip
    assert [(f["what"], f["bytes"]) for f in found] == [("small", 50), ("close", 100), ("fast", 100)]


def test_the_size_of_what_was_tried_is_told(tmp_path: Path) -> None:
    _, bench = searched(model(), tmp_path)
    sizes = {t.what: t.bytes for t in bench.trials if t.error is not None}
    assert sizes
    assert all(size is not None and size > 1000 for size in sizes.values())
