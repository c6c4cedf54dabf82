"""The paired timing on programs whose times are made up: no wall clock takes part."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from olc.evaluation.latency import SHORTEST_S, Rounds, interleaved, paired, verdict


class Machine:
    """A clock, and programs that move it on. ``slow(t)`` is a factor on every program's time at time ``t``."""

    def __init__(self, slow: Callable[[float], float] = lambda t: 1.0) -> None:
        self.now = 0.0
        self.cpu = 0.0
        self.slow = slow
        self.log: list[str] = []

    def program(self, name: str, seconds: Callable[[], float], cores: float = 1.0) -> Callable[[], None]:
        def run() -> None:
            took = seconds() * self.slow(self.now)
            self.now += took
            self.cpu += took * cores
            self.log.append(name)

        return run

    def compare(self, a: Callable[[], None], b: Callable[[], None], **options: Any) -> Any:
        return paired(a, b, clock=lambda: self.now, cpu_clock=lambda: self.cpu, **{"budget_s": 5.0, **options})


def noisy(median: float, spread: float, seed: int) -> Callable[[], float]:
    rng = np.random.default_rng(seed)
    return lambda: float(median * np.exp(spread * rng.standard_normal()))


def test_a_real_difference_is_shown() -> None:
    m = Machine()
    found = m.compare(m.program("a", noisy(0.030, 0.1, 1)), m.program("b", noisy(0.010, 0.1, 2)))
    assert found.verdict == "faster"
    assert found.low < 3.0 < found.high
    assert found.high - found.low < 0.4  # of the median, not of the single pairs, which spread by over 1
    assert found.ratio == pytest.approx(3.0, rel=0.1)
    assert found.a.median == pytest.approx(0.030, rel=0.1)
    assert found.text.startswith("faster: ")
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_mirror_image_is_slower() -> None:
    m = Machine()
    found = m.compare(m.program("a", noisy(0.010, 0.1, 1)), m.program("b", noisy(0.030, 0.1, 2)))
    assert found.verdict == "slower"
    assert found.ratio == pytest.approx(1 / 3, rel=0.1)


def test_noise_is_no_difference() -> None:
    for seed in range(20):
        m = Machine()
        found = m.compare(
            m.program("a", noisy(0.02, 0.3, 2 * seed)), m.program("b", noisy(0.02, 0.3, 2 * seed + 1)), seed=seed
        )
        assert found.verdict == "no difference shown" or abs(found.ratio - 1) < 0.15, (seed, found.text)
    assert found.low < 1 < found.high


def test_drift_of_the_machine_does_not_count() -> None:
    """A machine that becomes ten times slower half way: unpaired means would be off by far more than 2 %."""
    m = Machine(slow=lambda t: 10.0 if t > 1.0 else 1.0)
    found = m.compare(m.program("a", lambda: 0.010), m.program("b", lambda: 0.010))
    assert found.verdict == "no difference shown"
    assert found.ratio == pytest.approx(1.0, abs=1e-6)


def test_small_differences_are_not_claimed() -> None:
    m = Machine()
    found = m.compare(m.program("a", lambda: 0.0101), m.program("b", lambda: 0.0100))
    assert found.low > 1
    assert found.verdict == "no difference shown"


@pytest.mark.parametrize(
    ("ratio", "low", "high", "said"),
    [
        (1.5, 1.4, 1.6, "faster"), (1.5, 0.9, 2.0, "no difference shown"),
        (1.01, 1.005, 1.015, "no difference shown"),
        (0.96, 0.95, 0.97, "slower"), (0.5, 0.4, 0.6, "slower"), (0.5, 0.4, 1.1, "no difference shown"),
        (0.99, 0.98, 0.995, "no difference shown"),
    ],
)  # fmt: skip
def test_verdict(ratio: float, low: float, high: float, said: str) -> None:
    assert verdict(ratio, low, high) == said
    mirrored = {"faster": "slower", "slower": "faster"}.get(said, said)
    assert verdict(1 / ratio, 1 / high, 1 / low) == mirrored


def test_order_is_random_within_pairs_and_repeats_with_the_seed() -> None:
    def order(seed: int) -> list[str]:
        m = Machine()
        m.compare(m.program("a", lambda: 0.01), m.program("b", lambda: 0.01), seed=seed, max_pairs=40, budget_s=100)
        return m.log[-80:]

    first = order(3)
    pairs = ["".join(first[i : i + 2]) for i in range(0, 80, 2)]
    assert set(pairs) == {"ab", "ba"}
    assert 8 < pairs.count("ab") < 32
    assert order(3) == first
    assert order(4) != first


def test_budget_and_bounds() -> None:
    m = Machine()
    found = m.compare(m.program("a", lambda: 0.01), m.program("b", lambda: 0.01), budget_s=1.0)
    assert found.seconds == pytest.approx(1.0, abs=0.05)
    slow = Machine()
    few = slow.compare(slow.program("a", lambda: 10.0), slow.program("b", lambda: 10.0), budget_s=1.0, min_pairs=4)
    assert few.pairs == 4
    slower = Machine()
    three = slower.compare(slower.program("a", lambda: 10.0), slower.program("b", lambda: 5.0), budget_s=1.0, limit_s=8.0)
    assert (three.pairs, three.verdict) == (3, "faster")
    fast = Machine()
    ten = fast.compare(fast.program("a", lambda: 0.2), fast.program("b", lambda: 0.2), budget_s=1.0, limit_s=8.0)
    assert ten.pairs == 10
    quick = Machine()
    many = quick.compare(quick.program("a", lambda: 0.01), quick.program("b", lambda: 0.01), budget_s=1e9,
                         min_pairs=2, max_pairs=7)  # fmt: skip
    assert many.pairs == 7
    with pytest.raises(ValueError, match="min_pairs"):
        paired(lambda: None, lambda: None, min_pairs=5, max_pairs=4)


def test_warm_up_is_not_counted() -> None:
    m = Machine()
    times = iter([5.0, 3.0, 1.0] + [0.01] * 10_000)
    found = m.compare(m.program("a", lambda: next(times)), m.program("b", lambda: 0.01), budget_s=20.0, min_pairs=3,
                      max_pairs=3)  # fmt: skip
    assert found.a.high == pytest.approx(0.01)


def test_short_runs_are_repeated_within_a_timing() -> None:
    m = Machine()
    found = m.compare(m.program("a", lambda: 2e-5), m.program("b", lambda: 1e-5), budget_s=0.2)
    assert found.runs == pytest.approx(SHORTEST_S / 1e-5, abs=1)
    assert found.a.median == pytest.approx(2e-5)
    assert found.ratio == pytest.approx(2.0)


def test_cpu_time_tells_work_from_waiting() -> None:
    m = Machine()
    found = m.compare(m.program("a", lambda: 0.02, cores=1.0), m.program("b", lambda: 0.01, cores=2.0))
    assert found.ratio == pytest.approx(2.0)
    assert found.cpu_ratio == pytest.approx(1.0)
    assert (found.a.cpu, found.b.cpu) == (pytest.approx(0.02), pytest.approx(0.02))


def test_a_clock_that_does_not_tick() -> None:
    found = paired(lambda: None, lambda: None, max_pairs=10, clock=lambda: 0.0, cpu_clock=lambda: 0.0)
    assert (found.ratio, found.verdict) == (1.0, "no difference shown")


def test_collection_is_off_only_while_timing() -> None:
    seen: list[bool] = []
    m = Machine()
    a = m.program("a", lambda: 0.01)

    def watched() -> None:
        seen.append(gc.isenabled())
        a()

    assert gc.isenabled()
    m.compare(watched, m.program("b", lambda: 0.01), budget_s=0.5)
    assert not any(seen)
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        paired(lambda: 1 // 0, lambda: None)
    assert gc.isenabled()


def test_feeds_change_before_each_pair() -> None:
    m = Machine()
    chosen: list[int] = []
    m.compare(m.program("a", lambda: 0.01), m.program("b", lambda: 0.01), before_pair=chosen.append, max_pairs=10)
    assert chosen[-10:] == list(range(10))


def rounds(*seconds: float, **options: Any) -> tuple[Rounds, list[str]]:
    """Programs 0, 1, … that take so long each; also the order in which they ran."""
    m = Machine()
    programs = [m.program(str(i), lambda s=s: s) for i, s in enumerate(seconds)]
    return interleaved(programs, clock=lambda: m.now, cpu_clock=lambda: m.cpu, **{"budget_s": 5.0, **options}), m.log


def test_each_of_several_runs_once_a_round_and_the_order_changes() -> None:
    found, ran = rounds(0.02, 0.01, 0.04)
    last = [tuple(ran[i : i + 3]) for i in range(len(ran) - 30, len(ran), 3)]
    assert all(sorted(order) == ["0", "1", "2"] for order in last)
    assert len(set(last)) > 1
    assert found.compare(0, 1).ratio == pytest.approx(2.0)
    assert found.compare(0, 2).ratio == pytest.approx(0.5)
    assert found.compare(2, 1).verdict == "faster"


def test_fewest_rounds_come_before_the_budget() -> None:
    assert len(rounds(1.0, 1.0, budget_s=0.1)[0].walls) == 10


def test_short_runs_of_several_are_repeated_within_a_timing() -> None:
    found, _ = rounds(1e-4, 2e-4, budget_s=0.1)
    assert found.runs == pytest.approx(10, abs=1)
    assert found.walls[0] == pytest.approx([1e-4, 2e-4])
