"""Operators that work element by element: shapes are the input's, or several broadcast together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

import numpy as np

from .. import dims as d
from ..dims import Dim
from .core import BOOL, FLOAT_KINDS, INTEGERS, MOST, OWN, Dims, Real, Site, Unknown, count, grid, rule, static

# ------------------------------------------------------------------------------------------- shape of the input


@rule(
    "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Bernoulli", "BitwiseNot", "Celu", "Cos", "Cosh", "CumProd",
    "CumSum", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Hardmax", "ImageScaler", "IsInf", "IsNaN",
    "InstanceNormalization", "LRN", "LeakyRelu", "Log", "LogSoftmax", "LpNormalization", "Mish",
    "MeanVarianceNormalization", "PRelu", "RandomNormalLike", "RandomUniformLike", "Reciprocal", "Relu", "Selu",
    "ReverseSequence", "Shrink",
    "Sigmoid", "Sin", "Sinh", "Softmax", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "TensorScatter",
    "ThresholdedRelu", "Trilu",
)  # fmt: skip
def like_first(s: Site) -> None:
    s.out(0, s.dims(0))


@rule("Identity", "Scatter", "ScatterElements", "ScatterND")
def identity(s: Site) -> None:
    same = s.node.op_type == "Identity"
    own = s.outputs[0].meta.get(OWN) if same else None
    if own:
        s.out(0, tuple(own.get(i, n) for i, n in enumerate(s.dims(0))))
        return
    s.out(0, s.dims(0), s.elements(0) if same else None, exact=s.reals(0) if same else None)


@rule("Dropout")
def dropout(s: Site) -> None:
    shape = s.dims(0)
    s.out(0, shape)
    s.out(1, shape)


# ------------------------------------------------------------------------------------------- numbers one by one


def _boolean(x: bool | None) -> Dim | None:
    return None if x is None else int(x)


def _equal(s: Site, a: Dim, b: Dim) -> Dim | None:
    if a == b:
        return 1
    return 0 if d.known_different(a, b) or _apart(s, a, b) or _apart(s, b, a) else None


def _apart(s: Site, a: Dim, b: Dim) -> bool:
    """A size of the model is never a negative number."""
    return isinstance(b, int) and b < 0 and s.nonnegative(a)


def _less(s: Site, a: Dim, b: Dim) -> Dim | None:
    if d.at_least(b, d.add(a, 1)):
        return 1
    return 0 if d.at_least(a, b) else None


def _divide(s: Site, a: Dim, b: Dim) -> Dim | None:
    if isinstance(a, int) and isinstance(b, int):
        if b == 0:
            return None
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)  # as in C: towards zero
    exact = d.divide_exact(a, b)
    if exact is not None:
        return exact  # the division took place, so b is not 0
    return d.floordiv(a, b, nonzero=True) if s.nonnegative(a) and s.nonnegative(b) else None


def _modulo(s: Site, a: Dim, b: Dim) -> Dim | None:
    if b == 0:
        return None
    if s.attr("fmod", 0):
        both = s.nonnegative(a) and s.nonnegative(b)
        return d.mod(a, b, nonzero=True) if both else None
    # for a divisor whose sign is unknown the polynomial would still be right: the sign of Mod follows the divisor
    return d.mod(a, b, nonzero=True)


def _power(s: Site, a: Dim, b: Dim) -> Dim | None:
    return d.product([a] * b) if isinstance(b, int) and 0 <= b <= 4 else None


Binary = Callable[[Site, Dim, Dim], "Dim | None"]
_BINARY: dict[str, Binary] = {
    "Add": lambda s, a, b: d.add(a, b),
    "Sum": lambda s, a, b: d.add(a, b),
    "Sub": lambda s, a, b: d.sub(a, b),
    "Mul": lambda s, a, b: d.mul(a, b),
    "Div": _divide,
    "Mod": _modulo,
    "Pow": _power,
    "Min": lambda s, a, b: d.minimum(a, b),
    "Max": lambda s, a, b: d.maximum(a, b),
    "Equal": _equal,
    "Less": _less,
    "Greater": lambda s, a, b: _less(s, b, a),
    "GreaterOrEqual": lambda s, a, b: _not(_less(s, a, b)),
    "LessOrEqual": lambda s, a, b: _not(_less(s, b, a)),
    "And": lambda s, a, b: 0 if a == 0 or b == 0 else (a if b == 1 else (b if a == 1 else None)),
    "Or": lambda s, a, b: 1 if a == 1 or b == 1 else (a if b == 0 else (b if a == 0 else None)),
    "Xor": lambda s, a, b: a ^ b if isinstance(a, int) and isinstance(b, int) else None,
}


def _not(x: Dim | None) -> Dim | None:
    return 1 - x if isinstance(x, int) else None


def _real(s: Site, op: str, a: Real, b: Real) -> Real | None:
    """The float result where it is a number that the float holds exactly, or rounded once by a division."""
    (p, m, e), (q, n, f) = a, b
    if not (e and f):
        return None
    if op == "Mul":
        if isinstance(p, int) or isinstance(q, int):
            return _exact(d.mul(p, q), m * n)
        return None
    if op in ("Add", "Sub"):
        join = d.add if op == "Add" else d.sub
        return _exact(join(d.mul(p, n), d.mul(q, m)), m * n)
    if op == "Div" and isinstance(q, int) and q > 0:
        top, bottom = d.mul(p, n), m * q
        return top, bottom, bottom & (bottom - 1) == 0
    return None


def _exact(top: Dim, bottom: int) -> Real | None:
    return (top, bottom, True) if bottom <= 1024 and bottom & (bottom - 1) == 0 else None


def _spread(items: Sequence[Any], shape: Dims, result: Dims) -> Sequence[Any]:
    """Elements of a tensor of ``shape`` broadcast to ``result``, both static."""
    if len(items) == 1:
        return list(repeat(items[0], _count(result)))
    if shape == result or (len(shape) == 1 and len(result) == 1):
        return items
    out: list[Any] = np.broadcast_to(grid(items, shape), static(result)).reshape(-1).tolist()
    return out


def _count(shape: Dims) -> int:
    """The number of elements; too many where it is not known."""
    n = count(shape)
    return MOST + 1 if n is None else n


@rule(
    "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual",
    "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "Sub", "Sum", "Xor",
)  # fmt: skip
def broadcasting(s: Site) -> None:
    op = s.node.op_type
    if s.version < 7 and op not in ("Max", "Mean", "Min", "Sum"):
        s.out(0, s.dims(0))  # the second operand was stretched to the first
        return
    first = s.dims(0)
    if len(s.inputs) == 2:
        second = s.dims(1)
        shape = first if first == second else s.broadcast((first, second))
    else:
        shape = s.broadcast([s.dims(i) for i in range(len(s.inputs))])
    if len(shape) > 1 or _count(shape) > MOST:
        if len(shape) <= 2 and _count(shape) <= MOST:
            _with_elements(s, op, shape)
        else:
            s.out(0, shape)
        return
    _with_elements(s, op, shape)


def _with_elements(s: Site, op: str, shape: Dims) -> None:
    dtype = s.dtype(0)
    if dtype in FLOAT_KINDS and len(s.inputs) == 2:
        held = [s.reals(0), s.reals(1)]
        if held[0] is not None and held[1] is not None:
            a, b = (_spread(h or (), s.dims(i), shape) for i, h in enumerate(held))
            out = [_real(s, op, x, y) for x, y in zip(a, b, strict=True)]
            if all(r is not None for r in out):
                s.out(0, shape, exact=[r for r in out if r is not None])
                return
        s.out(0, shape)
        return
    join = _BINARY.get(op)
    found = [s.elements(i) for i in range(len(s.inputs))] if join is not None else [None]
    if join is None or any(f is None for f in found):
        s.out(0, shape)
        return
    spread = [_spread(f or (), s.dims(i), shape) for i, f in enumerate(found)]
    items: list[Dim | None] = list(spread[0])
    for other in spread[1:]:
        items = [None if x is None else join(s, x, y) for x, y in zip(items, other, strict=True)]
    s.out(0, shape, items)


@rule("Where")
def where(s: Site) -> None:
    shape = s.broadcast((s.dims(0), s.dims(1), s.dims(2)))
    if len(shape) > 2 or _count(shape) > MOST:
        s.out(0, shape)
        return
    condition, yes, no = s.elements(0), s.elements(1), s.elements(2)
    if yes is None and no is None and s.dtype(1) in INTEGERS and condition is None:
        s.out(0, shape)
        return
    try:
        yes = s.vector(1) if yes is None else yes
        no = s.vector(2) if no is None else no
    except Unknown:
        s.out(0, shape)
        return
    c = _spread(condition, s.dims(0), shape) if condition is not None else [None] * _count(shape)
    y, n = _spread(yes, s.dims(1), shape), _spread(no, s.dims(2), shape)
    s.out(0, shape, [_choose(*three) for three in zip(c, y, n, strict=True)])


def _choose(c: Dim | None, yes: Dim, no: Dim) -> Dim | None:
    if isinstance(c, int):
        return yes if c else no
    return yes if yes == no else None


# ------------------------------------------------------------------------------------------------------- unary


def _absolute(s: Site, a: Dim) -> Dim | None:
    if isinstance(a, int):
        return abs(a)
    return a if s.nonnegative(a) else (d.neg(a) if d.is_nonnegative(d.neg(a)) else None)


def _sign(s: Site, a: Dim) -> Dim | None:
    if isinstance(a, int):
        return (a > 0) - (a < 0)
    return 1 if d.is_positive(a) else None


_UNARY: dict[str, Callable[[Site, Dim], Dim | None]] = {
    "Neg": lambda s, a: d.neg(a),
    "Abs": _absolute,
    "Sign": _sign,
    "Not": lambda s, a: _not(a),
}


@rule("Abs", "Neg", "Not", "Sign")
def unary(s: Site) -> None:
    shape = s.dims(0)
    found = s.elements(0) if len(shape) <= 1 else None
    join = _UNARY[s.node.op_type]
    s.out(0, shape, None if found is None else [join(s, a) for a in found])


@rule("Floor", "Ceil", "Round")
def rounding(s: Site) -> None:
    shape = s.dims(0)
    held = s.reals(0) if len(shape) <= 1 else None
    op = s.node.op_type
    if held is None or (op == "Round" and any(m != 1 for _, m, _ in held)):
        s.out(0, shape)
        return
    divide = d.ceildiv if op == "Ceil" else d.floordiv
    s.out(0, shape, exact=[(divide(p, m), 1, True) for p, m, _ in held])


@rule("Clip")
def clip(s: Site) -> None:
    shape = s.dims(0)
    found = s.elements(0) if len(shape) <= 1 and s.version >= 12 else None
    if found is None:
        s.out(0, shape)
        return
    items: list[Dim] = list(found)
    for i, join in ((1, d.maximum), (2, d.minimum)):
        if s.has(i):
            bound = s.vector(i)[0]
            items = [join(a, bound) for a in items]
    s.out(0, shape, items)


@rule("Cast", "CastLike", "BitCast")
def cast(s: Site) -> None:
    shape = s.dims_or_none(0)
    op = s.node.op_type
    to = s.dtype(1) if op == "CastLike" else _dtype_of(s.attr("to"))
    if shape is None or len(shape) > 2 or op == "BitCast" or _count(shape) > MOST:
        s.out(0, shape, dtype=to)
        return
    found, held = s.elements(0), s.reals(0)
    items: list[Dim | None] | None = None
    exact: list[Real] | None = None
    if found is not None:
        if to == BOOL:
            items = [_boolean(_nonzero(a)) for a in found]
        elif to in INTEGERS:
            items = list(found)
        elif to in FLOAT_KINDS and all(not isinstance(a, int) or abs(a) < 1 << 24 for a in found):
            exact = [(a, 1, True) for a in found]
    elif held is not None and to in FLOAT_KINDS:
        exact = list(held)
    elif held is not None and to in INTEGERS and to != BOOL:
        items = [d.floordiv(p, m) if s.nonnegative(p) else (p if m == 1 else None) for p, m, _ in held]
    s.out(0, shape, items, dtype=to, exact=exact)


def _nonzero(a: Dim) -> bool | None:
    if isinstance(a, int):
        return a != 0
    return True if d.known_different(a, 0) else None


def _dtype_of(number: Any) -> Any | None:
    from ...ir import DataType

    try:
        return None if number is None else DataType(number)
    except ValueError:
        return None
