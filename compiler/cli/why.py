"""``olc why``: where a rule fires in a model, and why it does not elsewhere."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from ._options import blaming_the_source, rules_option, target_option, tell

if TYPE_CHECKING:
    from ..ir import Node
    from ..matching import Match, Miss
    from ..rules import Rule

    Found = list[tuple[Node, Match | Miss]]


@click.command("why")
@click.argument("model", type=click.Path())
@click.option("--rule", "name", help="Name of the rule; olc rules list names them. Without: the fusions that -O2 misses.")
@click.option("--at", help="With --rule: only the node of this name, or the one whose output has it.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=10, show_default=True,
    help="Places to print, best first; without --rule: reasons for each kind of fusion.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "-O", "level", type=click.IntRange(0, 2), default=0, show_default=True,
    help="With --rule: look at the model as this level leaves it; 0: as it is in the file.",
)  # fmt: skip
@target_option
@rules_option
def command(
    model: str, name: str | None, at: str | None, limit: int, as_json: bool, level: int, target: str, rules: tuple[str, ...]
) -> None:
    """Say for each place where a rule could act: it matches, it is refused and why, or how near it came.

    Without --rule: what should fuse by its structure, what does at -O2, and for the rest the reason that came nearest.
    """
    from .. import frontend, ir, targets
    from ..analysis import shapes
    from ..errors import BadInput
    from ..rewriter import why
    from ..rules import registry

    if name is None and at is not None:
        raise click.UsageError("--at asks about one rule at a node: give --rule too")
    known = registry(rules)
    if name is None:
        _fusions(model, target, known, limit, as_json)
        return
    rule = known[name]
    loaded = frontend.load(model)
    if level:
        from ..passes import Context
        from ..pipeline import Options, optimize

        with blaming_the_source(model):
            optimize(loaded, Options(level=level), Context(target=targets.get(target)), known)
    opset = ir.opset_of(loaded) or 1
    shapes.infer(loaded)
    found = why(loaded, rule, at)
    if at is not None and not found:
        hint = "give a node's name, or the name of one of its outputs"
        raise BadInput(f"no node is called {at!r}", where=model, hint=hint)
    outside = _outside(rule, opset)
    if as_json:
        click.echo(json.dumps(_record(rule, found, limit, outside), indent=2))
        return
    if outside:
        tell(outside)
    for node, m in found[:limit]:
        tell(_told(node, m))
    if len(found) > limit:
        click.echo(f"… and {len(found) - limit} more (--limit)")
    click.echo(_summary(rule, found))


def _fusions(model: str, target: str, known: Any, limit: int, as_json: bool) -> None:
    from .. import frontend, targets
    from ..fusions import survey
    from ..passes import Context
    from ..pipeline import Options, optimize
    from ..report.terminal import Printer, show_fusions

    source = frontend.load(model)
    with blaming_the_source(model):
        result = optimize(source.clone(), Options(level=2), Context(target=targets.get(target)), known)
    found = [f.to_dict() for f in survey(source, result.model, known, result.ctx, result.outcome.refused)]
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif found:
        show_fusions(found, Printer(), limit)
    else:
        click.echo("nothing in the model looks like a block that could fuse")


def _outside(rule: Rule, opset: int) -> str | None:
    """Whether the model's opset keeps the rule from acting at all."""
    if rule.applies(opset, rule.targets[0] if rule.targets else None):
        return None
    until = "and later" if rule.until is None else f"to {rule.until}"
    return f"the model has opset {opset}; {rule.name} acts at opset {rule.since} {until}, so not here"


def _kind(m: Match | Miss) -> str:
    return "match" if m else "refused" if m.refused else "miss"


def _told(node: Node, m: Match | Miss) -> str:
    from ..matching import Match

    place = f"{node.op_type} {node.name!r}"
    if isinstance(m, Match):
        return f"match    {place}: {' '.join(n.op_type for n in m.nodes)}"
    if m.refused:
        return f"refused  {place}: {m.reason}"
    near = f"at {m.at}, wanted {m.element}; {m.depth} of {m.size} operators fit"
    return f"miss     {place}: {m.reason}\n           {near}"


def _summary(rule: Rule, found: Found) -> str:
    kinds = Counter(_kind(m) for _, m in found)
    if not found:
        roots = " or ".join(sorted(o for _, o in rule.pattern.root_ops))
        return f"{rule.name}: the model has no {roots}"
    counts = ", ".join(
        f"{kinds[k]} {label}" for k, label in (("match", "match"), ("refused", "refused"), ("miss", "miss")) if kinds[k]
    )
    lines = [f"{rule.name}: {counts}"]
    # Names apart, the same reason is one reason.
    for reason, n in Counter(re.sub(r" '[^']*'", "", m.reason) for _, m in found if not m).most_common(5):
        lines.append(f"  {n} × {reason}")
    return "\n".join(lines)


def _record(rule: Rule, found: Found, limit: int, outside: str | None) -> dict[str, Any]:
    kinds = Counter(_kind(m) for _, m in found)
    places = []
    from ..matching import Match

    for node, m in found[:limit]:
        place: dict[str, Any] = {"node": node.name, "op": node.op_type, "result": _kind(m)}
        if isinstance(m, Match):
            place["nodes"] = [n.name for n in m.nodes]
        else:
            place |= {"reason": m.reason, "at": m.at, "element": m.element, "depth": m.depth, "size": m.size}
        places.append(place)
    return {"rule": rule.name, "counts": dict(kinds), "outside": outside, "places": places}
