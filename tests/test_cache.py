"""The cache: the same compile gives the same bytes without being done again, and whatever it depends on is in the key."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from olc import cache, driver
from olc.job import Job
from olc.settings import Settings
from olc.strategy.budget import Budget
from olc.strategy.plan import Plan

from tests.checking import save

QUICK = Settings(level=2, measure=False, cache="on")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's folder."""
    monkeypatch.setenv("OLC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save(tmp_path / "models" / "small.onnx")


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The sources that were really compiled."""
    seen: list[Path] = []
    run = Job.run

    def counted(self: Any) -> Any:
        seen.append(self.source)
        return run(self)

    monkeypatch.setattr(Job, "run", counted)
    return seen


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def compile(model: Path, tmp_path: Path, settings: Settings = QUICK, name: str = "out") -> tuple[Any, dict[str, bytes]]:
    out = tmp_path / name
    out.mkdir(exist_ok=True)
    return driver.compile(model, out / "m.onnx", settings), files(out)


def test_the_second_time_gives_the_same_bytes_and_says_so(
    root: Path, model: Path, tmp_path: Path, compiles: list[Path]
) -> None:
    first, made = compile(model, tmp_path)
    (entry,) = root.iterdir()
    os.utime(entry, (100, 100))
    second, again = compile(model, tmp_path, name="again")
    assert len(compiles) == 1
    assert made == again
    assert set(made) == {"m.onnx", "m.olc.json"}
    assert (first.cached, second.cached) == (False, True)
    assert "from the cache" in second.notes[-1]
    assert b"from the cache" not in again["m.olc.json"]
    assert second.rewrites == first.rewrites
    assert entry.stat().st_mtime > 100, "used now: among the last to go"


def test_external_data_comes_back_too(
    root: Path, model: Path, tmp_path: Path, compiles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("olc.storage.SPLIT_BYTES", 1)
    monkeypatch.setattr("olc.storage.EXTERNAL_TENSOR", 1)
    _, made = compile(model, tmp_path)
    _, again = compile(model, tmp_path, name="again")
    assert len(compiles) == 1
    assert made == again
    assert len(made) == 3


def test_renew_compiles_and_takes_the_place(root: Path, model: Path, tmp_path: Path, compiles: list[Path]) -> None:
    compile(model, tmp_path)
    (entry,) = root.iterdir()
    before = entry.stat().st_ino
    report, _ = compile(model, tmp_path, replace(QUICK, cache="renew"))
    assert not report.cached
    assert len(compiles) == 2
    assert [p.stat().st_ino != before for p in root.iterdir()] == [True]


def test_off_reads_and_writes_nothing(
    root: Path, model: Path, tmp_path: Path, compiles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    compile(model, tmp_path, replace(QUICK, cache="off"))
    assert not root.exists()
    monkeypatch.setenv("OLC_CACHE", "off")
    for _ in range(2):
        compile(model, tmp_path)
    assert len(compiles) == 3
    assert not root.exists()


def key(model: Any, settings: Settings = QUICK, output: str = "m.onnx") -> Path | None:
    found = cache.entry(model, Path(output), settings)
    return None if found is None else found.path


def _touch_weights(model: Path) -> None:
    proto = onnx.load(model)
    proto.graph.initializer[0].float_data[0] += 1
    onnx.save(proto, model)


def _put_weights_outside(model: Path) -> None:
    proto = onnx.load(model)
    for t in proto.graph.initializer:
        t.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(t), t.name))
    onnx.save(proto, model, save_as_external_data=True, location="w.bin", size_threshold=0)


OPTIONS: dict[str, dict[str, Any]] = {
    "level": {"level": 1}, "dims": {"dims": {"batch": 3}}, "skip": {"skip": frozenset({"erf-gelu"})}, "seed": {"seed": 1},
    "measure": {"measure": True}, "threads": {"threads": 1}, "budget": {"budget": Budget(cosine=0.5)},
    "plan": {"plan": Plan("onnxruntime-cpu", 2)}, "strict": {"unassumed": frozenset({"finite-scores"})},
}  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
def test_another_option_is_another_result(option: str, root: Path, model: Path) -> None:
    assert key(model, replace(QUICK, **OPTIONS[option])) != key(model)
    assert key(model, replace(QUICK, **OPTIONS[option])) == key(model, replace(QUICK, **OPTIONS[option]))


def _patched(target: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(target, value)


WORLD: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "version": _patched("importlib.metadata.version", lambda name: "0.0.1"),
    "sources": _patched("olc.cache.sources", lambda: b"edited"),
    "cpu": _patched("olc.targets.onnxruntime_cpu.OnnxRuntimeCpu.features", lambda self: {"model": "another"}),
    "threads of the runtime": lambda patch: patch.setenv("OMP_NUM_THREADS", "7"),
}


@pytest.mark.parametrize("what", WORLD)
def test_another_world_is_another_result(what: str, root: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(model)
    WORLD[what](monkeypatch)
    assert key(model) != before


def test_another_model_name_or_data_is_another_result(root: Path, model: Path, tmp_path: Path) -> None:
    feeds = tmp_path / "feeds"
    feeds.mkdir()
    np.savez(feeds / "0.npz", x=np.zeros((1, 2), np.float32))
    fed = replace(QUICK, data=str(feeds))
    keys = [key(model), key(model, output="other.onnx"), key(model, fed)]
    np.savez(feeds / "0.npz", x=np.ones((1, 2), np.float32))
    keys.append(key(model, fed))
    np.savez(feeds / "1.npz", x=np.ones((1, 2), np.float32))
    keys.append(key(model, fed))
    _touch_weights(model)
    keys.append(key(model, fed))
    assert len(set(keys)) == len(keys)


def test_a_function_counts_by_what_it_yields(
    root: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "feeds_of_cache_test.py").write_text(
        "import itertools, numpy as np\nstart = 0\n"
        "def feeds():\n    return ({'x': np.full((1, 2), i, np.float32)} for i in itertools.count(start))\n"
    )
    settings = replace(QUICK, data="feeds_of_cache_test:feeds", samples=2)
    first = key(model, settings)
    assert first == key(model, settings)
    monkeypatch.setattr("feeds_of_cache_test.start", 1)
    assert key(model, settings) != first


def test_a_rule_file_counts_by_its_content(root: Path, model: Path, tmp_path: Path) -> None:
    rules = tmp_path / "r.py"
    rules.write_text("# one")
    settings = replace(QUICK, rules=[str(rules)])
    first = key(model, settings)
    rules.write_text("# two")
    assert key(model, settings) != first


@pytest.mark.parametrize(("metric", "kept"), [("top1", True), ("mine:score", False), ("wer=mine:decode", False)])
def test_a_metric_of_the_users_own_code_is_measured_each_time(metric: str, kept: bool, root: Path, model: Path) -> None:
    assert (cache.entry(model, Path("m.onnx"), replace(QUICK, metrics=(metric,))) is not None) == kept


def test_a_metric_counts_every_sample(root: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "labels_of_cache_test.py").write_text(
        "import numpy as np\nlast = 0\n"
        "def feeds():\n    for i in range(20):\n"
        "        yield {'x': np.ones((1, 2), np.float32), 'label': np.array([last * (i == 19)])}\n"
    )
    settings = replace(QUICK, data="labels_of_cache_test:feeds", samples=2, metrics=("top1",))
    first = key(model, settings)
    monkeypatch.setattr("labels_of_cache_test.last", 1)
    assert key(model, settings) != first


@pytest.mark.parametrize(("text", "kept"), [
    ("import math, numpy as np\nfrom olc.rules import rule", True), ("import helper", False), ("from . import helper", False),
    ("def f():\n    from helper import x", False), ("1 +", False),
])  # fmt: skip
def test_rules_that_need_other_files_are_run_each_time(text: str, kept: bool, root: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "r.py").write_text(text)
    assert (key(model, replace(QUICK, rules=[str(tmp_path / "r.py")])) is not None) == kept


def test_a_source_that_changes_meanwhile_is_not_kept_under_its_old_name(
    root: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Job.run

    def slow(self: Any) -> Any:
        _touch_weights(model)  # an exporter writes the file again before it is read
        return run(self)

    monkeypatch.setattr(Job, "run", slow)
    report, _ = compile(model, tmp_path)
    assert "changed meanwhile" in report.notes[-1]
    assert not list(root.glob("*.zip"))


def test_external_data_counts(root: Path, model: Path) -> None:
    _put_weights_outside(model)
    first = key(model)
    raw = bytearray((model.parent / "w.bin").read_bytes())
    raw[0] ^= 1
    (model.parent / "w.bin").write_bytes(raw)
    assert first is not None
    assert key(model) != first


def test_what_cannot_be_read_has_no_place(root: Path, model: Path, tmp_path: Path) -> None:
    assert key(tmp_path / "none.onnx") is None
    assert key(onnx.load(model)) is None
    assert key(model, replace(QUICK, data="nothing.npz")) is None
    assert key(model, replace(QUICK, rules=["none.py"])) is None
    assert key(model, replace(QUICK, ranges="none.json")) is None, "calibration is to write that file"
    _put_weights_outside(model)
    (model.parent.parent / "wb").write_bytes(b"of someone else")
    model.write_bytes(model.read_bytes().replace(b"w.bin", b"../wb"))
    assert key(model) is None
    model.write_bytes(b"location" * 3)
    assert key(model) is None


def _truncated(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def _flipped(raw: bytes) -> bytes:
    middle = raw.index(b'"schema"')
    return raw[:middle] + b"!" + raw[middle + 1 :]


def _foreign(raw: bytes) -> bytes:
    import io
    import zipfile

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as held:
        held.writestr("../../escaped.onnx", b"x")
        held.writestr("m.onnx", b"x")
        held.writestr("m.olc.json", b'{"a": 1}')
    return out.getvalue()


def _with_headers(raw: bytes, offset: int, value: int) -> bytes:
    """A number of all headers changed: ``offset`` as in the header of a member, two more in that of the directory."""
    made = bytearray(raw)
    for signature, start in ((b"PK\x03\x04", offset), (b"PK\x01\x02", offset + 2)):
        at = raw.find(signature)
        while at >= 0:
            made[at + start] = value
            at = raw.find(signature, at + 4)
    return bytes(made)


def _encrypted(raw: bytes) -> bytes:
    return _with_headers(raw, 6, 1)


def _packed_otherwise(raw: bytes) -> bytes:
    return _with_headers(raw, 8, 99)


def _with_more(raw: bytes) -> bytes:
    import io
    import zipfile

    out = io.BytesIO(raw)
    with zipfile.ZipFile(out, "a") as held:
        held.writestr("escaped.onnx", b"x")
    return out.getvalue()


def _packed(raw: bytes) -> bytes:
    """What no entry is, and what a corrupt one raises errors of another library for."""
    import io
    import zipfile

    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as held:
        for name in old.namelist():
            held.writestr(name, old.read(name))
    return out.getvalue()[:60] + b"!" + out.getvalue()[61:]


@pytest.mark.parametrize("spoil", [_truncated, _flipped, _foreign, _encrypted, _packed_otherwise, _with_more, _packed,
                                   lambda raw: b"", lambda raw: b"PK\x05\x06" + bytes(18)])  # fmt: skip
def test_a_corrupt_entry_is_ignored_and_written_again(
    spoil: Callable[[bytes], bytes], root: Path, model: Path, tmp_path: Path, compiles: list[Path]
) -> None:
    _, made = compile(model, tmp_path)
    (entry,) = root.iterdir()
    (tmp_path / "escaped.onnx").write_bytes(b"of someone else")
    sound = entry.read_bytes()
    entry.write_bytes(spoil(sound))
    report, again = compile(model, tmp_path, name="again")
    assert not report.cached
    assert len(compiles) == 2
    assert set(again) == set(made)
    assert compile(model, tmp_path, name="third")[0].cached
    assert [p.read_bytes() for p in tmp_path.rglob("escaped*")] == [b"of someone else"]


def test_a_file_in_the_caches_place_stops_no_compile(root: Path, model: Path, tmp_path: Path) -> None:
    root.write_text("in the way")
    report, made = compile(model, tmp_path)
    assert "not kept in the cache" in report.notes[-1]
    assert len(made) == 2


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(bytes(1000))
    root = tmp_path / "cache"
    entries = [cache.Entry(root, name, most=4000) for name in ("a", "b", "c")]
    for age, e in enumerate(entries):
        assert e.write([data]) is None
        os.utime(e.path, (100 + age, 100 + age))
    os.utime(entries[0].path)  # used
    assert cache.Entry(root, "d", most=4000).write([data]) is None
    assert sorted(p.name for p in root.iterdir()) == ["a.zip", "c.zip", "d.zip"]
    assert "too large" in str(cache.Entry(root, "e", most=1000).write([data]))
    assert sorted(p.name for p in root.iterdir()) == ["a.zip", "c.zip", "d.zip"]


def test_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    data, root = tmp_path / "data", tmp_path / "cache"
    data.write_bytes(b"x")
    root.mkdir()
    for name, age in ((".new-old", 2 * cache.ABANDONED_S), (".new-now", 0.0)):
        (root / name).write_bytes(b"half")
        os.utime(root / name, (time.time() - age,) * 2)
    assert cache.Entry(root, "a").write([data]) is None
    assert sorted(p.name for p in root.iterdir()) == [".new-now", "a.zip"]


def test_two_processes_at_once(root: Path, model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "olc", "compile", str(model), "-O1", "--no-evaluate", "-q", "-o"]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    running = [subprocess.Popen([*command, str(tmp_path / name / "m.onnx")], stderr=subprocess.PIPE) for name in ("a", "b")]
    assert [p.communicate()[1] for p in running] == [b"", b""]
    assert [p.returncode for p in running] == [0, 0]
    assert (tmp_path / "a" / "m.onnx").read_bytes() == (tmp_path / "b" / "m.onnx").read_bytes()
    assert [p.suffix for p in root.iterdir()] == [".zip"], "one entry, and nothing half-written"


def test_the_users_own_folder_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLC_CACHE")
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: Path("/cache") / name)
    assert cache.folder() == Path("/cache/olc/compiled")
