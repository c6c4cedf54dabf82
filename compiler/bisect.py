"""``olc bisect``: which rewrite makes a compiled model bad, and the smallest model that shows it. See docs/bisect.md."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from . import ir, storage
from .analysis import dims as dim
from .analysis import shapes
from .assumptions import KEEPS_A_KEY
from .culprits import Check, Culprit, Judge, Limits, Slower, around, find
from .driver import sources
from .errors import BadInput, OlcError, OutputError
from .evaluation import data as data_files
from .evaluation import inputs as sample_inputs
from .evaluation import process, sweep
from .files import refuse_overwriting, scratch, write_text
from .ir import Model
from .job import Job
from .matching import Match
from .rewriter import why
from .settings import Settings
from .strategy.plan import Plan
from .strategy.search import CandidateFailed

Feed = dict[str, Any]

FILES = ("model.onnx", "inputs.npz", "plan.toml", "bisect.json")
"""What the folder of a result may hold."""
Judging = Callable[[Job, Sequence[Feed], Plan | None], Judge]
"""Makes the judge of a job's candidates, from what it compiles, the inputs and the plan."""


@dataclass(frozen=True)
class Finding:
    """What was found.

    Attributes:
        rewrites, compiles: how many the compile makes, and how many compiles it took to find the one at fault.
        model, inputs, plan: the model that shows it, a sample for it (None: a command judged, and none could be made up),
            and the plan that it was compiled by, or None.
        nodes: of how many the model consists.
        whole: no part of the source showed the fault, so ``model`` is all of it.
    """

    culprit: Culprit
    rewrites: int
    compiles: int
    model: Path
    inputs: Path | None
    plan: Path | None
    nodes: int
    whole: bool

    def to_dict(self) -> dict[str, Any]:
        paths = {k: None if (p := getattr(self, k)) is None else str(p) for k in ("model", "inputs", "plan")}
        return {"culprit": self.culprit.to_dict(), "rewrites": self.rewrites, "compiles": self.compiles,
                **paths, "nodes": self.nodes, "whole": self.whole}  # fmt: skip


def bisect(
    source: Any, settings: Settings | None = None, *, check: str | None = None, slower: bool = False,
    output: str | os.PathLike[str] | None = None, judging: Judging | None = None, read: Sequence[str] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Finding:
    """Find what makes the compile of ``source`` bad, and write a small model that shows it into the folder ``output``.

    Bad is: other outputs than the source's, or none; with ``slower``, slower than the source; with ``check``, what that
    command says of a model (``culprits.Check``); with ``judging``, what that says. ``read``: further files that are not to be
    overwritten.

    Raises:
        BadInput: the source is bad as it is, or the compiled model is good: there is nothing to find.
        OutputError: the folder cannot be written.
    """
    chosen = replace(settings if settings is not None else Settings(), measure=False)
    out = _output(source, output, chosen, read)
    folder = scratch(out.parent)
    try:
        job = Job(source, folder / "model.onnx", chosen, folder, say)
        varied = judging is None and check is None and not slower
        judging = judging if judging is not None else _judging(check, slower)
        return _Bisection(job, judging, out, needs_inputs=check is None, varied=varied).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _output(source: Any, output: str | os.PathLike[str] | None, settings: Settings, others: Sequence[str]) -> Path:
    if output is None and not isinstance(source, str | os.PathLike):
        raise BadInput("the source is no file, so the result has no place", where="--output", hint="name a folder")
    out = Path(output) if output is not None else Path(source).with_suffix(".bisect")
    if not out.parent.is_dir():
        raise OutputError("the folder to write in does not exist", where=str(out.parent), hint="create it, or change --output")
    if out.exists() and not out.is_dir():
        raise OutputError("a file is in the way", where=str(out), hint="change --output")
    if not os.access(out if out.exists() else out.parent, os.W_OK):
        raise OutputError("no permission to write", where=str(out), hint="change --output")
    named = (settings.data, settings.ranges, settings.machine, *others)
    read: list[str | Path] = [*sources(source), *settings.rules, *(p for p in named if p is not None)]
    refuse_overwriting((out / name for name in FILES), read)
    return out


def _judging(check: str | None, slower: bool) -> Judging:
    def of_outputs(job: Job, feeds: Sequence[Feed], plan: Plan | None) -> Judge:
        # As in a compile: what a query of padding without a key gives is nobody's fault, unless --strict says so.
        padding = KEEPS_A_KEY in job.settings.unassumed
        return job.judge(feeds, plan, plan is not None and plan.lossy, padding=padding)

    def of_time(job: Job, feeds: Sequence[Feed], plan: Plan | None) -> Judge:
        options = job.session_options(plan).with_threads(job.settings.threads)
        return Slower(job.path, list(feeds), job.plain(), options)

    if check is not None:
        return lambda job, feeds, plan: Check(check)
    return of_time if slower else of_outputs


class _Bisection:
    def __init__(self, job: Job, judging: Judging, out: Path, needs_inputs: bool, varied: bool) -> None:
        self.job, self.judging, self.out, self.needs_inputs, self.varied = job, judging, out, needs_inputs, varied

    def run(self) -> Finding:
        job, s = self.job, self.job.settings
        job.load()
        feeds = self.feeds()
        job.say("trying the source")
        judge = self.judging(job, feeds, None)
        self.refuse_bad_source(judge)
        self.plan, self.level = s.plan, s.level if s.plan is None else s.plan.level
        if self.level == 3 and self.plan is None:
            try:
                self.plan = job.searched(s.seconds)
            except CandidateFailed as e:
                self.plan = e.plan
        job.say("compiling all of it")
        trials = job.trials_of(self.plan, self.level, self.judging(job, feeds, self.plan))
        found = find(trials, job.say)
        if found is None:
            raise BadInput(
                "the compiled model is good: there is nothing to bisect", where=str(job.source),
                hint="give the options and --data with which it was bad, or --check with a command that says so",
            )  # fmt: skip
        rewrites = sum(s.number is not None for s in trials(Limits()).ctx.steps)
        job.say("looking for a small model that shows it")
        feeds, job.varied = [*feeds, *job.varied], []  # from here on each sample is judged alone
        part = self.smallest(found, feeds)
        if part is None:
            sample = next((f for f in feeds if self.bad(job, f) == found.kind), feeds[0] if feeds else None)
            return self.write(found, job.model, sample, whole=True, rewrites=rewrites, compiles=trials.compiles)
        return self.write(found, *part, whole=False, rewrites=rewrites, compiles=trials.compiles)

    def feeds(self) -> list[Feed]:
        """The inputs that a compile judges on; the data's other half too."""
        job, s = self.job, self.job.settings
        if s.data is not None:
            found = list(islice(data_files.load(s.data, data_files.declared(job.model)), 2 * s.samples))
            if not found:
                raise BadInput("there are no samples", where=s.data, hint="give at least one feed")
            self.vary(required=False)
            return found
        made = self.vary(required=self.needs_inputs)
        return [] if made is None else [made.make(i) for i in range(s.samples)]

    def vary(self, required: bool) -> sample_inputs.Plan | None:
        """How inputs are made up, None where they cannot be; a compile judges at other sizes, too."""
        job, s = self.job, self.job.settings

        def run(feed: Feed) -> object:
            return process.outputs(job.path, [feed], options=job.plain())

        try:
            made = sample_inputs.plan(job.model, s.dims, s.seed + 1, run)
        except OlcError:
            if required:
                raise
            return None
        for corner in sweep.corners(made) if self.varied else ():
            with contextlib.suppress(OlcError):  # the source does not run with every size
                run(corner.feed)
                job.varied.append(corner.feed)
        return made

    def refuse_bad_source(self, judge: Judge) -> None:
        where, hint = str(self.job.source), "bisect needs a good source and a bad compile"
        try:
            found = judge(self.job.path)
        except BadInput:
            raise
        except OlcError as e:
            raise BadInput(f"the source itself does not run: {e.what}", where=where, hint=hint) from e
        if not found.good:
            raise BadInput(f"the source is bad before anything is compiled: {found.why}", where=where, hint=hint)

    # --- a small model -----------------------------------------------------------------------------------------------

    def smallest(self, found: Culprit, feeds: Sequence[Feed]) -> tuple[Model, Feed] | None:
        """The smallest part of the graph before the culprit whose compile is bad in the same way, with a sample for it."""
        if found.node is None or not feeds:
            return None
        before = self.job.candidate(self.plan, self.level, found.before, self.job.context()).model
        shapes.infer(before)
        nodes = [found.node]
        if found.number is not None:
            matches = [m for _, m in why(before, self.job.rules[found.by], found.node) if isinstance(m, Match)]
            nodes += [ir.site(n) for m in matches[:1] for n in m.nodes]
        for number, (part, names) in enumerate(around(before, nodes)):
            try:
                seen = self.watch(before, names, feeds)
            except OlcError:
                continue  # what the part reads cannot be seen there: a larger part reads something else
            feed = self.shows(part, names, seen, found, number)
            if feed is not None:
                return part, feed
        return None

    def watch(self, model: Model, names: Sequence[str], feeds: Sequence[Feed]) -> list[Feed]:
        """For each feed the values of these names inside the model."""
        probe = model.clone()
        values = {v.name: v for n in probe.graph for v in n.outputs}
        probe.graph.outputs.extend(values[n] for n in names if n in values and not values[n].is_graph_output())
        path = self.job.folder / "probe" / "model.onnx"
        path.parent.mkdir(exist_ok=True)
        storage.save(probe, path)
        found = process.outputs(path, feeds, options=self.job.plain())
        # A part may read what a caller may override, and here does not.
        held = ir.initial_values(model, names)
        return [{n: {**held, **feed, **outputs}[n] for n in names} for feed, outputs in zip(feeds, found, strict=True)]

    def shows(self, part: Model, names: Sequence[str], feeds: Sequence[Feed], found: Culprit, number: int) -> Feed | None:
        """The first sample on which the part's own compile is bad while the part is good, or None."""
        _declare(part, feeds)
        folder = self.job.folder / f"part{number}"
        folder.mkdir()
        storage.save(part, folder / "source.onnx")
        settings = replace(self.job.settings, stop_after=None)
        job = Job(str(folder / "source.onnx"), folder / "model.onnx", settings, folder, lambda text: None)
        job.facts, job.weights = self.job.facts, self.job.weights
        job.load()
        try:
            shown = [f for f in feeds if self.bad(job, f) == found.kind]
            return next((f for f in shown if self.judging(job, [f], self.plan)(job.path).good), None)
        except OlcError:
            return None  # the part is no model that can be compiled or run by itself

    def bad(self, job: Job, feed: Feed) -> str | None:
        """The kind of fault that the compile of a job shows on a sample, or None."""
        found = job.trials_of(self.plan, self.level, self.judging(job, [feed], self.plan))(Limits()).verdict
        return found.kind if found.good is False else None

    # --- what is handed over -----------------------------------------------------------------------------------------

    def write(
        self, found: Culprit, model: Model, sample: Feed | None, *, whole: bool, rewrites: int, compiles: int
    ) -> Finding:
        """Everything is made beside the folder first, then moved into it. An .npz holds no sequences."""
        sample = None if sample is None or any(isinstance(v, list) for v in sample.values()) else sample
        ready = self.job.folder / "ready"
        ready.mkdir()
        copied = not whole or self.job.path.is_relative_to(self.job.folder)
        if copied:
            storage.save(model, ready / "model.onnx")
        if sample is not None:
            _save_feed(ready / "inputs.npz", sample)
        if self.plan is not None:
            write_text(ready / "plan.toml", self.plan.dumps())
        made = Finding(
            found, rewrites, compiles, self.out / "model.onnx" if copied else self.job.path,
            self.out / "inputs.npz" if sample is not None else None,
            self.out / "plan.toml" if self.plan is not None else None, len(model.graph), whole,
        )  # fmt: skip
        write_text(ready / "bisect.json", json.dumps(made.to_dict(), indent=1, ensure_ascii=False) + "\n")
        try:
            self.out.mkdir(exist_ok=True)
            for name in FILES if (self.out / "bisect.json").exists() else ():  # of an earlier run, not of this one
                if not (ready / name).exists():
                    (self.out / name).unlink(missing_ok=True)
            for file in sorted(ready.iterdir()):
                os.replace(file, self.out / file.name)
        except OSError as e:
            raise OutputError(f"cannot be written: {e.strerror}", where=str(self.out)) from e
        return made


def _declare(part: Model, feeds: Sequence[Feed]) -> None:
    """Give the inputs of a part the types and shapes that were inferred for them, or those that the samples share."""
    for v in part.graph.inputs:
        value = feeds[0][v.name or ""]
        known = shapes.dims(v)
        if v.dtype is None:
            v.dtype = ir.DataType.from_numpy(value.dtype)
        if known is None:
            sizes = zip(*(f[v.name or ""].shape for f in feeds), strict=False)
            v.shape = ir.Shape([s[0] if len(set(s)) == 1 else None for s in sizes])
        else:
            v.shape = ir.Shape([d if isinstance(d, int) else None if _made_up(d) else str(d) for d in known])


def _made_up(d: Any) -> bool:
    return any(s.startswith("?") for s in dim.symbols(d))


def _save_feed(path: Path, feed: Mapping[str, Any]) -> None:
    """An .npz that ``--data`` reads. Not numpy's own savez: to that an array called 'file' is an argument."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in _storable(feed):
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _storable(feed: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in feed.items():
        array = np.asarray(value)
        if array.dtype.kind == "O":
            yield name, array.astype(np.str_)
        else:  # bfloat16 and smaller, which .npz does not hold, lose nothing in float32
            yield name, array.astype(np.float32) if array.dtype.kind == "V" else array
