"""``olc check``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ._options import no_cache_option, progress, workers_option

if TYPE_CHECKING:
    from ..check.gate import Result

CODES = """\
Exit codes: 0 all passed; 60 latency, 61 size, 62 memory, 63 load time, 64 accuracy, 65 unsupported operators, 66 fusions,
67 operators or domains, 68 opset over budget, 6 several of these; 69 something could not be judged, or failures of several
kinds; else that of the error (3 bad input, 5 verification failed, ...) where it is the only kind."""


@click.command(epilog=CODES)
@click.option("--config", default="olc.toml", show_default=True, type=click.Path(), help="What is checked (docs/ci.md).")
@click.option("--init", is_flag=True, help="Write that file, commented, with the models found below its folder.")
@click.option("--update-baseline", is_flag=True, help="Record what is found as the baseline, and judge against that.")
@workers_option
@no_cache_option
@click.option("--json", "json_file", type=click.Path(), metavar="FILE", help="Write every verdict as JSON.")
@click.option("--junit", "junit_file", type=click.Path(), metavar="FILE", help="Write JUnit XML.")
@click.option("--sarif", "sarif_file", type=click.Path(), metavar="FILE", help="Write SARIF 2.1.0: what failed, at which node.")
@click.option("--markdown", "markdown_file", type=click.Path(), metavar="FILE", help="Write a comment for a pull request.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but what is wrong.")
def command(
    config: str, init: bool, update_baseline: bool, workers: int, no_cache: bool, json_file: str | None, junit_file: str | None,
    sarif_file: str | None, markdown_file: str | None, quiet: bool,
) -> int:  # fmt: skip
    """Compile the models that olc.toml names and judge each against its budgets: speed, size, memory, load time, accuracy,
    fusions, operators, opset. A gate for CI: a model that fails stops no other, and the exit code says what failed."""
    import json

    from ..check import config as configuration
    from ..check.gate import check
    from ..files import write_text

    if init:
        _init(config)
        return 0
    with progress(quiet) as say:
        result = check(
            configuration.read(config), workers=workers, cache="renew" if no_cache else "on", update=update_baseline, say=say
        )
    if json_file is not None:
        write_text(json_file, json.dumps(result.to_dict(), indent=1) + "\n")
    if junit_file is not None:
        from ..check.junit import junit

        write_text(junit_file, junit(result))
    if sarif_file is not None:
        from ..check.sarif import sarif

        write_text(sarif_file, sarif(result))
    if markdown_file is not None:
        from ..check.words import markdown

        write_text(markdown_file, markdown(result))
    _show(result, quiet)  # after the files: the reader may be gone
    return result.code


def _init(config: str) -> None:
    from pathlib import Path

    from ..check import starter
    from ..errors import OutputError
    from ..files import write_text

    file = Path(config)
    if file.exists():
        raise OutputError("is there already", where=config, hint="edit it, or give another name with --config")
    found = starter.models(file.parent)
    write_text(file, starter.text(found))
    click.echo(f"wrote {config} with {len(found)} model{'s' if len(found) != 1 else ''}; now: olc check")


def _show(result: Result, quiet: bool) -> None:
    from rich.text import Text

    from ..check.words import places, problems, row, summary
    from ..report.terminal import Printer

    out = Printer()
    if not quiet:
        rows = [(o.job.name, *row(o)[:3], Text(row(o)[3], "red" if o.codes else "green")) for o in result.outcomes]
        out.table(rows, ("model", "speed", "size", "fused", ""), fold=True)
    for o in result.outcomes:
        for problem in problems(o):
            out.say(problem, f"{o.job.name}:", "red", wrap=False)
        for place in places(o):
            out.say(f"    {place}", wrap=False)
    if not quiet or result.code:
        out.say(summary(result))
