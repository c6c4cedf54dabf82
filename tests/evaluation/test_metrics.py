"""Metrics of a task, each against a plain reading of what it is."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from olc.errors import BadInput
from olc.evaluation import metrics
from olc.evaluation.evaluate import evaluate
from olc.evaluation.metrics import Drop, Kept, Metric, Score, Task, load
from olc.evaluation.metrics.embeddings import pearson, ranks, spearman
from olc.evaluation.metrics.words import edits, word_error_rate, words
from olc.session import session

RANDOM = np.random.default_rng(0)


def value(spec: str, outputs: list[dict[str, Any]], samples: list[dict[str, Any]], source: Any = None) -> float:
    """A metric of a model's outputs beside the source's, which are the same where none are given."""
    metric = load(spec)
    kept = [Kept([metric], "data") for _ in range(2)]
    for side, found in zip(kept, (source if source is not None else outputs, outputs), strict=True):
        for o, s in zip(found, samples, strict=True):
            side.add(o, s)
    (score,) = metrics.scores(*kept)
    return score.value


# --- classes -------------------------------------------------------------------------------------------------------


def test_top1_counts_right_labels_over_all_samples() -> None:
    outputs = [{"logits": np.array([[0.0, 2, 1], [3, 0, 0]])}, {"logits": np.array([[0.0, 0, 9]])}]
    samples = [{"label": np.array([1, 2], np.uint8)}, {"label": 2}]
    assert value("top1", outputs, samples) == pytest.approx(2 / 3)


def test_top1_without_labels_is_agreement_with_the_source() -> None:
    source = [{"logits": np.eye(4)}]
    found = [{"logits": np.eye(4)[[0, 1, 3, 2]]}]
    assert value("top1", found, [{}], source) == 0.5
    assert value("top1", source, [{}], source) == 1.0


def test_a_row_with_nan_is_never_right() -> None:
    scores = np.array([[0.0, np.nan, 1], [0, 0, 5]])
    assert value("top1", [{"logits": scores}], [{"label": np.array([1, 2])}]) == 0.5
    assert value("token-agreement", [{"logits": scores[None]}], [{}]) == 0.5


def test_top1_reads_the_scores_where_there_is_another_output() -> None:
    outputs = {"hidden": np.zeros((1, 3)), "logits": np.array([[0.0, 1]])}
    assert value("top1", [outputs], [{"label": 1}]) == 1.0


@pytest.mark.parametrize("label", [np.array([1, 2]), 1.5, "cat", np.array([])])
def test_labels_that_do_not_fit_are_named_with_their_sample(label: Any) -> None:
    outputs = [{"logits": np.eye(3)[:1]}] * 2
    with pytest.raises(BadInput, match=r"data, sample 1: 'label' is .*'top1' needs 1 integers"):
        value("top1", outputs, [{"label": 0}, {"label": label}])


def test_labels_in_some_samples_only() -> None:
    with pytest.raises(BadInput, match="some samples have a 'label', others have none"):
        value("top1", [{"logits": np.eye(2)[:1]}] * 2, [{"label": 0}, {}])


# --- language ------------------------------------------------------------------------------------------------------


def test_perplexity_as_it_is_defined() -> None:
    ids = RANDOM.integers(0, 7, (2, 90))
    logits = RANDOM.normal(size=(2, 90, 7)).astype(np.float32)
    keep = np.ones((2, 90), int)
    keep[1, 60:] = 0
    surprise = []
    for row in range(2):
        for t in range(89):
            if keep[row, t] and keep[row, t + 1]:
                p = np.exp(logits[row, t].astype(float))
                surprise.append(-math.log(p[ids[row, t + 1]] / p.sum()))
    found = value("perplexity", [{"logits": logits}], [{"input_ids": ids, "attention_mask": keep}])
    assert found == pytest.approx(math.exp(sum(surprise) / len(surprise)), rel=1e-6)
    assert not load("perplexity").higher


def test_perplexity_is_over_tokens_and_not_over_samples() -> None:
    """The mean of two perplexities would be another number."""
    sure, unsure = np.zeros((1, 3, 4)), np.zeros((1, 9, 4))
    sure[..., 0] = 50
    samples = [{"input_ids": np.zeros((1, 3), int)}, {"input_ids": np.ones((1, 9), int)}]
    assert value("perplexity", [{"y": sure}, {"y": unsure}], samples) == pytest.approx(4 ** (8 / 10))


def test_a_mask_over_past_tokens_too_is_read_at_its_end() -> None:
    logits = np.zeros((1, 3, 2))
    logits[..., 1] = 5
    mask = np.array([[1, 1, 0, 1, 1]])  # two past tokens, then these three
    lost = value("perplexity", [{"logits": logits}], [{"input_ids": np.array([[0, 0, 1]]), "attention_mask": mask}])
    assert lost == pytest.approx(1 + math.exp(-5))


def test_token_agreement_leaves_padding_out() -> None:
    source, found = np.zeros((1, 4, 3)), np.zeros((1, 4, 3))
    source[0, :, 0] = found[0, :2, 0] = found[0, 2:, 1] = 1
    assert value("token-agreement", [{"l": found}], [{"attention_mask": np.array([[1, 1, 1, 0]])}], [{"l": source}]) == 2 / 3


def test_perplexity_beyond_float64_is_a_breach_and_no_warning() -> None:
    logits = np.zeros((1, 2, 2))
    samples = [{"input_ids": np.ones((1, 2), int)}]
    bad = logits.copy()
    bad[..., 0] = 1e4
    found = value("perplexity", [{"l": bad}], samples, [{"l": logits}])
    score = Score("perplexity", False, 2.0, found)
    assert found == math.inf
    assert score.breach(Drop(0.5))
    json.dumps(score.to_dict(Drop()), allow_nan=False)


@pytest.mark.parametrize("ids", [np.zeros((1, 5), int), np.zeros((3,), int), np.full((1, 3), 4)])
def test_ids_that_do_not_fit_the_logits(ids: np.ndarray) -> None:
    with pytest.raises(BadInput, match="sample 0: 'input_ids' has shape"):
        value("perplexity", [{"logits": np.zeros((1, 3, 4))}], [{"input_ids": ids}])


# --- embeddings ----------------------------------------------------------------------------------------------------


def test_correlations_by_hand() -> None:
    a, b = np.array([1.0, 2, 3, 4]), np.array([2.0, 1, 4, 4])
    assert pearson(a, b) == pytest.approx(0.7745966692414834)
    assert ranks(b).tolist() == [2, 1, 3.5, 3.5]
    assert spearman(a, b) == pytest.approx(0.7378647873726218)
    assert spearman(a, np.exp(a)) == pytest.approx(1)
    assert math.isnan(pearson(a, np.ones(4)))
    assert math.isnan(spearman(a, np.array([1, 2, np.nan, 3])))


def test_ranks_are_those_of_counting() -> None:
    x = RANDOM.integers(0, 6, 40)
    plain = [(x < v).sum() + ((x == v).sum() + 1) / 2 for v in x]
    assert ranks(x).tolist() == plain


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_the_mask_of_an_encoder_is_none_of_a_decoders_tokens() -> None:
    other, own = np.array([[1, 1, 1, 0]]), np.array([[1, 0, 1]])
    sample = {"encoder_attention_mask": other, "attention_mask": own}
    assert metrics.mask(sample, (1, 3)).tolist() == [[True, False, True]]
    assert metrics.mask({"encoder_attention_mask": other}, (1, 3)).all()
    assert metrics.mask({"decoder_attention_mask": own}, (1, 3)).tolist() == [[True, False, True]]
    longer = {"mask_of_all": other, "mask": own}
    assert metrics.mask(longer, (1, 3)).tolist() == [[True, False, True]], "the nearest in length"


@pytest.mark.parametrize("text", ["good day", b"good day", np.array(["good day"], "S"), np.array([b"good day"], object)])
def test_texts_may_be_bytes(text: Any) -> None:
    wrong, spoken = word_error_rate(lambda outputs, sample: "good day").reduce({}, {"label_text": text})
    assert (wrong, spoken) == (0, 2)


def test_pearson_of_pairs_pools_over_the_mask_and_leaves_unscored_pairs_out() -> None:
    hidden, keep = RANDOM.normal(size=(4, 5, 8)), np.array([[1] * 5, [1, 1, 0, 0, 0], [1] * 5, [1, 0, 0, 0, 0]])
    scores = np.triu(RANDOM.uniform(size=(4, 4)), 1)
    scores[0, 3] = np.nan
    means = [h[k == 1].mean(axis=0) for h, k in zip(hidden, keep, strict=True)]
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4) if (i, j) != (0, 3)]
    a, b = [cosine(means[i], means[j]) for i, j in pairs], [scores[i, j] for i, j in pairs]
    found = value("pearson", [{"h": hidden}], [{"attention_mask": keep, "label_score": scores}])
    assert found == pytest.approx(float(np.corrcoef(a, b)[0, 1]))


def test_a_sample_may_be_one_pair_and_the_output_a_vector() -> None:
    outputs = [{"v": np.array([[1.0, 0], [1, t]])} for t in (0, 1, 5)]
    samples = [{"label_score": s} for s in (5, 3.0, np.array([1]))]
    assert value("spearman", outputs, samples) == pytest.approx(1)
    assert value("spearman", outputs[:2], [samples[1], samples[0]]) == pytest.approx(-1)


@pytest.mark.parametrize("score", [np.ones(3), np.ones((2, 3)), "much", np.array(["a"])])
def test_scores_that_are_no_pairs(score: Any) -> None:
    with pytest.raises(BadInput, match="'label_score' is"):
        value("pearson", [{"v": np.eye(2)}], [{"label_score": score}])


def test_cosine_is_with_the_source() -> None:
    source, found = [{"v": np.array([[1.0, 0], [0, 2]])}], [{"v": np.array([[5.0, 0], [3, 3]])}]
    assert value("cosine", found, [{}], source) == pytest.approx((1 + math.sqrt(0.5)) / 2)


@pytest.mark.parametrize(("metric", "shape"), [("cosine", (2, 2)), ("top1", (2, 2)), ("token-agreement", (1, 2, 2))])
def test_models_that_answer_otherwise_cannot_agree(metric: str, shape: tuple[int, ...]) -> None:
    longer = np.ones((shape[0], shape[1] + 1, *shape[2:]) if len(shape) == 3 else (3, 2))
    with pytest.raises(BadInput, match=f"{metric}' compares"):
        value(metric, [{"y": longer}], [{}], [{"y": np.ones(shape)}])


# --- words ---------------------------------------------------------------------------------------------------------


def test_word_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert edits("kitten", "sitting") == 3
    assert edits([], ["a", "b"]) == 2
    assert words("Don't — stop, Élan!") == ["don't", "stop", "élan"]
    (tmp_path / "speak.py").write_text(
        "WORDS = ['the', 'cat', 'sat', 'down']\ndef decode(outputs, sample):\n"
        "    return [' '.join(WORDS[i] for i in row) for row in outputs['ids']]\n"
    )
    monkeypatch.chdir(tmp_path)
    outputs = [{"ids": np.array([[0, 1, 2], [0, 0, 1]])}, {"ids": np.array([[3]])}]
    samples = [{"label_text": np.array(["The cat sat.", "the cat"])}, {"label_text": "sat down"}]
    assert value("wer=speak:decode", outputs, samples) == pytest.approx(2 / 7)
    assert not load("wer=speak:decode").higher


def test_as_many_texts_as_references() -> None:
    metric = load("wer=builtins:repr")
    with pytest.raises(BadInput, match="the function raised TypeError"):  # repr takes one argument, not two
        Kept([metric], "data").add({}, {"label_text": "a"})


# --- a user's own, and how metrics are named -------------------------------------------------------------------------


OWN = """
import numpy as np
def good(outputs, samples):
    assert isinstance(outputs, list) and isinstance(samples, list)
    return np.float32(sum(float(o['y'].sum()) * s['label_weight'] for o, s in zip(outputs, samples)))
def bad(outputs, samples):
    return outputs[0]['z']
def text(outputs, samples):
    return 'fine'
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "unfinished.py").write_text("x = 1 +")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_own_function_sees_outputs_and_labels(own: Path) -> None:
    outputs = [{"y": np.ones(2)}, {"y": np.ones(3)}]
    assert value("mine:good", outputs, [{"label_weight": 1}, {"label_weight": 10}]) == 32


def test_own_function_that_fails_is_named(own: Path) -> None:
    with pytest.raises(BadInput, match="mine:bad: the function raised KeyError: 'z'"):
        value("mine:bad", [{"y": np.ones(2)}], [{}])
    with pytest.raises(BadInput, match="mine:text: the metric returned str, not a number"):
        value("mine:text", [{}], [{}])


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("bleu", "there is no metric 'bleu' (one of cosine, pearson"), ("", "there is no metric ''"),
        ("top1=mine:good", "'top1' takes no function"), ("wer", "'wer' needs a function"), ("wer=", "'wer' needs a function"),
        ("wer=decode", "is not module:function"), ("mine:absent", "has no function 'absent'"),
        ("mine:", "is not module:function"), ("unfinished:f", "cannot be imported: SyntaxError"),
        ("nowhere:f", "module 'nowhere' cannot be imported"),
    ],
)  # fmt: skip
def test_unknown_metrics(own: Path, spec: str, says: str) -> None:
    with pytest.raises(BadInput) as caught:
        load(spec)
    assert says in str(caught.value)


def test_the_source_must_have_a_value() -> None:
    with pytest.raises(BadInput, match="'pearson' of the source model is nan"):
        value("pearson", [{"v": np.eye(3)}], [{"label_score": np.ones((3, 3))}])


def test_an_output_that_fits() -> None:
    with pytest.raises(BadInput, match=r"'perplexity' needs a floating-point output of rank 3.*ids int64\[1, 2\]"):
        value("perplexity", [{"ids": np.zeros((1, 2), int)}], [{"input_ids": np.zeros((1, 2), int)}])


# --- drops ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "source", "allowed"),
    [("0.5", 40.0, 0.5), ("1%", 40.0, 0.4), (" 2 %", -5.0, 0.1), ("0", 9.0, 0.0), ("1e-3", 1.0, 1e-3)],
)  # fmt: skip
def test_drops(text: str, source: float, allowed: float) -> None:
    assert Drop.parse(text).allowed(source) == pytest.approx(allowed)


@pytest.mark.parametrize("text", ["", "%", "-1", "-1%", "nan", "inf", "1%%", "much"])
def test_drops_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="could not convert|^" + re.escape(text)):
        Drop.parse(text)


def test_direction() -> None:
    better, worse = Score("wer", False, 0.2, 0.1), Score("wer", False, 0.2, 0.3)
    assert (better.drop, worse.drop) == (pytest.approx(-0.1), pytest.approx(0.1))
    assert better.breach(Drop(0.0)) is None
    assert worse.breach(Drop(0.1, False)) is None
    assert worse.breach(Drop(0.09, False)) == "wer is 0.3, more than 0.09 above the source's 0.2"
    assert Score("top1", True, 0.9, 0.8).breach(Drop(0.1, False)) is None
    assert "below the source's" in (Score("top1", True, 0.9, 0.8).breach(Drop(0.1)) or "")
    assert Score("top1", True, 0.9, math.nan).breach(Drop(100.0)), "what has no value is no match"


# --- with models ---------------------------------------------------------------------------------------------------


TEXT = """<ir_version: 10, opset_import: ["": 20]>
    g (float[N, 3] x) => (float[N, 3] logits) {{ logits = {} }}"""


def saved(path: Path, body: str) -> Path:
    onnx.save(onnx.parser.parse_model(TEXT.format(body)), path)
    return path


def test_evaluate_measures_both_models_on_the_samples(tmp_path: Path) -> None:
    a, b = saved(tmp_path / "a.onnx", "Identity(x)"), saved(tmp_path / "b.onnx", "Neg(x)")
    for i in range(3):
        np.savez(tmp_path / f"{i}.npz", x=np.eye(3, dtype=np.float32)[[i]], label=np.array([i]), label_note=np.array("any"))
    found = evaluate(a, b, data=str(tmp_path), time_s=0, measure_memory=False, metrics=[load("top1"), load("cosine")])
    assert [(s.name, s.source, s.value) for s in found.metrics] == [("top1", 1.0, 0.0), ("cosine", 1.0, -1.0)]
    assert found.to_dict()["metrics"][0]["drop"] == 1.0
    given = [{"x": np.eye(3, dtype=np.float32), "label": np.arange(3)}]
    again = evaluate(a, b, feeds=given, time_s=0, measure_memory=False, metrics=[load("top1")])
    assert again.metrics[0].value == 0.0


def test_a_missing_label_is_named_with_sample_and_data(tmp_path: Path) -> None:
    opened = session(saved(tmp_path / "a.onnx", "Identity(x)"))
    samples = [{"x": np.ones((2, 3), np.float32), "label_score": 1}, {"x": np.ones((2, 3), np.float32)}]
    with pytest.raises(BadInput) as caught:
        Task([load("pearson")], samples, opened, "pairs/")
    assert "pairs/: the metric 'pearson' needs 'label_score', which sample 1 lacks" in str(caught.value)


def test_a_task_runs_the_source_once_and_nothing_before_it_is_asked(tmp_path: Path) -> None:
    opened, runs = session(saved(tmp_path / "a.onnx", "Identity(x)")), []
    counted = Metric("counted", lambda outputs, sample: runs.append(1), lambda found, source: float(len(found)))
    task = Task([counted], [{"x": np.ones((1, 3), np.float32)}] * 2, opened, "data")
    assert len(runs) == 2
    asked = task.scores(opened)
    assert len(runs) == 2
    assert [s.value for s in asked] == [2.0]
    assert len(runs) == 4
