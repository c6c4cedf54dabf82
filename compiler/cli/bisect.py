"""``olc bisect``."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import click

from ._options import frozen, progress, tell
from .compile import command as compiling

if TYPE_CHECKING:
    from ..bisect import Finding

OTHER = ("models", "output", "no_evaluate", "verify_each", "workers", "no_cache", "html", "markdown", "provenance", "bom",
         "as_json", "quiet", "sweep")  # fmt: skip
"""Parameters of ``olc compile`` that are not taken over."""
PLACES = ("model", "data", "plan_file", "output", "as_json", "quiet")
"""Parameters that are of one run: where it reads and writes."""


class _Command(click.Command):
    """One that remembers what was typed: the command that it prints at the end holds the same."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["olc.typed"] = list(args)
        return super().parse_args(ctx, args)


@click.command(cls=_Command, params=[p for p in compiling.params if p.name not in OTHER])
@click.argument("model", type=click.Path())
@click.option("--check", metavar="COMMAND",
              help="Bad is where this fails; {} stands for the model, quoted for a shell. Exit code 0 is good, 125 cannot "
                   "tell.")  # fmt: skip
@click.option("--slower", is_flag=True, help="A model is bad where it is measured to be slower than MODEL.")
@click.option("--output", type=click.Path(), help="Folder for the small model [default: MODEL with .bisect at its end].")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but the result and errors.")
def command(
    model: str, check: str | None, slower: bool, output: str | None, as_json: bool, quiet: bool, level: int,
    plan_file: str | None, tune_time: float, skip: tuple[str, ...], strict: tuple[str, ...], **options: Any,
) -> None:
    """Find the rewrite that makes the compile of MODEL bad, by halving, and write a small model that shows it.

    Bad is what gives other outputs than MODEL, or crashes; --slower and --check say something else. The options of
    olc compile hold here too: give those with which it went wrong.
    """
    from ..assumptions import ASSUMPTIONS
    from ..bisect import bisect
    from ..strategy.plan import Plan

    if check is not None and slower:
        raise click.UsageError("--check and --slower are two questions: ask one")
    if check is not None and "{}" not in check:
        raise click.UsageError("--check needs {} where the path of the model goes, as in --check 'python try.py {}'")
    settings = frozen(
        options, level=level, seconds=tune_time, skip=frozenset(skip),
        unassumed=frozenset(ASSUMPTIONS if "all" in strict else strict),
        plan=Plan.read(plan_file) if plan_file is not None else None,
    )  # fmt: skip
    with progress(quiet or as_json) as say:
        found = bisect(model, settings, check=check, slower=slower, output=output, say=say,
                       read=[plan_file] if plan_file is not None else [])
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1, ensure_ascii=False))
    else:
        _show(found, _again(found))


def _again(found: Finding) -> str:
    """The command that finds the same in the small model: what was typed, with that model, its inputs and its plan."""
    ctx = click.get_current_context()
    typed, _, _ = ctx.command.make_parser(ctx).parse_args(ctx.meta["olc.typed"])
    words = ["olc", "bisect", str(found.model)]
    for p in ctx.command.params:
        if p.name not in typed or p.name in PLACES or not isinstance(p, click.Option):
            continue
        for value in typed[p.name] if p.multiple else [typed[p.name]]:
            words += [max(p.opts, key=len)] if p.is_flag else [max(p.opts, key=len), str(value)]
    words += ["--data", str(found.inputs)] if found.inputs is not None else []
    words += ["--plan", str(found.plan)] if found.plan is not None else []
    return shlex.join(words)


def _show(found: Finding, again: str) -> None:
    culprit = found.culprit
    tell(f"at fault: {culprit.text}")
    tell(f"  what is bad: {culprit.why}")
    tell(f"  found among {found.rewrites} rewrites in {found.compiles} compiles")
    if culprit.skip is not None:
        rest = "the compile is good" if culprit.alone else "the compile is still bad, by another fault"
        tell(f"  without it {rest}: olc compile {shlex.join(['--skip', culprit.skip])}")
    if found.whole:
        tell("  no part of the graph around it shows the fault: it takes the whole model")
    inputs = "" if found.inputs is None else f", inputs: {found.inputs}"
    tell(f"  {'model' if found.whole else 'small model'}: {found.model} ({found.nodes} nodes){inputs}")
    tell(f"  shown again by: {again}")
