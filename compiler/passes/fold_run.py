"""Runs nodes on constants: many in one ONNX Runtime session, and the reference evaluator for what that cannot run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx

from .. import ir

__all__ = ["Failure", "run_nodes"]

_T = ir.DataType
# What numpy and ONNX Runtime exchange directly.
_PLAIN = frozenset(
    (
        _T.FLOAT, _T.DOUBLE, _T.FLOAT16, _T.INT64, _T.INT32, _T.INT16, _T.INT8, _T.UINT64, _T.UINT32, _T.UINT16,
        _T.UINT8, _T.BOOL,
    )
)  # fmt: skip
# Constants up to this size become initializers of the session's model: some kernels want axes and the like so.
_HELD = 1024
_IR_VERSION = 10

# Why a node could not be evaluated.
Failure = str


def run_nodes(
    nodes: Sequence[ir.Node], wanted: Sequence[ir.Value], opsets: Mapping[str, int]
) -> tuple[dict[ir.Value, np.ndarray], dict[ir.Node, Failure]]:
    """Evaluate nodes whose inputs are constants or results of nodes before them.

    Args:
        nodes: in topological order, without subgraphs.
        wanted: the results to return.
        opsets: the operator sets by which the nodes are meant.

    Returns:
        The arrays of the wanted values that could be evaluated, and the reason for each node that could not.
    """
    known: dict[ir.Value, np.ndarray] = {}
    failed: dict[ir.Node, Failure] = {}
    _evaluate(list(nodes), set(wanted), dict(opsets), known, failed)
    return {v: known[v] for v in wanted if v in known}, failed


def _evaluate(
    nodes: list[ir.Node],
    wanted: set[ir.Value],
    opsets: dict[str, int],
    known: dict[ir.Value, np.ndarray],
    failed: dict[ir.Node, Failure],
) -> None:
    """Evaluate the nodes together; where the session cannot be made, halve them until the culprit is alone."""
    lost = {v for n in failed for v in n.outputs}
    runnable: list[ir.Node] = []
    for node in nodes:
        if any(v in lost for v in node.inputs if v is not None):
            failed[node] = "an input could not be evaluated"
            lost.update(node.outputs)
        else:
            runnable.append(node)
    if not runnable:
        return
    exotic = len(runnable) == 1 and not _is_plain(runnable[0])
    if not exotic and _runs(tuple(sorted(opsets.items()))):
        try:
            known.update(_session(runnable, wanted, opsets, known))
            return
        except Exception as error:
            # ONNX Runtime raises types of its own, one per status code, without a common base.
            reason = str(error)
    else:
        reason = ""
    if len(runnable) == 1:
        try:
            known.update(_reference(runnable[0], opsets, known))
        except Exception as error:
            # The reference evaluator is Python code that raises anything on a node that cannot run.
            failed[runnable[0]] = reason or f"{type(error).__name__}: {error}"
        return
    middle = len(runnable) // 2
    first, second = runnable[:middle], runnable[middle:]
    carried = {v for n in second for v in n.inputs if v is not None}
    _evaluate(first, wanted | carried, opsets, known, failed)
    _evaluate(second, wanted, opsets, known, failed)


def _is_plain(node: ir.Node) -> bool:
    return all(v is None or v.dtype in _PLAIN or v.dtype is None for v in (*node.inputs, *node.outputs))


def _array(value: ir.Value, known: Mapping[ir.Value, np.ndarray]) -> np.ndarray:
    found = known.get(value)
    if found is None:
        found = ir.array(value)
        if found is None:
            raise ValueError(f"{value.name!r} is no constant")
    return found


def _proto(nodes: Sequence[ir.Node], names: dict[ir.Value, str]) -> list[onnx.NodeProto]:
    """The nodes with made-up value names: those of different graphs may be equal."""
    out = []
    for node in nodes:
        proto = onnx.NodeProto(op_type=node.op_type, domain=node.domain)
        proto.input.extend("" if v is None else names.setdefault(v, f"v{len(names)}") for v in node.inputs)
        proto.output.extend(names.setdefault(v, f"v{len(names)}") if v.name else "" for v in node.outputs)
        proto.attribute.extend(ir.serde.to_proto(a) for a in node.attributes.values())
        out.append(proto)
    return out


def _model(
    nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any], held: list[Any], opsets: Mapping[str, int]
) -> onnx.ModelProto:
    graph = onnx.helper.make_graph(nodes, "fold", inputs, outputs, held)
    imports = [onnx.helper.make_opsetid(k, v) for k, v in opsets.items()]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION)


def _session(
    nodes: Sequence[ir.Node], wanted: set[ir.Value], opsets: Mapping[str, int], known: Mapping[ir.Value, np.ndarray]
) -> dict[ir.Value, np.ndarray]:
    names: dict[ir.Value, str] = {}
    protos = _proto(nodes, names)
    made = {v for n in nodes for v in n.outputs}
    inputs, held, feeds = [], [], {}
    for value, name in names.items():
        if value in made:
            continue
        data = _array(value, known)
        dtype = ir.Tensor(data).dtype if data.dtype != object else _T.STRING
        if dtype not in _PLAIN or (data.nbytes <= _HELD and value not in known):
            held.append(ir.serde.serialize_tensor(ir.Tensor(data, name=name)))
        else:
            inputs.append(onnx.helper.make_tensor_value_info(name, int(dtype), data.shape))
            feeds[name] = np.ascontiguousarray(data).reshape(data.shape)
    results = [v for v in names if v in made and v in wanted and v.name]
    outputs = [onnx.ValueInfoProto(name=names[v]) for v in results]
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    data = _model(protos, inputs, outputs, held, opsets).SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    run_options = ort.RunOptions()
    run_options.log_severity_level = 4
    got = session.run([names[v] for v in results], feeds, run_options)
    return {v: np.asarray(x) for v, x in zip(results, got, strict=True)}


def _reference(node: ir.Node, opsets: Mapping[str, int], known: Mapping[ir.Value, np.ndarray]) -> dict[ir.Value, np.ndarray]:
    from onnx.reference import ReferenceEvaluator

    names: dict[ir.Value, str] = {}
    protos = _proto([node], names)
    feeds = {names[v]: _array(v, known) for v in node.inputs if v is not None}
    inputs = [onnx.ValueInfoProto(name=k) for k in feeds]
    outputs = [onnx.ValueInfoProto(name=names[v]) for v in node.outputs if v.name]
    model = _model(protos, inputs, outputs, [], opsets)
    with np.errstate(all="ignore"):
        got = ReferenceEvaluator(model).run(None, feeds)
    named = [v for v in node.outputs if v.name]
    return {v: np.asarray(x) for v, x in zip(named, got, strict=True)}


@lru_cache(maxsize=64)
def _runs(opsets: tuple[tuple[str, int], ...]) -> bool:
    """Whether ONNX Runtime accepts models of these operator sets at all."""
    import onnxruntime as ort

    x = onnx.helper.make_tensor_value_info("x", 1, [1])
    y = onnx.helper.make_tensor_value_info("y", 1, [1])
    proto = _model([onnx.helper.make_node("Identity", ["x"], ["y"])], [x], [y], [], dict(opsets))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:
        # as above: no common base; any refusal means the same here
        return False
    return True
