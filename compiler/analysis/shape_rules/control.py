"""If, Loop and Scan: what is true of a body whatever happens, and what comes out of it."""

from __future__ import annotations

from typing import Any

from ... import ir
from .. import dims as d
from ..dims import Dim
from .core import Dims, Elements, Site, dims, elements, normal_axis, rule, set_type

# How often a body may be inferred until its state dims stop changing; each round gives up at least one dim.
_ROUNDS = 8

State = tuple[Dims | None, Elements | None, Any]


def _outcome(value: ir.Value) -> State:
    return dims(value), elements(value), value.dtype


@rule("If")
def if_(s: Site) -> None:
    chosen = s.elements(0)
    ends: list[tuple[ir.Value, ...]] = []
    for name in ("then_branch", "else_branch"):
        body = s.attr(name)
        s.engine.body(body, ())
        ends.append(tuple(body.outputs))
    if chosen is not None and isinstance(chosen[0], int):
        ends = [ends[0 if chosen[0] else 1]]
    for i, out in enumerate(s.outputs):
        each = [_outcome(end[i]) for end in ends if i < len(end)]
        shape, items = each[0][0], each[0][1]
        for other, held, _ in each[1:]:
            shape = _joined(s, shape, other)
            items = items if items == held else None
        if out.type is None:
            out.type = next((end[i].type for end in ends if i < len(end)), None)
        s.out(i, shape, items)


def _joined(s: Site, a: Dims | None, b: Dims | None) -> Dims | None:
    """What two shapes have in common: equal dims, new symbols for the others, None where even the rank differs."""
    if a is None or b is None or len(a) != len(b):
        return None
    return tuple(m if m == n else s.fresh() for m, n in zip(a, b, strict=True))


def _settle(s: Site, body: ir.Graph, lead: list[State], state: list[State], rest: list[State], first: int) -> None:
    """Infer a body until what is assumed of its state is what it returns, or holds for any value.

    A dim that the body changes becomes a symbol of its own, of which nothing is assumed; so it may go on changing.

    Args:
        lead, state, rest: facts of the body's inputs, in this order; ``state`` is changed in place.
        first: index among the body's outputs of the first state output.
    """
    free: set[Dim] = set()
    for _ in range(_ROUNDS):
        s.engine.body(body, [*lead, *state, *rest])
        stable = True
        for i, (shape, items, dtype) in enumerate(state):
            if shape is None:
                continue
            after = dims(body.outputs[first + i])
            if after is None or len(after) != len(shape):
                state[i] = (None, None, dtype)
                stable = False
                continue
            changed = [m != n and m not in free for m, n in zip(shape, after, strict=True)]
            if any(changed):
                shape = tuple(s.fresh() if new else m for new, m in zip(changed, shape, strict=True))
                free.update(m for new, m in zip(changed, shape, strict=True) if new)
                state[i] = (shape, None, dtype)
                stable = False
            elif items is not None and elements(body.outputs[first + i]) != items:
                state[i] = (shape, None, dtype)
                stable = False
        if stable:
            return
    for i, (_, _, dtype) in enumerate(state):
        state[i] = (None, None, dtype)
    s.engine.body(body, [*lead, *state, *rest])


def _published(s: Site, shape: Dims | None, before: int) -> Dims | None:
    """A shape of an inner value as seen outside: symbols made inside stand for another number in each iteration."""
    if shape is None:
        return None
    return tuple(s.fresh() if _inner(s, n, before) else n for n in shape)


def _inner(s: Site, n: Dim, before: int) -> bool:
    names = () if isinstance(n, int) else d.all_names(n)
    prefix = s.engine.supply.prefix
    return any(k.startswith(prefix) and k[1:].isdecimal() and int(k[1:]) > before for k in names)


@rule("Loop")
def loop(s: Site) -> None:
    body: ir.Graph = s.attr("body")
    count = len(s.inputs) - 2
    initial = [s.value(i + 2) for i in range(count)]
    before = s.engine.supply.count
    lead: list[State] = [((), None, ir.DataType.INT64), ((), None, ir.DataType.BOOL)]
    state = [_outcome(v) for v in initial]
    for v, inner in zip(initial, body.inputs[2:], strict=False):
        if not isinstance(v.type, ir.TensorType | None) and inner.type is None:
            inner.type = v.type
    _settle(s, body, lead, state, [], first=1)
    trips = _trips(s)
    for i, out in enumerate(s.outputs):
        inner = body.outputs[i + 1]
        if i < count:
            shape = _published(s, state[i][0], before)
            if out.type is None:
                out.type = initial[i].type or inner.type
            s.out(i, shape, state[i][1])
            continue
        each = _published(s, dims(inner), before)
        if out.type is None and inner.type is not None:
            set_type(out, inner.dtype)
        s.out(i, None if each is None else (s.fresh() if trips is None else trips, *each))


def _trips(s: Site) -> Dim | None:
    """The number of iterations where the body cannot stop early: a known trip count, a condition that stays true."""
    limit = s.elements(0)
    if limit is None or not s.nonnegative(limit[0]):
        return None
    going = (1,) if not s.has(1) else s.elements(1)
    if going != (1,):
        return None
    body: ir.Graph = s.attr("body")
    condition = body.outputs[0]
    producer = condition.producer()
    while producer is not None and producer.op_type == "Identity" and producer.domain == "":
        inner = producer.inputs[0]
        if inner is None:
            return None
        condition = inner
        producer = condition.producer()
    passed_on = condition is body.inputs[1]
    return limit[0] if passed_on or elements(condition) == (1,) else None


@rule("Scan")
def scan(s: Site) -> None:
    body: ir.Graph = s.attr("body")
    parts = s.attr("num_scan_inputs")
    if s.version < 9:
        _first_scan(s, body)
        return
    held = len(s.inputs) - parts
    before = s.engine.supply.count
    state: list[State] = [_outcome(s.value(i)) for i in range(held)]
    axes = s.attr("scan_input_axes") or (0,) * parts
    length: Dim | None = None
    rest: list[State] = []
    for i in range(parts):
        v = s.value(held + i)
        shape = dims(v)
        if shape is not None:
            axis = normal_axis(axes[i], len(shape))
            length = shape[axis] if length is None or isinstance(shape[axis], int) else length
            shape = shape[:axis] + shape[axis + 1 :]
        rest.append((shape, None, v.dtype))
    _settle(s, body, [], state, rest, first=0)
    places = s.attr("scan_output_axes") or (0,) * (len(s.outputs) - held)
    for i, out in enumerate(s.outputs):
        inner = body.outputs[i]
        if out.type is None and inner.type is not None:
            set_type(out, inner.dtype)
        if i < held:
            s.out(i, _published(s, state[i][0], before), state[i][1])
            continue
        each = _published(s, dims(inner), before)
        if each is None:
            s.out(i, None)
            continue
        axis = normal_axis(places[i - held], len(each) + 1)
        s.out(i, (*each[:axis], s.fresh() if length is None else length, *each[axis:]))


def _first_scan(s: Site, body: ir.Graph) -> None:
    """Opset 8 had another form, with a batch axis and optional lengths. Only the types are derived."""
    s.engine.body(body, [(None, None, None if v is None else v.dtype) for v in s.inputs[1:]])
    for out, inner in zip(s.outputs, body.outputs, strict=False):
        set_type(out, inner.dtype)


@rule("SequenceMap")
def sequence_map(s: Site) -> None:
    body: ir.Graph = s.attr("body")
    given: list[State] = [(None, None, s.dtype(i)) for i in range(len(s.inputs))]
    s.engine.body(body, given)
    for out, inner in zip(s.outputs, body.outputs, strict=False):
        if out.type is None and inner.type is not None:
            out.type = ir.SequenceType(inner.type)
