"""What the pass tests share: model text in, the pass, and ONNX Runtime without its optimizer as the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir
import onnxruntime as ort
from olc import ir, verifier
from olc.passes import Context

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0]


def parse(text: str, ir_version: int = 10, opset: int = 18, imports: str = "", functions: str = "", check: bool = True) -> Any:
    """A ModelProto from a graph in ONNX text."""
    header = f'<ir_version: {ir_version}, opset_import: ["" : {opset}{imports}]>'
    proto = onnx.parser.parse_model(f"{header}\n{text}\n{functions}")
    if check:
        onnx.checker.check_model(proto)
    return proto


def load(proto: Any) -> ir.Model:
    """Our model of a proto; the proto stays as it is."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return onnx_ir.from_proto(copy)


def save(model: ir.Model) -> Any:
    """A checked ModelProto of our model."""
    proto = onnx_ir.to_proto(model)
    onnx.checker.check_model(proto)
    return proto


def feeds(proto: Any, seed: int = 0, **given: Any) -> dict[str, np.ndarray]:
    """Random inputs with special values mixed in; unknown dims are 2."""
    rng = np.random.default_rng(seed)
    found: dict[str, np.ndarray] = {}
    constants = {t.name for t in proto.graph.initializer}
    for info in proto.graph.input:
        if info.name in given:
            found[info.name] = np.asarray(given[info.name])
        elif info.name not in constants:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
            shape = [d.dim_value or 2 for d in info.type.tensor_type.shape.dim]
            found[info.name] = _random(rng, np.dtype(dtype), shape)
    return found


def _random(rng: np.random.Generator, dtype: np.dtype, shape: list[int]) -> np.ndarray:
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        return rng.integers(0, 5, shape).astype(dtype)
    data = np.asarray(rng.standard_normal(shape) * 3)
    for i in range(0, data.size, 3):
        data.reshape(-1)[i] = SPECIAL[(i // 3) % len(SPECIAL)]
    return data.astype(dtype)


def run(proto: Any, feed: dict[str, np.ndarray]) -> list[Any]:
    """The outputs, by ONNX Runtime with its optimizer off."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feed)


def assert_same(before: list[Any], after: list[Any], tolerance: float = 0.0) -> None:
    """Equal bit for bit but for the payload of a NaN, or within a relative tolerance."""
    assert len(before) == len(after)
    for a, b in zip(before, after, strict=True):
        if isinstance(a, list):
            assert_same(a, b, tolerance)
            continue
        assert (a is None) == (b is None)
        if a is None:
            continue
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        if a.dtype.kind in "OSU":
            assert a.tolist() == b.tolist()
        elif tolerance:
            np.testing.assert_allclose(b.astype(np.float64), a.astype(np.float64), rtol=tolerance, atol=tolerance, equal_nan=True)
        elif a.dtype.kind in "fc":
            np.testing.assert_array_equal(a, b)  # equal NaN positions
            np.testing.assert_array_equal(np.signbit(a.real)[~np.isnan(a)], np.signbit(b.real)[~np.isnan(b)])
        else:
            np.testing.assert_array_equal(a, b)


def transform(module: Any, proto: Any, *args: Any, seeds: int = 2, **given: Any) -> tuple[Any, int, Context]:
    """Run a pass, check its result against the original on random inputs, and that a second run finds nothing.

    Returns the new proto, the number of changes, and the context with what was recorded.
    """
    model, ctx = load(proto), Context()
    changes = module.run(model, ctx, *args)
    assert verifier.verify(model) == []
    after = save(model)
    for seed in range(seeds):
        feed = feeds(proto, seed, **given)
        assert_same(run(proto, feed), run(after, feed))
    interface = [v.SerializeToString(deterministic=True) for v in proto.graph.output]
    assert [v.name for v in after.graph.output] == [v.name for v in proto.graph.output]
    assert [v.SerializeToString(deterministic=True) for v in after.graph.output] == interface
    assert module.run(model, Context(), *args) == 0
    return after, changes, ctx


def ops(graph: Any) -> list[str]:
    """Operators in order; bodies in brackets after their node."""
    found = []
    for node in graph.node:
        found.append(node.op_type)
        for a in node.attribute:
            if a.type == onnx.AttributeProto.GRAPH:
                found.append(ops(a.g))
    return found
