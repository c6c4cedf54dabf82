"""Passes: one file each, ``run(model, ctx) -> int`` changes. The order in which they run is in ``pipeline.py``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """One thing that a pass or rule did. ``number`` is set for rule rewrites, which are numbered from 1."""

    by: str
    site: str
    detail: str = ""
    number: int | None = None


@dataclass
class Context:
    """What a pass may read and where it reports.

    Attributes:
        target: the target compiled for (``targets.Target``), or None for target-free cleaning.
        fold_bytes: largest output in bytes that constant folding may create, where it exceeds its inputs' size.
        fold_total: total bytes that folding may add to the model.
        skip: rule or pass names, ``name`` or ``name@node``, that must not act.
    """

    target: Any = None
    fold_bytes: int = 1 << 20
    fold_total: int = 64 << 20
    skip: frozenset[str] = frozenset()
    events: list[Event] = field(default_factory=list)

    def record(self, by: str, site: str | None, detail: str = "", number: int | None = None) -> None:
        """Note that ``by`` changed the node or value called ``site``."""
        self.events.append(Event(by, site or "?", detail, number))
