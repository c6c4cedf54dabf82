"""``olc check`` from the command line: what passes, what fails with which code, and what it says."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from olc.cli import main
from olc.errors import VerificationFailed

from tests.checking import NAMES, compiles_to, measured, repository, save

MODEL = '[[models]]\npath = "models/small.onnx"\n'


def check(file: Path, *args: str) -> int:
    return main(["check", "--config", str(file), *args])


def results(file: Path, *args: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit code, and what ``--json`` holds of each model."""
    out = file.parent / "out.json"
    code = check(file, "--json", str(out), "-q", *args)
    return code, json.loads(out.read_text())["results"]


def test_a_model_is_compiled_judged_and_nothing_else_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    budget = 'budget = {size = {source = 2}, fusions = {gelu = 1}, accuracy = "cosine>=0.999", opset = [20, 23]}'
    file = repository(tmp_path, MODEL + budget)
    assert check(file) == 0
    out = capsys.readouterr().out
    assert "1 checked: 1 passed" in out
    assert "gelu 1/1" in out
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["models", "olc.toml", "small.onnx"]


FAILS = {
    # what the budget is: (budget, report, exit code, words)
    "latency of the source": ("latency = {source = 0.4}", {}, 60, "0.5 times the source's (95 % between 0.476 and 0.526)"),
    "latency of the baseline": ("latency = {baseline = 1.1}", {"speed": (1.2, 1.15, 1.25)}, 60, "1.67 times the baseline's"),
    "latency at all": ("latency = {ms = 0.5}", {}, 60, "1 ms in the fastest quarter of the runs; the budget is at most 0.5 ms"),
    "size of the source": ("size = {source = 0.5}", {}, 61, "the budget is at most 0.5 times the source's"),
    "size of the baseline": ("size = {baseline = 0.99}", {}, 61, "1 times the baseline's"),
    "size at all": ("size = {mb = 0.0001}", {}, 61, "the budget is at most 0.0001 MB"),
    "memory": ("memory = {source = 0.4}", {}, 62, "0.5 times the source's (50 MB)"),
    "memory of the baseline": ("memory = {baseline = 1.1}", {"memory": 0.6}, 62, "1.2 times the baseline's"),
    "memory at all": ("memory = {mb = 49}", {}, 62, "memory: 50 MB"),
    "load time": ("load = {source = 0.4}", {}, 63, "0.5 times the source's (50 ms)"),
    "load time of the baseline": ("load = {baseline = 1.1}", {"load": 0.8}, 63, "1.6 times the baseline's"),
    "load time at all": ("load = {ms = 49}", {}, 63, "load: 50 ms"),
    "fusions": ('fusions = {gelu = 1, attention = 6}', {}, 66, "fusions: 0 of 0 attention fused; the budget is 6 attention"),
    "operators": ('operators = ["MatMul"]', {}, 67, "also Gelu; the budget is only operators MatMul"),
    "domains": ('domains = ["com.microsoft"]', {}, 67, "also ai.onnx"),
    "opset": ("opset = [15, 17]", {}, 68, "the budget is 15 to 17"),
    "several": ('size = {source = 0.5}, opset = [15, 17]', {}, 6, "1 checked: 1 over budget"),
}


@pytest.mark.parametrize("kind", FAILS)
def test_each_budget_fails_with_its_own_code_and_says_why(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    budget, numbers, code, words = FAILS[kind]
    file = repository(tmp_path, MODEL)
    compiles_to(monkeypatch, measured(), measured(**numbers))
    assert check(file, "--update-baseline", "-q") == 0
    file.write_text(MODEL + f"budget = {{{budget}}}")
    assert check(file) == code
    assert words in " ".join(capsys.readouterr().out.split())


def test_accuracy_fails_at_the_output_that_is_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = repository(tmp_path, MODEL + "budget = {accuracy = 'cosine>=0.999'}")
    report = measured()
    report.evaluation["outputs"][0] |= {"cosine_min": 0.99, "cosine": 0.99}
    asked = compiles_to(monkeypatch, report)
    assert check(file) == 64
    assert "output 'y': cosine 0.9900 is below 0.999" in capsys.readouterr().out
    assert asked[0].budget.cosine == 0.999, "the compile itself keeps to the budget too"


@pytest.mark.parametrize(("speed", "code"), [((1.0, 0.95, 1.06), 0), ((0.95, 0.9, 1.001), 0), ((0.95, 0.9, 0.99), 60)])
def test_speed_fails_only_where_the_interval_excludes_the_budget(
    speed: tuple[float, float, float], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiles_to(monkeypatch, measured(speed))
    assert check(repository(tmp_path, MODEL + "budget = {latency = {source = 1.0}}"), "-q") == code


def test_against_the_baseline_both_intervals_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = repository(tmp_path, MODEL + "budget = {latency = {baseline = 1.0}}")
    compiles_to(monkeypatch, measured((2.0, 1.8, 2.2)), measured((1.9, 1.79, 2.0)), measured((1.7, 1.6, 1.79)))
    assert check(file, "--update-baseline", "-q") == 0
    assert check(file, "-q") == 0, "slower than the baseline by its median, but the intervals overlap"
    assert check(file, "-q") == 60


def test_an_unsupported_operator_is_a_budget_with_its_node(tmp_path: Path) -> None:
    import onnx

    file = repository(tmp_path, MODEL + "budget = {size = {source = 1}}")
    text = '<ir_version: 8, opset_import: ["":17, "my.ops":1]> g (float[2] x) => (float[2] y) { [odd] y = my.ops.Frob(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "models" / "small.onnx")
    code, (found,) = results(file)
    assert code == 65
    (verdict,) = [v for v in found["verdicts"] if v["ok"] is False]
    assert [s["node"] for s in verdict["sites"]] == ["odd"]
    file.write_text(MODEL + "budget = {size = {source = 1}, unsupported = 1}")
    assert results(file)[0] == 69, "allowed, but then the size cannot be judged"
    file.write_text(MODEL + "budget = {unsupported = 1}")
    code, (found,) = results(file)
    assert (code, found["outcome"], found["codes"]) == (0, "passed", []), "nothing else was asked"


def test_fusions_are_missing_where_a_lower_level_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = itertools.chain([True], itertools.repeat(False))
    monkeypatch.setattr("olc.evaluation.evaluate.Evaluation.slower", property(lambda _: next(answers)))
    file = repository(tmp_path, MODEL + 'levels = [3]\ntune_time = 1\nbudget = {fusions = {gelu = 1}}')
    code, (found,) = results(file)
    assert code == 66
    assert "-O1 was given instead" in str(found["verdicts"])


def test_a_top1_that_no_output_has_is_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiles_to(monkeypatch, measured())
    assert check(repository(tmp_path, MODEL + "budget = {accuracy = 'top1>=0.999'}"), "-q") == 69
    assert check(repository(tmp_path / "b", MODEL + "budget = {accuracy = 'cosine>=0.999'}"), "-q") == 0


def test_each_configuration_has_its_own_baseline_and_it_is_measured_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = compiles_to(monkeypatch, measured())
    file = repository(tmp_path, MODEL)
    nightly = tmp_path / "nightly.toml"
    nightly.write_text(MODEL)
    assert check(file, "--update-baseline", "-q") == check(nightly, "--update-baseline", "-q") == 0
    assert sorted(p.name for p in tmp_path.glob("*.json")) == ["nightly.baseline.json", "olc.baseline.json"]
    assert {s.cache for s in asked} == {"renew"}


def test_a_data_function_that_raises_is_one_models_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raising_in_gate_test.py").write_text("def feeds():\n    yield {}[0]\n")
    monkeypatch.syspath_prepend(tmp_path)
    file = repository(tmp_path, MODEL + 'data = "raising_in_gate_test:feeds"\n' + MODEL.replace("small", "other"))
    save(tmp_path / "models" / "other.onnx")
    for workers in ("1", "2"):
        code, (first, second) = results(file, "--workers", workers)
        assert code == 3
        assert "raised KeyError: 0" in first["error"]["what"]
        assert second["outcome"] == "passed"


def test_a_fusion_that_is_missed_names_node_and_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = repository(tmp_path, MODEL + 'skip = ["erf-gelu"]\nbudget = {fusions = "all"}', name="the root")
    assert check(file) == 66
    out = capsys.readouterr().out
    assert "0 of 1 gelu fused; the root: gelu: erf-gelu: the rule is skipped" in out


def test_what_has_no_baseline_is_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiles_to(monkeypatch, measured())
    code, (found,) = results(repository(tmp_path, MODEL + "budget = {latency = {baseline = 1.1}}"))
    assert code == 69
    assert found["outcome"] == "not judged"
    assert "--update-baseline" in found["verdicts"][0]["found"]


@pytest.mark.parametrize("budget", ["latency = {source = 1}", "memory = {source = 1}", "load = {source = 1}"])
def test_what_was_not_measured_is_not_judged(budget: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = measured()
    report.evaluation["paired"] = None
    for side in "ab":
        report.evaluation[side] |= {"peak_bytes": None, "process": None}
    compiles_to(monkeypatch, report)
    assert check(repository(tmp_path, MODEL + f"budget = {{{budget}}}"), "-q") == 69


def test_one_that_fails_stops_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = ("models/no.onnx", "none/*.onnx", "models/bad*.onnx")
    toml = "".join(f'[[models]]\npath = "{p}"\n' for p in paths) + MODEL
    file = repository(tmp_path, toml)
    (tmp_path / "models" / "bad.onnx").write_bytes(b"this is no model")
    code, found = results(file)
    assert code == 3
    assert [f["outcome"] for f in found] == ["failed", "failed", "failed", "passed"]
    out = capsys.readouterr().out
    assert "no.onnx" in out
    assert "none/*.onnx" in out
    assert "text, not an ONNX model" in out
    file.write_text(toml + "budget = {opset = [15, 17]}")
    assert results(file)[0] == 69, "a bad model and a budget"


def test_other_errors_keep_their_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile(*args: Any, **options: Any) -> Any:
        raise VerificationFailed("the outputs differ", where="y")

    monkeypatch.setattr("olc.batch.compile", compile)
    assert check(repository(tmp_path, MODEL), "-q") == 5


def test_a_fault_in_olc_is_one_models_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def compile(*args: Any, **options: Any) -> Any:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("olc.batch.compile", compile)
    assert check(repository(tmp_path, MODEL)) == 1
    assert "ZeroDivisionError" in capsys.readouterr().out


def test_the_baseline_is_small_sorted_text_that_names_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "models" / "another.onnx")
    file = repository(tmp_path, '[[models]]\npath = "models/*.onnx"\nlevels = [2, 1]\n')
    compiles_to(monkeypatch, measured())
    assert check(file, "--update-baseline", "-q") == 0
    first = (tmp_path / "olc.baseline.json").read_bytes()
    held = json.loads(first)["models"]
    assert list(held) == sorted(held)
    assert len(held) == 4
    assert held[NAMES]["latency"] == [0.5, 0.4762, 0.5263]
    assert "onnxruntime" in held[NAMES]["machine"]
    assert check(file, "--update-baseline", "-q") == 0
    assert (tmp_path / "olc.baseline.json").read_bytes() == first


def test_a_model_that_fails_keeps_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = repository(tmp_path, MODEL)
    compiles_to(monkeypatch, measured())
    assert check(file, "--update-baseline", "-q") == 0
    monkeypatch.undo()
    (tmp_path / "models" / "small.onnx").write_bytes(b"")
    before = (tmp_path / "olc.baseline.json").read_bytes()
    assert check(file, "--update-baseline", "-q") == 3
    assert (tmp_path / "olc.baseline.json").read_bytes() == before


BAD_BASELINES = [
    "", "[]", '{"schema": 9, "models": {}}', '{"schema": 1, "models": {"a": 3}}', '{"schema": 1, "models": {"a": {"bytes": 0}}}',
    '{"schema": 1, "models": {"a": {"latency": [1, 2]}}}', '{"schema": 1, "models": {"a": {"load": NaN}}}', "[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_BASELINES, ids=range(len(BAD_BASELINES)))
def test_a_bad_baseline_is_refused(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = repository(tmp_path, MODEL)
    (tmp_path / "olc.baseline.json").write_text(text)
    assert check(file, "-q") == 3
    assert "olc.baseline.json" in capsys.readouterr().err


def test_what_was_measured_and_failed_is_not_taken_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = repository(tmp_path, MODEL + "budget = {latency = {source = 0.4}}")
    old = measured()
    old.cached = True
    asked = compiles_to(monkeypatch, old, measured((4.0, 3.9, 4.1)))
    assert check(file, "-q") == 0
    assert [s.cache for s in asked] == ["on", "renew"]
    file.write_text(MODEL + "budget = {size = {source = 0.1}}")
    asked = compiles_to(monkeypatch, old)
    assert check(file, "-q") == 61
    assert [s.cache for s in asked] == ["on"], "a size is what it was"


def test_init_writes_a_file_that_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["a.onnx", "deep/b [1].onnx", 'deep/"q" \\ é.onnx']
    for name in [*names, ".hidden/c.onnx", "a.olc.onnx"]:
        save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert main(["check", "--init"]) == 0
    from olc.check.config import read

    assert {j.model for j in read("olc.toml").jobs} == set(names)
    assert main(["check", "-q"]) == 0
    assert main(["check", "--init"]) == 7
    assert "is there already" in capsys.readouterr().err


def test_without_a_file_it_says_how_to_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["check"]) == 3
    assert "olc check --init" in capsys.readouterr().err


def test_outputs_that_cannot_be_written_are_code_7(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiles_to(monkeypatch, measured())
    assert check(repository(tmp_path, MODEL), "-q", "--json", str(tmp_path / "no" / "out.json")) == 7
