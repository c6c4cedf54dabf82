"""What a Concat joined in an output is judged apart: boxes in pixels beside scores from 0 to 1 take all the power of what a
detector gives, and a budget on the whole would say nothing of the scores.

Only what was made in different ways is different: the scores of three scales, behind each other, stay together, for those of a
scale where nothing is found are small without being wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise, product
from typing import Any

import numpy as np

from .. import ir
from ..analysis import dims, shapes
from .padding import Keep, without_padding

Cuts = dict[int, frozenset[int]]
"""Axis -> the places at which another part begins."""

PARTS = 16
_FAR = 32
"""Nodes between an output and what was joined."""
_CHAIN = 4  # producers by which two inputs of a Concat are compared: past views and a head's own product


def judged(model: ir.Model) -> tuple[str | None, Keep]:
    """The mask input's name or None, and what an accuracy budget looks at: the outputs ``without_padding``, and beside each of
    which parts were joined those parts, named ``output[:, 4:84]``."""
    name, keep = without_padding(model)
    found = cuts(model)
    if not found:
        return name, keep

    def kept(feed: Mapping[str, Any], outputs: Mapping[str, Any]) -> dict[str, Any]:
        apart: dict[str, Any] = {}
        for output, value in outputs.items():
            apart.update(_apart(output, value, found.get(output, {})))
        return keep(feed, apart)

    return name, kept


def cuts(model: ir.Model) -> dict[str, Cuts]:
    """Where the parts of each output begin; outputs of one part are left out."""
    if not any(_joins(v) for v in model.graph.outputs):
        return {}
    sized = model.clone()
    shapes.infer(sized)
    memo: dict[ir.Value, Cuts] = {}
    found = {v.name or "": _cuts(v, memo) for v in sized.graph.outputs}
    return {name: at for name, at in found.items() if at and np.prod([len(p) + 1 for p in at.values()]) <= PARTS}


def _apart(name: str, value: Any, at: Cuts) -> dict[str, Any]:
    if not at or not isinstance(value, np.ndarray) or value.ndim <= max(at):
        return {name: value}
    parts: dict[str, Any] = {name: value}
    ranges = [
        [slice(a, b) for a, b in pairwise([0, *sorted(at[axis]), size])] if axis in at else [slice(None)]
        for axis, size in enumerate(value.shape)
    ]
    parts.update({f"{name}[{', '.join(map(_text, part))}]": value[part] for part in product(*ranges)})
    return parts


def _text(s: slice) -> str:
    return ":" if s.start is None else f"{s.start}:{s.stop}"


def _joins(value: ir.Value) -> bool:
    """A cheap look: is there a Concat behind what only views, or works element by element?"""
    source: ir.Value | None = value
    for _ in range(_FAR):
        node = None if source is None else source.producer()
        if node is None or node.op_type == "Concat":
            return node is not None
        source = _handed_on(node)
    return False


_VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")
_ELEMENTWISE = frozenset((
    "Abs", "Add", "Cast", "Clip", "Div", "Exp", "HardSigmoid", "Identity", "LeakyRelu", "Log", "Max", "Min", "Mul", "Neg", "Pow",
    "Relu", "Sigmoid", "Softplus", "Sqrt", "Sub", "Tanh",
))  # fmt: skip


def _handed_on(node: ir.Node) -> ir.Value | None:
    """What a node views, or changes element by element: then the only input that is not constant."""
    if node.domain != "":
        return None
    if node.op_type in _VIEWS or node.op_type == "Transpose":
        return node.inputs[0]
    moving = [v for v in node.inputs if v is not None and not ir.is_constant(v)]
    return moving[0] if node.op_type in _ELEMENTWISE and len(moving) == 1 else None


def _cuts(value: ir.Value, known: dict[ir.Value, Cuts], left: int = _FAR) -> Cuts:
    """``known``: what was found of a value, for parts are joined of parts."""
    if value not in known:
        known[value] = _found(value, known, left - 1) if left else {}
    return known[value]


def _found(value: ir.Value, known: dict[ir.Value, Cuts], left: int) -> Cuts:
    node, shape = value.producer(), shapes.dims(value)
    if node is None or shape is None:
        return {}
    if node.op_type == "Concat" and node.domain == "":
        return _joined(node, len(shape), known, left)
    source = _handed_on(node)
    before = None if source is None else shapes.dims(source)
    if source is None or before is None or not (found := _cuts(source, known, left)):
        return {}
    if node.op_type == "Transpose":
        order = list(ir.attr(node, "perm", list(reversed(range(len(shape))))))
        return {order.index(axis): at for axis, at in found.items()}
    if node.op_type in _VIEWS:
        return {to: at for axis, at in found.items() if (to := _kept(axis, before, shape)) is not None}
    alike = len(before) == len(shape) and all(dims.known_equal(a, b) for a, b in zip(before, shape, strict=True))
    return found if alike else {}


def _kept(axis: int, before: tuple[dims.Dim, ...], after: tuple[dims.Dim, ...]) -> int | None:
    """Where a view puts an axis that it leaves whole: all in front of it are as they were, or all behind it."""
    behind = len(before) - axis
    if len(after) > axis and all(dims.known_equal(a, b) for a, b in zip(before[: axis + 1], after, strict=False)):
        return axis
    if len(after) >= behind and all(dims.known_equal(a, b) for a, b in zip(before[axis:], after[-behind:], strict=True)):
        return len(after) - behind
    return None


def _joined(node: ir.Node, rank: int, known_of: dict[ir.Value, Cuts], left: int) -> Cuts:
    axis = int(ir.attr(node, "axis", 0)) % rank
    sizes = [(shapes.dims(v) or (None,) * rank)[axis] if v is not None else None for v in node.inputs]
    known = [n for n in sizes if isinstance(n, int)]
    found: dict[int, set[int]] = {}
    offset = 0
    for v, size in zip(node.inputs, sizes, strict=True):
        for a, at in ({} if v is None else _cuts(v, known_of, left)).items():
            if a != axis:
                found.setdefault(a, set()).update(at)
            elif len(known) == len(sizes):
                found.setdefault(a, set()).update(offset + p for p in at)
        offset += size if isinstance(size, int) else 0
    # A cache that grows is joined of an input and what is new: one quantity.
    grows = any(v is None or v.is_graph_input() for v in node.inputs)
    if len(known) == len(sizes) and not grows:
        ends = np.cumsum(known)[:-1]
        ways = [_way(v) for v in node.inputs]
        found.setdefault(axis, set()).update(int(e) for e, (a, b) in zip(ends, pairwise(ways), strict=True) if a != b)
    return {a: frozenset(at) for a, at in found.items() if at}


def _way(value: ir.Value | None) -> tuple[str, ...]:
    """How a value is made: its producers, along their first inputs."""
    way: list[str] = []
    while value is not None and (node := value.producer()) is not None and len(way) < _CHAIN:
        way.append(node.op_type)
        value = next((v for v in node.inputs if v is not None and not ir.is_constant(v)), None)
    return tuple(way)
