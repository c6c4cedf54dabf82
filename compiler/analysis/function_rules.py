"""What each operator gives at coordinates of its output, in terms of its inputs' elements; None where that is not known."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

from .. import ir
from . import dims as d
from . import shapes
from .conditions import FALSE, TRUE, Condition
from .poly import divide, terms_of

if TYPE_CHECKING:
    from .functions import Coordinates, Element, Functions

INTEGERS = frozenset({ir.DataType.INT64, ir.DataType.INT32, ir.DataType.INT16, ir.DataType.INT8, ir.DataType.UINT8})
WHOLE = INTEGERS | {ir.DataType.BOOL}
"""What has elements that are dims or conditions."""

_Rule = Callable[["Functions", ir.Node, "Coordinates"], "Element | None"]
OPERATORS: dict[str, _Rule] = {}


def _operator(*names: str) -> Callable[[_Rule], _Rule]:
    def add(rule: _Rule) -> _Rule:
        OPERATORS.update(dict.fromkeys(names, rule))
        return rule

    return add


def _ints(value: ir.Value | None) -> tuple[int, ...] | None:
    held = None if value is None else shapes.elements(value)
    return held if held is not None and all(isinstance(n, int) for n in held) else None  # type: ignore[return-value]


def _input(node: ir.Node, i: int) -> ir.Value | None:
    return node.inputs[i] if i < len(node.inputs) else None


_CARRIERS = ("Cast", "Reshape", "Flatten", "Identity", "Unsqueeze")
CARRIERS = frozenset({*_CARRIERS, "Expand", "Squeeze", "Transpose"})
"""What floats are looked through for, to the whole numbers that they hold."""


def _is_input(value: ir.Value) -> bool:
    """Is the value an input of the model, or one in another dtype or shape?"""
    node = value.producer()
    while node is not None and node.op_type in _CARRIERS and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value.is_graph_input()


@_operator("Identity", "Expand")
def _same(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    return f.operand(node, 0, at)


@_operator("Cast")
def _cast(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    source, target = node.inputs[0].dtype if node.inputs[0] is not None else None, node.outputs[0].dtype
    if source == ir.DataType.BOOL or target == ir.DataType.BOOL:
        # bool to integer is 0 or 1, and that is what a condition stands for among integers
        if source not in WHOLE:
            number = filling(node.inputs[0])
            return None if number is None else f.truth(int(number != 0))
        e = f.operand(node, 0, at)
        return None if e is None else f.truth(e)
    if target == ir.DataType.INT64 and source in INTEGERS:
        return f.operand(node, 0, at)
    e = f.operand(node, 0, at) if source in INTEGERS and target in (ir.DataType.INT32, ir.DataType.FLOAT) else None
    if e is None or isinstance(e, Condition):
        return e
    if target == ir.DataType.FLOAT and any(len(m) > 1 or abs(c) > (1 if m else 1 << 20) for m, c in terms_of(e)):
        return None  # more than positions and what lies between them: it may be rounded
    # sizes and coordinates fit; what a caller's data holds may not
    return e if d.is_size(e) else None


def filling(value: ir.Value | None) -> float | None:
    """The number that a tensor of floats is filled with."""
    for _ in range(6):
        node = None if value is None else value.producer()
        if ir.is_constant(value):
            found = ir.scalar(value)
            return None if found is None else float(found)
        if node is None or node.domain != "":
            return None
        if node.op_type == "ConstantOfShape":
            given = ir.attr(node, "value")
            return 0.0 if given is None else float(given.numpy().reshape(-1)[0])
        if node.op_type not in ("Expand", *_CARRIERS):
            return None
        value = node.inputs[0]
    return None


@_operator("ConstantOfShape")
def _constant_of_shape(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    given = ir.attr(node, "value")
    number = 0 if given is None else int(given.numpy().reshape(-1)[0])
    return f.truth(number) if node.outputs[0].dtype == ir.DataType.BOOL else number


@_operator("Range")
def _range(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    start, delta = (node.inputs[i] for i in (0, 2))
    held = [None if v is None else shapes.elements(v) for v in (start, delta)]
    if held[0] is None or held[1] is None:
        return None
    return d.add(held[0][0], d.mul(held[1][0], at[0]))


@_operator("Unsqueeze")
def _unsqueeze(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    axes = _ints(_input(node, 1))
    x = node.inputs[0]
    if axes is None or x is None:
        return None
    new = {a % len(at) for a in axes}
    return f.at(x, tuple(c for i, c in enumerate(at) if i not in new))


@_operator("Squeeze")
def _squeeze(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    x = node.inputs[0]
    shape = None if x is None else shapes.dims(x)
    axes = _ints(_input(node, 1))
    if x is None or shape is None or axes is None:
        return None
    gone = {a % len(shape) for a in axes}
    left = iter(at)
    return f.at(x, tuple(0 if i in gone else next(left) for i in range(len(shape))))


@_operator("Transpose")
def _transpose(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    perm = ir.attr(node, "perm") or tuple(reversed(range(len(at))))
    x = node.inputs[0]
    if x is None:
        return None
    return f.at(x, tuple(at[perm.index(i)] for i in range(len(at))))


@_operator("Reshape", "Flatten")
def _reshape(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    x, out = node.inputs[0], shapes.dims(node.outputs[0])
    shape = None if x is None else shapes.dims(x)
    if x is None or shape is None or out is None:
        return None
    flat: d.Dim = 0
    for n, c in zip(out, at, strict=True):
        flat = d.add(d.mul(flat, n), c)
    coordinates: list[d.Dim] = []
    for i, n in enumerate(shape):
        below: d.Dim = d.product(shape[i + 1 :])
        if n == 1:
            coordinates.append(0)
            continue
        if isinstance(below, int) and below == 1:
            c, flat = flat, 0
        else:
            c, flat = divide(flat, below)
            if not f.nonnegative(flat):
                return None
            if not f.below(flat, below) and not (_is_input(x) and f.covers(flat, below)):
                return None
        coordinates.append(c)
    return f.at(x, tuple(coordinates)) if flat == 0 else None


@_operator("Slice")
def _slice(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    x = node.inputs[0]
    starts, axes, steps = (_ints(_input(node, i)) for i in (1, 3, 4))
    if x is None or starts is None or any(s < 0 for s in starts):
        return None
    if axes is None and _input(node, 3) is None:
        axes = tuple(range(len(starts)))
    if axes is None or (steps is None and _input(node, 4) is not None) or set(steps or ()) - {1}:
        return None
    moved = list(at)
    for a, start in zip(axes, starts, strict=True):
        moved[a % len(at)] = d.add(moved[a % len(at)], start)
    return f.at(x, tuple(moved))


@_operator("Concat")
def _concat(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    axis = ir.attr(node, "axis", 0) % len(at)
    c = at[axis]
    for x in node.inputs:
        shape = None if x is None else shapes.dims(x)
        if x is None or shape is None:
            return None
        if f.nonnegative(d.sub(d.sub(shape[axis], 1), c)):
            return f.at(x, (*at[:axis], c, *at[axis + 1 :]))
        c = d.sub(c, shape[axis])
        if not f.nonnegative(c):
            return None
    return None


@_operator("Gather")
def _gather(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    x, indices = node.inputs[0], node.inputs[1]
    if x is None or indices is None:
        return None
    shape, inner = shapes.dims(x), shapes.dims(indices)
    if shape is None or inner is None:
        return None
    axis = ir.attr(node, "axis", 0) % len(shape)
    i = f.index(f.at(indices, at[axis : axis + len(inner)]))
    return None if i is None else f.at(x, (*at[:axis], i, *at[axis + len(inner) :]))


@_operator("GatherND")
def _gather_nd(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    x, indices = node.inputs[0], node.inputs[1]
    if x is None or indices is None or ir.attr(node, "batch_dims", 0):
        return None
    inner = shapes.dims(indices)
    if not inner or not isinstance(inner[-1], int):
        return None
    found = []
    for j in range(inner[-1]):
        i = f.index(f.at(indices, (*at[: len(inner) - 1], j)))
        if i is None:
            return None
        found.append(i)
    return f.at(x, (*found, *at[len(inner) - 1 :]))


@_operator("And", "Or")
def _and_or(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    a, b = f.operand(node, 0, at), f.operand(node, 1, at)
    if a is None or b is None:
        return None
    return (f.both if node.op_type == "And" else f.one_of)((f.truth(a), f.truth(b)))


@_operator("Not")
def _not(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    a = f.operand(node, 0, at)
    return None if a is None else f.negation(f.truth(a))


@_operator("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")
def _compare(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    if node.inputs[0] is None or node.inputs[0].dtype not in WHOLE | {ir.DataType.FLOAT}:
        return None
    a, b = f.operand(node, 0, at), f.operand(node, 1, at)
    if a is None or b is None:
        return None
    if isinstance(a, Condition) or isinstance(b, Condition):
        if isinstance(b, Condition):
            a, b = b, a
        if node.op_type != "Equal" or not isinstance(a, Condition):
            return None
        other = f.truth(b)
        if other not in (TRUE, FALSE) or (isinstance(b, int) and b not in (0, 1)):
            return None
        return a if other == TRUE else f.negation(a)
    gap = d.sub(a, b)
    if node.op_type == "Equal":
        return f.clause("eq", gap)
    if node.op_type.startswith("Less"):
        gap = d.neg(gap)
    return f.clause("ge", gap if node.op_type.endswith("Equal") else d.sub(gap, 1))


@_operator("Where")
def _where(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    c, a, b = (f.operand(node, i, at) for i in range(3))
    if c is None or a is None or b is None:
        return None
    chosen = f.truth(c)
    if chosen in (TRUE, FALSE) or a == b:
        return a if chosen != FALSE else b
    if node.outputs[0].dtype != ir.DataType.BOOL and not {a, b} <= {0, 1}:
        return None
    return f.one_of((f.both((chosen, f.truth(a))), f.both((f.negation(chosen), f.truth(b)))))


@_operator("Add", "Sub", "Mul")
def _arithmetic(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    a, b = f.operand(node, 0, at), f.operand(node, 1, at)
    if a is None or b is None:
        return None
    if isinstance(a, Condition) or isinstance(b, Condition):
        if node.op_type == "Mul" and all(isinstance(e, Condition) or e in (0, 1) for e in (a, b)):
            return f.both((f.truth(a), f.truth(b)))
        if node.op_type == "Sub" and a == 1 and isinstance(b, Condition):
            return f.negation(b)
        return None
    return f.exact(node, {"Add": d.add, "Sub": d.sub, "Mul": d.mul}[node.op_type](a, b))


@_operator("CumSum")
def _cumsum(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    """A count of ones, where all along the axis is alike."""
    x, axes = node.inputs[0], _ints(_input(node, 1))
    if x is None or axes is None or len(axes) != 1 or ir.attr(node, "reverse", 0):
        return None
    axis = axes[0] % len(at)
    one, here = f.at(x, (*at[:axis], 0, *at[axis + 1 :])), f.at(x, at)
    if one != here or one is None or isinstance(one, Condition):
        return None
    number = at[axis] if ir.attr(node, "exclusive", 0) else d.add(at[axis], 1)
    return f.exact(node, d.mul(one, number))


@_operator("Neg")
def _neg(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    a = f.operand(node, 0, at)
    return None if a is None or isinstance(a, Condition) else f.exact(node, d.neg(a))


@_operator("Trilu")
def _trilu(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    x, given = node.inputs[0], _input(node, 1)
    k = (0,) if given is None else shapes.elements(given)
    if x is None or k is None:
        return None
    off = d.sub(d.sub(at[-1], at[-2]), k[0])
    inside = f.clause("ge", off if ir.attr(node, "upper", 1) else d.neg(off))
    e = f.at(x, at)
    if isinstance(e, Condition) or e in (0, 1):
        return f.both((inside, f.truth(e)))
    return e if inside == TRUE else 0 if inside == FALSE else None


@_operator("Max", "Min")
def _extreme(f: Functions, node: ir.Node, at: Coordinates) -> Element | None:
    parts = [f.operand(node, i, at) for i in range(len(node.inputs))]
    if any(p is None or isinstance(p, Condition) for p in parts) or not parts:
        return None
    join = d.maximum if node.op_type == "Max" else d.minimum
    out: d.Dim = parts[0]  # type: ignore[assignment]
    for _, b in pairwise(parts):
        out = join(out, b)  # type: ignore[arg-type]
    return out
