"""The report in a few lines of markdown, as a comment under a pull request takes it."""

from __future__ import annotations

from .. import plain
from ..plain import markdown as escaped
from ..strategy.plan import Plan
from . import Report, html
from .numbers import error

SHOWN = 8
"""Rows of a list; the rest is counted."""


def markdown(report: Report) -> str:
    """The summary, the choices, what was missed, and what to know.

    Raises:
        BadInput: the plan that the report holds is none.
        KeyError, TypeError, ValueError: the report lacks something that every report has.
    """
    plan = Plan.loads(report.plan, "the report's plan") if report.plan else None
    e = report.evaluation
    paired = None if e is None else e["paired"]
    speed = "speed not measured" if paired is None else paired["text"]
    lines = [
        f"### {_code(report.source['path'])} → {_code(report.artifact['path'])}", "",
        f"**{escaped(speed[:1].upper() + speed[1:])}**; {escaped(html.verdict(report))}. "
        f"`-O{report.options['level']}` for {escaped(report.target['name'])}, olc {escaped(report.versions['olc'])}.", "",
    ]  # fmt: skip
    lines += ["| | source | artifact | change |", "|---|--:|--:|--:|"]
    lines += [f"| {' | '.join(row)} |" for row in html.facts(report)]
    for title, phrases in zip(("Kept", "Taken back"), html.kept(report, plan), strict=True):
        if phrases:
            lines += ["", f"{title}: {'; '.join(map(escaped, _cut(phrases)))}."]
    if report.trials:
        lines += ["", "<details><summary>What was measured to choose</summary>", "",
                  "| tried | speed | 95 % | error | |", "|---|--:|--:|--:|---|"]  # fmt: skip
        for t in report.trials:
            outcome = ("kept" if t["kept"] else "taken back") + (f": {t['why']}" if t["why"] else "")
            interval = f"{t['ratio']:.2f} | {t['low']:.2f} to {t['high']:.2f}"
            lines.append(f"| {escaped(t['what'])} | {interval} | {error(t['error'])} | {escaped(outcome)} |")
        lines += ["", "</details>"]
    if report.fusions:
        fused = (f"{escaped(f['kind'])} {f['fused']} of {f['expected']}" for f in report.fusions)
        lines += ["", f"Fused: {', '.join(fused)}."]
    missed = [f"missed {f['kind']} at {m['site']}: {m['reason']}" for f in report.fusions for m in f["missed"]]
    told = [f"rule {n} taken out: {why}" for n, why in report.quarantined.items()] + missed
    told += [f"{a['rewrites']} rewrites assume that {a['what']} (--strict {n} forbids it)" for n, a in report.assumed.items()]
    told += report.notes
    if told:
        lines += ["", *(f"* {escaped(t)}" for t in _cut(told))]
    return "\n".join(lines) + "\n"


def _cut(rows: list[str]) -> list[str]:
    return rows if len(rows) <= SHOWN else [*rows[:SHOWN], f"and {len(rows) - SHOWN} more in the JSON"]


def _code(text: str) -> str:
    """A name in code spans, without what would end them."""
    return f"`{plain.name(plain.line(text)).replace('`', chr(0x2019)).replace('|', '¦')}`"
