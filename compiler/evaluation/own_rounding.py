"""How far the source's own outputs lie from each other where only rounding differs.

A model that rounds what flows through it, to 8 bits or to half precision, is no smooth function of its inputs: a number between
two steps goes up or down with the last digit of what was summed before, and what follows goes with it. Then there is no bound on
single elements that a right rewrite keeps: ONNX Runtime's own levels of optimization move an encoder in 8 bits by half the size
of its outputs at some elements, and by 5 % on the whole.

Of a source that computes in half precision the outputs are judged as such, whatever they are cast to. One that rounds is run
again as the same model would be with other digits: not optimized by the runtime, and with its vectors of constants (biases,
scales of norms and columns) moved by a 4,096th, which is far below a step. What the outputs move by, as a whole (root of the
power of the difference over that of the output), is what the source leaves open. ``FACTOR`` times as much is the same function
up to rounding; what moves further is wrong, and a source that rounds nothing is held to single elements as ever. So are integers
(the best of some numbers), by how many of them differ; and of no output may a slice move by ``PARTS`` times as much, for what
is small beside the rest would be lost in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import ir, storage
from ..errors import OlcError
from ..passes import Context, lift_constants
from ..session import SessionOptions, run
from . import numerics
from .padding import Keep
from .sweep import Point

FACTOR = 2.0
PARTS = 4.0
MOVED = 2.0**-12
COPIES = 2
_LONGEST = 1 << 16
"""Elements of the constants that are moved: those of vectors and the like."""
_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_FLOATS = (ir.DataType.FLOAT, *_HALF)


def rounds(model: ir.Model) -> bool:
    """Does the model round what flows through it?"""
    return any(_rounds(n) for g in ir.all_graphs(model) for n in g)


def halves(model: ir.Model) -> bool:
    """Does it compute in half precision? Then its outputs are no finer, whatever they are cast to."""
    stored: set[ir.Value] = set()
    for node in (n for g in ir.all_graphs(model) for n in g):
        if all(v is None or v in stored or ir.is_constant(v) for v in node.inputs) and not any(ir.subgraphs(node)):
            stored.update(node.outputs)  # a weight that is kept in half precision, turned and cast: nothing is computed in it
        elif _halves(node, stored):
            return True
    return False


def _halves(node: ir.Node, stored: Set[ir.Value]) -> bool:
    if node.op_type == "Cast":
        return ir.attr(node, "to", 0) in [int(d) for d in _HALF]
    if node.op_type in ("DequantizeLinear", "Identity"):
        return False
    return any(v is not None and v.dtype in _HALF and v not in stored and not ir.is_constant(v) for v in node.inputs)


def _rounds(node: ir.Node) -> bool:
    kind = node.op_type
    if kind == "QuantizeLinear":
        return node.inputs[0] is not None and not ir.is_constant(node.inputs[0])
    blocks = kind in ("MatMulNBits", "QMoE") and ir.attr(node, "accuracy_level", 0) == 4
    return blocks or kind in ("MatMulInteger", "ConvInteger", "QAttention", "QGemm", "QLinearConv", "QLinearMatMul") or (
        kind.startswith(("DynamicQuantize", "QLinear")) and bool(node.outputs)
    )


@dataclass(frozen=True)
class Open:
    """What the source leaves open of an output: how much it moves as a whole, the most that a slice does, and the share of its
    elements that differ."""

    moved: float = 0.0
    part: float = 0.0
    share: float = 0.0

    def or_more(self, other: Open) -> Open:
        """The larger of each."""
        return Open(max(self.moved, other.moved), max(self.part, other.part), max(self.share, other.share))


class OwnRounding:
    """What a source leaves open, found out when it is first asked for.

    Args:
        path, options: its file, and how it is opened.
        feeds: gives inputs to run.
        open_: opens a file.
    """

    def __init__(
        self, model: ir.Model, path: Path, folder: Path, open_: Callable[..., Any], options: SessionOptions,
        feeds: Callable[[], Sequence[Mapping[str, Any]]],
    ) -> None:  # fmt: skip
        self.model, self.path, self.folder, self.open, self.options, self.feeds = model, path, folder, open_, options, feeds
        self.known: dict[str, dict[str, Open]] = {}
        self.notes: list[str] = []
        self.unknown = ""

    def breach(self, found: Iterable[numerics.OutputDifference], keep: Keep, feed: Mapping[str, Any] | None = None) -> str | None:
        """The first difference beyond rounding, the source's own included, in words. ``feed``: where it was seen, if not on
        the inputs that judge."""
        outputs = list(found)
        first = numerics.first_difference(outputs)
        if first is not None and halves(self.model):
            for d in outputs:
                d.tolerance = None if d.tolerance is None else max(d.tolerance, numerics.TOLERANCES["float16"])
            first = numerics.first_difference(outputs)
            if first is None:
                self.notes = self.notes or ["the source computes in half precision: its outputs were compared as such"]
        if first is None or not any(not d.misplaced and d.problem is None for d in outputs):
            return first
        if not rounds(self.model):
            return first
        open_ = self.left_open(None, keep)
        for name, there in (self.left_open([feed], keep) if feed is not None else {}).items():
            open_[name] = there.or_more(open_.get(name, Open()))
        for d in outputs:
            left = open_.get(d.name, Open())
            d.own, d.own_share = FACTOR * left.moved, FACTOR * left.share
            d.own_part = PARTS * max(left.part, left.moved)
        again = numerics.first_difference(outputs)
        if again is not None:
            return again + self.unknown
        most = max((left.moved for left in open_.values()), default=0.0)
        said = f"its own outputs move by up to {most:.2g} of their size where only last digits differ"
        self.notes = self.notes or [f"the source rounds what flows through it, and {said}: {FACTOR:g} times that was allowed"]
        return None

    def judge(self, points: Iterable[Point], keep: Keep) -> None:
        """Say of the outputs at other sizes, too, how much the source leaves open there."""
        for point in points:
            if numerics.first_difference(point.outputs) is not None:  # else there may be no inputs of that size
                self.breach(point.outputs, keep, point.corner.feed)

    def left_open(self, feeds: Sequence[Mapping[str, Any]] | None, keep: Keep) -> dict[str, Open]:
        """By output: the most that a variant moves it, as a whole."""
        key = keep.__qualname__  # a new closure each time
        if feeds is None and key in self.known:
            return dict(self.known[key])
        at = self.feeds() if feeds is None else feeds
        expected = self._outputs(self.path, self.options, at, keep)
        most: dict[str, Open] = {}
        failures: list[str] = []
        for path, options in self._variants():
            try:
                found = self._outputs(path, options, at, keep)
            except OlcError as e:  # a kernel is only there once the runtime has optimized, say
                failures.append(e.what)
                continue
            for d in numerics.compare(expected, found):
                most[d.name] = Open(d.moved or 0.0, d.part, d.share).or_more(most.get(d.name, Open()))
        if failures and not most:
            self.unknown = f" (what the source's own rounding leaves open is not known: {failures[0]})"
        if feeds is None:
            self.known[key] = dict(most)
        return most

    def _outputs(
        self, path: Path, options: SessionOptions, feeds: Sequence[Mapping[str, Any]], keep: Keep
    ) -> list[dict[str, Any]]:
        opened = self.open(path, options=options)
        return [keep(feed, run(opened, feed, where=str(path))) for feed in feeds]

    def _variants(self) -> Iterable[tuple[Path, SessionOptions]]:
        yield self.path, replace(self.options, optimization="none")
        for number in range(COPIES):
            path = self.folder / "own" / f"moved{number}.onnx"
            if not path.is_file():
                path.parent.mkdir(exist_ok=True)
                storage.save(moved(self.model, number), path)
            yield path, self.options


def moved(model: ir.Model, seed: int) -> ir.Model:
    """A copy whose vectors of constants are moved a little, each number by itself."""
    copy, random = model.clone(), np.random.default_rng(seed)
    lift_constants.run(copy, Context())
    for value in list(copy.graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or value.dtype not in _FLOATS or not 1 < tensor.size <= _LONGEST or value.is_graph_input():
            continue
        old = tensor.numpy()
        with np.errstate(all="ignore"):
            wide = old.astype(np.float64)
            new = np.where(np.abs(wide) < 1e4, wide * (1 + MOVED * random.uniform(-1, 1, old.shape)), wide)
        value.const_value = ir.Tensor(new.astype(old.dtype), name=value.name)
    return copy
