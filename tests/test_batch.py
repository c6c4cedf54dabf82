"""Several models at once: the same results as one by one, one that fails or dies stops no other, and turns to measure."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from olc import batch
from olc.batch import Unit, run
from olc.cli import main
from olc.errors import BadInput, OlcError, Unsupported
from olc.evaluation import turns
from olc.report import Report
from olc.settings import Settings

from tests.checking import save

QUICK = Settings(level=2, evaluate=False)


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    """Two that compile, and between them one that does not."""
    found = [str(save(tmp_path / f"{name}.onnx")) for name in ("a", "bad", "b")]
    Path(found[1]).write_bytes(b"this is no model")
    return found


def units(models: list[str], folder: Path) -> list[Unit]:
    folder.mkdir()
    return [Unit(m, str(folder / f"{Path(m).stem}.olc.onnx"), QUICK) for m in models]


def test_side_by_side_gives_what_one_by_one_gives(models: list[str], tmp_path: Path) -> None:
    said: list[str] = []
    one, two = units(models, tmp_path / "one"), units(models, tmp_path / "two")
    alone, both = dict(run(one)), dict(run(two, workers=2, say=said.append))
    for found in (alone, both):
        assert [type(found[n]) for n in range(3)] == [Report, BadInput, Report]
    assert (tmp_path / "one" / "a.olc.onnx").read_bytes() == (tmp_path / "two" / "a.olc.onnx").read_bytes()
    assert str(alone[1]) == str(both[1])
    assert f"[3/3] {models[2]}: loading" in said
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == [
        "a.olc.olc.json", "a.olc.onnx", "b.olc.olc.json", "b.olc.onnx",
    ]  # fmt: skip


def test_one_that_takes_its_process_with_it_stops_no_other(
    models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "killer_of_batch_test.py").write_text("import os\ndef feeds():\n    os._exit(9)\n")
    killer = Unit(models[0], str(tmp_path / "k.onnx"), Settings(level=1, data="killer_of_batch_test:feeds", measure=False))
    other = Unit(models[2], str(tmp_path / "o.onnx"), QUICK)
    found = dict(run([killer, other], workers=2))
    assert isinstance(found[1], Report)
    assert isinstance(found[0], OlcError)
    assert "killed or crashed" in found[0].what


def test_what_is_kept_needs_no_process(models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLC_CACHE", str(tmp_path / "cache"))
    kept = [replace(u, settings=replace(QUICK, cache="on")) for u in units([models[0], models[2]], tmp_path / "out")]
    assert len(dict(run(kept))) == 2
    monkeypatch.setattr("olc.batch._side_by_side", None)
    again = dict(run(kept, workers=2))
    assert [isinstance(r, Report) and r.cached for r in again.values()] == [True, True]


def test_units_and_errors_are_plain_values() -> None:
    unit = Unit("a.onnx", "b.onnx", Settings(dims={"n": 1}, skip=frozenset({"x"})))
    assert pickle.loads(pickle.dumps(unit)) == unit
    error = pickle.loads(pickle.dumps(Unsupported("what", where="w", hint="h", culprits=(("n", "t"),))))
    assert (error.what, error.where, error.hint, error.culprits) == ("what", "w", "h", (("n", "t"),))


def test_nobody_works_while_one_measures() -> None:
    place = turns.Turns(threading, 2)  # type: ignore[arg-type]
    done: list[str] = []

    def other() -> None:
        with place.working():
            done.append("other")

    with place.working():
        thread = threading.Thread(target=other)
        with place.alone():
            thread.start()
            thread.join(0.05)
            done.append("measured")
        thread.join()
    assert done == ["measured", "other"]


def test_two_that_want_to_measure_do_so_one_after_the_other() -> None:
    place = turns.Turns(threading, 2)  # type: ignore[arg-type]
    inside, most = [0], [0]

    def measure() -> None:
        for _ in range(50):
            with place.working(), place.alone():
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=measure) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    assert not any(t.is_alive() for t in threads), "they block each other"
    assert most == [1]


def test_a_measurement_that_fails_gives_its_places_back() -> None:
    place = turns.Turns(threading, 2)  # type: ignore[arg-type]
    with pytest.raises(BadInput), place.working(), place.alone():
        raise BadInput("no")
    free = [place._places.acquire(False) for _ in range(3)]
    assert free == [True, True, False]


def test_waiting_for_a_turn_does_not_count_as_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr(turns, "_waited", 0.0)
    place = turns.Turns(threading, 1)  # type: ignore[arg-type]
    acquire = place._places.acquire

    def slow() -> bool:
        now[0] += 5
        return acquire()

    begin = turns.clock()
    with place.working():
        monkeypatch.setattr(place._places, "acquire", slow)
        with place.alone():
            now[0] += 1
        assert turns.clock() - begin == 1
    assert now[0] == 10 + 5 + 1 + 5


def test_the_command_sums_up_and_exits_with_the_only_kind_of_failure(
    models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert main(["compile", *models, "-o", str(out), "--no-evaluate"]) == 3
    text = capsys.readouterr().out
    assert text.count("gelu 1/1") == 2
    assert "bad.onnx: text, not an ONNX model" in text
    assert sorted(p.name for p in out.glob("*.onnx")) == ["a.olc.onnx", "b.olc.onnx"]
    assert main(["compile", *models, "--no-evaluate", "--json"]) == 3
    rows = json.loads(capsys.readouterr().out)
    assert [r["error"] is None for r in rows] == [True, False, True]
    assert rows[0]["report"]["changes"]["nodes"] == [6, 2]
    odd = '<ir_version: 8, opset_import: ["":17, "my.ops":1]> g (float[2] x) => (float[2] y) { y = my.ops.Frob(x) }'
    (tmp_path / "odd.onnxtxt").write_text(odd)
    assert main(["compile", *models, str(tmp_path / "odd.onnxtxt"), "--no-evaluate", "-q"]) == 69
    assert "unsupported by target" in capsys.readouterr().err


def test_where_several_go_must_be_clear(models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", *models, "-o", str(tmp_path / "out.onnx")]) == 7
    assert "several models" in capsys.readouterr().err
    other = save(tmp_path / "deep" / "a.onnx")
    assert main(["compile", models[0], str(other), "-o", str(tmp_path)]) == 7
    assert "both" in capsys.readouterr().err
    made = save(tmp_path / "a.olc.onnx")
    before = made.read_bytes()
    assert main(["compile", models[0], str(made)]) == 7
    assert "would overwrite" in capsys.readouterr().err
    assert made.read_bytes() == before
    made.unlink()
    assert main(["compile", *models, "--plan", "p.toml"]) == 2
    assert main(["compile"]) == 2


def test_a_worker_that_was_told_to_end_takes_no_more_work(
    models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "_ending", False, raising=False)
    monkeypatch.setattr(batch, "_place", turns.Turns(threading, 1), raising=False)  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    armed: list[float] = []
    monkeypatch.setattr(signal, "setitimer", lambda which, seconds: armed.append(seconds), raising=False)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    with pytest.raises(SystemExit):
        batch._leave(signal.SIGTERM, None)
    assert armed == [batch.AGAIN_S], "it is told again where that was lost"
    (unit,) = units(models[:1], tmp_path / "out")
    left: list[int] = []

    def leave(code: int) -> None:
        left.append(code)
        raise KeyboardInterrupt  # what ends the process there

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(KeyboardInterrupt):
        batch._work(0, unit)
    monkeypatch.setattr(batch, "_ending", False)

    def told(*_: object) -> None:
        raise SystemExit(130)

    monkeypatch.setattr(batch, "_one", told)
    with pytest.raises(KeyboardInterrupt):
        batch._work(0, unit)
    assert left == [130, 130]
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to handle")
def test_an_interruption_ends_every_worker_and_leaves_nothing(models: list[str], tmp_path: Path) -> None:
    args = ["olc", "compile", models[0], models[2], "-O3", "--workers", "2"]
    script = tmp_path / "go.py"
    script.write_text(f"import sys\nfrom olc import cli\nif __name__ == '__main__':\n    sys.argv = {args!r}\n    cli.entry()\n")
    before = sorted(tmp_path.iterdir())
    running = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    assert "loading" in running.stderr.readline()
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "Traceback" not in err
    assert sorted(tmp_path.iterdir()) == before
