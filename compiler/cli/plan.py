"""``olc plan``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._options import (
    frozen,
    input_options,
    machine_option,
    metric_options,
    progress,
    quantize_options,
    rules_option,
    target_option,
    tune_time_option,
)

if TYPE_CHECKING:
    from ..strategy.search import Trial


@click.command()
@click.argument("model", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="Write the plan to this file [default: standard output].")
@click.option("-O", "level", type=click.IntRange(0, 3), default=3, show_default=True, help="Only -O3 has choices to make.")
@target_option
@machine_option
@click.option("--exact", is_flag=True, help="Forbid rewrites that are only close by measurement (int8).")
@input_options
@quantize_options
@metric_options
@tune_time_option
@rules_option
def command(model: str, output: str | None, level: int, tune_time: float, **options: Any) -> None:
    """Say what -O3 would do with MODEL, and why: measures as olc compile does, and writes no model.

    The plan is text: each choice with its gain and error, and as comments what was measured and the front of speed and
    error. Edit it, and carry it out with olc compile MODEL --plan FILE. Levels below 3 choose nothing: their plan says
    only what they are.
    """
    from ..driver import check_output, plan, sources
    from ..files import write_text
    from ..frontend import load
    from ..strategy.plan import Plan
    from ..targets import get

    get(options["target"])
    if output is not None:
        check_output(sources(model), Path(output))
    if level < 3:
        load(model)
        text = Plan(options["target"], level).dumps()
    else:
        with progress(False, tune_time) as say:
            found, trials = plan(model, frozen(options, seconds=tune_time), say=say)
        text = found.dumps() + _measured(trials)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_text(output, text)


def _measured(trials: Sequence[Trial]) -> str:
    """What was tried and the front of speed and error, as tables in comments."""
    from ..report.numbers import size
    from ..strategy.search import front

    width = max((len(t.what) for t in trials), default=0)

    def row(what: str, speed: float, between: str, error: float | None, outcome: str) -> str:
        told = "" if error is None else f"{error:.2g}"
        return f"# {what:<{width}}  {speed:6.2f}  {between:<14}  {told:<8}  {' '.join(outcome.split())}".rstrip()

    lines = ["", f"# {'tried':<{width}}   speed  {'95 %':<14}  error"] if trials else []
    lines += [row(t.what, t.ratio, f"{t.low:.2f} to {t.high:.2f}", t.error, "kept" if t.kept else f"taken back {t.why}".strip())
              for t in trials]  # fmt: skip
    best = front(trials)
    if best:
        sizes = ("" if f["bytes"] is None else size(f["bytes"]) for f in best)
        rows = (row(f["what"], f["speed"], "", f["error"], told) for f, told in zip(best, sizes, strict=True))
        lines += ["", "# front of speed, error and size", *rows]
    return "".join(f"{line}\n" for line in lines)
