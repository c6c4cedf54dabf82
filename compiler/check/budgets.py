"""Judging a compile against its budgets. What was measured comes from the report; nothing is run here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

from .. import ir
from ..errors import SEVERAL_KINDS, Unsupported
from ..ir import Model
from ..report import Report
from .config import Bounds, Budgets

CODES = {
    "latency": 60, "size": 61, "memory": 62, "load": 63, "accuracy": 64, "unsupported": 65, "fusions": 66, "operators": 67,
    "opset": 68,
}  # fmt: skip
"""Kind of budget to the exit code of a check in which only budgets of that kind failed."""
SEVERAL = 6
"""The exit code where budgets of several kinds failed."""
UNJUDGED = SEVERAL_KINDS
"""The exit code where something could not be judged and no error says why, or not only budgets failed."""
MEASURED = ("latency", "memory", "load")
"""Kinds whose numbers another run would give otherwise."""


@dataclass(frozen=True)
class Site:
    """A place in the model that a verdict is about: the node (or output) and what is wrong there."""

    node: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """One budget, judged.

    Attributes:
        kind: a key of ``CODES``.
        limit: the budget in words.
        found: what was found, in words.
        ok: None where it could not be judged; ``found`` says why.
        sites: places that it is about, where there are any.
    """

    kind: str
    limit: str
    found: str
    ok: bool | None
    sites: tuple[Site, ...] = ()

    @property
    def text(self) -> str:
        """The verdict as a sentence."""
        if self.ok is None:
            return f"{self.kind} could not be judged ({self.limit}): {self.found}"
        return f"{self.kind}: {self.found}; the budget is {self.limit}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Costs:
    """What an artifact costs; None where it was not measured.

    Attributes:
        latency: time per run over the source's: median of the pairs, and the 95 % interval.
        memory, load: peak memory and load time over the source's.
        seconds: first quartile of the time per run.
        memory_bytes, load_s: of the artifact alone.
        bytes, source_bytes: of the files, external data included.
    """

    bytes: int
    source_bytes: int
    latency: tuple[float, float, float] | None = None
    memory: float | None = None
    load: float | None = None
    seconds: float | None = None
    memory_bytes: int | None = None
    load_s: float | None = None


def costs(report: Report) -> Costs:
    """The costs that a report holds."""
    e = report.evaluation
    size = (report.artifact["bytes"], report.source["bytes"])
    if e is None:
        return Costs(*size)
    a, b, paired = e["a"], e["b"], e["paired"]
    # Only processes of their own give load times that can be compared: within one, the first pays for the second.
    apart = a["process"] is not None and b["process"] is not None
    return Costs(
        *size,
        latency=None if paired is None else (1 / paired["ratio"], 1 / paired["high"], 1 / paired["low"]),
        memory=b["peak_bytes"] / a["peak_bytes"] if a["peak_bytes"] and b["peak_bytes"] else None,
        load=b["load_s"] / a["load_s"] if apart and a["load_s"] else None,
        seconds=None if paired is None else paired["b"]["low"],
        memory_bytes=b["peak_bytes"],
        load_s=b["load_s"] if apart else None,
    )


def unsupported(error: Unsupported, budgets: Budgets) -> list[Verdict]:
    """The verdicts on a model that the target cannot run."""
    culprits = error.culprits or (("", error.what),)
    sites = tuple(Site(node, text) for node, text in culprits)
    found = f"{len(sites)} part{'s' if len(sites) != 1 else ''} without a kernel"
    first = Verdict("unsupported", f"at most {budgets.unsupported}", found, len(sites) <= budgets.unsupported, sites)
    asked = [k for k in CODES if k != "unsupported" and getattr(budgets, k) is not None]
    return [first, *(Verdict(k, "see olc.toml", "the target cannot run the model", None) for k in asked)]


def judge(
    report: Report, artifact: Callable[[], Model], budgets: Budgets, baseline: Mapping[str, Any] | None, level: int,
) -> list[Verdict]:
    """Each budget's verdict on a model that was compiled.

    Args:
        artifact: loads it; called only where a budget asks what is in it.
        baseline: the record of this model in the baseline, or None where it has none.
        level: that was asked for; a compile may give less.
    """
    cost = costs(report)
    found: list[Verdict] = []
    if budgets.latency is not None:
        found += _latency(cost, budgets.latency, baseline)
    if budgets.size is not None:
        found += _size(cost, budgets.size, baseline)
    for kind, bounds, ratio, value, show in (
        ("memory", budgets.memory, cost.memory, cost.memory_bytes, _mb),
        ("load", budgets.load, cost.load, cost.load_s, _ms),
    ):
        if bounds is not None:
            found += _single(kind, bounds, ratio, value, show, baseline)
    if budgets.accuracy is not None:
        found.append(_accuracy(report, budgets))
    found.append(Verdict("unsupported", f"at most {budgets.unsupported}", "every part has a kernel", True))
    if budgets.fusions is not None and level >= 2:
        given = report.options["level"]
        lost = Verdict("fusions", "as -O2 has them", f"-O{given} was given instead, which fuses nothing", False)
        found += [lost] if given < 2 else _fusions(report, budgets.fusions)
    if budgets.operators is not None or budgets.domains is not None or budgets.opset is not None:
        found += _contents(artifact(), budgets)
    return found


def _mb(n: float) -> str:
    return f"{n / 1e6:.3g} MB"


def _ms(s: float) -> str:
    return f"{s * 1e3:.3g} ms"


def _recorded(baseline: Mapping[str, Any] | None, key: str) -> Any:
    return None if baseline is None else baseline.get(key)


_NOTHING = "the baseline has no such number of it: olc check --update-baseline records one"
_UNMEASURED = "it was not measured; the report's notes say why"


def _latency(cost: Costs, bounds: Bounds, baseline: Mapping[str, Any] | None) -> Iterator[Verdict]:
    """A budget fails where the whole 95 % interval lies above it, and only there."""
    if cost.latency is None or cost.seconds is None:
        yield Verdict("latency", "see olc.toml", _UNMEASURED, None)
        return
    ratio, low, high = cost.latency
    if bounds.source is not None:
        found = f"{ratio:.3g} times the source's (95 % between {low:.3g} and {high:.3g})"
        yield Verdict("latency", f"at most {bounds.source:g} times the source's", found, low <= bounds.source)
    if bounds.baseline is not None:
        limit, old = f"at most {bounds.baseline:g} times the baseline's", _recorded(baseline, "latency")
        if old is None:
            yield Verdict("latency", limit, _NOTHING, None)
        else:
            # Both are ratios to the source. Their quotient surely exceeds what the nearest ends of the intervals give.
            now, then = (f"{r:.3g} of the source's, 95 % between {a:.3g} and {b:.3g}" for r, a, b in (cost.latency, old))
            found = f"{ratio / old[0]:.3g} times the baseline's (now {now}; then {then})"
            yield Verdict("latency", limit, found, low / old[2] <= bounds.baseline)
    if bounds.absolute is not None:
        found = f"{_ms(cost.seconds)} in the fastest quarter of the runs"
        yield Verdict("latency", f"at most {_ms(bounds.absolute)}", found, cost.seconds <= bounds.absolute)


def _size(cost: Costs, bounds: Bounds, baseline: Mapping[str, Any] | None) -> Iterator[Verdict]:
    old = _recorded(baseline, "bytes")
    for name, bound, base in (("source", bounds.source, cost.source_bytes), ("baseline", bounds.baseline, old)):
        if bound is None:
            continue
        limit = f"at most {bound:g} times the {name}'s"
        if base is None:
            yield Verdict("size", limit, _NOTHING, None)
        else:
            found = f"{cost.bytes / base:.4g} times the {name}'s ({cost.bytes:,} bytes, not {base:,})"
            yield Verdict("size", limit, found, cost.bytes <= bound * base)
    if bounds.absolute is not None:
        limit = f"at most {bounds.absolute / 1e6:g} MB"
        yield Verdict("size", limit, f"{cost.bytes:,} bytes", cost.bytes <= bounds.absolute)


def _single(
    kind: str, bounds: Bounds, ratio: float | None, value: float | None, show: Callable[[float], str],
    baseline: Mapping[str, Any] | None,
) -> Iterator[Verdict]:  # fmt: skip
    """Memory and load time: one number each, judged as it was measured."""
    if ratio is None or value is None:
        yield Verdict(kind, "see olc.toml", _UNMEASURED, None)
        return
    if bounds.source is not None:
        limit = f"at most {bounds.source:g} times the source's"
        yield Verdict(kind, limit, f"{ratio:.3g} times the source's ({show(value)})", ratio <= bounds.source)
    if bounds.baseline is not None:
        limit, old = f"at most {bounds.baseline:g} times the baseline's", _recorded(baseline, kind)
        if old is None:
            yield Verdict(kind, limit, _NOTHING, None)
        else:
            found = f"{ratio / old:.3g} times the baseline's ({ratio:.3g} of the source's, then {old:.3g})"
            yield Verdict(kind, limit, found, ratio / old <= bounds.baseline)
    if bounds.absolute is not None:
        yield Verdict(kind, f"at most {show(bounds.absolute)}", show(value), value <= bounds.absolute)


def _accuracy(report: Report, budgets: Budgets) -> Verdict:
    bounds = budgets.accuracy
    assert bounds is not None
    limit = f"cosine at least {bounds.cosine:g}, top-1 at least {bounds.top1:g}"
    if report.evaluation is None:
        return Verdict("accuracy", limit, _UNMEASURED, None)
    outputs = [SimpleNamespace(**o) for o in report.evaluation["outputs"]]
    wrong = [(o.name, why) for o in outputs if (why := bounds.breach([o])) is not None]
    if wrong:
        return Verdict("accuracy", limit, wrong[0][1], False, tuple(Site(name, why) for name, why in wrong))
    if "top1" in bounds.named and all(o.top1 is None for o in outputs):
        return Verdict("accuracy", limit, "no output is a distribution over classes, so there is no top-1", None)
    lowest = min((o.cosine_min for o in outputs if o.cosine_min is not None), default=None)
    found = "every output agrees" if lowest is None else f"every output agrees, lowest cosine {lowest:.6f}"
    return Verdict("accuracy", limit, found, True)


def _fusions(report: Report, wanted: Mapping[str, int | str]) -> Iterator[Verdict]:
    there = {f["kind"]: f for f in report.fusions}
    asked = {k: wanted.get(k, wanted.get("")) for k in [*there, *(k for k in wanted if k and k not in there)]}
    for kind, least in asked.items():
        if least is None:
            continue
        f = there.get(kind, {"expected": 0, "fused": 0, "missed": ()})
        sites = tuple(Site(m["site"], f"{kind}: {m['rule'] + ': ' if m['rule'] else ''}{m['reason']}") for m in f["missed"])
        found = f"{f['fused']} of {f['expected']} {kind} fused"
        if sites:
            found += f"; {sites[0].node}: {sites[0].text}"
        ok = not sites if least == "all" else f["fused"] >= int(least)
        yield Verdict("fusions", f"{least} {kind}", found, ok, () if ok else sites)


def _contents(model: Model, budgets: Budgets) -> Iterator[Verdict]:
    nodes = [(ir.site(n), f"{n.domain}::{n.op_type}" if n.domain else n.op_type, n.domain)
             for g in ir.all_graphs(model) for n in g]  # fmt: skip
    for what, allowed, part in (("operators", budgets.operators, 1), ("domains", budgets.domains, 2)):
        if allowed is None:
            continue
        others = [n for n in nodes if n[part] not in allowed]
        names = sorted({n[part] or "ai.onnx" for n in others})
        sites = tuple(Site(n[0], f"{n[1]} is not among the allowed {what}") for n in others)
        found = f"also {', '.join(names)}" if names else "no others"
        limit = f"only {what} {', '.join(sorted(a or 'ai.onnx' for a in allowed))}"
        yield Verdict("operators", limit, found, not others, sites)
    if budgets.opset is not None:
        low, high = budgets.opset
        version = ir.opset_of(model)
        found = "it does not import the standard domain" if version is None else f"opset {version}"
        yield Verdict("opset", f"{low} to {high}", found, version is None or low <= version <= high)
