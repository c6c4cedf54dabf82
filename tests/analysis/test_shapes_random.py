"""The shape analysis on random graphs: every fact about every value holds in a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from hypothesis import given, settings
from hypothesis import strategies as st
from olc.analysis import shapes
from onnx_ir import serde
from shape_soundness import check_value, declared

OPERATORS = [
    "transpose", "reshape", "flatten", "unsqueeze", "slice", "concat", "reduce", "gather", "pad", "expand", "matmul",
    "split", "tile", "where", "shape-web", "pool",
]  # fmt: skip


class Builder:
    """Adds nodes that run at the given sizes; shapes are tracked as numbers."""

    def __init__(self, rng: np.random.Generator, shape: list[int]) -> None:
        self.rng, self.shape, self.name, self.nodes, self.held = rng, shape, "x", [], []
        self.count = 0

    def new(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def const(self, data: Any) -> str:
        name = f"c{len(self.held)}"
        self.held.append(onnx.numpy_helper.from_array(np.asarray(data, np.int64), name))
        return name

    def node(self, op: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> list[str]:
        names = [self.new() for _ in range(outputs)]
        self.nodes.append(onnx.helper.make_node(op, inputs, names, **attributes))
        return names

    def sizes(self, axes: list[int]) -> str:
        """A vector of the current value's sizes along axes, computed in the graph."""
        (shape,) = self.node("Shape", [self.name])
        return self.node("Gather", [shape, self.const(axes)], axis=0)[0]

    def step(self, kind: str) -> None:
        rng, rank = self.rng, len(self.shape)
        axis = int(rng.integers(rank))
        if kind == "transpose":
            order = [int(i) for i in rng.permutation(rank)]
            (self.name,) = self.node("Transpose", [self.name], perm=order)
            self.shape = [self.shape[i] for i in order]
        elif kind == "reshape":
            if rank > 1 and rng.random() < 0.6:  # merge two axes
                i = int(rng.integers(rank - 1))
                lead, tail = list(range(i)), list(range(i + 2, rank))
                parts = [self.sizes(lead)] * bool(lead) + [self.const([-1])] + [self.sizes(tail)] * bool(tail)
                (target,) = self.node("Concat", parts, axis=0)
                (self.name,) = self.node("Reshape", [self.name, target])
                self.shape[i : i + 2] = [self.shape[i] * self.shape[i + 1]]
            elif self.shape[axis] % 2 == 0 and rank < 5:
                head, tail = [0] * axis, [2, -1]
                rest = [self.sizes(list(range(axis + 1, rank)))] if axis + 1 < rank else []
                (target,) = self.node("Concat", [self.const([*head, *tail]), *rest], axis=0)
                (self.name,) = self.node("Reshape", [self.name, target])
                self.shape[axis : axis + 1] = [2, self.shape[axis] // 2]
        elif kind == "flatten":
            (self.name,) = self.node("Flatten", [self.name], axis=axis)
            self.shape = [int(np.prod(self.shape[:axis])), int(np.prod(self.shape[axis:]))]
        elif kind == "unsqueeze" and rank < 5:
            (self.name,) = self.node("Unsqueeze", [self.name, self.const([axis])])
            self.shape.insert(axis, 1)
        elif kind == "slice":
            start, end = (int(k) for k in rng.integers(-6, 7, 2))
            step = int(rng.choice([1, 1, 2, -1]))
            ends = self.sizes([axis]) if rng.random() < 0.3 else self.const([end])
            given = [self.const([start]), ends, self.const([axis]), self.const([step])]
            (self.name,) = self.node("Slice", [self.name, *given])
        elif kind == "concat":
            (self.name,) = self.node("Concat", [self.name, self.name], axis=axis)
            self.shape[axis] *= 2
        elif kind == "reduce":
            keep = int(rng.integers(2)) if rank > 1 else 1
            (self.name,) = self.node("ReduceSum", [self.name, self.const([axis])], keepdims=keep)
            self.shape[axis : axis + 1] = [1] * keep
        elif kind == "gather" and self.shape[axis]:
            (self.name,) = self.node("Gather", [self.name, self.const([0, 0, 0])], axis=axis)
            self.shape[axis] = 3
        elif kind == "pad":
            pads = [int(k) for k in rng.integers(0, 3, 2 * rank)]
            (self.name,) = self.node("Pad", [self.name, self.const(pads)])
            self.shape = [n + pads[i] + pads[i + rank] for i, n in enumerate(self.shape)]
        elif kind == "expand" and rank < 5:
            (target,) = self.node("Concat", [self.const([3]), self.sizes(list(range(rank)))], axis=0)
            (self.name,) = self.node("Expand", [self.name, target])
            self.shape = [3, *self.shape]
        elif kind == "matmul" and rank > 1:
            order = [*range(rank - 2), rank - 1, rank - 2]
            (t,) = self.node("Transpose", [self.name], perm=order)
            (self.name,) = self.node("MatMul", [self.name, t])
            self.shape[-1] = self.shape[-2]
        elif kind == "split":
            first, _ = self.node("Split", [self.name], 2, axis=axis, num_outputs=2)
            self.name = first
            self.shape[axis] = -(-self.shape[axis] // 2)
        elif kind == "tile":
            times = [int(k) for k in rng.integers(1, 3, rank)]
            (self.name,) = self.node("Tile", [self.name, self.const(times)])
            self.shape = [n * k for n, k in zip(self.shape, times, strict=True)]
        elif kind == "where":
            (zeros,) = self.node("Sub", [self.name, self.name])
            (same,) = self.node("Equal", [self.name, zeros])
            (self.name,) = self.node("Where", [same, self.name, zeros])
        elif kind == "shape-web":
            s = self.sizes([axis])
            (a,) = self.node("Mul", [s, self.const([3])])
            (b,) = self.node("Add", [a, self.const([int(rng.integers(5))])])
            (c,) = self.node(str(rng.choice(["Div", "Mod", "Min", "Max"])), [b, self.const([2])])
            (e,) = self.node("ConstantOfShape", [c])
            self.node("Shape", [e])
        elif kind == "pool" and rank in (3, 4) and all(n >= 3 for n in self.shape[2:]):
            space = rank - 2
            steps = [int(k) for k in rng.integers(1, 4, space)]
            (self.name,) = self.node(
                "MaxPool", [self.name], kernel_shape=[3] * space, strides=steps, ceil_mode=int(rng.integers(2)),
                pads=[1] * (2 * space),
            )  # fmt: skip
            self.shape = [0] * rank  # not tracked
        if kind in ("slice", "pool"):
            self.shape = self.measured()

    def measured(self) -> list[int]:
        return list(self.run([self.name])[0].shape)

    def proto(self, outputs: list[str], dims: list[Any]) -> onnx.ModelProto:
        graph = onnx.helper.make_graph(
            self.nodes,
            "g",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, dims)],
            [onnx.ValueInfoProto(name=n) for n in outputs],
            self.held,
        )
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)

    def run(self, outputs: list[str]) -> list[np.ndarray]:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        proto = self.proto(outputs, [None] * self.x.ndim)
        session = ort.InferenceSession(proto.SerializeToString(), options)
        return list(session.run(outputs, {"x": self.x}))

    x: np.ndarray


def refused(error: Exception) -> None:
    """What ONNX Runtime refuses (a slice that left nothing to pool) has no shape to check."""
    if "onnxruntime" not in type(error).__module__:
        raise error


@settings(max_examples=120, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.lists(st.sampled_from(OPERATORS), min_size=1, max_size=8),
)
def test_random_graphs(seed: int, shape: list[int], kinds: list[str]) -> None:
    """Every fact about every value of a random graph with symbolic input holds in a run."""
    b = Builder(np.random.default_rng(seed), list(shape))
    b.x = np.zeros(shape, np.float32)
    for kind in kinds:
        before = len(b.nodes)
        try:
            b.step(kind)
        except Exception as e:
            refused(e)
            return
        if np.prod(b.shape) > 100_000 or (len(b.nodes) > before and 0 in b.shape):
            break
    names = [n for node in b.nodes for n in node.output]
    if not names:
        return
    try:
        got = dict(zip(names, b.run(names), strict=True))
    except Exception as e:
        refused(e)
        return
    for dims in ([f"d{i}" for i in range(len(shape))], [n if i % 2 else f"d{i}" for i, n in enumerate(shape)]):
        model = serde.deserialize_model(b.proto([names[-1]], dims))
        shapes.infer(model)
        env: dict[str, int] = {}
        declared(model, {"x": b.x}, env)
        for value in (v for n in model.graph for v in n.outputs if v.name):
            check_value(value, got[value.name], env)
            assert shapes.dims(value) is not None, shapes.first_unknown(model)
