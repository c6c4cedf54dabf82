"""The plan: what is done, where, why and with how much gain. Text that a person can read, edit and run again."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..pipeline import Few, Options
from ..session import SessionOptions
from ..targets import Target, causal_parts

ROUNDS_NOTHING = frozenset({causal_parts.NAME})
"""What is decided place by place, by measurement, as rounding is, and computes what the float model does."""


@dataclass(frozen=True)
class Choice:
    """Keep or drop something, and why.

    Attributes:
        gain: measured speed with it over speed without it, or None where nothing was measured.
        error: relative squared error of a layer at its own output, or None where that was not estimated.
    """

    keep: bool
    why: str
    gain: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class Body:
    """A second body, for runs in which the input ``name`` has at most ``most`` elements; the rest as in ``Plan``."""

    name: str
    most: int
    sites: dict[tuple[str, str], Choice] = field(default_factory=dict)
    smooth: dict[str, float] = field(default_factory=dict)

    @property
    def what(self) -> str:
        """When it runs, in words."""
        return f"at most {self.most} elements of {self.name}"


@dataclass(frozen=True)
class Plan:
    """Everything that a compile needs to give the same model again.

    Attributes:
        groups: groups of CLOSE rules. A group that is not named is kept: rules that come later are not shut out.
        sites: (rule, node name) of LOSSY rewrites to what was decided.
        smooth: activations that are smoothed before layers are rounded, name to alpha.
        few: how layers are rounded in a body of its own for few elements, where that is another way.
        rounded: what is learnt from data (``learnt.py``), initializer@form: weights not rounded to the nearest, biases corrected.
        float32: names of nodes that do not compute in float16, whatever becomes of them: their values leave its range.
        notes: facts that the decisions rest on, a sentence each.
    """

    target: str
    level: int
    source: str = ""
    groups: dict[str, Choice] = field(default_factory=dict)
    sites: dict[tuple[str, str], Choice] = field(default_factory=dict)
    smooth: dict[str, float] = field(default_factory=dict)
    few: Body | None = None
    rounded: tuple[str, ...] = ()
    float32: tuple[str, ...] = ()
    session: SessionOptions = field(default_factory=SessionOptions)
    notes: tuple[str, ...] = ()

    def options(self, all_groups: Iterable[str], **others: Any) -> Options:
        """Pipeline options that carry the plan out."""
        dropped = {g for g, c in self.groups.items() if not c.keep}
        few = self.few
        return Options(
            level=self.level,
            groups=frozenset(all_groups) - dropped if dropped else None,
            sites=by_rule(made(self.sites)),
            smooth=self.smooth,
            float32=frozenset(self.float32),
            few=None if few is None else Few(few.name, few.most, by_rule(made(few.sites)), few.smooth),
            **others,
        )

    def kept(self) -> set[tuple[str, str]]:
        """(rule, node name) of the LOSSY rewrites that are made, in either body."""
        return {*made(self.sites), *(made(self.few.sites) if self.few is not None else ())}

    @property
    def lossy(self) -> bool:
        """Is anything rounded?"""
        return bool(rounding(self.kept()))

    def without(self, gone: Collection[tuple[str, str]], why: str) -> Plan:
        """The same without these LOSSY rewrites, in either body."""

        def left(sites: dict[tuple[str, str], Choice]) -> dict[tuple[str, str], Choice]:
            return {s: replace(c, keep=False, why=why) if c.keep and s in gone else c for s, c in sites.items()}

        few = None if self.few is None else replace(self.few, sites=left(self.few.sites))
        return replace(self, sites=left(self.sites), few=few)

    def without_sites(self, why: str) -> Plan:
        """The same with nothing rounded."""
        sites = {s: replace(c, keep=False, why=why) if c.keep and rounding({s}) else c for s, c in self.sites.items()}
        return replace(self, sites=sites, smooth={}, few=None)

    def fitting(self, target: Target, inputs: Collection[str], source: str, exact: bool) -> tuple[Plan, list[str]]:
        """The plan as it is carried out for a target and a model with these inputs and this digest; and what to tell the user.

        Raises:
            BadInput: it is for another target, or its second body is chosen by an input that there is not.
        """
        if self.target != target.name:
            raise BadInput(f"the plan is for {self.target!r}", where="--plan", hint=f"give --target {self.target}")
        if self.few is not None and self.few.name not in inputs:
            raise BadInput(f"the plan's second body is for few elements of {self.few.name!r}, which is no input", where="--plan",
                           hint=f"the inputs are {', '.join(inputs)}")  # fmt: skip
        plan = replace(self, session=replace(self.session, providers=target.session_options().providers))
        notes = []
        if self.source and self.source != source:
            notes.append("the plan was made for another model: what it names may not be there")
        if exact and plan.lossy:
            notes.append(f"--exact forbids what the plan rounds, {len(rounding(plan.kept()))} places")
            plan = plan.without_sites("--exact forbids it")
        return plan, notes

    def dumps(self) -> str:
        """The plan as TOML; ``loads`` reads it back."""
        lines = [
            "# olc plan. Edit it and run it: olc compile MODEL --plan FILE",
            f"target = {_q(self.target)}",
            f"level = {self.level}",
            f"source = {_q(self.source)}",
            f"rounded = {json.dumps(list(self.rounded), ensure_ascii=False)}",
            *([f"float32 = {json.dumps(list(self.float32), ensure_ascii=False)}"] if self.float32 else []),
            f"notes = {json.dumps(list(self.notes), ensure_ascii=False)}",
            "",
            "[session]",
            f"optimization = {_q(self.session.optimization)}",
        ]
        if self.session.threads is not None:
            lines.append(f"threads = {self.session.threads}")
        if self.session.disabled_optimizers:
            lines.append(f"disabled_optimizers = {json.dumps(list(self.session.disabled_optimizers))}")
        lines += [f"{name} = {str(on).lower()}" for name, on, usual in (
            ("parallel", self.session.parallel, False), ("arena", self.session.arena, True)) if on != usual]  # fmt: skip
        if self.session.providers != SessionOptions().providers:
            lines.append(f"providers = {json.dumps(list(self.session.providers))}")
        if self.session.config:
            lines += ["", "[session.config]", *(f"{_q(k)} = {_q(v)}" for k, v in sorted(self.session.config.items()))]
        if self.smooth:
            lines += ["", "[smooth]", *(f"{_q(name)} = {alpha:g}" for name, alpha in sorted(self.smooth.items()))]
        for name, c in sorted(self.groups.items()):
            lines += ["", f"[groups.{_q(name)}]", *_choice(c)]
        lines += _sites("sites", self.sites)
        if self.few is not None:
            lines += ["", "[few]", f"name = {_q(self.few.name)}", f"most = {self.few.most}"]
            if self.few.smooth:
                lines += ["", "[few.smooth]", *(f"{_q(name)} = {alpha:g}" for name, alpha in sorted(self.few.smooth.items()))]
            lines += _sites("few.sites", self.few.sites)
        return "\n".join(lines) + "\n"

    @classmethod
    def loads(cls, text: str, where: str = "plan") -> Plan:
        """Read a plan.

        Raises:
            BadInput: the text is not TOML or not a plan.
        """
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as e:
            raise BadInput(f"the plan is not TOML: {e}", where=where) from e
        known = {"target", "level", "source", "notes", "session", "groups", "sites", "smooth", "few", "rounded", "float32"}
        unknown = sorted(set(data) - known)
        if unknown:
            raise BadInput(f"the plan has an unknown entry {unknown[0]!r}", where=where, hint=f"known: {sorted(known)}")
        try:
            if data["level"] not in range(4):
                raise ValueError(f"level {data['level']!r}, which is not 0, 1, 2 or 3")
            return cls(
                target=str(data["target"]),
                level=int(data["level"]),
                source=str(data.get("source", "")),
                groups={str(k): _read(v) for k, v in data.get("groups", {}).items()},
                sites=_read_sites(data),
                smooth=_read_smooth(data),
                few=_read_body(data["few"]) if "few" in data else None,
                rounded=_rounded(data),
                float32=_texts(data, "float32"),
                session=SessionOptions.from_dict(data.get("session", {}), where=where),
                notes=_texts(data, "notes"),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise BadInput(f"the plan lacks or misuses {e}", where=where, hint="olc plan MODEL writes a valid one") from e

    @classmethod
    def read(cls, path: str | Path) -> Plan:
        """Read a plan file.

        Raises:
            BadInput: no such file, or not a plan.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise BadInput(f"the plan cannot be read: {e}", where=str(path)) from e
        return cls.loads(text, str(path))


def by_rule(sites: Iterable[tuple[str, str]]) -> dict[str, frozenset[str]]:
    """Names of nodes for each rule."""
    names: dict[str, set[str]] = {}
    for rule, node in sites:
        names.setdefault(rule, set()).add(node)
    return {r: frozenset(n) for r, n in names.items()}


def made(sites: dict[tuple[str, str], Choice]) -> list[tuple[str, str]]:
    """Those that are kept."""
    return [site for site, choice in sites.items() if choice.keep]


def rounding(sites: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those that round something."""
    return {site for site in sites if site[0] not in ROUNDS_NOTHING}


def _sites(table: str, sites: dict[tuple[str, str], Choice]) -> list[str]:
    return [
        line for (rule, node), c in sorted(sites.items())
        for line in ("", f"[[{table}]]", f"rule = {_q(rule)}", f"node = {_q(node)}", *_choice(c))
    ]  # fmt: skip


def _read_sites(data: dict[str, Any]) -> dict[tuple[str, str], Choice]:
    return {(str(s["rule"]), str(s["node"])): _read(s) for s in data.get("sites", [])}


def _read_smooth(data: dict[str, Any]) -> dict[str, float]:
    return {str(k): float(v) for k, v in data.get("smooth", {}).items()}


def _read_body(data: dict[str, Any]) -> Body:
    return Body(str(data["name"]), int(data["most"]), _read_sites(data), _read_smooth(data))


def _q(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _choice(c: Choice) -> list[str]:
    numbers = [f"gain = {c.gain:.4f}"] if c.gain is not None else []
    numbers += [f"error = {c.error:.4g}"] if c.error is not None else []
    return [f"keep = {'true' if c.keep else 'false'}", f"why = {_q(c.why)}", *numbers]


def _texts(data: dict[str, Any], name: str) -> tuple[str, ...]:
    found = data.get(name, [])
    if not isinstance(found, list) or not all(isinstance(x, str) for x in found):
        raise ValueError(f"{name!r}, which is not a list of texts")
    return tuple(found)


def _rounded(data: dict[str, Any]) -> tuple[str, ...]:
    found = _texts(data, "rounded")
    if not all("@" in x for x in found):
        raise ValueError("'rounded', whose texts are not initializer@form")
    return found


def _read(data: dict[str, Any]) -> Choice:
    if not isinstance(data["keep"], bool):
        raise TypeError(f"keep = {data['keep']!r}, which is neither true nor false")
    gain, error = (None if data.get(k) is None else float(data[k]) for k in ("gain", "error"))
    return Choice(data["keep"], str(data.get("why", "")), gain, error)
