"""Exporter independence: every export of one model compiles at -O2 to one graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
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


def compiled(name: str, variant: str, strict: frozenset[str] = frozenset()) -> Iterator[tuple[str, ir.Model, Context]]:
    """Each file of the variant at -O2: its role, the model, and what was recorded."""
    for role, path in models.find(name).build(variant).items():
        ctx = Context(target=targets.get(TARGET), unassumed=strict)
        yield role, optimize(load(path), Options(level=2), ctx).model, ctx


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


@pytest.mark.parametrize(("name", "variants"), EXPORTED.items())
def test_all_exports_become_one_graph(name: str, variants: list[str]) -> None:
    digests: dict[str, set[str]] = {}
    for variant in variants:
        for role, model, _ in compiled(name, variant):
            digests.setdefault(role, set()).add(digest(model, shapes=False))
    assert {role: len(found) for role, found in digests.items()} == dict.fromkeys(digests, 1)
    assert len(variants) > 1


def test_what_an_encoder_is_made_of() -> None:
    """MiniLM: 6 layers, a norm before them and two in each."""
    for variant in MINILM:
        ((_, model, _),) = compiled("minilm-l6", variant)
        found = count(model)
        assert (found["Attention"], found["LayerNormalization"], found["Gelu"]) == (6, 1 + 2 * 6, 6)
        assert not found["Softmax"] + found["Transpose"] + found["Reshape"] + found["IsNaN"] + found["Where"]


@pytest.mark.parametrize(("name", "present"), [("smollm2-135m", [True, True]), ("smollm2-135m-nocache", [])])
def test_what_a_decoder_is_made_of(name: str, present: list[bool]) -> None:
    """SmolLM2: 30 layers with 9 heads on 3, two norms in each and one at the end. The first export, as all are one graph."""
    ((_, model, _),) = compiled(name, EXPORTED[name][0])
    found = count(model)
    assert (found["Attention"], found["RMSNormalization"], found["RotaryEmbedding"]) == (30, 2 * 30 + 1, 2 * 30)
    assert (found["QuickGelu"], found["Cos"], found["Sin"]) == (30, 1, 1)
    for node in (n for n in model.graph if n.op_type == "Attention"):
        assert (ir.attr(node, "q_num_heads"), ir.attr(node, "kv_num_heads")) == (9, 3)
        assert [v.is_graph_output() for v in node.outputs] == [False, *present]


def test_what_a_speech_model_is_made_of() -> None:
    """Whisper tiny: 4 layers in the encoder; in the decoder 4 with attention to itself and 4 to the encoder."""
    for variant in EXPORTED["whisper-tiny-en"]:
        found = {role: count(model)["Attention"] for role, model, _ in compiled("whisper-tiny-en", variant)}
        assert sorted(found.values()) == [0, 4, 4 + 4, 4 + 4]  # what makes keys and values of the encoder's has none


ASSUMED = {"ts_op17": {FINITE}, "dynamo_op18": {FINITE, KEEPS_A_KEY}, "eager_ts_op17": {KEEPS_A_KEY}, "dynamo_op23": set()}


@pytest.mark.parametrize(("variant", "assumed"), ASSUMED.items())
def test_what_each_export_leaves_to_assume(variant: str, assumed: set[str]) -> None:
    """-inf with a guard gives 0 to a row without a key, as the operator does; the lowest number gives a mean."""
    ((_, _, ctx),) = compiled("minilm-l6", variant)
    assert set(ctx.relied) == assumed
    assert all(ctx.relied[name] == 6 for name in assumed)


def test_a_plain_session_runs_what_was_compiled(tmp_path: Path) -> None:
    """With default options the runtime fuses biases into Gelu, which is even, and no norm with the Add in front of it."""
    feed = {n: np.ones((2, 7), np.int64) for n in ("input_ids", "attention_mask", "token_type_ids")}
    for variant in ("dynamo_op18", "ts_op17"):
        ((_, model, _),) = compiled("minilm-l6", variant)
        storage.save(model, tmp_path / "m.onnx")
        rows = executed(tmp_path / "m.onnx", feed)
        assert fused_by_the_runtime(model, rows) == {"BiasGelu": 6}
        assert {r.operator: r.count for r in rows}["LayerNormalization"] == 13


def test_strict_leaves_what_rests_on_assumptions() -> None:
    ((_, model, ctx),) = compiled("minilm-l6", "dynamo_op18", frozenset(ASSUMPTIONS))
    assert count(model)["Attention"] == 0
    assert not ctx.relied
    ((_, model, ctx),) = compiled("minilm-l6", "ts_op17", frozenset({KEEPS_A_KEY, COVERS_KEYS}))
    assert count(model)["Attention"] == 6
