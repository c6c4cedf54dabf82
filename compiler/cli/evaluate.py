"""``olc evaluate``."""

from __future__ import annotations

from typing import Any

import click

from ._options import input_options, progress


@click.command()
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@input_options
@click.option("--time", "time_s", type=click.FloatRange(min=0.1), default=5.0, show_default=True,
              help="Seconds for timing the two against each other.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(a: str, b: str, as_json: bool, **options: Any) -> None:
    """Compare model B with model A: outputs, paired latency, size, load time, peak memory.

    Both run on the same inputs, each opened with the session options recorded beside it.
    """
    import json

    from ..evaluation.evaluate import evaluate
    from ..report.terminal import show_evaluation

    with progress(as_json) as say:
        say("running both models")
        found = evaluate(a, b, **options)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1))
    else:
        show_evaluation(found.to_dict())
