"""What ``olc analyze`` says about a model, as one JSON-able value. Runs no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from . import ir, targets
from .analysis import cost, shapes
from .ir import Model, Value
from .matching import Match
from .passes import Context
from .pipeline import Options, optimize
from .printer import type_text
from .rewriter import why
from .rules import registry


def summarize(model: Model, target: str, dims: Mapping[str, int], rules: Sequence[str] = (), top: int = 10) -> dict[str, Any]:
    """Facts about the model, and what olc would do with it on the target.

    Args:
        dims: sizes of named dims for the arithmetic; the others count as 1.
        top: how many costly nodes to name.

    Raises:
        BadInput: no such target.
    """
    on = targets.get(target)
    shapes.infer(model)
    found = cost.of_model(model, dims)
    nodes = sorted((n for n in found.nodes if n.flops), key=lambda n: (-(n.flops or 0), n.node))
    known = registry(rules)
    unsupported = on.check(model)
    clean = model.clone()
    ctx = Context(target=on)
    optimize(clean, Options(level=1), ctx, known)
    cleaned = _count(clean)
    fused = optimize(clean, Options(level=2, start=1), ctx, known) if not unsupported else None
    fusable: Counter[str] = Counter()
    if fused is not None:
        groups = {r.name: r for r in known}
        for name, n in fused.outcome.applied.items():
            if name in groups and groups[name].safety.level == "CLOSE":
                fusable[name] += n
    lossy = known.select(["LOSSY"], ir.opset_of(clean) or 1, target)
    sites = {ir.site(n) for r in lossy for n, m in why(clean, r) if isinstance(m, Match)}
    return {
        "target": target,
        "inputs": {v.name or "?": _type(v) for v in model.graph.inputs if not v.is_initializer()},
        "outputs": {v.name or "?": _type(v) for v in model.graph.outputs},
        "opsets": dict(model.opset_imports),
        "nodes": _count(model),
        "nodes_clean": cleaned,
        "operators": dict(found.operators.most_common()),
        "parameters": found.parameters,
        "parameter_bytes": found.parameter_bytes,
        "dtypes": dict(found.dtypes.most_common()),
        "flops": found.flops,
        "unknown": found.unknown,
        "sizes": found.sizes,
        "costly": [{"node": n.node, "op": n.op, "flops": n.flops, "bytes": n.bytes} for n in nodes[:top]],
        "fusable": dict(fusable.most_common()),
        "quantizable": len(sites),
        "unsupported": unsupported,
    }


def _count(model: Model) -> int:
    return sum(len(g) for g in ir.all_graphs(model))


def _type(v: Value) -> str:
    d = shapes.dims(v)
    if v.type is not None and not isinstance(v.type, ir.TensorType):
        return type_text(v.type, v.shape)
    kind = v.dtype.name.lower() if v.dtype is not None else "?"
    return kind if d is None else f"{kind}[{', '.join(map(str, d))}]"
