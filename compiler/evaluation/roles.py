"""What each input of a model is for, read off the graph: its name, dtype and rank, and what the graph does with it.

A role decides which values are sensible: token ids lie within the rows of the table that they index, a mask is ones
and zeros, a cache is as long as the mask says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .. import ir
from ..analysis import dims
from ..analysis.dims import Dim

# Roles; shown to people in reports.
IDS, SEGMENTS, POSITIONS = "token ids", "segment ids", "positions"
MASK, ADDED_MASK = "mask", "additive mask"
CACHE, STATE, FEATURES, IMAGE, AUDIO = "cache", "state", "features", "image", "audio"
RATE, STEP, FLAG = "sample rate", "timestep", "flag"
PAST_LENGTH, TOTAL_LENGTH, LAST_INDEX, LENGTH = "past length", "total length", "last index", "length"
OTHER = "other"

#: Inputs are sized in this order: those whose axes are best known come first.
ORDER = (IDS, POSITIONS, SEGMENTS, IMAGE, AUDIO, CACHE, FEATURES, STATE, MASK, ADDED_MASK)

_CACHE = re.compile(r"past|cache|key_values|(^|[_.])kv([_.]|$)")
_STATE = re.compile(
    r"^(h|c|h_?[0n]|c_?[0n]|hx|cx|hidden|cell)$|(^|_)(state|memory)(_?in|_?h|_?c|_?\d)?$|^(hidden|cell)_state$"
)
_AUDIO = re.compile(r"audio|waveform|speech|^wav|input_values|^pcm")
_FLAG = re.compile(r"use_cache|_branch$|^is_|^use_|^with_")
_RATE = re.compile(r"^sr$|sampl\w*_?rate")

#: Operators that hand on the elements of their first input: its values are those of the output.
_PASSES = {
    "Cast", "CastLike", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Flatten", "Expand", "Slice",
    "Split", "Tile", "Clip", "Where", "Pad", "Concat",
}  # fmt: skip
#: Lookup operators: (domain, operator) -> pairs (position of the indices, position of the table).
_LOOKUPS = {
    ("", "Gather"): ((1, 0),),
    ("com.microsoft", "GatherBlockQuantized"): ((1, 0),),
    ("com.microsoft", "EmbedLayerNormalization"): ((0, 2), (1, 4)),
}
#: Operators that make as much of something as an integer says: with 0 of it a model may not run.
COUNTED = frozenset({"Loop", "TopK", "Range", "Expand", "ConstantOfShape", "Reshape", "Tile", "Resize"})
_SEARCH = 400  # values followed from one input: enough for any exporter's detour, and no walk of the whole graph


@dataclass
class Trace:
    """What the graph does with an input.

    Attributes:
        rows: fewest rows among the constant tables that it indexes, or None.
        table: that table's name.
        consumers: operators that take it after all that only hand it on.
        waveform: True where it enters a convolution of one input channel over time, or a Fourier transform.
        truth: True where it is taken as true or false (cast to bool, compared with a constant, subtracted from 1).
        added: True where it is added to something: an additive mask.
    """

    rows: int | None = None
    table: str = ""
    consumers: set[str] = field(default_factory=set)
    waveform: bool = False
    truth: bool = False
    added: bool = False


@dataclass
class Input:
    """One input of a model.

    Attributes:
        dtype: ONNX's name in lower case (``float``, ``int64``, ``bool``, ``string``).
        axes: sizes, with None for one that the model does not name; None where even the rank is unknown.
        sequence: True where the input is a list of tensors.
    """

    name: str
    dtype: str
    axes: tuple[Dim | None, ...] | None
    role: str
    trace: Trace
    sequence: bool = False

    @property
    def rank(self) -> int:
        return len(self.axes or ())


def inputs(model: ir.Model) -> list[Input]:
    """The inputs that a caller must give (those with a default are left out), in the model's order."""
    found = []
    for value in model.graph.inputs:
        if value.is_initializer():
            continue
        kind: Any = value.type
        sequence = type(kind).__name__ == "SequenceType"
        while kind is not None and not isinstance(kind, ir.TensorType) and hasattr(kind, "elem_type"):
            kind = kind.elem_type  # optional(tensor) is fed as a tensor
        dtype = kind.dtype.name.lower() if isinstance(kind, ir.TensorType) else "undefined"
        axes = None if value.shape is None else tuple(_axis(d) for d in value.shape)
        trace = follow(value, model)
        name = value.name or ""
        found.append(Input(name, dtype, axes, role(name, dtype, axes, trace), trace, sequence))
    return found


def _axis(declared: Any) -> Dim | None:
    if isinstance(declared, int):
        return declared if declared >= 0 else None
    text = getattr(declared, "value", None)
    if not text or text == "?":
        return None
    parsed = dims.parse(text)
    if isinstance(parsed, int):
        return parsed if parsed >= 0 else None
    return parsed if parsed is not None else dims.symbol(text)


def role(name: str, dtype: str, axes: tuple[Dim | None, ...] | None, trace: Trace) -> str:
    """The role of an input."""
    low = name.lower()
    if dtype == "bool":
        return FLAG if _FLAG.search(low) or not axes else MASK if "mask" in low else OTHER
    if dtype.startswith(("int", "uint")):
        return _integer_role(low, dtype, axes, trace)
    if dtype.startswith(("float", "double", "bfloat")):
        return _float_role(low, axes, trace)
    return OTHER


def _integer_role(low: str, dtype: str, axes: tuple[Dim | None, ...] | None, trace: Trace) -> str:
    rank = len(axes or ())
    if dtype == "uint8" and _is_image(axes):
        return IMAGE
    if "mask" in low:
        return MASK
    if "position" in low:
        return POSITIONS
    if "token_type" in low or "segment" in low:
        return SEGMENTS
    if _RATE.search(low):
        return RATE
    if "timestep" in low:
        return STEP
    if "seqlens_k" in low:
        return LAST_INDEX
    if re.search(r"total\w*len", low):
        return TOTAL_LENGTH
    if re.search(r"past\w*len", low):
        return PAST_LENGTH
    if rank <= 1 and re.search(r"len(gth)?s?$", low):
        return LENGTH
    if trace.rows is not None or re.search(r"(^|_)ids?$|tokens?$", low):
        return IDS
    return MASK if trace.truth and rank >= 2 else OTHER


def _float_role(low: str, axes: tuple[Dim | None, ...] | None, trace: Trace) -> str:
    rank = len(axes or ())
    if "mask" in low or re.search(r"attn_bias|attention_bias", low):
        return ADDED_MASK if rank >= 3 or trace.added else MASK
    if _RATE.search(low):
        return RATE
    if "timestep" in low:
        return STEP
    if rank >= 3 and _CACHE.search(low):
        return CACHE
    if _is_image(axes):
        return IMAGE
    if rank >= 2 and _STATE.search(low):
        return STATE
    if trace.waveform or (_AUDIO.search(low) and rank <= 2):
        return AUDIO
    return FEATURES if rank == 3 else OTHER


def _is_image(axes: tuple[Dim | None, ...] | None) -> bool:
    return axes is not None and len(axes) == 4 and (axes[1] in (1, 3, 4) or axes[3] in (1, 3, 4))


def follow(value: ir.Value, model: ir.Model) -> Trace:
    """What becomes of an input: through operators that hand values on, into bodies and functions."""
    trace = Trace()
    bound: dict[int, ir.Value | None] = {}  # id of a function's formal input -> what a call passes
    seen = {id(value)}
    work = [value]
    while work and len(seen) < _SEARCH:
        current = work.pop()
        for node, index in _consumers(current):
            for found in _handed_on(node, index, model, trace, bound):
                if id(found) not in seen:
                    seen.add(id(found))
                    work.append(found)
    return trace


def _consumers(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    for use in value.uses():
        yield use.node, use.idx


def _handed_on(
    node: ir.Node, index: int, model: ir.Model, trace: Trace, bound: dict[int, ir.Value | None]
) -> list[ir.Value]:
    """Note in ``trace`` what the node does with its input; the values that hold the same elements afterwards."""
    function = model.functions.get((node.domain, node.op_type, node.overload))
    if function is not None:
        bound.update((id(formal), v) for formal, v in zip(function.inputs, node.inputs, strict=False))
        return [function.inputs[index]] if index < len(function.inputs) else []
    lookups = _LOOKUPS.get((node.domain, node.op_type), ())
    for indices, table in lookups:
        if index == indices and table < len(node.inputs):
            held = node.inputs[table]
            _look_up(node, bound.get(id(held), held), trace)
    op = node.op_type
    if op in ("Cast", "CastLike", "Not", "Equal", "And") and _is_truth(node):
        trace.truth = True
    if op == "Sub" and index == 1 and _number(node.inputs[0]) == 1:
        trace.truth = True
    if op == "Add" and not trace.truth and not any(_held(v) is not None for v in node.inputs):
        trace.added = True
    if op in ("STFT", "DFT"):
        trace.waveform = True
    if op == "Conv" and index == 0 and len(node.inputs) > 1:
        kernel = _held(node.inputs[1])
        trace.waveform |= kernel is not None and len(kernel.shape) == 3 and kernel.shape[1] == 1
    if node.domain == "" and op in _PASSES and (index == 0 or op in ("Concat", "Where")):
        return [v for v in node.outputs if v is not None]
    trace.consumers.add(op)
    return []


def _look_up(node: ir.Node, table: ir.Value | None, trace: Trace) -> None:
    rows, name = _rows(table, int(ir.attr(node, "axis", 0)))
    if rows is not None and (trace.rows is None or rows < trace.rows):
        trace.rows, trace.table = rows, name


def _rows(table: ir.Value | None, axis: int) -> tuple[int | None, str]:
    """Size along ``axis`` of a constant table, seen through casts and dequantization; and the table's name."""
    for _ in range(8):
        if table is None:
            break
        held = _held(table)
        if held is not None:
            shape = [int(d) for d in held.shape]
            fits = len(shape) >= 2 and -len(shape) <= axis < len(shape)
            return (shape[axis], table.name or "") if fits else (None, "")
        producer = table.producer()
        if producer is None or producer.op_type not in ("Cast", "DequantizeLinear", "Identity"):
            break
        table = producer.inputs[0]
    return None, ""


def _is_truth(node: ir.Node) -> bool:
    if node.op_type == "Cast":
        return bool(ir.attr(node, "to") == int(ir.DataType.BOOL))
    return node.op_type != "CastLike"


def _number(value: ir.Value | None) -> Any | None:
    held = _held(value)
    return held.numpy().reshape(-1)[0] if held is not None and held.size == 1 else None


def _held(value: ir.Value | None) -> Any | None:
    """The tensor that a value holds: a constant's, or the default of an input, which is left out."""
    return value.const_value if value is not None and value.is_initializer() else ir.tensor(value)
