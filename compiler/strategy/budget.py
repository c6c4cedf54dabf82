"""The accuracy budget: how far a lossy rewrite may move a model's outputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..evaluation.metrics import Drop, Score

MARGIN = 0.85
"""The part of the room that choosing may use."""


@dataclass(frozen=True)
class Budget:
    """Bounds on the distance from the source model.

    Attributes:
        cosine: lowest cosine of any floating-point output, in the worst sample.
        top1: lowest share of rows that keep their best class, where an output is a distribution over classes.
        drop: how much worse than the source's a metric may be, where there are metrics.
        named: the bounds that a user gave; of the others it does no harm where they fit no output.

    Where cosine and top1 are None metrics alone say how near outputs must be.
    """

    cosine: float | None = 0.99
    top1: float | None = 0.99
    drop: Drop = field(default_factory=Drop)
    named: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Bounds as a user writes them: ``cosine>=0.995``, ``top1>=0.99``, or both with a comma.

        Raises:
            ValueError: says what is wrong.
        """
        found: dict[str, float] = {}
        for part in (p for p in text.split(",") if p):
            name, _, bound = (x.strip() for x in part.partition(">="))
            try:
                found[name] = float(bound)
            except ValueError:
                found[name] = -1.0
            if name not in ("cosine", "top1") or not 0 <= found[name] <= 1:
                raise ValueError(f"{part!r} is not cosine>=BOUND or top1>=BOUND with a bound from 0 to 1")
        return cls(found.get("cosine", cls.cosine), found.get("top1", cls.top1), named=frozenset(found))

    def for_choosing(self) -> Budget:
        """The bounds while choosing, a little inside these: the inputs that judge afterwards are others."""
        cosine, top1 = (None if bound is None else 1.0 - MARGIN * (1.0 - bound) for bound in (self.cosine, self.top1))
        return Budget(cosine, top1, self.drop.scaled(MARGIN), self.named)

    def breach(self, differences: Iterable[Any], scores: Iterable[Score] = ()) -> str | None:
        """The first output or metric that is outside the budget, in words, or None. Takes ``numerics.OutputDifference``.

        No score is asked for where an output is outside.
        """
        for d in differences:
            if d.problem is not None:
                return f"output {d.name!r}: {d.problem}"
            if d.misplaced:
                return f"output {d.name!r}: {d.misplaced} elements are NaN or infinite on one side only"
            if d.cosine is None and d.mismatches and self.cosine is not None:
                return f"output {d.name!r}: {d.mismatches} of {d.elements} elements differ"
            if self.cosine is not None and d.cosine_min is not None and d.cosine_min < self.cosine:
                return f"output {d.name!r}: cosine {_short(d.cosine_min)} is below {_short(self.cosine)}"
            if self.top1 is not None and d.top1 is not None and d.top1 < self.top1:
                return f"output {d.name!r}: top-1 agreement {d.top1:.1%} is below {self.top1:.0%}"
        return next((why for s in scores if (why := s.breach(self.drop)) is not None), None)

    @staticmethod
    def error(differences: Iterable[Any]) -> float:
        """One number for the distance: 1 - the lowest cosine."""
        return max((1.0 - d.cosine_min for d in differences if d.cosine_min is not None), default=0.0)


def _short(cosine: float) -> str:
    """A cosine with four digits, or as many more as show that it is not 1."""
    return f"{cosine:.4f}" if cosine < 0.9999 else f"1 - {1 - cosine:.2g}"
