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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np

from .. import ir
from ..assumptions import COVERS_KEYS
from . import dims as d
from . import shapes
from .conditions import FALSE, TRUE, Clause, Condition
from .function_rules import CARRIERS, OPERATORS, WHOLE, filling
from .poly import atom, make, of_atom, terms_of, without
from .shape_rules.core import OWN

__all__ = [
    "FALSE", "LARGEST_BAND", "TRUE", "Clause", "Condition", "Element", "Functions", "Read", "coordinate", "filling", "holds",
    "keeps_a_key",
]  # fmt: skip

_DEEPEST = 120
"""Nodes between the value asked for and what is looked at; each takes a few frames of Python's stack."""
_LARGEST = 1 << 16
"""Elements of a constant that is searched for a simple form."""
LARGEST_BAND = 1 << 24
"""The same of one that may let each row see a band of columns: what is causal is kept for the longest text."""

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

    def at(self, value: ir.Value, coordinates: Coordinates) -> Element | None:
        """The element of ``value``, which has as many axes as there are coordinates. Of floats only whole numbers are followed,
        made of sizes and coordinates; None for others."""
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
                if value.dtype not in WHOLE:
                    return None  # a fraction, for all that is known
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
        found = self.at(value, coordinates)
        assert found is not None  # as of a float
        return self.truth(found)

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
        same = held is not None and len(set(held)) == 1
        if held is not None and (same or all(isinstance(c, int) for c in at)):
            found = held[0] if same else held[at[0]]  # type: ignore[index]
            return self.truth(found) if value.dtype == ir.DataType.BOOL else found
        if ir.is_constant(value):
            return self._constant(value, at)
        node = value.producer()
        if node is None or node.domain != "" or node.outputs[0] is not value or OWN in value.meta:
            return None
        if value.dtype not in WHOLE and (value.dtype != ir.DataType.FLOAT or node.op_type not in CARRIERS):
            return None
        rule = OPERATORS.get(node.op_type)
        return rule(self, node, at) if rule is not None else None

    def _constant(self, value: ir.Value, at: Coordinates) -> Element | None:
        t = ir.tensor(value)
        if value.dtype == ir.DataType.FLOAT:
            number = ir.scalar(value)
            return int(number) if number is not None and abs(number) < 1 << 24 and number == int(number) else None
        if t is None or not t.size or value.dtype not in WHOLE or t.size > LARGEST_BAND:
            return None
        a = t.numpy()
        if (band := self.band(a, at)) is not None or t.size > _LARGEST:
            return band
        first = int(a.flat[0])
        if all(isinstance(c, int) for c in at):
            found: d.Dim = int(a[at])
        elif (a == a.flat[0]).all():
            found = first
        else:  # an arithmetic progression along each axis
            steps = [int(a.take(1, i).flat[0]) - first if n > 1 else 0 for i, n in enumerate(a.shape)]
            grid = sum((s * i for s, i in zip(steps, np.indices(a.shape), strict=True)), start=np.int64(first))
            if a.dtype == bool or not np.array_equal(a, grid):
                return None
            found = first
            for step, c in zip(steps, at, strict=True):
                found = d.add(found, d.mul(step, c))
        return self.truth(found) if value.dtype == ir.DataType.BOOL else found

    def band(self, a: np.ndarray, at: Coordinates) -> Condition | None:
        """Ones and zeros that depend on row minus column alone: the ones lie between two diagonals, or the zeros do. The same
        for every head, where there are several."""
        if a.ndim < 2 or min(a.shape[-2:]) < 2:
            return None
        tables = a.reshape(-1, *a.shape[-2:])
        table = tables[0]
        if not np.array_equal(table[1:, 1:], table[:-1, :-1]) or not np.isin(table, (0, 1)).all():
            return None
        if not (tables == table).all():
            return None
        # from the top right corner along the first row, then down the first column
        diagonals = np.concatenate([table[0, ::-1], table[1:, 0]]).astype(bool)
        changes = np.flatnonzero(diagonals[1:] != diagonals[:-1]) + 1
        if not 1 <= changes.size <= 2:
            return None
        inside = not diagonals[0] if changes.size == 2 else bool(diagonals[-1])
        *_, row, column = at
        ahead = d.sub(d.add(d.sub(row, column), a.shape[-1] - 1), int(changes[0]))
        bounds = [self.clause("ge", ahead)]
        if changes.size == 2:
            bounds.append(self.clause("ge", d.sub(int(changes[1] - changes[0]) - 1, ahead)))
        found = self.both(bounds)
        return found if inside else self.negation(found)

    def exact(self, node: ir.Node, e: d.Dim) -> d.Dim | None:
        """The result of integer arithmetic, where it does not wrap: with sizes and entries below 2**31 in int64;
        with sizes below 2**24 and no entries in int32."""
        dtype = node.outputs[0].dtype
        if dtype not in (ir.DataType.INT64, ir.DataType.INT32):
            return None
        whole, size, entry = (63, 31, 31) if dtype == ir.DataType.INT64 else (31, 24, 31)
        largest = sum(abs(c) << sum(size if d.is_size(of_atom(a)) else entry for a in m) for m, c in terms_of(e))
        return e if largest < 1 << whole else None

    def operand(self, node: ir.Node, i: int, at: Coordinates) -> Element | None:
        """Input ``i`` of an elementwise operator, at the coordinates of its output; None where that is not known."""
        value, out = node.inputs[i], shapes.dims(node.outputs[0])
        shape = None if value is None else shapes.dims(value)
        if value is None or shape is None or out is None:
            return None
        coordinates = self._aligned(shape, out, at)
        return None if coordinates is None else self.at(value, coordinates)

    def _aligned(self, shape: Sequence[d.Dim], out: Sequence[d.Dim], at: Coordinates) -> Coordinates | None:
        coordinates: list[d.Dim] = []
        fitted, _ = d.met(shape, out)
        for n, whole, c in zip(fitted, out[len(out) - len(shape) :], at[len(at) - len(shape) :], strict=True):
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


def holds(mask: ir.Value, shape: Sequence[d.Dim]) -> bool:
    """Is it proved that a boolean mask of scores of this shape is true everywhere?"""
    mask_dims = shapes.dims(mask)
    if mask_dims is None or len(mask_dims) > len(shape):
        return False
    functions = Functions(shape)
    at = tuple(coordinate(i) for i in range(len(shape)))
    return functions.condition(mask, at[len(shape) - len(mask_dims) :]) == TRUE and not functions.assumed


def keeps_a_key(mask: ir.Value, shape: Sequence[d.Dim]) -> bool:
    """Is it proved that a boolean mask of scores of this shape leaves every query a key: the first, or its own?"""
    mask_dims = shapes.dims(mask)
    if mask_dims is None or len(mask_dims) > len(shape):
        return False
    at = tuple(coordinate(i) for i in range(len(shape)))
    own = d.add(at[-2], d.sub(shape[-1], shape[-2]))
    functions = Functions(shape)
    for key in (0, own):
        if functions.nonnegative(key) and functions.condition(mask, (*at[:-1], key)[-len(mask_dims) :]) == TRUE:
            return not functions.assumed
    return False
