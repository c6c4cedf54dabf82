"""``olc.compile``: from a source to a checked, measured artifact with its report."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import cache, storage
from .errors import BadInput, OlcError, OutputError, Unsupported
from .files import refuse_overwriting, scratch, write_text
from .job import Job
from .report import Report
from .session import UNOPENED, sidecar
from .settings import Settings
from .strategy.plan import Plan
from .strategy.search import Trial


def compile(
    source: Any,
    output: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    say: Callable[[str], None] = lambda text: None,
    others: Mapping[str, Callable[[Report], str]] | None = None,
    **options: Any,
) -> Report:
    """Compile ``source`` (anything that a frontend takes) and write the artifact and its ``.olc.json``.

    ``options`` are fields of ``Settings``. ``say`` gets a line on each thing that is being done. ``others``: further files
    to write, path to what makes its text of the report.
    Nothing is written unless everything succeeded.

    Raises:
        OlcError: bad input, unsupported, verification failed, over budget or not writable.
    """
    chosen = replace(settings if settings is not None else Settings(), **options)
    out = Path(output)
    read = sources(source)
    check_output(read, out)
    others = others or {}
    _check_others(read, out, others)
    folder = scratch(out.parent)
    try:
        kept = cache.entry(source, out, chosen) if chosen.cache != "off" else None
        report = kept.read(folder / out.name) if kept is not None and chosen.cache == "on" else None
        if report is None:
            job = Job(source, out, chosen, folder, say)
            with _blaming_the_source(job):
                report = job.run()
            write_text(sidecar(folder / out.name), report.dumps())
            why_not = kept.write(_finished(folder)) if kept is not None else None
            report.notes += [why_not] if why_not is not None else []
        texts = {path: make(report) for path, make in others.items()}
        _publish(folder, out)
        for path, text in texts.items():
            write_text(path, text)
        return report
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def plan(
    source: Any, settings: Settings | None = None, *, say: Callable[[str], None] = lambda text: None
) -> tuple[Plan, list[Trial]]:
    """What ``compile`` would do at -O3, with the comparisons that it rests on; writes nothing."""
    chosen = replace(settings if settings is not None else Settings(), level=3)
    with tempfile.TemporaryDirectory(prefix="olc-plan-") as folder:
        job = Job(source, Path(folder) / "model.onnx", chosen, Path(folder), say)
        with _blaming_the_source(job):
            job.load()
            found = job.search()
        return found, job.trials


@contextlib.contextmanager
def _blaming_the_source(job: Job) -> Iterator[None]:
    """A source that the runtime does not open as it stands is bad input, also where what was made of it failed first."""
    try:
        yield
    except OlcError as e:
        cause = e if type(e) is OlcError else e.__cause__
        if isinstance(e, Unsupported) or type(cause) is not OlcError or cause.where != str(getattr(job, "path", None)):
            raise
        if cause.what.startswith(UNOPENED):
            hint = "the file is wrong as it is: export it again, at a newer opset say"
            if cause.hint:  # the runtime lacks an operator; of what olc made in its place nobody can say that it is the same
                hint = "-O1 and -O2 with --no-evaluate replace what the runtime lacks, where they can, and compare nothing"
            raise BadInput(f"the source {cause.what}", where=cause.where, hint=hint) from e
        raise


def check_output(read: Iterable[Path], out: Path) -> None:
    """Before anything is done: the output can be written, and is none of the files that are read.

    Raises:
        OutputError: says which of these does not hold.
    """
    parent = out.parent
    if not parent.is_dir():
        raise OutputError("the output folder does not exist", where=str(parent), hint="create it, or change --output")
    if out.is_dir():
        raise OutputError("the output is a folder", where=str(out), hint="give a file name to --output")
    if not os.access(parent, os.W_OK):
        raise OutputError("no permission to write in the folder", where=str(parent), hint="choose another --output")
    refuse_overwriting((out, sidecar(out), storage.data_name(str(out))), read)


def sources(source: Any) -> list[Path]:
    """The files of a source: the model and its external data."""
    if not isinstance(source, str | os.PathLike):
        return []
    path, names = Path(source), []
    if path.is_file() and path.suffix in (".onnx", ".pb"):
        with contextlib.suppress(OSError):  # what is wrong with it loading says
            names = storage.external_names(path)
    return [path, *(path.parent / name for name in names)]


def _check_others(read: Iterable[Path], out: Path, others: Iterable[str]) -> None:
    """Before anything is done: the files beside the artifact have places of their own that can be written."""
    taken = {p.resolve() for p in (out, sidecar(out), Path(storage.data_name(str(out))), *read)}
    for name in others:
        path = Path(name)
        if os.path.isdir(path) or not os.access(path.parent, os.W_OK):
            raise OutputError("cannot be written: a folder, or in one that is missing or closed", where=name, hint="give a file")
        if path.resolve() in taken:
            raise OutputError("two of the files would be the same", where=name, hint="give each another name")
        taken.add(path.resolve())


def _finished(folder: Path) -> list[Path]:
    """What a compile has made: the model, its external data and its report. Things in the making lie in folders."""
    return sorted(f for f in folder.iterdir() if f.is_file())


def _publish(folder: Path, out: Path) -> None:
    """Move the finished files into place: data first, then the model, then its report."""
    last = {out.name: 1, sidecar(out).name: 2}
    try:
        for file in sorted(_finished(folder), key=lambda f: last.get(f.name, 0)):
            os.replace(file, out.with_name(file.name))
    except OSError as e:
        raise OutputError(f"the artifact cannot be put in place: {e.strerror}", where=str(out)) from e
