"""The command line: exit codes, messages, files. What the commands compute is tested where it is computed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from olc.cli import main

GELU = """<ir_version: 10, opset_import: ["":20]>
g (float[batch, 8] x) => (float[batch, 8] y)
<float[8, 8] w = WEIGHTS, float half = {0.5}, float root = {1.4142135}, float one = {1}>
{
  h = MatMul(x, w)
  i = Identity(h)
  d = Div(i, root)
  e = Erf(d)
  f = Add(e, one)
  g1 = Mul(i, half)
  y = Mul(g1, f)
}"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    weights = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    text = GELU.replace("WEIGHTS", "{" + ", ".join(f"{x:.6f}" for x in weights) + "}")
    path = tmp_path / "gelu.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def olc(*args: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "olc", *args], capture_output=True, text=True, **options)  # type: ignore[call-overload, no-any-return]


def test_compile_writes_a_model_and_its_report(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert main(["compile", str(model), "-O2", "-o", str(out), "-q"]) == 0
    assert [n.op_type for n in onnx.load(out).graph.node] == ["MatMul", "Gelu"]
    report = json.loads((tmp_path / "out.olc.json").read_text())
    assert report["changes"]["nodes"] == [7, 2]
    assert report["evaluation"]["within"] is True
    assert any(r["rule"] == "erf-gelu" for r in report["rewrites"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gelu.onnx", "out.olc.json", "out.onnx"]


def test_same_input_same_bytes_whatever_the_hash_seed(model: Path, tmp_path: Path) -> None:
    for seed in ("1", "2"):
        done = olc("compile", str(model), "-O2", "-o", str(tmp_path / f"{seed}.onnx"), "--no-evaluate", "-q",
                   env={**os.environ, "PYTHONHASHSEED": seed})  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "1.onnx").read_bytes() == (tmp_path / "2.onnx").read_bytes()


def test_level_3_goes_from_file_to_measured_artifact(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("olc.evaluation.evaluate.Evaluation.slower", property(lambda self: False))  # busy machines say otherwise
    out = tmp_path / "out.onnx"
    assert main(["compile", str(model), "-O3", "-o", str(out), "-q"]) == 0
    report = json.loads((tmp_path / "out.olc.json").read_text())
    assert report["trials"], "nothing was measured"
    assert 'target = "onnxruntime-cpu"' in report["plan"]


def test_a_plan_is_carried_out_as_it_stands(model: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text('target = "onnxruntime-cpu"\nlevel = 3\n[groups.gelu]\nkeep = false\nwhy = "by hand"\n')
    out = tmp_path / "out.onnx"
    assert main(["compile", str(model), "--plan", str(plan), "-o", str(out), "-q"]) == 0
    assert "Gelu" not in [n.op_type for n in onnx.load(out).graph.node]


def test_skip_and_stop_after(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert main(["compile", str(model), "-o", str(out), "--skip", "erf-gelu", "-q"]) == 0
    assert "Erf" in [n.op_type for n in onnx.load(out).graph.node]
    assert main(["compile", str(model), "-o", str(out), "--stop-after", "0", "-q"]) == 0
    assert json.loads((tmp_path / "out.olc.json").read_text())["rewrites"] == []


BAD = {
    "empty": (b"", 3),
    "truncated": (None, 3),
    "text": (b"this is no model at all, only prose", 3),
}


@pytest.mark.parametrize("kind", [*BAD, "missing", "folder"])
@pytest.mark.parametrize("command", ["compile", "analyze", "plan", "why", "bisect"])
def test_bad_files_are_refused_with_code_3_and_no_traceback(
    kind: str, command: str, model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bad.onnx"
    if kind == "folder":
        path.mkdir()
    elif kind == "truncated":
        path.write_bytes(model.read_bytes()[:-40])
    elif kind != "missing":
        path.write_bytes(BAD[kind][0])  # type: ignore[arg-type]
    before = sorted(p.name for p in tmp_path.iterdir())
    extra = ["--rule", "erf-gelu"] if command == "why" else []
    done = olc(command, str(path), *extra)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert "bad.onnx" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize("args", [["analyze"], ["why"], ["why", "--rule", "erf-gelu", "-O", "1"], ["compile"], ["plan"]])
def test_a_type_that_only_inference_finds_wrong_is_bad_input(args: list[str], tmp_path: Path) -> None:
    """A classifier in float64 as skl2onnx writes it: no declared type of the value in between says that it does not fit."""
    text = """<ir_version: 8, opset_import: ["": 17, "ai.onnx.ml": 1]> g (double[N, 3] x) => (seq(map(int64, float)) z)
        { a = Softmax(x) z = ai.onnx.ml.ZipMap<classlabels_int64s = [0, 1, 2]>(a) }"""
    path = tmp_path / "bad.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    done = olc(args[0], str(path), *args[1:])
    assert done.returncode == 3, done.stderr
    assert "ZipMap" in done.stderr
    assert "bad.onnx" in done.stderr


def test_operator_that_no_kernel_runs_is_code_4(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["":17, "my.ops":1]> g (float[2] x) => (float[2] y) { y = my.ops.Frob(x) }'
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    done = olc("compile", str(path), "-o", str(tmp_path / "out.onnx"))
    assert done.returncode == 4, done.stderr
    assert "Frob" in done.stderr
    assert not (tmp_path / "out.onnx").exists()


def test_inference_that_fails_names_the_model(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["":17]> g (float[a] x, float[b] z) => (float[c] y) { y = Add(x, z) }'
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    done = olc("compile", str(path), "-o", str(tmp_path / "out.onnx"), "--dim", "a=3,b=4")
    assert done.returncode in (1, 3), done.stderr
    assert "m.onnx" in done.stderr
    assert "--dim" in done.stderr or "--data" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.onnx").exists()


def test_output_problems_are_code_7(model: Path, tmp_path: Path) -> None:
    assert olc("compile", str(model), "-o", str(tmp_path / "no" / "out.onnx")).returncode == 7
    assert olc("compile", str(model), "-o", str(tmp_path)).returncode == 7
    done = olc("compile", str(model), "-o", str(model))
    assert done.returncode == 7
    assert "overwrite" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_disk_full_leaves_nothing(model: Path, tmp_path: Path) -> None:
    # A file-size limit stands in for a full disk: writing the artifact fails half-way.
    out = tmp_path / "out.onnx"
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from olc import driver, cli; import onnxruntime;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100));"
        f"sys.exit(cli.main(['compile', {str(model)!r}, '-o', {str(out)!r}, '--no-evaluate']))"
    )
    done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 7, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gelu.onnx"]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_is_code_130_and_leaves_nothing(sent: signal.Signals, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    args = ["olc", "compile", str(model), "-O3", "-o", str(out)]
    # Whoever starts the tests in the background has them ignore interrupts, and their children too.
    code = ("import signal, sys; from olc import cli; signal.signal(signal.SIGINT, signal.default_int_handler); "
            f"sys.argv = {args!r}; cli.entry()")  # fmt: skip
    running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    assert any("measuring the gain" in line for line in running.stderr), "in the midst of the search"
    running.send_signal(sent)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "Traceback" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gelu.onnx"]


def test_usage_errors_are_code_2(model: Path) -> None:
    assert olc("compile", str(model), "-O7").returncode == 2
    assert olc("compile", str(model), "--dim", "batch").returncode == 2
    assert olc("frobnicate").returncode == 2
    assert olc("compile", str(model), "-O3", "--no-evaluate").returncode == 2


def test_unknown_target_names_those_there_are(model: Path, tmp_path: Path) -> None:
    done = olc("compile", str(model), "--target", "toaster", "-o", str(tmp_path / "o.onnx"))
    assert done.returncode == 3
    assert "onnxruntime-cpu" in done.stderr


def test_evaluate_diff_analyze_doctor(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert main(["compile", str(model), "-o", str(out), "-q"]) == 0
    found = json.loads(olc("evaluate", str(model), str(out), "--json", "--time", "0.2").stdout)
    assert found["within"] is True
    changes = json.loads(olc("diff", str(model), str(out), "--json").stdout)
    assert changes["operators"]["Gelu"] == [0, 1]
    facts = json.loads(olc("analyze", str(model), "--json", "--dim", "batch=4").stdout)
    assert facts["flops"] >= 2 * 4 * 8 * 8
    assert facts["fusable"]["erf-gelu"] == 1
    health = json.loads(olc("doctor", "--json").stdout)
    assert "CPUExecutionProvider" in health["execution_providers"]


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = olc("compile", str(tmp_path / "none.onnx"), "--debug")
    assert "Traceback" in done.stderr
    assert done.returncode != 0


def test_targets_are_listed_and_measured(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["targets", "list"]) == 0
    assert "onnxruntime-cpu: opset" in capsys.readouterr().out
    assert main(["targets", "show", "SkipLayerNormalization"]) == 0
    assert "SkipLayerNormalization" in capsys.readouterr().out
    assert main(["targets", "measure", "-q", "--operator", "Sum", "--seconds", "0.01"]) == 0
    assert capsys.readouterr().out.count("Sum at rows") == 4
    assert main(["targets", "measure", "-q", "--operator", "Nonsense"]) == 2


def test_an_assumption_can_be_forbidden(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.onnx"
    assert main(["compile", str(model), "-o", str(out), "--strict", "all", "-q"]) == 0
    assert json.loads((tmp_path / "out.olc.json").read_text())["options"]["strict"]
    assert main(["compile", str(model), "-o", str(out), "--strict", "nonsense"]) == 3
    assert "no assumption is called 'nonsense'" in capsys.readouterr().err


def test_why_without_a_rule_surveys_the_fusions(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", str(model)]) == 0
    assert "gelu 1 of 1" in capsys.readouterr().out
    assert main(["why", str(model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["kind"] == "gelu"
    assert main(["why", str(model), "--at", "node"]) == 2
    assert "give --rule" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["soon", "0", "0.5s", "5 minutes", "-3", "1e9", "nan", ""])
def test_what_is_no_duration(text: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", str(model), "-O3", "--tune-time", text]) == 2
    assert "is no duration of a second or more" in capsys.readouterr().err


def test_on_a_terminal_each_model_has_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The terminal is a file that says that it is one."""
    import io

    from olc.cli._options import progress

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    with progress(False, 60.0) as say:
        say("[1/2] a.onnx: loading")
        say("[2/2] b.onnx: loading \x1b[2J[red]")
        say("[1/2] a.onnx: compiling at -O3")
    text = shown.getvalue()
    last = text.rpartition("[1/2] a.onnx: compiling at -O3")
    assert last[1]
    assert "[2/2] b.onnx: loading \ufffd[2J[red]" in last[2], "the other is still there"
