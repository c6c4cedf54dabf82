"""What -O3 means: rules propose, measurement on this machine disposes.

1. Each group of CLOSE rules that fired is taken out in turn; it stays out if the model is faster without it.
2. LOSSY rewrites: ``quantize.py``.
3. Session options (the runtime's optimization level, threads, spinning, arena) are tried on what came out.

Every comparison is paired (``evaluation/latency.py``); nothing is kept on a difference that was not shown.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import ir, storage
from ..errors import OlcError, OutputError, VerificationFailed
from ..evaluation import latency, numerics, turns
from ..evaluation.evaluate import timed
from ..evaluation.executed import node_times
from ..evaluation.metrics import Task
from ..evaluation.padding import Keep, as_it_is
from ..ir import Model
from ..passes import Context
from ..pipeline import Few, Options, optimize
from ..quantization import Observed
from ..rules import Registry
from ..session import SPINNING, SessionOptions, run
from ..targets import Target, features
from ..targets.kernels import Kernels
from .budget import Budget
from .part import Fit, Site
from .plan import Body, Choice, Plan, made, rounding
from .predict import predicted
from .quantize import SMALLER, choose, size
from .rounding import named

PAIR_SECONDS, PAIR_LIMIT = 2.0, 8.0
LEVELS = ("extended", "basic")


@dataclass(frozen=True)
class Trial:
    """One comparison that a decision rests on. ``ratio`` is the speed of what was tried over what it was tried against.

    ``bytes``: of a rounded model, with its external data.
    """

    what: str
    ratio: float
    low: float
    high: float
    verdict: str
    kept: bool
    error: float | None = None
    why: str = ""
    against: str = ""
    bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class CandidateFailed(VerificationFailed):
    """A candidate cannot be built, opened or run, or is wrong before anything is rounded; ``plan`` makes it again."""

    def __init__(self, cause: OlcError, plan: Plan) -> None:
        super().__init__(f"a candidate of the search fails: {cause.what}", where=cause.where, hint=cause.hint)
        self.cause, self.plan = cause, plan


@dataclass
class Candidate:
    """A model built and opened.

    Attributes:
        applied: how often each rule acted.
        fused: the model before it was rounded and, where that comes after, lowered: what other candidates are made of.
    """

    path: Path
    model: Model
    session: Any
    applied: dict[str, int]
    fused: Model


@dataclass
class Search:
    """State of one search. ``run`` gives the plan.

    Attributes:
        base: the model after -O1; it is cloned, never changed.
        reference: the source model's outputs for ``feeds``, the part that ``keep`` keeps.
        seconds: wall time after which nothing new is tried.
        quantize: ``auto`` or a key of ``quantize.ASKED``.
        keep_float: patterns of names of layers that are not rounded.
        real: the feeds are a user's, not synthesised: smoothing and rounding may learn from them.
        calibrate: gives what values of a model range over, or None where there is no data to see that on.
        task: metrics that the budget holds to, on the samples that choose.
        machine: the table of another machine: it decides, for nothing that is timed here is true there.
        float32: nodes that do not compute in float16.
        int8_cache: caches shall be held in 8 bits.
        choosing: gives all of a user's feeds that choose, of which ``feeds`` are the first; None where these are all.
        beyond_rounding: how outputs differ by more than rounding, in words, or None.
        fewer: numbers of threads with which the float model was faster than with all, before anything else was measured.
        facts, smooth, weights: what it gave, the activations that the plan smooths, and the weights that were rounded for
            the least error at their layers' outputs; set by the search.
        fits: choices of layers that were faster and inside the budget; ``few_fits``: those of a body for few elements.
        reads, modules: of each node that might be rounded the activation's name, and the module it was exported from.
        errors, arrived: of each (rule, node) its error alone, and what of it arrives at the outputs.
        times: of each node its microseconds in float and in the model chosen.
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
    keep: Keep = as_it_is
    real: bool = False
    calibrate: Callable[[Model], dict[str, Observed]] | None = None
    task: Task | None = None
    machine: Kernels | None = None
    int8_cache: bool = False
    beyond_rounding: Callable[[Sequence[numerics.OutputDifference]], str | None] = numerics.first_difference
    choosing: Callable[[], Iterable[dict[str, np.ndarray]]] | None = None
    float32: set[str] = field(default_factory=set)
    facts: dict[str, Observed] = field(default_factory=dict)
    smooth: dict[str, float] = field(default_factory=dict)
    weights: dict[str, dict[str, Any]] = field(default_factory=dict)
    fits: list[Fit] = field(default_factory=list)
    few_fits: list[Fit] = field(default_factory=list)
    reads: dict[str, str] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    errors: dict[tuple[str, str], float] = field(default_factory=dict)
    arrived: dict[tuple[str, str], float] = field(default_factory=dict)
    times: tuple[dict[str, float], dict[str, float]] = field(default_factory=lambda: ({}, {}))
    profiles: dict[tuple[Path, int], dict[str, float]] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    built: int = 0
    fewer: tuple[int, ...] = ()

    def run(self, source: str) -> Plan:
        """Search, and clean up after it."""
        folder = Path(tempfile.mkdtemp(prefix="olc-search-"))
        self.started = turns.clock()
        try:
            return self._run(source, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _run(self, source: str, folder: Path) -> Plan:
        self.say("building the fused model")
        best = self.build(folder, None, {})
        # Nothing is rounded yet: it has to be right as -O2 has to be. Within the budget a wrong fusion might hide.
        breach = self.beyond_rounding(self.differences(best.session))
        if breach is not None:
            raise CandidateFailed(VerificationFailed(breach), self.plan_of(None, {}, {}))
        self.fewer = self._fewer(best)
        groups, kept, best = self._groups(folder, best)
        sites: dict[tuple[str, str], Choice] = {}
        few: Body | None = None
        if not self.exact:
            sites, few, best = choose(self, folder, kept, best)
        session = self._opened(best)
        rounded = tuple(sorted(named(name, form) for name, forms in self.weights.items() for form in forms))
        kept_wide = tuple(sorted(self.float32))
        return Plan(self.target.name, 3, source, groups, sites, self.smooth, few, rounded, kept_wide, session, tuple(self.notes))

    # --- building and measuring ------------------------------------------------------------------------------------

    def build(
        self, folder: Path, groups: frozenset[str] | None, sites: dict[str, frozenset[str]], fused: Model | None = None,
        smooth: Mapping[str, float] | None = None, few: Few | None = None,
    ) -> Candidate:
        """A candidate from ``base``, or from ``fused``, a model that has been taken to -O2 already."""
        o = self.options
        model = (self.base if fused is None else fused).clone()
        events, of = list(self.ctx.events), self.ctx
        ctx = Context(target=of.target, skip=of.skip, unassumed=of.unassumed, threads=of.threads, events=events)
        options = Options(
            level=3, start=1 if fused is None else 2, groups=groups, sites=sites, smooth=smooth or {}, few=few, facts=self.facts,
            weights=self.weights, float32=frozenset(self.float32), shared_cache=o.shared_cache, skip=o.skip, strict=o.strict,
        )  # fmt: skip
        self.built += 1
        path = folder / f"candidate{self.built}" / "model.onnx"
        path.parent.mkdir()
        try:
            result = optimize(model, options, ctx, self.rules)
            storage.save(model, path)
            opened = self.open(path, self.target.session_options())
            for i in sorted(set(_alike(self.feeds))):
                run(opened, self.feeds[i], where=str(path))
        except OutputError:
            raise
        except OlcError as e:
            raise CandidateFailed(e, self.plan_of(groups, sites, options.smooth)) from e
        return Candidate(path, model, opened, dict(result.outcome.applied), result.fused or model)

    def plan_of(
        self, groups: frozenset[str] | None, sites: Mapping[str, frozenset[str]], smooth: Mapping[str, float]
    ) -> Plan:
        """What ``build`` was asked for, as a plan."""
        without = set() if groups is None else {r.group for r in self.rules} - groups
        kept = {(rule, node): Choice(True, "tried") for rule, nodes in sites.items() for node in nodes}
        groups_left = {g: Choice(False, "tried") for g in sorted(without)}
        return Plan(self.target.name, 3, "", groups_left, kept, dict(smooth), float32=tuple(sorted(self.float32)))

    def open(self, path: Path, options: SessionOptions) -> Any:
        return self.target.session(path, threads=self.threads, options=options)

    def drop(self, candidate: Candidate) -> None:
        candidate.session = None
        shutil.rmtree(candidate.path.parent, ignore_errors=True)

    def pair(self, a: Any, b: Any, part: Sequence[int] | None = None) -> latency.Paired:
        """All samples in turn, or a part of them: together they are the work that the model is compiled for."""
        return timed((a, b), self.feeds if part is None else [self.feeds[i] for i in part], PAIR_SECONDS, 0, PAIR_LIMIT)

    def compare(self, best: Candidate, other: Candidate, sites: Sequence[Site], part: Sequence[int]) -> latency.Paired:
        """``other``, in which these sites of ``best`` are rounded, against it: measured, or for another machine predicted."""
        if self.machine is None:
            return self.pair(best.session, other.session, part)
        return predicted(self.machine, best.fused, sites, [self.feeds[i] for i in part], self.profiled(best, part))

    def plain(self) -> SessionOptions:
        """How a model is opened where nothing was measured."""
        return self.target.session_options().with_threads(self.threads)

    def profiled(self, best: Candidate, part: Sequence[int]) -> list[dict[str, float]]:
        """For each of these samples the microseconds of each node in float: of those of equal shapes one was run."""
        path = best.path
        if best.fused is not best.model or not all(n.name for n in ir.nodes_once(best.fused)):  # times are told by names
            path = path.with_name("named.onnx")
        if path != best.path and not path.exists():
            named = best.fused.clone()
            for n in ir.nodes_once(named):
                n.name = ir.site(n)
            storage.save(named, path)
        options = self.plain()
        if self.machine is not None:
            options = SessionOptions(threads=self.threads, optimization="none")  # what the runtime fuses has other names
        alike = _alike(self.feeds)
        for i in {alike[i] for i in part}:
            if (path, i) not in self.profiles:
                self.profiles[path, i] = node_times(path, self.feeds[i], options)
        return [self.profiles[path, alike[i]] for i in part]

    def foretold(self, best: Candidate, sites: Sequence[Site], part: Sequence[int]) -> float | None:
        """Speed with these sites rounded by the table of kernels, where it is of this kind of CPU and knows their rules."""
        kernels = self.target.kernels() if self.machine is None else self.machine
        own = self.target.features()
        if any(own.get(name) != kernels.cpu.get(name) for name in ("machine", "flags")):
            return None
        if not {rule for rule, _ in sites} <= {row.operator for row in kernels.rows}:
            return None
        return predicted(kernels, best.fused, sites, [self.feeds[i] for i in part], self.profiled(best, part)).ratio

    def differences(self, session: Any, part: Sequence[int] | None = None) -> list[numerics.OutputDifference]:
        part = range(len(self.feeds)) if part is None else part
        made = [self.keep(self.feeds[i], run(session, self.feeds[i])) for i in part]
        return numerics.compare([self.reference[i] for i in part], made)

    def breach(self, session: Any, differences: Sequence[numerics.OutputDifference]) -> str | None:
        """Why a model is outside the budget, or None."""
        return self.budget.breach(differences, () if self.task is None else self.task.scores(session))

    def time_left(self, what: str, share: float = 1.0) -> bool:
        if turns.clock() - self.started < self.seconds * share:
            return True
        self.notes.append(f"{what} not tried: that part of the search's {self.seconds:.0f} s was over (--tune-time)")
        return False

    def record(
        self, what: str, p: latency.Paired, kept: bool, error: float | None = None, why: str = "", against: str = "",
        made: Candidate | None = None,
    ) -> None:
        held = None if made is None else size(made)
        self.trials.append(Trial(what, p.ratio, p.low, p.high, p.verdict, kept, error, why, against, held))

    # --- 1. groups of fusions --------------------------------------------------------------------------------------

    def _groups(self, folder: Path, full: Candidate) -> tuple[dict[str, Choice], frozenset[str] | None, Candidate]:
        every = frozenset(r.group for r in self.rules)
        fired = sorted({r.group for r in self.rules if r.safety.level == "CLOSE" and full.applied.get(r.name)})
        choices: dict[str, Choice] = {}
        kept, best = every, full
        for group in fired if self.machine is None else ():
            if not self.time_left(f"the model without group {group!r} was", share=0.15):
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

    # --- 2. how it is opened ------------------------------------------------------------------------------------------

    def _fewer(self, best: Candidate) -> tuple[int, ...]:
        """Numbers of threads that gain in float. Asked long before ``_opened`` asks again: what else runs on a machine takes a
        core for seconds, in which fewer threads look faster than they will be."""
        gain = []
        for threads in reduced(self.threads) if self.machine is None else ():
            if not self.time_left(f"the model opened with {threads} of the threads was", share=0.15):
                break
            what = f"{threads} thread{'s' if threads != 1 else ''}"
            self.say(f"trying the float model opened with {what}")
            p = self.pair(best.session, self.open(best.path, replace(self.plain(), threads=threads)))
            faster = p.verdict == "faster"
            self.record(f"float opened with {what}", p, False, why="asked again of what is chosen" if faster else "")
            gain += [threads] if faster else []
        return tuple(gain)

    def _opened(self, best: Candidate) -> SessionOptions:
        """The session options that are faster, one after the other on top of those kept."""
        chosen = self.plain()
        current = best.session
        for change in opened_as(self.threads, self.fewer) if self.machine is None else ():
            options = replace(chosen, **change)
            if chosen.threads == 1 and change.keys() & {"config", "parallel"}:
                continue  # one thread waits for no other
            what = ", ".join(x for x in options.text.split(", ") if x not in chosen.text.split(", "))
            if not self.time_left(f"the model opened with {what} was"):
                break
            self.say(f"trying the model opened with {what}")
            try:
                other = self.open(best.path, options)
            except OlcError as e:
                self.notes.append(f"with {what} the model does not open: {e.what}")
                continue
            p = self.pair(current, other)
            kept = p.verdict == "faster"
            self.record(f"opened with {what}", p, kept)
            if kept:
                chosen, current = options, other
        return chosen


def _alike(feeds: Sequence[Mapping[str, Any]]) -> list[int]:
    """For each feed the first whose arrays have its shapes."""
    def shape(value: Any) -> Any:  # a sequence is a list, whose arrays may differ
        return [np.shape(a) for a in value] if isinstance(value, list) else np.shape(value)

    shapes = [{name: shape(a) for name, a in feed.items()} for feed in feeds]
    return [shapes.index(known) for known in shapes]


def reduced(threads: int | None) -> list[int]:
    """Numbers of threads worth a try where the user names none: a small model is done before threads have been woken."""
    return sorted({1, features.cores() // 2}) if threads is None and features.cores() > 1 else []


def opened_as(threads: int | None, fewer: Sequence[int] = ()) -> list[dict[str, Any]]:
    """Session options that may gain, each a change of those that were kept before it; ``threads`` as the user has it, ``fewer``
    those that gained before."""
    cores = features.cores() if threads is None else threads
    changes: list[dict[str, Any]] = [{"optimization": level} for level in LEVELS]
    changes += [{"threads": n} for n in fewer]
    if cores > 1:
        changes += [{"config": dict([SPINNING])}, {"parallel": True}]
    return [*changes, {"arena": False}]


def next_best(plan: Plan, fits: Sequence[Fit], error: float, few_fits: Sequence[Fit] = ()) -> tuple[Plan, float]:
    """The plan with the fastest of the choices that have a smaller error than that, or with none; and its error.

    What only makes it smaller goes first.
    Of two bodies that for many elements is left in float first: what rounds it is the closer call, for more of it is judged.
    Then the other is rounded more closely (``few_fits``), as far as there is a choice.
    """
    tables = {site for site in plan.kept() if site[0] in SMALLER}
    if tables:
        without = plan.without(tables, "where it was judged the budget was exceeded")
        return without, next((f.error for f in fits if rounding(f.sites) == rounding(without.kept())), error)
    if plan.few is not None and rounding(made(plan.sites)):
        text = "the body for more elements is left in float: where it was judged the budget was exceeded"
        return replace(plan.without_sites(text), few=plan.few), error
    if plan.few is not None:
        now = next((f.error for f in few_fits if set(f.sites) == set(made(plan.few.sites))), 0.0)
        closer = sorted((f for f in few_fits if f.error < 0.75 * now), key=lambda f: -f.speed)
        if closer:
            return replace(plan, few=replace(plan.few, sites=_taken(plan.few.sites, closer[0]), smooth=closer[0].smooth)), error
    better = sorted((f for f in fits if f.error < 0.75 * error), key=lambda f: -f.speed)
    if not better:
        return plan.without_sites("where it was judged, on inputs that did not choose, the budget was exceeded"), 0.0
    fit = better[0]
    return replace(plan, sites=_taken(plan.sites, fit), smooth=fit.smooth, few=None), fit.error


def _taken(sites: Mapping[Site, Choice], fit: Fit) -> dict[Site, Choice]:
    """The choices with those of ``fit`` in place of what was kept."""
    text = "the fastest choice before it exceeded the budget where it was judged; with this one "
    text += f"{'' if fit.timed else 'about '}{fit.speed:.2f} times the speed"
    left = {s: replace(c, keep=False, why=text) if rounding({s}) else c for s, c in sites.items() if s not in fit.sites}
    return left | {s: Choice(True, text, fit.speed, sites[s].error if s in sites else None) for s in fit.sites}


def layers(found: Search, plan: Plan) -> list[dict[str, Any]]:
    """For the report: each place that a LOSSY rule could have acted at, what became of it, its error and its time.

    ``body``: of a model with two bodies, when the second runs; "" for the first. ``arrives``: the part of the outputs' error
    that the layer's is foretold to make. ``outliers``: largest magnitude of a channel of its activation over the median one,
    where there was calibration.
    """
    bodies = {"": plan.sites} | ({} if plan.few is None else {plan.few.what: plan.few.sites})
    rows = []
    told = ((body, site, sites[site]) for body, sites in bodies.items() for site in sorted(rounding(sites)))
    for body, (rule, node), choice in told:
        seen = found.facts.get(found.reads.get(node, ""))
        channels = None if seen is None else seen.channels
        middle = 0.0 if channels is None else float(np.median(channels))
        before, after = (None if body else t.get(node) for t in found.times)
        rows.append({
            "body": body, "rule": rule, "node": node, "module": found.modules.get(node, ""),
            "kept": choice.keep, "why": choice.why,
            "error": None if body else found.errors.get((rule, node)),
            "arrives": None if body else found.arrived.get((rule, node)),
            "outliers": float(channels.max()) / middle if channels is not None and middle > 0 else None,
            "microseconds": [before, after if choice.keep else before],
        })  # fmt: skip
    return rows


def front(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """The rounded models tried that no other is as good as in speed, error and bytes, and better in one; slowest first."""
    tried = [t for t in trials if t.error is not None and not t.against]

    def beaten(t: Trial) -> bool:
        mine = (-t.ratio, t.error or 0.0, t.bytes or 0)
        others = ((-o.ratio, o.error or 0.0, o.bytes or 0) for o in tried)
        return any(all(x <= y for x, y in zip(o, mine, strict=True)) and o != mine for o in others)

    best = [t for t in tried if not beaten(t)]
    return [{"what": t.what, "speed": t.ratio, "error": t.error, "bytes": t.bytes} for t in sorted(best, key=lambda t: t.ratio)]
