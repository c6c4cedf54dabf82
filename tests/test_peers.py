"""The pure parts of ``benchmarks``, on times that are made up: no wall clock takes part."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
from olc.evaluation.latency import Rounds

from benchmarks.__main__ import split
from benchmarks._named import chosen
from benchmarks.peers import CASES, OLC, Row, Table, behind, reason


def table(**speeds: float | None) -> Table:
    """``olc`` and peers that are so many times as fast as the source; None: made no file."""
    source = 0.012
    rows = []
    for name, speed in speeds.items():
        times = np.array([[source, source / speed]] * 10) if speed is not None else None
        paired = Rounds(times, times, 1, 1.0, 0).compare(0, 1) if times is not None else None
        rows.append(Row(OLC if name == "olc" else name, paired=paired, problem=None if paired else "failed"))
    return Table("model at seq=1", rows, {})


def test_behind_means_by_more_than_the_margin() -> None:
    assert behind(table(olc=1.2, onnxslim=1.1)) is None
    assert behind(table(olc=1.0, onnxslim=1.019)) is None
    assert str(behind(table(olc=1.0, onnxslim=1.03, onnxsim=1.01))).startswith("1.00, onnxslim 1.03")
    assert behind(table(olc=1.0, onnxslim=None)) is None
    assert behind(table(olc=None, onnxslim=1.0)) == "olc: failed"


def test_reason_is_the_last_word() -> None:
    assert reason(0, "a warning") is None
    assert reason(1, "a warning\nTypeError: no\n\n") == "TypeError: no"
    assert reason(1, "") == "ended with code 1"
    assert reason(-11, "") == "killed by SIGSEGV"


def test_models_are_chosen_by_the_beginning_of_their_name(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    assert chosen(parser, [], CASES, lambda c: c.stem) == list(CASES)
    found = {c.stem for c in chosen(parser, ["minilm", "keras"], CASES, lambda c: c.stem)}
    assert found == {"minilm-l6_dynamo_op18", "minilm-l6_ts_op17", "keras-mlp"}
    assert chosen(parser, ["*_b", "c"], ["a_a", "a_b", "c"], str) == ["a_b", "c"]
    with pytest.raises(SystemExit):
        chosen(parser, ["gpt"], CASES, lambda c: c.stem)
    assert "none is called 'gpt'; there are: minilm" in capsys.readouterr().err


def test_what_follows_a_benchmarks_name_is_for_it() -> None:
    known = ["chain", "external", "peers"]
    assert split([], known) == [("chain", []), ("external", []), ("peers", [])]
    assert split(["chain", "external"], known) == [("chain", []), ("external", [])]
    assert split(["peers", "minilm", "--seconds", "5"], known) == [("peers", ["minilm", "--seconds", "5"])]
    assert split(["peers", "minilm", "chain"], known) == [("peers", ["minilm"]), ("chain", [])]
    with pytest.raises(ValueError, match="no benchmark is called 'minilm'"):
        split(["minilm"], known)
