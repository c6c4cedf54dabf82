"""Runs a model without the runtime that rules are written for, and compares what came out.

The reference evaluator of onnx runs every model that it can; operators that it lacks (those of com.microsoft) run on
ONNX Runtime with its optimizations off.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from .data import show

Arrays = list[np.ndarray]

_FLOAT_TYPES = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
# How many roundings of the output's dtype a CLOSE rule may add, relative to the largest number about. float64 is held
# to float32's: numbers that patterns name match to 1e-5, and attributes (epsilon, alpha) are float32.
_ROUNDING = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
_ALLOWED = {"float16": 16, "bfloat16": 8}


# Operators that the reference evaluator (onnx 1.23) quietly gets wrong on what matters here: Resize turns infinities
# into the largest number, BatchNormalization before opset 14 normalizes by the batch, ConvTranspose overlooks groups,
# Sum of one adds 0. ONNX Runtime has faults of its own: its Where turns -0.0 into 0.0, its GlobalMaxPool drops NaN.
_WRONG = frozenset({"Resize", "Upsample", "BatchNormalization", "ConvTranspose", "Sum"})


class CannotRun(Exception):
    """Neither engine implements the model."""


class Fails(Exception):
    """The model was run and raised."""


def reference(proto: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> Arrays:
    """Outputs by onnx's reference evaluator.

    Raises:
        CannotRun: it lacks an operator.
        Fails: the model raises.
    """
    from onnx.reference.op_run import RuntimeContextError, RuntimeImplementationError

    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            outputs = _evaluator(proto).run(None, dict(feed))
        # Not swallowed: the other engine answers then, and where that cannot either the case fails ("nothing was compared").
        except (NotImplementedError, RuntimeImplementationError, RuntimeContextError) as e:
            raise CannotRun(str(e)) from None
        except Exception as e:  # the evaluator raises whatever numpy raises
            raise Fails(f"{type(e).__name__}: {e}") from None
    return [_as_array(o) for o in outputs]


def _as_array(o: Any) -> np.ndarray:
    return np.asarray(o if not isinstance(o, list) else np.array(o, dtype=object))


def runtime(proto: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> Arrays:
    """Outputs by ONNX Runtime, its optimizations off."""
    try:
        session = _session(proto)
    except Exception as e:
        raise CannotRun(f"{type(e).__name__}: {e}") from None
    try:
        return [_as_array(o) for o in session.run(None, dict(feed))]
    except Exception as e:
        raise Fails(f"{type(e).__name__}: {e}") from None


_OPENED: deque[tuple[str, bytes, Any]] = deque(maxlen=6)
"""What runs the last few models: one is run on several feeds, in turn with what it became."""


def _opened(engine: str, proto: onnx.ModelProto, open_it: Callable[[bytes], Any]) -> Any:
    source = proto.SerializeToString()
    for name, of, held in _OPENED:
        if name == engine and of == source:
            return held
    held = open_it(source)
    _OPENED.append((engine, source, held))
    return held


def _evaluator(proto: onnx.ModelProto) -> Any:
    from onnx.reference import ReferenceEvaluator

    return _opened("reference", proto, ReferenceEvaluator)


def _session(proto: onnx.ModelProto) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return _opened("runtime", proto, lambda data: ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]))


def _operators(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    for n in nodes:
        yield n.op_type
        for a in n.attribute:
            if a.type == onnx.AttributeProto.GRAPH:
                yield from _operators(a.g.node)


def run(proto: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> tuple[Arrays, bool]:
    """Outputs by the reference evaluator, or by ONNX Runtime where that lacks or fails an operator; and whether it was
    the first.

    Raises:
        CannotRun: neither can.
        Fails: the model raises.
    """
    if not _WRONG.isdisjoint(_operators(proto.graph.node)):
        return runtime(proto, feed), False
    try:
        found = reference(proto, feed)
        if _as_declared(proto, found):
            return found, True
    except CannotRun:
        return runtime(proto, feed), False
    # It has faults that show: its global pools know two dims only.
    try:
        return runtime(proto, feed), False
    except (CannotRun, Fails):
        return found, True


def _as_declared(proto: onnx.ModelProto, outputs: Arrays) -> bool:
    """Have the outputs the shapes that the model declares for them?"""
    return all(_fits(v, a) for v, a in zip(proto.graph.output, outputs, strict=True))


def _fits(declared: onnx.ValueInfoProto, a: np.ndarray) -> bool:
    t = declared.type.tensor_type
    if not t.HasField("shape"):
        return True
    dims = t.shape.dim
    return len(dims) == a.ndim and all(
        d.dim_value == n for d, n in zip(dims, a.shape, strict=True) if d.HasField("dim_value")
    )


def consistent(proto: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> bool:
    """Does ONNX Runtime take the model and the feed? Where it lacks an operator: do the values inside have the shapes
    that onnx infers for them?"""
    try:
        runtime(proto, feed)
        return True
    except Fails:
        return False
    except CannotRun:
        pass
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    opened = onnx.ModelProto()
    opened.CopyFrom(proto)
    opened.graph.output.extend(v for v in inferred.graph.value_info if v.type.tensor_type.HasField("shape"))
    try:
        return _as_declared(opened, reference(opened, feed))
    except (CannotRun, Fails):
        return True


@dataclass(frozen=True)
class Difference:
    """What is wrong with a result, in words, and where: the position of the first element that differs and the shape of
    its output."""

    text: str
    at: tuple[int, ...] | None = None
    shape: tuple[int, ...] = ()


def compare(
    level: str, before: onnx.ModelProto, after: onnx.ModelProto, feed: Mapping[str, np.ndarray],
    original: tuple[Arrays, bool] | None = None,
) -> Difference | None:  # fmt: skip
    """How the second model's results break the promise of the safety level; None where they keep it.

    Args:
        original: what ``run`` gives for ``before`` on the feed, where it is known already.

    Raises:
        CannotRun: one of the models runs on neither engine.
        Fails: ``before`` rejects the feed.
    """
    old, by_reference = original if original is not None else run(before, feed)
    names = [o.name for o in before.graph.output]
    try:
        new, same = run(after, feed)
        if same != by_reference:
            # Both by one engine: the two disagree on what no standard says.
            old, new = _by_one(before, after, feed, (old, new))
    except Fails as e:
        try:  # perhaps a fault of the reference evaluator: its Mean does not broadcast
            old, new = runtime(before, feed), runtime(after, feed)
        except (CannotRun, Fails):
            return Difference(f"the original runs, the result fails: {e}")
    if level == "CLOSE":
        truth = _in_double(before, feed, old)
        scale = max((_largest(a) for a in [*feed.values(), *_initializers(before), *truth]), default=0.0)
    for i, name in enumerate(names):
        a, b = old[i], new[i]
        if a.dtype != b.dtype or a.shape != b.shape:
            return Difference(f"{name} was {a.dtype}{list(a.shape)}, is {b.dtype}{list(b.shape)}")
        if level == "EXACT" or a.dtype.kind in "biuOUS":
            at = _first_unequal(a, b) if level != "LOSSY" or a.dtype.kind == "b" else None
        elif level == "CLOSE":
            at = _first_far(a, b, truth[i], scale)
        else:
            at = _unlike(a, b)
        if at is not None:
            index = tuple(int(k) for k in np.unravel_index(at, a.shape)) if a.ndim else ()
            place = f" at {list(index)}" if index else ""
            return Difference(f"{name}{place} was {show(a[index])}, is {show(b[index])}", index, a.shape)
    return None


def _by_one(
    before: onnx.ModelProto, after: onnx.ModelProto, feed: Mapping[str, np.ndarray], known: tuple[Arrays, Arrays]
) -> tuple[Arrays, Arrays]:
    """Outputs of both models by one engine; where neither runs both, what is known."""
    for engine in (runtime, reference):
        try:
            return engine(before, feed), engine(after, feed)
        except (CannotRun, Fails):  # a kernel may want what lowering makes of the result
            continue
    return known


def _first_unequal(a: np.ndarray, b: np.ndarray) -> int | None:
    """Flat position of the first element whose bits differ, all NaN being one."""
    if a.dtype.kind == "c":
        parts = (_first_unequal(p.copy(), q.copy()) for p, q in ((a.real, b.real), (a.imag, b.imag)))
        return next((p for p in parts if p is not None), None)
    x, y = np.ascontiguousarray(a).reshape(-1), np.ascontiguousarray(b).reshape(-1)
    if _is_float(a):
        bits = np.dtype(f"u{a.dtype.itemsize}")
        bad = (x.view(bits) != y.view(bits)) & ~(np.isnan(x) & np.isnan(y))
    else:
        bad = x != y
    return int(np.flatnonzero(bad)[0]) if bad.any() else None


def _is_float(a: np.ndarray) -> bool:
    return a.dtype.kind == "f" or a.dtype.name == "bfloat16"


def _largest(a: np.ndarray) -> float:
    if a.size == 0 or not _is_float(a):
        return 0.0
    x = np.abs(a.astype(np.float64))
    return float(x[np.isfinite(x)].max(initial=0.0))


def _first_far(old: np.ndarray, new: np.ndarray, truth: np.ndarray, scale: float) -> int | None:
    """Position of the first element that is farther from the truth than its dtype's rounding and the original's own
    error allow. Only where the truth and the original are finite: elsewhere the real-number function says nothing."""
    if truth.shape != old.shape:
        truth = old
    a, b, t = (np.asarray(x).astype(np.float64).reshape(-1) for x in (old, new, truth))
    judged = np.isfinite(t) & np.isfinite(a)
    name = old.dtype.name
    with np.errstate(all="ignore"):
        own = np.abs(a - t)[judged].max(initial=0.0)
        room = _ALLOWED.get(name, 64) * _ROUNDING.get(name, 2.0**-23) * max(scale, 1e-6) + 16 * own
        bad = judged & ~((np.abs(b - t) <= room) & np.isfinite(b))
    return int(np.flatnonzero(bad)[0]) if bad.any() else None


def _unlike(a: np.ndarray, b: np.ndarray) -> int | None:
    """For LOSSY: finite where the original is, and pointing the same way (cosine 0.9)."""
    x, y = a.astype(np.float64).reshape(-1), b.astype(np.float64).reshape(-1)
    bad = np.isfinite(x) & ~np.isfinite(y)
    if bad.any():
        return int(np.flatnonzero(bad)[0])
    ok = np.isfinite(x) & np.isfinite(y)
    x, y = x[ok], y[ok]
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    return 0 if x.size and size > 0 and float(x @ y) / size < 0.9 else None


def _in_double(proto: onnx.ModelProto, feed: Mapping[str, np.ndarray], native: Arrays) -> Arrays:
    """Outputs of the model computed in float64 where that can be; else the native ones."""
    try:
        wide = {k: v.astype(np.float64) if _is_float(v) else v for k, v in feed.items()}
        return run(_opened("in double", proto, lambda _: in_double(proto)), wide)[0]
    except (CannotRun, Fails):
        return native


def in_double(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every float, Cast and constant as float64."""
    wide = onnx.ModelProto()
    wide.CopyFrom(proto)
    _widen_graph(wide.graph)
    for f in wide.functions:
        for n in f.node:
            _widen_node(n)
    return wide


def _widen_graph(g: onnx.GraphProto) -> None:
    for v in [*g.input, *g.output, *g.value_info]:
        if v.type.tensor_type.elem_type in _FLOAT_TYPES:
            v.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    for t in g.initializer:
        _widen_tensor(t)
    for n in g.node:
        _widen_node(n)


def _widen_tensor(t: onnx.TensorProto) -> None:
    if t.data_type in _FLOAT_TYPES:
        t.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(t).astype(np.float64), t.name))


def _widen_node(n: onnx.NodeProto) -> None:
    if n.op_type == "GroupNormalization" and not any(a.name == "stash_type" for a in n.attribute):
        # Its body subtracts the square of the mean from the mean of squares, in float32 unless told otherwise.
        n.attribute.append(onnx.helper.make_attribute("stash_type", onnx.TensorProto.DOUBLE))
    for a in n.attribute:
        if a.type == onnx.AttributeProto.TENSOR:
            _widen_tensor(a.t)
        elif a.type == onnx.AttributeProto.GRAPH:
            _widen_graph(a.g)
        elif a.name in ("to", "dtype") and a.i in _FLOAT_TYPES:
            a.i = onnx.TensorProto.DOUBLE
        elif n.op_type == "Constant" and a.name in ("value_float", "value_floats"):
            numbers = np.asarray(a.f if a.name == "value_float" else list(a.floats), dtype=np.float64)
            a.CopyFrom(onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(numbers)))


def _initializers(proto: onnx.ModelProto) -> Arrays:
    """The constants that the model holds, for the scale of its numbers."""
    found = [onnx.numpy_helper.to_array(t) for t in proto.graph.initializer]
    tensors = [a.t for n in proto.graph.node for a in n.attribute if a.type == onnx.AttributeProto.TENSOR]
    return found + [onnx.numpy_helper.to_array(t) for t in tensors]
