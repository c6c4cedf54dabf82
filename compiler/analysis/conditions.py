"""Conditions on integers: conjunctions of clauses in a normal form, which ``functions.py`` builds."""

from __future__ import annotations

from dataclasses import dataclass, field

from . import dims as d

_MOST_CLAUSES = 64
"""Clauses of a condition, those of alternatives included; a larger one is not looked through."""


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
