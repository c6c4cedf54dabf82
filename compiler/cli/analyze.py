"""``olc analyze``."""

from __future__ import annotations

from typing import Any

import click

from ._options import blaming_the_source, dims_option, rules_option, target_option


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

    with blaming_the_source(model):
        found = summarize(load(model), target, dims, rules, top)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    _show(found)


def _show(found: dict[str, Any]) -> None:
    from ..report.numbers import count, size
    from ..report.terminal import Printer

    out = Printer()
    rows = []
    for name, values in (("inputs", found["inputs"]), ("outputs", found["outputs"])):
        shown = [f"{k}: {v}" for k, v in values.items()]
        told = [*shown[:8], *([f"… and {len(shown) - 8} more"] if len(shown) > 8 else [])]
        rows += [(name if i == 0 else "", text) for i, text in enumerate(told)]
    rows.append(("opset", ", ".join(f"{d or 'ai.onnx'} {v}" for d, v in found["opsets"].items())))
    rows.append(("nodes", f"{count(found['nodes'])} ({count(found['nodes_clean'])} after -O1)"))
    rows.append(("operators", ", ".join(f"{k} {n}" for k, n in list(found["operators"].items())[:12])))
    kinds = ", ".join(f"{k} {size(n)}" for k, n in found["dtypes"].items())
    rows.append(("parameters", f"{count(found['parameters'])} in {size(found['parameter_bytes'])} ({kinds})"))
    at = ", ".join(f"{k}={v}" for k, v in found["sizes"].items()) or "all sizes static"
    rows.append(("arithmetic", f"{found['flops'] / 1e9:.3g} GFLOP ({at}; {found['unknown']} nodes of unknown shape)"))
    out.table(rows, fold=True)
    if found["costly"]:
        costly = [(n["node"], n["op"], f"{n['flops'] / 1e9:.3g}", "?" if n["bytes"] is None else size(n["bytes"]))
                  for n in found["costly"]]  # fmt: skip
        out.table(costly, ("node", "operator", "GFLOP", "bytes moved"), "costly nodes")
    if found["fusable"]:
        out.say("would fuse at -O2: " + ", ".join(f"{k} {n}" for k, n in found["fusable"].items()))
    if found["quantizable"]:
        out.say(f"could be int8 at -O3: {found['quantizable']} linears")
    for p in found["unsupported"]:
        out.say(p, f"{found['target']} cannot run:", "red")
    if not found["unsupported"]:
        out.say(f"{found['target']} can run every node")
