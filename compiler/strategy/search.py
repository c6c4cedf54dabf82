"""What -O3 means: rules propose, measurement on this machine disposes.

1. Each group of CLOSE rules that fired is taken out in turn; it stays out if the model is faster without it.
2. LOSSY rewrites are tried all together. Where that is faster but outside the accuracy budget, they are ordered by the
   error that each causes at its own output, and the longest run of small errors that fits the budget is kept.
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

from .. import ir, storage
from ..errors import OlcError
from ..evaluation import latency, numerics
from ..ir import Model
from ..matching import Match
from ..passes import Context
from ..passes import shapes as shapes_pass
from ..pipeline import Options, optimize
from ..rewriter import why
from ..rules import Registry
from ..session import SessionOptions, run
from ..targets import Target
from .budget import Budget
from .linears import local_errors
from .plan import Choice, Plan

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
        best = self._build(folder, None, {})
        groups, kept, best = self._groups(folder, best)
        sites: dict[tuple[str, str], Choice] = {}
        if not self.exact:
            sites, best = self._lossy(folder, kept, best)
        session = self._levels(best)
        return Plan(self.target.name, 3, source, groups, sites, session, tuple(self.notes))

    # --- building and measuring ------------------------------------------------------------------------------------

    def _build(self, folder: Path, groups: frozenset[str] | None, sites: dict[str, frozenset[str]]) -> Candidate:
        o = self.options
        model = self.base.clone()
        ctx = Context(target=self.ctx.target, skip=self.ctx.skip, events=list(self.ctx.events))
        options = Options(level=3, start=1, groups=groups, sites=sites, skip=o.skip, strict=o.strict)
        result = optimize(model, options, ctx, self.rules)
        self.built += 1
        path = folder / f"candidate{self.built}" / "model.onnx"
        path.parent.mkdir()
        storage.save(model, path)
        return Candidate(path, model, self._open(path, SessionOptions()), dict(result.outcome.applied))

    def _open(self, path: Path, options: SessionOptions) -> Any:
        return self.target.session(path, threads=self.threads, options=options)

    def _drop(self, candidate: Candidate) -> None:
        candidate.session = None
        shutil.rmtree(candidate.path.parent, ignore_errors=True)

    def _pair(self, a: Any, b: Any) -> latency.Paired:
        feed = self.feeds[0]
        return latency.paired(lambda: run(a, feed), lambda: run(b, feed), budget_s=PAIR_SECONDS, min_pairs=8)

    def _differences(self, session: Any) -> list[numerics.OutputDifference]:
        return numerics.compare(self.reference, [run(session, f) for f in self.feeds])

    def _time_left(self, what: str, share: float = 1.0) -> bool:
        if time.perf_counter() - self.started < self.seconds * share:
            return True
        self.notes.append(f"{what} not tried: that part of the search's {self.seconds:.0f} s was over (--tune-time)")
        return False

    def _record(self, what: str, p: latency.Paired, kept: bool, error: float | None = None, why: str = "") -> None:
        self.trials.append(Trial(what, p.ratio, p.low, p.high, p.verdict, kept, error, why))

    # --- 1. groups of fusions --------------------------------------------------------------------------------------

    def _groups(self, folder: Path, full: Candidate) -> tuple[dict[str, Choice], frozenset[str] | None, Candidate]:
        every = frozenset(r.group for r in self.rules)
        fired = sorted({r.group for r in self.rules if r.safety.level == "CLOSE" and full.applied.get(r.name)})
        choices: dict[str, Choice] = {}
        kept, best = every, full
        for group in fired:
            if not self._time_left(f"the model without group {group!r} was", share=0.4):
                choices[group] = Choice(True, "not measured: no time was left")
                continue
            self.say(f"measuring the gain of group {group!r}")
            without = self._build(folder, kept - {group}, {})
            p = self._pair(without.session, best.session)
            drop = p.verdict == "slower"
            self._record(f"group {group}", p, not drop)
            choices[group] = Choice(not drop, f"with it {p.text}", p.ratio)
            if drop:
                self._drop(best)
                kept, best = kept - {group}, without
            else:
                self._drop(without)
        return choices, None if kept == every else kept, best

    # --- 2. lossy rewrites -----------------------------------------------------------------------------------------

    def _lossy(
        self, folder: Path, groups: frozenset[str] | None, best: Candidate
    ) -> tuple[dict[tuple[str, str], Choice], Candidate]:
        found = self._sites(best.model)
        if not found or not self._time_left("int8 linears were"):
            return {}, best
        self.say(f"trying {len(found)} linears as int8")
        whole = self._build(folder, groups, _by_rule(found))
        p = self._pair(best.session, whole.session)
        differences = self._differences(whole.session)
        breach = self.budget.breach(differences)
        error = Budget.error(differences)
        if p.verdict != "faster":
            self._record(f"all {len(found)} linears int8", p, False, error)
            self._drop(whole)
            return {s: Choice(False, f"all together {p.text}", p.ratio) for s in found}, best
        if breach is None:
            self._record(f"all {len(found)} linears int8", p, True, error)
            self._drop(best)
            return {s: Choice(True, f"all together {p.text}; inside the budget", p.ratio) for s in found}, whole
        self._record(f"all {len(found)} linears int8", p, False, error, breach)
        self._drop(whole)
        return self._longest_prefix(folder, groups, best, found, breach)

    def _sites(self, model: Model) -> list[tuple[str, str]]:
        """(rule, node name) of every place where a LOSSY rule fits, in graph order."""
        shapes_pass.run(model, Context())
        rules = self.rules.select(["LOSSY"], ir.opset_of(model) or 1, self.target.name)
        found = [(r.name, ir.site(n)) for r in rules for n, m in why(model, r) if isinstance(m, Match)]
        return sorted(set(found))

    def _longest_prefix(
        self, folder: Path, groups: frozenset[str] | None, best: Candidate, found: list[tuple[str, str]], breach: str
    ) -> tuple[dict[tuple[str, str], Choice], Candidate]:
        """Order sites by the error that each causes alone at its own output; keep as many of the smallest as fit."""
        self.say("ordering linears by their own error")
        errors = local_errors(best.model, [n for _, n in found], self.feeds, self.target, self.threads)
        order = sorted(found, key=lambda s: (errors.get(s[1], float("inf")), s))
        low, high = 0, len(order)
        fits: Candidate | None = None
        while high - low > 1 and self._time_left("more int8 linears were"):
            middle = (low + high) // 2
            self.say(f"trying the {middle} of {len(order)} linears with the smallest error")
            candidate = self._build(folder, groups, _by_rule(order[:middle]))
            if self.budget.breach(self._differences(candidate.session)) is None:
                low = middle
                if fits is not None:
                    self._drop(fits)
                fits = candidate
            else:
                high = middle
                self._drop(candidate)
        kept = set(order[:low])
        if fits is None:
            return {s: Choice(False, f"none fits the budget: {breach}") for s in found}, best
        p = self._pair(best.session, fits.session)
        error = Budget.error(self._differences(fits.session))
        faster = p.verdict == "faster"
        self._record(f"{low} of {len(order)} linears int8", p, faster, error)
        choices = {}
        for s in found:
            own = errors.get(s[1])
            text = f"error at its own output {own:.2g}" if own is not None else "its own error is unknown"
            if s not in kept:
                choices[s] = Choice(False, f"{text}; with it the budget is exceeded")
            else:
                choices[s] = Choice(faster, f"{text}; the {low} kept together {p.text}", p.ratio)
        self._drop(best if faster else fits)
        return choices, fits if faster else best

    # --- 3. the runtime's own optimization level ---------------------------------------------------------------------

    def _levels(self, best: Candidate) -> SessionOptions:
        chosen = SessionOptions(threads=self.threads)
        current = best.session
        for level in LEVELS:
            if not self._time_left(f"the runtime's level {level!r} was"):
                break
            self.say(f"trying the runtime's level {level!r}")
            options = SessionOptions(threads=self.threads, optimization=level)
            try:
                other = self._open(best.path, options)
            except OlcError as e:
                self.notes.append(f"the runtime's level {level!r} does not open the model: {e.what}")
                continue
            p = self._pair(current, other)
            self._record(f"runtime level {level} against {chosen.optimization}", p, p.verdict == "faster")
            if p.verdict == "faster":
                chosen, current = options, other
        return chosen


def _by_rule(sites: Sequence[tuple[str, str]]) -> dict[str, frozenset[str]]:
    names: dict[str, set[str]] = {}
    for rule, node in sites:
        names.setdefault(rule, set()).add(node)
    return {r: frozenset(n) for r, n in names.items()}
