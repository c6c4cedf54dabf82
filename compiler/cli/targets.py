"""``olc targets``: what can be compiled for, and what pays there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._options import progress, target_option

if TYPE_CHECKING:
    from ..targets.kernels import Row


@click.group()
def command() -> None:
    """What can be compiled for, and which fused operators pay there."""


@command.command("list")
def list_targets() -> None:
    """The targets, with the runtime each table was made from."""
    from .. import targets

    for name in targets.names():
        target = targets.get(name)
        kernels = target.kernels()
        here = "" if target.here else ", not on this machine"
        click.echo(f"{name}: opset {target.opset}, {target.table.runtime} {target.table.version}{here}")
        cpu = " ".join((kernels.cpu["model"], *kernels.cpu.get("flags", ())))
        click.echo(f"  {len(kernels.rows)} comparisons, {kernels.runtime} {kernels.version} on {cpu}")


@command.command("show")
@click.argument("operator", required=False)
@target_option
def show(operator: str | None, target: str) -> None:
    """What was measured: time of the parts over time of the fused operator, by size."""
    from rich.console import Console
    from rich.table import Table

    from .. import targets

    kernels = targets.get(target).kernels()
    table = Table(box=None, padding=(0, 2))
    for head in ("operator", "size", "speed", "95 %"):
        table.add_column(head)
    for r in kernels.rows:
        if operator is None or r.operator.rpartition("::")[2] == operator.rpartition("::")[2]:
            table.add_row(r.operator, r.where, f"{r.ratio:.2f}", f"{r.low:.2f} to {r.high:.2f}")
    Console(width=140).print(table)


@command.command("measure")
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="File to write [default: this user's own table].")
@click.option("--operator", help="Measure this operator only, and print without writing.")
@click.option("--seconds", type=click.FloatRange(min=0.01), default=0.4, show_default=True, help="Time for each size.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def measure(output: str | None, operator: str | None, seconds: float, quiet: bool) -> None:
    """Time fused operators against their parts on this machine; later compiles on it read the result."""
    from ..errors import OutputError
    from ..files import write_text
    from ..targets import kernels
    from ..targets.measure import COMPARISONS
    from ..targets.measure import measure as run

    if operator is not None and operator not in {c.operator for c in COMPARISONS}:
        raise click.BadParameter(f"no operator called {operator!r} is compared; see olc targets show")
    with progress(quiet) as say:
        found = run(seconds, say, operator)
    if not found.rows:
        raise click.BadParameter(f"the installed onnxruntime opens no model with {operator!r}")
    if operator is not None:
        _print(found.rows)
        return
    path = Path(output) if output is not None else kernels.own_path(found.runtime, found.version)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise OutputError(f"the folder cannot be made: {e.strerror}", where=str(path.parent), hint="give another --output") from e
    write_text(path, found.dumps())
    if not quiet:
        click.echo(f"{len(found.rows)} comparisons written to {path}")


def _print(rows: Iterable[Row]) -> None:
    for r in rows:
        click.echo(f"{r.operator} at {r.where}: {r.ratio:.2f} times the speed of its parts ({r.low:.2f} to {r.high:.2f})")
