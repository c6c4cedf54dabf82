"""``olc analyze``."""

from __future__ import annotations

from typing import Any

import click

from ._options import dims_option, rules_option, target_option


@click.command()
@click.argument("model", type=click.Path())
@target_option
@dims_option
@rules_option
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="Costly nodes to name.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: str, target: str, dims: dict[str, int], rules: tuple[str, ...], top: int, as_json: bool) -> None:
    """Say what is in MODEL: operators, parameters, arithmetic, dynamic dims, costly nodes, what the target cannot run,
    and what olc would fuse or could quantize. Runs nothing."""
    import json

    from ..frontend import load
    from ..summary import summarize

    found = summarize(load(model), target, dims, rules, top)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    _show(found)


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..report.numbers import count, size

    console = Console(highlight=False)
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, values in (("inputs", found["inputs"]), ("outputs", found["outputs"])):
        shown = [f"{k}: {v}" for k, v in values.items()]
        table.add_row(name, "\n".join([*shown[:8], *([f"… and {len(shown) - 8} more"] if len(shown) > 8 else [])]))
    table.add_row("opset", ", ".join(f"{d or 'ai.onnx'} {v}" for d, v in found["opsets"].items()))
    table.add_row("nodes", f"{count(found['nodes'])} ({count(found['nodes_clean'])} after -O1)")
    table.add_row("operators", ", ".join(f"{k} {n}" for k, n in list(found["operators"].items())[:12]))
    kinds = ", ".join(f"{k} {size(n)}" for k, n in found["dtypes"].items())
    table.add_row("parameters", f"{count(found['parameters'])} in {size(found['parameter_bytes'])} ({kinds})")
    at = ", ".join(f"{k}={v}" for k, v in found["sizes"].items()) or "all sizes static"
    table.add_row("arithmetic", f"{found['flops'] / 1e9:.3g} GFLOP ({at}; {found['unknown']} nodes of unknown shape)")
    console.print(table)
    if found["costly"]:
        nodes = Table(title="costly nodes", box=None, title_justify="left", padding=(0, 2))
        for head in ("node", "operator", "GFLOP", "bytes moved"):
            nodes.add_column(head, justify="left" if head in ("node", "operator") else "right")
        for n in found["costly"]:
            nodes.add_row(n["node"], n["op"], f"{n['flops'] / 1e9:.3g}", "?" if n["bytes"] is None else size(n["bytes"]))
        console.print(nodes)
    if found["fusable"]:
        console.print("would fuse at -O2: " + ", ".join(f"{k} {n}" for k, n in found["fusable"].items()))
    if found["quantizable"]:
        console.print(f"could be int8 at -O3: {found['quantizable']} linears")
    for p in found["unsupported"]:
        console.print(f"[red]{found['target']} cannot run:[/red] {p}")
    if not found["unsupported"]:
        console.print(f"{found['target']} can run every node")
