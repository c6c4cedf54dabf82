"""JUnit, SARIF, markdown and JSON of a check whose models have names that are hostile to each of them.

No package ships the official schemas of SARIF and JUnit, so what they demand of the parts that are written is spelled out here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from junitparser import JUnitXml
from olc.check import words
from olc.check.budgets import CODES
from olc.check.config import _BUDGET, Budgets, Config, Job
from olc.check.gate import Outcome, Result
from olc.cli import main
from olc.errors import BadInput
from olc.settings import Settings

from tests.checking import WEIRD, repository, save

TOML = """
[[models]]
path = "models/small.onnx"
skip = ["erf-gelu"]
budget = {fusions = "all", size = {source = 0.5}, latency = {baseline = 1}, opset = [20, 23]}
[[models]]
path = "models/none.onnx"
[[models]]
path = "models/a b é%.onnx"
skip = ["erf-gelu"]
[[models]]
path = "models/odd.onnx"
"""
ODD = '<ir_version: 8, opset_import: ["":17, "my.ops":1]> g (float[2] x) => (float[2] y) { [odd] y = my.ops.Frob(x) }'


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the four files."""
    import onnx

    folder = tmp_path_factory.mktemp("formats")
    file = repository(folder, TOML, WEIRD)
    save(folder / "models" / "a b é%.onnx", WEIRD)
    onnx.save(onnx.parser.parse_model(ODD), folder / "models" / "odd.onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        outputs = [f"--{kind}={kind}" for kind in ("json", "junit", "sarif", "markdown")]
        assert main(["check", "--config", file.name, "-q", *outputs]) == 69
    return folder


def test_junit_has_a_suite_for_each_model_and_a_case_for_each_budget(files: Path) -> None:
    root = ElementTree.parse(files / "junit").getroot()
    assert root.tag == "testsuites"
    suites = list(root)
    assert [s.get("name") for s in suites] == [
        f"{m} -O2 onnxruntime-cpu" for m in ("models/small.onnx", "models/none.onnx", "models/a b é%.onnx", "models/odd.onnx")
    ]
    assert [[s.get(k) for k in ("tests", "failures", "errors", "skipped")] for s in suites] == [
        ["5", "2", "1", "0"], ["1", "0", "1", "0"], ["1", "0", "0", "0"], ["1", "1", "0", "0"],
    ]  # fmt: skip
    for suite in suites:
        assert all(c.tag == "testcase" and c.get("name") and c.get("classname") for c in suite)
        assert len({c.get("name") for c in suite}) == len(suite), "readers tell cases apart by their names"
        for problem in (p for c in suite for p in c):
            assert problem.tag in ("failure", "error")
            assert problem.get("message")
            assert problem.get("type")
    text = "".join(root.itertext())
    assert WEIRD.replace("\x01", "\ufffd") in text
    assert sum(len(s) for s in JUnitXml.fromfile(str(files / "junit"))) == 8


def test_sarif_keeps_to_the_schema(files: Path) -> None:
    log = json.loads((files / "sarif").read_text())
    assert set(log) == {"$schema", "version", "runs"}
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    assert set(run) == {"tool", "results", "invocations"}
    assert run["invocations"] == [{"executionSuccessful": False, "exitCode": 69}]
    rules = [r["id"] for r in run["tool"]["driver"]["rules"]]
    assert len(set(rules)) == len(rules)
    assert set(CODES) < set(rules)
    for r in run["results"]:
        _is_result(r, rules)


def _is_result(r: dict[str, Any], rules: list[str]) -> None:
    assert set(r) == {"ruleId", "ruleIndex", "level", "message", "locations", "partialFingerprints"}
    assert rules[r["ruleIndex"]] == r["ruleId"]
    assert r["level"] in ("none", "note", "warning", "error")
    assert set(r["message"]) == {"text"}
    assert r["message"]["text"]
    assert all(isinstance(v, str) for v in r["partialFingerprints"].values())
    for where in r["locations"]:
        assert set(where) <= {"physicalLocation", "logicalLocations"}
        place = where["physicalLocation"]["artifactLocation"]
        assert set(place) == {"uri", "uriBaseId"}
        assert re.fullmatch(r"(?:[A-Za-z0-9._~/-]|%[0-9A-F]{2})+", place["uri"]), "a relative URI reference"
        for at in where.get("logicalLocations", ()):
            assert set(at) == {"name", "fullyQualifiedName", "kind"}


def test_sarif_points_at_model_and_node(files: Path) -> None:
    found = json.loads((files / "sarif").read_text())["runs"][0]["results"]
    rows = []
    for r in found:
        (where,) = r["locations"]
        node = where.get("logicalLocations", [{"name": None}])[0]["name"]
        rows.append((r["ruleId"], r["level"], unquote(where["physicalLocation"]["artifactLocation"]["uri"]), node))
    assert rows == [
        ("size", "error", "models/small.onnx", None),
        ("fusions", "error", "models/small.onnx", WEIRD),
        ("not-judged", "warning", "models/small.onnx", None),
        ("failed", "error", "models/none.onnx", None),
        ("missed-fusion", "note", "models/a b é%.onnx", WEIRD),
        ("unsupported", "error", "models/odd.onnx", "odd"),
    ]


def test_markdown_begins_with_the_table_and_no_name_breaks_out(files: Path) -> None:
    lines = (files / "markdown").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "### olc check: 4 checked: 1 passed, 2 over budget, 1 failed"
    assert [line.count("|") for line in lines[2:8]] == [6] * 6
    assert "❌ over budget" in lines[4]
    assert "❌ failed" in lines[5]
    assert "✅ passed" in lines[6]
    body = "\n".join(lines[8:])
    assert "@" not in body
    assert "`" not in body
    assert words.markdown(Result(Config(Path(), Path(), ()), [_with_a_name_that_is_no_text()])).encode("utf-8")
    assert re.findall(r"<(/?\w+)", body) == ["details", "summary", "/summary", "/details"] * 2 + ["sub", "/sub"]


def _with_a_name_that_is_no_text() -> Outcome:
    job = Job("m?.onnx", Path("m\udcff.onnx"), Settings(), Budgets())
    return Outcome(job, error=BadInput("cannot be opened", where="m\udcff.onnx"))


def test_json_holds_every_verdict(files: Path) -> None:
    data = json.loads((files / "json").read_text())
    assert data["code"] == 69
    assert [r["codes"] for r in data["results"]] == [[61, 66, 69], [3], [], [65]]
    assert [v["ok"] for v in data["results"][0]["verdicts"]] == [None, False, True, False, True]


def test_every_budget_has_its_code() -> None:
    named = {"domains": "operators"}
    assert {named.get(k, k) for k in _BUDGET} == set(CODES)
    assert len(set(CODES.values())) == len(CODES)
