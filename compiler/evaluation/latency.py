"""Which of two programs (or of several: `interleaved`) is faster, measured so that a noisy machine does not decide it.

Both are live at once and run in pairs, in random order within each pair, so that a slow phase of the machine hits
both. The statistic is the median of the pairs' ratios with a bootstrap interval; a difference is claimed only where
the interval excludes 1 and the ratio is more than 2 % away from it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .turns import alone

MARGIN = 0.02
#: Fewest rounds of `interleaved`, whatever the budget: an interval of fewer says little.
MIN_ROUNDS = 10
RESAMPLES = 1000
#: One timing spans at least this long (several runs where one is shorter), so that the clock's grain does not show.
SHORTEST_S = 1e-3


@dataclass(frozen=True)
class Side:
    """One program's times in seconds per run.

    Attributes:
        median: wall time, median over the pairs.
        low, high: first and third quartile of wall time.
        cpu: processor time of the whole process, all threads, median over the pairs.
    """

    median: float
    low: float
    high: float
    cpu: float

    @property
    def spread(self) -> float:
        """Interquartile range over the median, 0.1 = 10 %."""
        return (self.high - self.low) / self.median if self.median > 0 else 0.0


@dataclass(frozen=True)
class Paired:
    """The comparison of ``a`` with ``b``.

    Attributes:
        ratio: time of a over time of b, median of the pairs: 2.0 means that b takes half as long.
        low, high: 95 % bootstrap interval of ``ratio``.
        cpu_ratio: the same ratio in processor time; below ``ratio`` where b gains by using more cores.
        verdict: ``"faster"``, ``"slower"`` (said of b) or ``"no difference shown"``.
        pairs: how many pairs were timed.
        runs: runs of each program within one timing.
        seconds: wall time that the whole measurement took.
    """

    ratio: float
    low: float
    high: float
    cpu_ratio: float
    verdict: str
    pairs: int
    runs: int
    a: Side
    b: Side
    seconds: float
    seed: int

    @property
    def text(self) -> str:
        """The verdict in words, with the numbers that it rests on. Of no pairs: it was predicted (``strategy/predict.py``)."""
        if not self.pairs:
            return f"predicted to be {self.ratio:.2f} times as fast"
        interval = f"95 % between {self.low:.2f} and {self.high:.2f}, {self.pairs} pairs"
        if self.verdict == "faster":
            return f"faster: {self.ratio:.2f} times the speed ({interval})"
        if self.verdict == "slower":
            return f"slower: {self.ratio:.2f} times the speed ({interval})"
        return f"no difference shown: {self.ratio:.2f} times the speed ({interval})"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"text": self.text}


LEAST = 3
"""Pairs that show a difference of slow programs, whose times scatter little."""


@alone()
def paired(
    run_a: Callable[[], Any],
    run_b: Callable[[], Any],
    *,
    budget_s: float = 2.0,
    seed: int = 0,
    min_pairs: int = 10,
    max_pairs: int = 1000,
    limit_s: float | None = None,
    before_pair: Callable[[int], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    cpu_clock: Callable[[], float] = time.process_time,
) -> Paired:
    """Time two programs against each other.

    Args:
        budget_s: stop after so many seconds of wall time, once ``min_pairs`` are done. Warm-up counts.
        seed: order of the runs and the bootstrap; the same seed and the same times give the same result.
        min_pairs, max_pairs: fewest and most pairs, whatever the budget.
        limit_s: after so many seconds ``LEAST`` pairs are enough.
        before_pair: called with the pair's number, untimed, before each pair (say, to choose the feed of both).
        clock, cpu_clock: seconds; for tests.
    """
    if min_pairs < 1 or max_pairs < min_pairs:
        raise ValueError(f"need 1 <= min_pairs <= max_pairs, not {min_pairs} and {max_pairs}")
    rng = np.random.default_rng(seed)
    started = clock()
    collecting = gc.isenabled()
    gc.disable()
    try:
        runs = _runs(_warm_up((run_a, run_b), budget_s, before_pair, clock))
        walls: list[tuple[float, float]] = []
        cpus: list[tuple[float, float]] = []
        while len(walls) < max_pairs and (len(walls) < min_pairs or clock() - started < budget_s):
            if limit_s is not None and len(walls) >= LEAST and clock() - started >= limit_s:
                break
            if before_pair is not None:
                before_pair(len(walls))
            wall, cpu = [0.0, 0.0], [0.0, 0.0]
            for side in (0, 1) if rng.random() < 0.5 else (1, 0):
                wall[side], cpu[side] = _time((run_a, run_b)[side], runs, clock, cpu_clock)
            walls.append((wall[0], wall[1]))
            cpus.append((cpu[0], cpu[1]))
    finally:
        if collecting:
            gc.enable()
    return _judge(np.array(walls), np.array(cpus), runs, clock() - started, seed, rng)


@dataclass(frozen=True)
class Rounds:
    """Times of several programs; ``walls``, ``cpus``: [rounds, programs] seconds per run."""

    walls: np.ndarray
    cpus: np.ndarray
    runs: int
    seconds: float
    seed: int

    def compare(self, a: int, b: int) -> Paired:
        """Program ``b`` beside program ``a``, round by round."""
        pick, rng = [a, b], np.random.default_rng(self.seed)
        return _judge(self.walls[:, pick], self.cpus[:, pick], self.runs, self.seconds, self.seed, rng)


@alone()
def interleaved(
    programs: Sequence[Callable[[], Any]],
    *,
    budget_s: float,
    seed: int = 0,
    min_rounds: int = MIN_ROUNDS,
    before_round: Callable[[int], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    cpu_clock: Callable[[], float] = time.process_time,
) -> Rounds:
    """`paired` for any number of programs: each runs once a round, in random order; arguments as there."""
    rng = np.random.default_rng(seed)
    started = clock()
    collecting = gc.isenabled()
    gc.disable()
    try:
        runs = _runs(_warm_up(programs, budget_s, before_round, clock))
        times: list[list[tuple[float, float]]] = []
        while len(times) < min_rounds or clock() - started < budget_s:
            if before_round is not None:
                before_round(len(times))
            found = [(0.0, 0.0)] * len(programs)
            for which in rng.permutation(len(programs)):
                found[which] = _time(programs[which], runs, clock, cpu_clock)
            times.append(found)
    finally:
        if collecting:
            gc.enable()
    both = np.array(times)
    return Rounds(both[:, :, 0], both[:, :, 1], runs, clock() - started, seed)


def _runs(shortest: float) -> int:
    """How many runs of the shortest program make a timing long enough."""
    return max(1, min(1000, int(np.ceil(SHORTEST_S / shortest)))) if shortest > 0 else 1000


def _warm_up(
    programs: Sequence[Callable[[], Any]],
    budget_s: float,
    before: Callable[[int], None] | None,
    clock: Callable[[], float],
) -> float:
    """Run all at least three times, longer where there is time; the shortest run seen of any, in seconds."""
    started = clock()
    best = float("inf")
    for round_ in range(20):
        if before is not None:
            before(round_)
        for run in programs:
            begin = clock()
            run()
            best = min(best, clock() - begin)
        if round_ >= 2 and clock() - started > budget_s / 10:
            break
    return best


def _time(
    run: Callable[[], Any], runs: int, clock: Callable[[], float], cpu_clock: Callable[[], float]
) -> tuple[float, float]:
    cpu = cpu_clock()
    begin = clock()
    for _ in range(runs):
        run()
    wall = clock() - begin
    return wall / runs, (cpu_clock() - cpu) / runs


def _judge(
    walls: np.ndarray, cpus: np.ndarray, runs: int, seconds: float, seed: int, rng: np.random.Generator
) -> Paired:
    """``walls``, ``cpus``: [pairs, 2] seconds per run of a and of b."""
    ratios = _ratios(walls)
    picks = rng.integers(0, len(ratios), size=(RESAMPLES, len(ratios)))
    medians = np.median(ratios[picks], axis=1)
    low, high = (float(x) for x in np.percentile(medians, [2.5, 97.5]))
    ratio = float(np.median(ratios))
    return Paired(
        ratio, low, high, float(np.median(_ratios(cpus))), verdict(ratio, low, high), len(ratios), runs,
        _side(walls[:, 0], cpus[:, 0]), _side(walls[:, 1], cpus[:, 1]), seconds, seed,
    )  # fmt: skip


def _ratios(times: np.ndarray) -> np.ndarray:
    # A processor clock may not tick within a short run: both zero is equal, and no division by zero is let through.
    a, b = times[:, 0], times[:, 1]
    grain = 1e-9
    ratios: np.ndarray = np.maximum(a, grain) / np.maximum(b, grain)
    return ratios


def _side(wall: np.ndarray, cpu: np.ndarray) -> Side:
    low, median, high = (float(x) for x in np.percentile(wall, [25, 50, 75]))
    return Side(median, low, high, float(np.median(cpu)))


def verdict(ratio: float, low: float, high: float) -> str:
    """What may be claimed of b, given time a over time b and its interval."""
    if low > 1 and ratio > 1 + MARGIN:
        return "faster"
    if high < 1 and ratio < 1 / (1 + MARGIN):  # the mirror image: swapping a and b swaps the verdict
        return "slower"
    return "no difference shown"
