"""Passes: one file each, ``run(model, ctx) -> int`` changes. The order in which they run is in ``pipeline.py``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """One thing that a pass or rule did. ``number`` is set for rule rewrites, which are numbered from 1.

    ``module``: the module that the node was exported from, "" where that is not known.
    """

    by: str
    site: str
    detail: str = ""
    number: int | None = None
    module: str = ""


@dataclass(frozen=True)
class Step:
    """One rewrite, or one run of a pass that changed something; its events begin at ``event`` of the context's."""

    by: str
    event: int
    number: int | None = None


@dataclass
class Context:
    """What a pass may read and where it reports.

    Attributes:
        target: the target compiled for (``targets.Target``), or None for target-free cleaning.
        fold_bytes: largest output in bytes that constant folding may create, where it exceeds its inputs' size.
        fold_total: total bytes that folding may add to the model.
        skip: rule or pass names, ``name`` or (of a rule or of fold) ``name@node``, that must not act.
        unassumed: names of assumptions (``assumptions.py``) that no rewrite may rely on.
        threads: how many a run will have; None for as many as the machine has cores.
        relied: how many rewrites relied on each assumption.
        steps: what the pipeline did, in order, in the steps that ``Options.halt_after`` counts.
    """

    target: Any = None
    fold_bytes: int = 1 << 20
    fold_total: int = 64 << 20
    skip: frozenset[str] = frozenset()
    unassumed: frozenset[str] = frozenset()
    threads: int | None = None
    events: list[Event] = field(default_factory=list)
    relied: Counter[str] = field(default_factory=Counter)
    steps: list[Step] = field(default_factory=list)

    def why_not(self, assumed: Iterable[str]) -> str | None:
        """Why a rewrite that rests on these assumptions may not happen, or None where it may."""
        barred = sorted(self.unassumed.intersection(assumed))
        return f"it would assume {barred[0]}, which --strict forbids" if barred else None

    def record(self, by: str, site: str | None, detail: str = "", number: int | None = None, module: str = "") -> None:
        """Note that ``by`` changed the node or value called ``site``."""
        self.events.append(Event(by, site or "?", detail, number, module))
