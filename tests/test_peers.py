"""The pure parts of ``benchmarks/peers.py``, on programs whose times are made up: no wall clock takes part."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.peers import CASES, OLC, Rounds, Row, Table, behind, chosen, interleaved, reason


def rounds(*seconds: float, **options: float) -> tuple[Rounds, list[int]]:
    """Programs that take so long each, timed on a clock that only they move; also the order in which they ran."""
    now = 0.0
    ran: list[int] = []

    def program(number: int) -> Callable[[], None]:
        def go() -> None:
            nonlocal now
            now += seconds[number]
            ran.append(number)

        return go

    programs = [program(i) for i in range(len(seconds))]
    return interleaved(programs, clock=lambda: now, cpu_clock=lambda: now, **{"budget_s": 5.0, **options}), ran


def table(**speeds: float | None) -> Table:
    """``olc`` and peers that are so many times as fast as the source; None: made no file."""
    source = 0.012
    rows = []
    for name, speed in speeds.items():
        paired = rounds(source, source / speed)[0].compare(0, 1) if speed is not None else None
        rows.append(Row(OLC if name == "olc" else name, paired=paired, problem=None if paired else "failed"))
    return Table("model at seq=1", rows, {})


def test_each_program_runs_once_a_round_and_the_order_changes() -> None:
    found, ran = rounds(0.02, 0.01, 0.04)
    last = [tuple(ran[i : i + 3]) for i in range(len(ran) - 30, len(ran), 3)]
    assert all(sorted(order) == [0, 1, 2] for order in last)
    assert len(set(last)) > 1
    assert found.compare(0, 1).ratio == pytest.approx(2.0)
    assert found.compare(0, 2).ratio == pytest.approx(0.5)
    assert found.compare(2, 1).verdict == "faster"


def test_fewest_rounds_come_before_the_budget() -> None:
    assert len(rounds(1.0, 1.0, budget_s=0.1)[0].walls) == 10


def test_short_runs_are_repeated_within_a_timing() -> None:
    found, _ = rounds(1e-4, 2e-4, budget_s=0.1)
    assert found.runs == pytest.approx(10, abs=1)
    assert found.walls[0] == pytest.approx([1e-4, 2e-4])


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


def test_models_are_chosen_by_the_beginning_of_their_name() -> None:
    assert chosen([]) == list(CASES)
    assert {c.stem for c in chosen(["minilm", "keras"])} == {"minilm-l6_dynamo_op18", "minilm-l6_ts_op17", "keras-mlp"}
    with pytest.raises(ValueError, match="no model is called 'bert'"):
        chosen(["bert"])
