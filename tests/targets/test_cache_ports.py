"""Caches of attentions written as Concat: the kernel that has them is the oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from olc import ir, storage, targets
from olc.analysis import shapes
from olc.passes import Context
from olc.pipeline import Options, optimize
from olc.session import run, session
from olc.targets import cache_ports

RANDOM = np.random.default_rng(5)
FLAT = "float[B, S, 32] q, float[B, S, 16] k, float[B, S, 16] v"
HEADS = "float[B, 4, S, 8] q, float[B, 2, S, 8] k, float[B, 2, S, 8] v"
CACHE = "float[B, 2, P, 8] pk, float[B, 2, P, 8] pv"
PRESENT = "float[B, 2, T, 8] nk, float[B, 2, T, 8] nv"


def model(queries: str, attributes: str, mask: str = "") -> ir.Model:
    y = "float[B, S, 32] y" if queries == FLAT else "float[B, 4, S, 8] y"
    inputs = ", ".join(part for part in (queries, mask, CACHE) if part)
    name = mask.split()[-1] if mask else ""
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 23]> g ({inputs}) => ({y}, {PRESENT}) '
        f"{{ y, nk, nv = Attention<{attributes}>(q, k, v, {name}, pk, pv) }}"
    )
    proto.graph.node[0].name = "attention"
    made = ir.serde.deserialize_model(proto)
    shapes.infer(made)
    return made


def outputs(m: ir.Model, feed: dict[str, np.ndarray], folder: Path) -> list[np.ndarray]:
    storage.save(m, folder / "m.onnx")
    return list(run(session(folder / "m.onnx"), feed).values())


@pytest.mark.parametrize("mask", ["", "bool[B, 1, S, T] m", "float[B, 1, S, T] m"])
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("queries", [FLAT, HEADS])
@pytest.mark.parametrize(("new", "past"), [(3, 5), (1, 6), (4, 0)])
def test_outputs_and_caches_are_those_of_the_kernel(
    queries: str, causal: int, mask: str, new: int, past: int, tmp_path: Path
) -> None:
    heads = "q_num_heads = 4, kv_num_heads = 2, " if queries == FLAT else ""
    m = model(queries, f"{heads}is_causal = {causal}, scale = 0.3", mask)
    sizes = {"B": 2, "S": new, "P": past, "T": new + past}
    feed = {}
    for v in m.graph.inputs:
        shape = [d if isinstance(d, int) else sizes[str(d.value)] for d in v.shape or ()]
        feed[v.name or ""] = RANDOM.normal(size=shape).astype(np.float32)
    if mask.startswith("bool"):
        feed["m"] = feed["m"] > -0.5
        feed["m"][..., 0] = True  # what the kernel makes of a query without keys is no part of this
    before = outputs(m, feed, tmp_path)
    assert cache_ports.run(m, Context(), "lower") == 1
    (attention,) = (n for n in m.graph if n.op_type == "Attention")
    assert attention.name == "attention"
    assert len(attention.outputs) == 1
    assert cache_ports.run(m, Context(), "lower") == 0
    after = outputs(m, feed, tmp_path)
    np.testing.assert_allclose(after[0], before[0], atol=2e-6)
    for a, b in zip(after[1:], before[1:], strict=True):
        np.testing.assert_array_equal(a, b)


def test_scores_that_are_wanted_keep_the_attention() -> None:
    m = model(HEADS, "scale = 0.3")
    node = m.graph[0]
    node.resize_outputs(4)
    node.outputs[3].name = "scores"
    m.graph.outputs.append(node.outputs[3])
    assert cache_ports.run(m, Context(), "lower") == 0


def test_an_attention_of_the_source_with_a_cache_is_taken_by_tensorrt() -> None:
    target = targets.get("tensorrt")
    m = model(FLAT, "q_num_heads = 4, kv_num_heads = 2, is_causal = 1")
    optimize(m, Options(level=2), Context(target=target))
    assert target.check(m) == []
    assert "Concat" in {n.op_type for n in m.graph}
