"""The measures of difference, on numbers whose answers are known."""

from __future__ import annotations

import json
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from olc.evaluation.numerics import Comparison, OutputDifference, compare, flatten, is_distribution


def one(reference: Any, candidate: Any, name: str = "y") -> OutputDifference:
    (found,) = compare({name: reference}, {name: candidate})
    json.dumps(found.to_dict(), allow_nan=False)
    return found


F = np.float32


def test_equal() -> None:
    found = one(np.array([1, -2, 0], F), np.array([1, -2, -0.0], F))
    assert found.equal
    assert found.within(0.0)
    assert (found.max_abs, found.max_rel, found.cosine, found.sqnr_db) == (0, 0, 1, None)


def test_measures() -> None:
    found = one(np.array([3, 4, 0, 0], F), np.array([3, 4, 0, 1], F))
    rms = math.sqrt(25 / 4)
    assert found.max_abs == 1
    assert found.max_rel == pytest.approx(1 / rms)  # the element is 0, so it is measured against its neighbours
    assert found.cosine == pytest.approx(25 / (5 * math.sqrt(26)))
    assert found.sqnr_db == pytest.approx(10 * math.log10(25))
    assert (found.mismatches, found.elements) == (1, 4)
    assert not found.within()
    assert found.within(0.5)
    assert "exceeds" in (found.why_not() or "")


def test_relative_error_of_large_elements() -> None:
    found = one(np.array([1000, 1, 1, 1], F), np.array([1001, 1, 1, 1], F))
    assert found.max_rel == pytest.approx(1e-3)


@pytest.mark.parametrize(("error", "within"), [(5e-4, True), (2e-3, False)])
def test_float32_tolerance_scales_with_the_output(error: float, within: bool) -> None:
    r = np.random.default_rng(0).standard_normal(1000)
    for scale in (1e-2, 1.0, 1e6):
        shifted = r.copy()
        shifted[7] += error * max(abs(r[7]), math.sqrt(float(np.mean(r * r))))
        assert one((r * scale).astype(F), (shifted * scale).astype(F)).within() is within


def test_rounding_of_the_number_one_is_negligible() -> None:
    r = np.full(100, 1e-6, F)
    assert one(r, r + F(9e-7)).within()
    assert one(r, r + F(9e-7)).cosine == 1.0
    assert not one(r, r + F(3e-6)).within()
    assert not one(np.zeros(4, F), np.full(4, 1e-5, F)).within()


@pytest.mark.parametrize(
    ("dtype", "error", "within"),
    [(np.float64, 1e-8, True), (np.float64, 1e-6, False), (np.float16, 1e-2, True), (np.float16, 5e-2, False),
     (ml_dtypes.bfloat16, 4e-2, True), (ml_dtypes.bfloat16, 0.2, False)],
)  # fmt: skip
def test_tolerance_by_dtype(dtype: Any, error: float, within: bool) -> None:
    r = np.full(8, 16.0)
    assert one(r.astype(dtype), (r * (1 + error)).astype(dtype)).within() is within


def test_a_narrower_candidate_is_another_dtype_only_in_kind() -> None:
    r = np.linspace(1, 2, 16).astype(F)
    assert one(r, r.astype(np.float16)).within()
    assert "dtype is int64" in (one(r, r.astype(np.int64)).problem or "")


def test_nan_and_infinity() -> None:
    r = np.array([np.nan, np.inf, -np.inf, 1], F)
    assert one(r, r.copy()).equal
    for moved in ([1, np.inf, -np.inf, 1], [np.nan, -np.inf, -np.inf, 1], [np.nan, 3e38, -np.inf, 1], [np.nan] * 4):
        found = one(r, np.array(moved, F))
        assert found.misplaced >= 1
        assert not found.within(1e9)
    assert one(r, np.array([np.nan, np.inf, -np.inf, 1.00001], F)).within()


def test_mask_values_do_not_drown_the_rest() -> None:
    r = np.array([-3.4e38, 1, 2, 3], F)
    assert not one(r, np.array([-3.4e38, 1, 2, 4], F)).within()
    assert not one(r, np.array([-3.0e38, 1, 2, 3], F)).within()


def test_huge_float64_does_not_overflow_into_agreement() -> None:
    r = np.array([1e200, 1e200])
    found = one(r, np.array([1e200, 2e200]))
    assert found.max_rel == pytest.approx(1.0)
    assert not found.within()


@pytest.mark.parametrize(
    ("r", "c"),
    [
        (np.array([1, 2]), np.array([1, 3])),
        (np.array([True, False]), np.array([True, True])),
        (np.array(["a", "b"], object), np.array(["a", "c"], object)),
        (np.array([2**63], np.uint64), np.array([2**63 + 1], np.uint64)),
    ],
)
def test_whole_numbers_truths_and_texts_must_be_equal(r: Any, c: Any) -> None:
    assert one(r, r.copy()).within()
    found = one(r, c)
    assert not found.within()
    assert found.mismatches == 1
    assert found.cosine is None


def test_shapes_and_missing_outputs() -> None:
    assert "shape is [3], was [2]" in (one(np.zeros(2, F), np.zeros(3, F)).problem or "")
    a, b = compare({"a": np.zeros(1)}, {"b": np.zeros(1)})
    assert (a.name, b.name) == ("a", "b")
    assert "missing in the candidate" in (a.problem or "")
    assert "missing in the reference" in (b.problem or "")
    assert not a.within()


def test_empty_and_scalar() -> None:
    assert one(np.zeros((0, 3), F), np.zeros((0, 3), F)).within()
    assert one(np.array(1.0, F), np.array(1.0, F)).equal
    assert not one(np.array(1.0, F), np.array(2.0, F)).within()


def test_samples_accumulate() -> None:
    comparison = Comparison()
    comparison.add({"y": np.array([1, 0], F)}, {"y": np.array([1, 0], F)})
    comparison.add({"y": np.array([1, 0], F)}, {"y": np.array([0, 1], F)})
    (found,) = comparison.results()
    assert (found.samples, found.elements) == (2, 4)
    assert (found.cosine, found.cosine_min) == (0.5, 0.0)
    assert found.max_abs == 1
    assert found.sqnr_db == pytest.approx(0.0)
    with pytest.raises(ValueError, match="shorter"):
        compare([{"y": np.zeros(1)}] * 2, [{"y": np.zeros(1)}])


def test_top1() -> None:
    r = np.array([[1, 2, 3], [3, 2, 1], [1, 1, 0]], F)
    c = np.array([[1, 2, 2.5], [1, 2, 0], [0, 1, 0]], F)
    found = one(r, c, "logits")
    # Row 1 chooses another class; row 2 chooses one of two that tie.
    assert (found.top1, found.top1_rows) == (pytest.approx(2 / 3), 3)
    assert one(r, c, "hidden").top1 is None
    (forced,) = compare({"hidden": r}, {"hidden": c}, classes=["hidden"])
    assert forced.top1 == pytest.approx(2 / 3)
    broken = one(r, np.full_like(r, np.nan), "logits")
    assert (broken.top1, broken.cosine) == (0.0, 0.0)


@pytest.mark.parametrize("axis", [1, 2])
def test_a_slice_that_is_small_beside_the_others_is_not_lost(axis: int) -> None:
    """Scores beside boxes of 1,000 pixels: all wrong, they are 5e-4 of what is given."""
    random = np.random.default_rng(0)
    r = random.uniform(100, 1000, (1, 6, 6)).astype(F)
    r = np.concatenate([r, random.uniform(0.2, 1, (1, 2, 6) if axis == 1 else (1, 6, 2))], axis=axis).astype(F)
    r = np.tile(r, (1, 4, 1) if axis == 2 else (1, 1, 4))
    wrong = r.copy()
    wrong[(slice(None),) * axis + (slice(6, 8),)] = 0
    near = r * (1 + 1e-5 * random.standard_normal(r.shape)).astype(F)
    assert one(r, wrong).max_rel is not None
    assert one(r, wrong).max_rel < 5e-3  # type: ignore[operator]
    assert one(r, wrong).part == pytest.approx(1)
    assert "a part of it moves by 1 of its own size" in (one(r, wrong).why_not(0.02) or "")
    assert one(r, near).within()
    assert one(r[:, :2, :2], np.zeros_like(r[:, :2, :2])).part == 0, "of a few elements chance says too much"


@pytest.mark.parametrize(
    ("name", "shape", "fits"),
    [("logits", (2, 5, 7), True), ("output_probabilities", (1, 2), True), ("embedding", (1, 384), False),
     ("output", (1, 1000), True), ("logits", (8,), False), ("logits", (3, 1), False),
     ("last_hidden_state", (1, 4, 1000), False)],
)  # fmt: skip
def test_what_counts_as_a_distribution(name: str, shape: tuple[int, ...], fits: bool) -> None:
    assert is_distribution(name, np.random.default_rng(0).standard_normal(shape)) is fits


def test_rows_that_sum_to_one_are_a_distribution() -> None:
    scores = np.random.default_rng(0).random((2, 3, 7))
    assert is_distribution("tmp_0", scores / scores.sum(-1, keepdims=True))
    assert not is_distribution("tmp_0", scores)


def test_sequences_and_maps() -> None:
    r = {"s": [np.zeros(1, F), np.ones(2, F)], "m": {"cat": 0.5}, "o": None}
    assert list(flatten(r)) == ["s.length", "s[0]", "s[1]", "m[cat]", "o"]
    assert all(f.within() for f in compare(r, {"s": [np.zeros(1, F), np.ones(2, F)], "m": {"cat": 0.5}, "o": None}))
    shorter = compare(r, {"s": [np.zeros(1, F)], "m": {"cat": 0.5}, "o": None})
    assert not all(f.within() for f in shorter)
