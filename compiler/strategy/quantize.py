"""Which layers are rounded, and how. Every scheme is tried whole, cut back to what the budget allows, and measured.

1. All layers that a scheme's rules fit are rounded. Where that is faster but outside the budget, they are ordered by the
   error that each causes at its own output, and the longest run of small errors that fits the budget is kept.
2. The fastest of the schemes that fit is kept; what it had to leave in float is tried in the others.

The order of least harm first, and stopping where the budget is spent, is that of post-training mixed precision (Nagel et
al. 2021, "A White Paper on Neural Network Quantization", section 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from .. import ir
from ..analysis import shapes
from ..evaluation.latency import Paired
from ..ir import Model, Node
from ..matching import Match
from ..rewriter import why
from .budget import Budget
from .layers import errors
from .plan import Choice

if TYPE_CHECKING:
    from .search import Candidate, Search

Site = tuple[str, str]
"""A LOSSY rule and the node at which it acts."""

SCHEMES: dict[str, tuple[str, ...]] = {
    "int8": ("int8-linear", "int8-conv", "int8-add", "int8-pool"),
    "int4-block": ("int4-block-linear",),
    "int8-block": ("int8-block-linear",),
}
"""A LOSSY rule that no scheme names is a scheme of its own."""

ASKED: dict[str, tuple[str, ...]] = {
    "int8": ("int8", "int8-block"), "int4": ("int4-block", "int8-block", "int8"), "none": (),
}  # fmt: skip
"""Schemes by what a user asks for, the wanted one first. ``auto``: all."""


@dataclass
class Tried:
    """A scheme that is faster and inside the budget, as far as it goes."""

    scheme: str
    sites: list[Site]
    candidate: Candidate
    paired: Paired
    error: float
    left: dict[Site, str] = field(default_factory=dict)


def choose(
    s: Search, folder: Path, groups: frozenset[str] | None, best: Candidate
) -> tuple[dict[Site, Choice], Candidate]:
    """What to round, with the reason for each layer, and the model that came out: ``best`` where nothing pays."""
    found = sites(s, best.model)
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
    for r in rules:
        scheme = next((name for name, members in SCHEMES.items() if r.name in members), r.name)
        if s.quantize != "auto" and scheme not in ASKED[s.quantize]:
            continue
        for node, m in why(model, r):
            if isinstance(m, Match) and not any(kept_float(node, p) for p in s.keep_float):
                known.setdefault(scheme, []).append((r.name, ir.site(node)))
    order = [*(ASKED.get(s.quantize) or SCHEMES), *sorted(known.keys() - SCHEMES.keys())]
    return {scheme: sorted(set(known[scheme])) for scheme in order if scheme in known}


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

    def build(self, chosen: Sequence[Site]) -> Candidate:
        return self.s.build(self.folder, self.groups, by_rule(chosen), self.best.model)

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
        found, s = self.found[scheme], self.s
        s.say(f"trying {len(found)} layers as {scheme}")
        whole = self.build(found)
        p = s.pair(self.best.session, whole.session)
        differences = s.differences(whole.session)
        breach, error = s.budget.breach(differences), Budget.error(differences)
        fits = p.verdict == "faster" and breach is None
        s.record(f"all {len(found)} layers {scheme}", p, fits, error, breach or "")
        if fits:
            self.faster.add(scheme)
            return Tried(scheme, found, whole, p, error)
        s.drop(whole)
        if p.verdict != "faster":
            self.verdicts[scheme] = f"as {scheme} the model is {p.text}"
            return None
        assert breach is not None
        self.faster.add(scheme)
        return self.longest_prefix(scheme, breach)

    def longest_prefix(self, scheme: str, breach: str) -> Tried | None:
        """As many of the layers with the smallest errors of their own as the budget allows."""
        found, s = self.found[scheme], self.s
        s.say(f"ordering layers by their own error as {scheme}")
        self.errors |= errors(self.best.model, found, s.feeds, s.target, s.threads)
        order = sorted(found, key=lambda site: (self.errors.get(site, float("inf")), site))
        fits, low = self.bisect(order, scheme, [])
        if fits is None:
            self.verdicts[scheme] = f"none as {scheme} fits the budget: {breach}"
            return None
        p = s.pair(self.best.session, fits.session)
        error = Budget.error(s.differences(fits.session))
        s.record(f"{low} of {len(order)} layers {scheme}", p, p.verdict == "faster", error)
        if p.verdict != "faster":
            self.verdicts[scheme] = f"as far as {scheme} fits the budget the model is {p.text}"
            s.drop(fits)
            return None
        return Tried(scheme, order[:low], fits, p, error, dict.fromkeys(order[low:], "with it the budget is exceeded"))

    def bisect(self, order: list[Site], scheme: str, others: list[Site]) -> tuple[Candidate | None, int]:
        """The longest prefix that fits beside ``others``, built, and its length."""
        s, low, high, fits = self.s, 0, len(order), None
        while high - low > 1 and s.time_left(f"more layers as {scheme} were"):
            middle = (low + high) // 2
            s.say(f"trying the {middle} of {len(order)} layers with the smallest error as {scheme}")
            candidate = self.build([*others, *order[:middle]])
            if s.budget.breach(s.differences(candidate.session)) is None:
                low = middle
                if fits is not None:
                    s.drop(fits)
                fits = candidate
            else:
                high = middle
                s.drop(candidate)
        return fits, low

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
            candidate = self.build(both)
            p = s.pair(self.winner.candidate.session, candidate.session)
            differences = s.differences(candidate.session)
            breach = s.budget.breach(differences)
            kept = p.verdict == "faster" and breach is None
            s.record(f"{len(rest)} more layers {scheme}", p, kept, Budget.error(differences), breach or "")
            if kept:
                s.drop(self.winner.candidate)
                paired = s.pair(self.best.session, candidate.session)
                self.winner = Tried(self.winner.scheme, both, candidate, paired, Budget.error(differences))
            else:
                s.drop(candidate)

    def choices(self) -> tuple[dict[Site, Choice], Candidate]:
        """A reason for every layer, and the model."""
        made: dict[Site, Choice] = {}
        won = self.winner
        taken = {node for _, node in won.sites} if won is not None else set()
        for scheme, found in self.found.items():
            for site in found:
                own = self.errors.get(site)
                alone = "" if own is None else f"error at its own output {own:.2g}; "
                if won is not None and site in won.sites:
                    made[site] = Choice(True, f"{alone}all that is kept together is {won.paired.text}", won.paired.ratio)
                elif site[1] not in taken:
                    default = self.verdicts.get(scheme, "not tried: no time was left")
                    made[site] = Choice(False, alone + (won.left.get(site, default) if won is not None else default))
        if won is None:
            return made, self.best
        self.s.drop(self.best)
        return made, won.candidate


def by_rule(chosen: Sequence[Site]) -> dict[str, frozenset[str]]:
    """Node names for each rule."""
    names: dict[str, set[str]] = {}
    for rule, node in chosen:
        names.setdefault(rule, set()).add(node)
    return {r: frozenset(n) for r, n in names.items()}
