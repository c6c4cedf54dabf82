"""One canonical text of a graph, for goldens, errors and people; and one hash of what a graph computes.

The text of a model::

    opset ai.onnx 17, com.microsoft 1
    graph main (%x: f32[N,4]) -> (%y: f32[N,4]) {
      %h = MatMul(%x, f32[4,4] w)
      %y = If(%c) {
        then_branch: graph then () -> (%t) {
          %t = Mul(%h, <0.5>)
        }
      }
    }

Constants of at most ``INLINE`` elements show their numbers where they are used (``<0.5>`` is a float32 scalar, others
say their type: ``<i64[2] 1, -1>``); larger ones their type and name. An initializer that is also an input is an input
with a default. ``_`` is an input left out. Node names and metadata are not shown: they are for provenance.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from . import ir
from .digest import digest, tensor_digest

__all__ = ["digest", "print_graph", "print_node", "type_text"]

INLINE = 8
_PLAIN = re.compile(r"[^\s%(){}<>,=\"]+\Z")
_SHORT = {ir.DataType.BOOL: "bool", ir.DataType.STRING: "str", ir.DataType.UNDEFINED: "?"}


def print_graph(what: ir.Model | ir.Graph | ir.Function, values: bool = False) -> str:
    """The text of a model, graph or function.

    Args:
        what: a graph is printed without opsets, a model with its functions after the graph.
        values: also the type of every value, and a digest of the content of each large constant.
    """
    printer = _Printer(values)
    if isinstance(what, ir.Model):
        lines = [f"opset {_opsets(what.opset_imports)}", *printer.graph(what.graph, "graph")]
        for f in what.functions.values():
            lines += ["", *printer.function(f)]
    elif isinstance(what, ir.Function):
        lines = printer.function(what)
    else:
        lines = printer.graph(what, "graph")
    return "\n".join(lines) + "\n"


def print_node(node: ir.Node, values: bool = False) -> str:
    """One node as ``print_graph`` shows it, without a line end."""
    return "\n".join(_Printer(values).node(node))


def type_text(type_: Any, shape: ir.Shape | None) -> str:
    """``f32[N,4]``; ``f32`` where the rank is unknown, ``?`` where the type is; ``seq(i64[?])`` and the like."""
    if isinstance(type_, ir.SequenceType | ir.OptionalType):
        return f"{'seq' if isinstance(type_, ir.SequenceType) else 'optional'}({type_text(type_.elem_type, shape)})"
    dims = "" if shape is None else f"[{','.join(_dim(d) for d in shape)}]"
    if type_ is None:
        return f"?{dims}"
    if isinstance(type_, ir.TensorType):
        return f"{_dtype(type_.dtype)}{dims}"
    if isinstance(type_, ir.SparseTensorType):
        return f"sparse({_dtype(type_.dtype)}{dims})"
    return str(type_)


class _Printer:
    def __init__(self, values: bool) -> None:
        self.values = values
        self.nameless: dict[ir.Value, str] = {}

    def graph(self, graph: ir.Graph, head: str, outer: tuple[str, str] = ("", "")) -> list[str]:
        inputs = ", ".join(self.declared(v) + self.default(v) for v in graph.inputs)
        outputs = ", ".join(self.declared(v) for v in graph.outputs)
        name = f" {_quoted(graph.name)}" if graph.name else ""
        lines = [f"{head}{name} ({inputs}) -> ({outputs}) {{"]
        for v in graph.initializers.values():
            if not v.is_graph_input() and (v.is_graph_output() or not v.uses()):
                lines.append(f"  {self.name(v)} = {self.tensor(v.const_value, v.name)}")
        for node in graph:
            lines += [f"  {line}" for line in self.node(node)]
        return [*lines, "}"]

    def function(self, f: ir.Function) -> list[str]:
        attributes = [a.name if a.value is None else self.attribute(a) for a in f.attributes.values()]
        text = f" <{', '.join(attributes)}>" if attributes else ""
        name = f"{f.domain}::{f.name}" + (f":{f.overload}" if f.overload else "")
        inputs = ", ".join(self.declared(v) for v in f.inputs)
        outputs = ", ".join(self.declared(v) for v in f.outputs)
        lines = [f"function {name}{text} ({inputs}) -> ({outputs}) opset {_opsets(f.opset_imports)} {{"]
        for node in f.graph:
            lines += [f"  {line}" for line in self.node(node)]
        return [*lines, "}"]

    def node(self, node: ir.Node) -> list[str]:
        given = list(node.outputs)
        while given and not given[-1].name and not given[-1].uses():
            given.pop()
        outputs = ", ".join(self.name(v) if v.name or v.uses() else "_" for v in given)
        inputs = ", ".join("_" if v is None else self.read(v) for v in node.inputs)
        op = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        if node.overload:
            op += f":{node.overload}"
        bodies = [a for a in node.attributes.values() if not a.is_ref() and a.type in _BODIES]
        plain = [self.attribute(a) for a in sorted(node.attributes.values(), key=lambda a: a.name) if a not in bodies]
        line = f"{outputs} = {op}({inputs})" if outputs else f"{op}({inputs})"
        if plain:
            line += f" {{{', '.join(plain)}}}"
        if self.values:
            line += "  -> " + ", ".join(type_text(v.type, v.shape) for v in given)
        if not bodies:
            return [line]
        lines = [f"{line} {{"]
        for a in bodies:
            graphs = [a.value] if a.type == ir.AttributeType.GRAPH else a.value
            for i, g in enumerate(graphs):
                head = f"{a.name}: graph" if a.type == ir.AttributeType.GRAPH else f"{a.name}[{i}]: graph"
                lines += [f"  {text}" for text in self.graph(g, head)]
        return [*lines, "}"]

    # values

    def name(self, v: ir.Value) -> str:
        if v.name:
            return f"%{_quoted(v.name)}"
        return self.nameless.setdefault(v, f"%?{len(self.nameless)}")

    def declared(self, v: ir.Value) -> str:
        text = type_text(v.type, v.shape)
        return self.name(v) if text == "?" else f"{self.name(v)}: {text}"

    def default(self, v: ir.Value) -> str:
        return f" = {self.tensor(v.const_value, None)}" if v.is_initializer() else ""

    def read(self, v: ir.Value) -> str:
        if v.is_initializer() and not v.is_graph_input():
            return self.tensor(v.const_value, v.name)
        return self.name(v)

    def tensor(self, t: Any, name: str | None) -> str:
        if t is None:
            return "no data"
        kind = f"{_dtype(t.dtype)}[{','.join(_dim(d) for d in t.shape)}]"
        if t.size <= INLINE:
            numbers = ", ".join(_elements(t))
            if t.dtype == ir.DataType.FLOAT and len(t.shape) == 0:
                return f"<{numbers}>"
            kind = _dtype(t.dtype) if len(t.shape) == 0 else kind
            return f"<{kind} {numbers}>" if numbers else f"<{kind}>"
        content = f" #{tensor_digest(t).hex()[:8]}" if self.values or name is None else ""
        return kind + (f" {_quoted(name)}" if name else "") + content

    def attribute(self, a: ir.Attr) -> str:
        if a.is_ref():
            return f"{a.name}=@{a.ref_attr_name}"
        T, value = ir.AttributeType, a.value
        if a.type in (T.TENSOR, T.SPARSE_TENSOR):
            text = self.tensor(value, None)
        elif a.type in (T.TENSORS, T.SPARSE_TENSORS):
            text = f"[{', '.join(self.tensor(t, None) for t in value)}]"
        elif a.type == T.TYPE_PROTO:
            text = type_text(value.type, value.shape)
        elif a.type == T.TYPE_PROTOS:
            text = f"[{', '.join(type_text(t.type, t.shape) for t in value)}]"
        elif isinstance(value, tuple | list):
            text = f"[{', '.join(_item(v, a.type == T.FLOATS) for v in value)}]"
        else:
            text = _item(value, a.type == T.FLOAT)
        return f"{a.name}={text}"


_BODIES = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _elements(t: Any) -> Iterator[str]:
    if t.dtype == ir.DataType.STRING:
        held = t.string_data() if isinstance(t, ir.StringTensor) else t.numpy().reshape(-1).tolist()
        yield from (_item(s, False) for s in held)
        return
    for x in t.numpy().reshape(-1):
        yield _number(x)


def _number(x: Any) -> str:
    """The shortest decimal that gives back the number in its own type."""
    if isinstance(x, np.bool_):
        return "true" if x else "false"
    if isinstance(x, np.integer):
        return str(int(x))
    text = str(x)
    return text[1:-1] if text.startswith("(") else text


def _item(value: Any, single: bool) -> str:
    if isinstance(value, bytes):
        try:
            return json.dumps(value.decode(), ensure_ascii=False)
        except UnicodeDecodeError:
            return f"0x{value.hex()}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return str(np.float32(value)) if single else str(value)


def _dtype(dtype: ir.DataType) -> str:
    return _SHORT.get(dtype) or dtype.short_name()


def _dim(d: Any) -> str:
    if isinstance(d, int):
        return str(d)
    return "?" if d.value is None else str(d.value)


def _quoted(name: str | None) -> str:
    text = name or ""
    return text if _PLAIN.match(text) else json.dumps(text, ensure_ascii=False)


def _opsets(opsets: dict[str, int]) -> str:
    return ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in sorted(opsets.items())) or "none"
