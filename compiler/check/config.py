"""``olc.toml``: which models are compiled, how, and what they may cost. docs/ci.md shows every key."""

from __future__ import annotations

import glob
import math
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from .. import targets
from ..assumptions import ASSUMPTIONS
from ..errors import BadInput
from ..fusions import KINDS as FUSIONS
from ..settings import Settings, duration
from ..strategy.budget import Budget

NAME = "olc.toml"


@dataclass(frozen=True)
class Bounds:
    """Upper bounds on one cost; None where there is none.

    Attributes:
        source: on the artifact's cost over the source's.
        baseline: on that ratio over the ratio in the baseline; for size, on the bytes over the baseline's.
        absolute: in seconds or bytes.
    """

    source: float | None = None
    baseline: float | None = None
    absolute: float | None = None


@dataclass(frozen=True)
class Budgets:
    """What one model may cost and must keep to; None where that is not asked.

    Attributes:
        unsupported: how many parts the target may lack a kernel for.
        fusions: kind of block to how many must have fused, or "all"; under "" what holds for every kind.
        operators: allowed in the artifact, as ``Name`` or ``domain::Name``; ``domains`` the same for domains.
        opset: lowest and highest version of the standard domain that the artifact may import.
    """

    latency: Bounds | None = None
    size: Bounds | None = None
    memory: Bounds | None = None
    load: Bounds | None = None
    accuracy: Budget | None = None
    unsupported: int = 0
    fusions: Mapping[str, int | str] | None = None
    operators: frozenset[str] | None = None
    domains: frozenset[str] | None = None
    opset: tuple[int, int] | None = None


@dataclass(frozen=True)
class Job:
    """One model at one level for one target.

    Attributes:
        model: the path as it is shown, from the folder of ``olc.toml``, with ``/``.
    """

    model: str
    path: Path
    settings: Settings
    budgets: Budgets

    @property
    def name(self) -> str:
        """What the baseline and every output call it."""
        return f"{self.model} -O{self.settings.level} {self.settings.target}"


@dataclass(frozen=True)
class Config:
    """What ``olc.toml`` says."""

    file: Path
    baseline: Path
    jobs: tuple[Job, ...]


def read(path: str | os.PathLike[str]) -> Config:
    """The configuration in a file.

    Raises:
        BadInput: there is none, it is not TOML, or an entry is unknown, mistyped or out of range; names the entry.
    """
    file = Path(path)
    try:
        text = file.read_bytes().decode("utf-8")
    except OSError as e:
        hint = "olc check --init writes one with the models that it finds" if isinstance(e, FileNotFoundError) else None
        raise BadInput(f"cannot be read: {e.strerror or e}", where=str(path), hint=hint) from e
    except UnicodeDecodeError as e:
        raise BadInput(f"is not UTF-8: {e.reason} at byte {e.start}", where=str(path)) from e
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as e:
        what = "nested too deeply" if isinstance(e, RecursionError) else e
        raise BadInput(f"is not TOML: {what}", where=str(path)) from e
    return _Reader(str(path), file.parent).config(data)


# ---------------------------------------------------------------------------------------------------- kinds of values

Check = Callable[[Any], Any]
"""Gives the value in olc's own form, or raises ValueError with what it should have been."""


class _Mistyped(ValueError):
    """Says what a value should have been."""


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise _Mistyped("a text")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Mistyped("true or false")
    return value


def _count(low: int, high: int | None = None) -> Check:
    def check(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < low or value > (high or 2**62):
            raise _Mistyped(f"a whole number from {low}" + ("" if high is None else f" to {high}"))
        return value

    return check


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e300 or not math.isfinite(value):
        raise _Mistyped("a number above 0")
    return float(value)


def _one_of(names: Callable[[], Sequence[str]]) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in names():
            raise _Mistyped(f"one of {', '.join(names())}")
        return value

    return check


def _list_of(item: Check, least: int = 0) -> Check:
    def check(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) < least:
            raise _Mistyped("a list" if not least else f"a list of at least {least}")
        try:
            return tuple(item(v) for v in value)
        except ValueError as e:
            raise _Mistyped(f"a list, each of {e}") from e

    return check


def _table_of(item: Check, keys: Callable[[], Sequence[str]] | None = None) -> Check:
    def check(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _Mistyped("a table" if keys is None else f"a table of {', '.join(keys())}")
        for key in value:
            if keys is not None and key not in keys():
                raise _Mistyped(f"a table of {', '.join(keys())}, not of {key!r}")
        try:
            return {k: item(v) for k, v in value.items()}
        except ValueError as e:
            raise _Mistyped(f"a table, each of {e}") from e

    return check


def _bounds(unit: str, scale: float) -> Check:
    def check(value: Any) -> Bounds:
        found = _table_of(_number, lambda: ("source", "baseline", unit))(value)
        absolute = found.pop(unit, None)
        if not value:
            raise _Mistyped(f"a table of source, baseline, {unit}, with one of them at least")
        return Bounds(**found, absolute=None if absolute is None else absolute * scale)

    return check


def _seconds(value: Any) -> float:
    try:
        return duration(value) if isinstance(value, str) else _number(value)
    except ValueError as e:
        raise _Mistyped("a number of seconds, or a duration as in '5m'") from e


def _fusions(value: Any) -> dict[str, int | str]:
    if value == "all":
        return {"": "all"}

    def least(item: Any) -> Any:
        try:
            return item if item == "all" else _count(0)(item)
        except ValueError as e:
            raise _Mistyped(f'"all" or {e}') from e

    if not isinstance(value, dict):
        raise _Mistyped(f'"all", or a table of {", ".join(FUSIONS)}')
    if not value:
        raise _Mistyped(f'"all", or a table of {", ".join(FUSIONS)}, with one of them at least')
    return _table_of(least, lambda: FUSIONS)(value)


def _operators(value: Any) -> frozenset[str]:
    return frozenset(name.removeprefix("ai.onnx::") for name in _list_of(_text)(value))


def _domains(value: Any) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise _Mistyped('a list of texts; "ai.onnx" is the standard\'s')
    return frozenset("" if name == "ai.onnx" else name for name in value)


def _range(value: Any) -> tuple[int, int]:
    found = _list_of(_count(1))(value)
    if len(found) != 2 or found[0] > found[1]:
        raise _Mistyped("a list of two: the lowest and the highest version")
    return found[0], found[1]


def _strict(value: Any) -> tuple[str, ...]:
    found: tuple[str, ...] = _list_of(_one_of(lambda: ("all", *ASSUMPTIONS)))(value)
    return tuple(ASSUMPTIONS) if "all" in found else found


_BUDGET: dict[str, Check] = {
    "latency": _bounds("ms", 1e-3),
    "size": _bounds("mb", 1e6),
    "memory": _bounds("mb", 1e6),
    "load": _bounds("ms", 1e-3),
    "accuracy": lambda v: Budget.parse(_text(v)),
    "unsupported": _count(0),
    "fusions": _fusions,
    "operators": _operators,
    "domains": _domains,
    "opset": _range,
}

_OPTIONS: dict[str, Check] = {
    "targets": _list_of(_one_of(targets.names), 1),
    "levels": _list_of(_count(0, 3), 1),
    "data": _text,
    "dims": _table_of(_count(1)),
    "samples": _count(1),
    "threads": _count(1),
    "machine": _text,
    "seed": _count(0),
    "quantize": _one_of(lambda: ("auto", "int8", "int4", "fp16", "none")),
    "keep_float": _list_of(_text),
    "exact": _flag,
    "calibration": _one_of(lambda: ("minmax", "percentile", "entropy", "mse")),
    "rules": _list_of(_text),
    "skip": _list_of(_text),
    "strict": _strict,
    "shared_cache": _flag,
    "int8_cache": _flag,
    "tune_time": _seconds,
    "budget": lambda v: v,
}

_MODEL: dict[str, Check] = {"path": _text, "exclude": _list_of(_text), **_OPTIONS}
_PLAIN = ("data", "dims", "samples", "threads", "seed", "quantize", "keep_float", "exact", "calibration", "shared_cache",
          "int8_cache")  # fmt: skip
"""Options whose names and values are those of ``Settings``."""


# ----------------------------------------------------------------------------------------------------------- the file


def baseline_of(config: str) -> str:
    """``olc.toml`` -> ``olc.baseline.json``: two configurations in one folder have a baseline each."""
    return f"{Path(config).stem}.baseline.json"


@dataclass
class _Reader:
    where: str
    folder: Path
    seen: dict[str, str] = field(default_factory=dict)

    def config(self, data: dict[str, Any]) -> Config:
        self.known(data, ("baseline", "defaults", "models"), "the file")
        entries = data.get("models")
        if not isinstance(entries, list) or not entries:
            self.fail("[[models]] names no model", "add a [[models]] entry with a path")
        baseline = self.value(data, "baseline", _text, "the file") if "baseline" in data else baseline_of(self.where)
        defaults = self.table(data.get("defaults", {}), _OPTIONS, "[defaults]")
        shared = self.budget(defaults.pop("budget", {}), "[defaults.budget]")
        jobs: list[Job] = []
        for number, entry in enumerate(entries, 1):
            place = f"[[models]] {number}"
            own = self.table(entry, _MODEL, place)
            if "path" not in own:
                self.fail(f"{place} has no path", "give the file, or a pattern with * and ?")
            budget = {**shared, **self.budget(own.pop("budget", {}), f"{place}, budget")}
            for file in self.files(own["path"], own.get("exclude", ())):
                jobs += self.jobs(file, {**defaults, **own}, budget, place)
        return Config(Path(self.where), self.folder / baseline, tuple(jobs))

    def files(self, pattern: str, exclude: Sequence[str]) -> list[Path]:
        """The files that are meant; where there are none, the pattern itself, which then fails as a file that is missing."""
        if not glob.has_magic(pattern) or (self.folder / pattern).exists():
            return [self.folder / pattern]
        root = str(self.folder)
        left_out = {os.path.normpath(p) for e in exclude for p in [e, *glob.glob(e, root_dir=root, recursive=True)]}
        found = sorted(glob.glob(pattern, root_dir=root, recursive=True))
        files = [self.folder / p for p in found if os.path.normpath(p) not in left_out and (self.folder / p).is_file()]
        return files or [self.folder / pattern]

    def jobs(self, file: Path, options: dict[str, Any], budget: dict[str, Any], place: str) -> list[Job]:
        other = self.seen.setdefault(os.path.abspath(file), place)
        if other != place:
            self.fail(f"{place} names {str(file)!r}, as {other} does", "leave it out of one with exclude = [...]")
        budgets = Budgets(**{k: v for k, v in budget.items() if v is not False})
        levels = options.get("levels", (2,))
        if budgets.fusions is not None and max(levels) < 2:
            self.fail(f"{place} expects fusions, which are made from level 2 on", "add 2 to its levels, or set fusions = false")
        costs = (budgets.latency, budgets.memory, budgets.load)
        settings = Settings(
            **{k: options[k] for k in _PLAIN if k in options},
            machine=str(self.folder / options["machine"]) if "machine" in options else None,
            rules=[str(self.folder / r) for r in options.get("rules", ())],
            skip=frozenset(options.get("skip", ())),
            unassumed=frozenset(options.get("strict", ())),
            seconds=options.get("tune_time", Settings.seconds),
            budget=budgets.accuracy if budgets.accuracy is not None else Budget(),
            measure=any(c is not None for c in costs),
        )
        if settings.data is not None and (self.folder / settings.data).exists():
            settings = replace(settings, data=str(self.folder / settings.data))
        # A name that is no text (bytes of another encoding) is shown as near as text can be.
        shown = os.path.relpath(file, self.folder).replace(os.sep, "/").encode("utf-8", "replace").decode()
        return [
            Job(shown, file, replace(settings, level=level, target=target), budgets)
            for target in dict.fromkeys(options.get("targets", ("onnxruntime-cpu",)))
            for level in dict.fromkeys(levels)
        ]

    def budget(self, data: Any, place: str) -> dict[str, Any]:
        """``false`` lifts what [defaults.budget] sets."""
        self.is_table(data, place)
        self.known(data, tuple(_BUDGET), place)
        return {k: False if v is False else self.value(data, k, _BUDGET[k], place) for k, v in data.items()}

    def table(self, data: Any, checks: Mapping[str, Check], place: str) -> dict[str, Any]:
        self.is_table(data, place)
        self.known(data, tuple(checks), place)
        return {k: self.value(data, k, checks[k], place) for k in data}

    def value(self, data: dict[str, Any], key: str, check: Check, place: str) -> Any:
        try:
            return check(data[key])
        except ValueError as e:
            shown = repr(data[key])
            shown = shown if len(shown) <= 60 else f"{shown[:60]}…"
            self.fail(f"{place}: {key!r} is {shown}", f"it should be: {e}")

    def is_table(self, data: Any, place: str) -> None:
        if not isinstance(data, dict):
            self.fail(f"{place} is not a table", "write it as docs/ci.md shows")

    def known(self, data: dict[str, Any], allowed: Sequence[str], place: str) -> None:
        unknown = [k for k in data if k not in allowed]
        if unknown:
            self.fail(f"{place} has an unknown key {unknown[0]!r}", f"allowed are {', '.join(allowed)}")

    def fail(self, what: str, hint: str) -> NoReturn:
        raise BadInput(what, where=self.where, hint=hint)
