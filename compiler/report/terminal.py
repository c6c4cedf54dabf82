"""The report as a person reads it in a terminal. Reads ``Report`` (or an evaluation's dict) and nothing else."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..errors import OlcError
from ..session import SessionOptions
from . import Report
from .numbers import count, duration, size


def _console() -> Console:
    """Where the output is a file or a pipe there is no width to fit."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=140)


def show(report: Report, console: Console | None = None) -> None:
    """Print the report: summary first, then choices, rewrites, accuracy and notes."""
    out = console if console is not None else _console()
    source, artifact = report.source, report.artifact
    out.print(Text(f"{source['path']} -> {artifact['path']}", style="bold"), end="")
    out.print(f"  -O{report.options['level']} for {report.target['name']}")
    _summary(report, out)
    if report.trials:
        _trials(report, out)
    _layers(report, out)
    _rewrites(report, out)
    _executed(report.executed, out)
    if report.evaluation is not None:
        _outputs(report.evaluation, out)
    _metrics(report.metrics, out)
    for name, a in report.assumed.items():
        out.print(f"assumed by {a['rewrites']} rewrites (--strict {name} forbids it): {a['what']}")
    for name, why in report.quarantined.items():
        out.print(f"[red]taken out:[/red] {name}: {why}")
    for note in report.notes:
        out.print(f"note: {note}")


def _summary(report: Report, out: Console) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2))
    e = report.evaluation
    if e is not None and e["paired"] is not None:
        table.add_row("speed", e["paired"]["text"])
    changes = report.changes
    if changes:
        before, after = changes["nodes"]
        table.add_row("nodes", f"{count(before)} -> {count(after)}")
    table.add_row("size", f"{size(report.source['bytes'])} -> {size(report.artifact['bytes'])}")
    if e is not None:
        table.add_row("load time", f"{duration(e['a']['load_s'])} -> {duration(e['b']['load_s'])}")
        if e["a"]["peak_bytes"] and e["b"]["peak_bytes"]:
            table.add_row("peak memory", " -> ".join(_peak(e[side]) for side in "ab"))
    chosen = report.session_options
    if chosen:
        table.add_row("open with", f"olc.session: {SessionOptions.from_dict(chosen).text}")
    table.add_row("compile time", duration(sum(report.seconds.values())))
    out.print(table)


def show_several(found: Sequence[tuple[str, Report | OlcError]], console: Console | None = None) -> None:
    """Print a line for each of several models, and below them what went wrong."""
    out = console if console is not None else _console()
    table = Table(box=None, padding=(0, 2))
    for head in ("model", "speed", "size", "fused", ""):
        table.add_column(head, overflow="fold")
    for name, f in found:
        if isinstance(f, OlcError):
            table.add_row(escape(name), "", "", "", f"[red]{f.kind}[/red]")
        else:
            table.add_row(escape(name), *brief(f), "cached" if f.cached else "compiled")
    out.print(table)
    for name, f in found:
        if isinstance(f, OlcError):
            out.print(f"[red]{f.kind}:[/red] {escape(str(f) if f.where is not None else f'{name}: {f}')}")


def brief(report: Report) -> tuple[str, str, str]:
    """Speed, size and fusions in a word each, for a table of several models."""
    paired = report.evaluation["paired"] if report.evaluation is not None else None
    speed = "" if paired is None else f"{paired['ratio']:.2f}× ({paired['low']:.2f} to {paired['high']:.2f})"
    sizes = f"{size(report.source['bytes'])} -> {size(report.artifact['bytes'])}"
    return speed, sizes, ", ".join(f"{f['kind']} {f['fused']}/{f['expected']}" for f in report.fusions)


def _peak(side: dict[str, Any]) -> str:
    peak = side["peak_bytes"]
    return "?" if peak is None else size(peak)


def _trials(report: Report, out: Console) -> None:
    table = Table(title="what was measured to choose", title_justify="left", box=None, padding=(0, 2))
    for head in ("tried", "speed", "95 %", "cosine error", ""):
        table.add_column(head)
    for t in report.trials:
        error = "" if t["error"] is None else f"{t['error']:.2g}"
        verdict = "[green]kept[/green]" if t["kept"] else "taken back"
        if t["why"]:
            verdict += f": {t['why']}"
        table.add_row(t["what"], f"{t['ratio']:.2f}", f"{t['low']:.2f} to {t['high']:.2f}", error, verdict)
    out.print(table)


def _layers(report: Report, out: Console, limit: int = 8) -> None:
    """What was rounded, as counts; the layers that stay as they are, worst first; and the front of speed and error."""
    for body in dict.fromkeys(r.get("body", "") for r in report.layers):
        kept = Counter(r["rule"] for r in report.layers if r["kept"] and r.get("body", "") == body)
        if kept:
            when = f" for {body}" if body else ""
            out.print(f"rounded{when}: " + ", ".join(f"{rule} {n}" for rule, n in kept.most_common()))
    done = {r["node"] for r in report.layers if r["kept"]}
    left = {r["node"]: r for r in report.layers if r["node"] not in done}
    if left:
        table = Table(title="left in float", title_justify="left", box=None, padding=(0, 2))
        for head in ("layer", "outliers", "µs", "why"):
            table.add_column(head)
        for r in sorted(left.values(), key=lambda r: -(r["error"] or 0))[:limit]:
            before = r["microseconds"][0]
            table.add_row(r["node"], _bar(r["outliers"]), "" if before is None else f"{before:.0f}", f"{r['rule']}: {r['why']}")
        out.print(table)
        if len(left) > limit:
            out.print(f"  … and {len(left) - limit} more layers")
    if len(report.front) > 1:
        out.print("front of speed and error: " + "; ".join(f"{f['speed']:.2f} at {f['error']:.2g}" for f in report.front))


def _bar(outliers: float | None) -> str:
    """The largest channel over the median one, a mark for each doubling."""
    return "" if outliers is None else "▇" * min(10, max(1, round(math.log2(max(outliers, 1.0))))) + f" {outliers:.0f}"


def _rewrites(report: Report, out: Console) -> None:
    applied = report.applied()
    if applied:
        out.print("rewrites: " + ", ".join(f"{name} {n}" for name, n in applied.most_common()))
    if report.passes:
        out.print("passes: " + ", ".join(f"{name} {n}" for name, n in report.passes.items()))
    show_fusions(report.fusions, out)
    # A refusal by an exact rule is mostly "nothing to do here"; one by a fusion is a gain that did not come.
    missed = [r for r in report.refused if r["safety"] != "EXACT" and r["operators"] > 1]
    if missed:
        table = Table(title="fitted, but refused", title_justify="left", box=None, padding=(0, 2), show_header=False)
        for r in missed[:8]:
            table.add_row(r["rule"], str(r["count"]), r["reason"])
        out.print(table)


def _executed(found: dict[str, Any], out: Console) -> None:
    """Where the time goes when it runs, and what the runtime has made of it."""
    rows = found.get("artifact", [])
    total = sum(r["microseconds"] for r in rows)
    if total:
        shares = ", ".join(f"{r['operator']} {r['microseconds'] / total:.0%}" for r in rows[:5])
        out.print(f"time in operators: {shares}")
    if found.get("by_runtime"):
        made = ", ".join(f"{op} {n}" for op, n in found["by_runtime"].items())
        out.print(f"fused by the runtime when it loads the artifact: {made}")


def show_fusions(fusions: list[dict[str, Any]], out: Console, limit: int = 4) -> None:
    """Print what fused and what did not: a line for all kinds, and one for each reason of those that were missed."""
    if fusions:
        out.print("fused: " + ", ".join(f"{f['kind']} {f['fused']} of {f['expected']}" for f in fusions))
    for f in fusions:
        reasons: dict[tuple[str, str], list[str]] = {}
        for m in f["missed"]:
            reasons.setdefault((m["rule"], m["reason"]), []).append(m["site"])
        for (rule, reason), sites in list(reasons.items())[:limit]:
            place = sites[0] if len(sites) == 1 else f"{sites[0]} and {len(sites) - 1} more"
            out.print(f"[yellow]missed:[/yellow] {f['kind']} at {place}: {rule + ': ' if rule else ''}{reason}")
        if len(reasons) > limit:
            out.print(f"  … and {len(reasons) - limit} more reasons (olc why --limit)")


def _outputs(e: dict[str, Any], out: Console) -> None:
    table = Table(title="outputs against the source", title_justify="left", box=None, padding=(0, 2))
    for head in ("output", "max abs", "max rel", "cosine", "SQNR dB", "top-1"):
        table.add_column(head, justify="left" if head == "output" else "right")
    outputs = sorted(e["outputs"], key=lambda d: -(d["max_rel"] or 0))
    for d in outputs[:6]:
        if d["problem"]:
            table.add_row(d["name"], f"[red]{d['problem']}[/red]")
            continue
        if d["equal"]:
            table.add_row(d["name"], "equal")
            continue
        table.add_row(
            d["name"], _g(d["max_abs"]), _g(d["max_rel"]), "" if d["cosine"] is None else f"{d['cosine']:.6f}",
            "" if d["sqnr_db"] is None else f"{d['sqnr_db']:.1f}", "" if d["top1"] is None else f"{d['top1']:.1%}",
        )  # fmt: skip
    out.print(table)
    if len(outputs) > 6:
        out.print(f"  … and {len(outputs) - 6} more outputs, all closer")
    _swept(e.get("swept", []), out)


def _swept(points: list[dict[str, Any]], out: Console) -> None:
    """How the two compare at other sizes: in one line, and a row for each size at which they were timed."""
    ran = [p for p in points if not p["problem"]]
    if ran:
        lowest = min((p["cosine"] for p in ran if p["cosine"] is not None), default=None)
        close = "equal up to rounding" if all(p["within"] for p in ran) else f"cosine at least {lowest:.6f}" if lowest else ""
        missing = len(points) - len(ran)
        left = f"; with {missing} more the source does not run" if missing else ""
        sizes = f"{len(ran)} other size{'s' if len(ran) != 1 else ''}"
        out.print(f"at {sizes} of the dynamic dims, on inputs made up: {close or 'outputs differ'}{left}")
    if not any(p["paired"] for p in ran):
        return
    table = Table(title="at other sizes", title_justify="left", box=None, padding=(0, 2))
    for head in ("sizes", "speed", "95 %", "cosine"):
        table.add_column(head)
    for p in (p for p in ran if p["paired"]):
        paired = p["paired"]
        sizes = ", ".join(f"{symbol}={size}" for symbol, size in p["sizes"].items())
        cosine = "" if p["cosine"] is None else f"{p['cosine']:.6f}"
        table.add_row(sizes, f"{paired['ratio']:.2f}", f"{paired['low']:.2f} to {paired['high']:.2f}", cosine)
    out.print(table)


def _metrics(metrics: list[dict[str, Any]], out: Console) -> None:
    """The task's own numbers, of the two models."""
    for m in metrics:
        value = "no finite value" if m["value"] is None else f"{m['value']:.5g}"
        better = "more" if m["higher"] else "less"
        allowed = "" if m["allowed"] is None else f", a drop of {m['allowed']:.3g} is allowed"
        out.print(Text(f"metric {m['name']}: {m['source']:.5g} -> {value} ({better} is better{allowed})"))


def _g(x: float | None) -> str:
    return "" if x is None else f"{x:.2g}"


def show_evaluation(e: dict[str, Any], console: Console | None = None) -> None:
    """Print an evaluation of model b against model a."""
    out = console if console is not None else _console()
    table = Table(box=None, padding=(0, 2))
    for head in ("", "A", "B"):
        table.add_column(head)
    a, b = e["a"], e["b"]
    table.add_row("file", a["path"], b["path"])
    table.add_row("size", size(a["bytes"]), size(b["bytes"]))
    timing = e["paired"]
    if timing is not None:
        table.add_row("latency", duration(timing["a"]["median"]), duration(timing["b"]["median"]))
    table.add_row("load time", duration(a["load_s"]), duration(b["load_s"]))
    table.add_row("peak memory", _peak(a), _peak(b))
    out.print(table)
    out.print(f"B gives {e['verdict']}")
    for problem in e["problems"]:
        out.print(f"note: {problem}")
    _outputs(e, out)
    _metrics(e["metrics"], out)
