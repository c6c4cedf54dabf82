"""Shape inference against all node tests of onnx: with static shapes, with symbolic ones, with inputs as constants,
and with integer inputs that are themselves computed from sizes. No claim may be wrong."""

from __future__ import annotations

import warnings
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from olc import ir
from olc.analysis import shapes
from onnx_ir import serde
from shape_soundness import Wrong, check_value, declared

KINDS = ["static", "symbolic", "constants", "constants-symbolic", "computed"]

# Operators whose output sizes depend on data (or that make sequences, optionals, strings): few dims can be known.
MIN_KNOWN = {"static": 0.855, "symbolic": 0.835, "constants": 0.985, "constants-symbolic": 0.955, "computed": 0.89}


@cache
def cases() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        return list(collect_testcases(None))


def variant(proto: onnx.ModelProto, feeds: dict[str, Any], kind: str) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The case's model with other knowledge about its inputs; feeds are those of the new model's inputs."""
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    feeds = dict(feeds)
    graph = proto.graph
    if kind.startswith("constants"):
        for i in list(graph.input):
            x = feeds.get(i.name)
            if isinstance(x, np.ndarray) and (kind == "constants" or (x.dtype.kind in "iub" and x.size <= 64)):
                if x.dtype.kind not in "iufb":
                    continue
                graph.initializer.append(serde.serialize_tensor(ir.Tensor(x, name=i.name)))
                graph.input.remove(i)
                del feeds[i.name]
    if kind == "computed":
        compute(proto, feeds)
    if kind in ("symbolic", "constants-symbolic", "computed"):
        for i in graph.input:
            if i.type.HasField("tensor_type") and i.type.tensor_type.HasField("shape"):
                for axis, dim in enumerate(i.type.tensor_type.shape.dim):
                    dim.dim_param = f"{i.name}_{axis}"
    for o in graph.output:
        if o.type.HasField("tensor_type"):
            o.type.tensor_type.ClearField("shape")
    return proto, feeds


def compute(proto: onnx.ModelProto, feeds: dict[str, Any]) -> None:
    """Let each small integer input be put together from sizes of an extra input (and constants where negative)."""
    graph = proto.graph
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    nodes: list[onnx.NodeProto] = []
    # a Reshape to a size of some other tensor that is 0 at run time is the one thing that inference does not allow for
    least = 1 if graph.node[0].op_type == "Reshape" else 0
    for i in list(graph.input):
        x = feeds.get(i.name)
        if not isinstance(x, np.ndarray) or x.dtype != np.int64 or x.ndim > 1 or not 0 < x.size <= 8 or x.max() > 1000:
            continue
        if opset < 13:
            continue
        source = f"{i.name}_source"
        sizes = [max(int(k), 0) for k in x.reshape(-1)]
        nodes.append(onnx.helper.make_node("Shape", [source], [f"{source}_shape"]))
        parts = []
        for j, k in enumerate(x.reshape(-1)):
            at, part = f"{source}_at{j}", f"{source}_{j}"
            if k < least:
                graph.initializer.append(onnx.numpy_helper.from_array(np.array([k], np.int64), part))
            else:
                graph.initializer.append(onnx.numpy_helper.from_array(np.array([j], np.int64), at))
                nodes.append(onnx.helper.make_node("Gather", [f"{source}_shape", at], [part]))
            parts.append(part)
        joined = i.name if x.ndim else f"{source}_vector"
        nodes.append(onnx.helper.make_node("Concat", parts, [joined], axis=0))
        if not x.ndim:
            graph.initializer.append(onnx.numpy_helper.from_array(np.array([0], np.int64), f"{source}_axes"))
            nodes.append(onnx.helper.make_node("Squeeze", [joined, f"{source}_axes"], [i.name]))
        graph.input.remove(i)
        del feeds[i.name]
        graph.input.append(onnx.helper.make_tensor_value_info(source, onnx.TensorProto.FLOAT, sizes))
        feeds[source] = np.broadcast_to(np.float32(0), sizes)
    for node in reversed(nodes):
        graph.node.insert(0, node)


def plain(x: Any) -> Any:
    """A tensor proto (of types that numpy lacks) or a number as an array."""
    if isinstance(x, np.generic):
        return np.asarray(x)
    return serde.deserialize_tensor(x).numpy() if isinstance(x, onnx.TensorProto) else x


def examine(case: Any, kind: str) -> tuple[int, int]:
    inputs, outputs = ([plain(x) for x in side] for side in case.data_sets[0])
    feeds = {i.name: x for i, x in zip(case.model.graph.input, inputs, strict=False)}
    proto, feeds = variant(case.model, feeds, kind)
    model = serde.deserialize_model(proto)
    shapes.infer(model)
    env: dict[str, int] = {}
    declared(model, feeds, env)
    known = total = 0
    for value, actual in zip(model.graph.outputs, outputs, strict=True):
        k, n = check_value(value, actual, env, f"of {case.name}")
        known, total = known + k, total + n
    return known, total


@pytest.mark.parametrize("kind", KINDS)
def test_no_claim_is_wrong(kind: str) -> None:
    known = total = 0
    wrong: list[str] = []
    lacking: Counter[str] = Counter()
    for case in cases():
        try:
            k, n = examine(case, kind)
        except Wrong as e:
            wrong.append(f"{case.name}: {e}")
            continue
        known, total = known + k, total + n
        if k < n:
            lacking[case.model.graph.node[0].op_type] += n - k
    print(f"{kind}: {known} of {total} output dims known; unknown: {dict(lacking.most_common(25))}")
    assert not wrong, "\n".join(wrong[:40])
    assert known / total >= MIN_KNOWN[kind]


def test_every_dtype_is_found() -> None:
    missing = set()
    for case in cases():
        model = serde.deserialize_model(case.model)
        for value in model.graph.outputs:
            value.type = None
        shapes.infer(model)
        for node in model.graph:
            missing |= {node.op_type for v in node.outputs if v.name and v.type is None}
    assert not missing


def test_ranks_agree_where_types_are_plain() -> None:
    """A value of tensor type never gets a sequence's facts and the other way round."""
    for case in cases():
        model = serde.deserialize_model(case.model)
        shapes.infer(model)
        for graph in ir.all_graphs(model):
            for node in graph:
                for v in node.outputs:
                    if not isinstance(v.type, ir.TensorType | None):
                        assert shapes.dims(v) is None, (case.name, v.name)
