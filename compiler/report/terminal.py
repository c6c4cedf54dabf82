"""The report as a person reads it in a terminal. Reads ``Report`` (or an evaluation's dict) and nothing else."""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import plain
from ..errors import OlcError
from ..session import SessionOptions
from . import Report
from .numbers import count, duration, size


class Printer:
    """A console that shows texts as they are: nothing in a name from a model is markup, a control or a line of its own."""

    def __init__(self, console: Console | None = None) -> None:
        # Where the output is a file or a pipe there is no width to fit.
        width = None if sys.stdout.isatty() else 140
        self.console = console if console is not None else _Console(highlight=False, width=width)

    def say(self, text: str, head: str = "", style: str = "", wrap: bool = True) -> None:
        """A line; ``head`` stands before it, in ``style``. Not to ``wrap``: it stays one line, however long it is."""
        begin = f"{plain.line(head)} " if head else ""
        self.console.print(Text.assemble((begin, style), plain.line(text)), soft_wrap=not wrap)

    def table(self, rows: Iterable[Sequence[str | Text]], heads: Sequence[str] = (), title: str | None = None,
              right: bool = False, fold: bool = False) -> None:  # fmt: skip
        """Rows of cells; ``right``: all but the first column are numbers."""
        made = Table(box=None, padding=(0, 2), show_header=bool(heads), title=title, title_justify="left")
        for i, head in enumerate(heads):
            made.add_column(head, justify="right" if right and i else "left", overflow="fold" if fold else "ellipsis")
        for row in rows:
            made.add_row(*(Text(plain.line(cell)) if isinstance(cell, str) else cell for cell in row))
        self.console.print(made)


class _Console(Console):
    """One whose reader may leave (``| head``): the command goes on to the end, and to its own exit code."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show(report: Report, console: Console | None = None) -> None:
    """Print the report: summary first, then choices, rewrites, accuracy and notes."""
    out = Printer(console)
    source, artifact = report.source, report.artifact
    out.say(f" -O{report.options['level']} for {report.target['name']}", f"{source['path']} -> {artifact['path']}", "bold")
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
        out.say(f"assumed by {a['rewrites']} rewrites (--strict {name} forbids it): {a['what']}")
    for name, why in report.quarantined.items():
        out.say(f"{name}: {why}", "taken out:", "red")
    for note in report.notes:
        out.say(f"note: {note}")


def _summary(report: Report, out: Printer) -> None:
    rows: list[tuple[str, str]] = []
    e = report.evaluation
    if e is not None and e["paired"] is not None:
        rows.append(("speed", e["paired"]["text"]))
    elif not report.target.get("here", True):
        where = report.target.get("model", report.target["name"])
        rows.append(("speed", f"not measured: compiled for {where} (see the notes)"))
    changes = report.changes
    if changes:
        before, after = changes["nodes"]
        rows.append(("nodes", f"{count(before)} -> {count(after)}"))
    rows.append(("size", f"{size(report.source['bytes'])} -> {size(report.artifact['bytes'])}"))
    if e is not None and report.target.get("here", True):
        rows.append(("load time", f"{duration(e['a']['load_s'])} -> {duration(e['b']['load_s'])}"))
        if e["a"]["peak_bytes"] and e["b"]["peak_bytes"]:
            rows.append(("peak memory", " -> ".join(_peak(e[side]) for side in "ab")))
    chosen = report.session_options
    if chosen:
        rows.append(("open with", f"olc.session: {SessionOptions.from_dict(chosen).text}"))
    rows.append(("compile time", duration(sum(report.seconds.values()))))
    out.table(rows)


def show_several(found: Sequence[tuple[str, Report | OlcError]], console: Console | None = None) -> None:
    """Print a line for each of several models, and below them what went wrong."""
    out = Printer(console)
    rows = [(name, "", "", "", Text(f.kind, "red")) if isinstance(f, OlcError) else
            (name, *brief(f), "cached" if f.cached else "compiled") for name, f in found]  # fmt: skip
    out.table(rows, ("model", "speed", "size", "fused", ""), fold=True)
    for name, f in found:
        if isinstance(f, OlcError):
            out.say(str(f) if f.where is not None else f"{name}: {f}", f"{f.kind}:", "red")


def brief(report: Report) -> tuple[str, str, str]:
    """Speed, size and fusions in a word each, for a table of several models."""
    paired = report.evaluation["paired"] if report.evaluation is not None else None
    speed = "" if paired is None else f"{paired['ratio']:.2f}× ({paired['low']:.2f} to {paired['high']:.2f})"
    sizes = f"{size(report.source['bytes'])} -> {size(report.artifact['bytes'])}"
    return speed, sizes, ", ".join(f"{f['kind']} {f['fused']}/{f['expected']}" for f in report.fusions)


def _peak(side: dict[str, Any]) -> str:
    peak = side["peak_bytes"]
    return "?" if peak is None else size(peak)


def _trials(report: Report, out: Printer) -> None:
    rows = []
    for t in report.trials:
        error = "" if t["error"] is None else f"{t['error']:.2g}"
        verdict = Text("kept", "green") if t["kept"] else Text("taken back")
        if t["why"]:
            verdict.append(f": {plain.line(t['why'])}", "default")
        rows.append((t["what"], f"{t['ratio']:.2f}", f"{t['low']:.2f} to {t['high']:.2f}", error, verdict))
    out.table(rows, ("tried", "speed", "95 %", "cosine error", ""), "what was measured to choose", fold=True)


def _layers(report: Report, out: Printer, limit: int = 8) -> None:
    """What was rounded, as counts; the layers that stay as they are, worst first; and the front of speed and error."""
    for body in dict.fromkeys(r.get("body", "") for r in report.layers):
        kept = Counter(r["rule"] for r in report.layers if r["kept"] and r.get("body", "") == body)
        if kept:
            when = f" for {body}" if body else ""
            out.say(f"rounded{when}: " + ", ".join(f"{rule} {n}" for rule, n in kept.most_common()))
    done = {r["node"] for r in report.layers if r["kept"]}
    left = {r["node"]: r for r in report.layers if r["node"] not in done}
    if left:
        alike: dict[str, list[dict[str, Any]]] = {}
        for r in sorted(left.values(), key=lambda r: -(r["error"] or 0)):
            alike.setdefault(f"{r['rule']}: {r['why']}", []).append(r)
        rows = []
        for why, of in list(alike.items())[:limit]:
            name = of[0]["node"] if len(of) == 1 else f"{of[0]['node']} and {len(of) - 1} more"
            times = [r["microseconds"][0] or 0.0 for r in of]
            rows.append((name, _bar(of[0]["outliers"]), f"{sum(times):.0f}" if any(times) else "", why))
        out.table(rows, ("layer", "outliers", "µs", "why"), "left in float", fold=True)
        if len(alike) > limit:
            out.say(f"  … and {len(left) - sum(len(of) for of in list(alike.values())[:limit])} more layers")
    if len(report.front) > 1:
        sizes = [f" in {size(f['bytes'])}" if f.get("bytes") else "" for f in report.front]
        told = (f"{f['speed']:.2f} at {f['error']:.2g}{in_all}" for f, in_all in zip(report.front, sizes, strict=True))
        out.say(f"front of speed, error and size: {'; '.join(told)}")


def _bar(outliers: float | None) -> str:
    """The largest channel over the median one, a mark for each doubling."""
    return "" if outliers is None else "▇" * min(10, max(1, round(math.log2(max(outliers, 1.0))))) + f" {outliers:.0f}"


def _rewrites(report: Report, out: Printer) -> None:
    applied = report.applied()
    if applied:
        out.say("rewrites: " + ", ".join(f"{name} {n}" for name, n in applied.most_common()))
    if report.passes:
        out.say("passes: " + ", ".join(f"{name} {n}" for name, n in report.passes.items()))
    show_fusions(report.fusions, out)
    # A refusal by an exact rule is mostly "nothing to do here"; one by a fusion is a gain that did not come.
    missed = [r for r in report.refused if r["safety"] != "EXACT" and r["operators"] > 1]
    if missed:
        out.table([("fitted, but refused", "", ""), *((r["rule"], str(r["count"]), r["reason"]) for r in missed[:8])])


def _executed(found: dict[str, Any], out: Printer) -> None:
    """Where the time goes when it runs, and what the runtime has made of it."""
    rows = found.get("artifact", [])
    total = sum(r["microseconds"] for r in rows)
    if total:
        shares = ", ".join(f"{r['operator']} {r['microseconds'] / total:.0%}" for r in rows[:5])
        out.say(f"time in operators: {shares}")
    if found.get("by_runtime"):
        made = ", ".join(f"{op} {n}" for op, n in found["by_runtime"].items())
        out.say(f"fused by the runtime when it loads the artifact: {made}")


def show_fusions(fusions: list[dict[str, Any]], out: Printer, limit: int = 4) -> None:
    """Print what fused and what did not: a line for all kinds, and one for each reason of those that were missed."""
    if fusions:
        out.say("fused: " + ", ".join(f"{f['kind']} {f['fused']} of {f['expected']}" for f in fusions))
    for f in fusions:
        reasons: dict[tuple[str, str], list[str]] = {}
        for m in f["missed"]:
            reasons.setdefault((m["rule"], m["reason"]), []).append(m["site"])
        for (rule, reason), sites in list(reasons.items())[:limit]:
            place = sites[0] if len(sites) == 1 else f"{sites[0]} and {len(sites) - 1} more"
            out.say(f"{f['kind']} at {place}: {rule + ': ' if rule else ''}{reason}", "missed:", "yellow")
        if len(reasons) > limit:
            out.say(f"  … and {len(reasons) - limit} more reasons (olc why --limit)")


def _outputs(e: dict[str, Any], out: Printer) -> None:
    rows: list[Sequence[str | Text]] = []
    outputs = sorted(e["outputs"], key=lambda d: -(d["max_rel"] or 0))
    for d in outputs[:6]:
        if d["problem"]:
            rows.append((d["name"], Text(plain.line(d["problem"]), "red")))
            continue
        if d["equal"]:
            rows.append((d["name"], "equal"))
            continue
        rows.append((
            d["name"], _g(d["max_abs"]), _g(d["max_rel"]), "" if d["cosine"] is None else f"{d['cosine']:.6f}",
            "" if d["sqnr_db"] is None else f"{d['sqnr_db']:.1f}", "" if d["top1"] is None else f"{d['top1']:.1%}",
        ))  # fmt: skip
    heads = ("output", "max abs", "max rel", "cosine", "SQNR dB", "top-1")
    out.table(rows, heads, "outputs against the source", right=True)
    if len(outputs) > 6:
        out.say(f"  … and {len(outputs) - 6} more outputs, all closer")
    _swept(e.get("swept", []), out)


def _swept(points: list[dict[str, Any]], out: Printer) -> None:
    """How the two compare at other sizes: in one line, and a row for each size at which they were timed."""
    compared = [p for p in points if not p["problem"]]
    ran = [p for p in compared if not p.get("failure")]
    for p in compared:
        if p.get("failure"):
            sizes = ", ".join(f"{symbol}={size}" for symbol, size in p["sizes"].items())
            out.say(p["failure"], f"with {sizes} it does not run:", "red")
    if ran:
        lowest = min((p["cosine"] for p in ran if p["cosine"] is not None), default=None)
        close = "equal up to rounding" if all(p["within"] for p in ran) else f"cosine at least {lowest:.6f}" if lowest else ""
        missing = len(points) - len(compared)
        left = f"; {missing} more are none of the source's, or were not tried" if missing else ""
        sizes = f"{len(ran)} other size{'s' if len(ran) != 1 else ''}"
        out.say(f"at {sizes} of the dynamic dims, on inputs made up: {close or 'outputs differ'}{left}")
    if not any(p["paired"] for p in ran):
        return
    rows = []
    for p in (p for p in ran if p["paired"]):
        paired = p["paired"]
        sizes = ", ".join(f"{symbol}={size}" for symbol, size in p["sizes"].items())
        cosine = "" if p["cosine"] is None else f"{p['cosine']:.6f}"
        rows.append((sizes, f"{paired['ratio']:.2f}", f"{paired['low']:.2f} to {paired['high']:.2f}", cosine))
    out.table(rows, ("sizes", "speed", "95 %", "cosine"), "at other sizes")


def _metrics(metrics: list[dict[str, Any]], out: Printer) -> None:
    """The task's own numbers, of the two models."""
    for m in metrics:
        value = "no finite value" if m["value"] is None else f"{m['value']:.5g}"
        better = "more" if m["higher"] else "less"
        allowed = "" if m["allowed"] is None else f", a drop of {m['allowed']:.3g} is allowed"
        out.say(f"metric {m['name']}: {m['source']:.5g} -> {value} ({better} is better{allowed})")


def _g(x: float | None) -> str:
    return "" if x is None else f"{x:.2g}"


def show_evaluation(e: dict[str, Any], console: Console | None = None) -> None:
    """Print an evaluation of model b against model a."""
    out = Printer(console)
    a, b = e["a"], e["b"]
    rows = [("file", a["path"], b["path"]), ("size", size(a["bytes"]), size(b["bytes"]))]
    timing = e["paired"]
    if timing is not None:
        rows.append(("latency", duration(timing["a"]["median"]), duration(timing["b"]["median"])))
    rows += [("load time", duration(a["load_s"]), duration(b["load_s"])), ("peak memory", _peak(a), _peak(b))]
    out.table(rows, ("", "A", "B"))
    out.say(f"B gives {e['verdict']}")
    for problem in e["problems"]:
        out.say(f"note: {problem}")
    _outputs(e, out)
    _metrics(e["metrics"], out)
