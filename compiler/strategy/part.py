"""Some of the samples, and how layers are best rounded for them: schemes tried whole, then mixed.

Where a scheme that breaks the budget is faster than the best that fits, or leaves layers in float, schemes are mixed: each
layer goes to the next closer one in the order of error saved for time lost (``mix.py``), as far as the budget asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..evaluation import turns
from ..evaluation.latency import Paired
from ..passes import float16
from .budget import Budget
from .layers import errors
from .mix import Option, after, chain
from .plan import Choice
from .sensitivity import sensitivities

if TYPE_CHECKING:
    from .search import Candidate, Search

Site = tuple[str, str]
"""A LOSSY rule and the node at which it acts."""

LISTENING = 0.1
"""The part of the search's time that may be spent on how much of each layer's error arrives at the outputs."""

CLOSER = {"int8-outlier": "int8", "int8-row": "int8"}
"""Schemes that compute what another one does and more, so that they are never faster."""

UNKNOWN = 1.0
"""Error of a layer of which there is no estimate: all of its output, so that it is among the first to go."""


@dataclass(frozen=True)
class Fit:
    """A choice of layers that is faster and inside the budget, for the case that the one chosen fails where it is judged.

    Attributes:
        timed: False where the speed is an estimate.
    """

    speed: float
    error: float
    sites: tuple[Site, ...]
    smooth: dict[str, float]
    timed: bool = True


@dataclass
class Tried:
    """A scheme that is faster and inside the budget, as far as it goes."""

    scheme: str
    sites: list[Site]
    paired: Paired
    error: float
    smooth: dict[str, float] = field(default_factory=dict)

    @property
    def fit(self) -> Fit:
        return Fit(self.paired.ratio, self.error, tuple(self.sites), self.smooth)


def _nodes(sites: Iterable[Site]) -> set[str]:
    return {node for _, node in sites}


def own(scheme: str, found: Iterable[Site]) -> set[Site]:
    """The sites of a scheme without those that are only in float16 around what it rounds."""
    return {site for site in found if site[0] != float16.NAME or scheme == float16.NAME}


class Part:
    """The samples with these numbers, all of those that run one body.

    Attributes:
        what: which samples, in words; "" for all.
        build: makes a candidate of a choice of layers and of smoothed activations.
        winner: the fastest choice inside the budget, or None; ``fits``: all that are faster and inside it.
        faster: speed of the schemes that are faster than float, and ``breached``, those of them that break the budget.
        total: microseconds of the float model over all samples, once options were looked at.
        errors, arrived: of each site at the layer's own output, and what of it arrives at the model's.
    """

    def __init__(
        self, s: Search, best: Candidate, found: dict[str, list[Site]], samples: Sequence[int], what: str,
        build: Callable[[Sequence[Site], dict[str, float]], Candidate],
    ) -> None:  # fmt: skip
        self.s, self.best, self.found, self.samples, self.what, self.build = s, best, found, samples, what, build
        self.feeds = [s.feeds[i] for i in samples]
        self.winner: Tried | None = None
        self.fits: list[Fit] = []
        self.faster: dict[str, float] = {}
        self.breached: set[str] = set()
        self.smooth: dict[str, float] = {}
        self.verdicts: dict[str, str] = {}
        self.total = 0.0
        self.errors: dict[Site, float] = {}
        self.arrived: dict[Site, float] = {}

    def judge(
        self, scheme: str, candidate: Candidate, chosen: list[Site], smooth: dict[str, float], label: str,
        before: Tried | None = None,
    ) -> tuple[Tried | None, str | None]:  # fmt: skip
        """Measure a candidate; None where it is not faster, and why it is outside the budget where it is.

        ``before``: the same with less preparation. What is still outside the budget is not timed again: it runs the same kernels.
        """
        s = self.s
        differences = s.differences(candidate.session, self.samples)
        known = before is not None and s.budget.breach(differences) is not None
        p = before.paired if before is not None and known else s.compare(self.best, candidate, chosen, self.samples)
        # A metric runs all of the data: not for what is no faster anyway.
        breach = s.breach(candidate.session, differences) if p.verdict == "faster" else s.budget.breach(differences)
        error = Budget.error(differences)
        against = f"float{self.what}" if self.what else ""
        s.record(f"{label}{self.what}", p, p.verdict == "faster" and breach is None, error, breach or "", against, candidate)
        if p.verdict != "faster":
            self.verdicts[scheme] = f"as {scheme} the model is {p.text}{self.what}"
            return None, breach
        return Tried(scheme, chosen, p, error, smooth), breach

    def wants(self, tried: Tried | None, breach: str | None) -> bool:
        """Would a scheme that is outside the budget be of use inside it? What brings it there makes it no faster."""
        if tried is None or breach is None:
            return False
        won = self.winner
        return won is None or tried.paired.ratio > won.paired.ratio or not _nodes(tried.sites) <= _nodes(won.sites)

    def waits(self, scheme: str) -> bool:
        """Is the scheme not faster, by what it is or by the table, than one that reaches its layers inside the budget?"""
        s, won, sites = self.s, self.winner, self.found[scheme]
        if won is None or not _nodes(sites) <= _nodes(won.sites):
            return False
        if CLOSER.get(scheme) == won.scheme:
            return True
        told, best = (s.foretold(self.best, x, self.samples) for x in (sites, won.sites))
        return told is not None and best is not None and told <= best

    def settle(self, scheme: str, tried: Tried | None, breach: str | None) -> None:
        """Note what became of a whole scheme; the winner where it fits the budget and is the fastest so far."""
        if tried is None:
            return
        self.faster[scheme] = tried.paired.ratio
        self.smooth = tried.smooth or self.smooth
        if breach is not None:
            self.breached.add(scheme)
            self.verdicts[scheme] = f"with all layers as {scheme} the budget is exceeded: {breach}"
            return
        self.take(tried)

    def take(self, tried: Tried) -> None:
        """It is the winner where it is the fastest so far."""
        self.fits.append(tried.fit)
        lost: Tried | None = tried
        if self.winner is None or tried.paired.ratio > self.winner.paired.ratio:
            lost, self.winner = self.winner, tried
        if lost is not None:
            self.verdicts[lost.scheme] = f"as {lost.scheme} the model is {lost.paired.text}{self.what}"

    def mix(self) -> None:
        """A scheme for each layer, as fast as the budget allows, by bisection over the chain of choices to a 32nd of it."""
        s, won = self.s, self.winner
        nodes = {node for scheme in self.faster for _, node in self.found[scheme]}
        if won is not None and nodes == {node for _, node in won.sites} and max(self.faster.values()) <= won.paired.ratio:
            return
        if not nodes or not s.time_left("a mixture of schemes was"):
            return
        s.say("estimating what each layer loses and gains in each scheme")
        options = self.options(nodes)
        start, steps = chain(options)
        low, high, fits = -1, len(steps), None
        if {o.what for o in start.values()} in [set(self.found[scheme]) for scheme in self.breached]:
            low = 0
        if won is not None:  # a mixture that takes longer than the winner need not be built
            taken = dict.fromkeys(nodes) | {site[1]: site for site in won.sites}
            bound = sum(o.time for node, what in taken.items() for o in options[node] if o.what == what)
            high = next((k for k in range(high) if sum(o.time for o in after(start, steps, k).values()) >= bound), high)
        told = [sum(o.error for o in after(start, steps, k).values()) for k in range(len(steps) + 1)]
        allowed = 0.0 if s.budget.cosine is None else 1 - s.budget.cosine
        inside: list[Fit] = []
        room, guesses = allowed, 0 if s.budget.cosine is None else 2
        while high - low > max(1, len(steps) // 32) and s.time_left("more mixtures of schemes were"):
            # The errors add up well enough to say where to look first, and, corrected by what came out, second.
            guess = next((k for k in range(low + 1, high) if told[k] <= room), high - 1)
            middle, guesses = guess if guesses > 0 else (low + high) // 2, guesses - 1
            chosen = sorted(o.what for o in after(start, steps, middle).values() if o.what is not None)
            s.say(f"trying {self.counted(chosen)}{self.what}")
            candidate = self.build(chosen, self.smooth)
            differences = s.differences(candidate.session, self.samples)
            room = allowed * told[middle] / max(Budget.error(differences), 1e-9)
            if s.breach(candidate.session, differences) is not None:
                low = middle
                s.drop(candidate)
                continue
            if fits is not None:
                s.drop(fits[0])
            high, fits = middle, (candidate, chosen)
            left = sum(o.time for o in after(start, steps, middle).values()) - sum(own[0].time for own in options.values())
            # Each scheme's gain was measured alone: what they are foretold to gain together can be more than there is.
            most = max(self.faster.values())
            speed = self.total / max(self.total + left, self.total / most)
            inside.append(Fit(speed, Budget.error(differences), tuple(chosen), self.smooth, timed=False))
        unknown = any(o.what is not None and o.what not in self.errors for o in start.values())
        if unknown and low > 0 and s.time_left("a mixture without what breaks the budget was"):
            # Where nothing is known of errors the order says nothing: what comes before the step that helps need not go.
            # That step may be the one that was not built because everything up to it is no faster than the winner.
            alone = sorted(o.what for o in (start | dict(steps[low:high])).values() if o.what is not None)
            s.say(f"trying {self.counted(alone)}{self.what}")
            candidate = self.build(alone, self.smooth)
            lost: Candidate | None = candidate
            if s.breach(candidate.session, s.differences(candidate.session, self.samples)) is None:
                lost, fits = None if fits is None else fits[0], (candidate, alone)
            if lost is not None:
                s.drop(lost)
        if fits is None:
            return
        tried, _ = self.judge("mix", *fits, self.smooth, self.counted(fits[1]))
        s.drop(fits[0])
        if tried is not None:
            self.fits += [fit for fit in inside if set(fit.sites) != set(tried.sites)]
            self.take(tried)

    def options(self, nodes: set[str]) -> dict[str, list[Option[Site | None]]]:
        """For each layer float and the schemes that are faster: microseconds over all samples, its part in the outputs' error.

        A scheme is taken to speed up all its layers by the same factor: the one that explains the speed of the whole.
        """
        s = self.s
        sites = [site for scheme in self.faster for site in self.found[scheme]]
        self.errors |= errors(self.best.fused, sites, self.feeds, s.threads, self.smooth, s.weights)
        until = turns.clock() + LISTENING * s.seconds
        arriving = sensitivities(
            self.best.fused, sorted(nodes), self.feeds, s.keep, s.threads, lambda: turns.clock() < until
        )
        runs = s.profiled(self.best, self.samples)
        total = sum(sum(times.values()) for times in runs)
        spent = {node: sum(times.get(node, 0.0) for times in runs) for node in nodes}
        mean = sum(spent.values()) / len(nodes)  # of nodes that the runtime renames nothing is known
        found: dict[str, list[Option[Site | None]]] = {n: [Option(None, t or mean, 0.0)] for n, t in spent.items()}
        wholes = {scheme: sum(found[node][0].time for _, node in self.found[scheme]) for scheme in self.faster}
        # Profiled times are not quite those of the comparisons: no scheme may seem to take no time at all.
        total = min(total, *(0.9 * wholes[scheme] / (1 - 1 / ratio) for scheme, ratio in self.faster.items()))
        self.total = total
        for scheme, ratio in self.faster.items():
            left = 1 - (1 - 1 / ratio) * total / wholes[scheme] if wholes[scheme] else 1.0
            for site in sorted(own(scheme, self.found[scheme])):
                layer = found[site[1]]
                if site in self.errors:
                    self.arrived[site] = self.errors[site] * arriving[site[1]]
                layer.append(Option(site, left * layer[0].time, self.arrived.get(site, UNKNOWN)))
        return found

    def counted(self, chosen: Sequence[Site]) -> str:
        """How many layers there are of each scheme, in words."""
        kept = set(chosen)
        schemes = Counter({scheme: len(own(scheme, found) & kept) for scheme, found in self.found.items()})
        return ", ".join(f"{n} layers {scheme}" for scheme, n in schemes.items() if n) or "no layer"

    def choices(self, won: Tried | None) -> dict[Site, Choice]:
        """A reason for every layer, where ``won`` is what was chosen for these samples."""
        made: dict[Site, Choice] = {}
        for scheme, found in self.found.items():
            for site in found:
                own = self.errors.get(site)
                alone = "" if own is None else f"error at its own output {own:.2g}; "
                if won is not None and site in won.sites:
                    made[site] = Choice(True, f"{alone}all that is kept together is {won.paired.text}", won.paired.ratio, own)
                else:
                    made[site] = Choice(False, alone + self.verdicts.get(scheme, "not tried: no time was left"), error=own)
        return made
