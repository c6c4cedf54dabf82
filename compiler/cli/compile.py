"""``olc compile``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._options import (
    frozen,
    input_options,
    level_option,
    machine_option,
    metric_options,
    no_cache_option,
    progress,
    quantize_options,
    report_files,
    report_options,
    rules_option,
    sweep_option,
    target_option,
    tell,
    tune_time_option,
    workers_option,
)

if TYPE_CHECKING:
    from ..batch import Unit


@click.command()
@click.argument("models", type=click.Path(), metavar="MODEL...", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(),
              help="File to write, a folder for several models [default: MODEL with .olc.onnx at its end].")  # fmt: skip
@level_option
@target_option
@machine_option
@click.option("--exact", is_flag=True, help="At -O3, forbid rewrites that are only close by measurement (int8).")
@click.option("--plan", "plan_file", type=click.Path(), help="Carry out this plan (see olc plan) instead of searching.")
@input_options
@sweep_option
@quantize_options
@metric_options
@tune_time_option
@click.option("--no-evaluate", is_flag=True, help="Do not run source and artifact to compare them (not at -O3).")
@click.option("--shared-cache", is_flag=True,
              help="Let past and present of a decoder's cache be one buffer, for the loop olc.decoder (-O2, -O3).")  # fmt: skip
@click.option("--int8-cache", is_flag=True,
              help="Besides, hold that cache in 8 bits, where it is within the budget and not slower (-O3, --data).")  # fmt: skip
@click.option("--simplify", is_flag=True, help="Let onnxsim have a go first; kept only where it verifies and is smaller.")
@rules_option
@click.option("--skip", multiple=True, metavar="RULE[@NODE]", help="Leave out a rule (or pass), everywhere or at one node.")
@click.option("--strict", multiple=True, metavar="ASSUMPTION",
              help="Rely on no such assumption (mask-keeps-a-key, ...; 'all' for none).")  # fmt: skip
@click.option("--stop-after", type=click.IntRange(min=0), metavar="N", help="Apply no rewrite numbered above N.")
@click.option("--verify-each", is_flag=True, help="Run the verifier after every pass.")
@workers_option
@no_cache_option
@report_options
@click.option("--provenance", type=click.Path(), metavar="FILE",
              help="Also write what it was made of and how: an in-toto statement with SLSA provenance.")  # fmt: skip
@click.option("--bom", type=click.Path(), metavar="FILE", help="Also write a bill of materials: CycloneDX, with a model card.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(models: tuple[str, ...], output: str | None, plan_file: str | None, no_evaluate: bool, as_json: bool,
            quiet: bool, tune_time: float, skip: tuple[str, ...], strict: tuple[str, ...], workers: int, no_cache: bool,
            html: str | None, markdown: str | None, provenance: str | None, bom: str | None,
            **options: Any) -> int:  # fmt: skip
    """Compile each MODEL: rewrite it, lower it, compare it with the source, and write it with its report.

    Writes OUTPUT and, beside it, OUTPUT's name with .olc.json in place of .onnx: what was done, why, and what was
    measured. Nothing is written unless everything succeeded. A compile of what was compiled before is answered from the
    cache. Of several models one that fails stops no other.
    """
    from ..assumptions import ASSUMPTIONS
    from ..batch import Unit
    from ..driver import compile
    from ..report.terminal import show
    from ..strategy.plan import Plan

    level = options.pop("level")
    if no_evaluate and level == 3 and plan_file is None:
        raise click.UsageError("-O3 chooses by measurement: it cannot go with --no-evaluate")
    if no_evaluate and options["metrics"]:
        raise click.UsageError("--metric runs source and artifact: it cannot go with --no-evaluate")
    if no_evaluate and options["sweep"]:
        raise click.UsageError("--sweep times source and artifact: it cannot go with --no-evaluate")
    if options["machine"] is not None and options["sweep"]:
        raise click.UsageError("--sweep times source and artifact here: it cannot go with --machine")
    if plan_file is not None and len(models) > 1:
        raise click.UsageError("--plan is of one model: give that one only")
    others = report_files(html, markdown, provenance, bom)
    if others and len(models) > 1:
        raise click.UsageError(f"{next(iter(others))} would be of one model: give that one only, or olc report for each")
    settings = frozen(
        options, level=level, evaluate=not no_evaluate, seconds=tune_time, skip=frozenset(skip),
        unassumed=frozenset(ASSUMPTIONS if "all" in strict else strict), cache="renew" if no_cache else "on",
        plan=Plan.read(plan_file) if plan_file is not None else None,
    )  # fmt: skip
    outputs = _outputs(models, output)
    if len(models) > 1:
        return _several([Unit(m, o, settings) for m, o in zip(models, outputs, strict=True)], workers, quiet, as_json)
    with progress(quiet or as_json, tune_time if settings.level == 3 else None) as say:
        report = compile(models[0], outputs[0], settings, say=say, others=others)
    if as_json:
        click.echo(report.dumps(), nl=False)
    elif not quiet:
        show(report)
    return 0


def _outputs(models: tuple[str, ...], output: str | None) -> list[str]:
    """Where each artifact goes: a file, or for several models a folder or beside each."""
    from ..errors import OutputError

    if output is not None and len(models) == 1:
        return [output]
    if output is not None and not Path(output).is_dir():
        raise OutputError("is not a folder, as several models need", where=output, hint="create it, or leave --output out")
    names = [str(Path(m).with_suffix("")) + ".olc.onnx" for m in models]
    found = names if output is None else [str(Path(output) / Path(n).name) for n in names]
    seen: dict[Path, str] = {}
    sources = {Path(m).resolve(): m for m in models}
    for model, target in zip(models, found, strict=True):
        overwritten = sources.get(Path(target).resolve())
        if overwritten is not None:
            raise OutputError(f"the artifact of {model} would overwrite {overwritten}, which is to be compiled too", where=target,
                              hint="compile one of them alone, or give a folder to --output")  # fmt: skip
        other = seen.setdefault(Path(target).resolve(), model)
        if other is not model:
            raise OutputError(f"both {other} and {model} would be written to it", where=target, hint="compile one of them alone")
    return found


def _several(units: list[Unit], workers: int, quiet: bool, as_json: bool) -> int:
    """Compile all and sum up. The exit code is that of the failures, or 69 where they are of several kinds."""
    import json

    from ..batch import run
    from ..errors import SEVERAL_KINDS, OlcError
    from ..report.terminal import show_several
    from ..settings import SECONDS

    seconds = (units[0].settings.seconds or SECONDS) if units[0].settings.level == 3 else None
    with progress(quiet or as_json, seconds) as say:
        found = [result for _, result in sorted(run(units, workers, say), key=lambda f: f[0])]
    errors = [f for f in found if isinstance(f, OlcError)]
    if as_json:
        rows = [{"source": u.source, "output": u.output,
                 "error": {"kind": f.kind, "what": f.what, "where": f.where, "hint": f.hint} if isinstance(f, OlcError) else None,
                 "report": None if isinstance(f, OlcError) else json.loads(f.dumps())}
                for u, f in zip(units, found, strict=True)]  # fmt: skip
        click.echo(json.dumps(rows, indent=1))
    elif not quiet:
        show_several([(u.source, f) for u, f in zip(units, found, strict=True)])
    for e in errors if quiet or as_json else ():
        tell(f"olc: {e.kind}: {e}", err=True)
    codes = {e.exit_code for e in errors}
    return SEVERAL_KINDS if len(codes) > 1 else min(codes, default=0)
