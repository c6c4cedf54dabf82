"""``benchmarks quantized`` with candidates that are made up: no network, no wall clock, no real model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from olc.evaluation.latency import Rounds

from benchmarks import quantized
from benchmarks._quantized import environments, worker
from benchmarks._quantized.children import Child, Failed, Meter
from benchmarks._quantized.engines import ENGINES, Text
from benchmarks._quantized.makers import MAKERS
from benchmarks._quantized.rows import Row
from benchmarks.quantized import CANDIDATES, OLC, PLAIN, Candidate, Contest, Line, Place, Table, table, verdict

SPEEDS = {"source": 0.012, "half": 0.006, "off": 0.004}
"""File -> seconds that a run of it takes, as the made-up child says."""


class Made:
    """A child that answers as a worker does, with times that are made up."""

    def __init__(self, python: str, threads: int) -> None:
        self.file, self.closed, self.left = "", False, 40

    def ask(self, limit_s: float, **request: Any) -> dict[str, Any]:
        assert not self.closed
        match request["do"]:
            case "make":
                if request["maker"] == "broken":
                    raise Failed("TypeError: no", self)
                return {"file": request["maker"]}
            case "open":
                self.file = request["file"]
                return {"versions": {"made up": "1"}}
            case "outputs":
                np.savez(request["to"], y=np.array([1.0, 2.0 if self.file != "off" else -2.0], np.float32))
                return {}
        self.left -= 1
        if self.file == "dies" and self.left < 30:
            raise Failed("killed by SIGSEGV", self)
        seconds = SPEEDS.get(self.file, SPEEDS["source"])
        return {"wall": seconds, "cpu": seconds}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def place(tmp_path: Path) -> Place:
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 18]> g (float[2] x) => (float[2] y) { y = Relu(x) }')
    onnx.save(model, tmp_path / "source.onnx")
    row = Row("row", "arrays", lambda folder: folder / "source.onnx", lambda: [{"x": np.ones(2, np.float32)}] * 3)
    return quantized.prepare(row, tmp_path, 1)


def found(place: Place, *makers: str) -> Table:
    candidates = [Candidate(PLAIN, None), *(Candidate(OLC if m == "half" else m, m) for m in makers)]
    return table(place, candidates, 0.0, Made)


def test_even_samples_judge_and_odd_ones_choose(place: Place) -> None:
    assert [Path(p).name for p in place.judging] == ["000.npz", "002.npz"]
    assert [Path(p).name for p in place.choosing] == ["001.npz"]


def test_a_speed_above_one_is_faster_than_the_plain_runtime(place: Place) -> None:
    lines = {line.name: line for line in found(place, "half", "same").lines}
    ratios = {name: line.paired.ratio for name, line in lines.items() if line.paired is not None}
    assert ratios == pytest.approx({PLAIN: 1.0, OLC: 2.0, "same": 1.0})
    assert lines[OLC].cosine == 1.0


def test_a_peer_that_fails_is_a_line_with_its_reason(place: Place) -> None:
    lines = {line.name: line for line in found(place, "half", "broken", "dies").lines}
    assert lines["broken"].problem == "TypeError: no"
    assert lines["dies"].problem == "failed while it was timed: killed by SIGSEGV"
    assert lines[OLC].paired is not None
    assert "TypeError: no" in str(lines["broken"])


def test_a_source_that_fails_leaves_nothing_to_compare_with(place: Place) -> None:
    class Broken(Made):
        def ask(self, limit_s: float, **request: Any) -> dict[str, Any]:
            raise Failed("no", self)

    assert [line.problem for line in table(place, [Candidate(PLAIN, None), Candidate(OLC, "half")], 0.0, Broken).lines] == ["no"]


def test_a_peer_that_is_fast_and_wrong_is_not_the_one_to_beat(place: Place) -> None:
    got = found(place, "half", "off", "same")
    assert next(line.cosine for line in got.lines if line.name == "off") < 0
    assert verdict(got).startswith("fastest peer within cosine 0.99: same, 1.00; olc -O3 beside it is faster: 2.00")
    assert verdict(Table(got.row, [Line(OLC, problem="no")])) == "olc is not among those that ran"


def test_one_file_is_made_for_those_that_share_it(place: Place) -> None:
    asked = []

    class Counted(Made):
        def ask(self, limit_s: float, **request: Any) -> dict[str, Any]:
            asked.append(request["do"])
            return super().ask(limit_s, **request)

    contest = Contest(place, Counted)
    first, second = Candidate("a", "half", opened={"precision": "f32"}), Candidate("b", "half", opened={"precision": "bf16"})
    assert contest.file(first) == contest.file(second)
    assert asked == ["make"]
    assert contest.file(Candidate("c", "half", made={"bits": 4})) != contest.file(first)


def test_only_what_the_children_say_makes_the_clocks_go() -> None:
    meter, child = Meter(), Made("", 1)
    run = meter.program(child, 1.0, lambda: "sample")
    run()
    run()
    assert (meter.wall(), meter.cpu()) == pytest.approx((0.024, 0.024))


def child(code: str) -> Child:
    return Child(sys.executable, 1, ("-c", code))


def test_a_child_answers_line_by_line() -> None:
    echo = child("import sys, json\nfor line in sys.stdin: print(json.dumps({'got': json.loads(line)}), flush=True)")
    try:
        assert echo.ask(30, do="a") == {"got": {"do": "a"}}
        assert echo.ask(30, do="b", x=[1, 2]) == {"got": {"do": "b", "x": [1, 2]}}
    finally:
        echo.close()


@pytest.mark.parametrize(
    ("code", "limit", "reason"),
    [
        ("import sys; sys.stdin.readline(); sys.exit('ImportError: no such thing')", 30, "ended with code 1: ImportError"),
        ("import sys, os; sys.stdin.readline(); os.abort()", 30, "killed by SIGABRT"),
        ("import sys; sys.stdin.readline(); print('{\"error\": \"ValueError: no\"}', flush=True)", 30, "ValueError: no"),
        ("import time; time.sleep(60)", 0.1, "time: not done within 0.1 s"),
    ],
)  # fmt: skip
def test_a_child_that_fails_says_why(code: str, limit: float, reason: str) -> None:
    failing = child(code)
    with pytest.raises(Failed, match=reason) as caught:
        failing.ask(limit, do="time")
    assert caught.value.child is failing
    failing.close()


def test_the_worker_itself_runs_a_model(place: Place) -> None:
    real = Child(sys.executable, 1)
    try:
        opened = real.ask(60, do="open", engine="onnxruntime", kind="arrays", file=str(place.source), threads=1)
        assert list(opened["versions"]) == ["onnxruntime"]
        real.ask(60, do="outputs", sample=place.judging[0], to=str(place.folder / "out.npz"))
        assert np.load(place.folder / "out.npz")["y"].tolist() == [1.0, 1.0]
        assert real.ask(60, do="time", sample=place.judging[0])["wall"] > 0
        with pytest.raises(Failed, match="KeyError: 'nobody'"):
            real.ask(60, do="make", maker="nobody", source="", folder=str(place.folder), choosing=[])
    finally:
        real.close()


def test_the_first_line_of_an_error_is_the_reason() -> None:
    class Failing:
        def time(self) -> None:
            raise RuntimeError("\n  the op is unknown\nmore\n")

    assert worker.answer(Failing(), json.dumps({"do": "time"})) == {"error": "RuntimeError: the op is unknown"}


def test_the_first_error_of_an_installation_is_its_reason() -> None:
    assert environments.first_error("a warning\nERROR: no such package\nERROR: more") == "ERROR: no such package"
    assert environments.first_error("cc: fatal\n\n") == "cc: fatal"


def test_text_goes_back_to_its_context_before_each_run() -> None:
    lengths = []

    class Counting(Text):
        def begin(self) -> None:
            self.length = 0

        def back(self) -> None:
            self.length = self.context

        def append(self, tokens: np.ndarray, length: int) -> np.ndarray:
            self.length += tokens.shape[1]
            lengths.append(self.length)
            return np.zeros((1, tokens.shape[1], 7))

    engine, sample = Counting(), {"tokens": np.arange(10)[None], "context": np.array(8)}
    for _ in range(3):
        engine.ready(sample)
        engine.run()
    assert lengths == [8, 10, 10, 10]
    assert engine.outputs()["logits"].shape == (1, 7)


def test_every_candidate_has_what_it_names() -> None:
    for candidate in CANDIDATES:
        assert candidate.maker is None or candidate.maker in MAKERS
        assert all((candidate.engine, kind) in ENGINES for kind in candidate.kinds)
        for name in candidate.environments:
            assert name is None or (environments.REQUIREMENTS / f"{name}.txt").is_file()


def test_rounds_compare_as_time_of_the_first_over_the_second() -> None:
    times = np.array([[0.02, 0.01]] * 10)
    assert Rounds(times, times, 1, 1.0, 0).compare(0, 1).ratio == pytest.approx(2.0)
