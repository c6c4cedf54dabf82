"""``olc diff``."""

from __future__ import annotations

import click

from ._options import tell


@click.command()
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(a: str, b: str, as_json: bool) -> None:
    """Say what changed from model A to model B: operators, weights, interface, and the rules that did it."""
    import json

    from ..diff import diff
    from ..frontend import load

    found = diff(load(a), load(b))
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1))
    else:
        tell("\n".join(found.lines()))
