"""Options that several commands share."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import click

F = Callable[..., Any]


def level_option(f: F) -> F:
    """-O0 to -O3."""
    text = "0: only load and verify; 1: exact cleaning; 2: fusions; 3: what pays, by measurement."
    return click.option("-O", "level", type=click.IntRange(0, 3), default=2, show_default=True, help=text)(f)


def target_option(f: F) -> F:
    return click.option("--target", default="onnxruntime-cpu", show_default=True, help="Runtime to compile for.")(f)


def rules_option(f: F) -> F:
    text = "Python file with more rules. It is run: name only what you trust."
    return click.option("--rules", multiple=True, metavar="FILE", help=text)(f)


def _dims(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in (p for v in value for p in v.split(",") if p):
        name, _, size = part.rpartition("=")
        if not name or not size.isdigit():
            raise click.BadParameter(f"{part!r} is not NAME=SIZE, as in batch=1,seq=128")
        found[name.strip()] = int(size)
    return found


def dims_option(f: F) -> F:
    text = "Sizes of dynamic dims in sample inputs: batch=1,seq=128. May be repeated."
    return click.option("--dim", "dims", multiple=True, callback=_dims, metavar="NAME=SIZE,...", help=text)(f)


def input_options(f: F) -> F:
    """What the model is run on."""
    data = "Real inputs: an .npz, a folder of .npz, or module:function yielding dicts name -> array."
    f = click.option("--seed", type=int, default=0, show_default=True, help="Seed of synthesised inputs.")(f)
    f = click.option("--samples", type=click.IntRange(min=1), default=3, show_default=True, help="Inputs to compare on.")(f)
    f = click.option("--threads", type=click.IntRange(min=1), help="Threads within an operator [default: the runtime's].")(f)
    f = click.option("--data", metavar="WHERE", help=data)(f)
    return dims_option(f)


def budget_options(f: F) -> F:
    """How far int8 may move the outputs."""
    bound = click.FloatRange(0, 1)
    f = click.option("--min-top1", type=bound, default=0.99, show_default=True, help="Lowest top-1 agreement.")(f)
    return click.option("--min-cosine", type=bound, default=0.99, show_default=True, help="Lowest output cosine.")(f)


def frozen(options: dict[str, Any], **others: Any) -> Any:
    """``driver.Settings`` from a command's options, those that it has."""
    from ..driver import Settings
    from ..strategy.budget import Budget

    values = {**options, **others}
    if "min_cosine" in values:
        values["budget"] = Budget(values.pop("min_cosine"), values.pop("min_top1"))
    known = {f.name for f in fields(Settings)}
    return Settings(**{k: v for k, v in values.items() if k in known})


@contextlib.contextmanager
def progress(quiet: bool) -> Iterator[Callable[[str], None]]:
    """A function that shows what is being done, on standard error; a spinner where that is a terminal."""
    if quiet:
        yield lambda text: None
        return
    if not sys.stderr.isatty():
        yield lambda text: click.echo(f"  {text}", err=True)
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield status.update
