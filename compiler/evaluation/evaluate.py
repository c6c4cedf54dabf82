"""Two models, one verdict: do they compute the same, and which is faster, smaller, quicker to load, leaner."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import BadInput, OlcError
from ..session import SessionOptions, lacking, prepared, recommended, run, session
from ..storage import external_names
from . import data as data_module
from . import inputs, latency, numerics, process
from .latency import Paired
from .metrics import Kept, Metric, Score, scores
from .numerics import OutputDifference
from .padding import Keep, as_it_is
from .process import Measured
from .sweep import Corner, Point, swept

Feed = dict[str, Any]

#: Samples made up where the user gives none; the second has padding, where there is a mask.
SAMPLES = 4
#: Samples kept for timing; more would only take memory.
TIMED = 16
#: Seconds for timing at each point of a sweep.
SWEEP_S = 1.0
#: Load time is measured twice per model, in turn, and the shorter counts; once where it is so many seconds or more.
LONG_LOAD_S = 1.0


@dataclass(frozen=True)
class ModelFacts:
    """One of the two models.

    Attributes:
        bytes: the file with its external data.
        external_bytes: of which external data.
        load_s: time to open it, shortest of the child processes (or of this process, where none were run).
        process: the child process with the highest memory, or None where memory was not measured.
    """

    path: str
    bytes: int
    external_bytes: int
    load_s: float
    options: SessionOptions
    process: Measured | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": self.path, "bytes": self.bytes, "external_bytes": self.external_bytes, "load_s": self.load_s,
            "peak_bytes": None if self.process is None else self.process.peak_bytes,
            "process": None if self.process is None else self.process.to_dict(),
            "session_options": self.options.to_dict(),
        }  # fmt: skip


@dataclass
class Evaluation:
    """What was found out about ``b`` (the candidate) beside ``a`` (the reference).

    Attributes:
        inputs: where the feeds came from (``Plan.to_dict``, ``Data.to_dict``).
        outputs: one record per output, over all samples.
        paired: the timing of the two; None where it was not asked for.
        problems: measurements that could not be made, in words.
        metrics: the metrics that were asked for.
        swept: the comparison at other sizes.
    """

    a: ModelFacts
    b: ModelFacts
    inputs: dict[str, Any]
    samples: int
    outputs: list[OutputDifference]
    paired: Paired | None
    threads: int | None
    seed: int
    problems: list[str] = field(default_factory=list)
    metrics: list[Score] = field(default_factory=list)
    swept: list[Point] = field(default_factory=list)

    @property
    def slower(self) -> bool:
        """Was the candidate timed, and shown to be slower?"""
        return self.paired is not None and self.paired.verdict == "slower"

    @property
    def within(self) -> bool:
        """True where every output is the same up to rounding."""
        return all(o.within() for o in self.outputs)

    @property
    def equal(self) -> bool:
        """True where every output is the same bit for bit (zeros of either sign are one)."""
        return all(o.equal for o in self.outputs)

    @property
    def worst(self) -> OutputDifference | None:
        """The output with the largest relative error, incomparable ones first."""

        def badness(o: OutputDifference) -> tuple[bool, bool, float]:
            return o.problem is not None or o.misplaced > 0, not o.within(), o.max_rel or float(o.mismatches > 0)

        return max(self.outputs, key=badness, default=None)

    @property
    def verdict(self) -> str:
        """The whole in one or two sentences."""
        worst = self.worst
        if worst is None:
            words = "there are no outputs to compare"
        elif self.equal:
            words = "the same outputs, bit for bit"
        else:
            reason = worst.why_not()
            cosine = "" if worst.cosine_min is None else f", cosine at least {worst.cosine_min:.6f}"
            if self.within:
                rel = worst.max_rel
                far = f"{worst.share:.1%} of elements differ" if rel is None else f"largest relative error {rel:.1e}"
                error = f"{far} in {worst.name!r}{cosine}"
                words = f"the same outputs up to rounding ({error})"
            else:
                words = f"other outputs: {worst.name!r}: {reason}{cosine}"
        made_up = " on synthesised inputs" if self.inputs.get("synthesised") else ""
        elsewhere = next((w for p in self.swept if (w := p.why_not()) is not None), None)
        speed = "" if self.paired is None else f"; {self.paired.text}"
        speed += "" if elsewhere is None or not self.within else f"; but {elsewhere}"
        return f"{words}, over {self.samples} sample{'s' if self.samples != 1 else ''}{made_up}{speed}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "a": self.a.to_dict(), "b": self.b.to_dict(), "inputs": self.inputs, "samples": self.samples,
            "outputs": [o.to_dict() for o in self.outputs], "within": self.within, "equal": self.equal,
            "paired": None if self.paired is None else self.paired.to_dict(), "threads": self.threads,
            "seed": self.seed, "problems": list(self.problems), "verdict": self.verdict,
            "metrics": [score.to_dict() for score in self.metrics], "swept": [p.to_dict() for p in self.swept],
        }  # fmt: skip


def evaluate(
    a_path: str | os.PathLike[str],
    b_path: str | os.PathLike[str],
    *,
    feeds: Iterable[Feed] | None = None,
    dims: Mapping[str, int] | None = None,
    data: str | None = None,
    threads: int | None = None,
    time_s: float = 2.0,
    seed: int = 0,
    measure_memory: bool = True,
    samples: int = SAMPLES,
    options_a: SessionOptions | None = None,
    options_b: SessionOptions | None = None,
    keep: Keep = as_it_is,
    accept: Callable[[list[OutputDifference], list[Point]], None] | None = None,
    metrics: Sequence[Metric] = (),
    corners: Sequence[Corner] = (),
    grid: Sequence[Corner] = (),
) -> Evaluation:
    """Compare a candidate with a reference.

    Args:
        a_path, b_path: reference and candidate.
        feeds: samples; else ``data`` is loaded, else ``samples`` of them are made up with ``dims``.
        threads: for both; each model's recommendation where None.
        time_s: seconds for the paired timing; 0 leaves it out.
        keep: the part of each side's outputs that is compared (``padding.py``).
        metrics: measured on the samples, which hold the labels that they need.
        corners, grid: inputs of other sizes, on which the two are compared; on those of the grid they are timed, too.
        accept: sees the differences, and those at other sizes, before anything is timed, and may raise.
        options_a, options_b: session options; those recorded beside each model where None.

    Raises:
        BadInput: the models take different inputs, the data does not fit, or the reference does not run on it.
        OlcError: a model cannot be opened or the candidate's inference fails; it names the model and has the runtime's reason.
    """
    paths = (os.fspath(a_path), os.fspath(b_path))
    options = [_options(p, o, threads) for p, o in zip(paths, (options_a, options_b), strict=True)]
    opened, loads = [], []
    for path, chosen in zip(paths, options, strict=True):
        begin = time.perf_counter()
        opened.append(session(path, options=chosen))
        loads.append(time.perf_counter() - begin)
    expected = [data_module.expected(s) for s in opened]
    _same_inputs(paths, expected)
    source, origin = _source(paths[0], opened[0], expected[0], feeds, dims, data, seed, samples)
    comparison = numerics.Comparison()
    kept: list[Feed] = []
    judged = [Kept(metrics, data or "samples") for _ in opened]
    count = 0
    for sample in source:
        feed = {i.name: sample[i.name] for i in expected[0] if i.name in sample}
        outputs = [_of_source(opened[0], feed, paths[0], count), run(opened[1], feed, where=paths[1])]
        comparison.add(*(keep(feed, found) for found in outputs))
        for side, found in zip(judged, outputs, strict=True):
            side.add(found, sample)
        if len(kept) < TIMED:
            kept.append(feed)
        count += 1
    if not count:
        raise BadInput("there are no samples", where=data, hint="give at least one feed")
    differences = comparison.results()
    points = list(swept(opened, paths, [*corners, *grid], keep))
    if accept is not None:
        accept(differences, points)
    measured_by = list(scores(*judged))
    paired = timed(opened, kept, time_s, seed) if time_s > 0 else None
    points = [_timed_at(opened, paths, options, p, seed) if p.corner.timed else p for p in points]
    opened.clear()
    problems: list[str] = []
    for path, chosen in zip(paths, options, strict=True):
        if (time_s > 0 or measure_memory) and lacking(chosen.providers):
            problems.append(f"{path} is for {chosen.providers[0]}, which is not on this machine: the CPU stood in, and its times "
                            "and memory say nothing")  # fmt: skip
    measured = _processes(paths, kept[0], options, problems) if measure_memory else [[], []]
    facts = [_facts(*of) for of in zip(paths, loads, options, measured, strict=True)]
    return Evaluation(facts[0], facts[1], origin, count, differences, paired, threads, seed, problems, measured_by, points)


def _of_source(opened: Any, feed: Feed, path: str, number: int) -> dict[str, Any]:
    try:
        return run(opened, feed, where=path)
    except OlcError as error:
        what = f"the model does not run on sample {number}: {error.what}"
        raise BadInput(what, where=error.where, hint="give inputs with which it runs (--data, --dim)") from error


def _timed_at(
    opened: Sequence[Any], paths: Sequence[str], options: Sequence[SessionOptions], point: Point, seed: int
) -> Point:
    if point.problem or point.failure:
        return point
    threads = point.corner.threads
    if threads is not None:
        opened = [session(path, options=chosen.with_threads(threads)) for path, chosen in zip(paths, options, strict=True)]
    return replace(point, paired=timed(opened, [point.corner.feed], SWEEP_S, seed))


def _options(path: str, given: SessionOptions | None, threads: int | None) -> SessionOptions:
    chosen = given if given is not None else recommended(path)
    return chosen.with_threads(threads)


def _same_inputs(paths: Sequence[str], expected: Sequence[list[data_module.Expected]]) -> None:
    left, right = ({i.name: i.dtype for i in side} for side in expected)
    for name in {**left, **right}:
        if left.get(name) != right.get(name):
            kinds = [f"{side.get(name, 'absent')} in {path}" for side, path in zip((left, right), paths, strict=True)]
            raise BadInput(f"the models take different inputs: {name!r} is {' and '.join(kinds)}", where=paths[1],
                           hint="compare models with the same inputs")  # fmt: skip


def _source(
    path: str,
    opened: Any,
    expected: list[data_module.Expected],
    feeds: Iterable[Feed] | None,
    dims: Mapping[str, int] | None,
    data: str | None,
    seed: int,
    samples: int,
) -> tuple[Iterable[Feed], dict[str, Any]]:
    """The samples, and what to say of where they come from."""
    if feeds is not None:
        checked = (_labelled(f, data_module.check(f, expected, f"sample {i}")) for i, f in enumerate(feeds))
        return checked, {"synthesised": False, "data": "given by the caller"}
    if data is not None:
        loaded = data_module.load(data, expected)
        return loaded.labelled(), loaded.to_dict()
    from ..frontend import load

    plan = inputs.plan(load(path), dims, seed, lambda feed: run(opened, feed, where=path))
    return (plan.make(i) for i in range(max(1, samples))), plan.to_dict()


def _labelled(feed: Feed, inputs: Feed) -> Feed:
    return inputs | data_module.labels(feed, inputs)


def timed(
    opened: Sequence[Any], kept: Sequence[Feed], time_s: float, seed: int, limit_s: float | None = None
) -> Paired:
    """Both on the same sample in each pair, one sample after the other; ``time_s`` and ``limit_s`` as of ``latency.paired``."""
    ready = [[prepared(s, feed) for feed in kept] for s in opened]
    current = 0

    def choose(pair: int) -> None:
        nonlocal current
        current = pair % len(kept)

    return latency.paired(
        lambda: ready[0][current](), lambda: ready[1][current](), budget_s=time_s, seed=seed, before_pair=choose,
        limit_s=limit_s,
    )


def _processes(
    paths: Sequence[str], feed: Feed, options: Sequence[SessionOptions], problems: list[str]
) -> list[list[Measured]]:
    found: list[list[Measured]] = [[], []]
    for again in (False, True):
        if again and any(m.load_s >= LONG_LOAD_S for side in found for m in side):
            break
        for side in (0, 1):
            try:
                found[side].append(process.measure(paths[side], feed, options=options[side]))
            except OlcError as error:
                # The model ran in this process already: what failed is the measurement, which is said, not the model.
                text = f"memory of {paths[side]} was not measured: {error.what}"
                if text not in problems:
                    problems.append(text)
    return found


def _facts(path: str, load_s: float, options: SessionOptions, found: list[Measured]) -> ModelFacts:
    external = sum(_size(file) for file in external_files(path))
    highest = max(found, key=lambda m: m.peak_bytes or 0, default=None)
    best = min((m.load_s for m in found), default=load_s)
    return ModelFacts(path, _size(Path(path)) + external, external, best, options, highest)


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def external_files(path: str | os.PathLike[str]) -> list[Path]:
    """The files beside a model that hold its external data, each once."""
    return [Path(path).parent / name for name in external_names(path)]


__all__ = ["Evaluation", "ModelFacts", "evaluate", "external_files"]
