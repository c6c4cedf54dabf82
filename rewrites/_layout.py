"""Chains of views and Transposes, by what they do to the elements.

A chain splits and joins dims and moves what it has split. `simplify` follows the smallest parts that it moves and
writes the shortest chain that moves them the same way. Parts of size 1 do not matter to the order of elements.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from olc.analysis import dims as dim
from olc.rules import attr, dims

from . import _shapes as s

Shape = tuple[Any, ...]
Step = tuple[str, tuple[Any, ...]]
"""``("view", dims after it)`` or ``("move", permutation)``."""


class _Parts:
    """The parts that a tensor's dims fall into: ``order`` is as at first, ``groups`` the dims at last."""

    def __init__(self, shape: Sequence[Any]) -> None:
        self.size: list[Any] = []
        self.source: list[int] = []
        self.order: list[int] = []
        self.groups: list[list[int]] = []
        for i, d in enumerate(shape):
            self.groups.append([] if d == 1 else [self._new(d, i)])
            self.order.extend(self.groups[-1])

    def _new(self, size: Any, source: int) -> int:
        self.size.append(size)
        self.source.append(source)
        return len(self.size) - 1

    def view(self, shape: Sequence[Any]) -> bool:
        """Regroup the parts as the dims of ``shape``, splitting where needed; False where that is not proved to fit."""
        rest = deque(p for group in self.groups for p in group)
        groups: list[list[int]] = []
        for d in shape:
            group: list[int] = []
            while d != 1:
                if not rest:
                    return False
                part = rest.popleft()
                quotient = dim.divide_exact(d, self.size[part])
                if quotient is None:
                    inner = dim.divide_exact(self.size[part], d)
                    if inner is None:
                        return False
                    part, tail = self._split(part, d, inner)
                    rest.appendleft(tail)
                    quotient = 1
                group.append(part)
                d = quotient
            groups.append(group)
        self.groups = groups
        return not rest

    def _split(self, part: int, outer: Any, inner: Any) -> tuple[int, int]:
        made = self._new(outer, self.source[part]), self._new(inner, self.source[part])
        at = self.order.index(part)
        self.order[at : at + 1] = made
        return made

    def move(self, perm: Sequence[int]) -> None:
        self.groups = [self.groups[i] for i in perm]

    def runs(self) -> list[list[int]]:
        """Parts in their last order, those together that were neighbours in this order from the start."""
        place = {p: i for i, p in enumerate(self.order)}
        runs: list[list[int]] = []
        for p in (p for group in self.groups for p in group):
            if runs and place[p] == place[runs[-1][-1]] + 1:
                runs[-1].append(p)
            else:
                runs.append([p])
        return runs


def simplify(shape: Sequence[Any], steps: Sequence[Step]) -> list[Step] | str:
    """The shortest chain found that does the same to a tensor of that shape, or why none was.

    A step ``("view", form)`` of the result holds a `_shapes.Form`.
    """
    parts = _Parts(shape)
    last: tuple[Any, ...] = tuple(shape)
    for kind, what in steps:
        if kind == "move":
            parts.move(what)
            last = tuple(last[i] for i in what)
        elif parts.view(what):
            last = tuple(what)
        else:
            return "a change of shape on the way is not proved to split or join dims"
    runs = parts.runs()
    if len(runs) < 2:
        return _chain([("view", (tuple(shape), last))])
    tries = [_moved_first(parts, runs, tuple(shape), last), _moved_last(parts, runs, tuple(shape), last)]
    order = sorted(range(len(runs)), key=lambda i: parts.order.index(runs[i][0]))
    middle = tuple(dim.product(parts.size[p] for p in runs[i]) for i in order)
    perm = tuple(order.index(i) for i in range(len(runs)))
    after = tuple(middle[i] for i in perm)
    tries.append([("view", (tuple(shape), middle)), ("move", perm), ("view", (after, last))])
    found = [_chain(t) for t in tries if t is not None]
    good = [f for f in found if not isinstance(f, str)]
    return min(good, key=len) if good else found[-1]


def _chain(steps: Sequence[Step]) -> list[Step] | str:
    """The steps with views spelled, those that change nothing left out."""
    out: list[Step] = []
    for kind, what in steps:
        if kind == "move":
            out.append((kind, what))
            continue
        form = s.view(*what)
        if isinstance(form, str):
            return form
        if form[0] != "same":
            out.append((kind, form))
    return out


def _moved_first(parts: _Parts, runs: list[list[int]], shape: Shape, last: Shape) -> list[Step] | None:
    """Move the input's own dims, then change the shape: possible where no dim of the input is torn apart."""
    order = [i for run in runs for i in dict.fromkeys(parts.source[p] for p in run)]
    if len(set(order)) != len(order):
        return None
    perm = _with_ones(order, shape, last)
    return [("move", perm), ("view", (tuple(shape[i] for i in perm), last))]


def _moved_last(parts: _Parts, runs: list[list[int]], shape: Shape, last: Shape) -> list[Step] | None:
    """Change the shape, then move the result's own dims: possible where no dim of the result is torn apart."""
    dim_of = {p: i for i, group in enumerate(parts.groups) for p in group}
    from_start = sorted(runs, key=lambda r: parts.order.index(r[0]))
    backward = [i for run in from_start for i in dict.fromkeys(dim_of[p] for p in run)]
    if len(set(backward)) != len(backward):
        return None
    before = _with_ones(backward, last, shape)
    perm = tuple(before.index(i) for i in range(len(last)))
    return [("view", (shape, tuple(last[i] for i in before))), ("move", perm)]


def _with_ones(order: list[int], shape: tuple[Any, ...], wanted: tuple[Any, ...]) -> tuple[int, ...]:
    """The order of the dims that are not 1, with the others put in so that the shape looks like ``wanted``."""
    ones = [i for i, d in enumerate(shape) if d == 1]
    rest = list(order)
    perm: list[int] = []
    for d in wanted:
        if d == 1 and ones:
            perm.append(ones.pop(0))
        elif d != 1 and rest:
            perm.append(rest.pop(0))
    return (*perm, *rest, *ones)


def write(op: Any, x: Any, steps: Sequence[Step]) -> Any:
    """The nodes of a chain."""
    for kind, what in steps:
        x = op.Transpose(x, perm=what) if kind == "move" else s.write(op, x, what)
    return x


def chain_of(x: Any, most: int = 6) -> tuple[Any, list[Step]] | None:
    """Where a chain of at most so many views and Transposes that gives ``x`` begins, and its steps; None where one of the
    shapes on the way is not known."""
    steps: list[Step] = []
    for _ in range(most):
        node = x.producer()
        if node is None or node.domain != "" or node.op_type not in ("Transpose", *s.VIEWS):
            break
        given, after = dims(node.inputs[0]), dims(x)
        if given is None or after is None:
            return None
        moved = node.op_type == "Transpose"
        steps.insert(0, ("move", s.permutation(attr(node, "perm"), len(given))) if moved else ("view", after))
        x = node.inputs[0]
    return x, steps


def joined(x: Any) -> tuple[Any, Any] | None:
    """The two sizes of which a chain of views and Transposes made the first dim of ``x``: batch and heads."""
    found = chain_of(x)
    shape = None if found is None else dims(found[0])
    if found is None or shape is None:
        return None
    parts = _Parts(shape)
    for kind, what in found[1]:
        if kind == "move":
            parts.move(what)
        elif not parts.view(what):
            return None
    first = [parts.size[p] for p in parts.groups[0]]
    if found[1] and len(first) == 1 and isinstance(first[0], int):
        return 1, first[0]  # a batch of one
    return (first[0], first[1]) if len(first) == 2 else None


def split_first(op: Any, x: Any, heads: int) -> Any:
    """[batch * heads, ...] as [batch, heads, ...], of a tensor with three axes."""
    batch = op.Div(op.Shape(x, start=0, end=1), s.vector([heads]))
    return op.Reshape(x, op.Concat(batch, s.vector([heads]), op.Shape(x, start=1, end=3), axis=0))


def is_split(x: Any) -> bool:
    """Is ``x``, [batch, heads, sequence, size], the heads of some [batch, sequence, heads * size]?

    However that was spelled: with one head, or one token, no Transpose is needed. With a batch of one that may have no axis.
    """
    shape = dims(x)
    if shape is None or len(shape) != 4 or not all(isinstance(shape[i], int) for i in (1, 3)):
        return False
    batch, heads, length, size = shape
    back: list[Step] = [("move", (0, 2, 1, 3)), ("view", (batch, length, heads * size))]
    for most in range(1, 5):
        found = chain_of(x, most)
        if found is None or len(found[1]) < most:
            return False
        given = dims(found[0]) or ()
        if len(given) == 3 and simplify(given, [*found[1], *back]) == []:
            return True
        if batch == 1 and given == (length, heads * size) and simplify(given, found[1] + back[:1] + [("view", given)]) == []:
            return True
    return False


def join_heads(op: Any, x: Any) -> Any:
    """[batch, heads, sequence, size] as [batch, sequence, heads * size]; cancels the split where it `is_split`."""
    _, heads, _, size = dims(x) or ()
    return op.Reshape(op.Transpose(x, perm=(0, 2, 1, 3)), s.vector([0, 0, heads * size]))


def split_heads(op: Any, x: Any, heads: int, size: int) -> Any:
    """[batch, sequence, heads * size] as [batch, heads, sequence, size]."""
    return op.Transpose(op.Reshape(x, s.vector([0, 0, heads, size])), perm=(0, 2, 1, 3))


def heads_of(op: Any, x: Any, shape: Any, whole: Any) -> Any:
    """Pattern: heads as they are split most often, or any value; `is_split` of the node's input says whether it is one."""
    return op.either(op.Transpose(op.Reshape(x, shape), perm=(0, 2, 1, 3)), whole)
