"""``olc evaluate``."""

from __future__ import annotations

from typing import Any

import click

from ._options import check_metrics, input_options, metric_options, progress, sweep_option


@click.command()
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@input_options
@metric_options
@sweep_option
@click.option("--time", "time_s", type=click.FloatRange(min=0.1), default=5.0, show_default=True,
              help="Seconds for timing the two against each other.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(a: str, b: str, as_json: bool, **options: Any) -> None:
    """Compare model B with model A: outputs, paired latency, size, load time, peak memory.

    Both run on the same inputs, each opened with the session options recorded beside it. Where a --metric of B is worse
    than --max-drop allows the exit code is 6.
    """
    import json

    from ..errors import BadInput, OverBudget
    from ..evaluation import inputs, sweep
    from ..evaluation.evaluate import evaluate
    from ..evaluation.metrics import load
    from ..frontend import load as load_model
    from ..report.terminal import show_evaluation

    check_metrics(options)
    metrics, max_drop = options.pop("metrics"), options.pop("max_drop")
    if metrics and options["data"] is None:
        raise BadInput("a metric needs real inputs", where="--metric", hint="give --data, with labels where it needs some")
    wanted = options.pop("sweep")
    with progress(as_json) as say:
        say("running both models")
        grid = sweep.grid(inputs.plan(load_model(a), options["dims"], options["seed"]), wanted) if wanted else []
        found = evaluate(a, b, metrics=[load(name) for name in metrics], grid=grid, **options)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1))
    else:
        show_evaluation(found.to_dict())
    if max_drop is not None and (breach := next((w for s in found.metrics if (w := s.breach(max_drop))), None)):
        raise OverBudget(breach, where=b)
