"""Matching a pattern at a value: a ``Match`` with its bindings, or a ``Miss`` that says how far it got and why no further.

Backtracking search with continuations: each step calls the rest of the match, and undoes its bindings when the rest
fails, so commutative operators and alternatives cost nothing until they are needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from . import ir
from .analysis import shapes
from .errors import RuleError
from .ir import DataType, Node, Value
from .patterns import COMMUTATIVE, PRODUCT_OPS, Either, Literal, OpPattern, Out, Param, Pattern, Product, Spec


@dataclass(frozen=True)
class Miss:
    """Why a pattern did not match.

    Attributes:
        element: the pattern element that failed, as text.
        at: name of the node or value it failed at.
        reason: in a user's words.
        depth: operators matched before it failed; a near miss has a high depth.
        size: operators in the pattern.
        refused: the whole pattern fits, but the rule's ``unless`` says no.
    """

    element: str
    at: str
    reason: str
    depth: int
    size: int
    refused: bool = False

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        if self.refused:
            return f"at {self.at}: {self.reason}"
        return f"at {self.at}: {self.reason} (wanted {self.element}; {self.depth} of {self.size} operators matched)"


class Match:
    """Bindings of a successful match: ``m.x`` is a value, ``m.axis`` an attribute's value, ``m.D`` a dim.

    ``unless`` may set further attributes for ``rewrite`` to read, and add to ``assumes`` the names of the assumptions
    (``assumptions.py``) that the rewrite rests on. ``nodes`` lists the matched nodes, root first.
    """

    def __init__(self, s: _State, roots: tuple[Value, ...]) -> None:
        # A variable that only an untaken alternative binds is None.
        self.__dict__.update(dict.fromkeys(s.pattern.params))
        self.__dict__.update(s.bindings)
        self.nodes: list[Node] = list(dict.fromkeys(s.nodes.values()))
        self.assumes: set[str] = set()
        self.roots = roots

    def __getattr__(self, name: str) -> Any:
        raise RuleError(f"the rule reads m.{name}, which its pattern does not bind")

    @property
    def root(self) -> Node:
        return self.nodes[0]

    def find(self, op_type: str) -> Node | None:
        """The first matched node of that operator type."""
        return next((n for n in self.nodes if n.op_type == op_type), None)


# --- matching ------------------------------------------------------------------------------------------------------

_UNSET = object()
_EMPTY: frozenset[Node] = frozenset()


@dataclass
class _State:
    pattern: Pattern
    opsets: dict[str, int]
    explain: bool
    graph: Any = None
    bindings: dict[str, Any] = field(default_factory=dict)
    nodes: dict[OpPattern, Node] = field(default_factory=dict)
    outs: dict[int, Out] = field(default_factory=dict)
    unless: Callable[[Match], str | None] | None = None
    tries: int = 0
    miss: Miss | None = None

    def fail(self, element: Any, at: Any, reason: str) -> bool:
        depth = len(self.nodes)
        if self.explain and (self.miss is None or (depth > self.miss.depth and not self.miss.refused)):
            self.miss = Miss(str(element), _site(at), reason, depth, self.pattern.size)
        return False


def _site(at: Any) -> str:
    if isinstance(at, Node):
        return f"{at.op_type} {at.name!r}"
    if isinstance(at, Value):
        return f"{at.name!r}"
    return str(at)


MAX_TRIES = 256
"""Complete bindings that ``unless`` may refuse before the search gives up at one root."""


def match(
    pattern: Pattern,
    value: Value,
    opsets: dict[str, int],
    explain: bool = True,
    unless: Callable[[Match], str | None] | None = None,
) -> Match | Miss | None:
    """Match the pattern with its first root at ``value``.

    Args:
        opsets: domain to version, for attribute defaults.
        explain: keep the deepest failure; without it a failed match is None, and faster. A refusal is always kept.
        unless: judges each complete match: a reason makes the search go on with the next binding.
    """
    s = _State(pattern, opsets, explain, unless=unless)
    producer = value.producer()
    if producer is None:
        s.fail(pattern.roots[0], value, "it is not produced by an operator")
        return s.miss
    s.graph = ir.owner(producer)
    found: list[Match] = []
    if _roots(s, 0, value, (), found):
        return found[0]
    return s.miss


def _accept(s: _State, values: tuple[Value, ...], found: list[Match]) -> bool:
    m = Match(s, values)
    reason = s.unless(m) if s.unless is not None else None
    if reason is None:
        found.append(m)
        return True
    if s.miss is None or not s.miss.refused:
        text = str(s.pattern) if s.explain else ""  # a pattern in words takes long
        s.miss = Miss(text, _site(m.root), reason, s.pattern.size, s.pattern.size, refused=True)
    s.tries += 1
    return False


def _roots(s: _State, i: int, value: Value, done: tuple[Value, ...], found: list[Match]) -> bool:
    """Match root ``i`` at ``value``, then the others at the values that they can be."""
    roots = s.pattern.roots

    def rest() -> bool:
        values = (*done, value)
        if i + 1 == len(roots):
            return s.tries < MAX_TRIES and _uses_ok(s, values) and _accept(s, values, found)
        if s.tries >= MAX_TRIES:
            return False
        further = [v for v in _candidates(s, roots[i + 1]) if v not in values]
        if not further:
            return s.fail(roots[i + 1], value, "what it shares with the pattern's other results has no such user")
        # Once the tries are spent, none of the others is looked at: of a value with n users they are n, at each root.
        return any(s.tries < MAX_TRIES and _roots(s, i + 1, v, values, found) for v in further)

    return _value(s, roots[i], value, rest)


def _candidates(s: _State, root: Any) -> list[Value]:
    """Values at which a further root can be, found from what is bound already by climbing the uses."""
    if isinstance(root, Either):
        return [v for o in root.options for v in _candidates(s, o)]
    if isinstance(root, Product):
        raise RuleError("a product cannot be a second root")
    if root.node in s.nodes:
        return list(s.nodes[root.node].outputs[root.index : root.index + 1])  # none where the node leaves it out
    for inp in root.node.inputs:
        below: list[Value] = []
        if isinstance(inp, Param) and isinstance(s.bindings.get(inp.name), Value):
            below = [s.bindings[inp.name]]
        elif isinstance(inp, Out | Either):
            below = _candidates(s, inp)
        nodes = dict.fromkeys(n for v in below for n, _ in ir.uses(v) if (n.domain, n.op_type) in root.node.ops)
        found = [n.outputs[root.index] for n in nodes if len(n.outputs) > root.index]
        if found:
            return found
    return []


def _value(s: _State, p: Any, v: Value | None, k: Callable[[], bool]) -> bool:
    if type(p) is Param:
        return _param(s, p, v, k)
    if type(p) is Out:
        return _out(s, p, v, k)
    if p is None:
        return k() if v is None else s.fail("no input", v, "the pattern wants this input left out")
    if v is None:
        return s.fail(p, "an omitted input", "the input is left out")
    if type(p) is Literal:
        return k() if _literal(s, p, v) else False
    if type(p) is Product:
        return _product(s, p, v, k)
    return any(_value(s, o, v, k) for o in p.options)


def _product(s: _State, p: Product, v: Value, k: Callable[[], bool]) -> bool:
    if v.dtype is None or not v.dtype.is_floating_point():
        return s.fail(p, v, "it is not known to be floating point")
    nodes: list[Node] = []
    factors: list[Value] = []
    scale = _flatten(s, v, nodes, factors, 4 * len(p.factors) + 4)
    if not nodes:
        return s.fail(p, v, "it is not a product")
    if len(factors) != len(p.factors):
        return s.fail(p, nodes[0], f"the product has {len(factors)} factors, not {len(p.factors)}")
    bound = isinstance(p.scale, Param)
    if not bound and not same_number(scale, 1 if p.scale is None else p.scale, v.dtype):
        return s.fail(p, nodes[0], f"the product is scaled by {scale}, not {p.scale}")
    keys = [OpPattern(PRODUCT_OPS, [], {}, None, 1) for _ in nodes]
    for key, node in zip(keys, nodes, strict=True):
        s.nodes[key] = node
        s.outs[id(key)] = Out(key, 0)
    if bound:
        s.bindings[p.scale.name] = scale
    if _assign(s, p.factors, factors, k):
        return True
    for key in keys:
        del s.nodes[key]
    if bound:
        del s.bindings[p.scale.name]
    return False


def _flatten(s: _State, v: Value, nodes: list[Node], factors: list[Value], limit: int) -> float:
    """The factors of a product tree below ``v``; returns the product of its constant factors."""
    node = v.producer()
    inner = node is not None and (not nodes or (len(ir.uses(v)) == 1 and not v.is_graph_output())) and len(nodes) < limit
    if node is not None and inner and (node.domain, node.op_type) in PRODUCT_OPS and ir.owner(node) is s.graph:
        a, b = node.inputs
        assert a is not None
        assert b is not None
        numbers = [_factor(node, x, y) for x, y in ((a, b), (b, a))]
        if node.op_type == "Mul" or numbers[1] is not None:
            nodes.append(node)
            if numbers[1] is not None:
                return _flatten(s, a, nodes, factors, limit) * (
                    numbers[1] if node.op_type == "Mul" else 1.0 / numbers[1]
                )
            if numbers[0] is not None:
                return _flatten(s, b, nodes, factors, limit) * numbers[0]
            return _flatten(s, a, nodes, factors, limit) * _flatten(s, b, nodes, factors, limit)
    factors.append(v)
    return 1.0


def _factor(node: Node, v: Value, other: Value) -> float | None:
    """The number that a constant factor is, where it is a finite non-zero one that cannot raise the product's rank."""
    t = _one_element(v) if ir.is_constant(v) else None
    if t is None:
        return None
    d = shapes.dims(other)
    if len(t.shape) > 0 and (d is None or len(d) < len(t.shape)):
        return None
    number = float(t.numpy().reshape(-1)[0])
    return number if np.isfinite(number) and number != 0 else None


def _assign(s: _State, wanted: tuple[Any, ...], factors: list[Value], k: Callable[[], bool]) -> bool:
    if not wanted:
        return k()
    return any(
        _value(s, wanted[0], f, partial(_assign, s, wanted[1:], factors[:i] + factors[i + 1 :], k))
        for i, f in enumerate(factors)
    )


def _param(s: _State, p: Param, v: Value | None, k: Callable[[], bool]) -> bool:
    bound = s.bindings.get(p.name, _UNSET)
    if bound is not _UNSET:
        return k() if bound is v else s.fail(p, v, f"it is not the same value as the other {p.name!r}")
    if v is None and not p.optional:
        return s.fail(p, "an omitted input", f"input {p.name!r} is left out")
    if v is not None and p.kind in ("const", "scalar"):
        if not ir.is_constant(v):
            return s.fail(p, v, f"{p.name!r} is not a constant")
        if p.kind == "scalar" and _one_element(v) is None:
            return s.fail(p, v, f"{p.name!r} has more than one element")
    names: list[str] = []
    if v is not None and p.spec is not None and not _spec(s, p, p.spec, v, names):
        for n in names:
            del s.bindings[n]
        return False
    s.bindings[p.name] = v
    if k():
        return True
    del s.bindings[p.name]
    for n in names:
        del s.bindings[n]
    return False


def _spec(s: _State, p: Param, spec: Spec, v: Value, names: list[str]) -> bool:
    if v.dtype is None:
        return s.fail(p, v, f"the dtype of {p.name!r} is unknown")
    if v.dtype not in spec.dtypes:
        return s.fail(p, v, f"{p.name!r} is {v.dtype.name.lower()}, not {spec}")
    if spec.dims is None:
        return True
    dims = shapes.dims(v)
    if dims is None:
        return s.fail(p, v, f"the shape of {p.name!r} is unknown")
    wanted = list(spec.dims)
    if ... in wanted:
        at = wanted.index(...)
        if len(dims) < len(wanted) - 1:
            return s.fail(p, v, f"{p.name!r} has rank {len(dims)}, not {spec}")
        wanted[at : at + 1] = [None] * (len(dims) - len(wanted) + 1)
    if len(wanted) != len(dims):
        return s.fail(p, v, f"{p.name!r} has rank {len(dims)}, not {spec}")
    for w, d in zip(wanted, dims, strict=True):
        if isinstance(w, str) and w not in s.bindings:
            s.bindings[w] = d
            names.append(w)
        elif w is not None and (s.bindings[w] if isinstance(w, str) else w) != d:
            return s.fail(p, v, f"a dim of {p.name!r} is {d}, not {w} of {spec}")
    return True


def _one_element(v: Value) -> Any | None:
    t = ir.tensor(v)
    return None if t is None or t.size != 1 or t.dtype == DataType.STRING else t


def _literal(s: _State, p: Literal, v: Value) -> bool:
    t = _one_element(v)
    if t is None:
        return s.fail(p, v, "it is not a one-element constant")
    number = t.numpy().reshape(-1)[0]
    if not same_number(number, p.value, t.dtype):
        return s.fail(p, v, f"the constant is {number}, not {p.value}")
    return True


def same_number(number: Any, wanted: float, dtype: DataType) -> bool:
    """Is a constant the number that a pattern names? Exactly, sign of zero included, where the number is exact in
    half precision (0, 1, 0.5, -1, 2 …); else within 1e-5 relative or the rounding of the constant's own dtype
    (exporters write 1.41421)."""
    actual = number.item() if isinstance(number, np.generic) else number
    if not isinstance(actual, int | float):
        return bool(actual == wanted)
    if actual == wanted:
        return actual != 0 or not isinstance(actual, float) or np.signbit(actual) == np.signbit(wanted)
    if not dtype.is_floating_point() or not np.isfinite(wanted) or float(np.float16(wanted)) == wanted:
        return False
    rounding = {DataType.FLOAT16: 1e-3, DataType.BFLOAT16: 8e-3}.get(dtype, 1e-5)
    return abs(actual - wanted) <= rounding * abs(wanted)


def _out(s: _State, p: Out, v: Value | None, k: Callable[[], bool]) -> bool:
    if v is None:
        return s.fail(p.node, "an omitted input", f"it should come from {p.node.label}")
    node = v.producer()
    op = p.node
    if node is None or (node.domain, node.op_type) not in op.ops:
        if s.explain:
            what = "an input or constant" if node is None else f"from {node.op_type} {node.name!r}"
            s.fail(op, v, f"it is {what}, not from {op.label}")
        return False
    if v.index() != p.index:
        return s.fail(op, node, f"output {v.index()} is used, not {p.index}")
    bound = s.nodes.get(op)
    if bound is not None:
        return k() if bound is node else s.fail(op, node, "it is another node than the one matched before")
    if ir.owner(node) is not s.graph and not p.shared:
        return s.fail(op, node, "it lies in an outer graph")
    if not _attributes_fit(s, op, node):
        return False
    s.nodes[op] = node
    s.outs[id(op)] = p
    added: list[str] = []
    if _bind_attributes(s, op, node, added) and _inputs(s, op, node, k):
        return True
    del s.nodes[op]
    for n in added:
        del s.bindings[n]
    return False


def default_of(node: Node, name: str, opsets: dict[str, int]) -> Any:
    """The schema's default for an attribute that the node omits; None where there is none."""
    schema = ir.schema_of(node.op_type, node.domain, opsets.get(node.domain, 1))
    a = schema.attributes.get(name) if schema is not None else None
    if a is None or not a.default_value.name:
        return None
    import onnx.helper

    value = onnx.helper.get_attribute_value(a.default_value)
    if isinstance(value, bytes):
        return value.decode()
    return tuple(value) if isinstance(value, list) else value


_AXIS_OF_INPUT = frozenset({
    "Softmax", "LogSoftmax", "Hardmax", "Concat", "Split", "Gather", "GatherElements", "ScatterElements", "ArgMax",
    "ArgMin", "TopK", "LayerNormalization", "RMSNormalization", "CumSum", "Flatten", "Compress",
})  # fmt: skip


def _value_of(node: Node, name: str, opsets: dict[str, int]) -> Any:
    """The attribute's value or the schema's default; an axis counts from the front where the rank is known."""
    value = ir.attr(node, name, _UNSET) if name in node.attributes else default_of(node, name, opsets)
    return _front(node, value) if name == "axis" else value


def _front(node: Node, axis: Any) -> Any:
    if isinstance(axis, int) and axis < 0 and node.op_type in _AXIS_OF_INPUT and node.domain == "":
        d = shapes.dims(node.inputs[0]) if node.inputs and node.inputs[0] is not None else None
        return axis if d is None else axis + len(d)
    return axis


def _same_attribute(a: Any, b: Any) -> bool:
    if isinstance(b, DataType):
        return bool(a == int(b))
    if isinstance(b, list):
        b = tuple(b)
    if isinstance(a, float) and isinstance(b, float):
        return a == b or abs(a - b) <= 1e-6 * max(abs(a), abs(b))
    return bool(a == b)


def _attributes_fit(s: _State, op: OpPattern, node: Node) -> bool:
    for a in node.attributes.values():
        if a.is_ref():
            return s.fail(op, node, f"attribute {a.name} is the enclosing function's {a.ref_attr_name!r}")
    for name, wanted in op.attributes.items():
        if not isinstance(wanted, Param):
            actual = _value_of(node, name, s.opsets)
            if not _same_attribute(actual, _front(node, wanted) if name == "axis" else wanted):
                return s.fail(op, node, f"attribute {name} is {actual}, not {wanted}")
    if op.rest is None:
        for name in node.attributes:
            if name not in op.attributes:
                actual, default = ir.attr(node, name, _UNSET), default_of(node, name, s.opsets)
                if not _same_attribute(actual, default):
                    return s.fail(op, node, f"attribute {name}={actual} is not named by the pattern and not the default")
    return True


def _bind_attributes(s: _State, op: OpPattern, node: Node, added: list[str]) -> bool:
    for name, wanted in op.attributes.items():
        if isinstance(wanted, Param):
            actual = _value_of(node, name, s.opsets)
            if wanted.name in s.bindings:
                if not _same_attribute(actual, s.bindings[wanted.name]):
                    return s.fail(op, node, f"attribute {name} is {actual}, not {s.bindings[wanted.name]}")
            else:
                s.bindings[wanted.name] = actual
                added.append(wanted.name)
    if op.rest is not None:
        rest = {k: a for k, a in node.attributes.items() if k not in op.attributes}
        if op.rest in s.bindings:
            if s.bindings[op.rest] != rest:
                return s.fail(op, node, "its other attributes differ from those matched before")
        else:
            s.bindings[op.rest] = rest
            added.append(op.rest)
    return True


def _inputs(s: _State, op: OpPattern, node: Node, k: Callable[[], bool]) -> bool:
    actual = list(node.inputs)
    while actual and actual[-1] is None:
        actual.pop()
    wanted = op.inputs
    if any(isinstance(w, Param) and w.kind == "many" for w in wanted):
        return _sequence(s, op, node, wanted, actual, k)
    if len(actual) > len(wanted):
        return s.fail(op, node, f"it has {len(actual)} inputs, the pattern {len(wanted)}")
    actual += [None] * (len(wanted) - len(actual))
    rank_ok = _ranks(s, op, node, wanted, actual)
    if len(wanted) == 2 and node.op_type in COMMUTATIVE and node.domain == "" and actual[0] is not actual[1]:
        swapped = [actual[1], actual[0]]
        return (rank_ok and _sequence(s, op, node, wanted, actual, k)) or (
            _ranks(s, op, node, wanted, swapped) and _sequence(s, op, node, wanted, swapped, k)
        )
    return rank_ok and _sequence(s, op, node, wanted, actual, k)


def _ranks(s: _State, op: OpPattern, node: Node, wanted: list[Any], actual: list[Value | None]) -> bool:
    """A literal or Scalar of rank 1 or more must not raise the rank of the result: x[3] * <[[1.]]> has rank 2."""
    for w, v in zip(wanted, actual, strict=True):
        if v is None or not (isinstance(w, Literal) or (isinstance(w, Param) and w.kind == "scalar")):
            continue
        t = _one_element(v) if ir.is_constant(v) else None
        rank = 0 if t is None else len(t.shape)
        if rank == 0:
            continue
        others = [shapes.dims(o) for o in actual if o is not v and o is not None]
        if not any(o is not None and len(o) >= rank for o in others):
            return s.fail(op, node, f"the constant {v.name!r} of rank {rank} may raise the rank of the result")
    return True


def _sequence(
    s: _State, op: OpPattern, node: Node, wanted: list[Any], actual: list[Value | None], k: Callable[[], bool]
) -> bool:
    if not wanted:
        return k() if not actual else s.fail(op, node, "it has more inputs than the pattern")
    head, tail = wanted[0], wanted[1:]
    if isinstance(head, Param) and head.kind == "many":
        if head.name in s.bindings:
            n = len(s.bindings[head.name])
            if tuple(actual[:n]) != s.bindings[head.name]:
                return s.fail(op, node, f"the inputs differ from the other *{head.name}")
            return _sequence(s, op, node, tail, actual[n:], k)
        fixed = sum(not (isinstance(w, Param) and w.kind == "many") for w in tail)
        most = len(actual) - fixed
        counts = [most] if fixed == len(tail) else range(most, -1, -1)
        for n in counts:
            if n < 0:
                return s.fail(op, node, f"it has only {len(actual)} inputs")
            s.bindings[head.name] = tuple(actual[:n])
            if _sequence(s, op, node, tail, actual[n:], k):
                return True
            del s.bindings[head.name]
        return False
    if not actual:
        return s.fail(op, node, "it has fewer inputs than the pattern")
    return _value(s, head, actual[0], lambda: _sequence(s, op, node, tail, actual[1:], k))


def _uses_ok(s: _State, roots: tuple[Value, ...]) -> bool:
    """Interior values may be used inside the match only, and may not be graph outputs."""
    nodes = s.nodes.values()
    inside = set(nodes)
    for op, node in s.nodes.items():
        shared = s.outs[id(op)].shared
        for v in node.outputs:
            if v in roots:
                continue
            if v.is_graph_output() and not shared:
                return s.fail(op, node, f"{v.name!r} is also a graph output")
            for user, _ in () if shared else ir.uses(v):
                if user not in inside:
                    return s.fail(op, node, f"{v.name!r} is also used by {user.op_type} {user.name!r}")
    return True
