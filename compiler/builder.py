"""Builds nodes outside any graph: what a rule's ``rewrite``, and a test's case, call ``op``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import ir
from .analysis import shapes
from .ir import DataType, Node, Value


class Refusal(Exception):
    """A proposed rewrite that the commit check declines. ``fault``: a sound rule would not have proposed it."""

    def __init__(self, reason: str, fault: bool = True) -> None:
        super().__init__(reason)
        self.fault = fault


class Builder:
    """The ``op`` that builds nodes, outside any graph until they are committed.

    Inputs are values, None, numpy arrays, or Python numbers and lists: these become constants of the dtype that the
    operator's schema ties to its other inputs (``op.Mul(x, 0.5)`` is as wide as ``x``).
    """

    def __init__(
        self, opsets: dict[str, int], domain: str = "", parent: Builder | None = None,
        infer: Callable[[Node], None] | None = None,
    ) -> None:  # fmt: skip
        self._opsets = opsets
        self._infer: Callable[[Node], None] | None = infer if parent is None else parent._infer
        self._domain = domain
        self.nodes: list[Node] = [] if parent is None else parent.nodes
        self.constants: list[Value] = [] if parent is None else parent.constants
        self._choices: Callable[[int], int] = (lambda n: 0) if parent is None else parent._choices

    def domain(self, name: str) -> Builder:
        return Builder(self._opsets, name, self)

    def either(self, *options: Any) -> Any:
        return options[self._choices(len(options))]

    def shared(self, value: Any) -> Any:
        return value

    def product(self, *factors: Any, scale: float | None = None) -> Any:
        """One of the trees that the pattern element stands for."""
        first, *others = factors if self._choices(2) == 0 or scale is None else factors[::-1]
        place = 0 if scale is None else self._choices(4)
        tree = first
        if scale is not None and place == 0:
            tree = self.Mul(tree, scale)
        elif scale is not None and place == 1:
            tree = self.Div(tree, 1.0 / scale)
        for other in others:
            tree = self.Mul(tree, other if scale is None or place != 2 else self.Mul(scale, other))
            scale = None if place == 2 else scale
        return self.Mul(tree, scale) if scale is not None and place >= 2 else tree

    def oneof(self, *names: str) -> Callable[..., Any]:
        return self._make(names[self._choices(len(names))])

    def constant(self, data: Any, dtype: DataType | None = None) -> Value:
        """A constant: ``data`` is an array, or numbers together with a ``dtype``."""
        a = np.asarray(data) if dtype is None else np.asarray(data).astype(dtype.numpy())
        value = ir.make_constant(a)
        shapes.note_constant(value, a)
        self.constants.append(value)
        return value

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if not op_type[:1].isupper():
            raise AttributeError(op_type)
        return self._make(op_type)

    def _make(self, op_type: str) -> Callable[..., Any]:
        def build(*inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
            values = [self._value(op_type, i, inputs) for i in range(len(inputs))]
            while values and values[-1] is None:
                values.pop()
            schema = ir.schema_of(op_type, self._domain, self._opsets.get(self._domain, 1))
            for k, a in attributes.items():
                if schema is not None and k in schema.attributes and not isinstance(a, ir.Attr):
                    attributes[k] = _typed(a, schema.attributes[k].type.name)
            node = ir.make_node(op_type, values, attributes, domain=self._domain, outputs=outputs)
            self.nodes.append(node)
            return node.outputs[0] if outputs == 1 else tuple(node.outputs)

        return build

    def _value(self, op_type: str, i: int, inputs: tuple[Any, ...]) -> Value | None:
        v = inputs[i]
        if v is None or isinstance(v, Value):
            return v
        if isinstance(v, np.ndarray | np.generic):
            return self.constant(v)
        return self.constant(v, self._dtype_for(op_type, i, inputs))

    def _dtype_for(self, op_type: str, i: int, inputs: tuple[Any, ...]) -> DataType:
        if self._infer is not None:
            for n in self.nodes:  # a dtype further up may be needed, and nothing was inferred yet
                if any(o.dtype is None for o in n.outputs):
                    self._infer(n)
        schema = ir.schema_of(op_type, self._domain, self._opsets.get(self._domain, 1))
        formal = _formal(schema, i)
        if formal is not None and formal.type_str.startswith("tensor("):
            return DataType[formal.type_str[7:-1].upper().replace("FLOAT32", "FLOAT")]
        for j, other in enumerate(inputs):
            same = formal is None or (f := _formal(schema, j)) is None or f.type_str == formal.type_str
            if same and isinstance(other, Value) and other.dtype is not None:
                return other.dtype
        # Nothing ties it (the exponent of Pow): as wide as the first input, where the operator takes that.
        first = inputs[0]
        if formal is not None and isinstance(first, Value) and first.dtype is not None:
            name = first.dtype.name.lower()
            if f"tensor({name})" in formal.types:
                return first.dtype
        what = f"the dtype of a constant of {op_type} is unknown, because that of its other inputs is"
        raise Refusal(what, fault=False)

    def discard(self) -> None:
        """Undo the uses that the detached nodes registered on values of the graph."""
        for n in self.nodes:
            for i in range(len(n.inputs)):
                n.replace_input_with(i, None)


def _typed(value: Any, kind: str) -> Any:
    """An attribute's value as the schema types it: 1 is 1.0 for a FLOAT, () is empty FLOATS for FLOATS."""
    if kind == "FLOAT":
        return float(value)
    if kind == "FLOATS":
        return ir.Attr("", ir.AttributeType.FLOATS, tuple(float(v) for v in value))
    return value


def _formal(schema: Any, i: int) -> Any:
    if schema is None or not schema.inputs:
        return None
    import onnx.defs

    if i < len(schema.inputs):
        return schema.inputs[i]
    last = schema.inputs[-1]
    return last if last.option == onnx.defs.OpSchema.FormalParameterOption.Variadic else None
