"""The check as text: for a terminal, and as markdown for a pull request."""

from __future__ import annotations

from .. import plain
from ..report.terminal import brief
from .gate import Outcome, Result

_SHOWN = 20
"""Places that are shown of one model; the JSON and the SARIF hold them all."""


def summary(result: Result) -> str:
    """The whole in a sentence."""
    words = [o.word for o in result.outcomes]
    counts = [f"{words.count(w)} {w}" for w in ("passed", "over budget", "not judged", "failed") if w in words]
    return f"{len(words)} checked: {', '.join(counts)}"


def row(outcome: Outcome) -> tuple[str, str, str, str]:
    """Speed, size and fusions of an artifact, and how it stands."""
    report = outcome.report
    word = outcome.word + (" (cached)" if report is not None and report.cached else "")
    return (*(brief(report) if report is not None else ("", "", "")), word)


def problems(outcome: Outcome) -> list[str]:
    """What is wrong with one model, a sentence each."""
    found = [v.text for v in (*outcome.failed, *outcome.unjudged)]
    error = outcome.error
    if error is not None and not outcome.verdicts:
        found.append(f"{error.kind}: {error}")
    return found


def places(outcome: Outcome) -> list[str]:
    """The nodes that the failed budgets are about."""
    found = [f"{s.node}: {s.text}" if s.node else s.text for v in outcome.failed for s in v.sites]
    return found if len(found) <= _SHOWN else [*found[:_SHOWN], f"… and {len(found) - _SHOWN} more"]


def markdown(result: Result) -> str:
    """A comment for a pull request: the table first, then what is wrong."""
    lines = [f"### olc check: {summary(result)}", "", "| model | speed | size | fused | |", "|---|---|---|---|---|"]
    for o in result.outcomes:
        mark = "✅" if not o.codes else "❌"
        lines.append("| " + " | ".join(map(plain.markdown, (o.job.name, *row(o)[:3], f"{mark} {row(o)[3]}"))) + " |")
    for o in result.outcomes:
        if o.codes:
            lines += ["", f"**{plain.markdown(o.job.name)}**", ""]
            lines += [f"* {plain.markdown(p)}" for p in problems(o)]
            hidden = [f"* {plain.markdown(p)}" for p in places(o)]
            if hidden:
                lines += ["", "<details><summary>where</summary>", "", *hidden, "", "</details>"]
    machines = sorted({str(r["machine"]) for o in result.outcomes if (r := o.record)})
    if machines:
        lines += ["", f"<sub>{'; '.join(map(plain.markdown, machines))}. Speed is the source's time over the artifact's, both on "
                      "this machine, with its 95 % interval.</sub>"]  # fmt: skip
    return "\n".join(lines) + "\n"
