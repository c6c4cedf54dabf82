"""onnxsim as one optional step: an independent simplifier, run apart and believed only as far as it can be checked.

Its result is taken only where it verifies, keeps inputs, outputs and opsets, and has fewer nodes; else the log says
why not. Sound because only those of its rewrites are on that are exact by the operators' definitions, and folding is
done by ONNX Runtime itself (see ``NOT_EXACT`` for what is off).

* It runs in a child process with limits on time and memory, since native code may crash or never end.
* It is given a model in memory, never a path: given a path it reads external data outside the model's folder.
* Initializers above ``BIG`` and those that a caller may override are shown to it as inputs, so that it neither holds
  nor changes them; they are put back as they were, still mapped.
* It drops metadata, documentation and quantization annotations: they are joined back by the names of tensors.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from .. import ir, verifier
from ..deserialize import QUANTIZATION, VALUE_INFO, from_proto
from ..serialize import to_proto
from . import Context
from .edit import defined

NAME = "simplify"

BIG = 1 << 20
MOST_BYTES = 1_500_000_000
SECONDS = 300
MEMORY = 8 << 30

NOT_EXACT = (
    "eliminate_nop_monotone_argmax",  # softmax may round two different scores to the same number
    "eliminate_nop_with_unit",  # -0.0 + 0.0 is 0.0
    "fuse_add_bias_into_conv",
    "fuse_bn_into_conv",
    "fuse_consecutive_log_softmax",
    "fuse_matmul_add_bias_into_gemm",
    "fuse_pad_into_conv",
    "fuse_pad_into_pool",
    "fuse_qkv",
    "fuse_transpose_into_gemm",
    "rewrite_where",
)


def run(model: ir.Model, ctx: Context) -> int:
    """Simplify the model; returns by how many nodes it shrank, 0 where the result was refused."""
    site = model.graph.name
    stubs, problem = _stubs(model.graph)
    if problem is None:
        proto = _stubbed(model, stubs)
        size = proto.ByteSize()
        if size > MOST_BYTES:
            problem = f"{size:,} bytes besides the large initializers are too many for onnxsim"
    if problem is not None:
        ctx.record(NAME, site, f"not run: {problem}")
        return 0
    result, problem = _child(proto, ctx.fold_bytes)
    if result is None:
        ctx.record(NAME, site, f"refused: {problem}")
        return 0
    graph, problem = _accept(model, proto, result, stubs)
    if graph is None:
        ctx.record(NAME, site, f"refused: {problem}")
        return 0
    before, after = _count(model.graph), _count(graph)
    _join(model.graph, graph)
    model.graph = graph
    ctx.record(NAME, site, f"onnxsim: {before:,} nodes became {after:,}")
    return before - after


def _count(graph: ir.Graph) -> int:
    return sum(len(g) for g in _graphs(graph))


def _graphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    stack = [graph]
    while stack:
        current = stack.pop()
        yield current
        stack.extend(body for node in current for body in ir.subgraphs(node))


def _stubs(graph: ir.Graph) -> tuple[dict[str, ir.Value], str | None]:
    """Initializers to be shown as inputs: large ones, wherever they lie, and those that a caller may override."""
    stubs: dict[str, ir.Value] = {}
    for current in _graphs(graph):
        for name, value in current.initializers.items():
            tensor = value.const_value
            if tensor is None or not (value.is_graph_input() or tensor.nbytes > BIG):
                continue
            if value.is_graph_output():
                return {}, f"the large initializer {name!r} is an output"
            if name in stubs:
                return {}, f"two large initializers are called {name!r}"
            stubs[name] = value
    return stubs, None


def _stubbed(model: ir.Model, stubs: dict[str, ir.Value]) -> Any:
    """The model as a proto without the stubs' data."""
    import onnx.helper

    # A placement keeps the data out of the proto; the entry itself is removed below.
    tensors = {id(v.const_value) for v in stubs.values()}
    proto = to_proto(model, lambda tensor: ("stub", 0, tensor.nbytes) if id(tensor) in tensors else None)
    declared = {v.name for v in proto.graph.input}
    for graph in _proto_graphs(proto.graph):
        kept = [t for t in graph.initializer if t.name not in stubs]
        if len(kept) < len(graph.initializer):
            del graph.initializer[:]
            graph.initializer.extend(kept)
        info = [v for v in graph.value_info if v.name not in stubs]
        if len(info) < len(graph.value_info):
            del graph.value_info[:]
            graph.value_info.extend(info)
    for name, value in stubs.items():
        if name not in declared:
            tensor = value.const_value
            assert tensor is not None
            dims = [int(d) for d in tensor.shape.numpy()]
            proto.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.dtype.value, dims))
    return proto


def _proto_graphs(graph: Any) -> Iterator[Any]:
    stack = [graph]
    while stack:
        current = stack.pop()
        yield current
        for node in current.node:
            for a in node.attribute:
                stack.extend([a.g] if a.HasField("g") else a.graphs)


def _child(proto: Any, fold_bytes: int) -> tuple[Any | None, str]:
    """onnxsim's result, or None and what happened."""
    import onnx
    from google.protobuf.message import DecodeError

    command = [sys.executable, "-m", __name__, str(fold_bytes), str(MEMORY)]
    with tempfile.TemporaryDirectory(prefix="olc-simplify-") as folder:
        # The child imports this package from wherever this process did.
        search = os.pathsep.join(os.path.abspath(p) for p in sys.path if p)
        try:
            done = subprocess.run(
                command, input=proto.SerializeToString(), capture_output=True, timeout=SECONDS, cwd=folder,
                env={**os.environ, "PYTHONPATH": search},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return None, f"onnxsim took longer than {SECONDS} seconds"
    if done.returncode < 0:
        return None, f"onnxsim crashed ({signal.Signals(-done.returncode).name})"
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        return None, f"onnxsim failed: {lines[-1] if lines else f'exit code {done.returncode}'}"
    result = onnx.ModelProto()
    try:
        result.ParseFromString(done.stdout)
    except DecodeError as error:
        return None, f"onnxsim returned no model: {error}"
    return result, ""


def _accept(model: ir.Model, given: Any, result: Any, stubs: dict[str, ir.Value]) -> tuple[ir.Graph | None, str]:
    """The graph of the result with the stubs put back, or None and why it is not believed."""
    for side in ("input", "output"):
        names = [[v.name for v in getattr(p.graph, side)] for p in (given, result)]
        if names[0] != names[1]:
            return None, f"the {side}s changed from {_few(names[0])} to {_few(names[1])}"
    imports = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in result.opset_import}
    if any(imports.get(domain) != version for domain, version in model.opset_imports.items()):
        return None, f"the opsets changed to {imports}"
    read, problems = from_proto(result)
    if problems:
        return None, f"the result cannot be read: {problems[0].what}"
    graph = read.graph
    _restore(model.graph, graph, stubs)
    graph.opset_imports.clear()
    graph.opset_imports.update(model.opset_imports)
    if _count(graph) >= _count(model.graph):
        return None, f"the result is not smaller ({_count(graph):,} nodes)"
    candidate = ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values()))
    found = verifier.verify(candidate)
    if found:
        return None, f"the result does not verify: {found[0].where}: {found[0].what}"
    return graph, ""


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _restore(old: ir.Graph, new: ir.Graph, stubs: dict[str, ir.Value]) -> None:
    """Inputs and outputs as they were declared, and the stubs as initializers of the main graph."""
    inputs = {v.name: v for v in new.inputs}
    new.inputs.clear()
    new.inputs.extend(inputs[v.name] for v in old.inputs)
    for before, after in (*zip(old.inputs, new.inputs, strict=True), *zip(old.outputs, new.outputs, strict=True)):
        after.type, after.shape = before.type, before.shape
    for name, source in stubs.items():
        value = inputs[name]
        value.const_value, value.type, value.shape = source.const_value, source.type, source.shape
        new.register_initializer(value)


def _join(old: ir.Graph, new: ir.Graph) -> None:
    """Give nodes and values back what onnxsim dropped, by the names of tensors."""
    new.name, new.doc_string = old.name, old.doc_string
    new.metadata_props.update(old.metadata_props)
    for key, fact in old.meta.items():
        new.meta.setdefault(key, fact)
    nodes: dict[str, ir.Node] = {}
    values: dict[str, ir.Value] = {}
    for graph in _graphs(old):
        for value in defined(graph):
            if value.name:
                values[value.name] = value
        for node in graph:
            nodes.update((v.name, node) for v in node.outputs if v.name)
    for graph in _graphs(new):
        for value in defined(graph):
            source = values.get(value.name or "")
            if source is not None:
                value.doc_string = source.doc_string
                value.metadata_props.update(source.metadata_props)
                # Facts are not taken over: they are derived anew from the nodes that are there now.
                value.meta.update((k, source.meta[k]) for k in (QUANTIZATION, VALUE_INFO) if k in source.meta)
        for node in graph:
            origin = next((nodes[v.name] for v in node.outputs if v.name in nodes), None)
            if origin is not None:
                node.name = origin.name
                node.doc_string = origin.doc_string
                node.metadata_props.update(origin.metadata_props)
                node.device_configurations = origin.device_configurations


def _main() -> None:
    """The child: a model on standard input, the simplified one on standard output."""
    fold_bytes, memory = int(sys.argv[1]), int(sys.argv[2])
    out = os.dup(1)
    os.dup2(2, 1)  # what onnxsim prints must not get between the bytes
    if os.name == "posix":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    import onnx
    import onnxsim

    model = onnx.ModelProto()
    model.ParseFromString(sys.stdin.buffer.read())
    simplified, _ = onnxsim.simplify(
        model,
        skipped_optimizers=list(NOT_EXACT),
        tensor_size_threshold=f"{fold_bytes}B",
        include_subgraph=True,
        certify=False,
    )
    with os.fdopen(out, "wb") as stream:
        stream.write(simplified.SerializeToString())


if __name__ == "__main__":
    _main()
