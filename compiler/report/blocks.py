"""What was rewritten, by the modules that the model was exported from; blocks that were rewritten alike are told once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import Report
from .numbers import ranges

_INDEX = re.compile(r"(\D*)(\d{1,9})")
"""A part of a module's path that counts blocks: ``3``, ``layer3``, ``layer_3``."""
_DEPTH = 2
"""Parts of a path that name a block where none counts."""


@dataclass
class Part:
    """One module: operators that are gone and that are new, rules that fired, and each rewrite."""

    name: str
    before: Counter[str] = field(default_factory=Counter)
    after: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    rewrites: list[dict[str, Any]] = field(default_factory=list)

    def done(self) -> Hashable:
        """What was done, wherever it was done: equal for parts that were rewritten alike."""
        return self.name, *(frozenset(c.items()) for c in (self.before, self.after, self.rules))


@dataclass
class Block:
    """One module, or ``count`` of them that were rewritten alike; the numbers are those of one.

    Attributes:
        parts: modules inside it, by their path from it.
    """

    title: str
    count: int
    parts: list[Part]

    @property
    def whole(self) -> Part:
        """All parts together."""
        total = Part(self.title)
        for p in self.parts:
            total.before += p.before
            total.after += p.after
            total.rules += p.rules
            total.rewrites += p.rewrites
        return total


def blocks(report: Report) -> list[Block]:
    """The blocks in the order of their paths, numbers by value; what belongs to no named module comes last."""
    found: dict[str, dict[str, Part]] = {}

    def part(row: Mapping[str, Any]) -> Part:
        block, rest = _split(row.get("module") or "")
        return found.setdefault(block, {}).setdefault(rest, Part(rest))

    for r in report.rewrites:
        p = part(r)
        p.rules[r["rule"]] += 1
        p.rewrites.append(r)
    for n in report.changes.get("removed", []):
        part(n).before[n["op"]] += 1
    for n in report.changes.get("added", []):
        part(n).after[n["op"]] += 1
    ordered = [(path, [found[path][rest] for rest in sorted(found[path], key=_natural)]) for path in sorted(found, key=_natural)]
    alike: dict[Hashable, list[tuple[str, list[Part]]]] = {}
    for path, parts in ordered:
        alike.setdefault((_kind(path), *(p.done() for p in parts)), []).append((path, parts))
    return [Block(_title([path for path, _ in same]), len(same), same[0][1]) for same in alike.values()]


def _split(module: str) -> tuple[str, str]:
    """The path of the block, up to the first part that counts blocks, and the rest."""
    parts = module.split(".") if module else []
    end = next((i + 1 for i, p in enumerate(parts) if _INDEX.fullmatch(p)), _DEPTH)
    return ".".join(parts[:end]), ".".join(parts[end:])


def _kind(path: str) -> str:
    head, _, last = path.rpartition(".")
    index = _INDEX.fullmatch(last)
    return path if index is None else f"{head}.{index[1]}#"


def _title(paths: list[str]) -> str:
    if len(paths) == 1:
        return paths[0]
    stem = re.sub(r"\d+$", "", paths[0])
    return stem + ranges([int(p[len(stem) :]) for p in paths])


def _natural(path: str) -> tuple[bool, list[tuple[bool, int, str]]]:
    """Numbers by value, and no name last."""
    parts = re.split(r"(\d+)", path)
    return path == "", [(p.isdecimal(), int(p) if p.isdecimal() and len(p) < 10 else 0, p) for p in parts]


def told(operators: Mapping[str, int], limit: int = 12) -> str:
    """``{"Add": 2, "com.microsoft.Gelu": 1}`` as "Add 2, Gelu 1", most first."""
    rows = sorted(operators.items(), key=lambda kv: (-kv[1], kv[0]))
    more = [f"{len(rows) - limit} more kinds"] if len(rows) > limit else []
    return ", ".join([*(f"{op.rpartition('.')[2]} {n}" for op, n in rows[:limit]), *more])


def by_rule(rewrites: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Rewrites under the rule that made them, most first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for r in rewrites:
        found.setdefault(r["rule"], []).append(r)
    return dict(sorted(found.items(), key=lambda kv: (-len(kv[1]), kv[0])))
