"""What changed between two models, in words and counts.

Nodes are told apart by what they produce first, by name where that is unique, then by operator and place: a rewrite
that replaces a node keeps the name of its result, so the node shows as replaced and not as one gone and one new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from . import ir
from .printer import type_text

RULE, FROM = "olc.rule", "olc.from"
_SHOWN = 8


@dataclass(frozen=True)
class NodeChange:
    """A node that is only in one of the two models, or another operator under the same result."""

    name: str
    op: str
    #: ``rule#number`` that made it, where one did.
    rule: str | None = None
    #: The operator that it replaces, or the names of the nodes that it came from.
    was: str | None = None
    #: The module that it was exported from, where that is known.
    module: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if v is not None}


@dataclass(frozen=True)
class Diff:
    """The difference from ``a`` to ``b``. All of it is plain data."""

    nodes: tuple[int, int]
    operators: dict[str, tuple[int, int]]
    removed: list[NodeChange] = field(default_factory=list)
    added: list[NodeChange] = field(default_factory=list)
    #: Applications per rule, told by the metadata that the rewriter leaves on new nodes.
    rules: dict[str, int] = field(default_factory=dict)
    initializers: tuple[int, int] = (0, 0)
    parameters: tuple[int, int] = (0, 0)
    bytes: tuple[int, int] = (0, 0)
    #: Bytes of weights per dtype.
    dtypes: dict[str, tuple[int, int]] = field(default_factory=dict)
    #: Initializers of both models whose type or shape differ: name, before, after.
    retyped: list[tuple[str, str, str]] = field(default_factory=list)
    opsets: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)
    interface: list[str] = field(default_factory=list)
    functions: tuple[int, int] = (0, 0)

    @property
    def empty(self) -> bool:
        """True when nothing that this class looks at differs."""
        same = self.nodes[0] == self.nodes[1] and self.bytes[0] == self.bytes[1] and not self.operators
        same = same and self.functions[0] == self.functions[1] and self.initializers[0] == self.initializers[1]
        return same and not (self.removed or self.added or self.retyped or self.opsets or self.interface or self.dtypes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data, the same for the same models."""
        return {
            "nodes": list(self.nodes),
            "operators": {op: list(c) for op, c in self.operators.items()},
            "removed": [n.to_dict() for n in self.removed],
            "added": [n.to_dict() for n in self.added],
            "rules": dict(self.rules),
            "initializers": list(self.initializers),
            "parameters": list(self.parameters),
            "bytes": list(self.bytes),
            "dtypes": {t: list(c) for t, c in self.dtypes.items()},
            "retyped": [list(r) for r in self.retyped],
            "opsets": {d: list(v) for d, v in self.opsets.items()},
            "interface": list(self.interface),
            "functions": list(self.functions),
        }

    def lines(self) -> list[str]:
        """For a terminal, most telling first."""
        if self.empty:
            return ["no difference"]
        return list(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"nodes        {_change(*self.nodes)}"
        for op, (before, after) in self.operators.items():
            yield f"  {op:<24} {before:>7,} -> {after:>7,}  ({after - before:+,})"
        if self.functions[0] != self.functions[1]:
            yield f"functions    {_change(*self.functions)}"
        if self.rules:
            applied = ", ".join(f"{rule} ×{n}" for rule, n in self.rules.items())
            yield f"rules        {applied}"
        for title, nodes in (("removed", self.removed), ("added", self.added)):
            if nodes:
                yield f"{title:<12} {len(nodes):,} nodes"
                for n in nodes[:_SHOWN]:
                    yield "  " + _node_line(n)
                if len(nodes) > _SHOWN:
                    yield f"  and {len(nodes) - _SHOWN:,} more"
        yield f"initializers {_change(*self.initializers)}"
        yield f"parameters   {_change(*self.parameters)}"
        yield f"bytes        {_change(*self.bytes)}"
        for dtype, (before, after) in self.dtypes.items():
            yield f"  {dtype:<24} {before:>13,} -> {after:>13,}"
        for name, old_type, new_type in self.retyped[:_SHOWN]:
            yield f"  {name}: {old_type} -> {new_type}"
        if len(self.retyped) > _SHOWN:
            yield f"  and {len(self.retyped) - _SHOWN:,} more"
        for domain, (old, new) in self.opsets.items():
            yield f"opset        {domain} {old or 'none'} -> {new or 'none'}"
        for text in self.interface:
            yield f"interface    {text}"


def diff(a: ir.Model, b: ir.Model) -> Diff:
    """What changed from ``a`` to ``b``. Neither is changed, and no weight is read."""
    left, right = _Side(a), _Side(b)
    operators = {
        op: (left.operators[op], right.operators[op])
        for op in sorted(left.operators.keys() | right.operators.keys())
        if left.operators[op] != right.operators[op]
    }
    operators = dict(sorted(operators.items(), key=lambda kv: (kv[1][1] - kv[1][0], kv[0])))
    removed, added = _nodes(left, right)
    stamps = {n.metadata_props[RULE] for n in right.nodes if RULE in n.metadata_props}
    stamps -= {n.metadata_props[RULE] for n in left.nodes if RULE in n.metadata_props}
    rules = Counter(stamp.partition("#")[0] for stamp in stamps)
    retyped = [
        (name, left.weights[name], right.weights[name])
        for name in left.weights
        if name in right.weights and left.weights[name] != right.weights[name]
    ]
    dtypes = {
        t: (left.dtypes[t], right.dtypes[t])
        for t in sorted(left.dtypes.keys() | right.dtypes.keys())
        if left.dtypes[t] != right.dtypes[t]
    }
    opsets = {
        d or "ai.onnx": (a.opset_imports.get(d), b.opset_imports.get(d))
        for d in sorted({*a.opset_imports, *b.opset_imports})
        if a.opset_imports.get(d) != b.opset_imports.get(d)
    }
    return Diff(
        nodes=(len(left.nodes), len(right.nodes)),
        operators=operators,
        removed=removed,
        added=added,
        rules=dict(sorted(rules.items(), key=lambda kv: (-kv[1], kv[0]))),
        initializers=(left.count, right.count),
        parameters=(left.parameters, right.parameters),
        bytes=(left.bytes, right.bytes),
        dtypes=dtypes,
        retyped=retyped,
        opsets=opsets,
        interface=_interface(a, b),
        functions=(len(a.functions), len(b.functions)),
    )


class _Side:
    """The counts of one model."""

    def __init__(self, model: ir.Model) -> None:
        self.nodes: list[ir.Node] = []
        self.operators: Counter[str] = Counter()
        self.dtypes: Counter[str] = Counter()
        self.weights: dict[str, str] = {}
        self.count = self.parameters = self.bytes = 0
        for graph in ir.all_graphs(model):
            for v in graph.initializers.values():
                self.weight(v)
            for node in graph:
                self.nodes.append(node)
                self.operators[_op(node)] += 1

    def weight(self, v: ir.Value) -> None:
        t = v.const_value
        if t is None:
            return
        text = type_text(ir.TensorType(t.dtype), ir.Shape(t.shape.numpy()))
        self.count += 1
        self.parameters += t.size
        self.bytes += t.nbytes
        self.dtypes[text.partition("[")[0]] += t.nbytes
        self.weights.setdefault(v.name or "", text)


def _op(node: ir.Node) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _key(node: ir.Node) -> str:
    return next((v.name for v in node.outputs if v.name), None) or node.name or ""


def _nodes(left: _Side, right: _Side) -> tuple[list[NodeChange], list[NodeChange]]:
    """Nodes without a counterpart: same result name and operator, or, for the rest, same operator by count."""
    before: dict[str, list[ir.Node]] = {}
    for n in left.nodes:
        before.setdefault(_key(n), []).append(n)
    gone: dict[ir.Node, None] = dict.fromkeys(left.nodes)
    new: list[tuple[ir.Node, str | None]] = []
    for n in right.nodes:
        same = before.get(_key(n), [])
        match = next((m for m in same if _op(m) == _op(n)), None)
        if match is None:
            new.append((n, _op(same[0]) if same else None))
        else:
            same.remove(match)
            gone.pop(match, None)
    # a renamed node is no change: pair what is left by operator, except what a rule made
    spare: dict[str, list[ir.Node]] = {}
    for m in gone:
        spare.setdefault(_op(m), []).append(m)
    added = []
    for n, was in new:
        rule = n.metadata_props.get(RULE)
        partners = spare.get(_op(n))
        if rule is None and was is None and partners:
            gone.pop(partners.pop(0), None)
            continue
        added.append(NodeChange(_name(n), _op(n), rule, n.metadata_props.get(FROM) or was, ir.module_of(n) or None))
    return [NodeChange(_name(m), _op(m), m.metadata_props.get(RULE), module=ir.module_of(m) or None) for m in gone], added


def _name(node: ir.Node) -> str:
    return node.name or _key(node)


def _interface(a: ir.Model, b: ir.Model) -> list[str]:
    found = []
    for noun, before, after in (
        ("input", a.graph.inputs, b.graph.inputs),
        ("output", a.graph.outputs, b.graph.outputs),
    ):
        old = {v.name: type_text(v.type, v.shape) for v in before}
        new = {v.name: type_text(v.type, v.shape) for v in after}
        found += [f"{noun} {name} is gone ({old[name]})" for name in old if name not in new]
        found += [f"{noun} {name} is new ({new[name]})" for name in new if name not in old]
        found += [f"{noun} {n}: {old[n]} -> {new[n]}" for n in old if n in new and old[n] != new[n]]
        common = [n for n in old if n in new]
        if common != [n for n in new if n in old]:
            found.append(f"{noun}s are in another order")
    return found


def _change(before: int, after: int) -> str:
    if before == after:
        return f"{before:,}, unchanged"
    ratio = f", {(after - before) / before:+.1%}" if before else ""
    return f"{before:,} -> {after:,}  ({after - before:+,}{ratio})"


def _node_line(n: NodeChange) -> str:
    text = f"{n.op} {n.name}"
    if n.was:
        text += f", was {n.was}" if n.rule is None else f", from {n.was}"
    return text + (f"  [{n.rule}]" if n.rule else "")
