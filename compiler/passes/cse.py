"""Common subexpressions: of two nodes that compute the same from the same values, one stays.

Sound because two nodes of the same operator with the same attributes (by content) and the same inputs (by identity)
give the same results, unless the operator draws random numbers or is one that we know nothing about; those are left.
A node in a body may use the result of an earlier node of a graph around it. Operands of commutative operators are
compared in either order: IEEE addition and multiplication are commutative bit for bit but for the payload of a NaN.
Max and Min are so only for integers (of 0.0 and -0.0 they return one of the two, by position).
"""

from __future__ import annotations

import struct
from collections.abc import Hashable
from functools import cached_property
from typing import Any

from .. import ir
from . import Context
from .contents import content
from .edit import annotated, defined, erase, inherit, redirect

NAME = "cse"

_RANDOM = frozenset({"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"})
_SUSPECT = ("Random", "Dropout", "Sampling", "Multinomial", "Bernoulli")
_KNOWN_DOMAINS = frozenset({"", "ai.onnx.ml", "com.microsoft"})
_COMMUTATIVE = frozenset({"Add", "Mul", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Sum"})
_COMMUTATIVE_INTEGERS = frozenset({"Max", "Min"})

Key = tuple[Hashable, ...]


class _Scope:
    """A graph being walked, and what its nodes so far compute."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.table: dict[Key, ir.Node] = {}

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(v.name for v in defined(self.graph) if v.name)


def run(model: ir.Model, ctx: Context) -> int:
    """Merge equal nodes in every graph; returns how many went."""
    return _Merger(model, ctx).run()


class _Merger:
    def __init__(self, model: ir.Model, ctx: Context) -> None:
        self.model = model
        self.ctx = ctx
        self.pinned = annotated(model)
        self.pure: dict[tuple[str, str, str], bool] = {}

    def run(self) -> int:
        changes = self.graph(self.model.graph, [])
        for function in self.model.functions.values():
            changes += self.graph(function.graph, [])
        return changes

    def graph(self, graph: ir.Graph, outer: list[_Scope]) -> int:
        """Merge in one graph. ``outer``: the graphs around it with what they have computed before it."""
        here = _Scope(graph)
        scopes = [*outer, here]
        merged: list[ir.Node] = []
        changes = 0
        for node in graph:
            inner = list(ir.subgraphs(node))
            for body in inner:
                changes += self.graph(body, scopes)
            if inner:
                continue
            key = self.key(node)
            if key is None:
                continue
            earlier = self.find(key, scopes)
            if earlier is None:
                here.table[key] = node
            elif self.merge(graph, node, earlier):
                merged.append(node)
        # Only now: keys hold values by identity, which must not be used anew while the table lives.
        erase(graph, merged)
        return changes + len(merged)

    def find(self, key: Key, scopes: list[_Scope]) -> ir.Node | None:
        for depth in range(len(scopes) - 1, -1, -1):
            node = scopes[depth].table.get(key)
            if node is not None:
                # A body that defines the name itself (illegal, but files do it) hides the outer value.
                hidden = any(v.name in s.names for s in scopes[depth + 1 :] for v in node.outputs if v.name)
                return None if hidden else node
        return None

    def merge(self, graph: ir.Graph, node: ir.Node, earlier: ir.Node) -> bool:
        outputs = [(old, new) for old, new in zip(node.outputs, earlier.outputs, strict=True) if old.name != ""]
        if any(old.name in self.pinned for old, _ in outputs):
            return False
        if node.op_type == "Identity" and any(old.is_graph_output() for old, _ in outputs):
            # An Identity already is the cheapest way to give a value a second name.
            new = outputs[0][1]
            if ir.owner(earlier) is not graph or new.is_graph_output() or new.name in self.pinned:
                return False
        for old, new in outputs:
            redirect(old, new, self.pinned)
            inherit(new, old)
        self.ctx.record(NAME, node.name, f"{node.op_type}: same as {earlier.name}")
        return True

    def key(self, node: ir.Node) -> Key | None:
        """What the node computes, or None where two equal keys would not mean equal results."""
        if not node.outputs or node.device_configurations or not self.deterministic(node):
            return None
        attributes = []
        for name in sorted(node.attributes):
            a = _attribute_key(node.attributes[name])
            if a is None:
                return None
            attributes.append((name, a))
        inputs = tuple(node.inputs)
        if len(inputs) == 2 and not attributes and node.domain == "" and _commutes(node):
            inputs = tuple(sorted(inputs, key=id))
        return (
            node.op_identifier(), node.version, tuple(attributes), inputs, tuple(v.name == "" for v in node.outputs),
        )  # fmt: skip

    def deterministic(self, node: ir.Node) -> bool:
        identifier = node.op_identifier()
        if identifier in self.model.functions:
            return self.function(identifier)
        if node.domain not in _KNOWN_DOMAINS:
            return False
        if node.domain == "":
            if node.op_type == "Dropout":
                return len(node.inputs) < 3 or node.inputs[2] is None or ir.scalar(node.inputs[2]) is False
            return node.op_type not in _RANDOM
        return not any(word in node.op_type for word in _SUSPECT)

    def function(self, identifier: tuple[str, str, str]) -> bool:
        known = self.pure.get(identifier)
        if known is None:
            self.pure[identifier] = False  # a function that calls itself is not one we know
            stack = [self.model.functions[identifier].graph]
            known = True
            while stack and known:
                for node in stack.pop():
                    known = known and self.deterministic(node)
                    stack.extend(ir.subgraphs(node))
            self.pure[identifier] = known
        return known


def _commutes(node: ir.Node) -> bool:
    if node.op_type in _COMMUTATIVE:
        return True
    if node.op_type not in _COMMUTATIVE_INTEGERS:
        return False
    dtype = next((v.dtype for v in node.inputs if v is not None and v.dtype is not None), None)
    return dtype is not None and dtype.is_integer()


def _attribute_key(attr: ir.Attr) -> Hashable | None:
    """The attribute's content, exactly: -0.0 is not 0.0, and a NaN equals the same NaN. None: do not compare."""
    kind = attr.type
    value: Any = attr.value
    types = ir.AttributeType
    if attr.is_ref():
        return ("ref", kind, attr.ref_attr_name)
    if kind == types.FLOAT:
        return (kind, struct.pack("<d", value))
    if kind == types.FLOATS:
        return (kind, struct.pack(f"<{len(value)}d", *value))
    if kind in (types.INT, types.STRING):
        return (kind, value)
    if kind in (types.INTS, types.STRINGS):
        return (kind, tuple(value))
    if kind == types.TENSOR:
        return (kind, value.dtype, tuple(value.shape), content(value))
    return None
