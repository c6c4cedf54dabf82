"""What each level does, in order, top to bottom."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from . import ir, verifier
from .ir import Model
from .passes import (
    Context,
    Step,
    branch_sizes,
    cse,
    dce,
    dedupe_initializers,
    doubtful_sizes,
    equal_sizes,
    float16,
    fold,
    inline_functions,
    known_if,
    lift_constants,
    masks,
    normalize,
    raise_opset,
    scores,
    shared_layers,
    simplify,
    size_queries,
    smooth,
    split_sizes,
    tied_weights,
    two_bodies,
)
from .passes import shapes as shapes_pass
from .quantization import Observed
from .quantization.facts import attach, note
from .rewriter import Outcome, Rewriter, origins
from .rules import Registry, Rule, registry
from .targets import causal_parts, int8_cache, shared_cache

SMALL = 16
"""Elements of the constants that are shared after each round: axes, shapes, scales."""
FOLDED = 1 << 20
"""The same after a round that folded: tables of angles that were computed twice are one for the rules."""
BY_PASS = (float16.NAME, int8_cache.NAME, causal_parts.NAME)
"""What is done at the places that ``Options.sites`` names by a pass, not by a rule."""
ARRANGE = "arrange"
"""The step in which the target arranges what is left in float; it can be skipped like a pass."""
MAX_ROUNDS = 8
"""Rounds of cleaning before the pipeline stops and says that it had not settled."""


@dataclass(frozen=True)
class Few:
    """LOSSY rewrites of a second body, which runs where an input has few elements (``passes/two_bodies.py``).

    Attributes:
        name: the input, and ``most`` the most elements of it that are few.
        sites, smooth: as in ``Options``.
    """

    name: str
    most: int
    sites: Mapping[str, frozenset[str]] = field(default_factory=dict)
    smooth: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """What a compile may do.

    Attributes:
        level: 0 to 3. ``start``: a level that the model has been taken to before.
        exact: at -O3, no rewrite that is only close by measurement.
        simplify: run onnxsim once, as a stage of its own, and keep its result where it verifies and is smaller.
        groups: groups of CLOSE rules that may act; None for all.
        sites: for each LOSSY rule, the names of the nodes at which it may act.
        smooth: activations that are smoothed before layers are rounded, name to alpha (``passes/smooth.py``).
        few: the same for a body of its own for few elements, or None.
        facts: what calibration saw of values, by name, for LOSSY rules and smoothing.
        weights: weights that were rounded with care, by name of initializer and form.
        float32: names of nodes that do not compute in float16, whatever a LOSSY rule makes of them.
        shared_cache: give attentions with a cache the form in which past and present are one buffer.
        skip: rules and passes not to apply, ``name`` or ``name@node``.
        stop_after: number of the last rewrite to apply; passes go on.
        halt_after: steps after which nothing more is done, so that the model can be looked at as it stands there. A rewrite
            is a step, and so is a run of a pass that changed something.
        verify_each: run the verifier after every pass.
        strict: raise where a rule is at fault, instead of going on without it.
    """

    level: int = 2
    start: int = 0
    exact: bool = False
    simplify: bool = False
    groups: frozenset[str] | None = None
    sites: dict[str, frozenset[str]] = field(default_factory=dict)
    smooth: Mapping[str, float] = field(default_factory=dict)
    few: Few | None = None
    facts: Mapping[str, Observed] = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    float32: frozenset[str] = frozenset()
    shared_cache: bool = False
    skip: frozenset[str] = frozenset()
    stop_after: int | None = None
    halt_after: int | None = None
    verify_each: bool = False
    strict: bool = False


@dataclass
class Result:
    """What the pipeline did to a model (which it changed in place).

    Attributes:
        slow: rules left out because the operator that they emit is slower than its parts on the target, and that operator.
        body: where the model has two bodies, the one for more elements as a model of its own; else the model.
        fused: the model as it was before anything was rounded, where what came after that changed it; else None.
    """

    model: Model
    ctx: Context
    outcome: Outcome
    seconds: dict[str, float]
    settled: bool = True
    slow: dict[str, str] = field(default_factory=dict)
    body: Model | None = None
    fused: Model | None = None


class _Run:
    def __init__(
        self, model: Model, options: Options, ctx: Context, rules: Registry, result: Result | None = None
    ) -> None:
        self.model, self.options, self.ctx, self.rules = model, options, ctx, rules
        self.result = Result(model, ctx, Outcome(), {}) if result is None else result

    def halted(self) -> bool:
        return self.options.halt_after is not None and len(self.ctx.steps) >= self.options.halt_after

    def timed(self, name: str, action: Callable[[], int]) -> int:
        start = time.perf_counter()
        changes = action()
        self.result.seconds[name] = self.result.seconds.get(name, 0.0) + time.perf_counter() - start
        if self.options.verify_each:
            verifier.check(self.model, f"after {name}")
        return changes

    def step(self, name: str, action: Callable[[], int]) -> int:
        """Run a pass. One that raises is the last step; one that changes nothing is none."""
        if self.halted():
            return 0
        steps = self.ctx.steps
        steps.append(Step(name, len(self.ctx.events)))
        changes = self.timed(name, action)
        if not changes:
            steps.pop()
        return changes

    def run_pass(self, module: Any, *args: Any) -> int:
        name = getattr(module, "NAME", module.__name__.rsplit(".", 1)[-1])
        return 0 if name in self.ctx.skip else self.step(name, lambda: module.run(self.model, self.ctx, *args))

    def rewrite(self, name: str, rules: Iterable[Rule], sites: dict[str, frozenset[str]] | None = None) -> int:
        return 0 if self.halted() else self.timed(name, lambda: self._rewrite(list(rules), sites))

    def _rewrite(self, rules: list[Rule], sites: dict[str, frozenset[str]] | None) -> int:
        o = self.options
        ctx = self.ctx
        run = Rewriter(self.model, rules, ctx, strict=o.strict, stop_after=o.stop_after, sites=sites)
        if o.halt_after is not None:
            last = run.number + o.halt_after - len(ctx.steps)
            run.stop_after = last if run.stop_after is None else min(last, run.stop_after)
        known = len(ctx.events)
        try:
            outcome = run.run()
        finally:  # what raises after some rewrites may be what they made
            ctx.steps += [Step(e.by, i, e.number) for i, e in enumerate(ctx.events[known:], known) if e.number is not None]
        total = self.result.outcome
        total.applied.update(outcome.applied)
        # A refusal stands as long as the rounds go on meeting it: keep the last round's count, not the sum.
        for key, n in outcome.refused.items():
            total.refused[key] = max(n, total.refused[key])
        total.quarantined.update(outcome.quarantined)
        return outcome.changes

    def select(self, *levels: str) -> list[Rule]:
        target = getattr(self.ctx.target, "name", None)
        found = self.rules.select(levels, ir.opset_of(self.model) or 1, target)
        allowed = self.options.groups
        kernels = self.ctx.target.kernels() if self.ctx.target is not None else None
        slow = [r for r in found if r.emits and kernels is not None and not kernels.pays(r.emits)]
        self.result.slow.update({r.name: r.emits for r in slow})
        return [
            r for r in found
            if r.name not in self.result.outcome.quarantined and r.name not in self.result.slow
            and (allowed is None or r.safety.level != "CLOSE" or r.group in allowed)
        ]  # fmt: skip

    def clean(self, *levels: str) -> None:
        """Fold, rewrite and share until nothing changes."""
        for _ in range(MAX_ROUNDS):
            self.run_pass(shapes_pass)
            folded = self.run_pass(fold)
            if folded:
                self.run_pass(dedupe_initializers, FOLDED)
            changes = folded + self.run_pass(split_sizes)
            changes += self.run_pass(known_if)
            if "CLOSE" in levels:
                changes += self.run_pass(scores)
            changes += self.rewrite("rules", self.select(*levels))
            if "CLOSE" in levels:
                changes += self.run_pass(masks)
            changes += self.run_pass(size_queries)
            self.run_pass(dedupe_initializers, SMALL)  # what rules wrote twice would keep equal nodes apart
            changes += self.run_pass(cse)
            changes += self.run_pass(dce)
            if not changes:
                return
        self.result.settled = False


def optimize(
    model: Model, options: Options | None = None, ctx: Context | None = None, rules: Registry | None = None
) -> Result:
    """Take the model through its level, in place.

    Raises:
        VerificationFailed: a pass left the graph broken.
        RuleError: (strict) a rule is at fault.
    """
    # The graph is one web of reference cycles that all stays alive: each collection would walk it for nothing,
    # which made passes over 100,000 nodes two to four times as slow.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _optimize(model, options, ctx, rules)
    finally:
        if collecting:
            gc.enable()


def _optimize(model: Model, options: Options | None, ctx: Context | None, rules: Registry | None) -> Result:
    o = options if options is not None else Options()
    run = _Run(model, o, ctx if ctx is not None else Context(), rules if rules is not None else registry())
    if o.skip:
        run.ctx.skip = run.ctx.skip | o.skip
    if o.level >= 1 > o.start:
        run.run_pass(lift_constants)
        if o.simplify:
            run.run_pass(simplify)
            run.run_pass(lift_constants)
        run.run_pass(inline_functions)
        run.run_pass(lift_constants)
        if run.ctx.target is not None:
            run.run_pass(raise_opset, run.ctx.target.opset_for(model))
            run.run_pass(lift_constants)
        run.run_pass(normalize)
        run.run_pass(branch_sizes)
        run.run_pass(doubtful_sizes)
        run.run_pass(dedupe_initializers)
        run.run_pass(tied_weights)
        run.clean("EXACT")
    if o.level >= 2 > o.start:
        run.run_pass(shapes_pass)
        run.run_pass(equal_sizes)
        run.clean("EXACT", "CLOSE")
    target = run.ctx.target if o.level >= 2 else None
    if o.shared_cache and o.start < 2:
        run.run_pass(shared_cache)
    rounds = o.level >= 3 and not o.exact
    half = target is not None and rounds and target.half
    if target is not None and o.start < 2 and half:
        # What is computed in float16 has other kernels: operators are written out, or not, once that is settled.
        run.step("lower", lambda: target.finish(model, run.ctx, None))
    elif target is not None and o.start < 2:
        _lower(run, target)
    if rounds and o.start < 2 and any(True for n in model.graph for _ in ir.subgraphs(n)):
        run.run_pass(dedupe_initializers)  # what rules made of a weight in two branches is one weight
        run.run_pass(shared_layers)
    if half and o.start < 2:
        run.result.fused = model.clone()
    if rounds:
        note(model, o.facts, o.weights, run.ctx.target)
        second = None if o.few is None else _Run(model.clone(), o, run.ctx, run.rules, run.result)
        _round(run, o.smooth, o.sites, target)
        if second is not None and o.few is not None:
            note(second.model, o.facts, o.weights, run.ctx.target)
            _round(second, o.few.smooth, o.few.sites, target)
            run.result.body = model.clone()
            # Halted before or not: a model that lacks the second body would look good whatever that holds.
            if two_bodies.NAME not in run.ctx.skip:
                few = second.model, o.few.name, o.few.most
                run.timed(two_bodies.NAME, lambda: two_bodies.run(model, run.ctx, *few))
    elif o.level >= 3:
        _in_parts(run, o.sites)  # it is exact enough for --exact
    if target is not None:
        before = model.clone() if rounds and not o.sites and run.result.fused is None else None
        arranged = ARRANGE not in run.ctx.skip and run.step(ARRANGE, lambda: target.arrange(model, run.ctx))
        if arranged and before is not None:
            run.result.fused = before
    if o.level >= 1:
        run.run_pass(normalize)
        run.run_pass(dedupe_initializers)
        run.run_pass(cse)
        run.run_pass(dce)
    verifier.check(model, f"after -O{o.level}")
    return run.result


def _round(run: _Run, alphas: Mapping[str, float], sites: Mapping[str, frozenset[str]], target: Any) -> None:
    before = frozenset((ir.site(n), n.op_type) for g in ir.all_graphs(run.model, functions=False) for n in g)
    old, kept = set(run.model.graph), {ir.site(n): origins(n) for n in run.model.graph}
    if alphas and run.run_pass(smooth, alphas):
        attach(run.model, run.options.weights)  # what was prepared is of the weights that smoothing made
    half, cached = sites.get(float16.NAME, frozenset()), sites.get(int8_cache.NAME, frozenset())
    if cached:
        run.run_pass(int8_cache, cached)
    _in_parts(run, sites)
    rounded = sites and run.rewrite("lossy rules", run.select("LOSSY"), dict(sites))
    if rounded:
        quantized = [r for r in run.select("EXACT", "CLOSE") if r.group.startswith("quantize")]
        run.rewrite("quantized forms", quantized)
        run.run_pass(dce)
    if half and target is not None:
        never = run.options.float32 | {n for n in kept if f"{float16.NAME}@{n}" in run.ctx.skip}
        made_of = {origin for n, names in kept.items() if n in never for origin in names}
        # What rules made of a layer computes as what is around it.
        nodes = [
            n for n in run.model.graph
            if (ir.site(n) in half - never if n in old else made_of.isdisjoint(origins(n)))
        ]  # fmt: skip
        run.run_pass(float16, nodes, target)
        run.run_pass(cse)
        run.run_pass(dce)
    if target is not None and (rounded or target.half):
        _lower(run, target, before)


def _in_parts(run: _Run, sites: Mapping[str, frozenset[str]]) -> None:
    wanted = sites.get(causal_parts.NAME, frozenset())
    if wanted:
        run.step(causal_parts.NAME, lambda: causal_parts.split(run.model, run.ctx, wanted))


def _lower(run: _Run, target: Any, before: Set[tuple[str, str]] | None = None) -> None:
    if run.step("lower", lambda: target.lower(run.model, run.ctx, before)):
        run.run_pass(lift_constants)  # the standard's bodies of operators are full of constants and casts
        run.clean("EXACT")
