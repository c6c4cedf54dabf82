"""What is done to the scores of an attention, put into one order: scaled, biased, filled where a mask drops them.

Between the product of queries and keys and its softmax, networks scale, add (a mask, relative positions, slopes), fill,
clip from below and change between ``[batch * heads, ...]`` and ``[batch, heads, ...]``, or ``[batch * windows, heads, ...]`` and
``[batch, windows, heads, ...]`` (Swin), in the order in which their authors thought of it. This pass writes

    Softmax(Where(mask, product * scale + bias, low))

on the product's own four axes, whatever the order was, and the rules for attention need to know that one form only.

Sound because ``(s + a) + b = s + (a + b)``, ``(s + a) c = s c + a c``, a softmax gives a key that was filled with a number
below ``DROPPED`` the weight 0 even after a moderate number multiplies it, and dims that are split or joined in front of the
last two move nothing along these. What holds only where a query keeps a key is noted (``mask-keeps-a-key``), and so is that
what is added to a key that was dropped is small beside that (``finite-scores``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from .. import ir
from ..analysis import dims as d
from ..analysis import shapes
from ..analysis.functions import filling
from ..assumptions import FINITE, KEEPS_A_KEY
from . import Context
from .edit import Names, constant, redirect
from .masks import DROPPED, conditions

NAME = "scores"
SINCE = 15
"""The opset from which it acts: a softmax is over one axis since 13, and a part of a shape can be asked for."""
_LONGEST = 12
"""Steps between a product and its softmax that are looked at."""
_LEAST = 1e-3
"""What multiplies scores that were filled leaves them dropped, if it is no less."""
_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze"})
_ORDER = ("scale", "bias", "fill")


@dataclass(frozen=True)
class _Step:
    """One step, with the dims of what it gives.

    Attributes:
        kind: ``scale`` (``number``), ``rows`` (a factor for each row: ``value``, divided by where ``number`` is -1), ``bias``
            (``value`` times ``number``), ``fill`` (``number`` where ``value`` does not hold, or, ``inverted``, where it does),
            ``floor`` or ``view``.
    """

    kind: str
    shape: tuple[d.Dim, ...]
    value: ir.Value | None = None
    number: float = 1.0
    inverted: bool = False


@dataclass
class _Chain:
    """The steps from a product, first step first; ``alone``: nobody else uses what is on the way."""

    product: ir.Node
    steps: list[_Step] = field(default_factory=list)
    alone: bool = True


def run(model: ir.Model, ctx: Context) -> int:
    """Bring the scores of every softmax into order, in bodies too; returns how many changed."""
    if (model.opset_imports.get("") or 0) < SINCE:
        return 0
    names: Names | None = None
    changes = 0
    for softmax in [n for graph in ir.all_graphs(model, functions=False) for n in graph]:
        chain = _read(softmax)
        if chain is None or _in_order(chain) or not _fits(chain):
            continue
        filled = any(s.kind in ("fill", "floor") or _is_mask(s) for s in chain.steps)
        assumed = {KEEPS_A_KEY, FINITE} if filled else set()
        if ctx.why_not(assumed):
            continue
        names = names or Names(model)
        _Writer(model, names, softmax).write(chain)
        ctx.relied.update(assumed)
        ctx.record(NAME, ir.site(softmax), "scaled, biased, filled: " + ", ".join(s.kind for s in chain.steps))
        changes += 1
    return changes


def _read(softmax: ir.Node) -> _Chain | None:
    """The steps in front of a softmax over the last axis; None where they do not begin at a product of two results."""
    if softmax.op_type != "Softmax" or softmax.domain != "" or softmax.inputs[0] is None:
        return None
    x = softmax.inputs[0]
    shape = shapes.dims(x)
    if x.dtype != ir.DataType.FLOAT or shape is None or ir.attr(softmax, "axis", -1) not in (-1, len(shape) - 1):
        return None
    return _walk(x, _LONGEST, set())


def _walk(x: ir.Value, left: int, dead: set[ir.Value]) -> _Chain | None:
    """``dead``: values that lead nowhere, each looked at once: sums of sums would be looked at by every path."""
    node, shape = x.producer(), shapes.dims(x)
    if node is None or node.domain != "" or shape is None or left == 0 or x in dead:
        return None
    if node.op_type == "MatMul":
        return None if any(ir.is_constant(v) for v in node.inputs) else _Chain(node)
    for step, before in _steps(node, shape):
        chain = _walk(before, left - 1, dead)
        if chain is not None:
            chain.steps.append(step)
            chain.alone &= len(before.uses()) == 1 and not before.is_graph_output()
            return chain
    dead.add(x)
    return None


def _steps(node: ir.Node, shape: tuple[d.Dim, ...]) -> list[tuple[_Step, ir.Value]]:
    """What a node may be of the steps, with the scores that it takes: one for each operand that may be these."""
    op, given = node.op_type, [v for v in node.inputs if v is not None]
    if not given:
        return []
    sides = [(given[0], given[-1]), (given[-1], given[0])][: 1 if op in ("Div", "Sub") else 2]
    if op in ("Add", "Sub") and len(given) == 2:
        found = [(_Step("bias", shape, other, -1.0 if op == "Sub" else 1.0), x) for x, other in sides]
    elif op in ("Mul", "Div") and len(given) == 2:
        found = [(step, x) for x, other in sides if (step := _factor(other, op == "Div", shape)) is not None]
    elif op == "Max" and len(given) == 2:
        found = [(_Step("floor", shape), x) for x, other in sides if (n := filling(other)) is not None and n <= DROPPED]
    elif op == "Where":
        found = []
        for x, other, inverted in ((given[1], given[2], False), (given[2], given[1], True)):
            number = filling(other)
            if number is not None and number <= DROPPED:
                found.append((_Step("fill", shape, given[0], number, inverted), x))
    elif op in _VIEWS:
        found = [(_Step("view", shape), given[0])]
    else:
        return []
    # An operand that is stretched is not the scores; what changes their shape keeps queries and keys apart.
    kept = slice(-2, None) if op in _VIEWS else slice(None)
    return [(s, x) for s, x in found if (before := shapes.dims(x)) is not None and before[kept] == shape[kept]]


def _factor(value: ir.Value, divided: bool, shape: tuple[d.Dim, ...]) -> _Step | None:
    """A positive number, or one of any sign for each row of the scores."""
    number = ir.scalar(value)
    if number is not None:
        number = float(number)
        usable = 0 < number < np.inf
        return _Step("scale", shape, number=1 / number if divided else number) if usable else None
    rows = shapes.dims(value)
    return _Step("rows", shape, value, -1.0 if divided else 1.0) if rows and rows[-1] == 1 else None


def _in_order(chain: _Chain) -> bool:
    kinds = [s.kind for s in chain.steps]
    return kinds == [k for k in _ORDER if k in kinds] and all(s.number == 1.0 for s in chain.steps if s.kind == "bias")


def _is_mask(step: _Step) -> bool:
    """Is what is added 0 or drops the key? That it stays, whatever multiplies it."""
    return step.kind == "bias" and step.value is not None and step.number > 0 and conditions(step.value, 1) is not None


def _fits(chain: _Chain) -> bool:
    """Can the steps be written in order, and on the product's own axes?"""
    whole = shapes.dims(chain.product.outputs[0])
    if whole is None:
        return False
    rows = [s for s in chain.steps if s.kind == "rows"]
    if rows and not (chain.alone and _stretches_nothing(chain.product.inputs[0], rows)):
        return False  # the product would be computed twice
    dropped = next((i for i, s in enumerate(chain.steps) if s.kind in ("fill", "floor") or _is_mask(s)), len(chain.steps))
    later = chain.steps[dropped:]
    if any(s.kind == "rows" for s in later):
        return False  # whose sign is not known
    if prod(s.number for s in later if s.kind == "scale") < _LEAST:
        return False
    if _in_windows(chain.steps[-1], whole):
        return False  # the probabilities are read on the axes of windows
    flat = (d.mul(whole[0], whole[1]), *whole[2:]) if len(whole) == 4 else None
    for step in chain.steps:
        windows = _in_windows(step, whole)
        if step.shape not in (whole, flat) and not windows:
            return False
        if step.value is None or step.shape == whole:
            continue
        inner = shapes.dims(step.value)
        if windows:
            if inner is None or step.kind == "rows" or (len(inner) > 3 and (len(inner) < 5 or inner[1] != step.shape[1])):
                return False
            continue
        if inner is None or len(inner) > 3 or (len(inner) == 3 and inner[0] not in (1, step.shape[0])):
            return False
        if len(inner) == 3 and inner[0] != 1 and step.kind == "rows":
            return False
    return True


def _in_windows(step: _Step, whole: tuple[d.Dim, ...]) -> bool:
    """Is a step on ``[batch, windows, heads, queries, keys]`` of a product on ``[batch * windows, heads, queries, keys]``?"""
    return len(step.shape) == 5 and (d.mul(*step.shape[:2]), *step.shape[2:]) == whole


def _same_for_all(step: _Step, whole: tuple[d.Dim, ...]) -> bool:
    """Is a step's operand the same for all texts, on the axes of heads, queries and keys, or on those of windows too?"""
    inner = None if step.value is None else shapes.dims(step.value)
    if inner is None or not (step.shape == whole or _in_windows(step, whole)):
        return False
    return len(inner) < 4 or inner[0] == 1


def _stretches_nothing(queries: ir.Value | None, rows: Sequence[_Step]) -> bool:
    shape = None if queries is None else shapes.dims(queries)
    found = [() if s.value is None else shapes.dims(s.value) for s in rows]
    return shape is not None and all(
        f is not None and len(f) <= len(shape) and all(n in (1, w) for n, w in zip(f, shape[len(shape) - len(f) :], strict=True))
        for f in found
    )


class _Writer:
    """Writes a chain anew in front of its softmax."""

    def __init__(self, model: ir.Model, names: Names, softmax: ir.Node) -> None:
        self.model, self.names, self.softmax = model, names, softmax
        graph = ir.owner(softmax)
        assert graph is not None
        self.graph = graph

    def node(self, op: str, inputs: list[ir.Value], **attributes: object) -> ir.Value:
        new = ir.make_node(op, list(inputs), attributes)
        self.graph.insert_before(self.softmax, new)
        value = new.outputs[0]
        value.name = self.names.value(f"{self.softmax.outputs[0].name}_{op.lower()}")
        new.name = self.names.node(f"{op}_{value.name}")
        if module := self.softmax.metadata_props.get("namespace"):
            new.metadata_props["namespace"] = module
        shapes.infer_node(new, self.model)
        return value

    def number(self, x: float) -> ir.Value:
        return constant(self.graph, self.names, "scores_constant", np.array(x, np.float32))

    def sizes(self, x: ir.Value, start: int, end: int) -> ir.Value:
        return self.node("Shape", [x], start=start, end=end)

    def write(self, chain: _Chain) -> None:
        product = chain.product.outputs[0]
        whole = shapes.dims(product)
        assert whole is not None
        last = chain.steps[-1].shape
        x = self.scaled_rows(chain, product)
        scale = float(prod(s.number for s in chain.steps if s.kind == "scale"))
        if scale != 1.0:
            x = self.node("Mul", [x, self.number(scale)])
        if (bias := self.bias(chain, product)) is not None:
            x = self.node("Add", [x, bias])
        fills = [s for s in chain.steps if s.kind == "fill"]
        if fills:
            masks = [self.on_axes(s, product) for s in fills]
            low = self.number(fills[-1].number)
            if len(fills) == 1 and fills[0].inverted:
                x = self.node("Where", [masks[0], low, x])
            else:
                kept = [self.node("Not", [v]) if s.inverted else v for s, v in zip(fills, masks, strict=True)]
                mask = kept[0]
                for other in kept[1:]:
                    mask = self.node("And", [mask, other])
                x = self.node("Where", [mask, x, low])
        if last == whole:
            self.softmax.replace_input_with(0, x)
            return
        p = self.node("Softmax", [x], axis=-1)
        rows = self.node("Mul", [self.sizes(product, 0, 1), self.sizes(product, 1, 2)])
        flat = self.node("Concat", [rows, self.sizes(product, 2, 4)], axis=0)
        redirect(self.softmax.outputs[0], self.node("Reshape", [p, flat]), self.names.pinned)

    def scaled_rows(self, chain: _Chain, product: ir.Value) -> ir.Value:
        """The product of queries that are scaled row by row."""
        queries, keys = chain.product.inputs
        assert queries is not None
        assert keys is not None
        rows = [s for s in chain.steps if s.kind == "rows"]
        for s in rows:
            assert s.value is not None
            queries = self.node("Div" if s.number < 0 else "Mul", [queries, s.value])
        return self.node("MatMul", [queries, keys]) if rows else product

    def bias(self, chain: _Chain, product: ir.Value) -> ir.Value | None:
        """The sum of all that is added, each multiplied by what the sum was multiplied with later.

        Where one is for windows, what is the same for all texts is added to it on five axes: constants, as a rule.
        """
        whole = shapes.dims(product)
        assert whole is not None
        windows: ir.Value | None = None
        total: ir.Value | None = None
        by_windows = any(_in_windows(s, whole) for s in chain.steps if s.kind == "bias")
        for i, s in enumerate(chain.steps):
            if s.kind != "bias":
                continue
            assert s.value is not None
            later = chain.steps[i + 1 :]
            by_text = any(t.kind == "rows" and len(shapes.dims(t.value) or ()) > 3 for t in later if t.value is not None)
            together = by_windows and _same_for_all(s, whole) and not by_text
            value = s.value if together else self.on_axes(s, product)
            factor = s.number * float(prod(t.number for t in later if t.kind == "scale"))
            if factor != 1.0 and not _is_mask(s):
                value = self.node("Mul", [value, self.number(factor)])
            for t in later:
                if t.kind == "rows":
                    assert t.value is not None
                    value = self.node("Div" if t.number < 0 else "Mul", [value, t.value])
            if together:
                windows = value if windows is None else self.node("Add", [windows, value])
            else:
                total = value if total is None else self.node("Add", [total, value])
        if windows is None:
            return total
        if len(shapes.dims(windows) or ()) == 5:
            windows = self.for_each(windows, product)
        return windows if total is None else self.node("Add", [windows, total])

    def for_each(self, value: ir.Value, product: ir.Value) -> ir.Value:
        """What windows have, ``[1 or batch, windows, ...]``, for all windows of all texts, ``[batch * windows, ...]``."""
        rows, windows = self.sizes(product, 0, 1), self.sizes(value, 1, 2)
        tail = self.sizes(value, 2, 5)
        batch = self.node("Div", [rows, windows])
        each = self.node("Expand", [value, self.node("Concat", [batch, windows, tail], axis=0)])
        return self.node("Reshape", [each, self.node("Concat", [rows, tail], axis=0)])

    def on_axes(self, step: _Step, product: ir.Value) -> ir.Value:
        """A step's operand on the product's own axes: those of batch and heads are split where they are one."""
        assert step.value is not None
        inner, whole = shapes.dims(step.value), shapes.dims(product)
        assert inner is not None
        assert whole is not None
        if _in_windows(step, whole):
            return self.for_each(step.value, product) if len(inner) == 5 else step.value
        if step.shape == whole or len(inner) < 3 or inner[0] == 1:
            return step.value
        split = self.node("Concat", [self.sizes(product, 0, 2), self.sizes(step.value, 1, 3)], axis=0)
        return self.node("Reshape", [step.value, split])
