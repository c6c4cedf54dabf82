"""Which layers are rounded, and how. Every scheme is tried whole, cut back to what the budget allows, and measured.

1. All layers that a scheme's rules fit are rounded. Where that is faster but outside the budget, activations are smoothed,
   if there was data to calibrate on; where that does not suffice, layers are ordered by the error that each causes at its
   own output, and the longest run of small errors that fits the budget is kept.
2. The fastest of the schemes that fit is kept; what it had to leave in float is tried in the others.

The order of least harm first, and stopping where the budget is spent, is that of post-training mixed precision (Nagel et
al. 2021, "A White Paper on Neural Network Quantization", section 5).
"""

from __future__ import annotations

import time
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
from ..rewriter import Rewriter, why
from ..rules import Rule
from ..session import SessionOptions
from .budget import Budget
from .layers import ESTIMATES, alphas, errors
from .plan import Choice
from .rounding import least_squares

if TYPE_CHECKING:
    from .search import Candidate, Search

Site = tuple[str, str]
"""A LOSSY rule and the node at which it acts."""

SCHEMES: dict[str, tuple[str, ...]] = {
    "int8": (
        "int8-linear", "stored-int8-linear", "int8-conv", "int8-add", "int8-mul", "int8-concat",
        "int8-hard-sigmoid", "int8-sigmoid", "int8-leaky-relu", "int8-average-pool", "int8-global-average-pool",
    ),
    "int8-block": ("int8-block-linear",),
    "int4-block": ("int4-block-linear",),
}
"""A LOSSY rule that no scheme names is a scheme of its own."""

STATIC = frozenset(SCHEMES["int8"]) - {"int8-linear", "stored-int8-linear"}
"""Rules that act only where calibration saw what a value ranges over."""

ASKED: dict[str, tuple[str, ...]] = {
    "int8": ("int8", "int8-block"), "int4": ("int8-block", "int4-block"), "none": (),
}  # fmt: skip
"""Schemes by what a user asks for: what it wants, and a closer one for layers that would break the budget. ``auto``: all."""

ROUNDING = 0.25
"""The part of the search's time that rounding by least squares may take; the layers that it does not reach are rounded to
the nearest."""


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
    left: dict[Site, str] = field(default_factory=dict)


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
    if job.winner is not None:
        job.complete()
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
        known[scheme] = [site for site in found if not any(kept_float(nodes[site[1]], p) for p in s.keep_float)
                         and not s.ctx.skip & {site[0], "@".join(site)}]  # fmt: skip
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
        self.faster: set[str] = set()
        self.verdicts: dict[str, str] = {}
        self.errors: dict[Site, float] = {}
        self.closer: list[Site] = []

    def build(self, chosen: Sequence[Site], smooth: dict[str, float]) -> Candidate:
        return self.s.build(self.folder, self.groups, by_rule(chosen), self.best.model, smooth)

    def consider(self, scheme: str) -> None:
        """Try a scheme; it becomes the winner where it is the fastest so far."""
        tried = self.try_whole(scheme)
        if tried is None:
            return
        if self.winner is None or tried.paired.ratio > self.winner.paired.ratio:
            tried, self.winner = self.winner, tried
        if tried is not None:
            self.verdicts[tried.scheme] = f"as {tried.scheme} the model is {tried.paired.text}"
            self.s.drop(tried.candidate)

    def try_whole(self, scheme: str) -> Tried | None:
        s, found = self.s, self.found[scheme]
        s.say(f"trying {len(found)} layers as {scheme}")
        tried, breach = self.judge(scheme, self.build(found, {}), found, {}, f"all {len(found)} layers {scheme}")
        if tried is not None and breach is not None and s.facts and s.real:
            tried, breach = self.prepared(scheme, tried, breach)
        if tried is None:
            return None
        if breach is None:
            if scheme == "int8-block":
                self.closer = found
            return tried
        s.drop(tried.candidate)
        return self.longest_prefix(scheme, breach, tried.smooth)

    def prepared(self, scheme: str, tried: Tried, breach: str) -> tuple[Tried, str | None]:
        """The whole with activations smoothed (int8) or weights rounded by least squares (int4), where that has less error."""
        s, found, smooth = self.s, self.found[scheme], {}
        nodes = {node for _, node in found}
        if scheme == "int8":
            s.say("smoothing activations")
            smooth = alphas(self.best.model, nodes, s.feeds, s.target, s.threads)
            what = f"{len(smooth)} activations smoothed"
        elif scheme == "int4-block":
            s.say("rounding weights to 4 bits by least squares")
            until = time.perf_counter() + ROUNDING * s.seconds
            s.weights = least_squares(
                self.best.model, nodes, s.feeds, s.keep, s.target, s.threads, lambda: time.perf_counter() < until
            )
            what = f"{len(s.weights)} weights by least squares"
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
        self.faster.add(scheme)
        if breach is None:
            s.fits.append(Fit(p.ratio, error, tuple(chosen), smooth))
        return Tried(scheme, chosen, candidate, p, error, smooth), breach

    def longest_prefix(self, scheme: str, breach: str, smooth: dict[str, float]) -> Tried | None:
        """As many of the layers with the smallest errors of their own as the budget allows, by bisection, to a 32nd of all;
        or all but the 32nd that breaks it."""
        found, s = self.found[scheme], self.s
        s.say(f"ordering layers by their own error as {scheme}")
        self.errors |= errors(self.best.model, found, s.feeds, s.target, s.threads, smooth)
        order = sorted(found, key=lambda site: (self.errors.get(site, float("inf")), site))
        low, high, fits = 0, len(order), None
        while high - low > max(1, len(order) // 32):
            if not s.time_left(f"more layers as {scheme} were"):
                breach = f"the time was over; all of them: {breach}"
                break
            middle = (low + high) // 2
            s.say(f"trying the {middle} of {len(order)} layers with the smallest error as {scheme}")
            candidate = self.build(self.with_closer(order[:middle]), smooth)
            if s.budget.breach(s.differences(candidate.session)) is not None:
                high = middle
                s.drop(candidate)
                continue
            if fits is not None:
                s.drop(fits)
            low, fits = middle, candidate
        taken, left = order[:low], order[low:]
        if high < len(order) and s.time_left(f"{scheme} but for {order[low][1]!r} was"):
            # What breaks the budget may do so alone: then the layers after it in the order need not go with it.
            s.say(f"trying all but {high - low} of {len(order)} layers as {scheme}")
            others = [*taken, *order[high:]]
            candidate = self.build(self.with_closer(others), smooth)
            if s.budget.breach(s.differences(candidate.session)) is None:
                taken, left, fits, candidate = others, order[low:high], candidate, fits
            if candidate is not None:
                s.drop(candidate)
        if fits is None:
            self.verdicts[scheme] = f"no number of layers as {scheme} was found that fits the budget: {breach}"
            return None
        chosen = self.with_closer(taken)
        beside = f", {len(chosen) - len(taken)} as int8-block" if len(chosen) > len(taken) else ""
        tried, _ = self.judge(scheme, fits, chosen, smooth, f"{len(taken)} of {len(order)} layers {scheme}{beside}")
        if tried is not None:
            tried.left = dict.fromkeys(left, "with it the budget is exceeded")
        return tried

    def with_closer(self, chosen: list[Site]) -> list[Site]:
        """These layers, and the others in blocks of 8 bits where all layers so fit the budget."""
        taken = {node for _, node in chosen}
        return [*chosen, *(site for site in self.closer if site[1] not in taken)]

    def complete(self) -> None:
        """What the winner leaves in float is tried in the other schemes that were faster."""
        assert self.winner is not None
        for scheme in [x for x in reversed(self.found) if x in self.faster and x != self.winner.scheme]:
            s, taken = self.s, {node for _, node in self.winner.sites}
            rest = [site for site in self.found[scheme] if site[1] not in taken]
            if not rest or not s.time_left(f"the rest as {scheme} was"):
                continue
            s.say(f"trying the {len(rest)} layers that are left as {scheme}")
            both = [*self.winner.sites, *rest]
            candidate = self.build(both, self.winner.smooth)
            p = s.pair(self.winner.candidate.session, candidate.session)
            differences = s.differences(candidate.session)
            breach = s.budget.breach(differences)
            kept = p.verdict == "faster" and breach is None
            what, against = f"{len(rest)} more layers {scheme}", f"{len(taken)} layers {self.winner.scheme}"
            s.record(what, p, kept, Budget.error(differences), breach or "", against)
            if kept:
                s.drop(self.winner.candidate)
                paired, error = s.pair(self.best.session, candidate.session), Budget.error(differences)
                s.record(f"{against} and {what}", paired, True, error)
                s.fits.append(Fit(paired.ratio, error, tuple(both), self.winner.smooth))
                self.winner = Tried(
                    self.winner.scheme, both, candidate, paired, error, self.winner.smooth, self.winner.left
                )
            else:
                s.drop(candidate)

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
                    default = self.verdicts.get(scheme, "not tried: no time was left")
                    made[site] = Choice(False, alone + (won.left.get(site, default) if won is not None else default))
        self.s.errors = self.errors
        if won is None:
            return made, self.best
        self.s.smooth = won.smooth
        options = SessionOptions(threads=self.s.threads)
        before, after = (node_times(c.path, self.s.feeds[0], options) for c in (self.best, won.candidate))
        for n in won.candidate.model.graph:  # a rewrite may have given the node that a layer became another name
            if n.name and n.name in after:
                for name in n.metadata_props.get("olc.from", "").split(","):
                    after.setdefault(name, after[n.name])
        self.s.times = before, after
        self.s.drop(self.best)
        return made, won.candidate


def by_rule(chosen: Sequence[Site]) -> dict[str, frozenset[str]]:
    """Node names for each rule."""
    names: dict[str, set[str]] = {}
    for rule, node in chosen:
        names.setdefault(rule, set()).add(node)
    return {r: frozenset(n) for r, n in names.items()}
