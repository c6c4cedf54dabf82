"""The report in a few lines of markdown, as a comment under a pull request takes it."""

from __future__ import annotations

import re

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
        f"**{_text(speed[:1].upper() + speed[1:])}**; {_text(html.verdict(report))}. "
        f"`-O{report.options['level']}` for {_text(report.target['name'])}, olc {_text(report.versions['olc'])}.", "",
    ]  # fmt: skip
    lines += ["| | source | artifact | change |", "|---|--:|--:|--:|"]
    lines += [f"| {' | '.join(row)} |" for row in html.facts(report)]
    for title, phrases in zip(("Kept", "Taken back"), html.kept(report, plan), strict=True):
        if phrases:
            lines += ["", f"{title}: {'; '.join(map(_text, _cut(phrases)))}."]
    if report.trials:
        lines += ["", "<details><summary>What was measured to choose</summary>", "",
                  "| tried | speed | 95 % | error | |", "|---|--:|--:|--:|---|"]  # fmt: skip
        for t in report.trials:
            outcome = ("kept" if t["kept"] else "taken back") + (f": {t['why']}" if t["why"] else "")
            interval = f"{t['ratio']:.2f} | {t['low']:.2f} to {t['high']:.2f}"
            lines.append(f"| {_text(t['what'])} | {interval} | {error(t['error'])} | {_text(outcome)} |")
        lines += ["", "</details>"]
    if report.fusions:
        fused = (f"{_text(f['kind'])} {f['fused']} of {f['expected']}" for f in report.fusions)
        lines += ["", f"Fused: {', '.join(fused)}."]
    missed = [f"missed {f['kind']} at {m['site']}: {m['reason']}" for f in report.fusions for m in f["missed"]]
    told = [f"rule {n} taken out: {why}" for n, why in report.quarantined.items()] + missed
    told += [f"{a['rewrites']} rewrites assume that {a['what']} (--strict {n} forbids it)" for n, a in report.assumed.items()]
    told += report.notes
    if told:
        lines += ["", *(f"* {_text(t)}" for t in _cut(told))]
    return "\n".join(lines) + "\n"


def _cut(rows: list[str]) -> list[str]:
    return rows if len(rows) <= SHOWN else [*rows[:SHOWN], f"and {len(rows) - SHOWN} more in the JSON"]


def _text(text: str) -> str:
    """Plain text: nothing in it makes a tag, a link, a mention, emphasis, or another cell or line."""
    flat = html.name(" ".join(html.clean(text).split()), 300)
    return re.sub(r"([\\`*_\[\]|~#])|([<>&@])", lambda m: f"\\{m[1]}" if m[1] else f"&#{ord(m[2])};", flat)


def _code(text: str) -> str:
    """A name in code spans, without what would end them."""
    return f"`{html.name(' '.join(html.clean(text).split())).replace('`', chr(0x2019)).replace('|', '¦')}`"
