"""Nodes compute in float16: their float32 inputs are cast, and what other nodes read of their outputs is cast back.

Which nodes can is a matter of the target's table and of the operator: each type variable that stands for float32 there has
to allow float16. What a model takes and gives keeps its dtype. Some nodes stay in float32 whatever is asked:

* a Sin or Cos and what leads to its argument. Positions times frequencies reach thousands, where float16 has steps of 1;
* a node with a constant that float16 does not hold: too large, or all so small that it would be 0, as an epsilon of 1e-12 is;
* what counts or gathers sums in place, random numbers, and casts.

A mask's numbers, such as -3.4e38, become the largest finite ones of float16: constants, and what is cast to be added.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import numpy as np

from .. import ir
from ..analysis import shapes
from . import Context
from .edit import Names, constant

if TYPE_CHECKING:
    from ..targets import Target

NAME = "float16"
LARGEST = float(np.finfo(np.float16).max)
FIRST = 13
"""Opset below which nothing is converted."""
MASK = 1e30
"""Magnitude from which a number is a mask's, and means that nothing is let through."""
SAFE = LARGEST / 2
"""A value that was seen beyond it may leave the range on other inputs."""

_NEVER = frozenset((
    "Cast", "CastLike", "Constant", "ConstantOfShape", "CumSum", "EyeLike", "Multinomial", "Bernoulli", "RandomNormal",
    "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Range", "If", "Loop", "Scan",
))  # fmt: skip

Places = tuple[list[int], list[int]]
"""Positions of a node's inputs and outputs."""

_MASKED = frozenset((
    "Add", "Sub", "Mul", "Sum", "Where", "Min", "Max", "Softmax", "Expand", "Reshape", "Unsqueeze", "Squeeze", "Transpose",
    "Slice", "Gather",
))  # fmt: skip
"""Operators on the way of a mask to the scores that it is added to."""
ATTENTION_MASK = 3


def convertible(model: ir.Model, target: Target) -> list[ir.Node]:
    """Nodes of the main graph that can compute in float16, in order."""
    return list(_convertible(model, target, model.graph))


def run(model: ir.Model, ctx: Context, nodes: Collection[ir.Node], target: Target) -> int:
    """Convert these nodes, as far as they are ``convertible``; the number converted."""
    work = _Work(model)
    wanted = set(nodes)
    found = _convertible(model, target, (n for n in model.graph if n in wanted))
    for node, places in found.items():
        site = ir.site(node)  # of a node without a name it is that of an output, which may get another
        work.convert(node, *places)
        ctx.record(NAME, site, f"{node.op_type} computes in float16")
    work.finish()
    return len(found)


def _convertible(model: ir.Model, target: Target, nodes: Iterable[ir.Node]) -> dict[ir.Node, Places]:
    """Those of the nodes that can, and what of them becomes float16. Weights are looked through, so it is asked once."""
    if (ir.opset_of(model) or 1) < FIRST:
        return {}
    kept = _angles(model)
    found = ((n, _places(n, model, target)) for n in nodes if n not in kept)
    return {n: places for n, places in found if places is not None}


def _places(node: ir.Node, model: ir.Model, target: Target) -> Places | None:
    """Positions of the inputs and outputs that become float16, or None where the node stays as it is."""
    if node.op_type in _NEVER or any(True for _ in ir.subgraphs(node)):
        return None
    version = ir.opset_of(model, node.domain)
    form = None if version is None else target.table.signature(node.op_type, node.domain, version)
    if form is None or version is None:
        return None
    if node.op_type in ("QuantizeLinear", "DequantizeLinear") and not _exact(node.inputs[1]):
        return None
    if any(ir.attr(node, name, 0) for name in ("output_dtype", "precision")) or ir.attr(node, "reduction", "none") != "none":
        return None
    dtypes: dict[str, str] = {}
    places: Places = ([], [])
    for formals, values, found in ((form.inputs, node.inputs, places[0]), (form.outputs, node.outputs, places[1])):
        for i, v in enumerate(values):
            if v is None or not formals:
                continue
            formal = formals[min(i, len(formals) - 1)]
            if v.dtype is None or not isinstance(v.type, ir.TensorType):
                return None
            dtype = v.dtype.name.lower()
            if dtype == "float" and formal.type != "float":
                if not _holds(v):
                    return None
                found.append(i)
                dtype = "float16"
            dtypes.setdefault(formal.type, dtype)
            dtypes.setdefault(formal.name, dtype)
    # A comparison or an index is not worth the rounding of what it compares.
    if not places[0] or not (places[1] or node.op_type == "QuantizeLinear"):
        return None
    return places if target.table.supports(node.op_type, node.domain, version, dtypes).how == "yes" else None


def _holds(v: ir.Value) -> bool:
    """Is a constant in float16's range, but for a mask's numbers? An epsilon of 1e-12 would be 0 there."""
    a = ir.array(v)
    if a is None or not a.size:
        return True
    least, most = float(a.min()), float(a.max())
    if least >= -LARGEST and most <= LARGEST:  # weights, which may be large, are not copied
        largest = max(-least, most)
        return largest == 0 or float(np.float16(largest)) > 0
    sizes = np.abs(a)
    finite = sizes[np.isfinite(sizes) & (sizes < MASK)]
    largest = float(finite.max(initial=0))
    return largest <= LARGEST and (largest == 0 or float(np.float16(largest)) > 0)


def _exact(scale: ir.Value | None) -> bool:
    """Is a scale the same number in float16?"""
    a = ir.array(scale)
    return a is not None and bool(np.all(a.astype(np.float16).astype(a.dtype) == a))


def _angles(model: ir.Model) -> set[ir.Node]:
    """Each Sin and Cos, and the nodes that its argument is computed by, out of bodies too."""
    graphs = ir.all_graphs(model, functions=False)
    found = {n for graph in graphs for n in graph if n.domain == "" and n.op_type in ("Sin", "Cos")}
    work = [v for n in found for v in n.inputs]
    while work:
        v = work.pop()
        node = None if v is None else v.producer()
        if node is not None and node not in found:
            found.add(node)
            work.extend(node.inputs)
    return found


class _Work:
    def __init__(self, model: ir.Model) -> None:
        self.model, self.graph, self.names = model, model.graph, Names(model)
        self.twins: dict[tuple[ir.Value, bool], ir.Value] = {}
        self.back: list[ir.Node] = []
        self.range: list[ir.Value] = []

    def convert(self, node: ir.Node, inputs: list[int], outputs: list[int]) -> None:
        for i in inputs:
            v = node.inputs[i]
            assert v is not None
            masks = node.op_type in _MASKED or (node.op_type == "Attention" and i == ATTENTION_MASK)
            node.replace_input_with(i, self.twin(v, masks))
        for i in outputs:
            old = node.outputs[i]
            cast = self.cast(old, ir.DataType.FLOAT, f"{old.name}_float")
            new = cast.outputs[0]
            new.type, new.shape = old.type, old.shape
            self.graph.insert_after(node, cast)
            ir.replace_value(old, new)
            cast.replace_input_with(0, old)
            old.name = old.name or self.names.value(f"{new.name}_float16")
            old.type = ir.TensorType(ir.DataType.FLOAT16)
            self.twins[new, False] = self.twins[new, True] = old
            self.back.append(cast)

    def twin(self, v: ir.Value, masks: bool) -> ir.Value:
        """The value in float16; ``masks``: it may be a mask, whose lowest number must not become infinite."""
        if (v, masks) not in self.twins:
            self.twins[v, masks] = self._twin(v, masks)
        return self.twins[v, masks]

    def _twin(self, v: ir.Value, masks: bool) -> ir.Value:
        a = ir.array(v)
        if a is not None:
            held = np.where(np.isinf(a), a, np.clip(a, -LARGEST, LARGEST)).astype(np.float16)
            twin = constant(self.graph, self.names, f"{v.name}_float16", held)
            self.twins[v, not masks] = twin
            return twin
        cast = self.cast(v, ir.DataType.FLOAT16, f"{v.name}_float16")
        nodes = [cast]
        if masks:
            clip = ir.make_node("Clip", [v, *self.bounds()])
            clip.outputs[0].name = self.names.value(f"{v.name}_within")
            clip.outputs[0].type, clip.outputs[0].shape = v.type, v.shape
            clip.name = self.names.node(f"Clip_{clip.outputs[0].name}")
            cast.replace_input_with(0, clip.outputs[0])
            nodes.insert(0, clip)
        made = v.producer()
        if made is None:
            self.graph.insert_before(self.graph[0], nodes)
        else:
            self.graph.insert_after(made, nodes)
        return cast.outputs[0]

    def bounds(self) -> list[ir.Value]:
        """Float16's range, as float32."""
        if not self.range:
            self.range = [constant(self.graph, self.names, "float16_range", np.array(x, np.float32)) for x in (-LARGEST, LARGEST)]
        return self.range

    def cast(self, v: ir.Value, to: ir.DataType, name: str) -> ir.Node:
        cast = ir.make_node("Cast", [v], {"to": int(to)})
        cast.outputs[0].name = self.names.value(name)
        cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(to), v.shape
        cast.name = self.names.node(f"Cast_{cast.outputs[0].name}")
        return cast

    def finish(self) -> None:
        """Take out the casts back that nobody reads."""
        for cast in self.back:
            out = cast.outputs[0]
            if not out.uses() and not out.is_graph_output():
                self.graph.remove(cast, safe=True)
        shapes.infer(self.model)
