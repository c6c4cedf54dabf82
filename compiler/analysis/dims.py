"""Symbolic sizes: a dim is an ``int`` or a :class:`Poly`, and two dims are the same size when the objects are equal.

A ``Poly`` is a polynomial with integer coefficients over *atoms*: symbols (integers >= 0, the sizes of a model),
integers of unknown sign, and opaque terms such as ``floor((s + 1)/2)`` whose arguments are dims again. It is
canonical, so that equality is a comparison of tuples: a constant is never a ``Poly`` but an ``int``, the remainder is
written with floor (``p mod q`` = ``p - q*floor(p/q)``), and floor holds no part that divides exactly.

Dims may be 0. Whatever is proved here holds for every value of the symbols; where a caller knows more (the divisor of
a division that took place was not 0) it says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from math import gcd
from typing import Any

__all__ = [
    "Atom", "Dim", "Poly", "Supply", "add", "all_names", "at_least", "broadcast", "ceildiv", "divide_exact", "evaluate", "floordiv",
    "fresh", "is_nonnegative", "is_positive", "is_size", "known_different", "known_equal", "maximum", "minimum", "mod", "mul",
    "neg", "parse", "product", "sub", "substitute", "symbol", "symbols", "total", "unknown",
]  # fmt: skip

SYMBOL, INTEGER, FLOOR, MAX, MIN, BROADCAST = "symbol", "integer", "floor", "max", "min", "broadcast"
_ORDER = {SYMBOL: 0, INTEGER: 1, FLOOR: 2, MAX: 3, MIN: 4, BROADCAST: 5}

# The bounds of `is_nonnegative`: how many bounds it may substitute one after another, and on how long a polynomial.
_DEPTH, _TERMS = 4, 24


class Atom:
    """What a polynomial is over. Interned: two equal atoms are one object."""

    __slots__ = ("args", "key", "kind", "name")

    kind: str
    name: str
    args: tuple[Dim, ...]
    key: tuple[int, str]

    def __init__(self, kind: str, name: str, args: tuple[Dim, ...]) -> None:
        self.kind = kind
        self.name = name
        self.args = args
        self.key = (_ORDER[kind], name)

    def __repr__(self) -> str:
        return self.name


Monomial = tuple[Atom, ...]
_atoms: dict[tuple[str, Any], Atom] = {}


def _atom(kind: str, name: str | None, args: tuple[Dim, ...] = ()) -> Atom:
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
        found = _atoms[key] = Atom(kind, name, args)
    return found


def _monomial_key(m: Monomial) -> tuple[int, list[tuple[int, str]]]:
    return (-len(m), [a.key for a in m])


def _term_key(term: tuple[Monomial, int]) -> tuple[int, list[tuple[int, str]]]:
    return _monomial_key(term[0])


def _atom_key(a: Atom) -> tuple[int, str]:
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

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return mod(self, other)

    def __rmod__(self, other: Dim) -> Dim:
        return mod(other, self)


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


def _make(terms: dict[Monomial, int]) -> Dim:
    kept = [(m, c) for m, c in terms.items() if c]
    if not kept:
        return 0
    if len(kept) > 1:
        kept.sort(key=_term_key)
    elif not kept[0][0]:
        return kept[0][1]
    return Poly(tuple(kept))


def _of_atom(a: Atom) -> Poly:
    return Poly((((a,), 1),))


def _terms(d: Dim) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(d, int):
        return (((), d),) if d else ()
    return d.terms


# ---------------------------------------------------------------------------------------------------- making


@lru_cache(maxsize=4096)
def symbol(name: str) -> Poly:
    """The size called ``name``: an integer >= 0, the same wherever the name is the same."""
    return _of_atom(_atom(SYMBOL, name))


class Supply:
    """A source of new symbols, each equal to itself only. One model has one, so that its names are deterministic."""

    def __init__(self, prefix: str = "?") -> None:
        self.prefix = prefix
        self.count = 0

    def fresh(self) -> Poly:
        """A size (>= 0) about which nothing else is known."""
        self.count += 1
        return _of_atom(_atom(SYMBOL, f"{self.prefix}{self.count}"))

    def unknown(self) -> Poly:
        """An integer of unknown sign about which nothing else is known."""
        self.count += 1
        return _of_atom(_atom(INTEGER, f"{self.prefix}{self.count}"))

    def reset(self) -> None:
        self.count = 0


_supply = Supply("?_")


def fresh(supply: Supply | None = None) -> Poly:
    """A new size; from the process-wide supply where none is given."""
    return (supply or _supply).fresh()


def unknown(supply: Supply | None = None) -> Poly:
    """A new integer of unknown sign; from the process-wide supply where none is given."""
    return (supply or _supply).unknown()


# ------------------------------------------------------------------------------------------------ arithmetic


def add(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int):
        if isinstance(b, int):
            return a + b
        if a == 0:
            return b
    elif b == 0:
        return a
    out = dict(_terms(a))
    for m, c in _terms(b):
        out[m] = out.get(m, 0) + c
    return _make(out)


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
        return a if b == 1 else Poly(tuple((m, c * b) for m, c in a.terms))
    out: dict[Monomial, int] = {}
    for m, c in a.terms:
        for n, e in b.terms:
            both = tuple(sorted(m + n, key=_atom_key)) if m and n else m or n
            out[both] = out.get(both, 0) + c * e
    return _make(out)


def product(items: Iterable[Dim]) -> Dim:
    out: Dim = 1
    for d in items:
        out = mul(out, d)
    return out


def total(items: Iterable[Dim]) -> Dim:
    """The sum."""
    out: Dim = 0
    for d in items:
        out = add(out, d)
    return out


def _without(m: Monomial, part: Monomial) -> Monomial | None:
    """``m / part``, or None where ``part`` does not divide it."""
    rest = list(m)
    for a in part:
        if a not in rest:
            return None
        rest.remove(a)
    return tuple(rest)


def _divmod(p: Dim, q: Dim) -> tuple[Dim, Dim]:
    """Polynomials (a, r) with ``p = a*q + r``, by leading terms; r is 0 exactly where q divides p over the integers."""
    lead, by = _terms(q)[0]
    left = dict(_terms(p))
    rest: dict[Monomial, int] = {}
    quotient: dict[Monomial, int] = {}
    while left:
        m = min(left, key=_monomial_key)
        c = left[m]
        part = _without(m, lead)
        k = c // by if part is not None else 0
        if part is None or k == 0:
            rest[m] = left.pop(m)
            continue
        quotient[part] = quotient.get(part, 0) + k
        for n, e in _terms(q):
            both = tuple(sorted(part + n, key=_atom_key))
            now = left.get(both, 0) - k * e
            if now:
                left[both] = now
            else:
                left.pop(both, None)
        if m in left:  # c was no multiple of by: what is left of this term is remainder
            rest[m] = left.pop(m)
    return _make(quotient), _make(rest)


def divide_exact(p: Dim, q: Dim) -> Dim | None:
    """The dim ``a`` with ``p = a*q`` as polynomials, or None. It is ``p/q`` wherever q is not 0, which the caller knows."""
    if q == 0:
        return None
    if isinstance(p, int) and isinstance(q, int):
        return p // q if p % q == 0 else None
    if p == q:
        return 1
    a, r = _divmod(p, q)
    return a if r == 0 else None


def floordiv(p: Dim, q: Dim, nonzero: bool = False) -> Dim:
    """``floor(p / q)``, rounding towards minus infinity.

    Args:
        nonzero: the caller knows that q is not 0 at run time (the division took place).

    Raises:
        ZeroDivisionError: q is the constant 0.
    """
    if isinstance(q, int):
        if isinstance(p, int) or q == 1:
            return p // q if isinstance(p, int) else p
        if q == 0:
            raise ZeroDivisionError("dim divided by zero")
        if q < 0:
            p, q = neg(p), -q
        return _floor_by_int(p, q)
    if p == 0 and nonzero:
        return 0
    if not nonzero and not is_positive(q) and not is_positive(neg(q)):
        return _of_atom(_atom(FLOOR, None, (p, q)))
    if p == q:
        return 1
    whole, rest = _divmod(p, q)
    if rest == 0:
        return whole
    rest, q = _cancel(rest, q)
    if isinstance(q, int):
        return add(whole, floordiv(rest, q))
    if is_nonnegative(rest) and is_positive(sub(q, rest)):
        return whole
    return add(whole, _of_atom(_atom(FLOOR, None, (rest, q))))


def _cancel(p: Dim, q: Dim) -> tuple[Dim, Dim]:
    """p and q without the factors that divide every term of both; q is known not to be 0, so neither are its factors."""
    terms = (*_terms(p), *_terms(q))
    number = gcd(*(c for _, c in terms))
    common = list(terms[0][0])
    for m, _ in terms[1:]:
        rest = list(m)
        kept = []
        for a in common:
            if a in rest:
                rest.remove(a)
                kept.append(a)
        common = kept
    part = tuple(common)

    def divide(d: Dim) -> Dim:
        return _make({_without(m, part) or (): c // number for m, c in _terms(d)})

    return divide(p), divide(q)


def _floor_by_int(p: Dim, q: int) -> Dim:
    whole: dict[Monomial, int] = {}
    rest: dict[Monomial, int] = {}
    for m, c in _terms(p):
        if c // q:
            whole[m] = c // q
        if c % q:
            rest[m] = c % q
    a = _make(whole)
    if all(not m for m in rest):
        return a  # only a constant below q is left
    # floor((g*A + c) / (g*Q)) = floor((A + floor(c/g)) / Q)
    constant = rest.pop((), 0)
    g = gcd(q, *rest.values())
    if g > 1:
        rest = {m: c // g for m, c in rest.items()}
        constant //= g
        q //= g
        if q == 1:
            return add(a, _make({**rest, (): constant}))
    # floor((floor(n/k) + r) / q) = floor((n + k*r) / (k*q)) for integers r and k > 0
    for m, c in rest.items():
        if c == 1 and len(m) == 1 and m[0].kind == FLOOR:
            n, k = m[0].args
            if isinstance(k, int) and k > 0:
                others = _make({**{n_: e for n_, e in rest.items() if n_ is not m}, (): constant})
                return add(a, _floor_by_int(add(n, mul(others, k)), k * q))
    if constant:
        rest[()] = constant
    return add(a, _of_atom(_atom(FLOOR, None, (_make(rest), q))))


def ceildiv(p: Dim, q: Dim, nonzero: bool = False) -> Dim:
    """``ceil(p / q)``."""
    return neg(floordiv(neg(p), q, nonzero))


def mod(p: Dim, q: Dim, nonzero: bool = False) -> Dim:
    """``p - q*floor(p/q)``: the remainder with the sign of q."""
    return sub(p, mul(q, floordiv(p, q, nonzero)))


def _flat(kind: str, a: Dim, b: Dim) -> list[Dim]:
    out: list[Dim] = []
    for d in (a, b):
        only = _single(d)
        out.extend(only.args if only is not None and only.kind == kind else (d,))
    return out


def _single(d: Dim) -> Atom | None:
    """The atom that the dim is, where it is one atom and nothing else."""
    if isinstance(d, Poly) and len(d.terms) == 1:
        m, c = d.terms[0]
        if c == 1 and len(m) == 1:
            return m[0]
    return None


def _dim_key(d: Dim) -> tuple[int, str]:
    return (0, str(d)) if isinstance(d, Poly) else (1, str(d))


def maximum(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)
    return _extreme(MAX, a, b, lambda x, y: is_nonnegative(sub(x, y)))


def minimum(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    return _extreme(MIN, a, b, lambda x, y: is_nonnegative(sub(y, x)))


def _extreme(kind: str, a: Dim, b: Dim, beats: Callable[[Dim, Dim], bool]) -> Dim:
    kept: list[Dim] = []
    for d in _flat(kind, a, b):
        if any(beats(k, d) for k in kept):
            continue
        kept = [k for k in kept if not beats(d, k)]
        kept.append(d)
    if len(kept) == 1:
        return kept[0]
    return _of_atom(_atom(kind, None, tuple(sorted(kept, key=_dim_key))))


def broadcast(a: Dim, b: Dim) -> Dim | None:
    """The size of two dims broadcast together, given that they can be; None where they cannot.

    Of two sizes that are not provably related the result is the atom ``broadcast(a, b)``: the one that is not 1.
    """
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    if isinstance(a, int):
        if isinstance(b, int):
            return None
        return a  # b is a or 1
    if isinstance(b, int):
        return b
    args = list(dict.fromkeys(_flat(BROADCAST, a, b)))
    kept: list[Dim] = []
    for d in args:
        if any(_covers(k, d) for k in kept):
            continue
        kept = [k for k in kept if not _covers(d, k)]
        kept.append(d)
    if len(kept) == 1:
        return kept[0]
    return _of_atom(_atom(BROADCAST, None, tuple(sorted(kept, key=_dim_key))))


def _covers(a: Dim, b: Dim) -> bool:
    """True where ``a`` is the result of broadcasting a and b, whenever they can be broadcast."""
    if is_nonnegative(sub(a, 2)):
        return True
    only = _single(b)
    # b = min(a, others): b <= a, so they differ only where b is 1, or where b is 0 and a is 1, which others >= 1 exclude
    if only is not None and only.kind == MIN and a in only.args:
        return all(o == a or is_positive(o) for o in only.args)
    return False


# ---------------------------------------------------------------------------------------------------- proofs


def is_nonnegative(d: Dim) -> bool:
    """True where the dim is proved >= 0 for all values of the symbols."""
    return d >= 0 if isinstance(d, int) else _nonnegative(d, _DEPTH)


def is_positive(d: Dim) -> bool:
    """True where the dim is proved >= 1."""
    return d > 0 if isinstance(d, int) else is_nonnegative(add(d, -1))


def at_least(d: Dim, k: Dim) -> bool:
    """True where ``d >= k`` is proved."""
    return is_nonnegative(sub(d, k))


def known_equal(a: Dim, b: Dim) -> bool:
    return a == b


def known_different(a: Dim, b: Dim) -> bool:
    """True where no value of the symbols makes the two equal."""
    gap = sub(a, b)
    if isinstance(gap, int):
        return gap != 0
    if is_positive(gap) or is_positive(neg(gap)):
        return True
    # 2*x + 1 is never 0: no multiple of g is the constant part
    constant = dict(gap.terms).get((), 0)
    g = gcd(*(c for m, c in gap.terms if m))
    return constant % g != 0


@lru_cache(maxsize=1 << 16)
def _nonnegative(p: Poly, depth: int) -> bool:
    if all(c > 0 and _nonnegative_monomial(m, depth) for m, c in p.terms):
        return True
    if depth == 0 or len(p.terms) > _TERMS:
        return False
    for i, (m, c) in enumerate(p.terms):
        rest = p.terms[:i] + p.terms[i + 1 :]
        for a in dict.fromkeys(m):
            if a.kind in (SYMBOL, INTEGER):
                continue
            others = _without(m, (a,)) or ()
            if not _nonnegative_monomial(others, depth - 1):
                continue
            scaled = _make({others: c})
            for bound, by in _bounds(a, upper=c < 0):
                # c*others*a >= c*others*bound/by, so by*p >= by*rest + c*others*bound
                weaker = add(mul(_make(dict(rest)), by), mul(scaled, bound))
                if weaker >= 0 if isinstance(weaker, int) else _nonnegative(weaker, depth - 1):
                    return True
    return False


def _nonnegative_monomial(m: Monomial, depth: int) -> bool:
    return all(a.kind == SYMBOL or _nonnegative_atom(a, depth) or m.count(a) % 2 == 0 for a in m)


def _nonnegative_atom(a: Atom, depth: int) -> bool:
    def shown(d: Dim) -> bool:
        return d >= 0 if isinstance(d, int) else depth > 0 and _nonnegative(d, depth - 1)

    if a.kind == FLOOR:
        # a zero divisor never gets this far: the operator that divides would have failed
        return shown(a.args[0]) and shown(a.args[1])
    if a.kind == MAX:
        return any(shown(d) for d in a.args)
    if a.kind == MIN:
        return all(shown(d) for d in a.args)
    return a.kind == BROADCAST


def _bounds(a: Atom, upper: bool) -> Iterable[tuple[Dim, int]]:
    """Bounds of an atom as (bound, by), by > 0, meaning ``a <= bound/by`` or ``a >= bound/by``."""
    if a.kind == FLOOR:
        p, q = a.args
        if isinstance(q, int) and q > 0:
            yield (p, q) if upper else (add(p, 1 - q), q)
        elif upper and is_positive(q) and is_nonnegative(p):
            yield p, 1
    elif (a.kind == MIN and upper) or (a.kind == MAX and not upper):
        for d in a.args:
            yield d, 1


# ------------------------------------------------------------------------------------------- reading, writing


def symbols(d: Dim) -> frozenset[str]:
    """The names of all symbols (not of integers of unknown sign) in the dim, those inside opaque atoms included."""
    return frozenset() if isinstance(d, int) else frozenset(a.name for a in _leaves(d) if a.kind == SYMBOL)


def all_names(d: Dim) -> frozenset[str]:
    """The names of all symbols and integers of unknown sign in the dim."""
    return frozenset() if isinstance(d, int) else frozenset(a.name for a in _leaves(d))


def is_size(d: Dim) -> bool:
    """True where the dim is made of sizes only: no integer that a caller's data decides."""
    return isinstance(d, int) or all(a.kind == SYMBOL for a in _leaves(d))


@lru_cache(maxsize=1 << 14)
def _leaves(p: Poly) -> tuple[Atom, ...]:
    out: dict[Atom, None] = {}
    for m, _ in p.terms:
        for a in m:
            if a.kind in (SYMBOL, INTEGER):
                out[a] = None
            for d in a.args:
                if isinstance(d, Poly):
                    out.update(dict.fromkeys(_leaves(d)))
    return tuple(out)


def substitute(d: Dim, values: Mapping[str, Dim]) -> Dim:
    """The dim with symbols (and integers of unknown sign) replaced by name; names that are missing stay."""
    if isinstance(d, int):
        return d
    if not any(a.name in values for a in _leaves(d)):
        return d
    out: Dim = 0
    for m, c in d.terms:
        term: Dim = c
        for a in m:
            term = mul(term, _substitute_atom(a, values))
        out = add(out, term)
    return out


def _substitute_atom(a: Atom, values: Mapping[str, Dim]) -> Dim:
    if a.kind in (SYMBOL, INTEGER):
        return values.get(a.name, _of_atom(a))
    args = [substitute(d, values) for d in a.args]
    if a.kind == FLOOR:
        return floordiv(args[0], args[1])
    join = {MAX: maximum, MIN: minimum, BROADCAST: broadcast}[a.kind]
    out: Dim | None = args[0]
    for d in args[1:]:
        if out is not None:
            out = join(out, d)
    if out is None:
        raise ValueError(f"{a} cannot be broadcast with {dict(values)}")
    return out


def evaluate(d: Dim, values: Mapping[str, int]) -> int:
    """The number that the dim is.

    Raises:
        KeyError: a symbol has no value.
        ValueError: sizes in a broadcast do not fit.
        ZeroDivisionError: a divisor is 0.
    """
    if isinstance(d, int):
        return d
    for a in _leaves(d):
        if a.name not in values:
            raise KeyError(a.name)
    out = substitute(d, values)
    assert isinstance(out, int)
    return out


def parse(text: str) -> Dim | None:
    """The dim that an exporter's text means (``s0 + s70``, ``2*seq``, ``(seq + 1)//2``), or None where it is no such text.

    A text that looks like a name is a name: ``batch-size`` is one symbol.
    """
    from ._dim_text import parse as read

    return read(text)
