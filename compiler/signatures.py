"""What an operator's schema says about a node, compiled once per operator and opset so that checking a node is cheap.

Checked are what ``onnx.checker`` and ONNX Runtime check too: the operator exists and is not deprecated, attributes are
known, of the right type and all there, inputs and outputs are as many as allowed, and their element types agree with
the schema's type variables. Of an operator without schema (another domain) nothing is known, so nothing is checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from . import ir

Complaint = tuple[str, str, str | None]  # kind, what, hint
_NAME = 80  # characters of a name that messages show: a hostile file may hold names of megabytes


def short(name: str | None) -> str:
    """A name cut to what a message can show."""
    text = name or ""
    return text if len(text) <= _NAME else f"{text[: _NAME - 1]}…"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, in the same three parts as an error."""

    kind: str
    what: str
    where: str
    hint: str | None = None

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return text if self.hint is None else f"{text} ({self.hint})"


_TENSOR_NAMES = {
    t: f"tensor({name})"
    for t, name in {
        ir.DataType.FLOAT: "float", ir.DataType.UINT8: "uint8", ir.DataType.INT8: "int8",
        ir.DataType.UINT16: "uint16", ir.DataType.INT16: "int16", ir.DataType.INT32: "int32",
        ir.DataType.INT64: "int64", ir.DataType.STRING: "string", ir.DataType.BOOL: "bool",
        ir.DataType.FLOAT16: "float16", ir.DataType.DOUBLE: "double", ir.DataType.UINT32: "uint32",
        ir.DataType.UINT64: "uint64", ir.DataType.COMPLEX64: "complex64", ir.DataType.COMPLEX128: "complex128",
        ir.DataType.BFLOAT16: "bfloat16", ir.DataType.FLOAT8E4M3FN: "float8e4m3fn",
        ir.DataType.FLOAT8E4M3FNUZ: "float8e4m3fnuz", ir.DataType.FLOAT8E5M2: "float8e5m2",
        ir.DataType.FLOAT8E5M2FNUZ: "float8e5m2fnuz", ir.DataType.UINT4: "uint4", ir.DataType.INT4: "int4",
        ir.DataType.FLOAT4E2M1: "float4e2m1", ir.DataType.FLOAT8E8M0: "float8e8m0", ir.DataType.UINT2: "uint2",
        ir.DataType.INT2: "int2", ir.DataType.FLOAT6E2M3: "float6e2m3", ir.DataType.FLOAT6E3M2: "float6e3m2",
    }.items()
}  # fmt: skip
_BY_NAME = {name: t for t, name in _TENSOR_NAMES.items()}
_UNDEFINED = ir.DataType.UNDEFINED


def type_name(type_: Any) -> str | None:
    """ONNX's text for a type (``tensor(float)``, ``seq(tensor(int64))``), or None where it is unknown."""
    if isinstance(type_, ir.TensorType):
        return _TENSOR_NAMES.get(type_.dtype)
    for cls, text in ((ir.SparseTensorType, "sparse_tensor"), (ir.SequenceType, "seq"), (ir.OptionalType, "optional")):
        if isinstance(type_, cls):
            sparse = cls is ir.SparseTensorType
            inner = _TENSOR_NAMES.get(type_.dtype, "")[7:-1] or None if sparse else type_name(type_.elem_type)
            return None if inner is None else f"{text}({inner})"
    return None


@cache
def standard_domains() -> dict[str, int]:
    """The domains that onnx itself defines, each with the newest version that the installed onnx knows."""
    import onnx.defs
    import onnx.helper

    known = {s.domain: 0 for s in onnx.defs.get_all_schemas()}
    for domain, version in onnx.helper.OP_SET_ID_VERSION_MAP:
        domain = "" if domain == "ai.onnx" else domain
        known[domain] = max(known.get(domain, 0), version)
    return known


class _Param:
    """One formal input or output."""

    __slots__ = ("name", "required", "strings", "tensors", "variable", "variadic")

    def __init__(self, formal: Any, option: Any) -> None:
        self.name = formal.name
        self.required = formal.option == option.Single
        self.variadic = formal.option == option.Variadic
        self.strings = frozenset(formal.types)
        self.tensors = frozenset(_BY_NAME[s] for s in formal.types if s in _BY_NAME)
        # a heterogeneous variadic parameter may differ from item to item, and a plain type binds nothing
        self.variable = formal.type_str if formal.is_homogeneous and "(" not in formal.type_str else None


class Signature:
    """One operator at one opset."""

    __slots__ = ("attributes", "deprecated", "inputs", "max", "min", "name", "open", "outputs", "required", "since")

    def __init__(self, schema: Any) -> None:
        option = type(schema).FormalParameterOption
        self.name: str = schema.name
        self.since: int = schema.since_version
        self.deprecated: bool = schema.deprecated
        self.inputs = [_Param(p, option) for p in schema.inputs]
        self.outputs = [_Param(p, option) for p in schema.outputs]
        self.min = (schema.min_input, schema.min_output)
        self.max = (schema.max_input, schema.max_output)
        self.attributes = {name: int(a.type.value) for name, a in schema.attributes.items()}
        self.required = tuple(name for name, a in schema.attributes.items() if a.required)

    def complaints(self, node: ir.Node) -> Iterator[Complaint]:
        """What is wrong with a node that claims to be this operator."""
        if self.deprecated:
            hint = "convert the model to the operator's successor, for instance with onnx.version_converter"
            yield "operator", f"operator {self.name} is deprecated since opset {self.since}", hint
            return
        yield from self._attribute_complaints(node)
        bound: dict[str, Any] = {}
        yield from self._value_complaints(node.inputs, self.inputs, 0, bound)
        yield from self._value_complaints(node.outputs, self.outputs, 1, bound)

    def _attribute_complaints(self, node: ir.Node) -> Iterator[Complaint]:
        given = node.attributes
        if given:
            known = self.attributes
            for name, a in given.items():
                expected = known.get(name)
                if expected is None:
                    if not name.startswith("__"):  # onnx keeps such names for itself
                        yield "attribute", f"attribute {name!r} is not one of {self.name}'s", _known(known)
                elif expected != a.type:
                    kind = f"{ir.AttributeType(expected).name}, not {a.type.name}"
                    yield "attribute", f"attribute {name!r} of {self.name} must be {kind}", None
        for name in self.required:
            if name not in given:
                yield "attribute", f"{self.name} needs the attribute {name!r}", None

    def _value_complaints(
        self, values: Sequence[Any], params: list[_Param], side: int, bound: dict[str, Any]
    ) -> Iterator[Complaint]:
        count, noun = len(values), "output" if side else "input"
        if not self.min[side] <= count <= self.max[side]:
            least, most = self.min[side], self.max[side]
            allowed = f"{least}" if least == most else f"{least} to {most}" if most < 1 << 30 else f"at least {least}"
            yield "count", f"{self.name} takes {allowed} {noun}s, not {count}", None
            return
        last = len(params) - 1
        for i, value in enumerate(values):
            param = params[i if i < last else last]
            if value is None or (side and not value.name):
                if param.required:
                    yield "count", f"{noun} {i} ({param.name}) of {self.name} must not be left out", None
                continue
            type_ = value.type
            if type_ is None:
                continue
            variable = param.variable
            if type(type_) is ir.TensorType:
                dtype = type_.dtype
                if dtype == _UNDEFINED:
                    continue
                if dtype not in param.tensors:
                    yield "type", f"{noun} {i} ({param.name}) of {self.name} may not be {dtype.name}", _allowed(param)
                    continue
                if variable is None:
                    continue
                got: Any = dtype
            else:
                got = type_name(type_)
                if got is None:
                    continue
                if got not in param.strings:
                    yield "type", f"{noun} {i} ({param.name}) of {self.name} may not be {got}", _allowed(param)
                    continue
                if variable is None:
                    continue
            first = bound.setdefault(variable, got)
            if first != got:
                mixed = f"{_name(first)} and {_name(got)}"
                what = f"{self.name} mixes {mixed} where one type is needed ({noun} {i}, {param.name})"
                yield "type", what, "insert a Cast"


def _name(got: Any) -> str:
    return got.name if isinstance(got, ir.DataType) else str(got)


def _known(known: dict[str, int]) -> str:
    return "known: " + ", ".join(sorted(known)) if known else "it has none"


def _allowed(param: _Param) -> str:
    texts = sorted(t.name for t in param.tensors) if param.tensors else sorted(param.strings)
    return "allowed: " + ", ".join(texts[:12]) + (", …" if len(texts) > 12 else "")


@cache
def signature(op_type: str, domain: str, version: int) -> Signature | None:
    """The operator's signature in force at an opset, or None where onnx knows no such operator."""
    schema = ir.schema_of(op_type, domain, version)
    return None if schema is None else Signature(schema)
