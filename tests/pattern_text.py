"""Models from text to match patterns on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
from olc import ir
from olc.analysis import shapes
from olc.matching import Match, Miss, match
from olc.patterns import trace
from olc.rules import (
    Value,
)

Pattern = Callable[..., Any]


def load(text: str) -> ir.Model:
    model = ir.serde.deserialize_model(onnx.parser.parse_model(text))
    shapes.infer(model)
    return model


def graph(body: str, inputs: str = "float[N,4] x", outputs: str = "y", known: str = "", opset: int = 18) -> ir.Model:
    """A model of one graph; ``known`` declares initializers."""
    declared = ", ".join(f"float[N,M] {o}" if " " not in o else o for o in outputs.split(", "))
    weights = f"<{known}>" if known else ""
    return load(
        f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>\n'
        f"g ({inputs}) => ({declared}) {weights} {{ {body} }}"
    )


def value(model: ir.Model, name: str) -> Value:
    for g in ir.all_graphs(model):
        for n in g:
            for o in n.outputs:
                if o.name == name:
                    return o
    raise LookupError(name)


def found(pattern: Pattern, model: ir.Model, at: str = "y", **options: Any) -> Match | Miss:
    m = match(trace(pattern), value(model, at), dict(model.opset_imports), **options)
    assert m is not None
    return m


def hit(pattern: Pattern, model: ir.Model, at: str = "y", **options: Any) -> Match:
    m = found(pattern, model, at, **options)
    assert isinstance(m, Match), str(m)
    return m


def miss(pattern: Pattern, model: ir.Model, at: str = "y", **options: Any) -> Miss:
    m = found(pattern, model, at, **options)
    assert isinstance(m, Miss), "it matches"
    return m
