"""Element functions: what an integer or boolean tensor holds at symbolic coordinates.

The element of a value at coordinates is worked out top down, from the value to what produces it, so that two webs of
operators that denote the same function of (batch, head, query, key) give the same expression, whatever they look like.

* An integer element is a dim (``dims``) over coordinates, sizes, and *reads*: elements of tensors that are not looked
  through (inputs, results of unknown operators, tensors with constant data of no simple form).
* A boolean element, and an integer one that a boolean was cast to, is a :class:`Condition` in a normal form.

Nothing fails: what is not understood is a read, at the coordinates asked for. Proofs that the steps need rest on
bounds of the coordinates and on ``dims``; what is taken for granted beyond them is noted in ``assumed``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import gcd

import numpy as np

from .. import ir
from ..assumptions import COVERS_KEYS
from . import dims as d
from . import shapes
from .poly import atom, divide, make, of_atom, terms_of, without

__all__ = ["FALSE", "TRUE", "Clause", "Condition", "Element", "Functions", "Read", "coordinate", "filling", "keeps_a_key"]

_DEEPEST = 120
"""Nodes between the value asked for and what is looked at; each takes a few frames of Python's stack."""
_MOST_CLAUSES = 64
"""Clauses of a condition, those of alternatives included; a larger one is not looked through."""
_LARGEST = 1 << 16
"""Elements of a constant that is searched for a simple form."""

_INTEGERS = frozenset({ir.DataType.INT64, ir.DataType.INT32, ir.DataType.INT16, ir.DataType.INT8, ir.DataType.UINT8})


@dataclass(frozen=True)
class Clause:
    """``p >= 0`` ("ge"), ``p == 0`` ("eq"), ``p != 0`` ("ne"), or that one of ``options`` holds ("or")."""

    kind: str
    p: d.Dim = 0
    options: frozenset[Condition] = frozenset()

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.kind, self.p, self.options)))
        object.__setattr__(self, "size", sum(c.size for c in self.options) or 1)

    size: int = field(init=False, compare=False, repr=False, default=1)
    _hash: int = field(init=False, compare=False, repr=False, default=0)

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        if self.kind == "or":
            return " or ".join(sorted(f"({c})" for c in self.options))
        return f"{self.p} {({'ge': '>=', 'eq': '==', 'ne': '!='})[self.kind]} 0"


@dataclass(frozen=True)
class Condition:
    """That all clauses hold; none: True."""

    clauses: frozenset[Clause]
    size: int = field(init=False, compare=False, repr=False, default=0)
    _hash: int = field(init=False, compare=False, repr=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash(self.clauses))
        object.__setattr__(self, "size", sum(c.size for c in self.clauses))
        if self.size > _MOST_CLAUSES:
            raise OverflowError("a condition has too many clauses")

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return " and ".join(sorted(map(str, self.clauses))) or "True"


TRUE = Condition(frozenset())
FALSE = Condition(frozenset({Clause("ge", -1)}))
Element = d.Dim | Condition
Coordinates = tuple[d.Dim, ...]


@dataclass(frozen=True)
class Read:
    """An element of a tensor that is not looked through."""

    value: ir.Value
    at: Coordinates


def coordinate(i: int) -> d.Dim:
    """The symbol of coordinate ``i``."""
    return d.symbol(f"@{i}")


class Functions:
    """Elements of the values of a graph, under bounds of the coordinates.

    Args:
        bounds: for each coordinate ``@i``, the size that it stays below. The last counts the keys of an attention.

    Attributes:
        reads: what each read in an expression is, by the name that it has there.
        assumed: names of what was taken for granted (``COVERS_KEYS``).
    """

    def __init__(self, bounds: Sequence[d.Dim]) -> None:
        self.bounds: Mapping[str, d.Dim] = {f"@{i}": n for i, n in enumerate(bounds)}
        self.key, self.keys = coordinate(len(bounds) - 1), bounds[-1]
        self.reads: dict[str, Read] = {}
        self.assumed: set[str] = set()
        self._known: dict[tuple[ir.Value, Coordinates], Element] = {}
        self._depth = 0

    def at(self, value: ir.Value, coordinates: Coordinates) -> Element:
        """The element of ``value``, of an integer or boolean dtype and as many axes as there are coordinates."""
        shape = shapes.dims(value)
        if shape is not None and len(shape) == len(coordinates):
            coordinates = tuple(0 if n == 1 else c for n, c in zip(shape, coordinates, strict=True))
        key = (value, coordinates)
        found = self._known.get(key)
        if found is None:
            self._depth += 1
            try:
                found = self._at(value, coordinates) if self._depth < _DEEPEST else None
            except OverflowError:
                found = None
            finally:
                self._depth -= 1
            if found is None:
                found = self.read(value, coordinates)
            self._known[key] = found
        return found

    def read(self, value: ir.Value, at: Coordinates) -> Element:
        """The element as something of its own."""
        name = f"{value.name}[{', '.join(map(str, at))}]"
        self.reads[name] = Read(value, at)
        return of_atom(atom(d.INTEGER, name))

    def condition(self, value: ir.Value, coordinates: Coordinates) -> Condition:
        """The same of a boolean value, or of whether an integer one is not 0."""
        return self.truth(self.at(value, coordinates))

    # --- proofs ----------------------------------------------------------------------------------------------------

    def nonnegative(self, p: d.Dim) -> bool:
        """True where ``p >= 0`` is proved for all coordinates within their bounds."""
        for name in sorted(d.symbols(p)):
            if name not in self.bounds or isinstance(p, int):
                continue
            a = atom(d.SYMBOL, name)
            if any(m.count(a) > 1 or any(a in x.leaves for x in m if x is not a) for m, _ in p.terms):
                return False
            slope = make({without(m, (a,)) or (): c for m, c in p.terms if a in m})
            rest = make({m: c for m, c in p.terms if a not in m})
            if d.is_nonnegative(slope):
                p = rest
            elif d.is_nonnegative(d.neg(slope)):
                p = d.add(rest, d.mul(slope, d.sub(self.bounds[name], 1)))
            else:
                return False
        return d.is_nonnegative(p)

    def below(self, p: d.Dim, n: d.Dim) -> bool:
        """True where ``p < n`` is proved."""
        return self.nonnegative(d.sub(d.sub(n, 1), p))

    def covers(self, p: d.Dim, n: d.Dim) -> bool:
        """Take for granted that an axis of ``n`` entries of an input has one for key ``p``."""
        if p != self.key or not isinstance(n, d.Poly) or not d.is_size(n):
            return False
        self.assumed.add(COVERS_KEYS)
        return True

    # --- conditions ------------------------------------------------------------------------------------------------

    def truth(self, e: Element) -> Condition:
        return e if isinstance(e, Condition) else self.clause("ne", e)

    def clause(self, kind: str, p: d.Dim) -> Condition:
        """The condition ``p >= 0``, ``p == 0`` or ``p != 0``, in its normal form."""
        if isinstance(p, int):
            return TRUE if (p >= 0, p == 0, p != 0)[("ge", "eq", "ne").index(kind)] else FALSE
        constant = dict(p.terms).get((), 0)
        factor = gcd(*(c for m, c in p.terms if m))
        if kind == "ge":
            if factor > 1:
                p = make({m: (c // factor if m else constant // factor) for m, c in p.terms})
            if self.nonnegative(p):
                return TRUE
            return FALSE if self.nonnegative(d.sub(-1, p)) else Condition(frozenset({Clause("ge", p)}))
        if len(p.terms) == 1 and (len(p.terms[0][0]) > 1 or p.terms[0][1] != 1):
            # a product is 0 exactly where one of its factors is
            factors = (self.clause(kind, of_atom(a)) for a in dict.fromkeys(p.terms[0][0]))
            return self.both(factors) if kind == "ne" else self.one_of(factors)
        if p.terms[0][1] < 0:
            p = d.neg(p)
        if self.nonnegative(d.sub(p, 1)) or self.nonnegative(d.sub(-1, p)) or constant % factor:
            return FALSE if kind == "eq" else TRUE
        return Condition(frozenset({Clause(kind, p)}))

    def both(self, conditions: Iterable[Condition]) -> Condition:
        """That all of them hold."""
        kept: set[Clause] = set()
        least: dict[d.Dim, int] = {}
        for c in (c for condition in conditions for c in condition.clauses):
            if c == Clause("ge", -1):
                return FALSE
            if c.kind == "ge":  # p + 3 >= 0 says more than p + 5 >= 0
                more = dict(terms_of(c.p)).get((), 0)
                base = d.sub(c.p, more)
                least[base] = min(least.get(base, more), more)
            else:
                kept.add(c)
        kept.update(Clause("ge", d.add(base, more)) for base, more in least.items())
        return Condition(frozenset(kept))

    def one_of(self, conditions: Iterable[Condition]) -> Condition:
        """That one of them holds."""
        options: set[Condition] = set()
        for c in conditions:
            if c == TRUE:
                return TRUE
            only = next(iter(c.clauses)) if len(c.clauses) == 1 else None
            if only is not None and only.kind == "or":
                options |= only.options
            elif c != FALSE:
                options.add(c)
        if len(options) > 1:
            return Condition(frozenset({Clause("or", options=frozenset(options))}))
        return options.pop() if options else FALSE

    def negation(self, condition: Condition) -> Condition:
        opposite = {"eq": "ne", "ne": "eq"}
        parts = []
        for c in sorted(condition.clauses, key=str):
            if c.kind == "or":
                parts.append(self.both(self.negation(o) for o in c.options))
            elif c.kind == "ge":
                parts.append(self.clause("ge", d.sub(-1, c.p)))
            else:
                parts.append(self.clause(opposite[c.kind], c.p))
        return self.one_of(parts) if parts else FALSE

    # --- operators -------------------------------------------------------------------------------------------------

    def _at(self, value: ir.Value, at: Coordinates) -> Element | None:
        shape = shapes.dims(value)
        if shape is None or len(shape) != len(at):
            return None
        held = shapes.elements(value)
        if held is not None and (len(set(held)) == 1 or all(isinstance(c, int) for c in at)):
            found = held[0] if len(set(held)) == 1 else held[at[0]]  # type: ignore[index]
            return self.truth(found) if value.dtype == ir.DataType.BOOL else found
        if ir.is_constant(value):
            return self._constant(value, at)
        node = value.producer()
        if node is None or node.domain != "" or node.outputs[0] is not value:
            return None
        if value.dtype not in _INTEGERS and value.dtype != ir.DataType.BOOL:
            return None
        rule = _OPERATORS.get(node.op_type)
        return rule(self, node, at) if rule is not None else None

    def _constant(self, value: ir.Value, at: Coordinates) -> Element | None:
        t = ir.tensor(value)
        if t is None or t.size > _LARGEST or not t.size or value.dtype not in _INTEGERS | {ir.DataType.BOOL}:
            return None
        a = t.numpy()
        if all(isinstance(c, int) for c in at):
            found: d.Dim = int(a[at])
        elif (a == a.flat[0]).all():
            found = int(a.flat[0])
        else:
            found = int(a.flat[0])
            for axis, c in enumerate(at):  # an arithmetic progression along each axis
                if a.shape[axis] > 1:
                    step = int(a.take(1, axis).flat[0]) - int(a.flat[0])
                    found = d.add(found, d.mul(step, c))
            steps = [int(a.take(1, i).flat[0]) - int(a.flat[0]) if n > 1 else 0 for i, n in enumerate(a.shape)]
            grid = sum((s * i for s, i in zip(steps, np.indices(a.shape), strict=True)), start=np.int64(a.flat[0]))
            if a.dtype == bool or not np.array_equal(a, grid):
                return None
        return self.truth(found) if value.dtype == ir.DataType.BOOL else found

    def _exact(self, node: ir.Node, e: d.Dim) -> d.Dim | None:
        """The result of integer arithmetic, where it does not wrap: with sizes and entries below 2**31 in int64;
        with sizes below 2**24 and no entries in int32."""
        dtype = node.outputs[0].dtype
        if dtype not in (ir.DataType.INT64, ir.DataType.INT32):
            return None
        whole, size, entry = (63, 31, 31) if dtype == ir.DataType.INT64 else (31, 24, 31)
        largest = sum(abs(c) << sum(size if d.is_size(of_atom(a)) else entry for a in m) for m, c in terms_of(e))
        return e if largest < 1 << whole else None

    def _operand(self, node: ir.Node, i: int, at: Coordinates) -> Element | None:
        """Input ``i`` of an elementwise operator, at the coordinates of its output; None where that is not known."""
        value, out = node.inputs[i], shapes.dims(node.outputs[0])
        shape = None if value is None else shapes.dims(value)
        if value is None or shape is None or out is None:
            return None
        coordinates = self._aligned(shape, out, at)
        return None if coordinates is None else self.at(value, coordinates)

    def _aligned(self, shape: Sequence[d.Dim], out: Sequence[d.Dim], at: Coordinates) -> Coordinates | None:
        coordinates: list[d.Dim] = []
        for n, whole, c in zip(shape, out[len(out) - len(shape) :], at[len(at) - len(shape) :], strict=True):
            if n in (1, whole) or (c == self.key and n == self.keys):
                pass  # the size of the other operand is the one to wonder about
            elif not self.covers(c, n):  # that they broadcast at all means that n is as many, or 1
                return None
            coordinates.append(0 if n == 1 else c)
        return tuple(coordinates)

    def index(self, e: Element | None) -> d.Dim | None:
        """The element as an index that counts from the front; None where that is not proved. (One beyond the end would
        have ended the run.)"""
        return None if e is None or isinstance(e, Condition) or not self.nonnegative(e) else e


def keeps_a_key(mask: ir.Value, shape: Sequence[d.Dim]) -> bool:
    """Is it proved that a boolean mask of scores of this shape leaves every query a key: the first, or its own?"""
    rank = shapes.dims(mask)
    if rank is None or len(rank) > len(shape):
        return False
    at = tuple(coordinate(i) for i in range(len(shape)))
    own = d.add(at[-2], d.sub(shape[-1], shape[-2]))
    functions = Functions(shape)
    for key in (0, own):
        if functions.nonnegative(key) and functions.condition(mask, (*at[:-1], key)[-len(rank) :]) == TRUE:
            return not functions.assumed
    return False


# ------------------------------------------------------------------------------------------------------ operators

_Rule = Callable[[Functions, ir.Node, Coordinates], Element | None]
_OPERATORS: dict[str, _Rule] = {}


def _operator(*names: str) -> Callable[[_Rule], _Rule]:
    def add(rule: _Rule) -> _Rule:
        _OPERATORS.update(dict.fromkeys(names, rule))
        return rule

    return add


def _ints(value: ir.Value | None) -> tuple[int, ...] | None:
    held = None if value is None else shapes.elements(value)
    return held if held is not None and all(isinstance(n, int) for n in held) else None  # type: ignore[return-value]


def _input(node: ir.Node, i: int) -> ir.Value | None:
    return node.inputs[i] if i < len(node.inputs) else None


_CARRIERS = ("Cast", "Reshape", "Flatten", "Identity", "Unsqueeze")


def _is_input(value: ir.Value) -> bool:
    """Is the value an input of the model, or one in another dtype or shape?"""
    node = value.producer()
    while node is not None and node.op_type in _CARRIERS and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value.is_graph_input()


@_operator("Identity")
def _identity(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    return f._operand(node, 0, at)


@_operator("Cast")
def _cast(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    source, target = node.inputs[0].dtype if node.inputs[0] is not None else None, node.outputs[0].dtype
    if source == ir.DataType.BOOL or target == ir.DataType.BOOL:
        # bool to integer is 0 or 1, and that is what a condition stands for among integers
        if source not in _INTEGERS | {ir.DataType.BOOL}:
            number = filling(node.inputs[0])
            return None if number is None else f.truth(int(number != 0))
        e = f._operand(node, 0, at)
        return None if e is None else f.truth(e)
    if target == ir.DataType.INT64 and source in _INTEGERS:
        return f._operand(node, 0, at)
    e = f._operand(node, 0, at) if source in _INTEGERS and target == ir.DataType.INT32 else None
    # sizes and coordinates fit; what a caller's data holds may not
    return e if isinstance(e, Condition) or (e is not None and d.is_size(e)) else None


def filling(value: ir.Value | None) -> float | None:
    """The number that a tensor of floats is filled with."""
    for _ in range(6):
        node = None if value is None else value.producer()
        if ir.is_constant(value):
            found = ir.scalar(value)
            return None if found is None else float(found)
        if node is None or node.domain != "":
            return None
        if node.op_type == "ConstantOfShape":
            given = ir.attr(node, "value")
            return 0.0 if given is None else float(given.numpy().reshape(-1)[0])
        if node.op_type not in ("Expand", *_CARRIERS):
            return None
        value = node.inputs[0]
    return None


@_operator("Expand")
def _expand(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    return f._operand(node, 0, at)


@_operator("ConstantOfShape")
def _constant_of_shape(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    given = ir.attr(node, "value")
    number = 0 if given is None else int(given.numpy().reshape(-1)[0])
    return f.truth(number) if node.outputs[0].dtype == ir.DataType.BOOL else number


@_operator("Range")
def _range(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    start, delta = (node.inputs[i] for i in (0, 2))
    held = [None if v is None else shapes.elements(v) for v in (start, delta)]
    if held[0] is None or held[1] is None:
        return None
    return d.add(held[0][0], d.mul(held[1][0], at[0]))


@_operator("Unsqueeze")
def _unsqueeze(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    axes = _ints(_input(node, 1))
    x = node.inputs[0]
    if axes is None or x is None:
        return None
    new = {a % len(at) for a in axes}
    return f.at(x, tuple(c for i, c in enumerate(at) if i not in new))


@_operator("Squeeze")
def _squeeze(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    x = node.inputs[0]
    shape = None if x is None else shapes.dims(x)
    axes = _ints(_input(node, 1))
    if x is None or shape is None or axes is None:
        return None
    gone = {a % len(shape) for a in axes}
    left = iter(at)
    return f.at(x, tuple(0 if i in gone else next(left) for i in range(len(shape))))


@_operator("Transpose")
def _transpose(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    perm = ir.attr(node, "perm") or tuple(reversed(range(len(at))))
    x = node.inputs[0]
    if x is None:
        return None
    return f.at(x, tuple(at[perm.index(i)] for i in range(len(at))))


@_operator("Reshape", "Flatten")
def _reshape(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    x, out = node.inputs[0], shapes.dims(node.outputs[0])
    shape = None if x is None else shapes.dims(x)
    if x is None or shape is None or out is None:
        return None
    flat: d.Dim = 0
    for n, c in zip(out, at, strict=True):
        flat = d.add(d.mul(flat, n), c)
    coordinates: list[d.Dim] = []
    for i, n in enumerate(shape):
        below: d.Dim = d.product(shape[i + 1 :])
        if n == 1:
            coordinates.append(0)
            continue
        if isinstance(below, int) and below == 1:
            c, flat = flat, 0
        else:
            c, flat = divide(flat, below)
            if not f.nonnegative(flat):
                return None
            if not f.below(flat, below) and not (_is_input(x) and f.covers(flat, below)):
                return None
        coordinates.append(c)
    return f.at(x, tuple(coordinates)) if flat == 0 else None


@_operator("Slice")
def _slice(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    x = node.inputs[0]
    starts, axes, steps = (_ints(_input(node, i)) for i in (1, 3, 4))
    if x is None or starts is None or any(s < 0 for s in starts):
        return None
    if axes is None and _input(node, 3) is None:
        axes = tuple(range(len(starts)))
    if axes is None or (steps is None and _input(node, 4) is not None) or set(steps or ()) - {1}:
        return None
    moved = list(at)
    for a, start in zip(axes, starts, strict=True):
        moved[a % len(at)] = d.add(moved[a % len(at)], start)
    return f.at(x, tuple(moved))


@_operator("Concat")
def _concat(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    axis = ir.attr(node, "axis", 0) % len(at)
    c = at[axis]
    for x in node.inputs:
        shape = None if x is None else shapes.dims(x)
        if x is None or shape is None:
            return None
        if f.nonnegative(d.sub(d.sub(shape[axis], 1), c)):
            return f.at(x, (*at[:axis], c, *at[axis + 1 :]))
        c = d.sub(c, shape[axis])
        if not f.nonnegative(c):
            return None
    return None


@_operator("Gather")
def _gather(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    x, indices = node.inputs[0], node.inputs[1]
    if x is None or indices is None:
        return None
    shape, inner = shapes.dims(x), shapes.dims(indices)
    if shape is None or inner is None:
        return None
    axis = ir.attr(node, "axis", 0) % len(shape)
    i = f.index(f.at(indices, at[axis : axis + len(inner)]))
    return None if i is None else f.at(x, (*at[:axis], i, *at[axis + len(inner) :]))


@_operator("GatherND")
def _gather_nd(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    x, indices = node.inputs[0], node.inputs[1]
    if x is None or indices is None or ir.attr(node, "batch_dims", 0):
        return None
    inner = shapes.dims(indices)
    if not inner or not isinstance(inner[-1], int):
        return None
    found = []
    for j in range(inner[-1]):
        i = f.index(f.at(indices, (*at[: len(inner) - 1], j)))
        if i is None:
            return None
        found.append(i)
    return f.at(x, (*found, *at[len(inner) - 1 :]))


@_operator("And", "Or")
def _and_or(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    a, b = f._operand(node, 0, at), f._operand(node, 1, at)
    if a is None or b is None:
        return None
    return (f.both if node.op_type == "And" else f.one_of)((f.truth(a), f.truth(b)))


@_operator("Not")
def _not(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    a = f._operand(node, 0, at)
    return None if a is None else f.negation(f.truth(a))


@_operator("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")
def _compare(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    if node.inputs[0] is None or node.inputs[0].dtype not in _INTEGERS | {ir.DataType.BOOL}:
        return None
    a, b = f._operand(node, 0, at), f._operand(node, 1, at)
    if a is None or b is None:
        return None
    if isinstance(a, Condition) or isinstance(b, Condition):
        if isinstance(b, Condition):
            a, b = b, a
        if node.op_type != "Equal" or not isinstance(a, Condition):
            return None
        other = f.truth(b)
        if other not in (TRUE, FALSE) or (isinstance(b, int) and b not in (0, 1)):
            return None
        return a if other == TRUE else f.negation(a)
    gap = d.sub(a, b)
    if node.op_type == "Equal":
        return f.clause("eq", gap)
    if node.op_type.startswith("Less"):
        gap = d.neg(gap)
    return f.clause("ge", gap if node.op_type.endswith("Equal") else d.sub(gap, 1))


@_operator("Where")
def _where(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    c, a, b = (f._operand(node, i, at) for i in range(3))
    if c is None or a is None or b is None:
        return None
    chosen = f.truth(c)
    if chosen in (TRUE, FALSE) or a == b:
        return a if chosen != FALSE else b
    if node.outputs[0].dtype != ir.DataType.BOOL and not {a, b} <= {0, 1}:
        return None
    return f.one_of((f.both((chosen, f.truth(a))), f.both((f.negation(chosen), f.truth(b)))))


@_operator("Add", "Sub", "Mul")
def _arithmetic(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    a, b = f._operand(node, 0, at), f._operand(node, 1, at)
    if a is None or b is None:
        return None
    if isinstance(a, Condition) or isinstance(b, Condition):
        if node.op_type == "Mul" and all(isinstance(e, Condition) or e in (0, 1) for e in (a, b)):
            return f.both((f.truth(a), f.truth(b)))
        if node.op_type == "Sub" and a == 1 and isinstance(b, Condition):
            return f.negation(b)
        return None
    return f._exact(node, {"Add": d.add, "Sub": d.sub, "Mul": d.mul}[node.op_type](a, b))


@_operator("Neg")
def _neg(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    a = f._operand(node, 0, at)
    return None if a is None or isinstance(a, Condition) else f._exact(node, d.neg(a))


@_operator("Trilu")
def _trilu(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    x, given = node.inputs[0], _input(node, 1)
    k = (0,) if given is None else shapes.elements(given)
    if x is None or k is None:
        return None
    off = d.sub(d.sub(at[-1], at[-2]), k[0])
    inside = f.clause("ge", off if ir.attr(node, "upper", 1) else d.neg(off))
    e = f.at(x, at)
    if isinstance(e, Condition) or e in (0, 1):
        return f.both((inside, f.truth(e)))
    return e if inside == TRUE else 0 if inside == FALSE else None


@_operator("Max", "Min")
def _extreme(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    parts = [f._operand(node, i, at) for i in range(len(node.inputs))]
    if any(p is None or isinstance(p, Condition) for p in parts) or not parts:
        return None
    join = d.maximum if node.op_type == "Max" else d.minimum
    out: d.Dim = parts[0]  # type: ignore[assignment]
    for _, b in pairwise(parts):
        out = join(out, b)  # type: ignore[arg-type]
    return out
