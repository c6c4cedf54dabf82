"""Which layers are rounded, and how. Every scheme is tried whole, cut back to what the budget allows, and measured.

1. All layers that a scheme's rules fit are rounded. Where that is faster but outside the budget, activations are smoothed
   and weights rounded by least squares and biases corrected, if there was data to calibrate on.
2. Where a scheme that breaks the budget is faster than the best that fits, schemes are mixed (``part.py``).
3. Where some samples are a token or few and others many, both steps are taken for each of the two, and a model with two
   bodies is tried (``passes/two_bodies.py``).
4. The fastest that fits is kept.
5. Causal attentions of many queries are split into parts where that is faster still (``targets/causal_parts.py``).
6. Tables of embeddings are rounded beside it, where that is not slower: for their bytes. So are caches, if they shall be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import ir
from ..analysis import shapes
from ..evaluation import turns
from ..evaluation.executed import node_times
from ..evaluation.inputs import Feed
from ..evaluation.latency import Paired, Side
from ..evaluation.steps import FEW, tokens
from ..ir import Model, Node
from ..matching import Match
from ..passes import Context, float16
from ..pipeline import Few
from ..quantization import all_finite
from ..quantization.facts import note
from ..quantization.linears import linear
from ..rewriter import Rewriter, origins, why
from ..rules import Rule
from ..targets import causal_parts, int8_cache
from .bias import CORRECTED, corrected
from .layers import ESTIMATES, OF_NODES, alphas
from .learnt import learning
from .part import Fit, Part, Site, Tried, own
from .plan import Body, Choice, by_rule, made
from .predict import evaluated, sizes_of
from .probe import beyond, watch
from .rounding import LEARNT, least_squares, merged
from .schemes import SCHEMES, scheme_of

if TYPE_CHECKING:
    from .search import Candidate, Search

TABLES = "int8-block-table"
SMALLER = (TABLES, int8_cache.NAME)
"""Rules (and a pass) that make a model or its caches smaller, and are kept where it is not slower for it."""

SUMMED_IN_16_BITS = frozenset(SCHEMES["int8"] + SCHEMES["int8-attention"] + SCHEMES["int8-outlier"] + SCHEMES["int8-row"])
"""Rules whose products saturate on CPUs without dot products of 8 bits, where their weights are not made for such."""

SATURATING = ("int7",)
"""Schemes for CPUs whose fast kernels saturate at 8 bits."""

STATIC = frozenset(
    (*SCHEMES["int8"], *SCHEMES["int8-outlier"], *SCHEMES["int8-symmetric"], int8_cache.NAME)
) - {"int8-linear", "stored-int8-linear"}
"""Rules that act only where calibration saw what a value ranges over."""

ASKED: dict[str, tuple[str, ...]] = {
    "int8": ("int8", "int7", "int8-lstm", "int8-attention", "int8-outlier", "int8-row", "int8-block", "int8-symmetric",
             "float16"),
    "int4": ("int8-block", "int4-block", "int8-lstm", "int4-symmetric", "float16"), "fp16": ("float16",), "none": (),
}  # fmt: skip
"""Schemes by what a user asks for: what it wants, and a closer one for layers that would break the budget. ``auto``: all."""

ROUNDING = 0.25
"""The part of the search's time that rounding by least squares may take; the layers that it does not reach are rounded to
the nearest."""

CORRECTING = 0.1
"""The part of the search's time that correcting biases may take."""

SHARE = 0.85
"""The part of the search's time after which no other scheme is tried: mixing them takes the rest."""

_SIDE = Side(0.0, 0.0, 0.0, 0.0)
NOT_TIMED = Paired(1.0, 1.0, 1.0, 1.0, "no difference shown", 0, 0, _SIDE, _SIDE, 0.0, 0)

Judged = tuple[Tried | None, str | None]
"""A choice of layers, None where it is not faster, and why it breaks the budget where it does."""


def choose(
    s: Search, folder: Path, groups: frozenset[str] | None, best: Candidate
) -> tuple[dict[Site, Choice], Body | None, Candidate]:
    """What to round, with the reason for each layer, and the model that came out: ``best`` where nothing pays."""
    if s.calibrate is not None and (s.quantize != "none" or s.int8_cache):
        s.say("calibrating")
        s.facts = s.calibrate(best.fused)
        note(best.fused, s.facts, target=s.target)
    elif s.quantize in ("auto", "int8") and (count := unseen(s, best.fused)):
        s.notes.append(f"{count} convolutions stay in float: what their activations range over is seen on --data only")
    found = sites(s, best.fused)
    nodes = list(ir.nodes_once(best.fused))
    s.reads = {ir.site(n): n.inputs[0].name or "" for n in nodes if n.inputs and n.inputs[0] is not None}
    s.modules = {ir.site(n): ir.module_of(n) for n in nodes}
    if not found and not s.int8_cache and not in_parts(s, best.fused):
        return {}, None, best
    job = _Job(s, folder, groups, best, found)
    waiting = []
    for scheme in found:
        if all(part.waits(scheme) for part in job.parts):
            waiting.append(scheme)
        elif not job.consider(scheme, SHARE):
            break
    for part in job.parts:
        part.mix()
    for scheme in waiting:  # for the case that what was chosen fails where it is judged, or the table is wrong
        job.consider(scheme)
    return job.finish()


def sites(s: Search, model: Model) -> dict[str, list[Site]]:
    """Places where LOSSY rules fit, by scheme, in the order in which the schemes are tried."""
    shapes.infer(model)
    known: dict[str, list[Site]] = {}
    rules = s.rules.select(["LOSSY"], ir.opset_of(model) or 1, s.target.name)
    barred = () if s.target.features()["int8_saturates"] else SATURATING
    rules = [r for r in rules if r.name not in SMALLER]
    wanted = [r for r in rules if scheme_of(r.name) not in barred]
    asked = [r for r in wanted if s.quantize == "auto" or scheme_of(r.name) in ASKED[s.quantize]]
    nodes, alone = ir.sites(model), ESTIMATES.keys() | OF_NODES.keys()
    for r in asked:
        if r.name in alone:
            known.setdefault(scheme_of(r.name), []).extend((r.name, name) for name in fitting(model, r, nodes))
    # The others fit beside each other: a sum can be rounded where what it adds was. So they are let loose on a copy.
    for scheme in {scheme_of(r.name): None for r in asked if r.name not in alone}:
        ctx = Context(target=s.target, skip=s.ctx.skip, unassumed=s.ctx.unassumed)
        Rewriter(model.clone(), [r for r in asked if scheme_of(r.name) == scheme and r.name not in alone], ctx).run()
        fired = Counter((e.by, e.site) for e in ctx.events if e.number is not None and e.site is not None)
        known.setdefault(scheme, []).extend(site for site, n in fired.items() if site[1] in nodes and n >= len(nodes[site[1]]))
    once = set(ir.nodes_once(model))
    inside = [n for g in ir.all_graphs(model, functions=False) for n in g if n not in once and linear(n) is not None]
    if inside and s.quantize != "none":
        s.notes.append(f"{len(inside)} layers within bodies of Loop or Scan stay in float: what reaches them is not seen")
    if s.target.half and s.quantize != "none":
        half = [(float16.NAME, ir.site(n)) for n in float16.convertible(model, s.target)]
        far = beyond(model, [node for _, node in half], s.feeds, s.threads, float16.SAFE)
        if far:
            text = f"values beyond {float16.SAFE:g} were seen there"
            s.notes.append(f"{len(far)} nodes are not computed in float16, the first {min(far)!r}: {text}")
        s.float32 = far
        half = [site for site in half if site[1] not in far]
        for found in filter(None, known.values()):
            rounded = {node for _, node in found}
            found.extend(site for site in half if site[1] not in rounded)
        known[float16.NAME] = half
    if known.get("int8-attention"):  # in parts they gain more than in integers, and lose nothing
        whole = {node for _, node in in_parts(s, model)}
        known["int8-attention"] = [site for site in known["int8-attention"] if site[1] not in whole]
    away = never_run(s, nodes, {node for found in known.values() for _, node in found}, model)
    if away:
        s.notes.append(f"{len(away)} layers in branches that no sample took stay in float, the first {min(away)!r}")
    for scheme, found in known.items():
        found = [site for site in found if site[1] not in away]
        known[scheme] = [site for site in found if not any(kept_float(n, p) for n in nodes[site[1]] for p in s.keep_float)
                         and not s.ctx.skip & {site[0], "@".join(site)}]  # fmt: skip
    order = [*(ASKED.get(s.quantize) or SCHEMES), *sorted(known.keys() - SCHEMES.keys())]
    return {scheme: sorted(set(known[scheme])) for scheme in order if known.get(scheme)}


def in_parts(s: Search, model: Model) -> list[Site]:
    """Causal attentions that may be split into parts: where samples have that many queries, for all that is known."""
    if s.machine is not None or s.target.name not in causal_parts.TARGETS:
        return []
    sizes, nodes = [sizes_of(model, feed) for feed in s.feeds], ir.sites(model)

    def long(name: str) -> bool:
        queries = [q for n in nodes[name] if (q := n.inputs[0]) is not None]
        counts = [evaluated(d, known) for q in queries for d in (shapes.dims(q) or ())[1:2] for known in sizes]
        return any(n is None or n >= causal_parts.MANY for n in counts)

    return sorted((causal_parts.NAME, name) for name in causal_parts.fit(model, s.ctx) if long(name))


def never_run(s: Search, nodes: Mapping[str, Sequence[Node]], wanted: Set[str], model: Model) -> set[str]:
    """The layers all of whose nodes are in branches that none of the feeds takes: nothing would judge their rounding."""
    inner = {name: nodes[name] for name in wanted if all(ir.owner(n) is not model.graph for n in nodes[name])}
    given = {n.outputs[0].name or "": name for name, found in inner.items() for n in found}
    if not given:
        return set()
    ran: set[str] = set()
    for values in watch(model, sorted(given), s.feeds, s.threads):
        ran |= {given[value] for value in values}
    return inner.keys() - ran


def unseen(s: Search, model: Model) -> int:
    """How many convolutions a rule of the target would round if it were known what they range over."""
    rules = s.rules.select(["LOSSY"], ir.opset_of(model) or 1, s.target.name)
    if not any(("", "Conv") in r.pattern.root_ops for r in rules if r.name in STATIC):
        return 0
    if "int8-conv" in s.ctx.skip:
        return 0
    convs = [n for n in ir.nodes_once(model) if n.op_type == "Conv" and not n.domain]
    held = [(n, w) for n in convs if (w := ir.array(n.inputs[1])) is not None and w.dtype == np.float32 and all_finite(w)]
    return sum(not any(kept_float(n, p) for p in s.keep_float) for n, _ in held)


def fitting(model: Model, r: Rule, nodes: Mapping[str, Sequence[Node]]) -> list[str]:
    """The names at all of whose nodes the rule fits."""
    fit = {n for n, m in why(model, r) if isinstance(m, Match)}
    return [name for name, found in nodes.items() if fit.issuperset(found)]


def kept_float(node: Node, pattern: str) -> bool:
    """Does a user's pattern (``*`` and ``?``) name the node, one of its constants, or the module that it was exported from?"""
    names = [ir.site(node), *origins(node), *(v.name for v in node.inputs if v is not None and v.name and ir.is_constant(v))]
    names += [str(v) for k, v in node.metadata_props.items() if k.endswith("name_scopes") or k == "namespace"]
    return any(fnmatchcase(n, pattern) for n in names)


def parts(s: Search, model: Model) -> tuple[str, list[int], list[int]] | None:
    """The input of token ids, the samples of which it holds few, and the others; None where all are of one kind."""
    ids = tokens(model)
    if ids is None:
        return None
    few = [i for i, feed in enumerate(s.feeds) if np.asarray(feed[ids]).size <= FEW]
    more = [i for i in range(len(s.feeds)) if i not in few]
    return (ids, few, more) if few and more else None


class _Job:
    def __init__(
        self, s: Search, folder: Path, groups: frozenset[str] | None, best: Candidate, found: dict[str, list[Site]]
    ) -> None:
        self.s, self.folder, self.groups, self.best, self.found = s, folder, groups, best, found
        self.whole = Part(s, best, found, range(len(s.feeds)), "", self.build)
        self.split = parts(s, best.fused)
        self.parts = [self.whole]
        if self.split is not None:
            _, few, more = self.split
            self.parts = [Part(s, best, found, more, ", many tokens", self.build),
                          Part(s, best, found, few, ", few tokens", self.build)]  # fmt: skip

    def build(self, chosen: Sequence[Site], smooth: dict[str, float], few: Few | None = None) -> Candidate:
        return self.s.build(self.folder, self.groups, by_rule(chosen), self.best.fused, smooth, few)

    def consider(self, scheme: str, share: float = 1.0) -> bool:
        """Try a scheme whole; False where that much of the time is over."""
        s, found = self.s, self.found[scheme]
        if not s.time_left(f"{scheme} was", share):
            return False
        count = len(own(scheme, found))
        s.say(f"trying {count} layers as {scheme}")
        label = f"all {count} layers {scheme}{'' if count == len(found) else ', the rest float16'}"
        judged = self.judge(scheme, {}, label)
        wanted = any(part.wants(tried, breach) for part, (tried, breach) in zip(self.parts, judged, strict=True))
        if s.facts and s.real and wanted:
            judged = self.prepared(scheme, judged, label)
        for part, (tried, breach) in zip(self.parts, judged, strict=True):
            part.settle(scheme, tried, breach)
        return True

    def judge(self, scheme: str, smooth: dict[str, float], label: str, before: Sequence[Judged] = ()) -> list[Judged]:
        """The scheme for each kind of samples; none for one that by the table has what is faster, if it is not so for all."""
        candidate, found = self.build(self.found[scheme], smooth), self.found[scheme]
        known = [tried for tried, _ in before] or [None] * len(self.parts)
        wait = [part.waits(scheme) for part in self.parts]
        for part, waits in zip(self.parts, wait, strict=True):
            if waits and part.winner is not None:
                part.verdicts.setdefault(scheme, f"not tried: by the table it is no faster than {part.winner.scheme}{part.what}")
        judged: list[Judged] = [
            (None, None) if waits and not all(wait) else part.judge(scheme, candidate, found, smooth, label, tried)
            for part, waits, tried in zip(self.parts, wait, known, strict=True)
        ]
        self.s.drop(candidate)
        return judged

    def prepared(self, scheme: str, judged: list[Judged], label: str) -> list[Judged]:
        """The whole with activations smoothed, and where that is not enough weights rounded by least squares and biases
        corrected, where either has less error."""
        s, smooth = self.s, {}
        feeds = s.feeds if s.choosing is None else learning(s.choosing())
        if scheme in ("int8", "int8-symmetric"):
            s.say("smoothing activations")
            smooth = alphas(self.best.fused, {node for _, node in self.found[scheme]}, feeds, s.threads)
        elif scheme in ("int7", "int8-outlier", "int8-row"):
            smooth = next((part.smooth for part in self.parts if part.smooth), {})
        if smooth:
            again = self.judge(scheme, smooth, f"{label}, {len(smooth)} activations smoothed", judged)
            judged = [new if _closer(new, old) else old for new, old in zip(again, judged, strict=True)]
        if not any(part.wants(*found) for part, found in zip(self.parts, judged, strict=True)):
            return judged
        smooth = next((tried.smooth for tried, _ in judged if tried is not None and tried.smooth), {})
        learnt = [site for site in self.found[scheme] if site[0] in LEARNT]
        before, told = s.weights, []
        # Of linear layers in 8 bits it is the activation's rounding that counts: only beside convolutions are they worth it.
        if {"int8-conv", "int4-block-linear"} & {rule for rule, _ in learnt}:
            s.say("rounding weights by least squares")
            until = turns.clock() + ROUNDING * s.seconds
            weights = least_squares(
                self.best.fused, learnt, feeds, s.keep, s.threads, lambda: turns.clock() < until, smoothed=smooth
            )  # fmt: skip
            told += [f"{len(weights)} weights by least squares"] if weights else []
            s.weights = merged(s.weights, weights)
        if CORRECTED & {rule for rule, _ in learnt}:
            s.say("correcting biases")
            until = turns.clock() + CORRECTING * s.seconds
            shifts = corrected(
                self.best.fused, s.rules, s.ctx, self.found[scheme], feeds, s.keep, s.threads, lambda: turns.clock() < until,
                s.weights, smoothed=smooth,
            )  # fmt: skip
            told += [f"{len(shifts)} biases corrected"] if shifts else []
            s.weights = merged(s.weights, shifts)
        if not told:
            return judged
        again = self.judge(scheme, smooth, ", ".join([label, *told]), judged)
        better = [_closer(new, old) for new, old in zip(again, judged, strict=True)]
        lost = [_fits(old) and not _fits(new) for new, old in zip(again, judged, strict=True)]
        if not any(better) or any(lost):
            s.weights = before
            return judged
        return again  # a body is built with the weights of all

    def finish(self) -> tuple[dict[Site, Choice], Body | None, Candidate]:
        """A reason for every layer, and the model: that of one part, or one with a body for each."""
        s, first = self.s, self.parts[0]
        won = first.winner
        few: Body | None = None
        if self.split is None:
            s.fits += first.fits
            candidate = None if won is None else self.build(won.sites, won.smooth)
        else:
            first, won, few, candidate = self.joined(*self.split)
        for part in reversed(self.parts):
            s.errors |= part.errors
            s.arrived |= part.arrived
        choices = first.choices(won)
        if won is None or candidate is None:
            won, candidate = Tried("float", [], NOT_TIMED, 0.0), self.best
        rounded = candidate is not self.best
        won, candidate, told = self.in_parts(won, few, candidate)
        choices |= told
        for text, found in self.small(rounded):
            few, candidate, told = self.smaller(text, found, [*won.sites, *made(choices)], won, few, candidate)
            choices |= told
        if candidate is self.best:
            return choices, None, candidate
        s.smooth = won.smooth
        if s.machine is None:
            s.times = self.times(first.feeds, won, candidate)
        s.drop(self.best)
        return choices, few, candidate

    def in_parts(
        self, won: Tried, few: Body | None, candidate: Candidate
    ) -> tuple[Tried, Candidate, dict[Site, Choice]]:
        """Causal attentions in parts besides what was chosen, where that is faster for what has many tokens and not slower for
        what has few. One candidate, which is tried even if no time is left."""
        s, found = self.s, in_parts(self.s, self.best.fused)
        if not found:
            return won, candidate, {}
        text = f"{len(found)} attention{'s' if len(found) != 1 else ''} in parts"
        s.say(f"trying {text}")
        every = [*won.sites, *found]
        second = None if few is None else Few(few.name, few.most, by_rule(made(few.sites)), few.smooth)
        other = self.build(every, won.smooth, second)
        told = [s.pair(candidate.session, other.session, part.samples) for part in self.parts]
        differences = s.differences(other.session)
        breach = s.breach(other.session, differences)
        keep = told[0].verdict == "faster" and all(p.verdict != "slower" for p in told) and breach is None
        error = s.budget.error(differences)
        for part, p in zip(self.parts, told, strict=True):
            s.record(f"{text}{part.what}", p, keep, error, breach or "", "what was chosen", other)
        # What has few tokens may be why it goes back.
        part, p = next((x for x in zip(self.parts, told, strict=True) if x[1].verdict == "slower"), (self.parts[0], told[0]))
        why = "in parts" if keep else breach or f"with them the model is {p.text}{part.what}"
        choice = Choice(keep, why, p.ratio)
        unused = candidate if keep else other
        if unused is not self.best:
            s.drop(unused)
        if not keep:
            return won, candidate, dict.fromkeys(found, choice)
        gained = replace(told[0], ratio=told[0].ratio * won.paired.ratio)
        s.fits.append(Fit(gained.ratio, error, tuple(every), won.smooth, timed=False))
        return replace(won, sites=every, paired=gained, error=error), other, dict.fromkeys(found, choice)

    def times(self, feeds: Sequence[Feed], won: Tried, made: Candidate) -> tuple[dict[str, float], dict[str, float]]:
        """Microseconds of each layer in float and as chosen, with the first of the samples with which it runs."""
        best, options = self.best, self.s.plain()
        before: dict[str, float] = {}
        after: dict[str, float] = {}
        for feed in feeds if any(n.op_type == "If" for n in best.fused.graph) else feeds[:1]:
            before = node_times(best.path, feed, options) | before
            after = by_layer(node_times(made.path, feed, options), won, made.model, best.fused) | after
            if after.keys() >= {node for _, node in won.sites}:
                break
        return before, after

    def small(self, rounded: bool) -> list[tuple[str, list[Site]]]:
        """What can be made smaller, in words, and where: where layers were rounded tables, and caches where a user wants it."""
        s, fused = self.s, self.best.fused
        rules = [r for r in s.rules.select(["LOSSY"], ir.opset_of(fused) or 1, s.target.name) if r.name == TABLES]
        nodes = ir.sites(fused)
        fit = [(r.name, name) for r in rules for name in fitting(fused, r, nodes)]
        caches = [(int8_cache.NAME, node) for node in int8_cache.fit(fused, s.target)]
        if s.int8_cache and not caches:
            s.notes.append("no cache is held in 8 bits: nothing was calibrated of one, or the target has no kernel for it")
        wanted = (("table", fit if rounded and s.quantize != "fp16" else []), ("cache", caches if s.int8_cache else []))
        found = [(what, sorted(x for x in sites if not self.kept(x, nodes[x[1]]))) for what, sites in wanted]
        return [(f"{len(sites)} {what}{'s' if len(sites) != 1 else ''} in 8 bits", sites) for what, sites in found if sites]

    def smaller(
        self, text: str, found: list[Site], sites: Sequence[Site], won: Tried, few: Body | None, candidate: Candidate
    ) -> tuple[Body | None, Candidate, dict[Site, Choice]]:
        """What makes the model, or its caches, smaller is done besides ``sites`` where it is within the budget and not shown
        to be slower."""
        s = self.s
        s.say(f"trying {text}")  # one model, whose time is not counted
        second = None if few is None else Few(few.name, few.most, by_rule([*made(few.sites), *found]), few.smooth)
        every = list(dict.fromkeys([*sites, *found]))
        other = self.build(every, won.smooth, second)
        p = s.pair(candidate.session, other.session) if s.machine is None else NOT_TIMED
        differences = s.differences(other.session)
        breach = s.breach(other.session, differences)
        gains = found[0][0] != TABLES or size(other) < size(candidate)  # what another node reads, too, is there in both forms
        keep, error = gains and p.verdict != "slower" and breach is None, s.budget.error(differences)
        lost = breach or ("" if gains else "it is no smaller")
        s.record(text, p, keep, error, lost, "what was chosen", other)
        unused = candidate if keep else other
        if unused is not self.best:
            s.drop(unused)
        choice = Choice(keep, "smaller" if keep else lost or f"with it the model is {p.text}", p.ratio)
        told = dict.fromkeys(found, choice)
        if not keep:
            return few, candidate, told
        s.fits.append(Fit(won.paired.ratio * p.ratio, error, tuple(every), won.smooth, timed=False))
        return None if few is None else replace(few, sites=few.sites | told), other, told

    def kept(self, site: Site, nodes: Sequence[Node]) -> bool:
        """Has the user forbidden to round it?"""
        s = self.s
        return bool(s.ctx.skip & {site[0], "@".join(site)}) or any(kept_float(n, p) for n in nodes for p in s.keep_float)

    def joined(self, name: str, *_: list[int]) -> tuple[Part, Tried | None, Body | None, Candidate | None]:
        """What is fastest over all samples: the choice of either part for both, or a body for each."""
        s, (more, few) = self.s, self.parts
        s.few_fits = few.fits
        top: tuple[Part, Tried | None, Candidate | None] = more, None, None
        for part in self.parts:
            if part.winner is None:
                continue
            w = part.winner
            candidate = self.build(w.sites, w.smooth)
            tried, breach = self.whole.judge(w.scheme, candidate, w.sites, w.smooth, f"{more.counted(w.sites)}, in one body")
            if tried is None or breach is not None or (top[1] is not None and tried.paired.ratio <= top[1].paired.ratio):
                s.drop(candidate)
                continue
            s.fits.append(tried.fit)
            if top[2] is not None:
                s.drop(top[2])
            top = part, tried, candidate
        # Where nothing pays for a part its body stays in float, which is a choice like the others.
        m, f = (Tried("float", [], NOT_TIMED, 0.0) if w is None else w for w in (more.winner, few.winner))
        if set(m.sites) == set(f.sites) or s.machine is not None:
            return (*top[:2], None, top[2])
        # It is what the time was spent for: this one candidate is tried even if none is left.
        s.say("trying two bodies")
        both = self.build(m.sites, m.smooth, Few(name, FEW, by_rule(f.sites), f.smooth))
        label = f"{more.counted(m.sites)}; for at most {FEW} tokens {more.counted(f.sites)}"
        p, differences = s.pair(self.best.session, both.session), s.differences(both.session)
        breach = s.breach(both.session, differences)
        keep = breach is None and self.pays(self.best if top[2] is None else top[2], both)
        s.record(label, p, keep, s.budget.error(differences), breach or "", made=both)
        if not keep:
            s.drop(both)
            return (*top[:2], None, top[2])
        if top[2] is not None:
            s.drop(top[2])
        m.paired = f.paired = p
        return more, m, Body(name, FEW, few.choices(f), f.smooth), both

    def pays(self, one: Candidate, both: Candidate) -> bool:
        """Are two bodies faster for few tokens or for many, and slower for neither? All samples together say little of the few:
        a prompt takes as long as dozens of steps, and is followed by hundreds."""
        told = [self.s.pair(one.session, both.session, part.samples) for part in self.parts]
        keep = {p.verdict for p in told} in ({"faster"}, {"faster", "no difference shown"})
        for part, p in zip(self.parts, told, strict=True):
            self.s.record(f"two bodies{part.what}", p, keep, against="one body")
        return keep


def size(made: Candidate) -> int:
    """Bytes of a candidate's files."""
    return sum(f.stat().st_size for f in made.path.parent.iterdir())


def _fits(judged: Judged) -> bool:
    return judged[0] is not None and judged[1] is None


def _closer(new: Judged, old: Judged) -> bool:
    """Is the second attempt faster than float, and inside the budget or at least of less error?"""
    return new[0] is not None and (new[1] is None or old[0] is None or new[0].error < old[0].error)


def by_layer(times: dict[str, float], won: Tried, made: Model, before: Model) -> dict[str, float]:
    """What the kernels that each layer became take together."""
    layers = {site for _, site in won.sites}
    made_of = {site: [frozenset(origins(n)) for n in nodes] for site, nodes in ir.sites(before).items() if site in layers}
    found: dict[str, float] = {}
    # Of a layer that branches share one runs.
    for n in {n.name: n for graph in ir.all_graphs(made) for n in graph if n.name in times}.values():
        whole = set(origins(n))
        of = [layer for layer, parts in made_of.items() if any(own <= whole for own in parts)]
        for layer in of:
            found[layer] = found.get(layer, 0.0) + times[n.name or ""] / len(of)
    return found
