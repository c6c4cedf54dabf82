"""How operators whose form or meaning changed are written at a newer opset; one function a change.

An adapter edits a :class:`Draft` (operator, inputs, attributes) and touches no graph, so that a model which cannot
be raised as a whole stays untouched. It raises :class:`Refused` where the new form cannot say what the node says.
Steps that change nothing for nodes of the old form need no adapter.

Reviewed changes of text that need none either, because runtimes never made a difference (checked on ONNX Runtime
with every version of the kernel): the formula of ConvTranspose's automatic padding (11), pooling windows that would
start in the padding with ``ceil_mode`` (AveragePool, MaxPool, LpPool at 19 and 22), negative indices of OneHot (11),
a Clip whose bounds cross (12), masked rows of Attention (24).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import ir
from ..analysis import shapes
from .edit import Names

Input = ir.Value | np.ndarray | None


class Refused(Exception):
    """A node that cannot be written at the new opset; the text says why."""

    site: str = "?"


class Facts:
    """Ranks, dims and dtypes, inferred once the first adapter asks."""

    def __init__(self, model: ir.Model) -> None:
        self._model: ir.Model | None = model

    def _infer(self) -> None:
        if self._model is not None:
            shapes.infer(self._model)
            self._model = None

    def dims(self, value: Input) -> tuple[Any, ...] | None:
        if value is None:
            return None
        if isinstance(value, np.ndarray):
            return value.shape
        self._infer()
        return shapes.dims(value)

    def dtype(self, value: Input) -> ir.DataType | None:
        if value is None:
            return None
        if isinstance(value, np.ndarray):
            return ir.DataType.from_numpy(value.dtype)
        if value.dtype is None:
            self._infer()
        return value.dtype


class Draft:
    """A node as it will be written. An array among the inputs becomes a constant."""

    def __init__(self, node: ir.Node, facts: Facts, to: int) -> None:
        self.node = node
        self.facts = facts
        self.to = to
        self.op_type = node.op_type
        self.inputs: list[Input] = list(node.inputs)
        self.attributes: dict[str, ir.Attr] = dict(node.attributes)
        self.around: list[Callable[[Site], None]] = []
        self.changed = False

    def has(self, name: str) -> bool:
        return name in self.attributes

    def get(self, name: str, default: Any = None) -> Any:
        attr = self.attributes.get(name)
        if attr is None:
            return default
        if attr.is_ref():
            raise Refused(f"attribute {name} of {self.op_type} refers to an attribute of the function")
        return attr.value

    def take(self, name: str, default: Any = None) -> Any:
        """The attribute's value; the attribute goes."""
        value = self.get(name, default)
        if self.attributes.pop(name, None) is not None:
            self.changed = True
        return value

    def set(self, name: str, value: Any) -> None:
        self.attributes[name] = ir.make_attr(name, value)
        self.changed = True

    def put(self, index: int, value: Input) -> None:
        """Set one input, with omitted ones before it where there were none."""
        self.inputs += [None] * (index + 1 - len(self.inputs))
        self.inputs[index] = value
        self.changed = True

    def input(self, index: int) -> Input:
        return self.inputs[index] if index < len(self.inputs) else None

    def constant(self, index: int) -> np.ndarray | None:
        value = self.input(index)
        return value if isinstance(value, np.ndarray) else ir.array(value)

    def outputs(self) -> int:
        """How many outputs the node gives names to."""
        return sum(1 for v in self.node.outputs if v.name != "")

    def used(self, index: int) -> bool:
        if index >= len(self.node.outputs):
            return False
        value = self.node.outputs[index]
        return bool(value.uses()) or value.is_graph_output()


class Site:
    """Where a draft is being written: makes nodes and constants beside the node."""

    def __init__(self, draft: Draft, names: Names, in_function: bool) -> None:
        self.node = draft.node
        self.names = names
        self.in_function = in_function
        graph = ir.owner(draft.node)
        assert graph is not None
        self.graph = graph
        self.base = draft.node.name or draft.node.outputs[0].name or draft.node.op_type

    def constant(self, data: np.ndarray, label: str) -> ir.Value:
        """An initializer; a Constant node in functions, which have no initializers."""
        name = self.names.value(f"{self.base}/{label}")
        if not self.in_function:
            value = ir.make_constant(data, name=name)
            self.graph.register_initializer(value)
            return value
        return self.insert("Constant", [], {"value": data}, name=name)

    def insert(
        self, op_type: str, inputs: list[ir.Value | None], attributes: dict[str, Any] | None = None, *,
        name: str | None = None, after: bool = False,
    ) -> ir.Value:  # fmt: skip
        """A node before (or after) the one being written, with its metadata; returns its result."""
        new = ir.make_node(op_type, inputs, attributes, name=self.names.node(f"{self.base}/{op_type}"))
        new.metadata_props.update(self.node.metadata_props)
        new.outputs[0].name = name or self.names.value(f"{self.base}/{op_type}")
        (self.graph.insert_after if after else self.graph.insert_before)(self.node, new)
        return new.outputs[0]


def apply(draft: Draft, names: Names, in_function: bool) -> None:
    """Write a draft into the graph. The node stays the same object, with its name, metadata and results."""
    node = draft.node
    site = Site(draft, names, in_function)
    inputs = [site.constant(v, f"input_{i}") if isinstance(v, np.ndarray) else v for i, v in enumerate(draft.inputs)]
    while inputs and inputs[-1] is None:
        inputs.pop()
    node.op_type = draft.op_type
    node.resize_inputs(len(inputs))
    for i, value in enumerate(inputs):
        if node.inputs[i] is not value:
            node.replace_input_with(i, value)
    for name in [n for n in node.attributes if n not in draft.attributes]:
        del node.attributes[name]
    for attr in draft.attributes.values():
        node.attributes.add(attr)
    for step in draft.around:
        step(site)


def _ints(values: Any) -> np.ndarray:
    return np.asarray(list(values), dtype=np.int64)


def _axes_to_input(draft: Draft) -> None:
    """Squeeze, Unsqueeze and ReduceSum at 13, the other reductions at 18. An empty list meant the same as none."""
    axes = draft.take("axes")
    if axes:
        draft.put(1, _ints(axes))


def _split_13(draft: Draft) -> None:
    sizes = draft.take("split")
    if sizes:
        draft.put(1, _ints(sizes))


def _split_18(draft: Draft) -> None:
    """Equal parts must now be asked for by number."""
    if draft.input(1) is None:
        draft.set("num_outputs", len(draft.node.outputs))


def _clip_11(draft: Draft) -> None:
    """Bounds become inputs. Absent ones were the lowest and highest float32, which for float64 must be said now."""
    low, high = draft.take("min"), draft.take("max")
    dtype = draft.facts.dtype(draft.input(0))
    if dtype == ir.DataType.DOUBLE:
        limit = float(np.finfo(np.float32).max)
        low, high = -limit if low is None else low, limit if high is None else high
    if low is None and high is None and dtype is not None:
        return
    if dtype is None:
        raise Refused("the type of Clip's input is unknown, so its bounds cannot be written")
    for index, bound in ((1, low), (2, high)):
        if bound is not None:
            draft.put(index, np.asarray(bound, dtype=dtype.numpy()))


def _pad_11(draft: Draft) -> None:
    draft.put(1, _ints(draft.take("pads", ())))
    value = draft.take("value", 0.0)
    mode = draft.get("mode", "constant")
    if mode in ("constant", b"constant") and np.float32(value).tobytes() != np.float32(0.0).tobytes():
        dtype = draft.facts.dtype(draft.input(0))
        if dtype is None:
            raise Refused("the type of Pad's input is unknown, so its value cannot be written")
        draft.put(2, np.asarray(value, dtype=dtype.numpy()))


def _slice_10(draft: Draft) -> None:
    """Without axes the old form sliced the first ones, the new form takes one start for each axis: so axes are said."""
    starts, ends = draft.take("starts"), draft.take("ends")
    axes = draft.take("axes") or range(len(starts))
    draft.put(1, _ints(starts))
    draft.put(2, _ints(ends))
    draft.put(3, _ints(axes))


def _topk_10(draft: Draft) -> None:
    draft.put(1, _ints([draft.take("k")]))


def _dropout_10(draft: Draft) -> None:
    if draft.used(1):
        raise Refused("Dropout's mask was of the input's type and is boolean from opset 10 on")


def _dropout_12(draft: Draft) -> None:
    """The ratio of a Dropout in inference is not looked at, and up to opset 11 there was no other."""
    if draft.used(1):
        raise Refused("Dropout's mask in inference was not defined before opset 12")
    draft.take("ratio")


def _upsample_9(draft: Draft) -> None:
    draft.put(1, np.asarray(draft.take("scales"), dtype=np.float32))


def _upsample_10(draft: Draft) -> None:
    draft.op_type = "Resize"
    draft.changed = True


def _resize_11(draft: Draft) -> None:
    """Sampling was asymmetric. Nearest took the floor where it enlarges and the ceiling where it shrinks."""
    if draft.get("mode", "nearest") in ("nearest", b"nearest"):
        draft.set("nearest_mode", "floor" if _enlarges(draft) else "ceil")
    draft.set("coordinate_transformation_mode", "asymmetric")
    scales = draft.input(1)
    draft.put(1, np.zeros(0, dtype=np.float32))
    draft.put(2, scales)


def _enlarges(draft: Draft) -> bool:
    if draft.node.op_type == "Upsample":
        return True  # its scales are at least 1
    scales = draft.constant(1)
    if scales is None:
        raise Refused("Resize by nearest: whether it enlarges is not known, and from opset 11 on it must be said")
    if (scales >= 1).all():
        return True
    if (scales <= 1).all():
        return False
    raise Refused("Resize by nearest that enlarges one axis and shrinks another cannot be written from opset 11 on")


def _resize_13(draft: Draft) -> None:
    """Scales and sizes exclude each other now, and are omitted instead of empty. One coordinate mode is gone."""
    if draft.get("coordinate_transformation_mode") in ("tf_half_pixel_for_nn", b"tf_half_pixel_for_nn"):
        raise Refused("Resize has no coordinate mode tf_half_pixel_for_nn from opset 13 on")
    region = draft.constant(1)
    if region is not None and region.size == 0:
        draft.put(1, None)
    if draft.input(3) is not None and draft.input(2) is not None:
        draft.put(2, None)


def _batch_normalization_9(draft: Draft) -> None:
    if not draft.take("spatial", 1):
        raise Refused("BatchNormalization over single activations (spatial = 0) is gone from opset 9 on")


def _batch_normalization_14(draft: Draft) -> None:
    if draft.outputs() > 1:
        raise Refused("BatchNormalization with more than one output trains, and trains otherwise from opset 14 on")


def _grid_sample_20(draft: Draft) -> None:
    mode = draft.get("mode", "bilinear")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    if draft.has("mode"):
        draft.set("mode", {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode))


def _dft_20(draft: Draft) -> None:
    draft.put(2, np.asarray(draft.take("axis", 1), dtype=np.int64))


def _roi_align_16(draft: Draft) -> None:
    """The default became half_pixel; before there was no shift."""
    draft.set("coordinate_transformation_mode", "output_half_pixel")


def _scatter_11(draft: Draft) -> None:
    draft.op_type = "ScatterElements"
    draft.changed = True


_WITHOUT_INFINITY = frozenset({ir.DataType.FLOAT8E4M3FNUZ, ir.DataType.FLOAT8E5M2FNUZ})


def _cast_24(draft: Draft) -> None:
    if draft.get("to") in _WITHOUT_INFINITY and draft.get("saturate", 1):
        raise Refused("Cast of infinity to a float8 type without it gave NaN and saturates from opset 24 on")


def _cast_like_24(draft: Draft) -> None:
    dtype = draft.facts.dtype(draft.input(1))
    if draft.get("saturate", 1) and (dtype is None or dtype in _WITHOUT_INFINITY):
        raise Refused("CastLike to an unknown type, or of infinity to a float8 type without it, changed at opset 24")


def _softmax_13(draft: Draft) -> None:
    """From one softmax over all axes from ``axis`` on to one over a single axis.

    The same where at most one of those axes is longer than 1. Else the input is flattened to two axes, which is how
    the old form was defined, and the result takes the input's shape again.
    """
    axis = draft.get("axis", 1)
    shape = draft.facts.dims(draft.input(0))
    if shape is not None and -len(shape) <= axis < len(shape):
        start = axis % len(shape)
        long = [i for i in range(start, len(shape)) if shape[i] != 1]
        if len(long) <= 1:
            only = long[0] if long else start
            draft.set("axis", -1 if only == len(shape) - 1 else only)
            return
    draft.set("axis", -1)
    # An empty tensor may have a 0 in its shape where the flat one has no axis to copy the length from.
    honest = {"allowzero": 1} if draft.to >= 14 else {}
    draft.around.append(lambda site: _flatten_around(site, axis, honest))


def _flatten_around(site: Site, axis: int, honest: dict[str, int]) -> None:
    node, result = site.node, site.node.outputs[0]
    source = node.inputs[0]
    shape = site.insert("Shape", [source])
    flat = site.insert("Flatten", [source], {"axis": axis})
    flat.type = result.type
    node.replace_input_with(0, flat)
    # Only now is the result given to others: the Reshape is to be the one user of the flat result.
    back = site.insert("Reshape", [None, shape], honest, after=True)
    back.type, back.shape, back.doc_string = result.type, result.shape, result.doc_string
    back.metadata_props.update(result.metadata_props)
    back.meta.update(result.meta)
    result.meta.clear()
    result.shape = None
    fresh, name = back.name, result.name
    result.name = None
    result.replace_all_uses_with(back, replace_graph_outputs=True)
    back.name, result.name = name, fresh
    producer = back.producer()
    assert producer is not None
    producer.replace_input_with(0, result)


def _group_normalization_21(draft: Draft) -> None:
    """Scale and bias were given for each group and are given for each channel now.

    Stage one is computed in the type of ``stash_type``; it was that of the input.
    """
    dtype = draft.facts.dtype(draft.input(0))
    shape = draft.facts.dims(draft.input(0))
    channels = shape[1] if shape is not None and len(shape) > 1 else None
    groups = draft.get("num_groups")
    if dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE) or not isinstance(channels, int) or channels % groups:
        raise Refused("GroupNormalization: its type or its number of channels is not known")
    if dtype == ir.DataType.DOUBLE:
        draft.set("stash_type", int(ir.DataType.DOUBLE))
    each = channels // groups
    for index in (1, 2):
        known = draft.constant(index)
        if known is not None:
            draft.put(index, np.repeat(known, each))
        elif each > 1:
            draft.changed = True
            draft.around.append(lambda site, i=index: _repeat(site, i, groups, each))  # type: ignore[misc]


def _repeat(site: Site, index: int, groups: int, each: int) -> None:
    column = site.insert("Reshape", [site.node.inputs[index], site.constant(_ints([groups, 1]), "column")])
    table = site.insert("Expand", [column, site.constant(_ints([groups, each]), "table")])
    row = site.insert("Reshape", [table, site.constant(_ints([-1]), "row")])
    row.type = site.node.inputs[index].type  # type: ignore[union-attr]
    site.node.replace_input_with(index, row)


RENAMED = {"Scatter": (11, "ScatterElements"), "Upsample": (10, "Resize")}
"""Operators that are withdrawn: the version since which, and what an adapter writes in their place."""

_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSumSquare",
)  # fmt: skip

ADAPTERS: dict[tuple[str, int], Callable[[Draft], None]] = {
    ("BatchNormalization", 9): _batch_normalization_9,
    ("BatchNormalization", 14): _batch_normalization_14,
    ("Cast", 24): _cast_24,
    ("CastLike", 24): _cast_like_24,
    ("Clip", 11): _clip_11,
    ("DFT", 20): _dft_20,
    ("Dropout", 10): _dropout_10,
    ("Dropout", 12): _dropout_12,
    ("GridSample", 20): _grid_sample_20,
    ("GroupNormalization", 21): _group_normalization_21,
    ("Hardmax", 13): _softmax_13,
    ("LogSoftmax", 13): _softmax_13,
    ("Pad", 11): _pad_11,
    ("ReduceSum", 13): _axes_to_input,
    ("Resize", 11): _resize_11,
    ("Resize", 13): _resize_13,
    ("RoiAlign", 16): _roi_align_16,
    ("Scatter", 11): _scatter_11,
    ("Slice", 10): _slice_10,
    ("Softmax", 13): _softmax_13,
    ("Split", 13): _split_13,
    ("Split", 18): _split_18,
    ("Squeeze", 13): _axes_to_input,
    ("TopK", 10): _topk_10,
    ("Unsqueeze", 13): _axes_to_input,
    ("Upsample", 9): _upsample_9,
    ("Upsample", 10): _upsample_10,
    **{(op, 18): _axes_to_input for op in _REDUCTIONS},
}
