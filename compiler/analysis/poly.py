"""Polynomials over atoms, the representation behind ``dims``: construction, ring arithmetic, exact division.

An :class:`Atom` is a symbol (an integer >= 0), an integer of unknown sign, or an opaque term over dims. Atoms are
interned; a :class:`Poly` is a sorted tuple of (monomial, coefficient), so equality is a comparison of tuples. What
would grow beyond any size of a real model raises OverflowError: shape rules take that as "unknown".
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

SYMBOL, INTEGER, FLOOR, MAX, MIN, BROADCAST = "symbol", "integer", "floor", "max", "min", "broadcast"
_ORDER = {SYMBOL: 0, INTEGER: 1, FLOOR: 2, MAX: 3, MIN: 4, BROADCAST: 5}

# Beyond these no size of a model goes; what a crafted file would blow up raises OverflowError instead.
_MOST_TERMS, _HIGHEST_DEGREE, _LARGEST, _DEEPEST = 512, 24, 1 << 128, 24
_LONGEST = 4096


class Atom:
    """What a polynomial is over. Interned: two equal atoms are one object.

    Attributes:
        leaves: the symbols and integers that it is made of, itself where it is one.
        depth: how deep opaque atoms nest in it.
    """

    __slots__ = ("args", "depth", "key", "kind", "leaves", "name")

    kind: str
    name: str
    args: tuple[Dim, ...]
    key: tuple[int, str]
    leaves: tuple[Atom, ...]
    depth: int

    def __init__(self, kind: str, name: str, args: tuple[Dim, ...]) -> None:
        self.kind = kind
        self.name = name
        self.args = args
        self.key = (_ORDER[kind], name)
        inner = [a for d in args if isinstance(d, Poly) for m, _ in d.terms for a in m]
        self.leaves = tuple(dict.fromkeys(x for a in inner for x in a.leaves)) if args else (self,)
        self.depth = max((a.depth for a in inner), default=-1) + 1 if args else 0
        if self.depth > _DEEPEST:
            raise OverflowError("a size nests too deep")

    def __repr__(self) -> str:
        return self.name


Monomial = tuple[Atom, ...]
_atoms: dict[tuple[str, Any], Atom] = {}


def atom(kind: str, name: str | None, args: tuple[Dim, ...] = ()) -> Atom:
    """The atom of this kind with this name (symbols, integers) or these arguments (opaque ones)."""
    key = (kind, name if name is not None else args)
    found = _atoms.get(key)
    if found is None:
        if name is None:
            if kind == FLOOR:
                top, bottom = (str(a) if isinstance(a, int) or len(a.terms) == 1 else f"({a})" for a in args)
                if "*" in bottom or "/" in bottom:
                    bottom = f"({bottom})"
                name = f"floor({top}/{bottom})"
            else:
                name = f"{kind}({', '.join(str(a) for a in args)})"
            if len(name) > _LONGEST:
                raise OverflowError("a size is too long")
        found = _atoms[key] = Atom(kind, name, args)
    return found


def monomial_key(m: Monomial) -> tuple[int, list[tuple[int, str]]]:
    return (-len(m), [a.key for a in m])


def _term_key(term: tuple[Monomial, int]) -> tuple[int, list[tuple[int, str]]]:
    return monomial_key(term[0])


def atom_key(a: Atom) -> tuple[int, str]:
    return a.key


class Poly:
    """A non-constant polynomial; immutable. Made by the functions of this module, never directly."""

    __slots__ = ("_hash", "_text", "terms")

    terms: tuple[tuple[Monomial, int], ...]

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]) -> None:
        self.terms = terms
        self._hash = hash(terms)
        self._text: str | None = None

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Poly) and self._hash == other._hash and self.terms == other.terms

    def __str__(self) -> str:
        if self._text is None:
            self._text = _text(self.terms)
        return self._text

    def __repr__(self) -> str:
        return f"Poly({self})"

    def __add__(self, other: Dim) -> Dim:
        return add(self, other)

    __radd__ = __add__

    def __sub__(self, other: Dim) -> Dim:
        return sub(self, other)

    def __rsub__(self, other: Dim) -> Dim:
        return sub(other, self)

    def __mul__(self, other: Dim) -> Dim:
        return mul(self, other)

    __rmul__ = __mul__

    def __neg__(self) -> Dim:
        return neg(self)


Dim = int | Poly


def _text(terms: tuple[tuple[Monomial, int], ...]) -> str:
    parts: list[str] = []
    for m, c in terms:
        size = abs(c)
        factors = [a.name for a in m]
        if size != 1 or not factors:
            factors.insert(0, str(size))
        sign = ("-" if c < 0 else "") if not parts else (" - " if c < 0 else " + ")
        parts.append(sign + "*".join(factors))
    return "".join(parts)


def make(terms: dict[Monomial, int]) -> Dim:
    """The dim with these terms."""
    kept = [(m, c) for m, c in terms.items() if c]
    if not kept:
        return 0
    if len(kept) > 1:
        if len(kept) > _MOST_TERMS:
            raise OverflowError("a size has too many terms")
        kept.sort(key=_term_key)
    elif not kept[0][0]:
        return kept[0][1]
    return Poly(tuple(kept))


def of_atom(a: Atom) -> Poly:
    """The dim that is this atom."""
    return Poly((((a,), 1),))


def terms_of(d: Dim) -> tuple[tuple[Monomial, int], ...]:
    """The terms of any dim, an int's too."""
    if isinstance(d, int):
        return (((), d),) if d else ()
    return d.terms


@lru_cache(maxsize=4096)
def symbol(name: str) -> Poly:
    """The size called ``name``: an integer >= 0, the same wherever the name is the same."""
    return of_atom(atom(SYMBOL, name))


class Supply:
    """A source of new symbols, each equal to itself only. One model has one, so that its names are deterministic."""

    def __init__(self, prefix: str = "?") -> None:
        self.prefix = prefix
        self.count = 0

    def fresh(self) -> Poly:
        """A size (>= 0) about which nothing else is known."""
        self.count += 1
        return of_atom(atom(SYMBOL, f"{self.prefix}{self.count}"))

    def unknown(self) -> Poly:
        """An integer of unknown sign about which nothing else is known."""
        self.count += 1
        return of_atom(atom(INTEGER, f"{self.prefix}{self.count}"))

    def reset(self) -> None:
        self.count = 0


_supply = Supply("?_")


def fresh(supply: Supply | None = None) -> Poly:
    """A new size; from the process-wide supply where none is given."""
    return (supply or _supply).fresh()


def unknown(supply: Supply | None = None) -> Poly:
    """A new integer of unknown sign; from the process-wide supply where none is given."""
    return (supply or _supply).unknown()


def add(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int):
        if isinstance(b, int):
            return a + b
        if a == 0:
            return b
    elif b == 0:
        return a
    out = dict(terms_of(a))
    for m, c in terms_of(b):
        out[m] = out.get(m, 0) + c
    return make(out)


def neg(a: Dim) -> Dim:
    return -a if isinstance(a, int) else Poly(tuple((m, -c) for m, c in a.terms))


def sub(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a - b
    if a == b:
        return 0
    return add(a, neg(b))


def mul(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int):
        if isinstance(b, int):
            return a * b
        a, b = b, a
    if isinstance(b, int):
        if b == 0:
            return 0
        if b == 1:
            return a
        if abs(b) > _LARGEST:
            raise OverflowError("a size is too large")
        return Poly(tuple((m, c * b) for m, c in a.terms))
    if len(a.terms) * len(b.terms) > 8 * _MOST_TERMS:
        raise OverflowError("a size has too many terms")
    out: dict[Monomial, int] = {}
    for m, c in a.terms:
        for n, e in b.terms:
            both = tuple(sorted(m + n, key=atom_key)) if m and n else m or n
            out[both] = out.get(both, 0) + c * e
            if len(both) > _HIGHEST_DEGREE or abs(out[both]) > _LARGEST:
                raise OverflowError("a size is too large")
    return make(out)


def product(items: Iterable[Dim]) -> Dim:
    out: Dim = 1
    for d in items:
        out = mul(out, d)
    return out


def total(items: Iterable[Dim]) -> Dim:
    """The sum."""
    out: dict[Monomial, int] = {}
    for d in items:
        for m, c in terms_of(d):
            out[m] = out.get(m, 0) + c
    return make(out)


def without(m: Monomial, part: Monomial) -> Monomial | None:
    """``m / part``, or None where ``part`` does not divide it."""
    rest = list(m)
    for a in part:
        if a not in rest:
            return None
        rest.remove(a)
    return tuple(rest)


def divide(p: Dim, q: Dim) -> tuple[Dim, Dim]:
    """Polynomials (a, r) with ``p = a*q + r``, by leading terms; r is 0 exactly where q divides p over the integers."""
    lead, by = terms_of(q)[0]
    left = dict(terms_of(p))
    rest: dict[Monomial, int] = {}
    quotient: dict[Monomial, int] = {}
    while left:
        m = min(left, key=monomial_key)
        c = left[m]
        part = without(m, lead)
        k = c // by if part is not None else 0
        if part is None or k == 0:
            rest[m] = left.pop(m)
            continue
        quotient[part] = quotient.get(part, 0) + k
        for n, e in terms_of(q):
            both = tuple(sorted(part + n, key=atom_key))
            now = left.get(both, 0) - k * e
            if now:
                left[both] = now
            else:
                left.pop(both, None)
        if m in left:  # c was no multiple of by: what is left of this term is remainder
            rest[m] = left.pop(m)
    return make(quotient), make(rest)


def divide_exact(p: Dim, q: Dim) -> Dim | None:
    """The dim ``a`` with ``p = a*q`` as polynomials, or None. It is ``p/q`` where q is not 0, as the caller knows."""
    if q == 0:
        return None
    if isinstance(p, int) and isinstance(q, int):
        return p // q if p % q == 0 else None
    if p == q:
        return 1
    a, r = divide(p, q)
    return a if r == 0 else None
