"""What every shape rule works with: the facts on values, the registry, and `Site`, one node seen with its facts.

A rule is a function of a `Site` that calls `Site.out` for each output it knows. Where a fact that it needs is missing
it lets `Unknown` pass: the outputs then stay unknown. A rule may take for granted that the node runs without error
(two dims that are broadcast together fit, a divisor is not 0): a run that fails has no result to be wrong about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import ir
from .. import dims as d
from ..dims import Dim

if TYPE_CHECKING:
    from .engine import Engine

__all__ = [
    "BOOL", "DIMS", "ELEMENTS", "FLOAT_KINDS", "INTEGERS", "MOST", "REALS", "Dims", "Elements", "Real", "Rule", "Site",
    "Unknown", "count", "dims", "elements", "grid", "held_tensor", "is_tensor",
    "lookup", "normal_axis", "reals", "rule", "set_type",
    "static",
]  # fmt: skip

DIMS, ELEMENTS, REALS, _READ = "olc.dims", "olc.elements", "olc.reals", "olc.read"
OWN = "olc.own_sizes"
"""Key in the ``meta`` of an Identity's result: sizes that have other names there than in what it passes on, by axis."""

Dims = tuple[Dim, ...]
Elements = tuple[Dim, ...]
# A float that is exactly `top / bottom` (bottom a positive int); `exact` is False where the float is that number
# rounded once, which floor and ceil of sizes below 2^22 do not notice.
Real = tuple[Dim, int, bool]

# How many elements of a tensor are tracked.
MOST = 64

_T = ir.DataType
BOOL = _T.BOOL
_RANGES: dict[Any, tuple[int, int]] = {
    _T.INT64: (-(1 << 63), (1 << 63) - 1),
    _T.INT32: (-(1 << 31), (1 << 31) - 1),
    _T.INT16: (-(1 << 15), (1 << 15) - 1),
    _T.INT8: (-128, 127),
    _T.UINT64: (0, (1 << 64) - 1),
    _T.UINT32: (0, (1 << 32) - 1),
    _T.UINT16: (0, (1 << 16) - 1),
    _T.UINT8: (0, 255),
    _T.BOOL: (0, 1),
}
INTEGERS = frozenset(_RANGES)
# The types in which a size, which olc takes to be below 2^31, always fits.
_WIDE = frozenset((_T.INT64, _T.INT32, _T.UINT64, _T.UINT32))
FLOAT_KINDS = frozenset((_T.FLOAT, _T.DOUBLE))


class Unknown(Exception):
    """A fact that a rule needs is missing."""


Rule = Callable[["Site"], None]
_rules: dict[tuple[str, str], Rule] = {}


def rule(*op_types: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register the function as shape rule of these operators."""

    def register(function: Rule) -> Rule:
        for name in op_types:
            key = (domain, name)
            if key in _rules:
                raise ValueError(f"two shape rules for {domain or 'ai.onnx'}::{name}")
            _rules[key] = function
        return function

    return register


def lookup(domain: str, op_type: str) -> Rule | None:
    return _rules.get(("" if domain == "ai.onnx" else domain, op_type))


# ------------------------------------------------------------------------------------------------------ facts

_MISSING = object()


def held_tensor(value: ir.Value) -> Any | None:
    """The tensor of a constant, one included that is in no graph yet (a rewrite being built)."""
    if value.graph is None and value.producer() is None:
        return value.const_value
    return ir.tensor(value)


def dims(value: ir.Value) -> Dims | None:
    """The shape of a value as dims, or None where even the rank is unknown (or it is no tensor)."""
    found = value.meta.data.get(DIMS, _MISSING)
    if found is not _MISSING:
        return found
    t = held_tensor(value)
    return None if t is None else tuple(int(n) for n in t.shape)


def elements(value: ir.Value) -> Elements | None:
    """All elements of a small integer or boolean tensor (False is 0, True is 1), flat in row-major order, else None."""
    data = value.meta.data
    found = data.get(ELEMENTS)
    if found is not None:
        return found
    producer = value.producer()
    if producer is not None and producer.op_type != "Constant":
        return None
    return _read(value, value.dtype in INTEGERS or value.dtype is None)[0]


def reals(value: ir.Value) -> tuple[Real, ...] | None:
    """All elements of a small float tensor as numbers known exactly, flat, else None."""
    data = value.meta.data
    found = data.get(REALS)
    if found is not None:
        return found
    producer = value.producer()
    if producer is not None and producer.op_type != "Constant":
        return None
    return _read(value, True)[1]


def _read(value: ir.Value, wanted: bool) -> tuple[Elements | None, tuple[Real, ...] | None]:
    """What a constant holds, read once per tensor."""
    t = held_tensor(value) if wanted else None
    if t is None or t.size > MOST:
        return None, None
    data = value.meta.data
    kept = data.get(_READ)
    if kept is not None and kept[0] is t:
        return kept[1]
    held: tuple[Elements | None, tuple[Real, ...] | None] = (None, None)
    if t.dtype in INTEGERS:
        held = tuple(int(n) for n in t.numpy().reshape(-1)), None
    elif t.dtype in FLOAT_KINDS:
        numbers = t.numpy().reshape(-1).astype(np.float64).tolist()
        if all(abs(x) < 1 << 31 and x * 1024 == int(x * 1024) for x in numbers):
            held = None, tuple(_ratio(x) for x in numbers)
    data[_READ] = (t, held)
    return held


def _ratio(x: float) -> Real:
    top, bottom = x.as_integer_ratio()
    return top, bottom, True


def is_tensor(value: ir.Value) -> bool:
    """False for a sequence or an optional, which have no shape even where the file states one."""
    return value.type is None or isinstance(value.type, ir.TensorType | ir.SparseTensorType)


def set_type(value: ir.Value, dtype: Any) -> None:
    if value.type is None and dtype is not None:
        value.type = ir.TensorType(dtype)


def grid(items: Sequence[Any], shape: Sequence[Dim]) -> np.ndarray:
    """Elements as an object array, so that numpy does the indexing."""
    a = np.empty(len(items), dtype=object)
    a[:] = items
    return a.reshape(static(shape))


def static(shape: Sequence[Dim]) -> list[int]:
    """The shape as numbers; Unknown where a dim is symbolic."""
    out = [n for n in shape if isinstance(n, int)]
    if len(out) != len(shape):
        raise Unknown
    return out


def count(shape: Sequence[Dim]) -> int | None:
    """The number of elements, None where a dim is symbolic."""
    n = 1
    for k in shape:
        if not isinstance(k, int):
            return None
        n *= k
    return n


def normal_axis(axis: int, rank: int) -> int:
    """The axis counted from the front; Unknown where it is out of range."""
    if axis < 0:
        axis += rank
    if not 0 <= axis < rank:
        raise Unknown
    return axis


# ------------------------------------------------------------------------------------------------------- site


class Site:
    """One node while its outputs' facts are derived."""

    __slots__ = ("bound", "engine", "inputs", "node", "outputs", "version")

    def __init__(self, node: ir.Node, engine: Engine, version: int, bound: Mapping[str, ir.Attr] | None) -> None:
        self.node = node
        self.engine = engine
        self.version = version
        self.inputs = node.inputs
        self.outputs = node.outputs
        self.bound = bound

    # -- inputs

    def has(self, i: int) -> bool:
        return i < len(self.inputs) and self.inputs[i] is not None

    def value(self, i: int) -> ir.Value:
        v = self.inputs[i] if i < len(self.inputs) else None
        if v is None:
            raise Unknown
        return v

    def dims_or_none(self, i: int) -> Dims | None:
        v = self.inputs[i] if i < len(self.inputs) else None
        return None if v is None else dims(v)

    def dims(self, i: int) -> Dims:
        found = self.dims_or_none(i)
        if found is None:
            raise Unknown
        return found

    def elements(self, i: int) -> Elements | None:
        """What an input holds, flat, of any rank."""
        v = self.inputs[i] if i < len(self.inputs) else None
        return None if v is None else elements(v)

    def vector(self, i: int) -> Elements:
        """What an input of at most one dimension holds; unknown numbers stand in where only its length is known."""
        v = self.value(i)
        found = elements(v)
        if found is not None:
            return found
        shape = dims(v)
        if shape is None or len(shape) > 1 or (v.dtype is not None and v.dtype not in INTEGERS):
            raise Unknown
        count = shape[0] if shape else 1
        if not isinstance(count, int) or count > MOST:
            raise Unknown
        made = tuple(self.unknown() for _ in range(count))
        if v.dtype is not None and not ir.is_constant(v):
            v.meta.data[ELEMENTS] = made  # so that all readers of the value see the same numbers
        return made

    def ints(self, i: int) -> tuple[int, ...]:
        """The constants that an input holds; Unknown where one is symbolic."""
        found = self.elements(i)
        if found is None or not all(isinstance(n, int) for n in found):
            raise Unknown
        return found  # type: ignore[return-value]

    def reals(self, i: int) -> tuple[Real, ...] | None:
        v = self.inputs[i] if i < len(self.inputs) else None
        return None if v is None else reals(v)

    def dtype(self, i: int) -> Any | None:
        v = self.inputs[i] if i < len(self.inputs) else None
        return None if v is None else v.dtype

    def attr(self, name: str, default: Any = None) -> Any:
        """The attribute's value; one that refers to a function's attribute is looked up in the call, else Unknown."""
        a = self.node.attributes.get(name)
        if a is not None and a.is_ref():
            if self.bound is None:
                raise Unknown
            a = self.bound.get(a.ref_attr_name or "")
        if a is None:
            return default
        return tuple(a.value) if isinstance(a.value, list) else a.value

    def axes(self, name: str, i: int, from_input: int) -> tuple[int, ...] | None:
        """Axes held by attribute ``name``, since opset ``from_input`` by input ``i``; None where neither is given."""
        if self.version < from_input:
            return self.attr(name)
        return self.ints(i) if self.has(i) else None

    # -- new symbols

    def fresh(self) -> Dim:
        return self.engine.supply.fresh()

    def unknown(self) -> Dim:
        return self.engine.supply.unknown()

    def nonnegative(self, e: Dim) -> bool:
        """Proved >= 0, or the size of some tensor of the model, or it follows from what lets the model run to its end."""
        return self.engine.nonnegative(e)

    def broadcast(self, shapes: Iterable[Dims]) -> Dims:
        """The shape of several broadcast together; Unknown where they cannot be."""
        out: Dims | None = None
        for shape in shapes:
            if out is None or out == shape:
                out = shape
                continue
            out, shape = d.met(out, shape)
            short, long = (out, shape) if len(out) < len(shape) else (shape, out)
            lead = len(long) - len(short)
            joined = list(long[:lead])
            for a, b in zip(short, long[lead:], strict=True):
                both = d.broadcast(a, b)
                if both is None:
                    raise Unknown
                joined.append(both)
            out = tuple(joined)
        if out is None:
            raise Unknown
        return out

    # -- outputs

    def out(
        self,
        i: int,
        shape: Dims | None,
        items: Sequence[Dim | None] | None = None,
        dtype: Any | None = None,
        exact: Sequence[Real] | None = None,
    ) -> None:
        """State the facts of an output.

        Args:
            shape: its dims.
            items: its elements, flat, None for one that is unknown; kept for integer and boolean tensors.
            dtype: its element type, used where the value has none.
            exact: its elements where it is a float tensor.
        """
        if i >= len(self.outputs):
            return
        value = self.outputs[i]
        if dtype is not None and value.type is None:
            value.type = ir.TensorType(dtype)
        data = value.meta.data
        data[DIMS] = shape
        if shape is not None:
            for n in shape:
                if not isinstance(n, int):
                    self.engine.note_size(n)
        if items is not None and shape is not None and len(items) <= MOST:
            kept = self._kept(items, value.dtype)
            if kept is not None:
                data[ELEMENTS] = kept
        if exact is not None and len(exact) <= MOST:
            data[REALS] = tuple(exact)

    def _kept(self, items: Sequence[Dim | None], dtype: Any) -> Elements | None:
        """The elements as the dtype can hold them; None where nothing is known of any."""
        if dtype not in _RANGES:
            return None
        low, high = _RANGES[dtype]
        wide = dtype in _WIDE
        kept: list[Dim] = []
        known = not items
        for e in items:
            fits = isinstance(e, int) and low <= e <= high
            if not fits and e is not None and not isinstance(e, int) and wide:
                fits = low < 0 or self.nonnegative(e)
            if not fits or e is None:
                e = self.unknown() if wide else None
                if e is None:
                    return None
            else:
                known = True
            kept.append(e)
        return tuple(kept) if known else None
