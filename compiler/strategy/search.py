"""What -O3 means: rules propose, measurement on this machine disposes.

1. Each group of CLOSE rules that fired is taken out in turn; it stays out if the model is faster without it.
2. LOSSY rewrites: ``quantize.py``.
3. The runtime's own optimization levels are tried on what came out.

Every comparison is paired (``evaluation/latency.py``); nothing is kept on a difference that was not shown.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import storage
from ..errors import OlcError
from ..evaluation import latency, numerics
from ..ir import Model
from ..passes import Context
from ..pipeline import Options, optimize
from ..rules import Registry
from ..session import SessionOptions, run
from ..targets import Target
from .budget import Budget
from .plan import Choice, Plan
from .quantize import choose

PAIR_SECONDS = 2.0
LEVELS = ("extended", "basic")


@dataclass(frozen=True)
class Trial:
    """One comparison that a decision rests on. ``ratio`` is the speed of what was tried over what it was tried against."""

    what: str
    ratio: float
    low: float
    high: float
    verdict: str
    kept: bool
    error: float | None = None
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Candidate:
    """A model built and opened: its file, an open session, and the sites at which LOSSY rules acted."""

    path: Path
    model: Model
    session: Any
    applied: dict[str, int] = field(default_factory=dict)


@dataclass
class Search:
    """State of one search. ``run`` gives the plan.

    Attributes:
        base: the model after -O1; it is cloned, never changed.
        reference: the source model's outputs for ``feeds``.
        seconds: wall time after which nothing new is tried.
        quantize: ``auto`` or a key of ``quantize.ASKED``.
        keep_float: patterns of names of layers that are not rounded.
        say: called with a line on what is being tried.
    """

    base: Model
    ctx: Context
    rules: Registry
    target: Target
    feeds: Sequence[dict[str, np.ndarray]]
    reference: Sequence[dict[str, Any]]
    budget: Budget
    exact: bool
    threads: int | None
    seconds: float
    options: Options
    say: Callable[[str], None]
    quantize: str = "auto"
    keep_float: tuple[str, ...] = ()
    trials: list[Trial] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    built: int = 0

    def run(self, source: str) -> Plan:
        """Search, and clean up after it."""
        folder = Path(tempfile.mkdtemp(prefix="olc-search-"))
        self.started = time.perf_counter()
        try:
            return self._run(source, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _run(self, source: str, folder: Path) -> Plan:
        self.say("building the fused model")
        best = self.build(folder, None, {})
        groups, kept, best = self._groups(folder, best)
        sites: dict[tuple[str, str], Choice] = {}
        if not self.exact:
            sites, best = choose(self, folder, kept, best)
        session = self._levels(best)
        return Plan(self.target.name, 3, source, groups, sites, session, tuple(self.notes))

    # --- building and measuring ------------------------------------------------------------------------------------

    def build(
        self, folder: Path, groups: frozenset[str] | None, sites: dict[str, frozenset[str]], fused: Model | None = None
    ) -> Candidate:
        """A candidate from ``base``, or from ``fused``, a model that has been taken to -O2 already."""
        o = self.options
        model = (self.base if fused is None else fused).clone()
        ctx = Context(target=self.ctx.target, skip=self.ctx.skip, unassumed=self.ctx.unassumed, events=list(self.ctx.events))
        options = Options(
            level=3, start=1 if fused is None else 2, groups=groups, sites=sites, skip=o.skip, strict=o.strict
        )
        result = optimize(model, options, ctx, self.rules)
        self.built += 1
        path = folder / f"candidate{self.built}" / "model.onnx"
        path.parent.mkdir()
        storage.save(model, path)
        return Candidate(path, model, self.open(path, SessionOptions()), dict(result.outcome.applied))

    def open(self, path: Path, options: SessionOptions) -> Any:
        return self.target.session(path, threads=self.threads, options=options)

    def drop(self, candidate: Candidate) -> None:
        candidate.session = None
        shutil.rmtree(candidate.path.parent, ignore_errors=True)

    def pair(self, a: Any, b: Any) -> latency.Paired:
        feed = self.feeds[0]
        return latency.paired(lambda: run(a, feed), lambda: run(b, feed), budget_s=PAIR_SECONDS, min_pairs=8)

    def differences(self, session: Any) -> list[numerics.OutputDifference]:
        return numerics.compare(self.reference, [run(session, f) for f in self.feeds])

    def time_left(self, what: str, share: float = 1.0) -> bool:
        if time.perf_counter() - self.started < self.seconds * share:
            return True
        self.notes.append(f"{what} not tried: that part of the search's {self.seconds:.0f} s was over (--tune-time)")
        return False

    def record(self, what: str, p: latency.Paired, kept: bool, error: float | None = None, why: str = "") -> None:
        self.trials.append(Trial(what, p.ratio, p.low, p.high, p.verdict, kept, error, why))

    # --- 1. groups of fusions --------------------------------------------------------------------------------------

    def _groups(self, folder: Path, full: Candidate) -> tuple[dict[str, Choice], frozenset[str] | None, Candidate]:
        every = frozenset(r.group for r in self.rules)
        fired = sorted({r.group for r in self.rules if r.safety.level == "CLOSE" and full.applied.get(r.name)})
        choices: dict[str, Choice] = {}
        kept, best = every, full
        for group in fired:
            if not self.time_left(f"the model without group {group!r} was", share=0.3):
                choices[group] = Choice(True, "not measured: no time was left")
                continue
            self.say(f"measuring the gain of group {group!r}")
            without = self.build(folder, kept - {group}, {})
            p = self.pair(without.session, best.session)
            drop = p.verdict == "slower"
            self.record(f"group {group}", p, not drop)
            choices[group] = Choice(not drop, f"with it {p.text}", p.ratio)
            if drop:
                self.drop(best)
                kept, best = kept - {group}, without
            else:
                self.drop(without)
        return choices, None if kept == every else kept, best

    # --- 2. the runtime's own optimization level ---------------------------------------------------------------------

    def _levels(self, best: Candidate) -> SessionOptions:
        chosen = SessionOptions(threads=self.threads)
        current = best.session
        for level in LEVELS:
            if not self.time_left(f"the runtime's level {level!r} was"):
                break
            self.say(f"trying the runtime's level {level!r}")
            options = SessionOptions(threads=self.threads, optimization=level)
            try:
                other = self.open(best.path, options)
            except OlcError as e:
                self.notes.append(f"the runtime's level {level!r} does not open the model: {e.what}")
                continue
            p = self.pair(current, other)
            self.record(f"runtime level {level} against {chosen.optimization}", p, p.verdict == "faster")
            if p.verdict == "faster":
                chosen, current = options, other
        return chosen

