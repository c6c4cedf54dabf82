"""One compile, stage by stage: analysis, strategy, optimisation, evaluation, and the report of all of it."""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from . import __version__, elsewhere, frontend, storage, targets
from .assumptions import ASSUMPTIONS, KEEPS_A_KEY
from .culprits import GOOD, Judge, Limits, Outputs, Trials, find
from .diff import diff
from .errors import BadInput, OlcError, OutputError, OverBudget, Unsupported, VerificationFailed
from .evaluation import data as data_files
from .evaluation import executed, joined, steps, sweep
from .evaluation import inputs as sample_inputs
from .evaluation.evaluate import Evaluation, evaluate
from .evaluation.metrics import Metric, Score, Task
from .evaluation.metrics import load as load_metric
from .evaluation.numerics import Comparison, OutputDifference
from .evaluation.own_rounding import OwnRounding
from .evaluation.padding import Keep, as_it_is, without_padding
from .fusions import survey
from .ir import Model
from .passes import Context
from .pipeline import BY_PASS, Options, Result, optimize
from .quantization import Observed
from .quantization.facts import note
from .quantization.observers import load_ranges, save_ranges
from .repairs import REPAIRED
from .report import Report
from .rules import Registry, registry
from .session import INT8_CACHE, SessionOptions, run
from .settings import SECONDS, TIMED_S, Settings, patience
from .strategy.calibrate import calibrate
from .strategy.learnt import carried_out, learns
from .strategy.part import Fit
from .strategy.plan import Choice, Plan, rounding
from .strategy.quantize import STATIC
from .strategy.search import CandidateFailed, Search, Trial, front, layers, next_best
from .targets import int8_cache

MOST_TAKEN_BACK = 5
"""Rewrites that a compile takes back because its own check fails, before it gives up."""

PACKAGES = ("onnx", "onnxruntime", "onnx-ir", "numpy")


class Job:
    """One compile, stage by stage; what ``compile``, ``plan`` and ``bisect.py`` are made of."""

    def __init__(self, source: Any, out: Path, settings: Settings, folder: Path, say: Callable[[str], None]) -> None:
        self.source, self.out, self.settings, self.folder, self.say = source, out, settings, folder, say
        self.target = targets.get(settings.target, settings.machine)
        self.elsewhere = settings.machine is not None or not self.target.here  # nothing that is timed here is true there
        if self.elsewhere and settings.sweep:
            raise BadInput(f"a sweep times source and artifact, and {self.target.name} is not on this machine", where="--sweep",
                           hint="leave it out, or compile there")  # fmt: skip
        self.rules: Registry = registry(settings.rules)
        self.trials: list[Trial] = []
        self.layers: list[dict[str, Any]] = []
        self.weights: dict[str, dict[str, Any]] = {}
        self.fits, self.few_fits = list[Fit](), list[Fit]()
        self.granted = SECONDS
        self.notes: list[str] = []
        self.inputs: dict[str, Any] = {}
        self.feed: dict[str, Any] | None = None
        self.executed: dict[str, Any] = {}
        self.facts: dict[str, Observed] = {}
        self.metrics: list[Metric] = [load_metric(name) for name in settings.metrics]
        self.judging: Task | None = None
        self.scores: list[Score] = []
        if self.metrics and settings.data is None:
            raise BadInput("a metric needs real inputs", where="--metric", hint="give --data, with labels where it needs some")
        self.skip = settings.skip
        self.taken_back: list[dict[str, Any]] = []
        self.varied: list[dict[str, Any]] = []
        self.plans: dict[int, sample_inputs.Plan] = {}
        self.unread = ""  # how outputs differ where a mask drops the token, once that is left out

    # --- stages ----------------------------------------------------------------------------------------------------

    def run(self) -> Report:
        s = self.settings
        self.load()
        plan = s.plan
        if plan is not None:
            inputs, digest = [str(v.name) for v in self.model.graph.inputs], f"sha256:{self.described['sha256']}"
            plan, notes = plan.fitting(self.target, inputs, digest, s.exact)
            self.notes += notes
        level = plan.level if plan is not None else s.level
        if level == 3 and plan is None:
            plan = self.search()
        self.say(f"compiling at -O{level}")
        plan, result, built, evaluation = self.checked(plan, level)
        while s.evaluate and s.level == 3 and s.plan is None and level > 0 and evaluation and evaluation.slower:
            # The search looked at parts, on other inputs. The whole has the last word, down to the source as it was.
            assert evaluation.paired is not None
            lower = 1 if level > 1 else 0
            self.notes.append(f"in the final check -O{level} was {evaluation.paired.text}; -O{lower} is given instead")
            plan, level = None, lower
            self.layers = [{**row, "kept": False, "why": f"-O{lower} is given instead"} for row in self.layers]
            _, result, built, evaluation = self.checked(None, level)
        if self.elsewhere and not s.evaluate:
            self.notes.append("nothing was run or built of it: --no-evaluate")
        self.profile(result.model, built, plan)
        return self.report(result, built, plan, level, evaluation)

    def checked(self, plan: Plan | None, level: int) -> tuple[Plan | None, Result, Path, Evaluation | None]:
        """An artifact that passes its check: what makes it fail is taken back, one thing after the other.

        Raises:
            OlcError: it fails, and nothing was found that can be taken back.
        """
        built = self.folder / self.out.name
        chosen = set() if plan is None else rounding(plan.kept())
        error = min((f.error for f in self.fits if chosen and rounding(f.sites) == chosen), default=float("inf"))
        while True:
            try:
                plan, result = self.optimize(plan, level)
                self.save(result.model, plan)
                keyless = KEEPS_A_KEY in result.ctx.relied
                return plan, result, built, self.evaluated(built, plan, level, keyless) if self.settings.evaluate else None
            except OlcError as e:
                wrong = isinstance(e, VerificationFailed)
                if isinstance(e, OutputError) or (not wrong and not isinstance(e, Unsupported) and e.where != str(built)):
                    raise
                if not wrong or plan is None or not plan.lossy:
                    plan = self.take_back(e, plan, level)
                    continue
                bare = plan.without_sites("")
                if self.trials_of(bare, level)(Limits()).verdict.good is False:
                    self.take_back(e, bare, level)  # it is wrong without what is rounded, too
                    continue
                if self.settings.plan is not None:
                    raise
                # What chose was inside the budget, what judges is not: the next choice with a smaller error.
                self.notes.append(f"a choice of layers that was inside the budget was not where it was judged: {e.what}")
                plan, error = next_best(plan, self.fits, error, self.few_fits)
                self.tell_layers(plan)

    def tell_layers(self, plan: Plan) -> None:
        """Bring what the report says of layers up to a plan that was changed."""
        for row in self.layers:
            sites = plan.sites if not row["body"] else plan.few.sites if plan.few is not None else {}
            choice = sites.get((row["rule"], row["node"]), Choice(False, "one body is given instead"))
            row |= {"kept": choice.keep, "why": choice.why, "microseconds": [row["microseconds"][0], None]}

    def trials_of(self, plan: Plan | None, level: int, judge: Judge | None = None) -> Trials:
        """Candidates of this compile; judged as the artifact is, where no judge is given."""
        if judge is None and self.settings.evaluate:
            judge = self.judge(self.sample(self.settings.seed + 1), plan, plan is not None and plan.lossy)
        return Trials(
            lambda limits, ctx: self.candidate(plan, level, limits, ctx), self.context,
            judge if judge is not None else lambda path: GOOD, self.folder / "candidates", self.session_options(plan),
        )  # fmt: skip

    def judge(self, feeds: Sequence[Mapping[str, Any]], plan: Plan | None, lossy: bool, padding: bool = True) -> Outputs:
        """Whether a candidate gives the source's outputs, within what the level promises."""
        keep = self.kept(lossy)[1] if padding else without_padding(self.model)[1]
        options = self.session_options(plan).with_threads(self.settings.threads)
        at = [*feeds, *(() if lossy else self.varied)]
        return Outputs(self.path, at, lambda d: self.breach(d, lossy), keep, self.plain(), options)

    def take_back(self, failure: OlcError, plan: Plan | None, level: int, judge: Judge | None = None) -> Plan | None:
        """Find what makes the artifact fail, and leave it out from here on; the same rule a second time: everywhere. Gives
        the plan without it.

        Raises:
            OlcError: the failure, where nothing was found or enough has been taken back.
        """
        if len(self.taken_back) == MOST_TAKEN_BACK:
            gone = ", ".join(t["rule"] if t["node"] is None else f"{t['rule']}@{t['node']}" for t in self.taken_back)
            failure.hint = f"{MOST_TAKEN_BACK} rewrites were taken back before, and it is wrong still: {gone}; report the rules"
            raise failure
        self.say("looking for the rewrite at fault")
        try:
            found = None
            if judge is None and not self.unread:
                # Without what is at fault, a rewrite may act that leaves padding without a key: not looked at first.
                kept = self.judge(self.sample(self.settings.seed + 1), plan, bool(plan and plan.lossy), padding=False)
                found = find(self.trials_of(plan, level, kept), self.say)
            found = found or find(self.trials_of(plan, level, judge), self.say)
        except OlcError as e:  # the source itself does not run, say
            raise failure from e
        if found is None or found.skip is None or found.between is not None:
            if found is not None and not isinstance(failure, Unsupported):
                failure.hint = f"at fault: {found.text}"
            raise failure
        self.unread = ""  # the next artifact is another
        again = any(t["rule"] == found.by for t in self.taken_back)
        everywhere = again or found.number is None
        self.skip |= {found.by if everywhere else found.skip}
        why = f"{found.why}{', as at another place before' if again else ''}"
        self.taken_back.append({"rule": found.by, "node": None if everywhere else found.node, "why": why})
        where = "everywhere" if everywhere else f"at {found.node!r}"
        self.notes.append(f"taken back {where}: {found.by} ({why}); olc bisect with the same options shows it in a small model")
        lost = set() if plan is None else {s for s in plan.kept() if self.skip & {s[0], "@".join(s)}}
        if plan is not None and lost:
            plan = plan.without(lost, f"taken back: {why}")
            self.tell_layers(plan)
        return plan

    def load(self) -> None:
        """Read the source, and put it into a file where it is not one, so that the runtime can open it."""
        self.say("loading")
        self.model = frontend.load(self.source)
        self.notes += (repaired := self.model.meta.get(REPAIRED, []))
        if isinstance(self.source, str | os.PathLike) and str(self.source).endswith((".onnx", ".pb")) and not repaired:
            self.path = Path(self.source)
        else:
            self.path = self.folder / "source" / "model.onnx"
            self.path.parent.mkdir()
            storage.save(self.model, self.path)
        self.described = storage.described(self.path, self.path.name)
        judging, run_by = lambda: self.sample(self.settings.seed + 1), self.target.session
        self.own = OwnRounding(self.model, self.path, self.folder, run_by, self.plain(), judging)

    def sample(self, seed: int) -> list[dict[str, Any]]:
        """Inputs to run: the user's (every other sample judges, the rest chooses; prompts with a step each), or synthesised."""
        s = self.settings
        opened = self.target.session(self.path, threads=s.threads, options=SessionOptions())
        if s.data is not None:
            loaded = data_files.load(s.data, data_files.expected(opened))
            choosing, judging = (list(islice(part, s.samples)) for part in data_files.split(loaded))
            self.inputs = {**loaded.to_dict(), "choosing": len(choosing), "judging": len(judging)}
            if not choosing:
                self.notes.append("--data holds one sample: it both chose and judged")
            part = choosing if seed == s.seed and choosing else judging
            self.inputs["steps"] = len(made := steps.of_prompts(self.model, opened, part))
            return [*part, *made]
        self.plans[seed] = plan = self.made_up(seed, opened)
        self.inputs = plan.to_dict()
        return [plan.make(i) for i in range(s.samples)]

    def made_up(self, seed: int, opened: Any) -> sample_inputs.Plan:
        """How inputs are made up with which the source runs."""
        return sample_inputs.plan(self.model, self.settings.dims, seed, lambda feed: run(opened, feed, where=str(self.path)))

    def at_other_sizes(self) -> tuple[list[sweep.Corner], list[sweep.Corner]]:
        """Inputs of other sizes of the dynamic dims: those on which an artifact is compared, and those on which it is timed."""
        wanted, seed = self.settings.sweep or {}, self.settings.seed + 1
        drawn = sweep.drawn(self.model)
        if drawn is not None and not wanted:
            self.notes.append(f"not compared at other sizes: the model draws random numbers ({drawn})")
            return [], []
        if seed not in self.plans:
            opened = self.target.session(self.path, threads=self.settings.threads, options=SessionOptions())
            try:
                self.plans[seed] = self.made_up(seed, opened)
            except OlcError as e:
                if wanted:
                    raise
                self.notes.append(f"not compared at other sizes than those of --data: {e.what}")
                return [], []
        return sweep.corners(self.plans[seed]), sweep.grid(self.plans[seed], wanted)

    def task(self, choosing: bool) -> Task | None:
        """The metrics on one half of the data, as ``sample`` halves it."""
        s = self.settings
        if not self.metrics or s.data is None:
            return None
        self.say("measuring the metrics of the source model")
        opened = self.target.session(self.path, threads=s.threads, options=SessionOptions())
        parts = data_files.split(data_files.load(s.data, data_files.expected(opened)).labelled())
        chosen = parts[0] if choosing and next(iter(parts[0]), None) is not None else parts[1]
        return Task(self.metrics, chosen, opened, s.data)

    def search(self) -> Plan:
        """The plan of -O3. A candidate that fails ends no search: what makes it fail is taken back, and it begins anew."""
        left = self.settings.seconds
        while True:
            start = time.perf_counter()
            try:
                found = self.searched(left)
                return replace(found, notes=(*found.notes, *(n for n in self.notes if n.startswith("taken back"))))
            except CandidateFailed as e:
                spent = time.perf_counter() - start
                left = max(1.0, (self.granted if left is None else left) - spent)  # looking for what is at fault does not count
                judge = self.judge(self.sample(self.settings.seed), e.plan, lossy=e.plan.lossy)
                self.take_back(e.cause, e.plan, 3, judge)

    def searched(self, seconds: float | None) -> Plan:
        s = self.settings
        self.say("running the source model")
        feeds = self.sample(s.seed)
        opened = self.target.session(self.path, threads=s.threads, options=SessionOptions())
        _, keep = self.kept(lossy=True)
        begin = time.perf_counter()
        reference = [keep(f, run(opened, f, where=str(self.path))) for f in feeds]
        self.granted = seconds if seconds is not None else patience(time.perf_counter() - begin)
        del opened
        ctx = self.context()
        base = self.model.clone()
        optimize(base, self.options(1), ctx, self.rules)
        search = Search(
            base, ctx, self.rules, self.target, feeds, reference, s.bounds().for_choosing(), s.exact, s.threads, self.granted,
            self.options(3), self.say, s.quantize, s.keep_float, keep, s.data is not None,
            self.calibrate if s.data is not None or s.ranges is not None else None, self.task(choosing=True),
            self.target.kernels() if self.elsewhere else None, s.int8_cache, lambda d: self.breach(d, lossy=False), self.choosing,
        )  # fmt: skip
        try:
            found = search.run(f"sha256:{self.described['sha256']}")
        finally:
            self.trials, self.facts, self.weights, self.fits = search.trials, search.facts, search.weights, search.fits
            self.few_fits = search.few_fits
        self.layers = layers(search, found)
        return found

    def choosing(self) -> Iterable[dict[str, Any]]:
        """All of the data that chooses."""
        opened = self.target.session(self.path, threads=self.settings.threads, options=SessionOptions())
        return data_files.split(data_files.load(self.settings.data or "", data_files.expected(opened)))[0]

    def calibrate(self, model: Model) -> dict[str, Observed]:
        """What the values of a model range over: from the file of ranges, or on the part of the data that chooses.

        Raises:
            BadInput: there is neither data nor a file, or the file holds no ranges.
        """
        s = self.settings
        if s.ranges is not None and Path(s.ranges).exists():
            return load_ranges(s.ranges)
        if s.data is None:
            where, what = ("--ranges", "there is no such file") if s.ranges is not None else ("--plan", "it needs calibration")
            raise BadInput(what, where=s.ranges or where, hint="give --data to calibrate on, or --ranges with a file that exists")
        found = calibrate(model, self.choosing(), s.threads, s.calibration)
        if s.ranges is not None and found:
            save_ranges(s.ranges, found)
        return found

    def context(self) -> Context:
        if self.settings.int8_cache and (self.settings.level < 3 or self.settings.exact):
            raise BadInput("a cache in 8 bits is not exact", where="--int8-cache", hint="give -O3, without --exact")
        if self.settings.int8_cache and self.settings.data is None and self.settings.ranges is None:
            raise BadInput("a cache in 8 bits takes its scales from data", where="--int8-cache", hint="give --data or --ranges")
        if self.settings.shared_cache and self.settings.level < 2:
            raise BadInput("the shared cache is a form of fused attention", where="--shared-cache", hint="give -O2 or -O3")
        unknown = sorted(self.settings.unassumed - ASSUMPTIONS.keys())
        if unknown:
            raise BadInput(f"no assumption is called {unknown[0]!r}", where="--strict", hint=f"one of: {', '.join(ASSUMPTIONS)}")
        return Context(target=self.target, skip=self.skip, unassumed=self.settings.unassumed, threads=self.settings.threads)

    def options(self, level: int) -> Options:
        s = self.settings
        cached = s.int8_cache or (s.plan is not None and any(rule == int8_cache.NAME for rule, _ in s.plan.kept()))
        return Options(
            level=level, exact=s.exact, simplify=s.simplify, skip=self.skip, stop_after=s.stop_after,
            verify_each=s.verify_each, shared_cache=(s.shared_cache or cached) and level >= 2,
        )  # fmt: skip

    def candidate(self, plan: Plan | None, level: int, limits: Limits, ctx: Context) -> Result:
        """The source compiled within the limits."""
        options = self.options(level)
        stops = [n for n in (options.stop_after, limits.stop_after) if n is not None]
        options = replace(
            options, stop_after=min(stops, default=None), halt_after=limits.halt_after, skip=options.skip | limits.skip
        )
        if plan is not None:
            carried = plan.options(r.group for r in self.rules)
            options = replace(
                options, level=carried.level, groups=carried.groups, sites=carried.sites, smooth=carried.smooth,
                few=carried.few, float32=carried.float32, facts=self.known_facts(plan, level), weights=self.weights,
            )  # fmt: skip
        return optimize(self.model.clone(), options, ctx, self.rules)

    def optimize(self, plan: Plan | None, level: int) -> tuple[Plan | None, Result]:
        """The whole compile, and the plan without the places at which nothing was done: an artifact may be judged as one
        that is rounded only where it is."""
        result = self.candidate(plan, level, Limits(), self.context())
        fired = {(e.by, e.site) for e in result.ctx.events if e.number is not None or e.by in BY_PASS}
        idle = sorted(plan.kept() - fired) if plan is not None else []
        if plan is not None and idle:
            rule, node = idle[0]
            self.notes.append(f"{len(idle)} places of the plan were not rewritten, the first: {rule} at {node!r} (olc why --at)")
            plan = plan.without(idle, "the rule did not act there")
            self.tell_layers(plan)
        return plan, result

    def known_facts(self, plan: Plan, level: int) -> dict[str, Observed]:
        """What calibration saw; calibrated now where a plan is carried out that rests on it."""
        s = self.settings
        smooth = plan.smooth or (plan.few is not None and plan.few.smooth)
        if level == 3 and not self.facts and (smooth or learns(plan) or any(rule in STATIC for rule, _ in plan.kept())):
            self.say("calibrating")
            carried = plan.options(r.group for r in self.rules)
            result = optimize(self.model.clone(), replace(self.options(3), groups=carried.groups), self.context(), self.rules)
            fused = result.fused or result.model
            self.facts = self.calibrate(fused)
            if learns(plan):
                if s.data is None:
                    raise BadInput("the plan rounds weights by least squares", where="--plan", hint="give the --data of then")
                note(fused, self.facts, target=self.target)
                keep = without_padding(self.model)[1]
                self.weights = carried_out(fused, plan, self.rules, self.context(), self.choosing(), keep, s.threads)
        return self.facts

    def save(self, model: Model, plan: Plan | None) -> Path:
        built = self.folder / self.out.name
        storage.save(model, built)
        return built

    def plain(self) -> SessionOptions:
        """How the source is opened."""
        return self.target.session_options().with_threads(self.settings.threads)

    def session_options(self, plan: Plan | None) -> SessionOptions:
        return plan.session if plan is not None else self.target.session_options()

    def evaluated(self, built: Path, plan: Plan | None, level: int, keyless: bool) -> Evaluation:
        """`evaluate`, and once more without padding where a rewrite is right for queries only that see a key (``keyless``)."""
        try:
            return self.evaluate(built, plan, level)
        except VerificationFailed as e:
            if not keyless or self.unread or without_padding(self.model)[0] is None:
                raise
            self.unread = e.what
        return self.evaluate(built, plan, level)

    def evaluate(self, built: Path, plan: Plan | None, level: int) -> Evaluation:
        """Compare artifact and source on inputs that did not choose the plan.

        Raises:
            VerificationFailed: the outputs differ by more than the level promises.
        """
        s = self.settings
        self.say("comparing the artifact with the source")
        feeds = self.sample(s.seed + 1)
        measure = (s.measure or level == 3) and not self.elsewhere
        lossy = plan is not None and plan.lossy
        mask, keep = self.kept(lossy)
        if mask is not None and lossy:
            self.notes.append(f"what was rounded is judged at the tokens that {mask!r} keeps")
        corners, grid = self.at_other_sizes()
        if lossy:
            assert plan is not None
            self.check_float(plan.without_sites(""), level, feeds, corners)
        found = evaluate(
            self.path, built, feeds=feeds, threads=s.threads, seed=s.seed + 1,
            time_s=TIMED_S if measure else 0.0, measure_memory=measure,
            options_a=self.plain(), options_b=self.session_options(plan),
            keep=keep, accept=lambda outputs, points: self.accept(outputs, points, lossy, built, plan),
            corners=corners, grid=grid,
        )  # fmt: skip
        if self.unread:
            self.notes.append(f"compared at the tokens that {mask!r} keeps ({KEEPS_A_KEY}); at all of them, {self.unread}")
        shown = self.target.proof(built, feeds)
        self.notes += [] if shown is None else [shown]
        self.feed = feeds[0] if measure else None
        return found

    def check_float(
        self, bare: Plan, level: int, feeds: Sequence[Mapping[str, Any]], corners: Sequence[sweep.Corner]
    ) -> None:
        """What was rounded hides small faults of fusions: they are looked for in the model that is not.

        Raises:
            VerificationFailed: its outputs differ from the source's by more than float rounding.
        """
        file = self.folder / "float" / "model.onnx"
        file.parent.mkdir(exist_ok=True)
        storage.save(self.candidate(bare, level, Limits(), self.context()).model, file)
        options = self.plain(), self.session_options(bare)
        paths = (str(self.path), str(file))
        opened = [self.target.session(p, threads=self.settings.threads, options=o) for p, o in zip(paths, options, strict=True)]
        comparison, (_, keep) = Comparison(), self.kept(lossy=False)
        for feed in feeds:
            comparison.add(*(keep(feed, run(s, feed, where=path)) for s, path in zip(opened, paths, strict=True)))
        breach = self.breach(comparison.results(), lossy=False)
        if breach is not None:
            raise self.differs(breach)
        self.check_points(list(sweep.swept(opened, paths, corners, keep)), exact=True)

    def check_points(self, points: Sequence[sweep.Point], exact: bool) -> None:
        """Raise where the two differ at another size; what finds the rewrite at fault compares at these, too."""
        self.own.judge(points if exact else (), self.kept(lossy=False)[1])
        wrong = next((p for p in points if p.why_not(exact) is not None), None)
        self.varied = [p.corner.feed for p in points if not p.problem and (p is wrong or not p.corner.timed)]
        if wrong is not None:
            raise self.differs(wrong.why_not(exact) or "")

    def kept(self, lossy: bool) -> tuple[str | None, Keep]:
        """What is compared: where something was rounded, or a query of padding sees no key, the tokens that a mask keeps."""
        return joined.judged(self.model) if lossy else without_padding(self.model) if self.unread else (None, as_it_is)

    def differs(self, breach: str) -> VerificationFailed:
        hint = "report it with the model; --skip RULE leaves a rule out, -O1 applies only exact rewrites"
        return VerificationFailed(f"the compiled model differs from the source: {breach}", where=str(self.source), hint=hint)

    def accept(
        self, outputs: Sequence[OutputDifference], points: Sequence[sweep.Point], lossy: bool, built: Path, plan: Plan | None
    ) -> None:
        """Raise where outputs differ by more than the level promises, or metrics drop by more than the budget allows."""
        breach = self.breach(outputs, lossy)
        if breach is None and self.metrics:
            if self.judging is None:
                self.judging = self.task(choosing=False)
            assert self.judging is not None
            opened = self.target.session(built, threads=self.settings.threads, options=self.session_options(plan))
            self.scores = list(self.judging.scores(opened))
            breach = self.settings.bounds().breach((), self.scores)
            if breach is not None and not lossy:  # the outputs are the source's as far as rounding goes
                raise OverBudget(breach, where=str(self.source), hint="allow a larger --max-drop, or judge on more samples")
        if breach is not None:
            raise self.differs(breach)
        self.check_points(points, exact=not lossy)

    def breach(self, outputs: Sequence[OutputDifference], lossy: bool) -> str | None:
        """The first output that differs by more than the level promises, in words."""
        if lossy:
            return self.settings.bounds().breach(outputs)
        return self.own.breach(outputs, self.kept(lossy)[1])

    def profile(self, model: Model, built: Path, plan: Plan | None) -> None:
        """Note what the runtime executes of source and artifact, and what it fuses although that does not pay."""
        if self.feed is None:
            return
        try:
            rows = executed.executed(self.path, self.feed, self.plain())
            self.executed["source"] = executed.to_dicts(rows)
            options = self.session_options(plan).with_threads(self.settings.threads)
            rows = executed.executed(built, self.feed, options)
            self.executed["artifact"] = executed.to_dicts(rows)
        except OlcError as e:
            self.notes.append(f"what the runtime executes is not known: {e.what}")
            return
        self.executed["by_runtime"] = made = executed.fused_by_the_runtime(model, rows)
        self.notes += executed.slower(made, self.target.kernels())

    # --- report ----------------------------------------------------------------------------------------------------

    def report(
        self, result: Result, built: Path, plan: Plan | None, level: int, evaluation: Evaluation | None
    ) -> Report:
        s = self.settings
        events = result.ctx.events
        notes = list(dict.fromkeys([*self.notes, *self.own.notes, *(plan.notes if plan is not None else ())]))
        if not result.settled:
            notes.append("cleaning had not settled after its last round; compiling the artifact again may gain a little")
        if result.slow:
            shown = ", ".join(f"{rule} ({operator})" for rule, operator in sorted(result.slow.items()))
            notes.append(f"left out, because what they emit is slower than its parts here (olc targets show): {shown}")
        made = result.model if result.body is None else result.body
        if INT8_CACHE in result.model.metadata_props:
            notes.append(f"caches are held in 8 bits: their inputs and outputs are int8, and the scales of these are in the "
                         f"metadata {INT8_CACHE!r}; olc.decoder keeps them so")  # fmt: skip
        if self.elsewhere:
            notes += elsewhere.notes(s, self.target, plan)
        fusions = survey(self.model, made, self.rules, result.ctx, result.outcome.refused) if level >= 2 else []
        overridable = [v.name for v in self.model.graph.inputs if v.is_initializer() and self.model.ir_version >= 4]
        if overridable:
            what = f"{len(overridable)} initializers are also inputs (first: {overridable[0]!r})"
            notes.append(f"{what}; a caller may override them, so nothing was folded into them")
        if evaluation is not None:
            notes += evaluation.problems
            if s.data is None:
                less = next((p.less for p in self.plans.values()), "")
                notes.append(f"no --data was given: accuracy was judged on synthesised inputs{less}")
            if self.inputs.get("steps"):
                notes.append(f"--data holds prompts: {self.inputs['steps']} of their last tokens were run as steps, too")
        return Report(
            source=self.described,
            artifact=storage.described(built, self.out.name),
            versions={"olc": __version__, "python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
            target={"name": self.target.name, "here": not self.elsewhere, **self.target.features()},
            options={"level": level, "machine": s.machine, "exact": s.exact, "dims": dict(s.dims or {}), "data": s.data,
                     "threads": s.threads, "skip": sorted(s.skip), "strict": sorted(s.unassumed), "rules": list(s.rules),
                     "seed": s.seed, "quantize": s.quantize, "keep_float": list(s.keep_float), "calibration": s.calibration,
                     "ranges": s.ranges, "accuracy": {"cosine": s.bounds().cosine, "top1": s.bounds().top1},
                     "shared_cache": s.shared_cache, "int8_cache": s.int8_cache, "metrics": list(s.metrics)},
            plan=plan.dumps() if plan is not None else "",
            trials=[t.to_dict() for t in self.trials],
            layers=self.layers,
            front=front(self.trials),
            rewrites=[{"number": e.number, "rule": e.by, "site": e.site, "detail": e.detail, "module": e.module}
                      for e in events if e.number is not None],
            assumed={name: {"rewrites": n, "what": ASSUMPTIONS[name]} for name, n in sorted(result.ctx.relied.items())},
            passes=dict(sorted(Counter(e.by for e in events if e.number is None).items())),
            refused=[{"rule": r, "safety": self.rules[r].safety.level, "operators": self.rules[r].pattern.size,
                      "reason": why, "count": n}
                     for (r, why), n in sorted(result.outcome.refused.items(), key=lambda kv: (-kv[1], kv[0]))],
            quarantined=result.outcome.quarantined,
            taken_back=self.taken_back,
            fusions=[f.to_dict() for f in fusions],
            changes=diff(self.model, result.model).to_dict(),
            evaluation=None if evaluation is None else evaluation.to_dict(),
            metrics=[score.to_dict(s.max_drop) for score in self.scores],
            executed=self.executed, inputs=self.inputs,
            session_options=self.session_options(plan).to_dict(),
            notes=notes, seconds=result.seconds,
        )  # fmt: skip
