"""A target's abilities as data: which operators, of which versions, on which dtypes. Generated from a runtime.

Dtype names are ONNX's (``float``, ``double``, ``int64``, ``bfloat16``, ``float8e4m3fn``), those of ``ir.DataType`` in
lower case; other types keep ONNX's spelling (``seq(tensor(float))``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: How an operator runs. The values are shown to people.
YES = "yes"
DECOMPOSED = "by decomposition"
CAST = "by casting to float"
NO = "no"


@dataclass(frozen=True)
class Support:
    """The answer to "does it run there": how, and why or why not."""

    how: str
    reason: str = ""

    def __bool__(self) -> bool:
        return self.how != NO


@dataclass(frozen=True)
class Parameter:
    """A formal input or output. ``type`` is a type variable (``T``) or a type; ``option`` is one, optional or many."""

    name: str
    type: str
    option: str = "one"

    @classmethod
    def parse(cls, text: str) -> Parameter:
        name, _, type_ = text.partition(":")
        option = {"?": "optional", "*": "many"}.get(type_[-1:], "one")
        return cls(name, type_ if option == "one" else type_[:-1], option)

    def __str__(self) -> str:
        return f"{self.name}:{self.type}{ {'one': '', 'optional': '?', 'many': '*'}[self.option] }"


@dataclass(frozen=True)
class Signature:
    """One version of an operator as the runtime declares it.

    Attributes:
        since: first opset version with this form.
        attributes: name -> (kind such as INT or FLOATS, required, default or None); empty for standard domains,
            where ``onnx.defs`` has them.
    """

    since: int
    inputs: tuple[Parameter, ...]
    outputs: tuple[Parameter, ...]
    attributes: Mapping[str, tuple[str, bool, Any]] = field(default_factory=dict)
    deprecated: bool = False


@dataclass(frozen=True)
class Kernel:
    """One implementation: opset range (``until`` None: open), and dtypes per type variable or formal name."""

    since: int
    until: int | None
    types: Mapping[str, frozenset[str]]

    def covers(self, since: int) -> bool:
        """True where it implements the form of the operator introduced at opset ``since``.

        As ONNX Runtime decides it: a kernel without end stands for the one version that it names, because nobody
        can know yet what the next one will mean.
        """
        return since == self.since or (self.until is not None and self.since <= since <= self.until)

    def refuses(self, dtypes: Mapping[str, str]) -> tuple[str, str] | None:
        """The first constraint that a known dtype breaks, with that dtype, or None."""
        for name, allowed in self.types.items():
            if name in dtypes and dtypes[name] not in allowed:
                return name, dtypes[name]
        return None


@dataclass
class Table:
    """What one runtime can run.

    Attributes:
        runtime, version, provider: what it was generated from.
        ir_version: newest ONNX IR version that the runtime loads.
        signatures: (domain, operator) -> its forms, oldest first.
        kernels: (domain, operator) -> its implementations.
        origin: ``"stored"``, or why it was generated anew.
    """

    runtime: str
    version: str
    provider: str
    ir_version: int
    signatures: dict[tuple[str, str], tuple[Signature, ...]]
    kernels: dict[tuple[str, str], tuple[Kernel, ...]]
    origin: str = "stored"

    @property
    def domains(self) -> frozenset[str]:
        return frozenset(domain for domain, _ in self.signatures)

    def opset(self, domain: str = "") -> int:
        """The newest version of the domain that the runtime knows."""
        return max((s.since for (d, _), forms in self.signatures.items() if d == domain for s in forms), default=0)

    def signature(self, op: str, domain: str, version: int) -> Signature | None:
        """The form of the operator in force at that opset, or None."""
        forms = [s for s in self.signatures.get((domain, op), ()) if s.since <= version]
        return forms[-1] if forms else None

    def supports(self, op: str, domain: str, version: int, dtypes: Mapping[str, str] | None = None) -> Support:
        """Whether a kernel runs the operator. Says nothing about decomposition, which needs the operator's body.

        Args:
            version: opset of the domain.
            dtypes: dtype per type variable or formal name; those not given are not checked.
        """
        label = f"{domain}.{op}" if domain else op
        if domain not in self.domains:
            return Support(NO, f"{self.runtime} {self.version} knows no domain {domain!r}")
        form = self.signature(op, domain, version)
        if form is None:
            return Support(NO, f"{self.runtime} {self.version} knows no operator {label} at opset {version}")
        if form.deprecated:
            return Support(NO, f"{label} is withdrawn since opset {form.since}")
        declared = self.kernels.get((domain, op), ())
        fitting = [k for k in declared if k.covers(form.since)]
        if not fitting:
            return Support(NO, self._no_version(label, form.since, declared))
        known = dtypes or {}
        refusals = [k.refuses(known) for k in fitting]
        if None in refusals:
            return Support(YES)
        widened = {k: "float" if v == "float16" else v for k, v in known.items()}
        if widened != dict(known) and any(k.refuses(widened) is None for k in fitting):
            return Support(CAST, f"no float16 kernel of {label}: the runtime casts to float and back")
        name, dtype = next(r for r in refusals if r is not None)
        allowed = sorted(set().union(*(k.types.get(name, frozenset()) for k in fitting)))
        return Support(NO, f"no kernel of {label} takes {dtype} for {name} (it has {', '.join(allowed) or 'none'})")

    def _no_version(self, label: str, since: int, declared: Iterable[Kernel]) -> str:
        ranges = sorted({(k.since, k.until or k.since) for k in declared})
        if not ranges:
            return f"{self.runtime} {self.version} has no kernel of {label}"
        spans = ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in ranges)
        return f"no kernel of {label} as of opset {since} (it has versions {spans})"


def to_json(table: Table) -> str:
    """The table as JSON text: sorted, one operator a line, so that a new runtime version shows as a readable diff."""
    operators: dict[str, dict[str, Any]] = {}
    for key in sorted(set(table.signatures) | set(table.kernels)):
        domain, op = key
        operators.setdefault(domain, {})[op] = {
            "forms": [_form(s) for s in table.signatures.get(key, ())],
            "kernels": [_kernel(k) for k in table.kernels.get(key, ())],
        }
    lines = ["{"]
    for name in ("runtime", "version", "provider", "ir_version"):
        lines.append(f" {json.dumps(name)}: {json.dumps(getattr(table, name))},")
    lines.append(' "operators": {')
    for i, (domain, ops) in enumerate(operators.items()):
        lines.append(f"  {json.dumps(domain)}: {{")
        rows = [f"   {json.dumps(op)}: {json.dumps(record, sort_keys=True)}" for op, record in ops.items()]
        lines.append(",\n".join(rows))
        lines.append("  }" + ("," if i + 1 < len(operators) else ""))
    lines += [" }", "}"]
    return "\n".join(lines) + "\n"


def from_json(text: str) -> Table:
    """The inverse of ``to_json``."""
    data = json.loads(text)
    signatures: dict[tuple[str, str], tuple[Signature, ...]] = {}
    kernels: dict[tuple[str, str], tuple[Kernel, ...]] = {}
    for domain, operators in data["operators"].items():
        for op, record in operators.items():
            if record["forms"]:
                signatures[domain, op] = tuple(_read_form(f) for f in record["forms"])
            if record["kernels"]:
                kernels[domain, op] = tuple(
                    Kernel(since, until, {k: frozenset(v.split()) for k, v in types.items()})
                    for since, until, types in record["kernels"]
                )
    return Table(data["runtime"], data["version"], data["provider"], data["ir_version"], signatures, kernels)


def _form(s: Signature) -> list[Any]:
    texts = [" ".join(str(p) for p in side) for side in (s.inputs, s.outputs)]
    attributes = {k: list(v) for k, v in sorted(s.attributes.items())}
    tail: list[Any] = [attributes, True] if s.deprecated else [attributes] if attributes else []
    return [s.since, *texts, *tail]


def _read_form(record: list[Any]) -> Signature:
    since, inputs, outputs, *tail = record
    attributes = {k: (v[0], v[1], v[2]) for k, v in (tail[0] if tail else {}).items()}
    sides = [tuple(Parameter.parse(p) for p in text.split()) for text in (inputs, outputs)]
    return Signature(since, sides[0], sides[1], attributes, len(tail) > 1)


def _kernel(k: Kernel) -> list[Any]:
    return [k.since, k.until, {name: " ".join(sorted(types)) for name, types in sorted(k.types.items())}]


def merge(kernels: Iterable[Kernel]) -> tuple[Kernel, ...]:
    """The same implementations in fewer records: two that differ in one constraint become one with both dtype sets.

    Exact, because dtypes of different constraints combine freely within a record.
    """
    merged: list[Kernel] = []
    for kernel in sorted(kernels, key=_order):
        merged = _absorb(merged, kernel)
    return tuple(sorted(merged, key=_order))


def _absorb(merged: list[Kernel], kernel: Kernel) -> list[Kernel]:
    for i, other in enumerate(merged):
        if (other.since, other.until) != (kernel.since, kernel.until) or set(other.types) != set(kernel.types):
            continue
        differing = [name for name in kernel.types if kernel.types[name] != other.types[name]]
        if len(differing) <= 1:
            both = {name: kernel.types[name] | other.types[name] for name in kernel.types}
            return _absorb(merged[:i] + merged[i + 1 :], Kernel(kernel.since, kernel.until, both))
    return [*merged, kernel]


def _order(k: Kernel) -> tuple[Any, ...]:
    return k.since, k.until or 0, sorted((name, sorted(types)) for name, types in k.types.items())
