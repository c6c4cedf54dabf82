"""``olc doctor``."""

from __future__ import annotations

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Show what olc runs on: versions, execution providers, targets, and the CPU features that decide what pays."""
    import json
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import onnxruntime

    from .. import __version__, targets

    versions = {"olc": __version__, "python": platform.python_version()}
    for p in ("onnx", "onnxruntime", "onnx-ir", "onnx-graphsurgeon", "onnxsim", "numpy", "ml-dtypes", "click", "rich"):
        try:
            versions[p] = version(p)
        except PackageNotFoundError:
            versions[p] = "missing"
    found = {
        "versions": versions,
        "platform": platform.platform(),
        "execution_providers": onnxruntime.get_available_providers(),
        "targets": {n: targets.get(n).features() for n in targets.names()},
    }
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, v in versions.items():
        table.add_row(name, v)
    table.add_row("platform", str(found["platform"]))
    table.add_row("execution providers", ", ".join(onnxruntime.get_available_providers()))
    for name in targets.names():
        for key, value in {"here": targets.get(name).here, **targets.get(name).features()}.items():
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            table.add_row(f"{name}: {key}", shown or "none")
    Console().print(table)
    missing = [p for p, v in versions.items() if v == "missing"]
    if missing:
        click.echo(f"missing: {', '.join(missing)}; pip install {' '.join(missing)}")
