"""Large attentions without a mask go to the kernel that blocks them, and no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from olc import ir, storage, targets
from olc.analysis import shapes
from olc.passes import Context
from olc.pipeline import Options, optimize
from olc.session import session
from olc.targets import flash
from olc.targets.kernels import Kernels, Row

TARGET = targets.get("onnxruntime-cpu")
UNKNOWN = Kernels("onnxruntime", "0", {}, ())


def model(
    queries: str = "1100", keys: str = "1030", attributes: str = "q_num_heads = 2, kv_num_heads = 2", mask: str = "",
    results: str = "y",
) -> ir.Model:
    more = f", bool[{queries}, {keys}] mask" if mask else ""
    text = (
        f"(float[B, {queries}, 16] q, float[B, {keys}, 16] k, float[B, {keys}, 24] v{more}) => (float[B, {queries}, 24] y) "
        f"{{ {results} = Attention<{attributes}>(q, k, v{mask}) }}"
    )
    found = ir.serde.deserialize_model(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 23]> g {text}'))
    shapes.infer(found)
    return found


def operators(m: ir.Model) -> list[str]:
    return [n.op_type for n in m.graph]


@pytest.mark.parametrize("scale", ["", ", scale = 0.25"])
def test_the_same_comes_out(scale: str, tmp_path: Path) -> None:
    made = model(attributes=f"q_num_heads = 2, kv_num_heads = 2{scale}")
    found = []
    random = np.random.default_rng(0)
    sizes = {"q": (2, 1100, 16), "k": (2, 1030, 16), "v": (2, 1030, 24)}
    feed = {name: random.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    for expected in ("Attention", "MultiHeadAttention"):
        assert operators(made) == [expected]
        storage.save(made, tmp_path / "m.onnx")
        found.append(session(tmp_path / "m.onnx", threads=1).run(None, feed)[0])
        flash.run(made, Context(target=TARGET), "lower", UNKNOWN)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-5)  # sums over 1,030 keys in another order


@pytest.mark.parametrize("other", [
    model(queries="1023"), model(keys="1023"), model(queries="S"), model(mask=", mask"),
    model(attributes="q_num_heads = 2, kv_num_heads = 2, is_causal = 1"),
    model(attributes="q_num_heads = 2, kv_num_heads = 2, softcap = 30.0"),
    model(results="y, a, b, s"),
])  # fmt: skip
def test_of_another_kind_nothing_is_changed(other: ir.Model) -> None:
    assert flash.run(other, Context(target=TARGET), "lower", UNKNOWN) == 0
    assert operators(other) == ["Attention"]


@pytest.mark.parametrize(("ratio", "done"), [(0.9, 0), (1.0, 1)])
def test_the_table_decides(ratio: float, done: int) -> None:
    size = {"queries": 1024, "keys": 1024, "heads": 8, "size": 64}
    kernels = Kernels("onnxruntime", "0", {}, (Row(flash.NAME, size, ratio, ratio, ratio),))
    assert flash.run(model(), Context(target=TARGET), "lower", kernels) == done


def test_lowering_does_it_and_compiling_again_leaves_it() -> None:
    made = model()
    for _ in range(2):
        made.opset_imports[""] = 23
        optimize(made, Options(level=2), Context(target=TARGET))
        assert operators(made) == ["MultiHeadAttention"]
