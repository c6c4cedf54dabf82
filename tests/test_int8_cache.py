"""Caches in 8 bits: the loop, plain runs and the float model agree, and a compile keeps them only where they fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import olc
import pytest
from olc import ir, storage, targets
from olc.driver import compile
from olc.errors import BadInput
from olc.passes import Context
from olc.pipeline import Options, optimize
from olc.quantization.facts import note
from olc.session import INT8_CACHE, run, session
from olc.strategy.budget import Budget
from olc.strategy.calibrate import calibrate
from olc.strategy.plan import Choice, Plan
from olc.strategy.quantize import NOT_TIMED
from olc.targets import int8_cache

from tests.test_decoding import Decoder, Plain, feeds, generate, model

TARGET = targets.get("onnxruntime-cpu")


def samples(steps: int = 3) -> list[dict[str, np.ndarray]]:
    """Feeds of the decoder at some lengths of its cache."""
    plain, found = Plain(model(), 1), []
    for i in range(steps):
        tokens = np.arange(4)[None] * 5 + i
        fed = feeds(tokens, np.ones((1, 4 * (i + 1)), np.int64))
        found.append({**fed, **plain.caches})
        plain.step(fed)
    return found


def compiled() -> tuple[ir.Model, Any]:
    made = storage.load_bytes(model())
    optimize(made, Options(level=2, shared_cache=True), Context(target=TARGET))
    return made, calibrate(made, samples(), 1)


def rounded() -> ir.Model:
    fused, facts = compiled()
    [name] = [ir.site(n) for n in fused.graph if n.op_type == "GroupQueryAttention"]
    ctx, made = Context(target=TARGET), storage.load_bytes(model())
    sites = {int8_cache.NAME: frozenset({name})}
    optimize(made, Options(level=3, shared_cache=True, facts=facts, sites=sites, strict=True), ctx)
    assert [e.site for e in ctx.events if e.by == int8_cache.NAME] == [name]
    return made


def near(ours: np.ndarray, theirs: np.ndarray, bound: float = 0.02) -> None:
    assert np.linalg.norm(ours - theirs) < bound * np.linalg.norm(theirs)


def test_the_ports_are_int8_and_their_scales_are_told() -> None:
    made = rounded()
    ports = {v.name: v.dtype for v in (*made.graph.inputs, *made.graph.outputs)}
    told = json.loads(made.metadata_props[INT8_CACHE])
    assert {n for n, t in ports.items() if t == ir.DataType.INT8} == told.keys()
    assert set(told) == {"past_key_0", "past_value_0", "present_key_0", "present_value_0"}
    assert told["past_key_0"] == told["present_key_0"] != told["past_value_0"]
    seen = max(np.abs(s["past_key_0"]).max(initial=0) for s in samples())
    assert told["past_key_0"] >= seen / 127 * 0.999


@pytest.mark.parametrize("padded", [False, True])
def test_the_loop_and_the_float_model_agree(padded: bool) -> None:
    loop = olc.decoder(storage.to_bytes(rounded()), capacity=32, threads=1)
    assert loop.shared
    near(generate(loop, 2, padded=padded), generate(Plain(model(), 2), 2, padded=padded))


def test_plain_runs_take_and_give_floats() -> None:
    opened, float_ = session(storage.to_bytes(rounded()), threads=1), session(model(), threads=1)
    for feed in samples():
        ours, theirs = run(opened, feed), run(float_, feed)
        assert {k: v.dtype for k, v in ours.items()} == {k: v.dtype for k, v in theirs.items()}
        for name in ours:
            near(ours[name], theirs[name])
        raw = dict(zip([v.name for v in opened.get_outputs()], opened.run(None, _bytes(opened, feed)), strict=True))
        assert raw["present_key_0"].dtype == np.int8


def _bytes(opened: Any, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    told = json.loads(opened.get_modelmeta().custom_metadata_map[INT8_CACHE])
    return {k: np.rint(v / told[k]).astype(np.int8) if k in told else v for k, v in feed.items()}


def test_without_calibration_there_is_none() -> None:
    fused, _ = compiled()
    assert int8_cache.fit(fused, TARGET) == []
    assert int8_cache.run(fused, Context(target=TARGET), {ir.site(n) for n in fused.graph}) == 0


def folder(tmp_path: Path) -> str:
    for i, feed in enumerate([*samples(), *samples()]):
        np.savez(tmp_path / f"{i}.npz", **feed)
    return str(tmp_path)


@pytest.mark.parametrize(("cosine", "kept"), [(0.99, True), (0.9999999, False)])
def test_a_compile_keeps_it_inside_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cosine: float, kept: bool) -> None:
    monkeypatch.setattr("olc.strategy.search.Search.pair", lambda *_: NOT_TIMED)
    monkeypatch.setattr("olc.evaluation.evaluate.Evaluation.slower", False)
    (tmp_path / "m.onnx").write_bytes(model())
    (tmp_path / "data").mkdir()
    report = compile(
        tmp_path / "m.onnx", tmp_path / "out.onnx", level=3, data=folder(tmp_path / "data"), int8_cache=True, quantize="none",
        budget=Budget(cosine, None), threads=1, samples=3,
    )  # fmt: skip
    made = storage.load(tmp_path / "out.onnx")
    assert (INT8_CACHE in made.metadata_props) == kept
    plan = Plan.loads(report.plan)
    assert [c.keep for (rule, _), c in plan.sites.items() if rule == int8_cache.NAME] == [kept]
    if kept:
        # What was found is carried out again, and the artifact is one to compile no further.
        again = compile(tmp_path / "m.onnx", tmp_path / "again.onnx", level=3, data=str(tmp_path / "data"), plan=plan,
                        threads=1)  # fmt: skip
        assert again.artifact["sha256"] == report.artifact["sha256"]


@pytest.mark.parametrize(
    ("options", "why"),
    [({"level": 2}, "not exact"), ({"level": 3, "exact": True}, "not exact"), ({"level": 3}, "scales from data")],
)
def test_what_it_needs_is_said(tmp_path: Path, options: dict[str, Any], why: str) -> None:
    (tmp_path / "m.onnx").write_bytes(model())
    with pytest.raises(BadInput, match=why):
        compile(tmp_path / "m.onnx", tmp_path / "out.onnx", int8_cache=True, **options)


def test_a_plan_of_it_is_text() -> None:
    plan = Plan(TARGET.name, 3, sites={(int8_cache.NAME, "attention"): Choice(True, "smaller")})
    assert Plan.loads(plan.dumps()).kept() == {(int8_cache.NAME, "attention")}


def test_the_loop_is_a_decoder_of_int8_buffers() -> None:
    loop = olc.decoder(storage.to_bytes(rounded()), capacity=16, threads=1)
    assert isinstance(loop, Decoder)
    loop.step(feeds(np.array([[1, 2, 3]]), np.ones((1, 3), np.int64)))
    assert {v.data_type() for v in loop._caches.values()} == {"tensor(int8)"}


@pytest.mark.parametrize(("name", "value"), [("do_rotary", 1), ("k_quant_type", "PER_CHANNEL")])
def test_keys_that_are_kept_otherwise_than_they_go_in_have_no_scale(name: str, value: Any) -> None:
    """What calibration saw is the keys before they are turned."""
    fused, facts = compiled()
    note(fused, facts, target=TARGET)
    assert len(int8_cache.fit(fused, TARGET)) == 1
    [node] = [n for n in fused.graph if n.op_type == "GroupQueryAttention"]
    node.attributes.add(ir.make_attr(name, value))
    assert int8_cache.fit(fused, TARGET) == []
