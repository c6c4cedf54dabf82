"""A metric of the task as the accuracy budget: on the half of the data that chooses, and on the one that judges."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import olc
import onnx
import pytest
from olc.cli import main
from olc.errors import BadInput, OverBudget
from olc.evaluation import evaluate as evaluation
from olc.evaluation.latency import Paired, Side
from olc.evaluation.metrics import Drop
from olc.job import Job
from olc.settings import Settings
from olc.strategy import search
from olc.strategy.budget import MARGIN, Budget

WIDTH, CLASSES = 64, 64
MODULE = f"""
import numpy as np

def right(x):
    return (x @ np.load("w.npy")).argmax(-1)

def samples():
    for i in range(12):
        random = np.random.default_rng(i)
        x = random.normal(size=(20, {WIDTH})).astype(np.float32)
        yield {{"x": x, "label": right(x), "label_y": x @ np.load("w.npy"), "label_half": i % 2}}

def unlabelled():
    for sample in samples():
        yield {{"x": sample["x"]}}

def mixed():
    for i, sample in enumerate(samples()):
        yield sample if i != 3 else {{"x": sample["x"]}}

def like_float(outputs, samples):
    return min(-float(np.abs(o["y"] - s["label_y"]).max()) for o, s in zip(outputs, samples)) > -1e-4

def like_float_where_judged(outputs, samples):
    return all(s["label_half"] == 1 or like_float([o], [s]) for o, s in zip(outputs, samples))

def raises(outputs, samples):
    raise ZeroDivisionError("no pairs")
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A linear classifier, in whose folder is the module ``task`` with data and metrics."""
    monkeypatch.chdir(tmp_path)
    w = np.random.default_rng(7).normal(size=(WIDTH, CLASSES)).astype(np.float32)
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 20]> g (float[N, {WIDTH}] x) => (float[N, {CLASSES}] y) '
        "{ [linear] y = MatMul(x, w) }"
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    onnx.save(proto, "m.onnx")
    np.save("w.npy", w)
    name = f"task_{tmp_path.name.replace('-', '_')}"  # modules are imported once in a process
    (tmp_path / f"{name}.py").write_text(MODULE)
    return tmp_path / name


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried is twice as fast, whatever it is; in the final check no difference is shown."""
    side = Side(1.0, 1.0, 1.0, 1.0)
    monkeypatch.setattr(search.Search, "pair", lambda *_: Paired(2.0, 2.0, 2.0, 2.0, "faster", 8, 1, side, side, 0.0, 0))
    even = Paired(1.0, 1.0, 1.0, 1.0, "no difference shown", 8, 1, side, side, 0.0, 0)
    monkeypatch.setattr(evaluation, "timed", lambda *_: even)


def compiled(model: Path, data: str = "samples", **options: object) -> olc.Report:
    return olc.compile("m.onnx", "out.onnx", level=3, data=f"{model.name}:{data}", quantize="int4", threads=1, **options)


def kept(report: olc.Report) -> list[str]:
    return [r["rule"] for r in report.layers if r["kept"]]


def test_a_scheme_that_breaks_the_metric_is_taken_back_while_choosing(model: Path) -> None:
    report = compiled(model, metrics=(f"{model.name}:like_float",), budget=Budget(0.5, 0.5))
    assert not kept(report)
    whys = [t["why"] for t in report.trials if "layers" in t["what"]]
    assert whys
    assert all("like_float is 0, more than" in why for why in whys)
    assert report.metrics == [{
        "name": f"{model.name}:like_float", "higher": True, "source": 1.0, "value": 1.0, "drop": 0.0, "allowed": 0.01,
    }]  # fmt: skip


def test_without_the_metric_the_same_budget_takes_it(model: Path) -> None:
    assert kept(compiled(model, budget=Budget(0.5, 0.5)))


def test_one_that_breaks_it_only_where_it_is_judged_goes_back_there(model: Path) -> None:
    report = compiled(model, metrics=(f"{model.name}:like_float_where_judged",))
    assert not kept(report)
    assert any(t["kept"] for t in report.trials if "layers" in t["what"]), "what chose was content"
    assert any("was not where it was judged" in n and "like_float_where_judged is 0" in n for n in report.notes)
    assert report.metrics[0]["value"] == 1.0


def test_a_metric_stands_in_for_cosine_and_top1_unless_they_are_asked_for(model: Path) -> None:
    """Four bits cost this classifier more than the default cosine allows, but few of its answers."""
    loose = compiled(model, metrics=("top1",), max_drop=Drop(0.3))
    assert kept(loose)
    assert loose.metrics[0]["source"] == 1.0
    assert 0 <= loose.metrics[0]["drop"] <= 0.3
    assert not kept(compiled(model, metrics=("top1",), max_drop=Drop(0.3), budget=Budget(0.99999, 0.999)))


def test_choosing_has_a_margin() -> None:
    bounds = Budget(None, None, Drop(0.1, False)).for_choosing()
    assert (bounds.cosine, bounds.top1) == (None, None)
    assert bounds.drop == Drop(0.1 * MARGIN, False)


def test_metrics_hold_below_o3_too(model: Path) -> None:
    report = olc.compile("m.onnx", "out.onnx", level=2, data=f"{model.name}:samples", metrics=("top1",), measure=False)
    assert report.metrics[0]["value"] == 1.0
    settings = Settings(data=f"{model.name}:samples", metrics=("top1",))
    broken = Job("m.onnx", Path("x.onnx"), settings, Path(), print)
    broken.load()
    opened = onnx.load("m.onnx")
    opened.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(-np.load("w.npy"), "w"))
    onnx.save(opened, "wrong.onnx")
    with pytest.raises(OverBudget, match=r"top1 is 0(\.\d+)?, more than 0.01 below the source's 1"):
        broken.accept([], [], False, Path("wrong.onnx"), None)


@pytest.mark.parametrize(
    ("data", "metric", "says"),
    [
        ("unlabelled", "pearson", "needs 'label_score', which sample 0 lacks"),
        ("mixed", "top1", "some samples have a 'label', others have none"),
        ("samples", "raises", "raises: the function raised ZeroDivisionError: no pairs"),
    ],
)
def test_misuse_is_told_and_nothing_is_written(model: Path, data: str, metric: str, says: str) -> None:
    name = metric if metric != "raises" else f"{model.name}:raises"
    with pytest.raises(BadInput) as caught:
        compiled(model, data, metrics=(name,))
    assert says in str(caught.value)
    assert not Path("out.onnx").exists()
    assert not list(Path().glob(".olc-*"))


# --- the command line ------------------------------------------------------------------------------------------------


def test_compile_and_evaluate_print_the_metric(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", f"{model.name}:samples"]
    assert main(["compile", "m.onnx", "-o", "out.onnx", "--metric", "top1", "--max-drop", "0.5%", *data]) == 0
    assert "metric top1: 1 -> 1 (more is better, a drop of 0.005 is allowed)" in capsys.readouterr().out
    assert json.loads(Path("out.olc.json").read_text())["metrics"][0]["allowed"] == 0.005
    assert main(["evaluate", "m.onnx", "out.onnx", "--metric", "top1", "--metric", "cosine", "--time", "0.1", *data]) == 0
    printed = capsys.readouterr().out
    assert "metric top1: 1 -> 1 (more is better)" in printed
    assert "metric cosine: 1 -> 1" in printed


def test_evaluate_beyond_the_drop_is_code_6(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = onnx.load("m.onnx")
    wrong.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(-np.load("w.npy"), "w"))
    onnx.save(wrong, "wrong.onnx")
    words = ["evaluate", "m.onnx", "wrong.onnx", "--metric", "top1", "--time", "0.1", "--data", f"{model.name}:samples"]
    assert main(words) == 0
    assert main([*words, "--max-drop", "1%"]) == 6
    assert "top1 is 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["compile", "m.onnx", "--metric", "top1"], 3, "a metric needs real inputs"),
        (["plan", "m.onnx", "--metric", "top1"], 3, "a metric needs real inputs"),
        (["evaluate", "m.onnx", "m.onnx", "--metric", "top1"], 3, "a metric needs real inputs"),
        (["compile", "m.onnx", "--metric", "topp", "--data", "x.npz"], 3, "there is no metric 'topp'"),
        (["compile", "m.onnx", "--max-drop", "1%"], 2, "give --metric too"),
        (["evaluate", "m.onnx", "m.onnx", "--max-drop", "1%"], 2, "give --metric too"),
        (["compile", "m.onnx", "--metric", "top1", "--max-drop", "-1"], 2, "'-1' is neither a number from 0"),
        (["compile", "m.onnx", "--metric", "top1", "--no-evaluate"], 2, "cannot go with --no-evaluate"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit(
    model: Path, words: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == code
    assert says in capsys.readouterr().err
