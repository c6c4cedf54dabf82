"""Range observers against all the data at once, and against slow readings of the papers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from olc.errors import BadInput, OutputError
from olc.quantization.facts import Observed
from olc.quantization.observers import (
    BINS,
    Entropy,
    Histogram,
    MinMax,
    Mse,
    Observer,
    Percentile,
    _divergence,
    _expected_error,
    load_ranges,
    save_ranges,
)

METHODS = [MinMax(), Percentile(99.9), Entropy(), Mse()]


def fed(method: Any, *arrays: np.ndarray) -> Observer:
    made = Observer(method)
    for a in arrays:
        made.add(a)
    return made


def normal(rows: int = 300, columns: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


def batches() -> list[np.ndarray]:
    """Of very different sizes, the first tiny, so that bins join many times."""
    return [x * f for x, f in zip(np.array_split(normal(), 6), [1e-30, 0.0, 1e-3, 1, 70, 3], strict=True)]


# the histogram


def counted(x: np.ndarray, exponent: int) -> dict[int, int]:
    found: dict[int, int] = {}
    for v in x.ravel().tolist():
        i = math.floor(v / 2.0**exponent)
        found[i] = found.get(i, 0) + 1
    return found


def test_histogram_grown_is_the_histogram_of_all_at_once() -> None:
    for order in (1, -1):
        seen = fed(Percentile(), *batches()[::order])._seen
        everything = np.concatenate(batches()).astype(np.float64)
        assert {int(i) - BINS: int(seen.counts[i]) for i in np.flatnonzero(seen.counts)} == counted(everything, seen.exponent)
        assert seen.zeros == (everything == 0).sum()
        most = np.abs(everything).max()
        assert BINS // 2 * 2.0**seen.exponent <= most < BINS * 2.0**seen.exponent


@pytest.mark.parametrize("value", [1e-45, -1e-45, 1.0, -1.0, 3.4e38, 1e308, -2.0**-149, 2047.0, 2048.0])
def test_every_size_has_a_bin(value: float) -> None:
    seen = Histogram()
    seen.add(np.array([value]), value, value)
    assert seen.total == 1
    lower = (int(np.flatnonzero(seen.counts)[0]) - BINS) * 2.0**seen.exponent
    assert lower <= value < lower + 2.0**seen.exponent


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_order_and_cut_of_batches_do_not_matter(method: Any) -> None:
    want = fed(method, np.concatenate(batches()))
    for made in (fed(method, *batches()), fed(method, *batches()[::-1]), fed(method, *np.concatenate(batches()))):
        assert made.range() == want.range()
        assert made.range(symmetric=True) == want.range(symmetric=True)
        assert made.count == want.count


def test_large_arrays_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal()
    want = fed(Mse(), x)
    monkeypatch.setattr("olc.quantization.observers._CHUNK", 100)
    got = fed(Mse(), x)
    assert got.range() == want.range()
    np.testing.assert_array_equal(got.channels, want.channels)  # type: ignore[arg-type]


# what every method promises


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("shape", ["both", "relu", "below", "shifted", "outlier", "few"])
def test_range_lies_within_what_was_seen(method: Any, bits: int, shape: str) -> None:
    x = normal()
    x = {"both": x, "relu": np.maximum(x, 0), "below": -np.abs(x), "shifted": x + 20, "few": x[:1, :3],
         "outlier": np.append(x, np.float32(60))}[shape]  # fmt: skip
    made = fed(method, x)
    low, high = made.range(bits)
    assert type(low) is float
    assert x.min() <= low < high <= x.max()
    low, high = made.range(bits, symmetric=True)
    assert 0 < high == -low <= np.abs(x).max()


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("value", [0.0, 3.0, -3.0, 1e-45, -3e38])
def test_one_number_only(method: Any, value: float) -> None:
    made = fed(method, np.full((5, 4), value, np.float32))
    v = float(np.float32(value))
    assert made.range() == (v, v)
    assert made.range(symmetric=True) == (-abs(v), abs(v))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_what_is_not_finite_is_counted_and_left_out(method: Any) -> None:
    x = normal()
    broken = x.copy()
    broken[::7, 3] = np.nan
    broken[5, ::3] = np.inf
    broken[9, 1] = -np.inf
    keep = np.isfinite(broken)
    made, want = fed(method, broken), fed(method, x[keep])
    assert made.range() == want.range()
    assert (made.count, made.ignored) == (keep.sum(), (~keep).sum())
    np.testing.assert_array_equal(made.channels, np.abs(np.where(keep, x, 0)).max(axis=0))  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_nothing_seen(method: Any) -> None:
    for made in (Observer(method), fed(method, np.zeros((0, 3))), fed(method, np.full(4, np.nan))):
        with pytest.raises(ValueError, match="no finite number"):
            made.observed()


def test_channels_need_a_last_axis_of_one_size() -> None:
    x = normal()
    many = fed(MinMax(), x.reshape(3, 100, 40), x[0], np.zeros((0, 7)))
    np.testing.assert_array_equal(many.observed().channels, np.abs(x).max(axis=0))  # type: ignore[arg-type]
    assert many.observed().channels.dtype == np.float32  # type: ignore[union-attr]
    assert fed(MinMax(), x, x[:, 1:], x).observed().channels is None
    assert fed(MinMax(), np.float32(3)).observed() == Observed(3.0, 3.0)
    assert fed(MinMax(), np.array(3), x).observed().channels is None


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, np.uint8])
def test_other_dtypes(dtype: Any) -> None:
    x = (normal() * 10).astype(dtype)
    assert fed(MinMax(), x).range() == (float(x.min()), float(x.max()))


# percentile


@pytest.mark.parametrize("percent", [50.0, 99.0, 99.99, 100.0])
@pytest.mark.parametrize("relu", [False, True])
def test_percentile_is_that_of_all_the_data(percent: float, relu: bool) -> None:
    x = np.concatenate([normal(), normal(seed=1) * 5])
    x = np.maximum(x, 0) if relu else x
    made = fed(Percentile(percent), *np.array_split(x, 5))
    width = 2.0**made._seen.exponent
    low, high = made.range()
    inside = ((x >= low) & (x <= high)).sum() / x.size
    inner = ((x >= low + width) & (x <= high - width)).sum() / x.size
    assert inside >= percent / 100 - 1e-9
    assert inner <= percent / 100 or relu
    np.testing.assert_allclose(high, np.percentile(x, 50 + percent / 2), atol=width, rtol=0.02)
    want = np.percentile(np.abs(x), percent, method="inverted_cdf")
    np.testing.assert_allclose(made.range(symmetric=True), [-want, want], atol=width)


@pytest.mark.parametrize("percent", [0.0, -1.0, 100.1, math.nan])
def test_percent_that_is_none(percent: float) -> None:
    with pytest.raises(ValueError, match="percent"):
        Percentile(percent)


# entropy


def divergence_by_loops(counts: list[float], above: float, levels: int, below: float = 0.0) -> float:
    """The slides' pseudocode: counts of the bins kept, what lies beyond them, the number of levels."""
    n = len(counts)
    p = list(counts)
    p[0] += below
    p[-1] += above
    q = [0.0] * n
    for level in range(levels):
        members = [j for j in range(n) if j * levels // n == level]
        filled = [j for j in members if p[j] > 0]
        for j in filled:
            q[j] = sum(counts[m] for m in members) / len(filled)
    if sum(counts) == 0:
        return math.inf
    total = 0.0
    for a, b in zip(p, q, strict=True):
        if a > 0:
            if b == 0:
                return math.inf
            total += a / sum(p) * math.log((a / sum(p)) / (b / sum(q)))
    return total


@pytest.mark.parametrize("sparse", [False, True])
def test_divergence_of_any_part(sparse: bool) -> None:
    counts = np.random.default_rng(0).integers(-20 if sparse else 0, 30, 2 * BINS).clip(0)
    for a, b, levels in [(10, 60, 8), (100, 131, 16), (7, 15, 8), (2000, 2003, 2)]:
        inside, below, above = (counts[i:j].tolist() for i, j in ((a, b), (0, a), (b, None)))
        want = divergence_by_loops(inside, sum(above), levels, sum(below))
        assert _divergence(counts, a, b, levels) == pytest.approx(want)


@pytest.mark.parametrize("outlier", [0.0, 40.0])
def test_entropy_is_that_of_the_slides(outlier: float) -> None:
    """Magnitudes, 8 levels so that loops are quick enough."""
    x = np.append(normal(60, 50), np.float32(outlier)).astype(np.float64)
    method = Entropy(stride=128)
    made = fed(method, x)
    width = 2.0**made._seen.exponent
    counts = [0.0] * BINS
    for v in np.abs(x[x != 0]):
        counts[int(v / width)] += 1
    most = max(j for j in range(BINS) if counts[j]) + 1
    tried = [*range(128, most, 128), most]
    scores = [divergence_by_loops(counts[:i], sum(counts[i:]), 8) for i in tried]
    want = min(tried[scores.index(min(scores))] * width, float(np.abs(x).max()))
    assert made.range(bits=4, symmetric=True) == (-want, want)


def test_entropy_of_two_sides_shares_the_levels() -> None:
    x = np.append(normal(60, 50) * 0.3, normal(20, 50, 1) + 1).astype(np.float64)
    made = fed(Entropy(stride=128), x)
    width = 2.0**made._seen.exponent
    counts = counted(x, made._seen.exponent)
    left, right = -min(counts), max(counts) + 1
    most = max(left, right)
    tried = [*range(128, most, 128), most]
    scores = []
    for i in tried:
        a, b = -min(i, left), min(i, right)
        inside = [float(counts.get(j, 0)) for j in range(a, b)]
        above = sum(n for j, n in counts.items() if j >= b)
        below = sum(n for j, n in counts.items() if j < a)
        scores.append(divergence_by_loops(inside, above, 16, below))
    best = tried[scores.index(min(scores))] * width
    assert made.range(bits=4) == (max(-best, float(x.min())), min(best, float(x.max())))


@pytest.mark.parametrize("method", [Entropy(), Percentile(99.9)], ids=lambda m: type(m).__name__)
def test_one_outlier_is_clipped(method: Any) -> None:
    x = np.append(normal(1000, 50), np.float32(60))
    assert 2.5 < fed(method, x).range()[1] < 6
    assert 2.5 < fed(method, x).range(symmetric=True)[1] < 6


def test_zeros_of_a_relu_do_not_draw_the_threshold_down() -> None:
    x = np.append(np.abs(normal(1000, 50)), np.float32(0))
    some = fed(Entropy(), x)
    most = fed(Entropy(), x, np.zeros((9000, 50), np.float32))
    assert some.range() == most.range()
    assert fed(Mse(), x).range(4) == fed(Mse(), x, np.zeros((9000, 50), np.float32)).range(4)


# least squared error


def squared_error(x: np.ndarray, low: float, high: float, bits: int, symmetric: bool) -> float:
    total = 0.0
    top = 2 ** (bits - 1) - 1 if symmetric else 2**bits - 1
    scale = high / top if symmetric else (high - low) / top
    zero = 0 if symmetric else round(-low / scale)
    for v in x.ravel().tolist():
        q = min(max(round(v / scale) + zero, -top if symmetric else 0), top)
        total += (v - (q - zero) * scale) ** 2
    return total


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("clip", [(-3.9, 3.9), (-1.0, 2.0), (-0.3, 3.0)])
def test_expected_error_is_the_error(symmetric: bool, bits: int, clip: tuple[float, float]) -> None:
    x = normal(200, 50).astype(np.float64)
    seen = fed(Mse(), x)._seen
    width = 2.0**seen.exponent
    low, high = (-clip[1], clip[1]) if symmetric else clip
    got = _expected_error(seen.nonzero(), low / width, high / width, bits, symmetric) * width**2
    assert got == pytest.approx(squared_error(x, low, high, bits, symmetric), rel=0.02 if bits < 8 else 0.05)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", ["normal", "relu", "skewed", "outlier"])
def test_no_other_range_has_a_clearly_smaller_error(symmetric: bool, bits: int, shape: str) -> None:
    x = normal(60, 50).astype(np.float64)
    x = {"normal": x, "relu": np.maximum(x, 0), "skewed": np.exp(x) - 0.8, "outlier": np.append(x, 9.0)}[shape]
    made = fed(Mse(), x)
    got = squared_error(x, *made.range(bits, symmetric), bits, symmetric)
    low, high = float(x.min()), float(x.max())
    if symmetric:
        low, high = -max(high, -low), max(high, -low)
    others = [
        squared_error(x, low * a, high * b, bits, symmetric)
        for a in (0.25, 0.4, 0.55, 0.7, 0.85, 1.0)
        for b in (0.25, 0.4, 0.55, 0.7, 0.85, 1.0)
        if a == b or not symmetric
    ]
    assert got <= min(others) * 1.02
    if bits == 4:
        assert got < 0.8 * squared_error(x, low, high, bits, symmetric)


# files


def test_ranges_come_back_to_the_bit(tmp_path: Path) -> None:
    bits = np.random.default_rng(0).integers(0, 0x7F800000, 20000, dtype=np.uint32)
    channels = bits.view(np.float32)
    ranges = {
        'a/"odd" nameß': Observed(-0.1, 1 / 3, channels),
        "b": Observed(0.0, 5e-324, np.zeros(0, np.float32)),
        "c": Observed(2.0, 2.0),
    }
    save_ranges(tmp_path / "r.json", ranges)
    back = load_ranges(tmp_path / "r.json")
    assert list(back) == list(ranges)
    for name, seen in ranges.items():
        assert (back[name].low, back[name].high) == (seen.low, seen.high)
        if seen.channels is None:
            assert back[name].channels is None
        else:
            assert back[name].channels.dtype == np.float32  # type: ignore[union-attr]
            assert back[name].channels.tobytes() == seen.channels.tobytes()  # type: ignore[union-attr]


def test_numbers_are_written_short(tmp_path: Path) -> None:
    save_ranges(tmp_path / "r.json", {"x": Observed(0.0, 0.1, np.array([0.1, 3], np.float32))})
    assert json.loads((tmp_path / "r.json").read_text())["ranges"]["x"] == {"low": 0.0, "high": 0.1, "channels": [0.1, 3]}
    assert len((tmp_path / "r.json").read_text().splitlines()) == 6


def test_no_ranges(tmp_path: Path) -> None:
    save_ranges(tmp_path / "r.json", {})
    assert load_ranges(tmp_path / "r.json") == {}


def test_ranges_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        save_ranges(tmp_path / "no" / "r.json", {})
    with pytest.raises(ValueError, match="JSON"):
        save_ranges(tmp_path / "r.json", {"x": Observed(0.0, math.inf)})
    assert not list(tmp_path.iterdir())


def entry(text: str) -> bytes:
    return f'{{"format": "olc ranges 1", "ranges": {{"x": {text}}}}}'.encode()


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xfe", b"[]", b"{", b"[" * 100000, b'{"ranges": {}}', b'{"format": "olc ranges 1", "ranges": []}',
     entry("3"), entry("{}"), entry('{"low": 0}'), entry('{"low": NaN, "high": 1}'), entry('{"low": 0, "high": "1"}'),
     entry('{"low": 2, "high": 1}'), entry('{"low": true, "high": 1}'), entry('{"low": 0, "high": 1, "channels": 3}'),
     entry('{"low": 0, "high": 1, "channels": [-1]}'), entry('{"low": 0, "high": 1, "channels": [1e39]}'),
     entry('{"low": 0, "high": 1' + "0" * 400 + "}"), entry('{"low": 0, "high": 1, "channels": [null]}')],
    ids=lambda d: d[:70].decode(errors="replace"),
)  # fmt: skip
def test_files_that_hold_no_ranges(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(data)
    with pytest.raises(BadInput) as e:
        load_ranges(tmp_path / "r.json")
    assert e.value.where == str(tmp_path / "r.json")
    assert e.value.hint


def test_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(BadInput, match="cannot be read"):
            load_ranges(path)
