"""``olc compile``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ._options import frozen, input_options, level_option, progress, quantize_options, rules_option, target_option


@click.command()
@click.argument("model", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="File to write [default: MODEL with .olc.onnx at its end].")
@level_option
@target_option
@click.option("--exact", is_flag=True, help="At -O3, forbid rewrites that are only close by measurement (int8).")
@click.option("--plan", "plan_file", type=click.Path(), help="Carry out this plan (see olc plan) instead of searching.")
@input_options
@quantize_options
@click.option("--tune-time", type=click.FloatRange(min=1), default=120.0, show_default=True,
              help="Seconds of wall time for the search of -O3.")  # fmt: skip
@click.option("--no-evaluate", is_flag=True, help="Do not run source and artifact to compare them (not at -O3).")
@click.option("--shared-cache", is_flag=True,
              help="Let past and present of a decoder's cache be one buffer, for the loop olc.decoder (-O2, -O3).")  # fmt: skip
@click.option("--simplify", is_flag=True, help="Let onnxsim have a go first; kept only where it verifies and is smaller.")
@rules_option
@click.option("--skip", multiple=True, metavar="RULE[@NODE]", help="Leave out a rule (or pass), everywhere or at one node.")
@click.option("--strict", multiple=True, metavar="ASSUMPTION",
              help="Rely on no such assumption (mask-keeps-a-key, ...; 'all' for none).")  # fmt: skip
@click.option("--stop-after", type=click.IntRange(min=0), metavar="N", help="Apply no rewrite numbered above N.")
@click.option("--verify-each", is_flag=True, help="Run the verifier after every pass.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(model: str, output: str | None, plan_file: str | None, no_evaluate: bool, as_json: bool, quiet: bool,
            tune_time: float, skip: tuple[str, ...], strict: tuple[str, ...],
            **options: Any) -> None:  # fmt: skip
    """Compile MODEL: rewrite it, lower it, compare it with the source, and write it with its report.

    Writes OUTPUT and, beside it, OUTPUT's name with .olc.json in place of .onnx: what was done, why, and what was
    measured. Nothing is written unless everything succeeded.
    """
    from ..assumptions import ASSUMPTIONS
    from ..driver import compile
    from ..report.terminal import show
    from ..strategy.plan import Plan

    level = options.pop("level")
    if no_evaluate and level == 3 and plan_file is None:
        raise click.UsageError("-O3 chooses by measurement: it cannot go with --no-evaluate")
    target = output if output is not None else str(Path(model).with_suffix("")) + ".olc.onnx"
    with progress(quiet or as_json) as say:
        report = compile(
            model, target, frozen(options, level=level), say=say, evaluate=not no_evaluate, seconds=tune_time,
            skip=frozenset(skip), unassumed=frozenset(ASSUMPTIONS if "all" in strict else strict),
            plan=Plan.read(plan_file) if plan_file is not None else None,
        )  # fmt: skip
    if as_json:
        click.echo(report.dumps(), nl=False)
    elif not quiet:
        show(report)
