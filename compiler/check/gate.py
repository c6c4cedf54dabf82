"""Running the check: every job is compiled and judged, whatever becomes of the others."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from .. import batch, frontend, ir
from ..errors import OlcError, Unsupported
from ..report import Report
from . import baseline as records
from .budgets import CODES, MEASURED, SEVERAL, UNJUDGED, Verdict, judge, unsupported
from .config import Config, Job


@dataclass
class Outcome:
    """What became of one job: a report and verdicts, or the error that kept it from both."""

    job: Job
    report: Report | None = None
    error: OlcError | None = None
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def record(self) -> dict[str, Any] | None:
        """What a baseline keeps of it."""
        return None if self.report is None else records.record(self.report)

    @property
    def failed(self) -> list[Verdict]:
        return [v for v in self.verdicts if v.ok is False]

    @property
    def unjudged(self) -> list[Verdict]:
        return [v for v in self.verdicts if v.ok is None]

    @property
    def word(self) -> str:
        """How it stands, in a word or two."""
        if self.failed:
            return "over budget"
        if self.unjudged:
            return "not judged"
        return "failed" if self.error is not None and not self.verdicts else "passed"

    @property
    def codes(self) -> set[int]:
        """The exit code of each thing that is wrong."""
        found = {CODES[v.kind] for v in self.failed}
        without_kernel = isinstance(self.error, Unsupported)
        if self.error is not None and not without_kernel:
            found.add(self.error.exit_code)
        if self.unjudged and not (without_kernel and self.failed):  # there the missing kernel says it all
            found.add(UNJUDGED)
        return found


@dataclass
class Result:
    """The whole check."""

    config: Config
    outcomes: list[Outcome]

    @property
    def code(self) -> int:
        """0, the code of the only kind of failure, ``SEVERAL`` for budgets of several kinds, else ``UNJUDGED``."""
        codes = set().union(*(o.codes for o in self.outcomes))
        if len(codes) <= 1:
            return min(codes, default=0)
        return SEVERAL if codes <= set(CODES.values()) else UNJUDGED

    def to_dict(self) -> dict[str, Any]:
        return {"schema": 1, "code": self.code, "results": [_outcome(o) for o in self.outcomes]}


def _outcome(o: Outcome) -> dict[str, Any]:
    e = o.error
    error = None if e is None else {"kind": e.kind, "what": e.what, "where": e.where, "hint": e.hint}
    return {
        "name": o.job.name, "model": o.job.model, "level": o.job.settings.level, "target": o.job.settings.target,
        "outcome": o.word, "codes": sorted(o.codes), "error": error, "verdicts": [v.to_dict() for v in o.verdicts],
        "costs": o.record,
        "fusions": [] if o.report is None else o.report.fusions, "notes": [] if o.report is None else o.report.notes,
    }  # fmt: skip


def check(
    config: Config, *, workers: int = 1, cache: str = "off", update: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Result:  # fmt: skip
    """Compile and judge every job.

    Args:
        workers: processes that compile side by side.
        cache: as in ``Settings``. What was measured and failed is measured again, not taken from the cache.
        update: record what is found as the baseline, and judge against that.

    Raises:
        BadInput: the baseline is malformed.
        OutputError: the baseline cannot be written.
    """
    known = records.read(config.baseline)
    outcomes = [Outcome(job) for job in config.jobs]
    with tempfile.TemporaryDirectory(prefix="olc-check-") as folder:
        units = [_unit(o.job, Path(folder) / str(i), cache, update) for i, o in enumerate(outcomes)]
        new = _round(outcomes, units, known, update, workers, say)
        again = [o for o in outcomes if o.report is not None and o.report.cached
                 and any(v.kind in MEASURED for v in (*o.failed, *o.unjudged))]  # fmt: skip
        if again:
            units = [_unit(o.job, Path(folder) / f"again{i}", "renew", update) for i, o in enumerate(again)]
            new |= _round(again, units, known, update, workers, say)
    if update:
        kept = {**known, **new}
        records.write(config.baseline, {o.job.name: kept[o.job.name] for o in outcomes if o.job.name in kept})
    return Result(config, outcomes)


def _unit(job: Job, folder: Path, cache: str, update: bool) -> batch.Unit:
    folder.mkdir()
    # A baseline is what was measured now, not in a minute that the cache remembers.
    cache = "renew" if update and cache == "on" else cache
    settings = replace(job.settings, cache=cache, measure=job.settings.measure or update)
    return batch.Unit(str(job.path), str(folder / f"{job.path.stem}.olc.onnx"), settings)


def _round(
    outcomes: Sequence[Outcome], units: Sequence[batch.Unit], known: dict[str, dict[str, Any]], update: bool, workers: int,
    say: Callable[[str], None],
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Compile the units and fill in their outcomes; records for the baseline, by name."""
    new = {}
    for number, found in batch.run(units, workers, say):
        o, artifact = outcomes[number], Path(units[number].output)
        if isinstance(found, OlcError):
            o.error = found
            o.verdicts = unsupported(found, o.job.budgets) if isinstance(found, Unsupported) else []
        else:
            o.report = found
            new[o.job.name] = records.record(found)
            old = (new if update else known).get(o.job.name)
            made: Callable[[], ir.Model] = partial(frontend.load, str(artifact))
            o.verdicts = judge(found, made, o.job.budgets, old, o.job.settings.level)
        shutil.rmtree(artifact.parent)  # many large models need not lie there side by side
    return new
