"""Which scheme for which layer: the least time for a bound on the error, layers being independent of each other.

Where time + price x error is least for each layer alone, no other choice has both less time and less error in sum. As the
price rises from 0, one layer after another goes to a closer option: a chain from the fastest choice to the closest
(Shoham and Gersho 1988, "Efficient bit allocation for an arbitrary set of quantizers").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Option(Generic[T]):
    """One way to compute a layer: what it takes, in any unit, and the error that it causes, in any other."""

    what: T
    time: float
    error: float


def chain(layers: Mapping[str, Sequence[Option[T]]]) -> tuple[dict[str, Option[T]], list[tuple[str, Option[T]]]]:
    """The fastest option of each layer, and the steps to closer ones, those first that save most error for their time.

    The first k steps, for any k, give a choice that none beats in both sums. A layer without options is left out.
    """
    start: dict[str, Option[T]] = {}
    steps: list[tuple[float, str, int, Option[T]]] = []
    for name, options in layers.items():
        if not options:
            continue
        current = start[name] = min(options, key=lambda o: (o.time, o.error))
        for i in range(len(options)):
            closer = [o for o in options if o.error < current.error]
            if not closer:
                break
            following = max(closer, key=lambda o: ((current.error - o.error) / (o.time - current.time), -o.error))
            steps.append(((current.error - following.error) / (following.time - current.time), name, i, following))
            current = following
    steps.sort(key=lambda s: (-s[0], s[1], s[2]))
    return start, [(name, option) for _, name, _, option in steps]


def after(start: dict[str, Option[T]], steps: Sequence[tuple[str, Option[T]]], k: int) -> dict[str, Option[T]]:
    """The choice after the first k steps of a chain."""
    return start | dict(steps[:k])
