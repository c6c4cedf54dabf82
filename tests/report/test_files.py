"""Forms of the report as files: from the command line, whole or not at all, and valid by their formats' own checks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf.json_format import ParseDict
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from olc.cli import main
from olc.driver import compile
from olc.report import Report
from olc.report.bom import bom
from olc.report.provenance import provenance

from tests.sample_report import report

MODEL = """<ir_version: 10, opset_import: ["": 20]> g (float[2, 4] x) => (float[2, 4] y)
<float[4, 4] w = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1}> { a = Identity(x) y = MatMul(a, w) }"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(MODEL), path)
    return path


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_compile_writes_every_form(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    args = ["--html", str(out / "r.html"), "--markdown", str(out / "r.md"), "--provenance", str(out / "r.intoto.json"),
            "--bom", str(out / "r.cdx.json")]  # fmt: skip
    assert main(["compile", str(model), "-O1", "-o", str(out / "m.onnx"), "-q", "--no-evaluate", *args]) == 0
    assert files(out) == ["m.olc.json", "m.onnx", "r.cdx.json", "r.html", "r.intoto.json", "r.md"]
    assert (out / "r.html").read_text().startswith("<!DOCTYPE html>")
    assert "m.onnx" in (out / "r.md").read_text()


@pytest.mark.parametrize("option", ["--html", "--markdown", "--provenance", "--bom"])
@pytest.mark.parametrize("where", ["missing/x", ".", "m.onnx", "m.olc.json", "../model.onnx"])
def test_a_place_that_cannot_be_written_is_told_before_anything_is(model: Path, tmp_path: Path, option: str, where: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    before = model.read_bytes()
    assert main(["compile", str(model), "-O1", "-o", str(out / "m.onnx"), "-q", "--no-evaluate", option, str(out / where)]) == 7
    assert files(out) == []
    assert model.read_bytes() == before


def test_two_forms_in_one_file_are_refused(model: Path, tmp_path: Path) -> None:
    both = str(tmp_path / "x")
    assert main(["compile", str(model), "-o", str(tmp_path / "m.onnx"), "--html", both, "--bom", both]) == 7
    assert files(tmp_path) == ["model.onnx"]


def test_a_form_that_fails_leaves_no_artifact(model: Path, tmp_path: Path) -> None:
    def fail(report: Report) -> str:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        compile(model, tmp_path / "m.onnx", level=1, evaluate=False, others={str(tmp_path / "x"): fail})
    assert files(tmp_path) == ["model.onnx"]


def test_a_missing_package_is_told_before_the_compile(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for form, package in (("provenance", "in_toto_attestation.v1.statement"), ("bom", "cyclonedx.model.bom")):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules, f"olc.report.{form}", raising=False)
        assert main(["compile", str(model), "-o", str(tmp_path / "m.onnx"), f"--{form}", str(tmp_path / "x")]) == 3
        assert "olc-compiler[provenance]" in capsys.readouterr().err
    assert files(tmp_path) == ["model.onnx"]


def test_report_shows_an_existing_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, page, text = (tmp_path / n for n in ("m.olc.json", "m.html", "m.md"))
    path.write_text(report().dumps())
    assert main(["report", str(path)]) == 0
    assert "faster: 2.00 times the speed" in capsys.readouterr().out
    assert main(["report", str(path), "--html", str(page), "--markdown", str(text)]) == 0
    assert capsys.readouterr().out == ""
    assert "2.00 times the speed" in page.read_text()
    assert "2.00 times the speed" in text.read_text()
    assert main(["report", str(path), "--html", str(path)]) == 7
    assert path.read_text() == report().dumps()


@pytest.mark.parametrize("text", [
    "", "{", "[]", "{}", '{"artifact": 1}', "\x00", "[" * 100_000, report().dumps()[:-500],
    report().dumps().replace('"schema": 1', '"schema": 99'), report().dumps().replace('"ratio": 2.0', '"ratio": "<b>"'),
    report().dumps().replace('"cosine_min"', '"other"'), report(plan="level = ").dumps(), report(notes=5).dumps(),
    report(front=[{}]).dumps(), report(trials=[{}]).dumps(), report(source=[]).dumps(), report(layers=[1]).dumps(),
    report().dumps().replace('"error": 0.02', '"error": NaN'), report().dumps().replace('"ratio": 2.5', '"ratio": Infinity'),
])  # fmt: skip
def test_what_is_no_report_is_bad_input(tmp_path: Path, text: str) -> None:
    path, page = tmp_path / "m.olc.json", tmp_path / "m.html"
    path.write_text(text)
    assert main(["report", str(path), "--html", str(page)]) == 3
    assert files(tmp_path) == ["m.olc.json"]


def test_a_report_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    assert main(["report", str(tmp_path / "no.json")]) == 3
    assert main(["report", str(tmp_path)]) == 3


def made_of_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Report:
    """A report of a model with external data, real data, and rules."""
    monkeypatch.chdir(tmp_path)
    Path("feeds").mkdir()
    np.savez("feeds/a.npz", x=np.zeros((2, 4), np.float32))
    Path("rules.py").write_text("")
    r = report()
    apart = [{"path": name, "sha256": digit * 64, "bytes": 2} for name, digit in (("m.onnx", "1"), ("m.onnx.data", "2"))]
    artifact = {"path": "m.onnx", "sha256": "00" * 32, "bytes": 4, "files": apart}
    return report(artifact=artifact, options={**r.options, "data": "feeds", "rules": ["rules.py"]})


def test_provenance_is_a_statement_with_slsa_s_predicate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    r = made_of_data(tmp_path, monkeypatch)
    data = json.loads(provenance(r))
    statement = Statement.copy_from_pb(ParseDict(data, statement_pb2.Statement()))
    statement.validate()
    found = ParseDict(data["predicate"], provenance_pb2.Provenance())
    assert {s.name: s.digest["sha256"] for s in statement.pb.subject} == {"m.onnx": "11" * 32, "m.onnx.data": "22" * 32}
    digests = {d.name: d.digest["sha256"] for d in found.build_definition.resolved_dependencies if d.name}
    assert digests.keys() == {"source.onnx", "feeds/a.npz", "rules.py"}
    assert digests["source.onnx"] == "ab" * 32
    assert "pkg:pypi/onnxruntime@1.23.0" in {d.uri for d in found.build_definition.resolved_dependencies}
    assert not found.run_details.metadata.HasField("started_on")
    assert provenance(r) == provenance(r)


def test_bom_is_valid_and_has_a_model_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    r = made_of_data(tmp_path, monkeypatch)
    text = bom(r)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    data = json.loads(text)
    component = data["metadata"]["component"]
    assert component["type"] == "machine-learning-model"
    assert component["hashes"][0]["content"] == "11" * 32
    assert component["pedigree"]["ancestors"][0]["hashes"][0]["content"] == "ab" * 32
    card = component["modelCard"]
    refs = {c["bom-ref"]: c["name"] for c in data["components"]}
    assert [refs[d["ref"]] for d in card["modelParameters"]["datasets"]] == ["feeds/a.npz"]
    assert {"name": "olc:quantization:int8-linear", "value": "3 layers"} in card["properties"]
    speed = card["quantitativeAnalysis"]["performanceMetrics"][0]
    assert speed["confidenceInterval"] == {"lowerBound": "1.8000", "upperBound": "2.2000"}
    assert "timestamp" not in data["metadata"]
    assert bom(r) == text


def test_the_time_is_the_one_that_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert json.loads(provenance(report()))["predicate"]["runDetails"]["metadata"]["startedOn"].startswith("2023-11-14T22:13:20")
    text = bom(report())
    assert json.loads(text)["metadata"]["timestamp"].startswith("2023-11-14T22:13:20")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_hostile_names_leave_both_valid() -> None:
    hostile = report("<\u202e\"\n\x00")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bom(hostile)) is None
    Statement.copy_from_pb(ParseDict(json.loads(provenance(hostile)), statement_pb2.Statement())).validate()


def test_a_time_that_is_none_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    from olc.errors import BadInput

    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    with pytest.raises(BadInput, match="SOURCE_DATE_EPOCH"):
        bom(report())


def test_a_model_with_external_data_is_told_file_by_file(model: Path, tmp_path: Path) -> None:
    proto = onnx.load(model)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"))
    onnx.save_model(proto, model, save_as_external_data=True, location="w.bin", size_threshold=0)
    made = compile(model, tmp_path / "m.onnx", level=1, evaluate=False)
    assert [f["path"] for f in made.source["files"]] == ["model.onnx", "w.bin"]
    assert sum(f["bytes"] for f in made.source["files"]) == made.source["bytes"]
