"""Options that several commands share."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import click

F = Callable[..., Any]


def level_option(f: F) -> F:
    """-O0 to -O3."""
    text = "0: only load and verify; 1: exact cleaning; 2: fusions; 3: what pays, by measurement."
    return click.option("-O", "level", type=click.IntRange(0, 3), default=2, show_default=True, help=text)(f)


def target_option(f: F) -> F:
    return click.option("--target", default="onnxruntime-cpu", show_default=True, help="Runtime to compile for.")(f)


def machine_option(f: F) -> F:
    text = ("Table of another machine to compile for (olc targets measure -o FILE there): it decides what pays, and nothing is "
            "timed here.")  # fmt: skip
    return click.option("--machine", type=click.Path(), metavar="FILE", help=text)(f)


def rules_option(f: F) -> F:
    text = "Python file with more rules. It is run: name only what you trust."
    return click.option("--rules", multiple=True, metavar="FILE", help=text)(f)


def _dims(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in (p for v in value for p in v.split(",") if p):
        name, _, size = part.rpartition("=")
        if not name or not size.isdigit():
            raise click.BadParameter(f"{part!r} is not NAME=SIZE, as in batch=1,seq=128")
        found[name.strip()] = int(size)
    return found


def _sweep(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for part in (p for v in value for p in v.split(",") if p):
        match = re.fullmatch(r"(.+)=(\d{1,9})(?:\.\.(\d{1,9}))?", part.strip())
        low, high = (0, 0) if match is None else (int(match[2]), int(match[3] or match[2]))
        if match is None or low > high:
            raise click.BadParameter(f"{part!r} is not NAME=LOW..HIGH, as in seq=16..512")
        sizes = found.setdefault(match[1].strip(), [])
        size = low
        while size < high:
            sizes.append(size)
            size = max(1, 2 * size)
        sizes.append(high)
    return {name: sorted(set(sizes)) for name, sizes in found.items()}


def sweep_option(f: F) -> F:
    text = ("Time the two at other sizes of dynamic dims, too, on inputs made up: seq=16..512,batch=1..8 is every combination, "
            "each size twice the one before; threads=1..8 goes too.")  # fmt: skip
    return click.option("--sweep", multiple=True, callback=_sweep, metavar="NAME=LOW..HIGH,...", help=text)(f)


def dims_option(f: F) -> F:
    text = "Sizes of dynamic dims in sample inputs: batch=1,seq=128. May be repeated."
    return click.option("--dim", "dims", multiple=True, callback=_dims, metavar="NAME=SIZE,...", help=text)(f)


def input_options(f: F) -> F:
    """What the model is run on."""
    data = "Real inputs: an .npz, a folder of .npz, or module:function yielding dicts name -> array."
    f = click.option("--seed", type=int, default=0, show_default=True, help="Seed of synthesised inputs.")(f)
    f = click.option("--samples", type=click.IntRange(min=1), default=3, show_default=True, help="Inputs to compare on.")(f)
    f = click.option("--threads", type=click.IntRange(min=1), help="Threads within an operator [default: the runtime's].")(f)
    f = click.option("--data", metavar="WHERE", help=data)(f)
    return dims_option(f)


def _accuracy(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> Any:
    from ..strategy.budget import Budget

    if not value:
        return None
    try:
        return Budget.parse(",".join(value))
    except ValueError as e:
        raise click.BadParameter(str(e)) from e


def quantize_options(f: F) -> F:
    """What -O3 may round, and how far that may move the outputs."""
    bounds = "How far outputs may move: cosine>=0.995, top1>=0.99, or both with a comma [default: 0.99 each, none with --metric]."
    what = "Round layers to these; auto: what is measured to be fastest within --accuracy. On the CPU fp16 does nothing."
    keep = "Round no layer whose node, weight or module matches; * and ? stand for anything. May be repeated."
    ranges = "Ranges of activations: read from FILE where it exists, else written there by calibration on --data."
    f = click.option("--ranges", metavar="FILE", help=ranges)(f)
    methods = click.Choice(["minmax", "percentile", "entropy", "mse"])
    how = "How the range of an activation is chosen from what --data shows."
    f = click.option("--calibration", type=methods, default="minmax", show_default=True, help=how)(f)
    f = click.option("--keep-float", multiple=True, metavar="PATTERN", help=keep)(f)
    kinds = click.Choice(["auto", "int8", "int4", "fp16", "none"])
    f = click.option("--quantize", type=kinds, default="auto", show_default=True, help=what)(f)
    return click.option("--accuracy", "budget", multiple=True, callback=_accuracy, metavar="BOUNDS", help=bounds)(f)


def workers_option(f: F) -> F:
    text = "Models compiled side by side, each in a process. What is measured is measured alone, so timings stay true."
    return click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help=text)(f)


def no_cache_option(f: F) -> F:
    text = "Compile and measure again what the cache has an answer for; the new answer takes its place."
    return click.option("--no-cache", is_flag=True, help=text)(f)


def report_options(f: F) -> F:
    """Further forms of the report."""
    f = click.option("--markdown", type=click.Path(), metavar="FILE", help="Write the report as markdown, short.")(f)
    return click.option("--html", type=click.Path(), metavar="FILE", help="Write the report as one HTML file.")(f)


def report_files(
    html: str | None, markdown: str | None = None, provenance: str | None = None, bom: str | None = None
) -> dict[str, Callable[[Any], str]]:
    """The files asked for, each with what makes its text of a ``Report``.

    Raises:
        BadInput: a package that one of them needs is not installed.
        OutputError: two are the same file.
    """
    import importlib

    from ..errors import OutputError

    found: dict[str, Callable[[Any], str]] = {}
    for path, form in ((html, "html"), (markdown, "markdown"), (provenance, "provenance"), (bom, "bom")):
        if path is None:
            continue
        if path in found:
            raise OutputError("two of the files would be the same", where=path, hint="give each another name")
        found[path] = getattr(importlib.import_module(f"..report.{form}", __package__), form)
    return found


def _drop(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    from ..evaluation.metrics import Drop

    if value is None:
        return None
    try:
        return Drop.parse(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is neither a number from 0, as in 0.5, nor a percentage, as in 1%") from error


def metric_options(f: F) -> F:
    """How well a model does its task."""
    what = "Measure the task on --data: top1, token-agreement, perplexity, cosine, ... or module:function. May be repeated."
    most = "How much worse than the source's a metric may be: 0.5, or 1% of the source's value"
    f = click.option("--max-drop", callback=_drop, metavar="DROP", help=f"{most} [default: 1%; olc evaluate: any].")(f)
    return click.option("--metric", "metrics", multiple=True, metavar="METRIC", help=what)(f)


def check_metrics(options: dict[str, Any]) -> None:
    """Raise where a drop is bounded of which there is no metric."""
    if options["max_drop"] is not None and not options["metrics"]:
        raise click.UsageError("--max-drop is about a metric: give --metric too")


def frozen(options: dict[str, Any], **others: Any) -> Any:
    """``Settings`` from a command's options, those that it has."""
    from ..settings import Settings

    values = {k: v for k, v in {**options, **others}.items() if k != "max_drop" or v is not None}
    check_metrics(options)
    known = {f.name for f in fields(Settings)}
    return Settings(**{k: v for k, v in values.items() if k in known})


def tell(text: str, err: bool = False) -> None:
    """Print lines about a model; what its names hold is shown, not obeyed."""
    from .. import plain

    for line in text.split("\n"):
        click.echo(plain.line(line), err=err)


class _Seconds(click.ParamType):  # type: ignore[type-arg]
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from ..settings import duration

        try:
            return value if isinstance(value, float) else duration(value)
        except ValueError as e:
            self.fail(str(e), param, ctx)


def tune_time_option(f: F) -> F:
    text = "Wall time for the search of -O3: 90s, 5m, 1h [default: 120s, and up to 10m where a run takes seconds]."
    return click.option("--tune-time", type=_Seconds(), help=text)(f)


@contextlib.contextmanager
def progress(quiet: bool, seconds: float | None = None) -> Iterator[Callable[[str], None]]:
    """A function that shows what is being done, on standard error; where that is a terminal as a line for each model.

    Args:
        seconds: wall time that a search may take, for a bar of it.
    """
    from .. import plain

    if quiet:
        yield lambda text: None
        return
    if not sys.stderr.isatty():
        yield lambda text: click.echo(f"  {plain.line(text)}", err=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    bar = [BarColumn(20)] if seconds is not None else []
    columns = (SpinnerColumn(), *bar, TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        tasks: dict[str, Any] = {}

        def say(text: str) -> None:
            # What is said of one of several models begins with its number.
            which = text.partition("]")[0] if text.startswith("[") else ""
            task = tasks.setdefault(which, None)
            if task is None:
                task = tasks[which] = shown.add_task("", total=seconds)
            elapsed = shown.tasks[shown.task_ids.index(task)].elapsed or 0.0
            done = min(elapsed, seconds) if seconds is not None else None
            shown.update(task, description=plain.line(text), completed=done)

        yield say


@contextlib.contextmanager
def blaming_the_source(path: str) -> Iterator[None]:
    """What is wrong as soon as all types are known, before any rewrite, is bad input. Looked at after a failure only."""
    from .. import frontend, verifier
    from ..analysis import shapes
    from ..errors import BadInput, VerificationFailed

    try:
        yield
    except VerificationFailed as e:
        source = frontend.load(path)
        shapes.infer(source)
        problems = verifier.verify(source)
        if not problems:
            raise
        first = problems[0]
        raise BadInput(first.what, where=f"{path}: {first.where}" if first.where else path, hint=first.hint) from e
