"""Shape rules of ONNX Runtime's own operators against what its kernels give."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from olc.analysis import shapes
from onnx_ir import serde
from shape_soundness import check_value, declared

MS = "com.microsoft"
RNG = np.random.default_rng(0)


def f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


Q8 = RNG.integers(0, 255, (32, 16)).astype(np.uint8)
SCALE, ZERO = np.array(0.1, np.float32), np.array(3, np.uint8)
U8 = RNG.integers(0, 255, (2, 5, 32)).astype(np.uint8)

# operator, attributes, inputs (None: omitted), number of outputs
CASES: list[tuple[str, dict[str, Any], list[Any], int]] = [
    ("Gelu", {}, [f32(2, 5, 8)], 1),
    ("FastGelu", {}, [f32(2, 5, 8), f32(8)], 1),
    ("QuickGelu", {"alpha": 1.702}, [f32(2, 5, 8)], 1),
    ("BiasGelu", {}, [f32(2, 5, 8), f32(8)], 1),
    ("SkipLayerNormalization", {}, [f32(2, 5, 8), f32(2, 5, 8), f32(8), f32(8)], 1),
    ("SkipSimplifiedLayerNormalization", {}, [f32(2, 5, 8), f32(2, 5, 8), f32(8)], 1),
    ("FusedMatMul", {"transB": 1, "alpha": 0.5}, [f32(2, 5, 8), f32(2, 7, 8)], 1),
    ("FusedMatMul", {"transA": 1}, [f32(2, 8, 5), f32(8, 7)], 1),
    ("FusedGemm", {"transB": 1, "activation": "Relu"}, [f32(5, 8), f32(7, 8), f32(7)], 1),
    ("FusedConv", {"activation": "Relu", "pads": [1, 1, 1, 1]}, [f32(2, 3, 8, 8), f32(4, 3, 3, 3), f32(4)], 1),
    ("DynamicQuantizeMatMul", {}, [f32(2, 5, 32), Q8, SCALE, ZERO], 1),
    ("MatMulIntegerToFloat", {}, [U8, Q8, SCALE, SCALE, ZERO, ZERO], 1),
    (
        "MatMulNBits",
        {"K": 32, "N": 16, "bits": 4, "block_size": 32},
        [f32(2, 5, 32), RNG.integers(0, 255, (16, 1, 16)).astype(np.uint8), f32(16)],
        1,
    ),
    ("QLinearAdd", {}, [U8, SCALE, ZERO, U8[:1], SCALE, ZERO, SCALE, ZERO], 1),
    ("QLinearSigmoid", {}, [U8, SCALE, ZERO, SCALE, ZERO], 1),
    ("QuantizeLinear", {}, [f32(2, 5), SCALE, ZERO], 1),
    ("DequantizeLinear", {}, [U8, SCALE, ZERO], 1),
    ("Attention", {"num_heads": 4}, [f32(2, 5, 16), f32(16, 48), f32(48), None, f32(2, 2, 4, 3, 4)], 2),
    ("MultiHeadAttention", {"num_heads": 4}, [f32(2, 5, 16), f32(2, 7, 16), f32(2, 7, 24)], 1),
    (
        "MultiHeadAttention",
        {"num_heads": 4},
        [f32(2, 5, 16), f32(2, 5, 16), f32(2, 5, 16), None, None, None, f32(2, 4, 3, 4), f32(2, 4, 3, 4)],
        3,
    ),
    (
        "GroupQueryAttention",
        {"num_heads": 4, "kv_num_heads": 2},
        [f32(1, 5, 32), f32(1, 5, 16), f32(1, 5, 16), None, None, np.array([4], np.int32), np.array(5, np.int32)],
        3,
    ),
    ("ExpandDims", {}, [f32(2, 5), np.array(1, np.int32)], 1),
    ("Trilu", {"upper": 0}, [f32(5, 5)], 1),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c[0])
@pytest.mark.parametrize("symbolic", [False, True])
def test_facts_hold_in_a_run(case: tuple[str, dict[str, Any], list[Any], int], symbolic: bool) -> None:
    op, attributes, inputs, outputs = case
    feeds = {f"i{i}": x for i, x in enumerate(inputs) if x is not None}
    held = {k: x for k, x in feeds.items() if x.dtype == np.int32 and x.ndim == 0}
    given = {k: x for k, x in feeds.items() if k not in held}
    infos = [
        onnx.helper.make_tensor_value_info(
            k,
            onnx.helper.np_dtype_to_tensor_dtype(x.dtype),
            [f"{k}_{axis}" for axis in range(x.ndim)] if symbolic else x.shape,
        )
        for k, x in given.items()
    ]
    names = ["" if x is None else f"i{i}" for i, x in enumerate(inputs)]
    results = [f"o{i}" for i in range(outputs)]
    node = onnx.helper.make_node(op, names, results, domain=MS, **attributes)
    graph = onnx.helper.make_graph(
        [node], "g", infos, [onnx.ValueInfoProto(name=n) for n in results],
        [onnx.numpy_helper.from_array(x, k) for k, x in held.items()],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid(MS, 1)]
    proto = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    got = ort.InferenceSession(proto.SerializeToString(), options).run(results, given)
    model = serde.deserialize_model(proto)
    shapes.infer(model)
    env: dict[str, int] = {}
    declared(model, given, env)
    for value, x in zip(model.graph.outputs, got, strict=True):
        known, total = check_value(value, x, env, op)
        assert shapes.dims(value) is not None
        assert value.dtype is not None
        assert known == total or op == "GroupQueryAttention"  # its cache may be shared with the past
