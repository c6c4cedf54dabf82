"""Reads dims as exporters write them: Python-like integer expressions, as torch (sympy) and onnxruntime print them."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

from . import dims
from .dims import Dim

# A hyphen or dot may be part of a name. `?` starts the names of sizes that olc makes up; they do not leave a process.
_NAME = re.compile(r"[A-Za-z_][\w.\-:]*")
_LONGEST = 400


def _pairwise(join: Callable[[Dim, Dim], Dim | None]) -> Callable[..., Dim | None]:
    def joined(*args: Dim) -> Dim | None:
        out: Dim | None = args[0] if args else None
        for d in args[1:]:
            out = None if out is None else join(out, d)
        return out

    return joined


def _power(base: Dim, exponent: Dim) -> Dim | None:
    if not isinstance(exponent, int) or not 0 <= exponent <= 8:
        return None
    return dims.product([base] * exponent)


def _divide(join: Callable[[Dim, Dim], Dim]) -> Callable[[Dim, Dim], Dim | None]:
    return lambda p, q: None if q == 0 else join(p, q)


_CALLS: dict[str, Callable[..., Dim | None]] = {
    "Max": _pairwise(dims.maximum),
    "max": _pairwise(dims.maximum),
    "Min": _pairwise(dims.minimum),
    "min": _pairwise(dims.minimum),
    "broadcast": _pairwise(dims.broadcast),
    "FloorDiv": _divide(dims.floordiv),
    "CeilDiv": _divide(dims.ceildiv),
    "Mod": _divide(dims.mod),
    "PythonMod": _divide(dims.mod),
}
_ROUNDED: dict[str, Callable[[Dim, Dim], Dim]] = {
    "floor": dims.floordiv,
    "ceil": dims.ceildiv,
    "ceiling": dims.ceildiv,
}
_INFIX: dict[type[ast.operator], Callable[[Dim, Dim], Dim | None]] = {
    ast.Add: dims.add,
    ast.Sub: dims.sub,
    ast.Mult: dims.mul,
    ast.FloorDiv: _divide(dims.floordiv),
    ast.Mod: _divide(dims.mod),
    ast.Pow: _power,
}


def parse(text: str) -> Dim | None:
    text = text.strip()
    if _NAME.fullmatch(text):
        return dims.symbol(text)
    if not text or len(text) > _LONGEST:
        return None
    try:
        tree = ast.parse(text, mode="eval")
        return _read(tree.body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _read(node: ast.expr) -> Dim | None:
    if isinstance(node, ast.Constant):
        return node.value if type(node.value) is int else None
    if isinstance(node, ast.Name):
        return dims.symbol(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _read(node.operand)
        return None if inner is None else dims.neg(inner)
    if isinstance(node, ast.BinOp):
        infix = _INFIX.get(type(node.op))
        a, b = _read(node.left), _read(node.right)
        return None if infix is None or a is None or b is None else infix(a, b)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        return _read_call(node.func.id, node.args)
    return None


def _read_call(name: str, args: list[ast.expr]) -> Dim | None:
    rounded = _ROUNDED.get(name)
    if rounded is not None and len(args) == 1:
        inner = args[0]
        if not (isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Div)):
            return _read(inner)  # an integer already
        p, q = _read(inner.left), _read(inner.right)
        return None if p is None or q is None or q == 0 else rounded(p, q)
    call = _CALLS.get(name)
    values = [_read(a) for a in args]
    if call is None or not values or any(v is None for v in values):
        return None
    try:
        return call(*values)
    except TypeError:  # wrong number of arguments
        return None
