"""Files that another tool has optimised: what it fused comes out as what the plain export becomes, and right at every size."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from olc import ir, storage, targets
from olc.digest import digest
from olc.passes import Context
from olc.pipeline import Options, optimize

WIDTH, HEADS = 8, 2
BERT = """
    h, ends = com.microsoft.EmbedLayerNormalization<epsilon = 1e-12>(ids, kinds, words, places, segments, g, b, mask)
    a = com.microsoft.Attention<num_heads = 2>(h, qkv, qkv_bias, {mask})
    p = MatMul(a, w)
    n = com.microsoft.SkipLayerNormalization<epsilon = 1e-12>(p, h, g, b, bias)
    u = MatMul(n, w) e = com.microsoft.BiasGelu(u, bias) d = MatMul(e, w)
    y = com.microsoft.SkipLayerNormalization<epsilon = 1e-12>(d, n, g, b, bias)"""
LLAMA = """
    x = Gather(words, ids) i = Cast<to = 7>(kinds)
    n = SimplifiedLayerNormalization<axis = -1, epsilon = 1e-6, stash_type = 1>(x, g)
    q = MatMul(n, w) k = MatMul(n, w) v = MatMul(n, w)
    r = com.microsoft.RotaryEmbedding(q, i, cos, sin) s = com.microsoft.RotaryEmbedding(k, i, cos, sin)
    a = com.microsoft.MultiHeadAttention<num_heads = 2, unidirectional = 1, mask_filter_value = -3e38>(r, s, v, , mask)
    p = MatMul(a, w)
    m, z1, z2, t = com.microsoft.SkipSimplifiedLayerNormalization<epsilon = 1e-6>(x, p, g)
    l = com.microsoft.QuickGelu<alpha = 1.0>(m) o = MatMul(l, w)
    y = com.microsoft.SkipSimplifiedLayerNormalization<epsilon = 1e-6>(t, o, g)"""
FORMS = {"mask of keys": BERT.format(mask="mask"), "ends of texts": BERT.format(mask="ends"), "Llama": LLAMA}
EXPECTED = {"Attention": 1, "LayerNormalization": 3, "Gelu": 1}
EXPECTED_OF = {"Llama": {"Attention": 1, "RMSNormalization": 3, "RotaryEmbedding": 1, "QuickGelu": 1}}
"""Queries and keys are the same here, so that they are rotated once."""


def source(body: str, opset: int = 17) -> onnx.ModelProto:
    inputs = "int32[B,S] ids, int32[B,S] kinds, int32[B,S] mask"
    text = f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]> g ({inputs}) => (float[B,S,8] y) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "words": (50, WIDTH), "places": (32, WIDTH), "segments": (32, WIDTH), "g": (WIDTH,), "b": (WIDTH,), "bias": (WIDTH,),
        "qkv": (WIDTH, 3 * WIDTH), "qkv_bias": (3 * WIDTH,), "w": (WIDTH, WIDTH), "cos": (32, 2), "sin": (32, 2),
    }  # fmt: skip
    used = {i for n in proto.graph.node for i in n.input}
    for name, shape in shapes.items():
        if name in used:
            made = random.standard_normal(shape).astype(np.float32)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(made, name))
    for i, n in enumerate(proto.graph.node):
        n.name = f"{n.op_type}_{i}"
    return proto


def feed(batch: int, length: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(length)
    mask = np.ones((batch, length), np.int32)
    mask[1::2, max(1, length // 2) :] = 0
    ids, kinds = (random.integers(0, 32, (batch, length)).astype(np.int32) for _ in range(2))
    return {"ids": ids, "kinds": kinds, "mask": mask}


def compiled(proto: onnx.ModelProto) -> ir.Model:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    model = ir.serde.deserialize_model(copy)
    optimize(model, Options(level=2, strict=True, verify_each=True), Context(target=targets.get("onnxruntime-cpu")))
    return model


def opened(data: Any) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("form", FORMS)
def test_what_was_fused_comes_out_in_the_standards_operators(form: str, tmp_path: Path) -> None:
    proto = source(FORMS[form])
    model = compiled(proto)
    counts = Counter(n.op_type for n in model.graph)
    for op, number in EXPECTED_OF.get(form, EXPECTED).items():
        assert counts[op] == number, op
    assert {n.op_type for n in model.graph if n.domain} <= {"QuickGelu"}
    storage.save(model, tmp_path / "m.onnx")
    before, after = opened(proto.SerializeToString()), opened(str(tmp_path / "m.onnx"))
    for batch, length in ((1, 1), (1, 7), (2, 5), (3, 30)):
        given = feed(batch, length)
        a, b = before.run(None, given)[0], after.run(None, given)[0]
        kept = given["mask"] > 0
        np.testing.assert_allclose(a[kept], b[kept], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("form", FORMS)
def test_an_artifact_stays_as_it_is(form: str, tmp_path: Path) -> None:
    model = compiled(source(FORMS[form]))
    storage.save(model, tmp_path / "m.onnx")
    again = storage.load(tmp_path / "m.onnx")
    optimize(again, Options(level=2), Context(target=targets.get("onnxruntime-cpu")))
    assert digest(again) == digest(model)


def test_layer_normalization_of_before_the_standard_had_it() -> None:
    """ONNX Runtime's optimizers write it into files of any opset."""
    proto = source("x = Gather(words, ids) y = LayerNormalization<axis = -1, epsilon = 1e-5>(x, g, b)", opset=12)
    model = compiled(proto)
    assert model.opset_imports[""] == 23
    assert [n.op_type for n in model.graph] == ["Gather", "LayerNormalization"]


def test_unknown_forms_stay() -> None:
    body = BERT.format(mask="mask").replace("<num_heads = 2>", "<num_heads = 2, do_rotary = 1>")
    assert "com.microsoft" in {n.domain for n in compiled(source(body)).graph}
