"""``olc.toml``: what it means, and that whatever is wrong in it is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from olc.check.config import Bounds, read
from olc.errors import BadInput

from tests.checking import repository, save

MODEL = '[[models]]\npath = "models/small.onnx"\n'


def test_defaults_and_a_models_own(tmp_path: Path) -> None:
    toml = """
    [defaults]
    levels = [1, 2]
    dims = {batch = 4}
    [defaults.budget]
    size = {source = 1.5}
    latency = {source = 1.0, ms = 5}
    opset = [17, 23]
    [[models]]
    path = "models/*.onnx"
    exclude = ["models/other.onnx"]
    [models.budget]
    latency = false
    size = {mb = 2}
    """
    file = repository(tmp_path, toml)
    save(tmp_path / "models" / "other.onnx")
    jobs = read(file).jobs
    assert [j.name for j in jobs] == [f"models/small.onnx -O{n} onnxruntime-cpu" for n in (1, 2)]
    assert jobs[0].settings.dims == {"batch": 4}
    assert jobs[0].budgets.latency is None
    assert jobs[0].budgets.opset == (17, 23)
    assert jobs[0].budgets.size == Bounds(absolute=2e6)
    assert not jobs[0].settings.measure, "no budget asks for anything that is measured"


def test_paths_are_those_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = repository(tmp_path / "deep", MODEL + 'data = "feeds"\nrules = ["r.py"]\n')
    (tmp_path / "deep" / "feeds").mkdir()
    monkeypatch.chdir(tmp_path)
    job = read(os.path.relpath(file)).jobs[0]
    assert job.path.samefile(tmp_path / "deep" / "models" / "small.onnx")
    assert Path(str(job.settings.data)).is_dir()
    assert job.settings.rules == [str(Path("deep") / "r.py")]


def test_the_table_of_another_machine_lies_beside_the_file_too(tmp_path: Path) -> None:
    job = read(repository(tmp_path, MODEL + 'machine = "server.json"\n')).jobs[0]
    assert job.settings.machine == str(tmp_path / "server.json")


@pytest.mark.parametrize(("text", "seconds"), [("30", 30), ('"90s"', 90), ('"1.5m"', 90), ('"1h"', 3600)])
def test_a_duration(text: str, seconds: float, tmp_path: Path) -> None:
    assert read(repository(tmp_path, MODEL + f"tune_time = {text}\n")).jobs[0].settings.seconds == seconds


HOSTILE = {
    "no duration": (MODEL + 'tune_time = "soon"\n', "'soon'"),
    "no time at all": (MODEL + 'tune_time = "0s"\n', "'0s'"),
    "no fusions": (MODEL + "budget = {fusions = {}}", "'fusions' is {}"),
    "not toml": ("[[models", "is not TOML"),
    "deep": ("x = " + "[" * 100_000, "is not TOML"),
    "empty": ("", "[[models]] names no model"),
    "no list": ("models = 3", "[[models]] names no model"),
    "no table": ("models = [3]", "[[models]] 1 is not a table"),
    "no path": ("[[models]]\nlevels = [2]", "[[models]] 1 has no path"),
    "unknown top": (MODEL + "[budgets]\n", "unknown key 'budgets'"),
    "unknown option": (MODEL + "level = 2\n", "unknown key 'level'"),
    "unknown default": ("[defaults]\npath = 'x'\n" + MODEL, "unknown key 'path'"),
    "unknown budget": (MODEL + "budget = {speed = 2}", "unknown key 'speed'"),
    "unknown bound": (MODEL + "budget = {latency = {sorce = 2}}", "'latency' is {'sorce': 2}"),
    "no bound": (MODEL + "budget = {latency = {}}", "'latency' is {}"),
    "a number for a table": (MODEL + "budget = {latency = 2}", "'latency' is 2"),
    "budget no table": (MODEL + "budget = 1", "budget is not a table"),
    "text for a list": (MODEL + "levels = '2'", "'levels' is '2'"),
    "no levels": (MODEL + "levels = []", "'levels' is []"),
    "a level too high": (MODEL + "levels = [7]", "'levels' is [7]"),
    "true is no level": (MODEL + "levels = [true]", "'levels' is [True]"),
    "no such target": (MODEL + "targets = ['toaster']", "'targets' is ['toaster']"),
    "a list as target": (MODEL + "targets = [['a']]", "'targets' is [['a']]"),
    "negative": (MODEL + "budget = {size = {mb = -1}}", "'size' is {'mb': -1}"),
    "nan": (MODEL + "budget = {size = {mb = nan}}", "'size' is {'mb': nan}"),
    "inf": (MODEL + "budget = {size = {mb = inf}}", "'size' is {'mb': inf}"),
    "huge": (MODEL + f"samples = 1{'0' * 4000}", "'samples' is 1000"),
    "too huge to parse": (MODEL + f"samples = 1{'0' * 5000}", "is not TOML"),
    "accuracy": (MODEL + "budget = {accuracy = 'cosine>=2'}", "'accuracy' is 'cosine>=2'"),
    "fusion kind": (MODEL + "budget = {fusions = {atention = 6}}", "'fusions' is {'atention': 6}"),
    "fusion count": (MODEL + "budget = {fusions = {attention = 'some'}}", "'fusions' is {'attention': 'some'}"),
    "fusions at level 1": (MODEL + "levels = [1]\nbudget = {fusions = 'all'}", "expects fusions"),
    "opset": (MODEL + "budget = {opset = [20, 17]}", "'opset' is [20, 17]"),
    "nul": ('[[models]]\npath = "a\\u0000b"', "'path' is 'a\\x00b'"),
    "twice": (MODEL + MODEL, "as [[models]] 1 does"),
    "twice, spelled otherwise": (MODEL + '[[models]]\npath = "models/../models/small.onnx"', "as [[models]] 1 does"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_wrong_is_named(kind: str, tmp_path: Path) -> None:
    toml, words = HOSTILE[kind]
    with pytest.raises(BadInput) as caught:
        read(repository(tmp_path, toml))
    assert words in caught.value.what
    assert caught.value.where == str(tmp_path / "olc.toml")


def test_the_allowed_keys_are_listed(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        read(repository(tmp_path, MODEL + "budget = {speed = 2}"))
    assert "latency, size, memory, load, accuracy, unsupported, fusions, operators, domains, opset" in str(caught.value.hint)
    with pytest.raises(BadInput) as caught:
        read(repository(tmp_path, MODEL + "budget = {fusions = {atention = 6}}"))
    assert "attention, layer norm" in str(caught.value.hint)


def test_no_file_no_text(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        read(tmp_path / "olc.toml")
    (tmp_path / "olc.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="is not UTF-8"):
        read(tmp_path / "olc.toml")
