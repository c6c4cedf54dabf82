"""``olc rules``: list, show, test and start rewrite rules."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..rules import Rule
    from ..soundness import Finding

_FILES = click.option(
    "--file", "--rules", "files", multiple=True, type=click.Path(dir_okay=False, path_type=Path),
    help="Python file with rules of your own. Its code is run.",
)  # fmt: skip


@click.group("rules")
def command() -> None:
    """The rewrite rules: what there is, why each is sound, and whether yours is."""


@command.command("list")
@click.option("--group", help="Only the rules of this group.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_FILES
def list_rules(group: str | None, as_json: bool, files: tuple[Path, ...]) -> None:
    """List the rules: built-in, from installed packs, and from files."""
    from ..errors import BadInput
    from ..rules import registry

    known = list(registry(files))
    found = [r for r in known if group is None or r.group == group]
    if not found:
        groups = ", ".join(sorted({r.group for r in known}))
        what = "no rule is installed" if group is None else f"no rule is in group {group!r}"
        raise BadInput(what, hint=f"groups: {groups}" if groups else None)
    if as_json:
        click.echo(json.dumps([_record(r) for r in found], indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    rows = [(r.group, r.name, r.safety.level, _opsets(r), " ".join(r.doc.split("\n\n")[0].split())) for r in found]
    titles = ("group", "rule", "safety", "opset", "what it does")
    table = Table(box=None, pad_edge=False)
    for title, *cells in zip(titles, *rows, strict=True):
        # The last column gives way where the terminal is narrow.
        width = None if title == titles[-1] else max(map(len, [title, *cells]))
        table.add_column(title, no_wrap=True, overflow="ellipsis", min_width=width, max_width=width or 80)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    Console(highlight=False, width=None if console.is_terminal else 160).print(table)
    click.echo(f"\n{len(found)} rules. olc rules show NAME explains one.")


def _opsets(r: Rule) -> str:
    return f"{r.since}+" if r.until is None else f"{r.since}-{r.until}"


def _record(r: Rule) -> dict[str, Any]:
    return {
        "name": r.name,
        "group": r.group,
        "safety": r.safety.level,
        "why": r.safety.why,
        "since": r.since,
        "until": r.until,
        "targets": list(r.targets),
        "doc": r.doc,
        "cases": [c.title for c in r.cases if c.fires],
        "refused": [c.title for c in r.cases if not c.fires],
        "source": r.source,
    }


@command.command()
@click.argument("name")
@_FILES
def show(name: str, files: tuple[Path, ...]) -> None:
    """Explain a rule: before and after, why it is sound, what it refuses."""
    from ..rulepage import page
    from ..rules import registry

    click.echo(page(registry(files)[name]))


@command.command()
@click.argument("names", nargs=-1)
@_FILES
@click.option("--rounds", type=click.IntRange(min=1), help="Random draws of each case; more find more, in more time.")
@click.option("--seed", type=int, default=0, show_default=True, help="What is random follows from this.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--warnings/--no-warnings", default=True, help="Show what is not wrong but worth a look.")
def test(
    names: tuple[str, ...], files: tuple[Path, ...], rounds: int | None, seed: int, as_json: bool, warnings: bool
) -> int:
    """Check rules on their cases: soundness, termination, refusals. Exit code 8 if one fails.

    Without NAMES, the rules of the given files; without files, all rules.
    """
    from ..errors import RuleError
    from ..soundness import check_rule
    from ..soundness.checks import ROUNDS

    everything, chosen = _choose(names, files)
    findings: list[Finding] = []
    for r in chosen:
        found = check_rule(r, everything, seed, rounds or ROUNDS)
        findings += found
        if not as_json:
            again = f"olc rules test {r.name}{''.join(f' --file {f}' for f in files)} --seed {seed}"
            again += f" --rounds {rounds}" if rounds else ""
            _tell(r, [f for f in found if warnings or f.severity == "error"], again)
    failed = sorted({f.rule for f in findings if f.severity == "error"})
    if as_json:
        click.echo(json.dumps([vars(f) for f in findings], indent=2))
    elif not failed:
        click.echo(f"{len(chosen)} rules hold.")
    if failed and not as_json:
        raise RuleError(f"{len(failed)} of {len(chosen)} rules fail: {', '.join(failed)}", where="olc rules test")
    return RuleError.exit_code if failed else 0


def _choose(names: tuple[str, ...], files: tuple[Path, ...]) -> tuple[list[Rule], list[Rule]]:
    """All rules at hand, and those to test."""
    from ..rules import registry

    known = registry()
    built_in = {Path(r.source).resolve() for r in known}
    outside = [f for f in files if f.resolve() not in built_in]
    known = registry(outside)
    wanted = {f.resolve() for f in files}
    chosen = [known[n] for n in names]
    if not names:
        chosen = [r for r in known if not wanted or Path(r.source).resolve() in wanted]
    return list(known), chosen


def _tell(r: Rule, findings: list[Finding], again: str) -> None:
    failed = any(f.severity == "error" for f in findings)
    fires = sum(c.fires for c in r.cases)
    counts = f"{fires} cases, {len(r.cases) - fires} refused"
    click.echo(f"{'FAIL' if failed else 'ok  '} {r.name} ({r.safety.level}, {counts})")
    for f in findings:
        click.echo(f"\n  {f.severity}, {f.check}: {f.message}\n  case {f.case!r}, {f.variant}")
        if f.smallest:
            click.echo(textwrap.indent(f.smallest, "    "))
        click.echo(f"  again: {again}\n")


@command.command()
@click.argument("name")
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="File to write; NAME.py by default."
)
def new(name: str, output: Path | None) -> None:
    """Write a rule file that works, for you to change."""
    from ..errors import OutputError
    from ..rulepage import template

    path = output if output is not None else Path(f"{name.replace('-', '_')}.py")
    text = template(name)
    if path.exists():
        raise OutputError("there is a file of that name", where=str(path), hint="choose another with --output")
    try:
        path.write_text(text)
    except OSError as e:
        raise OutputError(f"the file cannot be written: {e.strerror}", where=str(path)) from e
    click.echo(f"wrote {path}\nnext: olc rules test --file {path}")
