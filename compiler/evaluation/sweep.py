"""The same comparison at other sizes of a model's dynamic dims.

A model declares its dynamic dims to be free, and a compiled one has to hold to that: what was proved on one shape may rest
on it. So the two are compared at several values of each dim, on inputs made up; where a user asks for it they are timed, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from ..errors import BadInput, OlcError
from ..ir import Model, Node, all_graphs
from ..session import run
from . import sizes, turns
from .inputs import Plan
from .latency import Paired
from .numerics import OutputDifference, compare
from .padding import Keep, as_it_is

SECONDS = 30.0
"""Wall time after which no more sizes are compared that nobody asked for."""
LATE = "not tried: the time for other sizes was over"
CORNERS = 12
RANDOM = frozenset({
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial",
})  # fmt: skip
THREADS = "threads"
MOST = 64
"""Points of a grid; each takes a second and more."""


@dataclass(frozen=True, eq=False)
class Corner:
    """Sizes of dynamic dims, and inputs of these sizes.

    Attributes:
        sizes: by symbol; ``threads`` among them where others are asked for than otherwise.
        plan: how the inputs are made up, ``number`` which sample it is.
        timed: the two are timed there too.
    """

    sizes: dict[str, int]
    plan: Plan
    number: int = 0
    threads: int | None = None
    timed: bool = False

    @property
    def feed(self) -> dict[str, Any]:
        """The inputs, made anew each time: those of a large grid would not fit into memory together.

        Raises:
            BadInput: they alone do not fit.
        """
        try:
            return self.plan.make(self.number)
        except (MemoryError, ValueError, OverflowError) as e:
            raise BadInput(f"no inputs can be made with {self.text}: {e}", where="--sweep", hint="give smaller sizes") from e

    @property
    def text(self) -> str:
        return ", ".join(f"{symbol}={size}" for symbol, size in self.sizes.items())


@dataclass(frozen=True)
class Point:
    """What was found at one corner.

    Attributes:
        outputs: one record per output; none where the reference does not run with these sizes.
        problem: why the reference does not run, or "".
        failure: why the candidate does not run where the reference does, or "".
        paired: the timing of the two, where it was asked for.
    """

    corner: Corner
    outputs: list[OutputDifference]
    problem: str = ""
    failure: str = ""
    paired: Paired | None = None

    def why_not(self, exact: bool = True) -> str | None:
        """The first difference, in words; where not ``exact`` only one of shape, or of where there is no number."""
        if self.failure:
            return f"with {self.corner.text} it does not run: {self.failure}"
        for d in self.outputs:
            reason = d.why_not()
            if reason is not None and (exact or d.problem is not None or d.misplaced > 0):
                return f"with {self.corner.text} output {d.name!r}: {reason}"
        return None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "sizes": self.corner.sizes,
            "within": None if self.problem else not self.failure and all(d.within() for d in self.outputs),
            "cosine": min((d.cosine_min for d in self.outputs if d.cosine_min is not None), default=None),
            "problem": self.problem, "failure": self.failure, "paired": None if self.paired is None else self.paired.to_dict(),
        }  # fmt: skip


def drawn(model: Model) -> str | None:
    """A random operator of the model, if any. A run that is refused in its midst has drawn some numbers, and from there on source
    and artifact would draw others."""
    return next((n.op_type for g in all_graphs(model) for n in g if n.domain == "" and _draws(n)), None)


def _draws(node: Node) -> bool:
    # Dropout does so only where it is told that it is trained: most exports that hold one do not.
    return node.op_type in RANDOM or (node.op_type == "Dropout" and len(node.inputs) > 2 and node.inputs[2] is not None)


def corners(plan: Plan) -> list[Corner]:
    """Inputs of other sizes than the plan's, one sample each: few rows and short ones, so that it takes little time."""
    each = (0, 1) if plan.choices else (0,)  # both ways of a choice
    step = 3 if plan.choices else 1
    found = [_corner(plan, varied, step * i + n) for i, varied in enumerate(sizes.around(plan.sizes)) for n in each]
    return found if len(found) <= CORNERS else [*found[: CORNERS - 1], found[-1]]


def grid(plan: Plan, wanted: Mapping[str, Sequence[int]]) -> list[Corner]:
    """Inputs of every combination of the sizes wanted, by symbol or by kind of dim; ``threads`` is one more of these.

    Raises:
        BadInput: the model has no such dim, or there are more than ``MOST`` combinations.
    """
    points = [dict(zip(wanted, values, strict=True)) for values in product(*wanted.values())] if wanted else []
    if len(points) > MOST:
        raise BadInput(f"{len(points)} combinations of sizes, the most are {MOST}", where="--sweep", hint="give fewer sizes")
    found = []
    for point in points:
        threads = point.pop(THREADS, None) if THREADS not in plan.sizes.kinds else None
        made = _corner(plan, sizes.at(plan.sizes, point), 0)
        named = {s: v for s, v in made.plan.sizes.values.items() if s in point or made.plan.sizes.kinds[s] in point}
        sized = {**named, **made.sizes} if threads is None else {**named, **made.sizes, THREADS: threads}
        found.append(replace(made, sizes=sized, threads=None if threads is None else max(1, threads), timed=True))
    return found


def _corner(plan: Plan, varied: sizes.Sizes, number: int) -> Corner:
    usual = plan.sizes
    changed = {s: v for s, v in varied.values.items() if (v, varied.origin[s]) != (usual.values.get(s), usual.origin.get(s))}
    return Corner(changed, replace(plan, sizes=varied), number)


def swept(opened: Sequence[Any], paths: Sequence[str], at: Iterable[Corner], keep: Keep = as_it_is) -> Iterator[Point]:
    """Reference and candidate at each corner. Sizes with which the reference does not run, or of which there are no inputs, say
    nothing of the candidate. After ``SECONDS`` only what a user asked for goes on."""
    until = turns.clock() + SECONDS
    for corner in at:
        found: list[dict[str, Any]] = []
        if not corner.timed and turns.clock() > until:
            yield Point(corner, [], LATE)
            continue
        try:
            feed = corner.feed
            for session, path in zip(opened, paths, strict=True):
                found.append(run(session, feed, where=path))
        except OlcError as e:
            if corner.timed and isinstance(e, BadInput):
                raise  # a user's own sizes, of which no inputs can be made
            yield Point(corner, [], e.what if not found else "", e.what if found else "")
            continue
        yield Point(corner, compare(*([keep(feed, outputs)] for outputs in found)))
