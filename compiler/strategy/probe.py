"""The float model run with values inside it in view: what calibration and the estimates of layers look at."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .. import ir, storage
from ..ir import Model
from ..passes import float16
from ..passes.edit import Names
from ..session import SessionOptions, run, session
from ..targets import shared_cache

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def activations(model: Model, operators: Iterable[str]) -> list[str]:
    """Names of the float values, constants apart, that nodes of these operators in the main graph and in branches read or
    give, and what is kept in shared caches."""
    wanted = frozenset(operators)
    found: dict[str, None] = {}
    for n in ir.nodes_once(model):
        if n.domain == "" and n.op_type in wanted:
            # Of a linear layer only what it reads: the logits of a language model are large, and no rule asks for them.
            for v in n.inputs[:1] if n.op_type in ("MatMul", "Gemm") else (*n.inputs, *n.outputs):
                if v is not None and v.name and v.dtype in _FLOATS and not ir.is_constant(v):
                    found[v.name] = None
        if (n.domain, n.op_type) == (shared_cache.DOMAIN, shared_cache.OPERATOR):
            found |= {v.name: None for v in n.inputs[1:5] if v is not None and v.name}
    return list(found)


def watch(
    model: Model, names: Iterable[str], feeds: Iterable[dict[str, Any]], threads: int | None
) -> Iterator[dict[str, np.ndarray]]:
    """For each feed the values of these names, one feed at a time, so that memory does not grow with their number. What lies
    in a branch that did not run is left out."""
    probe = model.clone()
    wanted = list(dict.fromkeys(names))
    given = in_view(probe, wanted)
    # A layer may read a constant that is too large to fold, or one that a caller may override.
    held = ir.initial_values(probe, wanted)
    with _opened(probe, threads) as opened:
        del probe
        for feed in feeds:
            found = {**held, **feed, **seen(run(opened, feed), given)}
            yield {name: found[name] for name in wanted if name in found}


def in_view(model: Model, names: Iterable[str]) -> dict[str, str]:
    """Make values with these names outputs of the model; by name of the value that of the output.

    A value of a branch is given by its If, and by the other branches too: a value of that name if they have one, else one
    without elements.
    """
    graph, wanted = model.graph, set(names)
    taken = Names(model)
    outputs = {v.name for v in graph.outputs}
    given = {v.name: v.name for n in graph for v in n.outputs if v.name in wanted and v.name}
    graph.outputs.extend(v for n in graph for v in n.outputs if v.name in given and v.name not in outputs)
    for name, value in _from_branches(graph, wanted - given.keys(), taken).items():
        value.name = given[name] = taken.value(f"{name}_in_view")
        graph.outputs.append(value)
    return given


def _from_branches(graph: ir.Graph, wanted: Set[str], taken: Names) -> dict[str, ir.Value]:
    """By name what the Ifs of a graph give of the values of these names within them, by outputs that they did not have."""
    found: dict[str, ir.Value] = {}
    for choice in [n for n in graph if n.op_type == "If" and n.domain == ""] if wanted else ():
        ways = []
        for body in ir.subgraphs(choice):
            here = {v.name: v for n in body for v in n.outputs if v.name in wanted and v.name}
            ways.append((body, here | _from_branches(body, wanted - here.keys(), taken)))
        for name in dict.fromkeys(name for _, way in ways for name in way if name not in found):
            like = next(way[name] for _, way in ways if name in way)
            choice.resize_outputs(len(choice.outputs) + 1)
            found[name] = choice.outputs[-1]
            found[name].type, found[name].name = like.type, taken.value(f"{name}_of_branches")
            for body, way in ways:
                body.outputs.append(_alone(way.get(name), like, body, taken))
    return found


def _alone(value: ir.Value | None, like: ir.Value, body: ir.Graph, taken: Names) -> ir.Value:
    """The value as an output of its own of a branch; without elements where there is none."""
    if value is not None and not value.is_graph_output():
        return value
    assert like.dtype is not None
    empty = {"value": np.zeros(0, like.dtype.numpy())}
    node = ir.make_node("Constant", [], empty) if value is None else ir.make_node("Identity", [value])
    node.outputs[0].name, node.outputs[0].type = taken.value(f"{like.name}_given"), like.type
    body.append(node)
    return node.outputs[0]


def seen(found: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """What a run gave by the names that ``in_view`` was asked for, and as an output of the model, without what did not run."""
    made = {name: found[out] for name, out in given.items() if name == out or found[out].size}
    return {name: value for name, value in found.items() if name not in given.values()} | made


@contextmanager
def _opened(probe: Model, threads: int | None) -> Iterator[Any]:
    with tempfile.TemporaryDirectory(prefix="olc-probe-") as folder:
        path = Path(folder) / "probe.onnx"
        storage.save(probe, path)
        yield session(path, threads, options=SessionOptions())


def beyond(
    model: Model, nodes: Iterable[str], feeds: Iterable[dict[str, Any]], threads: int | None, limit: float
) -> set[str]:
    """Those of the nodes, by name, that read or give a float of a larger magnitude in one of the feeds.

    Magnitudes from ``float16.MASK`` on do not count: those are a mask's, which stay what they mean where they end earlier.
    """
    probe = model.clone()
    wanted = set(nodes)
    of: dict[str, list[str]] = {}
    values = {}
    for n in probe.graph:
        for v in (*n.inputs, *n.outputs) if ir.site(n) in wanted else ():
            if v is not None and v.name and v.type == ir.TensorType(ir.DataType.FLOAT) and not ir.is_constant(v):
                of.setdefault(v.name, []).append(ir.site(n))
                values[v.name] = v
    if not values:
        return set()
    largest = ir.make_constant(np.array(float16.MASK, np.float32), "olc_mask")
    nothing = ir.make_constant(np.array(0, np.float32), "olc_nothing")
    for constant in (largest, nothing):
        probe.graph.register_initializer(constant)
    made: dict[str, str] = {}
    for i, (name, v) in enumerate(values.items()):
        size = ir.make_node("Abs", [v])
        small = ir.make_node("Less", [size.outputs[0], largest])
        kept = ir.make_node("Where", [small.outputs[0], size.outputs[0], nothing])
        found = ir.make_node("ReduceMax", [kept.outputs[0]], {"keepdims": 0})
        for j, node in enumerate((size, small, kept, found)):
            node.outputs[0].name = f"olc_size_{i}_{j}"
        found.outputs[0].type, found.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(())
        probe.graph.extend((size, small, kept, found))
        probe.graph.outputs.append(found.outputs[0])
        made[found.outputs[0].name or ""] = name
    far: set[str] = set()
    with _opened(probe, threads) as opened:
        for feed in feeds:
            seen = run(opened, feed, [*made])
            far |= {node for out, name in made.items() if float(seen[out]) > limit for node in of[name]}
    return far
