"""TensorRT: by its own parser, or as an execution provider of ONNX Runtime.

The capability table is made of what the parser of TensorRT-RTX takes, which can be asked without a GPU. Where tensorrt-rtx is
installed::

    python -m olc.targets.tensorrt --write
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set
from typing import Any

from .. import ir
from ..errors import OlcError, Unsupported
from ..passes import Context
from . import cache_ports, capabilities, registry, rtx
from .capabilities import Kernel, Signature, Table
from .declared import Declared

NEWEST = 25
"""Opset of the standard domain, the last that the parser is documented to take."""

_COMPUTES = frozenset(("float", "float16", "bfloat16", "double", "int32", "int64", "bool"))
_HELD = {"Cast": {"uint8"}, "CastLike": {"uint8"}, "Identity": {"uint8"},
         "QuantizeLinear": {"int8", "int4", "float8e4m3fn", "float4e2m1"},
         "DequantizeLinear": {"int8", "int4", "float8e4m3fn", "float4e2m1"}}  # fmt: skip
"""Dtypes that single operators take besides."""
_HALF = frozenset(("float16", "bfloat16"))


class TensorRT(Declared):
    """The target ``tensorrt``: one engine of the whole model, strongly typed, integers by symmetric QDQ."""

    name = "tensorrt"
    opset = 23
    file = __file__
    providers = ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    runtime = "tensorrt"
    half = True
    beside = True
    cure = "give a model in float, or in symmetric int8, of rank 8 or less; or compile for onnxruntime-cuda"

    def features(self) -> dict[str, Any]:
        """Besides, what builds engines here."""
        return super().features() | {"tensorrt_rtx": rtx.version() if rtx.installed() else None}

    def proof(self, path: str | os.PathLike[str], feeds: Sequence[Mapping[str, Any]]) -> str | None:
        if not rtx.installed():
            return "no engine was built of it: tensorrt-rtx, which needs no GPU for that, is not installed"
        try:
            return rtx.build(path, feeds).text
        except Unsupported:
            raise
        except OlcError as e:  # that the builder crashed is no word on the model
            return f"no engine was built of it: {e.what}"

    def finish(self, model: ir.Model, ctx: Context, before: Set[tuple[str, str]] | None) -> int:
        """Besides, caches of attentions are written out (``cache_ports.py``)."""
        return cache_ports.run(model, ctx, f"lower:{self.name}") + super().finish(model, ctx, before)

    def limit(self, node: ir.Node) -> str | None:
        """What the parser takes and the builder refuses, or computes otherwise than the standard says."""
        if node.domain == "" and node.op_type == "Attention":
            more = len([o for o in node.outputs if o.name]) > 1 or any(v is not None for v in node.inputs[4:])
            return "Attention with a cache is not taken" if more else None
        if node.domain == "" and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return _qdq(node)
        if node.domain == "" and node.op_type in ("NonZero", "RoiAlign"):
            return "TensorRT needs a plugin for it"
        shape = next((len(v.shape) for v in (*node.inputs, *node.outputs) if v is not None and v.shape is not None
                      and len(v.shape) > 8), None)  # fmt: skip
        return None if shape is None else f"rank {shape}, and TensorRT goes to 8"


def _qdq(node: ir.Node) -> str | None:
    scale = ir.array(node.inputs[1])
    if scale is None:
        return "the scale is not a constant"
    if not bool((scale > 0).all()):
        return "a scale is not above 0"
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    held = None if zero is None else ir.array(zero)
    if zero is not None and (held is None or bool(held.astype("float32").any())):
        return "the zero point is not 0"
    given = ir.DataType(ir.attr(node, "output_dtype", 0) or ir.DataType.UINT8) if zero is None else zero.dtype
    if node.op_type == "QuantizeLinear" and given == ir.DataType.UINT8:
        return "it gives uint8, and TensorRT's integers are int8"
    return None


def generate() -> Table:
    """The table of the installed TensorRT-RTX: each operator at every opset up to ``NEWEST``, by what its parser says."""
    import onnx
    import onnx.defs
    import onnx.parser
    import tensorrt_rtx as trt

    log = rtx.logger()
    builder = trt.Builder(log)
    network = builder.create_network(0)  # the parser keeps no reference to it
    parser = trt.OnnxParser(network, log)
    forms: dict[tuple[str, str], list[Signature]] = {}
    kernels: dict[tuple[str, str], list[Kernel]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain or schema.since_version > NEWEST:
            continue
        key = ("", schema.name)
        sides = [tuple(registry.parameter(p, p.type_str) for p in side) for side in (schema.inputs, schema.outputs)]
        forms.setdefault(key, []).append(Signature(schema.since_version, sides[0], sides[1], {}, schema.deprecated))
        if parser.supports_operator(schema.name):
            types = {c.type_param_str: _taken(schema.name, c.allowed_type_strs) for c in schema.type_constraints}
            kernels.setdefault(key, []).append(Kernel(schema.since_version, schema.since_version, types))
    newest = 0
    for version in range(8, onnx.IR_VERSION + 8):
        text = f'<ir_version: {version}, opset_import: ["": 13]> g (float[1] x) => (float[1] y) {{ y = Neg (x) }}'
        held = builder.create_network(0)
        if not trt.OnnxParser(held, log).parse(onnx.parser.parse_model(text).SerializeToString()):
            break
        newest = version
    return Table("tensorrt-rtx", trt.__version__, TensorRT.providers[0], newest,
                 {key: tuple(sorted(found, key=lambda s: s.since)) for key, found in sorted(forms.items())},
                 {key: capabilities.merge(found) for key, found in sorted(kernels.items())})  # fmt: skip


def _taken(operator: str, allowed: Any) -> frozenset[str]:
    """Dtypes of a type variable that TensorRT takes. Attention it builds only in 16 bits."""
    names = {registry.bare(t) for t in allowed}
    taken = names & (_COMPUTES | _HELD.get(operator, set()))
    if operator == "Attention":
        taken &= _HALF | ({"bool"} if "bool" in names else set())
    return frozenset(taken)


TARGET = TensorRT()

if __name__ == "__main__":
    raise SystemExit(registry.main(__file__, generate))
