"""What the command line does when native code brings its process down, or when it is called off."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import onnx.parser
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="commands are watched on Linux only")

MODEL = '<ir_version: 10, opset_import: ["": 21]> g (float[N, 4] x) => (float[N, 4] y) { a = Relu(x) y = Sqrt(a) }'
RULE = """
import os, signal
import numpy as np
from olc.rules import EXACT, Case, f32, rule

@rule(group="planted", safety=EXACT)
class Planted:
    \"\"\"One that does not come back.\"\"\"

    def pattern(op, x: f32):
        return op.Sqrt(op.Relu(x))

    def rewrite(op, m):
        {what}
        return op.Sqrt(op.Max(m.x, np.float32(0)))

    cases = [Case("two", x=f32["N"])]
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    onnx.save(onnx.parser.parse_model(MODEL), tmp_path / "model.onnx")
    (tmp_path / "temporary").mkdir()
    return tmp_path


def started(files: Path, what: str, *further: str, out: str = "out.onnx") -> subprocess.Popen[str]:
    (files / "rule.py").write_text(RULE.format(what=what))
    command = [sys.executable, "-m", "olc", "compile", "model.onnx", *further, "-O1", "-o", out, "--rules", "rule.py"]
    env = {**os.environ, "TMPDIR": str(files / "temporary")}

    def heeding() -> None:
        # What runs the tests in the background may have them ignore it, and those whom they start.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=files, env=env, stdout=pipe, stderr=pipe, text=True, preexec_fn=heeding)


def left(files: Path) -> list[str]:
    kept = {"model.onnx", "rule.py", "temporary", "__pycache__"}
    return sorted(p.name for p in (*files.iterdir(), *(files / "temporary").glob("*olc*")) if p.name not in kept)


@pytest.mark.parametrize("sig", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_crash_is_told_and_cleared_away(files: Path, sig: signal.Signals) -> None:
    process = started(files, f"os.kill(os.getpid(), {int(sig)})")
    _, err = process.communicate(timeout=120)
    assert process.returncode == -sig
    assert "olc: crashed: the process was killed" in err
    assert "Traceback" not in err
    assert left(files) == []


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_what_is_called_off_has_not_crashed(files: Path, sig: signal.Signals) -> None:
    process = started(files, "print('there', flush=True); signal.pause()")
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    process.send_signal(sig)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "crashed" not in err
    assert left(files) == []


@pytest.mark.parametrize("between", ["\n", "\u2028"])
def test_a_folders_odd_name_costs_no_other_folder(files: Path, between: str) -> None:
    made = f"keep{between}more"
    for folder in ("keep", made):
        (files / folder).mkdir()
        (files / folder / "data.txt").write_text("precious")
    started(files, "os.kill(os.getpid(), signal.SIGKILL)", out=f"{made}/out.onnx").communicate(timeout=120)
    assert left(files) == sorted(["keep", made])
    assert [p.name for folder in ("keep", made) for p in (files / folder).iterdir()] == ["data.txt"] * 2


def test_a_worker_that_crashes_leaves_nothing_either(files: Path) -> None:
    (files / "made").mkdir()
    shutil.copy(files / "model.onnx", files / "second.onnx")
    process = started(files, "os.kill(os.getpid(), signal.SIGSEGV)", "second.onnx", "--workers", "2", out="made")
    told = "".join(process.communicate(timeout=240))
    assert process.returncode == 1
    assert "was killed or crashed" in told
    (files / "second.onnx").unlink()
    assert left(files) == ["made"]
    assert list((files / "made").iterdir()) == []


def test_the_exit_code_is_that_of_the_command(files: Path) -> None:
    assert started(files, "pass").wait(timeout=120) == 0
    assert left(files) == ["out.olc.json", "out.onnx"]
    (files / "model.onnx").write_bytes(b"")
    process = started(files, "pass")
    process.communicate(timeout=120)
    assert process.returncode == 3
