"""What a user may ask of a compile: a plain value, which names everything by text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from .errors import BadInput
from .evaluation.metrics import Drop
from .strategy.budget import Budget
from .strategy.plan import Plan


def duration(text: str) -> float:
    """Seconds in ``90``, ``90s``, ``1.5m`` or ``1h``.

    Raises:
        ValueError: it is none, or less than a second.
    """
    match = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)([smh]?)", text.strip())
    seconds = 0.0 if match is None else float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
    if seconds < 1:
        raise ValueError(f"{text!r} is no duration of a second or more, as in 90, 90s, 5m or 1h")
    return seconds


TIMED_S = 2.0
"""Seconds for timing source and artifact against each other."""
SECONDS, MOST_SECONDS, RUNS = 120.0, 600.0, 150
"""Wall time for a search where none is given: at least, at most, and between the two for so many runs of the source on all
samples, of which each comparison takes a few."""


def patience(run_s: float) -> float:
    """Seconds for the search of a model, a run of which on all samples takes ``run_s`` seconds."""
    return min(MOST_SECONDS, max(SECONDS, RUNS * run_s))


@dataclass(frozen=True)
class Settings:
    """What a user may ask of a compile.

    Attributes:
        level: 0 to 3.
        target: a name from ``targets.names()``.
        machine: the table of another machine's kernels (``olc targets measure -o FILE`` there): it decides, and nothing is timed.
        exact: at -O3, forbid LOSSY rewrites.
        dims: sizes for named dims of sample inputs.
        sweep: sizes of dynamic dims, by symbol or by kind, at each combination of which source and artifact are timed.
        data: where real inputs come from (``evaluation/data.py``), or None for synthesised ones.
        budget: how far LOSSY rewrites may move the outputs; where None ``Budget()``, or metrics alone where there are some.
        metrics: names or functions (``evaluation/metrics``) that are measured on all of ``data``.
        max_drop: how much worse than the source's a metric may be.
        quantize: at -O3, ``auto`` or what to round layers to (``strategy/quantize.py``: ``int8``, ``int4``, ``none``).
        keep_float: patterns (``*``, ``?``) of names of nodes, weights or exported modules that are not rounded.
        shared_cache: past and present of a decoder's cache may be one buffer (``olc.decoder``).
        int8_cache: besides, it is held in 8 bits where that is within the budget and not slower: its ports become int8.
        calibration: how ranges of activations are chosen on ``data`` (``strategy/calibrate.py``).
        ranges: file of ranges; read where it exists, else written by calibration.
        evaluate: run source and artifact and compare them; without it nothing is measured (not at -O3).
        measure: time the two and their memory as well as comparing outputs (always at -O3).
        unassumed: names of assumptions (``assumptions.py``) that no rewrite may rely on.
        seconds: wall time for the search of -O3; None for ``patience`` of the time that the source takes.
        samples: how many inputs to compare on.
        cache: ``on``: the result of an earlier compile of the same is the answer (``cache.py``); ``renew``: compile, and keep
            that result in its place; ``off``: neither. What is measured depends on the moment, so a program has to ask.
    """

    level: int = 2
    target: str = "onnxruntime-cpu"
    machine: str | None = None
    exact: bool = False
    dims: Mapping[str, int] | None = None
    sweep: Mapping[str, Sequence[int]] | None = None
    data: str | None = None
    budget: Budget | None = None
    metrics: tuple[str, ...] = ()
    max_drop: Drop = field(default_factory=Drop)
    quantize: str = "auto"
    keep_float: tuple[str, ...] = ()
    shared_cache: bool = False
    int8_cache: bool = False
    calibration: str = "minmax"
    ranges: str | None = None
    evaluate: bool = True
    measure: bool = True
    seconds: float | None = None
    threads: int | None = None
    samples: int = 3
    seed: int = 0
    rules: Sequence[str] = ()
    skip: frozenset[str] = frozenset()
    unassumed: frozenset[str] = frozenset()
    simplify: bool = False
    stop_after: int | None = None
    verify_each: bool = False
    plan: Plan | None = None
    cache: str = "off"

    def __post_init__(self) -> None:
        if self.level not in range(4) or self.samples < 1:
            what = f"level {self.level}, which is none of 0 to 3" if self.level not in range(4) else f"{self.samples} samples"
            raise BadInput(what, where="the settings", hint="give a level from 0 to 3, and 1 sample or more")
        if self.machine is not None and self.sweep:
            raise BadInput("a sweep times source and artifact here", where="--sweep", hint="leave out --machine, or --sweep")

    def bounds(self) -> Budget:
        """The budget as it is held to."""
        if self.budget is not None:
            return replace(self.budget, drop=self.max_drop)
        return Budget(None, None, self.max_drop) if self.metrics else Budget()
