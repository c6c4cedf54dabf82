"""What a rule must keep, checked on each of its cases.

============ ===================================================================================================
declared     it says why it is sound, has a case, and a refused case where it has ``unless``
builds       its pattern and case give a legal model
fires        it rewrites its cases
refuses      it leaves its refused cases alone, with the reason that they name
rewrite      what it proposes passes the rewriter's check before commit; its functions do not crash
valid        the result passes olc's verifier and onnx's checker
interface    graph inputs and outputs keep names, dtypes and ranks
numerics     the results keep the promise of its safety level
idempotent   a second run changes nothing
terminates   it comes to an end, alone and together with the rules of its level
initializers weights that it reads keep their names and contents
============ ===================================================================================================
"""

from __future__ import annotations

import textwrap
import traceback
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from .. import ir, verifier
from ..analysis import shapes
from ..errors import BadInput, RuleError
from ..matching import Match
from ..passes import Context
from ..quantization.facts import Observed, note
from ..rewriter import Outcome, Rewriter, why
from ..rules import Case, Refused, Rule
from . import data, declaration, draws, mutants, oracle
from .case_model import Built, Draw, Invalid, build, why_invalid
from .mutants import Candidate
from .shrink import Failure, shrink

ROUNDS = 6


@dataclass(frozen=True)
class Finding:
    """Something wrong with a rule.

    Attributes:
        check: one of those in this module's table.
        variant: what was done to the case ("plain", "interior value is a graph output", "axis=0" …).
        smallest: the smallest model and input found that show it, as text.
        severity: "error", or "warning" for what a person should look at.
    """

    rule: str
    case: str
    check: str
    variant: str
    message: str
    seed: int
    smallest: str = ""
    severity: str = "error"

    def __str__(self) -> str:
        head = f"{self.severity}: {self.rule}, case {self.case!r}, {self.check} ({self.variant}): {self.message}"
        return head + f" [seed {self.seed}]" + (f"\n{textwrap.indent(self.smallest, '  ')}" if self.smallest else "")


@dataclass(frozen=True)
class _Done:
    """A model after the rule was run on it."""

    model: ir.Model
    outcome: Outcome


@dataclass(frozen=True)
class _Fault:
    """A check that failed before there was a result to compare."""

    check: str
    message: str


Make = Callable[[Draw], "Candidate | None"]
"""Makes the variant's model from a draw; None or ``Invalid`` where that draw has none."""


def check_rule(rule: Rule, all_rules: Iterable[Rule] = (), seed: int = 0, rounds: int = ROUNDS) -> list[Finding]:
    """Check a rule on its cases.

    Args:
        all_rules: rules that are in force with it; it is tried together with those of its safety level and below.
        seed: everything random follows from it.
        rounds: random draws of each case; the time grows with it.
    """
    with np.errstate(all="ignore"):  # rules compute on infinities and NaN here, on purpose
        return _Checker(rule, list(all_rules), seed, rounds).run()


class _Checker:
    def __init__(self, rule: Rule, all_rules: list[Rule], seed: int, rounds: int) -> None:
        self.rule = rule
        self.others = _in_force(rule, all_rules)
        self.seed = seed
        self.rounds = rounds
        self.findings: dict[tuple[str, str], Finding] = {}
        self.case: Case = Case("declaration")
        self.draw_seed = seed
        self.compared = 0
        self.reasons: set[str] = set()
        self.target = _target(rule)
        self.built: tuple[Draw, Built | None, str] | None = None

    def run(self) -> list[Finding]:
        for i, case in enumerate(self.rule.cases):
            self.case = case
            random = np.random.default_rng([self.seed, zlib.crc32(self.rule.name.encode()), i])
            self._case(random)
        self.case = Case("declaration")
        for variant, message, severity in declaration.problems(self.rule, self.reasons):
            self.report("declared", variant, message, severity=severity)
        return list(self.findings.values())

    def report(
        self, check: str, variant: str, message: str, smallest: str | Callable[[], str] = "", severity: str = "error"
    ) -> None:
        """Keep the first finding of each check on each case: the others are mostly its echoes."""
        key = (self.case.title, check)
        if key not in self.findings:
            text = smallest if isinstance(smallest, str) else smallest()
            self.findings[key] = Finding(
                self.rule.name, self.case.title, check, variant, message, self.seed, text, severity
            )

    # --- one case ------------------------------------------------------------------------------------------------

    def _case(self, random: np.random.Generator) -> None:
        base = self._base(random)
        if base is None:
            return
        self.compared = 0
        fired = self._alternatives(base, random)
        if isinstance(self.case, Refused):
            self._rounds(base, random)
        elif fired is not None:
            if not self.compared:
                self.report("numerics", "plain", f"nothing was compared: {self._why_not_run(fired)}")
            self._rounds(base, random)
            self._opsets(fired)
            self._mutants(fired)
            self._together(fired)

    def _base(self, random: np.random.Generator) -> Draw | None:
        """The first draw that gives a legal model: the canonical one if possible."""
        first = draws.canonical(self.rule, self.case, self.seed)
        tries = [first, first.but(literals="vector")]
        tries += [draws.plain(self.rule, self.case, i, random).but(opset=first.opset, choices=()) for i in range(6)]
        problem = ""
        for draw in tries:
            built, reason = self._build(draw)
            if built is None:
                problem = problem or reason
                continue
            # Another alternative may be legal where the first is not.
            for choices in draws.all_choices(built.asked, random):
                other, reason = self._build(draw.but(choices=choices))
                if other is not None and (reason := why_invalid(other.proto) or "") == "":
                    return draw.but(choices=choices)
                problem = problem or reason
        self.report("builds", "plain", f"the case gives no legal model: {problem}")
        return None

    def _build(self, draw: Draw) -> tuple[Built | None, str]:
        """The model of a draw, which nobody may change: many variants in turn start from the same."""
        if self.built is None or self.built[0] is not draw:
            self.built = (draw, *self._build_anew(draw))
        return self.built[1:]

    def _build_anew(self, draw: Draw) -> tuple[Built | None, str]:
        try:
            return build(self.rule, draw), ""
        except Invalid as e:
            return None, str(e)
        except Exception as e:  # the author's pattern function, run on values
            return None, f"the pattern function raises {type(e).__name__}: {e}"

    def _plain(self, draw: Draw) -> Candidate | None:
        built, _ = self._build(draw)
        return None if built is None else Candidate(built.proto, built.inputs)

    def _why_not_run(self, draw: Draw) -> str:
        candidate = self._plain(draw)
        assert candidate is not None
        try:
            oracle.run(candidate.proto, data.feeds(candidate.inputs, "plain", self.seed))
        except (oracle.CannotRun, oracle.Fails) as e:
            return str(e)
        return "no engine runs both the case and the result"

    def _followed(self, draw: Draw) -> Candidate | None:
        built, _ = self._build(draw)
        return None if built is None else mutants.followed(built, keep=False)

    def _alternatives(self, base: Draw, random: np.random.Generator) -> Draw | None:
        """Each combination of alternatives once; the first draw at which the rule fires."""
        built, _ = self._build(base)
        assert built is not None
        first: Draw | None = None
        silent: list[str] = []
        said: list[str] = []
        seen: set[bytes] = set()
        for choices in draws.all_choices(built.asked, random):
            draw = base.but(choices=choices)
            one, _ = self._build(draw)
            if one is None or (key := one.proto.SerializeToString(deterministic=True)) in seen:
                continue
            seen.add(key)
            if why_invalid(one.proto) is not None:
                continue
            label = f"alternative {choices}" if built.asked else "plain"
            fired = self._trial(label, self._plain, draw, self._profiles(2))
            if fired is False and self.case.fires:
                # A result that is a graph output already cannot always be replaced by what was there before.
                fired = self._trial(f"{label}, root followed by an operator", self._followed, draw, self._profiles(2))
            if fired:
                first = first or draw
            reasons = self._reasons(one.proto)
            self.reasons.update(reasons)
            said += reasons
            if isinstance(self.case, Refused):
                if fired:
                    what = "the rule fires on a case that it should refuse"
                    self.report("refuses", label, what, onnx.printer.to_text(one.proto))
            elif fired is False:
                silent.append(f"{label}: {reasons[0] if reasons else 'its root is not in the model'}")
        if isinstance(self.case, Refused) and not any(self.case.because in r for r in said):
            words = "; ".join(dict.fromkeys(said[:6])) or "nothing: its root is not in the model"
            self.report("refuses", "plain", f"the reason should contain {self.case.because!r}, but it says: {words}")
        if self.case.fires and first is None:
            if not any((self.case.title, check) in self.findings for check in ("rewrite", "terminates", "initializers")):
                self.report("fires", "plain", f"the rule leaves the case alone: {silent[0] if silent else 'no reason'}")
        elif silent and self.case.fires:
            self.report("fires", "alternatives", f"does not fire on {'; '.join(silent[:3])}", severity="warning")
        return first

    def _reasons(self, proto: onnx.ModelProto) -> list[str]:
        """Why the rule leaves the model alone, best reason first."""
        model = self._load(proto)
        found = [m.reason for _, m in why(model, self.rule) if not isinstance(m, Match)]
        outcome = self._rewriter(model, [self.rule], strict=False).run()
        return [reason for _, reason in outcome.refused] + found

    def _rounds(self, base: Draw, random: np.random.Generator) -> None:
        """Random shapes, placements and declarations; then perturbations of the case."""
        for i in range(self.rounds):
            draw = draws.plain(self.rule, self.case, i, random)
            self._trial("plain", self._plain, draw, self._profiles(6 if i == draws.ROOMY else 2, i))
        self._trial("the pattern's numbers off by 1e-6", self._plain, base.but(nudge=1e-6), self._profiles(1))
        for i in range(8 * self.rounds):
            start = base if i % 2 else draws.plain(self.rule, self.case, 2 + i, random).but(declare="static")
            found = draws.perturbed(self.rule, start, random, not self.case.observed)
            if found is None:
                continue
            label, draw = found
            again = draws.perturbed(self.rule, draw, random, not self.case.observed) if i % 3 == 2 else None
            if again is not None:
                label, draw = f"{label}, {again[0]}", again[1]
            self._trial(label, self._plain, draw, self._profiles(2, i))

    def _opsets(self, draw: Draw) -> None:
        """The ends of the range of opsets in which the rule may act."""
        last = min(self.rule.until or 1000, onnx.defs.onnx_opset_version())
        for opset in sorted({self.rule.since, last} - {draw.opset}):
            self._trial(f"opset {opset}", self._plain, draw.but(opset=opset), self._profiles(1))

    def _mutants(self, draw: Draw) -> None:
        built, _ = self._build(draw)
        assert built is not None
        for label, mutate in mutants.of(built, draw.opset):

            def make(d: Draw, mutate: mutants.Mutate = mutate) -> Candidate | None:
                one, _ = self._build(d)
                return None if one is None else mutate(one)

            self._trial(label, make, draw, self._profiles(4))

    def _together(self, draw: Draw) -> None:
        """With the rules of its level: they must come to an end, and keep the loosest of their promises."""
        candidate = self._plain(draw)
        if not self.others or candidate is None:
            return
        model = self._load(candidate.proto)
        rewriter = self._rewriter(model, [r for r in self.others if r.applies(draw.opset, self._target_name())])
        try:
            rewriter.run()
        except RuleError as e:
            if e.where == "rewriter":
                self.report("terminates", "with the other rules", e.what, onnx.printer.to_text(candidate.proto))
            return  # another rule's fault is found on its own cases
        candidate.assumed = frozenset(rewriter.ctx.relied)
        after = ir.serde.serialize_model(model)
        for profile in self._profiles(2):
            self._numerics("with the other rules", candidate, after, profile, None, _loosest(self.others))

    # --- one trial -----------------------------------------------------------------------------------------------

    def _profiles(self, count: int, start: int = 0) -> list[str]:
        """Some profiles of contents, the two that find most first."""
        level = self.rule.safety.level
        known = {"EXACT": data.EXACT_PROFILES, "LOSSY": data.LOSSY_PROFILES}.get(level, data.CLOSE_PROFILES)
        return list(dict.fromkeys(known[(count * start + i) % len(known)] for i in range(count)))

    def _trial(self, label: str, make: Make, draw: Draw, profiles: list[str]) -> bool | None:
        """Rewrite one model and check everything about it. True if the rule fired, None if the model is not legal."""
        make = _seeded(make, label)
        try:
            candidate = make(draw)
        except Invalid:
            return None
        if candidate is None:
            return None
        done = self._rewritten(candidate)
        if isinstance(done, _Fault):
            if why_invalid(candidate.proto) is None and self._legal(candidate):

                def smallest() -> str:
                    return self._shrunk(draw, make, lambda c, _: self._same_fault(c, done.check))

                # What does not come to an end takes long to make smaller.
                text = onnx.printer.to_text(candidate.proto)
                self.report(done.check, label, done.message, text if done.check == "terminates" else smallest)
            return None
        self.reasons.update(reason for _, reason in done.outcome.refused)
        if not done.outcome.changes:
            return False
        if why_invalid(candidate.proto) is not None:
            return None
        after = ir.serde.serialize_model(done.model)
        self._structure(label, candidate, done.model, after)
        for profile in profiles:
            self._numerics(label, candidate, after, profile, (draw, make))
        return True

    def _same_fault(self, candidate: Candidate, check: str) -> oracle.Difference | None:
        again = self._rewritten(candidate)
        if not isinstance(again, _Fault) or again.check != check or not self._legal(candidate):
            return None
        return oracle.Difference(again.message)

    def _rewritten(self, candidate: Candidate) -> _Done | _Fault:
        """The model after the rule; or the check that failed and what it says."""
        try:
            model = self._load(candidate.proto)
            weights = _weights(model)
            rewriter = self._rewriter(model, [self.rule])
            outcome = rewriter.run()
        except RuleError as e:
            return _Fault("terminates" if e.where == "rewriter" else "rewrite", str(e))
        except Exception as e:  # whatever the rule's own functions raise
            return _Fault("rewrite", f"{type(e).__name__}: {e}, at {_innermost(e)}")
        candidate.assumed = frozenset(rewriter.ctx.relied)
        changed = _changed_weight(weights)
        return _Fault("initializers", changed) if changed else _Done(model, outcome)

    def _legal(self, candidate: Candidate, profile: str = "plain") -> bool:
        """Is the original a model that the standard allows? Asked before a finding is reported, since the reference
        evaluator broadcasts where the standard does not. Where no engine can tell, it is taken to be; of a runtime's own
        operators it can."""
        try:
            found = self._feed(candidate, profile)
        except oracle.CannotRun as e:
            return "ShapeInferenceError" not in str(e)
        return found is not None and oracle.consistent(candidate.proto, found[0])

    def _load(self, proto: onnx.ModelProto) -> ir.Model:
        model = _load(proto)
        note(model, {name: Observed(*seen) for name, seen in self.case.observed.items()})
        return model

    def _rewriter(self, model: ir.Model, rules: list[Rule], strict: bool = True) -> Rewriter:
        return Rewriter(model, rules, Context(target=self.target), strict=strict)

    def _structure(self, label: str, candidate: Candidate, model: ir.Model, after: onnx.ModelProto) -> None:
        found = self._structural(candidate, model, after)
        if found is not None and self._legal(candidate):
            check, message = found
            self.report(check, label, message, onnx.printer.to_text(candidate.proto))

    def _structural(self, candidate: Candidate, model: ir.Model, after: onnx.ModelProto) -> tuple[str, str] | None:
        problems = [str(p.what) for p in verifier.verify(model)]
        invalid = why_invalid(after)
        if problems or invalid:
            return "valid", problems[0] if problems else str(invalid)
        for side in ("input", "output"):
            was, now = (_interface(getattr(p.graph, side)) for p in (candidate.proto, after))
            if was != now:
                return "interface", f"graph {side}s were {was}, are {now}"
        try:
            outcome = self._rewriter(self._load(after), [self.rule]).run()
        except RuleError as e:
            return "idempotent", f"on its own result: {e}"
        return ("idempotent", f"a second run applies it {outcome.changes} more times") if outcome.changes else None

    def _numerics(
        self, label: str, candidate: Candidate, after: onnx.ModelProto, profile: str,
        origin: tuple[Draw, Make] | None, level: str | None = None,
    ) -> None:  # fmt: skip
        try:
            found = self._differ(candidate, after, profile, level or self.rule.safety.level)
        except (oracle.CannotRun, oracle.Fails):
            return
        self.compared += 1
        if found is None or not self._legal(candidate, profile):
            return
        if origin is None:
            self.report("numerics", label, found.text, onnx.printer.to_text(candidate.proto))
            return

        def fails(c: Candidate, feed: dict[str, np.ndarray] | None) -> oracle.Difference | None:
            again = self._rewritten(c)
            if isinstance(again, _Fault):
                return None
            proto = ir.serde.serialize_model(again.model)
            try:
                if feed is None:
                    difference = self._differ(c, proto, profile, self.rule.safety.level)
                else:
                    difference = oracle.compare(self.rule.safety.level, c.proto, proto, feed)
            except (oracle.CannotRun, oracle.Fails):
                return None
            return None if difference is None or not self._legal(c, profile) else difference

        self.report("numerics", label, found.text, lambda: self._shrunk(*origin, fails, profile))

    def _differ(self, c: Candidate, after: onnx.ModelProto, profile: str, level: str) -> oracle.Difference | None:
        found = self._feed(c, profile)
        if found is None:
            raise oracle.Fails("no inputs that the original accepts")
        feed, original = found
        return oracle.compare(level, c.proto, after, feed, original)

    def _feed(self, c: Candidate, profile: str) -> tuple[dict[str, np.ndarray], tuple[oracle.Arrays, bool]] | None:
        """Contents for the inputs that the original accepts, and what it makes of them."""
        for attempt, name in enumerate((profile, "plain", "plain", "plain")):
            feed = data.feeds(c.inputs, name, [self.seed, c.seed, attempt], c.assumed)
            for fixed, contents in c.contents.items():
                feed[fixed] = contents[min(attempt, len(contents) - 1)]  # the last is what it was
            for seen, bounds in self.case.observed.items():
                if seen in feed and feed[seen].dtype.kind in "iuf":
                    feed[seen] = _within(feed[seen], *bounds[:2])
            try:
                return feed, oracle.run(c.proto, feed)
            except oracle.Fails:
                continue
        return None

    def _shrunk(
        self, draw: Draw, make: Make, fails: Callable[[Candidate, Any], oracle.Difference | None], profile: str = "plain"
    ) -> str:
        def feed_of(c: Candidate) -> dict[str, np.ndarray] | None:
            try:
                found = self._feed(c, profile)
            except oracle.CannotRun:
                return None
            return None if found is None else found[0]

        return shrink(Failure(draw, make, fails, feed_of))

    def _target_name(self) -> str | None:
        return self.rule.targets[0] if self.rule.targets else None


def _within(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Contents as calibration saw them: within the range, and reaching about as far, for a grid over it rounds away the rest."""
    reach, largest = max(abs(low), abs(high)), float(np.abs(x).max(initial=0))
    if x.dtype.kind == "f" and 0 < largest < reach / 4:
        x = x * x.dtype.type(reach / largest)
    return x.clip(low, high)


def _seeded(make: Make, label: str) -> Make:
    """Contents of inputs differ from draw to draw and from variant to variant."""

    def seeded(draw: Draw) -> Candidate | None:
        c = make(draw)
        if c is not None:
            c.seed = draw.seed + zlib.crc32(label.encode())
        return c

    return seeded


def _target(rule: Rule) -> Any:
    """The target that the rule is for, where this installation has it."""
    from .. import targets

    for name in rule.targets:
        try:
            return targets.get(name)
        except BadInput:
            continue
    return None


def _in_force(rule: Rule, rules: list[Rule]) -> list[Rule]:
    order = ["EXACT", "CLOSE", "LOSSY"]
    levels = order[: order.index(rule.safety.level) + 1]
    found = [r for r in rules if r.safety.level in levels and r is not rule]
    return [*found, rule] if rules else []


def _loosest(rules: list[Rule]) -> str:
    return max((r.safety.level for r in rules), key=["EXACT", "CLOSE", "LOSSY"].index)


def _load(proto: onnx.ModelProto) -> ir.Model:
    own = onnx.ModelProto()  # a rule that renames a weight must not reach our copy
    own.CopyFrom(proto)
    model = ir.serde.deserialize_model(own)
    shapes.infer(model)
    return model


def _weights(model: ir.Model) -> list[tuple[ir.Value, str | None, bytes]]:
    return [
        (v, v.name, v.const_value.tobytes())
        for g in ir.all_graphs(model) for v in g.initializers.values() if v.const_value is not None
    ]  # fmt: skip


def _changed_weight(weights: list[tuple[ir.Value, str | None, bytes]]) -> str | None:
    for value, name, content in weights:
        if value.name != name:
            return f"initializer {name!r} is now called {value.name!r}"
        if value.const_value is None or value.const_value.tobytes() != content:
            return f"the content of initializer {name!r} changed"
    return None


def _interface(values: Iterable[onnx.ValueInfoProto]) -> list[tuple[str, int, int | None]]:
    def rank(v: onnx.ValueInfoProto) -> int | None:
        t = v.type.tensor_type
        return len(t.shape.dim) if t.HasField("shape") else None

    return [(v.name, v.type.tensor_type.elem_type, rank(v)) for v in values]


def _innermost(e: BaseException) -> str:
    last = traceback.extract_tb(e.__traceback__)[-1]
    return f"{last.filename.rsplit('/', 1)[-1]}:{last.lineno}"
