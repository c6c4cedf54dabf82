"""The report in a terminal: names from a model are shown, not obeyed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from olc import plain
from olc.cli import main
from olc.report.terminal import show

from tests import sample_report

HOSTILE = " [/b][red]x[link=http://x]:smile: \x1b[2J\n::add-mask::passed\n  ::error::owned \u202e \ud800"


def test_nothing_in_a_name_is_markup_a_control_or_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    show(sample_report.report(HOSTILE))
    out = capsys.readouterr().out
    assert out.count("[/b][red]x[link=http://x]:smile:") > 5
    assert not {"\x1b", "\u202e", "\ud800"} & set(out)
    assert not [line for line in out.splitlines() if line.lstrip().startswith("::")]


def test_what_is_harmless_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    show(sample_report.report())
    out = capsys.readouterr().out
    assert out.startswith("source.onnx -> made.onnx  -O3 for onnxruntime-cpu\n")
    assert "missed: attention at softmax: attention: its mask is odd" in out
    for text in ("encoder/layer.0 (query)", "é 语 ∂", "  two  spaces", "a::b"):
        assert plain.line(text) == text


@pytest.mark.parametrize(("text", "made"), [
    ("a\nb\tc", "a b c"), ("\x1b[31mred", "\ufffd[31mred"), ("::error::x", ":\u200b:error::x"),
    (" \r\n ::x", ":\u200b:x"), ("a\u202eb", "a\ufffdb"),
    ("x::error::y", "x:\u200b:error::y"), ("x ::y", "x :\u200b:y"),
])  # fmt: skip
def test_a_line(text: str, made: str) -> None:
    assert plain.line(text) == made


def test_markdown_of_a_name_links_to_nothing() -> None:
    made = plain.markdown("see https://evil.example www.evil.example ftp://x @all #12 <b> `x` [a](b) | *c* \\")
    for raw in ("://evil", "www.", "ftp:/", "@", " #1", "<", "`", "[", "|", "*", "\\"):
        assert raw not in made.replace("&#8203;", "\u200b"), raw
    assert len(plain.markdown("x" * 10**6)) < 400
    assert plain.markdown("encoder.layer.0/MatMul: 1.5 times") == "encoder.layer.0/MatMul: 1.5 times"


def test_hostile_names_through_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 20]> g (float[2] x) => (float[2] y) { y = Sin(x) }')
    name = HOSTILE.replace("\ud800", "")
    model.graph.node[0].output[0] = model.graph.output[0].name = f"[/b]{name}"
    model.graph.node[0].name = name
    onnx.save(model, tmp_path / "m.onnx")
    path, made = str(tmp_path / "m.onnx"), str(tmp_path / "m.olc.onnx")
    for arguments in (["compile", path], ["report", str(tmp_path / "m.olc.olc.json")], ["analyze", path], ["diff", path, made],
                      ["why", path], ["why", path, "--rule", "erf-gelu"], ["evaluate", path, made, "--time", "0.1"]):  # fmt: skip
        assert main(arguments) == 0, arguments
    model.graph.node[0].op_type = f"Sin{name}"
    onnx.save(model, path)
    assert main(["compile", path]) != 0
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert not {"\x1b", "\u202e"} & set(text)
        assert not [line for line in text.splitlines() if line.lstrip().startswith("::")]


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break in other ways there")
def test_a_reader_that_leaves_changes_no_exit_code(tmp_path: Path) -> None:
    """A gate's code has to arrive, and its files be written, whoever read what it printed."""
    from tests.checking import repository

    repository(tmp_path, '[[models]]\npath = "models/small.onnx"\nbudget = {opset = [15, 17]}')
    running = subprocess.Popen([sys.executable, "-m", "olc", "check", "--json", "out.json"], cwd=tmp_path, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    assert running.stdout is not None
    running.stdout.close()
    assert running.wait(60) == 68
    assert json.loads((tmp_path / "out.json").read_text())["code"] == 68


def test_layers_left_for_one_reason_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    report = sample_report.report()
    row = {"rule": "int8-attention", "module": "", "kept": False, "outliers": None, "error": 0.1, "body": ""}
    report.layers[:] = [
        {**row, "node": f"attention{i}", "why": "it is slower" if i else "it is odd", "microseconds": [100.0, 100.0]}
        for i in range(4)
    ]
    show(report)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "int8-attention:" in line]
    assert [" ".join(line) for line in lines] == [
        "attention0 100 int8-attention: it is odd", "attention1 and 2 more 300 int8-attention: it is slower",
    ]  # fmt: skip
