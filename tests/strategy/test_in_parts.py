"""Causal attention in parts: kept where it is measured faster, and no rounding for all that."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import pytest
from olc import ir, storage, targets
from olc.analysis import shapes
from olc.driver import compile
from olc.evaluation.latency import Paired
from olc.passes import Context
from olc.pipeline import Options, optimize
from olc.report import Report
from olc.strategy.plan import Choice, Plan
from olc.strategy.quantize import NOT_TIMED, in_parts
from olc.strategy.search import Search, next_best
from olc.targets import causal_parts
from olc.targets.causal_parts import MANY, PARTS

from tests.test_decoding import model
from tests.test_int8_cache import samples

SITE = (causal_parts.NAME, "y")


def paired(verdict: str, ratio: float) -> Paired:
    return Paired(**{**vars(NOT_TIMED), "verdict": verdict, "ratio": ratio})


def prompts(tmp_path: Path, length: int) -> str:
    """Prompts of so many tokens, nothing cached; a step follows each (``evaluation/steps.py``)."""
    folder = tmp_path / "data"
    folder.mkdir()
    first = samples(1)[0]
    for i in range(8):
        ids = np.random.default_rng(i).integers(0, 32, (1, length))
        np.savez(folder / f"{i}.npz", **first | {"input_ids": ids, "attention_mask": np.ones((1, length), np.int64)})
    return str(folder)


@pytest.fixture
def timing(monkeypatch: pytest.MonkeyPatch) -> dict[bool, str]:
    """What a comparison on samples of many tokens, and on those of few, says of attention in parts; of all else nothing."""
    verdicts = {True: "faster", False: "no difference shown"}
    said: list[str] = []

    def pair(self: Search, _: Any, __: Any, part: Any = None) -> Paired:
        if not said or "in parts" not in said[-1]:
            return NOT_TIMED
        verdict = verdicts[max(np.size(self.feeds[i]["input_ids"]) for i in part) > 4]
        return paired(verdict, {"faster": 1.2, "slower": 0.8}.get(verdict, 1.0))

    init = Search.__init__

    def opened(self: Search, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        say = self.say
        self.say = lambda text: (said.append(text), say(text))[1]

    monkeypatch.setattr(Search, "__init__", opened)
    monkeypatch.setattr(Search, "pair", pair)
    monkeypatch.setattr("olc.evaluation.evaluate.Evaluation.slower", False)
    return verdicts


def compiled(tmp_path: Path, length: int = MANY + 3, **options: Any) -> tuple[Report, ir.Model]:
    (tmp_path / "m.onnx").write_bytes(model())
    data = prompts(tmp_path, length) if "data" not in options else options.pop("data")
    options = {"level": 3, "quantize": "none", "threads": 1, "samples": 3, **options}
    report = compile(tmp_path / "m.onnx", tmp_path / "out.onnx", data=data, **options)
    return report, storage.load(tmp_path / "out.onnx")


def attentions(m: ir.Model) -> int:
    return Counter(n.op_type for g in ir.all_graphs(m) for n in g)["Attention"]


@pytest.mark.usefixtures("timing")
def test_kept_where_it_is_faster_for_prompts(tmp_path: Path) -> None:
    report, made = compiled(tmp_path)
    plan = Plan.loads(report.plan)
    assert plan.kept() == {SITE}
    assert not plan.lossy
    assert attentions(made) == PARTS + 1
    assert [(f["kind"], f["expected"], f["fused"]) for f in report.fusions if f["kind"] == "attention"] == [("attention", 1, 1)]
    assert {t["what"]: t["kept"] for t in report.trials if "in parts" in t["what"]} == {
        "1 attention in parts, many tokens": True, "1 attention in parts, few tokens": True,
    }  # fmt: skip
    # Nothing is rounded, so the outputs are held to what -O2 promises, not to the budget.
    assert not any("rounded" in note for note in report.notes)
    assert report.layers == [], "no layer that could be rounded"
    exact = compile(tmp_path / "m.onnx", tmp_path / "exact.onnx", level=3, exact=True, plan=plan, threads=1)
    assert exact.artifact["sha256"] == report.artifact["sha256"]
    assert not any("--exact" in note or "not rewritten" in note for note in exact.notes)
    again = compile(tmp_path / "m.onnx", tmp_path / "again.onnx", level=3, data=str(tmp_path / "data"), plan=plan, threads=1)
    assert again.artifact["sha256"] == report.artifact["sha256"]


@pytest.mark.parametrize(
    ("many", "few"), [("faster", "slower"), ("no difference shown", "no difference shown"), ("slower", "faster")]
)
def test_not_kept_elsewhere(tmp_path: Path, timing: dict[bool, str], many: str, few: str) -> None:
    timing[True], timing[False] = many, few
    report, made = compiled(tmp_path)
    plan = Plan.loads(report.plan)
    assert not plan.kept()
    assert attentions(made) == 1
    slower = [what for what, verdict in (("many", many), ("few", few)) if verdict == "slower"]
    assert ("0.80 times" in plan.sites[SITE].why) == bool(slower)
    told = [what for what in ("many", "few") if f"{what} tokens" in plan.sites[SITE].why]
    assert told == (slower or ["many"])


@pytest.mark.usefixtures("timing")
@pytest.mark.parametrize("options", [{"length": MANY - 60}, {"skip": frozenset({"causal-parts"})}, {"exact": True}, {"level": 2}])
def test_not_tried(tmp_path: Path, options: dict[str, Any]) -> None:
    report, made = compiled(tmp_path, **options)
    assert not [t for t in report.trials if "in parts" in t["what"]]
    assert attentions(made) == 1


def test_what_reads_it_is_rounded_all_the_same() -> None:
    """Its shape is that of the If."""
    made, ctx = storage.load_bytes(model()), Context(target=targets.get("onnxruntime-cpu"))
    optimize(made, Options(level=2), ctx)
    reader = next(ir.site(n) for n in made.graph if n.op_type == "MatMul" and n.outputs[0].is_graph_output())
    sites = {SITE[0]: frozenset({SITE[1]}), "int8-row-linear": frozenset({reader})}
    assert optimize(made, Options(level=3, start=2, sites=sites), ctx).outcome.applied["int8-row-linear"] == 1


def test_carried_out_with_what_it_is_told_to_skip(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(model())
    plan = Plan("onnxruntime-cpu", 3, sites={SITE: Choice(True, "")})
    for skip, parts in ((frozenset(), PARTS), (frozenset({causal_parts.NAME}), 0), (frozenset({"@".join(SITE)}), 0)):
        report = compile(tmp_path / "m.onnx", tmp_path / "out.onnx", level=3, plan=plan, skip=skip, threads=1, evaluate=False)
        assert attentions(storage.load(tmp_path / "out.onnx")) == 1 + parts
        assert bool(Plan.loads(report.plan).kept()) == bool(parts)


def test_what_counts_is_the_number_of_queries() -> None:
    """Nothing else that is long, and no sequence, a list of arrays of which each has a shape of its own."""
    text = """<ir_version: 10, opset_import: ["": 23]>
        g (seq(float[N]) s, float[1, S, 512] q) => (float[N] a, float[1, S, 512] y)
        { zero = Constant<value_int = 0>() a = SequenceAt(s, zero)
           y = Attention<q_num_heads = 4, kv_num_heads = 4, is_causal = 1>(q, q, q) }"""
    made = storage.load_bytes(onnx.parser.parse_model(text).SerializeToString())
    shapes.infer(made)
    search = SimpleNamespace(machine=None, target=targets.get("onnxruntime-cpu"), ctx=Context())
    for length in (3, MANY):
        search.feeds = [{"s": [np.zeros(2), np.zeros(MANY)], "q": np.zeros((1, n, 512))} for n in (2, length)]
        assert bool(in_parts(cast(Any, search), made)) == (length == MANY)


def test_it_stays_where_what_is_rounded_goes_back() -> None:
    rounded = ("int8-linear", "layer")
    plan = Plan("onnxruntime-cpu", 3, sites={SITE: Choice(True, "in parts"), rounded: Choice(True, "faster")})
    assert plan.lossy
    bare, _ = next_best(plan, [], 0.1)
    assert bare.kept() == {SITE}
    assert not bare.lossy
