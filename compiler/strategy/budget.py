"""The accuracy budget: how far a lossy rewrite may move a model's outputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

MARGIN = 0.85
"""The part of the room that choosing may use."""


@dataclass(frozen=True)
class Budget:
    """Bounds on the distance from the source model.

    Attributes:
        cosine: lowest cosine of any floating-point output, in the worst sample.
        top1: lowest share of rows that keep their best class, where an output is a distribution over classes.
    """

    cosine: float = 0.99
    top1: float = 0.99

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
        return cls(**found)

    def for_choosing(self) -> Budget:
        """The bounds while choosing, a little inside these: the inputs that judge afterwards are others."""
        return Budget(*(1.0 - MARGIN * (1.0 - bound) for bound in (self.cosine, self.top1)))

    def breach(self, differences: Iterable[Any]) -> str | None:
        """The first output that is outside the budget, in words, or None. Takes ``numerics.OutputDifference``."""
        for d in differences:
            if d.problem is not None:
                return f"output {d.name!r}: {d.problem}"
            if d.misplaced:
                return f"output {d.name!r}: {d.misplaced} elements are NaN or infinite on one side only"
            if d.cosine is None and d.mismatches:
                return f"output {d.name!r}: {d.mismatches} of {d.elements} elements differ"
            if d.cosine_min is not None and d.cosine_min < self.cosine:
                return f"output {d.name!r}: cosine {d.cosine_min:.4f} is below {self.cosine}"
            if d.top1 is not None and d.top1 < self.top1:
                return f"output {d.name!r}: top-1 agreement {d.top1:.1%} is below {self.top1:.0%}"
        return None

    @staticmethod
    def error(differences: Iterable[Any]) -> float:
        """One number for the distance: 1 - the lowest cosine."""
        return max((1.0 - d.cosine_min for d in differences if d.cosine_min is not None), default=0.0)
