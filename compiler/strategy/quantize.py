"""Which layers are rounded, and how. Every scheme is tried whole, cut back to what the budget allows, and measured.

1. All layers that a scheme's rules fit are rounded. Where that is faster but outside the budget, activations are smoothed
   or weights rounded by least squares, if there was data to calibrate on.
2. Where a scheme that breaks the budget is faster than the best that fits, or leaves layers in float, schemes are mixed:
   each layer goes to the next closer one in the order of error saved for time lost (``mix.py``), as far as the budget asks.
3. The fastest that fits is kept.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from .. import ir
from ..analysis import shapes
from ..evaluation.executed import node_times
from ..evaluation.latency import Paired
from ..ir import Model, Node
from ..matching import Match
from ..passes import Context
from ..quantization.facts import note
from ..rewriter import Rewriter, origins, why
from ..rules import Rule
from ..session import SessionOptions
from .budget import Budget
from .layers import ESTIMATES, alphas, errors
from .mix import Option, after, chain
from .plan import Choice
from .rounding import least_squares
from .sensitivity import sensitivities

if TYPE_CHECKING:
    from .search import Candidate, Search

Site = tuple[str, str]
"""A LOSSY rule and the node at which it acts."""

SCHEMES: dict[str, tuple[str, ...]] = {
    "int8": (
        "int8-linear", "stored-int8-linear", "int8-conv", "int8-add", "int8-mul", "int8-concat",
        "int8-hard-sigmoid", "int8-sigmoid", "int8-leaky-relu", "int8-average-pool", "int8-global-average-pool",
    ),
    "int8-row": ("int8-row-linear",),
    "int8-block": ("int8-block-linear",),
    "int4-block": ("int4-block-linear",),
}
"""A LOSSY rule that no scheme names is a scheme of its own."""

STATIC = frozenset(SCHEMES["int8"]) - {"int8-linear", "stored-int8-linear"}
"""Rules that act only where calibration saw what a value ranges over."""

ASKED: dict[str, tuple[str, ...]] = {
    "int8": ("int8", "int8-row", "int8-block"), "int4": ("int8-block", "int4-block"), "none": (),
}  # fmt: skip
"""Schemes by what a user asks for: what it wants, and a closer one for layers that would break the budget. ``auto``: all."""

ROUNDING = 0.25
"""The part of the search's time that rounding by least squares may take; the layers that it does not reach are rounded to
the nearest."""

LISTENING = 0.1
"""The part of the search's time that may be spent on how much of each layer's error arrives at the outputs."""


@dataclass(frozen=True)
class Fit:
    """A choice of layers that is faster and inside the budget, for the case that the one chosen fails where it is judged."""

    speed: float
    error: float
    sites: tuple[Site, ...]
    smooth: dict[str, float]


@dataclass
class Tried:
    """A scheme that is faster and inside the budget, as far as it goes."""

    scheme: str
    sites: list[Site]
    candidate: Candidate
    paired: Paired
    error: float
    smooth: dict[str, float] = field(default_factory=dict)


def choose(
    s: Search, folder: Path, groups: frozenset[str] | None, best: Candidate
) -> tuple[dict[Site, Choice], Candidate]:
    """What to round, with the reason for each layer, and the model that came out: ``best`` where nothing pays."""
    if s.calibrate is not None and s.quantize != "none":
        s.say("calibrating")
        s.facts = s.calibrate(best.model)
        note(best.model, s.facts)
    found = sites(s, best.model)
    s.reads = {ir.site(n): n.inputs[0].name or "" for n in best.model.graph if n.inputs and n.inputs[0] is not None}
    if not found:
        return {}, best
    job = _Job(s, folder, groups, best, found)
    for scheme in found:
        if not s.time_left(f"{scheme} was", share=0.85):
            break
        job.consider(scheme)
    job.mix()
    return job.choices()


def sites(s: Search, model: Model) -> dict[str, list[Site]]:
    """Places where LOSSY rules fit, by scheme, in the order in which the schemes are tried."""
    shapes.infer(model)
    known: dict[str, list[Site]] = {}
    rules = s.rules.select(["LOSSY"], ir.opset_of(model) or 1, s.target.name)
    asked = [r for r in rules if s.quantize == "auto" or scheme_of(r) in ASKED[s.quantize]]
    nodes = {ir.site(n): n for n in model.graph}
    for r in asked:
        if r.name in ESTIMATES:
            fit = [ir.site(n) for n, m in why(model, r) if isinstance(m, Match) and nodes.get(ir.site(n)) is n]
            known.setdefault(scheme_of(r), []).extend((r.name, name) for name in fit)
    # The others fit beside each other: a sum can be rounded where what it adds was. So they are let loose on a copy.
    for scheme in {scheme_of(r): None for r in asked if r.name not in ESTIMATES}:
        ctx = Context(target=s.target, skip=s.ctx.skip, unassumed=s.ctx.unassumed)
        Rewriter(model.clone(), [r for r in asked if scheme_of(r) == scheme and r.name not in ESTIMATES], ctx).run()
        fired = [(e.by, e.site) for e in ctx.events if e.number is not None and e.site in nodes]
        if fired:
            known.setdefault(scheme, []).extend(fired)
    for scheme, found in known.items():
        known[scheme] = [site for site in found if not any(kept_float(nodes[site[1]], p) for p in s.keep_float)]
    order = [*(ASKED.get(s.quantize) or SCHEMES), *sorted(known.keys() - SCHEMES.keys())]
    return {scheme: sorted(set(known[scheme])) for scheme in order if known.get(scheme)}


def scheme_of(r: Rule) -> str:
    """The scheme that a LOSSY rule belongs to."""
    return next((name for name, members in SCHEMES.items() if r.name in members), r.name)


def kept_float(node: Node, pattern: str) -> bool:
    """Does a user's pattern (``*`` and ``?``) name the node, one of its constants, or the module that it was exported from?"""
    names = [ir.site(node), *(v.name for v in node.inputs if v is not None and v.name and ir.is_constant(v))]
    names += [str(v) for k, v in node.metadata_props.items() if k.endswith("name_scopes") or k == "namespace"]
    return any(fnmatchcase(n, pattern) for n in names)


class _Job:
    def __init__(
        self, s: Search, folder: Path, groups: frozenset[str] | None, best: Candidate, found: dict[str, list[Site]]
    ) -> None:
        self.s, self.folder, self.groups, self.best, self.found = s, folder, groups, best, found
        self.winner: Tried | None = None
        self.faster: dict[str, float] = {}
        self.breached: set[str] = set()
        self.smooth: dict[str, float] = {}
        self.verdicts: dict[str, str] = {}
        self.errors: dict[Site, float] = {}
        self.arriving: dict[str, float] = {}

    def build(self, chosen: Sequence[Site], smooth: dict[str, float]) -> Candidate:
        return self.s.build(self.folder, self.groups, by_rule(chosen), self.best.model, smooth)

    def consider(self, scheme: str) -> None:
        """Try a scheme whole; it becomes the winner where it fits the budget and is the fastest so far."""
        s, found = self.s, self.found[scheme]
        s.say(f"trying {len(found)} layers as {scheme}")
        tried, breach = self.judge(scheme, self.build(found, {}), found, {}, f"all {len(found)} layers {scheme}")
        if tried is not None and breach is not None and s.facts and s.real:
            tried, breach = self.prepared(scheme, tried, breach)
        if tried is None:
            return
        self.faster[scheme] = tried.paired.ratio
        if breach is not None:
            self.breached.add(scheme)
            self.verdicts[scheme] = f"with all layers as {scheme} the budget is exceeded: {breach}"
            s.drop(tried.candidate)
            return
        self.take(tried)

    def take(self, tried: Tried) -> None:
        """It is the winner where it is the fastest so far."""
        if self.winner is None or tried.paired.ratio > self.winner.paired.ratio:
            tried, lost = self.winner, tried
            self.winner = lost
        if tried is not None:
            self.verdicts[tried.scheme] = f"as {tried.scheme} the model is {tried.paired.text}"
            self.s.drop(tried.candidate)

    def prepared(self, scheme: str, tried: Tried, breach: str) -> tuple[Tried, str | None]:
        """The whole with activations smoothed (int8) or weights rounded by least squares (int4), where that has less error."""
        s, found, smooth = self.s, self.found[scheme], self.smooth if scheme == "int8-row" else {}
        nodes = {node for _, node in found}
        if scheme == "int8":
            s.say("smoothing activations")
            smooth = alphas(self.best.model, nodes, s.feeds, s.target, s.threads)
        elif scheme == "int4-block":
            s.say("rounding weights to 4 bits by least squares")
            until = time.perf_counter() + ROUNDING * s.seconds
            s.weights = least_squares(
                self.best.model, nodes, s.feeds, s.keep, s.target, s.threads, lambda: time.perf_counter() < until
            )
        what = f"{len(smooth)} activations smoothed" if smooth else f"{len(s.weights)} weights by least squares"
        if not smooth and not s.weights:
            return tried, breach
        label = f"all {len(found)} layers {scheme}, {what}"
        again, breach_then = self.judge(scheme, self.build(found, smooth), found, smooth, label)
        if again is None or (breach_then is not None and again.error >= tried.error):
            s.weights = {}
            if again is not None:
                s.drop(again.candidate)
            return tried, breach
        s.drop(tried.candidate)
        self.smooth = smooth or self.smooth
        return again, breach_then

    def judge(
        self, scheme: str, candidate: Candidate, chosen: list[Site], smooth: dict[str, float], what: str
    ) -> tuple[Tried | None, str | None]:
        """Measure a candidate; None where it is not faster, and why it is outside the budget where it is."""
        s = self.s
        p = s.pair(self.best.session, candidate.session)
        differences = s.differences(candidate.session)
        breach, error = s.budget.breach(differences), Budget.error(differences)
        s.record(what, p, p.verdict == "faster" and breach is None, error, breach or "")
        if p.verdict != "faster":
            self.verdicts[scheme] = f"as {scheme} the model is {p.text}"
            s.drop(candidate)
            return None, breach
        if breach is None:
            s.fits.append(Fit(p.ratio, error, tuple(chosen), smooth))
        return Tried(scheme, chosen, candidate, p, error, smooth), breach

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
        told = [sum(o.error for o in after(start, steps, k).values() if o.error < float("inf")) for k in range(len(steps) + 1)]
        room, guesses = 1 - s.budget.cosine, 2
        while high - low > max(1, len(steps) // 32) and s.time_left("more mixtures of schemes were"):
            # The errors add up well enough to say where to look first, and, corrected by what came out, second.
            guess = next((k for k in range(low + 1, high) if told[k] <= room), high - 1)
            middle, guesses = guess if guesses > 0 else (low + high) // 2, guesses - 1
            chosen = sorted(o.what for o in after(start, steps, middle).values() if o.what is not None)
            s.say(f"trying {self.counted(chosen)}")
            candidate = self.build(chosen, self.smooth)
            differences = s.differences(candidate.session)
            room = (1 - s.budget.cosine) * told[middle] / max(Budget.error(differences), 1e-9)
            if s.budget.breach(differences) is not None:
                low = middle
                s.drop(candidate)
                continue
            if fits is not None:
                s.drop(fits[0])
            high, fits = middle, (candidate, chosen)
        if fits is None:
            return
        tried, _ = self.judge("mix", *fits, self.smooth, self.counted(fits[1]))
        if tried is not None:
            self.take(tried)

    def options(self, nodes: set[str]) -> dict[str, list[Option[Site | None]]]:
        """For each layer float and the schemes that are faster: microseconds over all samples, its part in the outputs' error.

        A scheme is taken to speed up all its layers by the same factor: the one that explains the speed of the whole.
        """
        s = self.s
        sites = [site for scheme in self.faster for site in self.found[scheme]]
        self.errors |= errors(self.best.model, sites, s.feeds, s.target, s.threads, self.smooth)
        until = time.perf_counter() + LISTENING * s.seconds
        self.arriving = sensitivities(
            self.best.model, sorted(nodes), s.feeds, s.keep, s.target, s.threads, lambda: time.perf_counter() < until
        )
        runs = [node_times(self.best.path, feed, SessionOptions(threads=s.threads)) for feed in s.feeds]
        total = sum(sum(times.values()) for times in runs)
        spent = {node: sum(times.get(node, 0.0) for times in runs) for node in nodes}
        mean = sum(spent.values()) / len(nodes)  # of nodes that the runtime renames nothing is known
        found: dict[str, list[Option[Site | None]]] = {n: [Option(None, t or mean, 0.0)] for n, t in spent.items()}
        wholes = {scheme: sum(found[node][0].time for _, node in self.found[scheme]) for scheme in self.faster}
        # Profiled times are not quite those of the comparisons: no scheme may seem to take no time at all.
        total = min(total, *(0.9 * wholes[scheme] / (1 - 1 / ratio) for scheme, ratio in self.faster.items()))
        for scheme, ratio in self.faster.items():
            left = 1 - (1 - 1 / ratio) * total / wholes[scheme] if wholes[scheme] else 1.0
            for site in self.found[scheme]:
                own = found[site[1]]
                error = self.errors.get(site, float("inf")) * self.arriving[site[1]]
                own.append(Option(site, left * own[0].time, error))
        return found

    def counted(self, chosen: Sequence[Site]) -> str:
        """How many layers there are of each scheme, in words."""
        schemes = Counter(scheme for scheme, found in self.found.items() for _ in set(found) & set(chosen))
        return ", ".join(f"{n} layers {scheme}" for scheme, n in schemes.items()) or "no layer"

    def choices(self) -> tuple[dict[Site, Choice], Candidate]:
        """A reason for every layer, and the model."""
        made: dict[Site, Choice] = {}
        won = self.winner
        for scheme, found in self.found.items():
            for site in found:
                own = self.errors.get(site)
                alone = "" if own is None else f"error at its own output {own:.2g}; "
                if won is not None and site in won.sites:
                    made[site] = Choice(True, f"{alone}all that is kept together is {won.paired.text}", won.paired.ratio)
                else:
                    made[site] = Choice(False, alone + self.verdicts.get(scheme, "not tried: no time was left"))
        self.s.errors = self.errors
        if won is None:
            return made, self.best
        self.s.smooth = won.smooth
        options = SessionOptions(threads=self.s.threads)
        before, after = (node_times(c.path, self.s.feeds[0], options) for c in (self.best, won.candidate))
        self.s.times = before, by_layer(after, won, self.best.model)
        self.s.drop(self.best)
        return made, won.candidate


def by_layer(times: dict[str, float], won: Tried, before: Model) -> dict[str, float]:
    """What the kernels that each layer became take together."""
    layers = {site for _, site in won.sites}
    made_of = {ir.site(n): frozenset(origins(n)) for n in before.graph if ir.site(n) in layers}
    found: dict[str, float] = {}
    for n in won.candidate.model.graph:
        if n.name not in times:
            continue
        whole = set(origins(n))
        of = [layer for layer, parts in made_of.items() if parts <= whole]
        for layer in of:
            found[layer] = found.get(layer, 0.0) + times[n.name] / len(of)
    return found


def by_rule(chosen: Sequence[Site]) -> dict[str, frozenset[str]]:
    """Node names for each rule."""
    names: dict[str, set[str]] = {}
    for rule, node in chosen:
        names.setdefault(rule, set()).add(node)
    return {r: frozenset(n) for r, n in names.items()}
