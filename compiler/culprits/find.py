"""Halving over the numbered rewrites of a compile, and over its passes where no rewrite is at fault.

Rewrite N is at fault where the model with the rewrites up to N - 1 is good and the one with N is bad: both were tried.
Passes run in both, so what goes wrong may be a pass that acts on what the rewrite made; then it is named too.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import storage
from ..errors import BadInput, OlcError, OutputError
from ..files import write_text
from ..passes import Context, Step
from ..pipeline import Result
from ..session import SessionOptions, sidecar
from .judges import Judge, Verdict

LOADING = "loading and saving"
"""In place of a pass, where a model is bad that was only loaded and saved. It may be random."""


@dataclass(frozen=True)
class Limits:
    """What a candidate may not do: fields of ``pipeline.Options``; ``skip`` adds to what the compile skips anyway."""

    stop_after: int | None = None
    halt_after: int | None = None
    skip: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Tried:
    """A candidate's verdict and what its compile did."""

    verdict: Verdict
    ctx: Context


@dataclass(frozen=True)
class Culprit:
    """What turns a good model into a bad one.

    Attributes:
        by, node: rule and place, or pass and the first place that it changed (None: it names none).
        number: of the rewrite; None for a pass.
        kind, why: what is bad: of the ``Verdict`` of the whole compile.
        skip: what to give ``--skip`` to leave it out; None where a pass cannot be.
        alone: leaving that out alone makes the whole good. False: there is another fault, or it cannot be left out.
        through: the pass that goes wrong on what the rewrite made, where the rewrite by itself does not.
        before: what ends the compile right before it.
        between: where the judge could not tell: the last step known good and the first known bad.
    """

    by: str
    node: str | None
    number: int | None
    kind: str
    why: str
    skip: str | None
    alone: bool
    before: Limits
    through: str | None = None
    between: tuple[int, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if k != "before"} | {"text": self.text}

    @property
    def text(self) -> str:
        """The culprit in words."""
        if self.between is not None:
            what = "rewrites" if self.number is not None else "steps"
            return f"one of {what} {self.between[0] + 1} to {self.between[1]}, the last {self.by!r}: the others cannot be told"
        if self.by == LOADING:
            return f"{LOADING}, before any pass; a model that is random differs from itself too"
        at = "" if self.node is None else f" at {self.node!r}"
        if self.number is None:
            return f"pass {self.by!r}{at}"
        wrong = "" if self.through is None else f", on whose result the pass {self.through!r} goes wrong"
        return f"rule {self.by!r}{at} (rewrite {self.number}){wrong}"


@dataclass
class Trials:
    """Compiles candidates and judges them, each once.

    Attributes:
        build: compiles the source anew within the limits, into this context.
        options: session options that are left beside a candidate, for whatever opens it.
        compiles: how many were made.
    """

    build: Callable[[Limits, Context], Result]
    context: Callable[[], Context]
    judge: Judge
    folder: Path
    options: SessionOptions = field(default_factory=SessionOptions)
    compiles: int = 0
    known: dict[Limits, Tried] = field(default_factory=dict)

    def __call__(self, limits: Limits) -> Tried:
        if limits not in self.known:
            self.known[limits] = self._try(limits)
        return self.known[limits]

    def _try(self, limits: Limits) -> Tried:
        self.compiles += 1
        ctx = self.context()
        place = self.folder / f"candidate{self.compiles}"
        place.mkdir(parents=True)
        try:
            try:
                storage.save(self.build(limits, ctx).model, place / "model.onnx")
            except (BadInput, OutputError, MemoryError):
                raise
            except Exception as e:  # a pass that trips over what a rewrite left is a finding too
                why = e.what if isinstance(e, OlcError) else f"{type(e).__name__}: {e}"
                return Tried(Verdict(False, "fails", f"the compile fails: {why}"), ctx)
            recorded = {"session_options": self.options.to_dict()}
            write_text(sidecar(place / "model.onnx"), json.dumps(recorded))
            return Tried(self.judge(place / "model.onnx"), ctx)
        finally:
            shutil.rmtree(place, ignore_errors=True)


def find(trials: Trials, say: Callable[[str], None] = lambda text: None) -> Culprit | None:
    """The first step that makes the compile bad, or None where the compile is good.

    Raises:
        BadInput: the judge cannot tell of the compile as a whole.
    """
    whole = trials(Limits())
    if whole.verdict.good is None:
        raise BadInput(f"it cannot be told whether the compiled model is good: {whole.verdict.why}", where="--check")
    return None if whole.verdict.good else _Search(trials, whole, say).run()


class _Search:
    def __init__(self, trials: Trials, whole: Tried, say: Callable[[str], None]) -> None:
        self.trials, self.whole, self.say = trials, whole, say

    def good(self, **limits: Any) -> bool | None:
        """None where it cannot be told: what is looked for does not show, because something else is wrong."""
        found = self.trials(Limits(**limits)).verdict
        wanted = self.whole.verdict.kind
        if found.good is not False or found.kind == wanted:
            return found.good
        return True if wanted == "fails" else None

    def run(self) -> Culprit:
        rewrites = [s for s in self.whole.ctx.steps if s.number is not None]
        self.say(f"trying without any of the {len(rewrites)} rewrites")
        bare = self.good(stop_after=0)
        if bare is False:
            return self.step({"stop_after": 0})
        if bare is None or not rewrites:
            return self.step({})
        low, high = self.halve(0, len(rewrites), lambda n: self.good(stop_after=rewrites[n - 1].number), "rewrites")
        return self.rewrite(rewrites[high - 1], None if high - low == 1 else (low, high))

    def halve(self, low: int, high: int, good: Callable[[int], bool | None], what: str) -> tuple[int, int]:
        """(last known good, first known bad), next to each other unless it cannot be told of those between."""
        while high - low > 1:
            self.say(f"{high - low} {what} are left")
            for at in _near_the_middle(low, high):
                found = good(at)
                if found is not None:
                    break
            else:
                return low, high
            low, high = (at, high) if found else (low, at)
        return low, high

    def rewrite(self, at: Step, between: tuple[int, int] | None) -> Culprit:
        assert at.number is not None
        event = self.whole.ctx.events[at.event]
        steps = self.trials(Limits(stop_after=at.number)).ctx.steps
        place = next(i for i, s in enumerate(steps, 1) if s.number == at.number)
        skip = f"{event.by}@{event.site}"
        self.say(f"trying without {skip}")
        alone = self.good(skip=frozenset({skip})) is True
        found = Culprit(event.by, event.site, at.number, self.whole.verdict.kind, self.whole.verdict.why, skip, alone,
                        Limits(at.number, place - 1), between=between)  # fmt: skip
        # A model in the middle of a compile is slow for reasons of its own.
        if between is None and found.kind != "slower" and self.good(stop_after=at.number, halt_after=place) is True:
            _, high = self.halve_steps({"stop_after": at.number}, place)
            found = replace(found, through=steps[high - 1].by)
        return found

    def halve_steps(self, limits: dict[str, Any], low: int) -> tuple[int, int]:
        """``halve`` for the steps of a compile within the limits, of which the first ``low`` are good."""
        steps = self.trials(Limits(**limits)).ctx.steps
        return self.halve(low, len(steps), lambda n: self.good(**limits, halt_after=n), "steps")

    def step(self, limits: dict[str, Any]) -> Culprit:
        """The step at fault in a compile within the limits."""
        ctx = self.trials(Limits(**limits)).ctx
        verdict = self.whole.verdict
        if not ctx.steps or self.good(**limits, halt_after=0) is False:
            return Culprit(LOADING, None, None, verdict.kind, verdict.why, None, False, Limits(halt_after=0))
        low, high = self.halve_steps(limits, 0)
        step = ctx.steps[high - 1]
        following = ctx.steps[high].event if high < len(ctx.steps) else len(ctx.events)
        sites = [e.site for e in ctx.events[step.event:following]]
        node = sites[0] if sites else None
        skip = f"{step.by}@{node}" if step.number is not None or (step.by == "fold" and len(sites) == 1) else step.by
        alone = self.good(skip=frozenset({skip})) is True
        return Culprit(step.by, node, step.number, verdict.kind, verdict.why, skip if alone or step.number else None, alone,
                       Limits(**limits, halt_after=high - 1), between=None if high - low == 1 else (low, high))  # fmt: skip


def _near_the_middle(low: int, high: int) -> Iterator[int]:
    """The middle, places ever farther from it, and the ends; few, for what cannot be told mostly lies together."""
    middle = (low + high) // 2
    yield middle
    distance = 1
    while distance < high - low:
        yield from (x for x in (middle - distance, middle + distance) if low < x < high)
        distance *= 2
    yield from (low + 1, high - 1)
