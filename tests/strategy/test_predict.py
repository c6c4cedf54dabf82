"""Compiling for another machine: its table decides, and nothing is timed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from olc import ir, storage, targets
from olc.analysis import shapes
from olc.cli import main
from olc.driver import compile
from olc.errors import BadInput
from olc.passes import Context
from olc.pipeline import Options, optimize
from olc.quantization import Observed
from olc.report import Report
from olc.settings import Settings
from olc.strategy.plan import Plan
from olc.strategy.predict import predicted, size_of
from olc.targets import features
from olc.targets import measure as measuring
from olc.targets.kernels import Kernels, Row

TEXT = """<ir_version: 10, opset_import: ["": 23]> g (float[N, 64] x) => (float[N, 64] y)
    { [a] h = MatMul(x, v) [b] t = Tanh(h) [c] y = MatMul(t, w) }"""


def proto() -> onnx.ModelProto:
    made = onnx.parser.parse_model(TEXT)
    random = np.random.default_rng(0)
    for name in ("v", "w"):
        made.graph.initializer.append(onnx.numpy_helper.from_array(random.normal(size=(64, 64)).astype(np.float32) / 8, name))
    return made


def table(folder: Path, **ratios: float) -> str:
    """The table of a machine on which rules (with ``_`` for ``-``) gain so much."""
    size = {"rows": 16, "inner": 64, "columns": 64}
    rows = tuple(Row(name.replace("_", "-"), size, r, r, r) for name, r in ratios.items())
    kernels = Kernels("onnxruntime", "1", {"machine": "riscv64", "model": "Abacus 9000", "flags": [], "cores": 2}, rows)
    (folder / "table.json").write_text(kernels.dumps())
    return str(folder / "table.json")


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(*_: Any, **__: Any) -> Any:
        raise AssertionError("something is timed")

    monkeypatch.setattr("olc.evaluation.latency.paired", timed)
    monkeypatch.setattr("olc.evaluation.process.measure", timed)


@pytest.mark.usefixtures("untimed")
@pytest.mark.parametrize(("ratios", "rule"), [
    ({"int8_linear": 2.0, "int8_block_linear": 5.0}, "int8-block-linear"),
    ({"int8_linear": 3.0, "int8_block_linear": 1.5}, "int8-linear"),
    ({"int8_linear": 0.5, "int8_block_linear": 0.9}, None),
    ({}, None),
])  # fmt: skip
def test_the_table_decides(ratios: dict[str, float], rule: str | None, tmp_path: Path) -> None:
    onnx.save(proto(), tmp_path / "m.onnx")
    settings = Settings(level=3, machine=table(tmp_path, **ratios), dims={"N": 16}, quantize="int8")
    made = compile(tmp_path / "m.onnx", tmp_path / "out.onnx", settings)
    assert {r for r, _ in Plan.loads(made.plan).kept()} == ({rule} if rule is not None else set())
    assert made.target["model"] == "Abacus 9000"
    assert made.evaluation is not None
    assert made.evaluation["paired"] is None
    note = next(n for n in made.notes if "another machine" in n)
    assert "Abacus 9000" in note
    assert "nothing was timed here; what is rounded is predicted to make it" in note
    assert ("1.00 times as fast" in note) == (rule is None)


@pytest.mark.parametrize(("flags", "told"), [(("avx2",), True), (("avx2", "avx512_vnni"), False)])
def test_outputs_of_a_cpu_that_saturates_are_told_to_be_that(
    flags: tuple[str, ...], told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "detect", lambda: features.Features("x86_64", "here", flags, 2, 2))
    onnx.save(proto(), tmp_path / "m.onnx")
    settings = Settings(level=3, machine=table(tmp_path, int8_linear=3.0), dims={"N": 16}, quantize="int8")
    made = compile(tmp_path / "m.onnx", tmp_path / "out.onnx", settings)
    assert any("whose kernels saturate" in n for n in made.notes) == told


def test_the_prediction_is_what_the_table_says_of_each_layer() -> None:
    """Layers take 30 and 50 of 100 microseconds, and get 3 and 5 times as fast by the rows nearest to their sizes."""
    model = ir.serde.deserialize_model(proto())
    shapes.infer(model)
    few, more = ({"rows": n, "inner": 64, "columns": 64} for n in (4, 400))
    rows = [Row("r", few, 3.0, 3, 3), Row("r", more, 9.0, 9, 9), Row("s", few, 5.0, 5, 5)]
    kernels = Kernels("", "", {}, tuple(rows))
    feeds, runs = [{"x": np.zeros((5, 64), np.float32)}], [{"a": 30.0, "b": 20.0, "c": 50.0}]
    both = predicted(kernels, model, [("r", "a"), ("s", "c")], feeds, runs)
    assert both.ratio == pytest.approx(100 / (10 + 20 + 10))
    assert both.verdict == "faster"
    assert both.text == "predicted to be 2.50 times as fast"
    assert predicted(kernels, model, [("unknown", "a")], feeds, runs).verdict == "no difference shown"
    many = [{"x": np.zeros((300, 64), np.float32)}]
    assert predicted(kernels, model, [("r", "a")], many, runs).ratio == pytest.approx(100 / (30 / 9 + 70))
    node = next(n for n in model.graph if n.name == "a")
    assert size_of(node, {"N": 7}) == {"inner": 64, "columns": 64, "rows": 7}
    assert size_of(node, {}) == {"inner": 64, "columns": 64}


def test_what_is_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(proto(), tmp_path / "m.onnx")
    row = '{"operator": "r", "size": {}, "ratio": RATIO, "low": 1, "high": 1}'
    whole = '{"runtime": "", "version": "", "cpu": CPU, "rows": [ROW]}'
    bad = [whole.replace("CPU", cpu).replace("ROW", "") for cpu in ("null", "[]", '{"cores": null}', '{"flags": null}')]
    bad += [whole.replace("CPU", "{}").replace("ROW", row.replace("RATIO", ratio)) for ratio in ("0", '"x"', "-1", "NaN", "null")]
    bad += [whole.replace("CPU", "{}").replace("ROW", row.replace("RATIO", "1").replace("{}", '{"rows": "x"}'))]
    for text in ("", "[]", "{}", '{"runtime": 1}', whole.replace("CPU", "{}").replace("ROW", '{"a": 1}'), *bad):
        (tmp_path / "t.json").write_text(text)
        with pytest.raises(BadInput, match="is no table of kernels"):
            targets.get("onnxruntime-cpu", str(tmp_path / "t.json"))
    assert main(["compile", str(tmp_path / "m.onnx"), "--machine", str(tmp_path / "none.json")]) == 3
    assert main(["compile", str(tmp_path / "m.onnx"), "--machine", table(tmp_path), "--sweep", "N=1"]) == 2
    capsys.readouterr()


@pytest.mark.usefixtures("untimed")
def test_fusions_too_are_those_that_pay_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = """<ir_version: 10, opset_import: ["": 20]> g (float[N, 8] x) => (float[N, 8] y)
        <float half = {0.5}, float root = {1.4142135}, float one = {1}>
        { d = Div(x, root) e = Erf(d) f = Add(e, one) h = Mul(x, half) y = Mul(h, f) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    for ratio, fused in ((2.0, True), (0.5, False)):
        assert main(["compile", str(tmp_path / "m.onnx"), "--machine", table(tmp_path, Gelu=ratio), "--json"]) == 0
        report = Report.loads(capsys.readouterr().out)
        assert bool(report.applied()["erf-gelu"]) == fused
    assert main(["compile", str(tmp_path / "m.onnx"), "--machine", table(tmp_path)]) == 0
    assert "not measured: compiled for Abacus 9000" in capsys.readouterr().out


def test_a_table_has_every_rule_that_rounds_a_layer_or_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are measured: a table that was made before they were is one all the same, and predicts no gain of them."""
    for rule in ("int8-linear", "int8-outlier-linear", "int8-row-linear", "int8-block-linear", "int4-block-linear", "int8-conv",
                 "int8-block-experts", "int4-block-experts"):  # fmt: skip
        assert measuring.measure(seconds=0.01, only=rule).near(rule, {"rows": 16}) is not None, rule


@pytest.mark.parametrize(
    "rule", ["int8-linear", "int8-outlier-linear", "int8-row-linear", "int8-block-linear", "int4-block-linear", "int8-attention",
             "int8-block-experts", "int4-block-experts"],
)
def test_what_is_measured_is_what_the_rule_writes(rule: str) -> None:
    c = next(c for c in measuring.COMPARISONS if c.operator == rule)
    size = dict(zip(c.names, c.sizes[0], strict=True))
    m = storage.load_bytes(c.model(c.parts, size))
    shapes.infer(m)
    [node] = m.graph
    node.name = "layer"
    far = np.where(np.arange(size.get("inner", 0)) % 16, 1, 50).astype(np.float32)
    far[64:] = 1
    facts = {node.inputs[0].name or "": Observed(-50.0, 50.0, far)}
    options = Options(level=3, start=2, facts=facts, sites={rule: frozenset({"layer"})}, strict=True)
    made = optimize(m, options, Context(target=targets.get("onnxruntime-cpu"))).model
    measured = onnx.load_from_string(c.model(c.fused, size)).graph.node
    assert Counter(n.op_type for n in made.graph) == Counter(n.op_type for n in measured if n.op_type != "Constant")
