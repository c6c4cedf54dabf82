"""The report as one HTML file: no script, nothing fetched. Reads ``Report`` alone; the same report gives the same bytes.

Names and texts come from models that nobody vouches for. Everything that the template prints passes ``clean`` and is then
escaped; pictures are made of numbers only.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .. import plain
from ..session import SessionOptions
from ..strategy.plan import Plan
from . import Report, blocks, numbers, svg

LIMITS = {"blocks": 80, "parts": 40, "rules": 20, "operators": 14, "layers": 200, "outputs": 60, "reasons": 20, "trials": 80,
          "details": 1500}  # fmt: skip
"""Rows that are shown of each list; the rest is counted and lies in the JSON."""


def html(report: Report) -> str:
    """The report as a self-contained page.

    Raises:
        BadInput: the plan that the report holds is none.
        KeyError, TypeError, ValueError, jinja2.UndefinedError: it lacks something that every report has.
    """
    plan = Plan.loads(report.plan, "the report's plan") if report.plan else None
    return _environment().get_template("report.html.j2").render(
        r=report, plan=plan, e=report.evaluation, facts=facts(report), verdict=verdict(report), kept=kept(report, plan),
        trials=_trials(report), picture=_picture(report), blocks=_blocks(report), profile=_profile(report.executed),
        layers=_layers(report), sides=_sides(report.evaluation), refused=missed_rules(report), limits=LIMITS,
        opened=SessionOptions.from_dict(report.session_options).text,
    )  # fmt: skip


@cache
def _environment() -> Environment:
    env = Environment(
        loader=PackageLoader("olc.report", "."), autoescape=True, undefined=StrictUndefined, finalize=clean,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    env.filters |= {
        "name": plain.name, "error": numbers.error, "duration": numbers.duration, "size": numbers.size, "change": numbers.change,
        "told": blocks.told, "json_text": lambda v: json.dumps(v, ensure_ascii=False),
    }  # fmt: skip
    return env


def clean(value: Any) -> Any:
    """What the template prints: texts cleaned, anything else as it is."""
    return plain.clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


# ------------------------------------------------------------------------------------------------- what is told, as values


def verdict(report: Report) -> str:
    """How far the outputs lie from the source's, in a few words."""
    e = report.evaluation
    if e is None:
        return "not compared with the source"
    problems = sum(1 for o in e["outputs"] if o["problem"])
    if problems:
        return f"{problems} of {len(e['outputs'])} outputs cannot be compared"
    if e["equal"]:
        return "outputs equal, bit for bit"
    lowest = min((o["cosine_min"] for o in e["outputs"] if o["cosine_min"] is not None), default=None)
    if e["within"]:
        largest = max((o["max_rel"] or 0.0 for o in e["outputs"]), default=0.0)
        return f"outputs equal up to rounding (largest relative error {numbers.error(largest)})"
    return "outputs differ" if lowest is None else f"cosine of the outputs at least {lowest:.6f}"


def kept(report: Report, plan: Plan | None) -> tuple[list[str], list[str]]:
    """What of the choices stands, and what was taken back, as short phrases."""
    done = {r["node"] for r in report.layers if r["kept"]}
    left = {r["node"] for r in report.layers} - done
    rounded = Counter(r["rule"] for r in report.layers if r["kept"])
    groups = plan.groups if plan is not None else {}
    stands = [f"fusions of the group {g}" for g, c in groups.items() if c.keep]
    stands += [f"{n} layers by {rule}" for rule, n in rounded.most_common()]
    back = [f"fusions of the group {g}" for g, c in groups.items() if not c.keep]
    if left:
        back.append(f"{len(left)} layers stay in float")
    back += [t["what"] for t in report.trials if not t["kept"] and t["error"] is not None]
    return stands, back


def facts(report: Report) -> list[tuple[str, ...]]:
    """Rows of the summary: what, source, artifact, by how much."""
    e = report.evaluation
    rows: list[tuple[str, ...]] = []
    if e is not None and e["paired"] is not None:
        a, b = (e["paired"][s]["median"] for s in "ab")
        rows.append(("time of a run", numbers.duration(a), numbers.duration(b), numbers.change(a, b)))
    before, after = report.source["bytes"], report.artifact["bytes"]
    rows.append(("size", numbers.size(before), numbers.size(after), numbers.change(before, after)))
    if e is not None:
        peaks = [e[s]["peak_bytes"] for s in "ab"]
        if all(peaks):
            rows.append(("peak memory", *(numbers.size(p) for p in peaks), numbers.change(*peaks)))
        loads = [e[s]["load_s"] for s in "ab"]
        if report.target.get("here", True):
            rows.append(("load time", *(numbers.duration(t) for t in loads), numbers.change(*loads)))
    if report.changes:
        for what in ("nodes", "parameters"):
            pair = report.changes[what]
            rows.append((what, *(numbers.count(n) for n in pair), numbers.change(*pair)))
    return rows


def _sides(e: Mapping[str, Any] | None) -> list[tuple[str, dict[str, Any], Markup]]:
    """The timing of source and artifact, each with its spread drawn on one axis."""
    if e is None or e["paired"] is None:
        return []
    sides = [e["paired"][s] for s in "ab"]
    axis = svg.Axis(min(s["low"] for s in sides) / 1.1, max(s["high"] for s in sides) * 1.1)
    return [(what, s, svg.interval(axis, s["low"], s["median"], s["high"], kind, one=False))
            for what, s, kind in zip(("source", "artifact"), sides, ("before", "after"), strict=True)]  # fmt: skip


def _trials(report: Report) -> list[dict[str, Any]]:
    """The comparisons, each with its interval drawn, and numbered where it has an error."""
    shown = report.trials[: LIMITS["trials"]]
    axis = svg.Axis.over([t[k] for t in shown for k in ("low", "high")])
    rows, number = [], 0
    for t in shown:
        number += _placed(t)
        drawn = svg.interval(axis, t["low"], t["ratio"], t["high"], "after" if t["kept"] else "before")
        rows.append({**t, "drawn": drawn, "number": number if _placed(t) else None})
    return rows


def _placed(trial: Mapping[str, Any]) -> bool:
    """Does it stand in the picture: does it have an error, and a speed over the float model's?"""
    return trial["error"] is not None and not trial["against"]


def _picture(report: Report) -> Markup | None:
    """Speed against error of the rounded models that were tried."""
    tried = [t for t in report.trials[: LIMITS["trials"]] if _placed(t)]
    if len(tried) < 2:
        return None
    front = {(f["speed"], f["error"]) for f in report.front}
    points = [svg.Point(i + 1, t["ratio"], t["error"], (t["ratio"], t["error"]) in front) for i, t in enumerate(tried)]
    bound = report.options.get("accuracy", {}).get("cosine")
    return svg.scatter(points, None if bound is None else 1.0 - bound)


def _blocks(report: Report) -> dict[str, Any]:
    """The blocks that are shown, and how many are not. Of each module's rules how often each fired, and where first."""
    found = blocks.blocks(report)
    left, rows = LIMITS["details"], []
    for b in found[: LIMITS["blocks"]]:
        parts = []
        for p in b.parts[: LIMITS["parts"]]:
            fired = blocks.by_rule(p.rewrites)
            shown = list(fired.items())[: max(0, min(LIMITS["rules"], left))]
            left -= len(shown)
            parts.append((p, shown, len(fired) - len(shown)))
        rows.append({"title": b.title, "count": b.count, "whole": b.whole, "parts": parts, "more": len(b.parts) - len(parts)})
    return {"shown": rows, "more": len(found) - len(rows), "named": any(b.title for b in found)}


def _profile(executed: Mapping[str, Any]) -> dict[str, Any] | None:
    """Time by operator type, both models on one scale, most time first."""
    sides = [{r["operator"]: r for r in executed.get(side, [])} for side in ("source", "artifact")]
    if not all(sides):
        return None
    totals = [sum(r["microseconds"] for r in side.values()) for side in sides]
    none = {"microseconds": 0.0, "count": 0}
    pairs = {op: tuple(side.get(op, none) for side in sides) for op in {**sides[0], **sides[1]}}
    order = sorted(pairs, key=lambda op: (-max(p["microseconds"] for p in pairs[op]), op))
    longest = max(*(p["microseconds"] for pair in pairs.values() for p in pair), 1e-9)
    rows = [{
        "operator": op, "count": [p["count"] for p in pairs[op]], "microseconds": [p["microseconds"] for p in pairs[op]],
        "drawn": [svg.bar(p["microseconds"] / longest, kind) for p, kind in zip(pairs[op], ("before", "after"), strict=True)],
    } for op in order[: LIMITS["operators"]]]  # fmt: skip
    rest = [total - sum(r["microseconds"][i] for r in rows) for i, total in enumerate(totals)]
    return {"rows": rows, "more": len(order) - len(rows), "rest": rest, "totals": totals,
            "by_runtime": executed.get("by_runtime", {})}  # fmt: skip


def _layers(report: Report) -> dict[str, Any] | None:
    """A row for each layer: how it is rounded, its error under each rule, its outliers and its time, bars on one scale."""
    if not report.layers:
        return None
    by_node: dict[str, list[dict[str, Any]]] = {}
    for r in report.layers:
        by_node.setdefault(r["node"], []).append(r)
    rules = sorted({r["rule"] for r in report.layers if r["error"] is not None})
    # Few rules are columns beside each other; with many, most cells would be empty.
    columns = rules if len(rules) <= 4 else []
    order = sorted(by_node, key=lambda n: (blocks._natural(by_node[n][0].get("module") or ""), blocks._natural(n)))
    longest = max((t for r in report.layers for t in r["microseconds"] if t), default=1.0)
    largest = max((r["outliers"] or 1.0 for r in report.layers), default=1.0)
    scale = svg.Axis(1.0, max(largest, 2.0))
    rows = []
    for node in order[: LIMITS["layers"]]:
        tried = {r["rule"]: r for r in by_node[node]}
        chosen = next((r for r in tried.values() if r["kept"]), None)
        told = chosen if chosen is not None else by_node[node][0]
        before, after = told["microseconds"]
        rows.append({
            "node": node, "module": told.get("module") or "", "rule": None if chosen is None else chosen["rule"],
            "errors": [(rule, tried[rule]["error"] if rule in tried else None) for rule in columns or [told["rule"]]],
            "outliers": told["outliers"], "before": before, "after": after,
            "outliers_drawn": None if not told["outliers"] else svg.bar(scale.at(told["outliers"]) / 100, "outlier"),
            "drawn": [svg.bar((t or 0) / longest, kind) for t, kind in ((before, "before"), (after, "after"))],
        })  # fmt: skip
    rounded = Counter(r["rule"] for r in report.layers if r["kept"])
    return {"rows": rows, "more": len(order) - len(rows), "columns": columns, "rounded": rounded, "total": len(order),
            "reasons": _reasons(report.layers)}  # fmt: skip


def _reasons(layers: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, int]]:
    """Why layers are not rounded by a rule, without the numbers of each: rule, reason, layers."""
    found = Counter((r["rule"], re.sub(r"^error at its own output [^;]*; ", "", r["why"])) for r in layers if not r["kept"])
    return [(rule, why, n) for (rule, why), n in found.most_common(LIMITS["reasons"])]


def missed_rules(report: Report) -> list[dict[str, Any]]:
    """Refusals that cost something: one by an exact rule of one operator is mostly "nothing to do here"."""
    return [r for r in report.refused if r["safety"] != "EXACT" and r["operators"] > 1][: LIMITS["reasons"]]
