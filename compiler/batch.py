"""Compiling several models: one unit of work after the other, or in processes side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .driver import Settings, compile
from .errors import OlcError
from .report import Report

Say = Callable[[str], None]


@dataclass(frozen=True)
class Unit:
    """One compile as a plain value that another process, or another machine, can carry out."""

    source: str
    output: str
    settings: Settings


def run(units: Sequence[Unit], workers: int = 1, say: Say = lambda text: None) -> Iterator[tuple[int, Report | OlcError]]:
    """The number of each unit with its report or what went wrong, as they are done: one that fails stops no other."""
    for number, unit in enumerate(units):
        yield number, _one(unit, _prefixed(say, number, units))


def _prefixed(say: Say, number: int, units: Sequence[Unit]) -> Say:
    head = f"[{number + 1}/{len(units)}] {units[number].source}: " if len(units) > 1 else ""
    return lambda text: say(head + text)


def _one(unit: Unit, say: Say) -> Report | OlcError:
    try:
        return compile(unit.source, unit.output, unit.settings, say=say)
    except OlcError as e:
        return e
