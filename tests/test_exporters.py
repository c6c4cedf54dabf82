"""Exporter independence: every export of one model compiles at -O2 to one graph."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from olc import ir, storage, targets
from olc.assumptions import ASSUMPTIONS, COVERS_KEYS, FINITE, KEEPS_A_KEY
from olc.digest import digest
from olc.evaluation.executed import executed, fused_by_the_runtime
from olc.frontend import load
from olc.passes import Context
from olc.pipeline import Options, optimize

import models

TARGET = "onnxruntime-cpu"


def optimized(path: Path, strict: frozenset[str] = frozenset(), threads: int = 1) -> tuple[ir.Model, Context]:
    """The file at -O2, and what was recorded."""
    ctx = Context(target=targets.get(TARGET), unassumed=strict, threads=threads)
    return optimize(load(path), Options(level=2), ctx).model, ctx


@dataclass(frozen=True)
class Compiled:
    """What these tests ask of a compiled file; ``heads``: of each Attention those of queries and of keys, and which outputs are
    the graph's."""

    digest: str
    operators: Counter[str]
    relied: Counter[str]
    heads: list[tuple[int, int, list[bool]]]


@cache
def compiled(name: str, variant: str) -> dict[str, Compiled]:
    """Each file of the variant at -O2, by role."""
    found = {}
    for role, path in models.find(name).build(variant).items():
        model, ctx = optimized(path)
        heads = [
            (ir.attr(n, "q_num_heads"), ir.attr(n, "kv_num_heads"), [v.is_graph_output() for v in n.outputs])
            for n in model.graph if n.op_type == "Attention"
        ]  # fmt: skip
        found[role] = Compiled(digest(model, shapes=False), count(model), Counter(ctx.relied), heads)
    return found


def minilm(variant: str) -> Path:
    (path,) = models.find("minilm-l6").build(variant).values()
    return path


def count(model: ir.Model) -> Counter[str]:
    return Counter(n.op_type for n in model.graph)


# The int8 file is another model: its weights are rounded.
MINILM = [v.name for v in models.find("minilm-l6").variants if v.name != "int8"]
EXPORTED = {
    "minilm-l6": MINILM,
    **{n: [v.name for v in models.find(n).variants] for n in ("smollm2-135m", "smollm2-135m-nocache", "whisper-tiny-en")},
}


def test_minilm_comes_from_both_exporters_at_every_opset_with_both_attentions() -> None:
    exports = ("ts_op17", "ts_op18", "ts_op20", "dynamo_op18", "dynamo_op20", "dynamo_op23")
    assert sorted(MINILM) == sorted([*exports, *(f"eager_{export}" for export in exports)])


# The decoder without a cache has the layers of the one with it.
@pytest.mark.parametrize(("name", "variants"), [
    pytest.param(*e, marks=pytest.mark.long if e[0] == "smollm2-135m-nocache" else []) for e in EXPORTED.items()
])  # fmt: skip
def test_all_exports_become_one_graph(name: str, variants: list[str]) -> None:
    digests: dict[str, set[str]] = {}
    for variant in variants:
        for role, made in compiled(name, variant).items():
            digests.setdefault(role, set()).add(made.digest)
    assert {role: len(found) for role, found in digests.items()} == dict.fromkeys(digests, 1)
    assert len(variants) > 1


def test_what_an_encoder_is_made_of() -> None:
    """MiniLM: 6 layers, a norm before them and two in each."""
    for variant in MINILM:
        (made,) = compiled("minilm-l6", variant).values()
        found = made.operators
        assert (found["Attention"], found["LayerNormalization"], found["Gelu"]) == (6, 1 + 2 * 6, 6)
        assert not found["Softmax"] + found["Transpose"] + found["IsNaN"] + found["Where"]
        assert (found["Gemm"], found["MatMul"], found["Reshape"]) == (6 * 6, 0, 6 * 4 + 2)  # around attention, and at both ends
    many, _ = optimized(minilm(MINILM[0]), threads=8)
    assert (count(many)["Gemm"], count(many)["MatMul"], count(many)["Reshape"]) == (0, 6 * 6, 0)


@pytest.mark.parametrize(("name", "present"), [("smollm2-135m", [True, True]), ("smollm2-135m-nocache", [])])
def test_what_a_decoder_is_made_of(name: str, present: list[bool]) -> None:
    """SmolLM2: 30 layers with 9 heads on 3, two norms in each and one at the end. The first export, as all are one graph."""
    (made,) = compiled(name, EXPORTED[name][0]).values()
    found = made.operators
    assert (found["Attention"], found["RMSNormalization"], found["RotaryEmbedding"]) == (30, 2 * 30 + 1, 2 * 30)
    assert (found["QuickGelu"], found["Cos"], found["Sin"]) == (30, 1, 1)
    assert made.heads == 30 * [(9, 3, [False, *present])]


def test_what_a_speech_model_is_made_of() -> None:
    """Whisper tiny: 4 layers in the encoder, of 1,500 tokens without a mask; in the decoder 4 with attention to itself and 4 to
    the encoder."""
    for variant in EXPORTED["whisper-tiny-en"]:
        made = [m.operators for m in compiled("whisper-tiny-en", variant).values()]
        # What makes keys and values of the encoder's has none.
        assert sorted(m["Attention"] for m in made) == [0, 0, 4 + 4, 4 + 4]
        assert sorted(m["MultiHeadAttention"] for m in made) == [0, 0, 0, 4]


ASSUMED = {"ts_op17": {FINITE}, "dynamo_op18": {FINITE, KEEPS_A_KEY}, "eager_ts_op17": {KEEPS_A_KEY}, "dynamo_op23": set()}


@pytest.mark.parametrize(("variant", "assumed"), ASSUMED.items())
def test_what_each_export_leaves_to_assume(variant: str, assumed: set[str]) -> None:
    """-inf with a guard gives 0 to a row without a key, as the operator does; the lowest number gives a mean."""
    (made,) = compiled("minilm-l6", variant).values()
    assert set(made.relied) == assumed
    assert all(made.relied[name] == 6 for name in assumed)


def test_a_plain_session_runs_what_was_compiled(tmp_path: Path) -> None:
    """With default options the runtime fuses nothing more, or, with many threads, biases into Gelu, which is even; and no norm
    with the Add in front of it."""
    feed = {n: np.ones((2, 7), np.int64) for n in ("input_ids", "attention_mask", "token_type_ids")}
    for variant, threads, more in (("dynamo_op18", 1, {}), ("ts_op17", 1, {}), ("dynamo_op18", 8, {"BiasGelu": 6})):
        model, _ = optimized(minilm(variant), threads=threads)
        storage.save(model, tmp_path / "m.onnx")
        rows = executed(tmp_path / "m.onnx", feed)
        assert fused_by_the_runtime(model, rows) == more
        assert {r.operator: r.count for r in rows}["LayerNormalization"] == 13


def test_strict_leaves_what_rests_on_assumptions() -> None:
    model, ctx = optimized(minilm("dynamo_op18"), frozenset(ASSUMPTIONS))
    assert count(model)["Attention"] == 0
    assert not ctx.relied
    model, ctx = optimized(minilm("ts_op17"), frozenset({KEEPS_A_KEY, COVERS_KEYS}))
    assert count(model)["Attention"] == 6
