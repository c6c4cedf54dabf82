"""Symbolic sizes: a dim is an ``int`` or a :class:`Poly`, and two dims are the same size when the objects are equal.

A ``Poly`` is a polynomial with integer coefficients over *atoms*: symbols (integers >= 0, the sizes of a model),
integers of unknown sign, and opaque terms such as ``floor((s + 1)/2)`` whose arguments are dims again. It is
canonical, so that equality is a comparison of tuples: a constant is never a ``Poly`` but an ``int``, the remainder is
written with floor (``p mod q`` = ``p - q*floor(p/q)``), and floor holds no part that divides exactly.

Dims may be 0. Whatever is proved here holds for every value of the symbols; where a caller knows more (the divisor of
a division that took place was not 0) it says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from math import gcd

from .poly import (
    BROADCAST,
    FLOOR,
    INTEGER,
    MAX,
    MIN,
    SYMBOL,
    Atom,
    Dim,
    Monomial,
    Poly,
    Supply,
    add,
    atom,
    divide,
    divide_exact,
    fresh,
    make,
    mul,
    neg,
    of_atom,
    product,
    sub,
    symbol,
    terms_of,
    total,
    unknown,
    without,
)

__all__ = [
    "BROADCAST", "FLOOR", "INTEGER", "MAX", "MIN", "SYMBOL", "Atom", "Dim", "Poly", "Supply", "add", "all_names",
    "at_least", "broadcast", "ceildiv", "divide_exact", "evaluate", "fits", "floordiv", "fresh", "gap", "is_nonnegative",
    "is_positive", "is_size", "known_different", "known_equal", "maximum", "met", "minimum", "mod", "mul", "neg", "parse",
    "parts", "product", "sub", "substitute", "symbol", "symbols", "total", "unknown", "without_floor",
]  # fmt: skip

# How many bounds `is_nonnegative` puts in for atoms one after another, on how long a polynomial, and how many in all.
_DEPTH, _TERMS, _FUEL = 4, 24, 300


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
        return of_atom(atom(FLOOR, None, (p, q)))
    if p == q:
        return 1
    whole, rest = divide(p, q)
    if rest == 0:
        return whole
    rest, q = _cancel(rest, q)
    if isinstance(q, int):
        return add(whole, floordiv(rest, q))
    if is_nonnegative(rest) and is_positive(sub(q, rest)):
        return whole
    return add(whole, of_atom(atom(FLOOR, None, (rest, q))))


def _cancel(p: Dim, q: Dim) -> tuple[Dim, Dim]:
    """p and q without the factors that divide every term of both; q is not 0 in a run, so neither are its factors."""
    terms = (*terms_of(p), *terms_of(q))
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

    def reduced(d: Dim) -> Dim:
        return make({without(m, part) or (): c // number for m, c in terms_of(d)})

    return reduced(p), reduced(q)


def _floor_by_int(p: Dim, q: int) -> Dim:
    whole: dict[Monomial, int] = {}
    rest: dict[Monomial, int] = {}
    for m, c in terms_of(p):
        if c // q:
            whole[m] = c // q
        if c % q:
            rest[m] = c % q
    a = make(whole)
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
            return add(a, make({**rest, (): constant}))
    # floor((floor(n/k) + r) / q) = floor((n + k*r) / (k*q)) for integers r and k > 0
    for m, c in rest.items():
        if c == 1 and len(m) == 1 and m[0].kind == FLOOR:
            n, k = m[0].args
            if isinstance(k, int) and k > 0:
                others = make({**{n_: e for n_, e in rest.items() if n_ is not m}, (): constant})
                return add(a, _floor_by_int(add(n, mul(others, k)), k * q))
    if constant:
        rest[()] = constant
    return add(a, of_atom(atom(FLOOR, None, (make(rest), q))))


def without_floor(p: Dim) -> Dim:
    """A dim that is >= 0 exactly where ``p`` is: ``floor(n/k) + c``, for integers c and k > 0, is so where ``n + c*k`` is."""
    while isinstance(p, Poly):
        c = terms_of(p)[-1][1] if not p.terms[-1][0] else 0
        only = _single(sub(p, c))
        if only is None or only.kind != FLOOR or not isinstance(k := only.args[1], int) or k <= 0:
            break
        p = add(only.args[0], c * k)
    return p


def ceildiv(p: Dim, q: Dim, nonzero: bool = False) -> Dim:
    """``ceil(p / q)``."""
    if isinstance(q, int) and q > 0:
        return floordiv(add(p, q - 1), q)
    return neg(floordiv(neg(p), q, nonzero))


def mod(p: Dim, q: Dim, nonzero: bool = False) -> Dim:
    """``p - q*floor(p/q)``: the remainder with the sign of q."""
    return sub(p, mul(q, floordiv(p, q, nonzero)))


def _flat(kind: str, a: Dim, b: Dim) -> list[Dim]:
    """The arguments of nested atoms of one kind; a constant added to max or min goes to each of their arguments."""
    out: list[Dim] = []
    for d in (a, b):
        more = terms_of(d)[-1][1] if isinstance(d, Poly) and len(d.terms) == 2 and not d.terms[-1][0] else 0
        only = _single(sub(d, more) if more and kind != BROADCAST else d)
        out.extend([add(x, more) for x in only.args] if only is not None and only.kind == kind else [d])
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


def gap(high: Dim, low: Dim) -> Dim:
    """``high - low``, where the first may be a minimum or the second a maximum: written as a minimum of differences."""
    most, least = _single(high), _single(low)
    highs = most.args if most is not None and most.kind == MIN else (high,)
    lows = least.args if least is not None and least.kind == MAX else (low,)
    out: Dim | None = None
    for h in highs:
        for k in lows:
            out = sub(h, k) if out is None else minimum(out, sub(h, k))
    assert out is not None
    return out


def _extreme(kind: str, a: Dim, b: Dim, beats: Callable[[Dim, Dim], bool]) -> Dim:
    kept: list[Dim] = []
    for d in _flat(kind, a, b):
        if any(beats(k, d) for k in kept):
            continue
        kept = [k for k in kept if not beats(d, k)]
        kept.append(d)
    if len(kept) == 1:
        return kept[0]
    return of_atom(atom(kind, None, tuple(sorted(kept, key=_dim_key))))


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
    return of_atom(atom(BROADCAST, None, tuple(sorted(kept, key=_dim_key))))


def _covers(a: Dim, b: Dim) -> bool:
    """True where ``a`` is the result of broadcasting a and b, whenever they can be broadcast."""
    if is_nonnegative(sub(a, 2)):
        return True
    if _tail(b, a):  # equal, or a is 0, and so is the result
        return True
    only = _single(b)
    # b = min(a, others) is at most a: they differ only where b is 1, or b is 0 and a is 1, which others >= 1 exclude
    if only is not None and only.kind == MIN and a in only.args:
        return all(o == a or is_positive(o) for o in only.args)
    return False


def fits(n: Dim, whole: Dim) -> bool:
    """True where an axis of size ``n`` that broadcasts to ``whole``, and not because it is 1, has that size: it is equal, or
    the first ``whole`` entries of a table of at least 2, which ends the run where it has fewer, or the last ``whole`` of
    several, which are as many unless ``whole`` is 0."""
    if _tail(n, whole):
        return True
    only = _single(n)
    if only is None or only.kind != MIN or whole not in only.args:
        return n == whole
    return all(o == whole or is_nonnegative(sub(o, 2)) for o in only.args)


def met(a: Sequence[Dim], b: Sequence[Dim]) -> tuple[tuple[Dim, ...], tuple[Dim, ...]]:
    """Two shapes as they must be where they broadcast together, aligned at the last axis: a size that ``fits`` its
    counterpart is written like that, and what this proves settles the other axes.

    A table's first P + S rows of 64 that meet P + S keys show that P + S <= 64, so its columns P to P + S, which would be
    ``max(min(64 - P, S), 0)``, are S.
    """
    pairs = list(zip(reversed(a), reversed(b), strict=False))
    size = {x: y for one, other in pairs for x, y in ((one, other), (other, one)) if x != y and fits(x, y)}
    if not size:
        return tuple(a), tuple(b)
    facts = [f for x, y in size.items() for f in _shown_by(x, y)]
    first, second = (tuple(_settled(size.get(n, n), facts) for n in shape) for shape in (a, b))
    return first, second


def _shown_by(n: Dim, whole: Dim) -> list[Dim]:
    """What is >= 0 where ``n`` fits: the rest of a table of which the first ``whole`` entries were taken."""
    only = _single(n)
    if only is None or only.kind != MIN or whole not in only.args:
        return []
    return [sub(o, whole) for o in only.args if o != whole]


def _settled(n: Dim, facts: Sequence[Dim]) -> Dim:
    """The dim, where all ``facts`` are >= 0: arguments of extremes that these rule out are gone."""
    out: Dim = 0
    for m, c in terms_of(n):
        term: Dim = c
        for a in m:
            term = mul(term, _settled_extreme(a, facts) if a.kind in (MIN, MAX) else of_atom(a))
        out = add(out, term)
    return out


def _settled_extreme(a: Atom, facts: Sequence[Dim]) -> Dim:
    def beats(x: Dim, y: Dim) -> bool:
        more = sub(x, y) if a.kind == MAX else sub(y, x)
        return is_nonnegative(more) or any(is_nonnegative(sub(more, f)) for f in facts)

    out = _settled(a.args[0], facts)
    for arg in a.args[1:]:
        out = _extreme(a.kind, out, _settled(arg, facts), beats)
    return out


def _tail(n: Dim, whole: Dim) -> bool:
    """True where ``n`` is ``whole`` unless that is 0: the size of ``x[-whole:]``, where -0 takes all."""
    if isinstance(whole, int) or isinstance(n, int):
        return False
    least = minimum(whole, 1)
    return least != 1 and is_nonnegative(whole) and _put(n, least, 1) == whole


def _put(n: Poly, a: Dim, value: int) -> Dim:
    """The dim with a number in place of an atom."""
    at = _single(a)
    out: Dim = 0
    for m, c in n.terms:
        rest = [x for x in m if x != at]
        out = add(out, make({tuple(rest): c * value ** (len(m) - len(rest))}))
    return out


# ---------------------------------------------------------------------------------------------------- proofs


def is_nonnegative(d: Dim) -> bool:
    """True where the dim is proved >= 0 for all values of the symbols."""
    return d >= 0 if isinstance(d, int) else _nonnegative(d)


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
def _nonnegative(p: Poly) -> bool:
    return _shown(p, _DEPTH, [_FUEL])


def _shown(d: Dim, depth: int, fuel: list[int]) -> bool:
    """Search a proof of ``d >= 0``: all terms are >= 0, or become so when atoms are replaced by bounds of theirs."""
    if isinstance(d, int):
        return d >= 0
    fuel[0] -= 1
    if fuel[0] < 0 or depth < 0:
        return False
    if all(c > 0 and _shown_monomial(m, depth, fuel) for m, c in d.terms):
        return True
    if len(d.terms) > _TERMS:
        return False
    for i, (m, c) in enumerate(d.terms):
        for a in dict.fromkeys(m):
            if not a.args:
                continue
            others = without(m, (a,)) or ()
            if not _shown_monomial(others, depth - 1, fuel):
                continue
            rest, scaled = make(dict(d.terms[:i] + d.terms[i + 1 :])), make({others: c})
            for bound, by in _bounds(a, upper=c < 0):
                # c*others*a >= c*others*bound/by, so by*d >= by*rest + c*others*bound
                if _shown(add(mul(rest, by), mul(scaled, bound)), depth - 1, fuel):
                    return True
    return False


def _shown_monomial(m: Monomial, depth: int, fuel: list[int]) -> bool:
    return all(a.kind == SYMBOL or m.count(a) % 2 == 0 or _shown_atom(a, depth, fuel) for a in m)


def _shown_atom(a: Atom, depth: int, fuel: list[int]) -> bool:
    if a.kind == FLOOR:
        # a zero divisor never gets this far: the operator that divides would have failed
        return all(_shown(d, depth - 1, fuel) for d in a.args)
    if a.kind == MAX:
        return any(_shown(d, depth - 1, fuel) for d in a.args)
    if a.kind == MIN:
        return all(_shown(d, depth - 1, fuel) for d in a.args)
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


def parts(d: Dim) -> Iterator[Atom]:
    """The atoms of the dim, those inside opaque atoms included."""
    for a in dict.fromkeys(a for m, _ in terms_of(d) for a in m):
        yield a
        for inner in a.args:
            yield from parts(inner)


def _leaves(p: Poly) -> Iterable[Atom]:
    return (x for m, _ in p.terms for a in m for x in a.leaves)


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
        return values.get(a.name, of_atom(a))
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
    """The dim that an exporter's text means (``s0 + s70``, ``2*seq``, ``(seq + 1)//2``); None where it is no such text.

    A text that looks like a name is a name: ``batch-size`` is one symbol.
    """
    from ._dim_text import parse as read

    return read(text)
