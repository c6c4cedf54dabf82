"""How far a candidate's outputs lie from a reference's, per output and over all samples.

Everything is accumulated sample by sample, so that a large data set need not be held.

**Error.** ``max_abs`` is the largest |c - r|. ``max_rel`` is the largest |c - r| / max(|r|, rms(r)), with rms the root
mean square of that output in that sample: an error is relative to the element, but an element near zero is measured
against its neighbours, because a sum that cancels to 1e-9 keeps the rounding error of its terms. Errors that are
rounding even of the number 1 (``NEGLIGIBLE``, 1e-6 for float32) never exceed the tolerance, and where there are no
others the cosine is 1: a sigmoid of very negative numbers is exact to 1e-7, not to a thousandth of its 1e-6.

**Tolerance.** One number per dtype, the bound on ``max_rel`` for a program that computes the same real-number function
with other rounding. float32 has 1e-3: between ONNX Runtime's levels none and all a 6-layer encoder moves by 7e-6, a
30-layer decoder by 5e-5 to 3e-4 (measured), and a wrong scale, epsilon or mask by more than 1e-2. float16 and bfloat16
round 8,000 and 65,000 times as coarsely but are mostly accumulated in float32: they have some 20 and 10 units of their
last place. Integers, booleans and strings must be equal.

**Parts.** Boxes in pixels beside scores from 0 to 1 take all the power of what a detector gives, and wrong scores would pass for
rounding. So each slice along the second and the last axis (of ``PART`` elements and more) is looked at by itself: one that
moves by more than ``LOST`` of its own size, and further than a 20th of the tolerance of the whole output's, is lost.

**Non-finite values.** NaN must stand where NaN stood, and infinities must be equal. Values beyond half of the dtype's
range (additive masks are full of -3.4e38) are compared like the rest, but do not enter rms, cosine and SQNR, which
they would drown.

**Top-1.** Where an output is a distribution over classes or tokens: floating, rank at least 2, last axis at least 2,
and either its name says so (logits, probs, scores, class, …), or every row of the reference is nonnegative and sums to
1, or it is a matrix whose rows are as long as a usual label set (10, 100, 1000, 1001, 21841, 21843). It is the share
of rows in which the candidate's largest element is a largest element of the reference.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

#: Bound on ``max_rel`` per dtype, see the module's text.
TOLERANCES: dict[str, float] = {
    "float64": 1e-7,
    "float32": 1e-3,
    "float16": 2e-2,
    "bfloat16": 8e-2,
    "float8_e4m3fn": 0.25,
    "float8_e4m3fnuz": 0.25,
    "float8_e5m2": 0.5,
    "float8_e5m2fnuz": 0.5,
}

#: Absolute errors up to this are rounding whatever the output's size: a few units of the last place of 1.
NEGLIGIBLE: dict[str, float] = {"float64": 1e-14, "float32": 1e-6, "float16": 2e-3, "bfloat16": 1.6e-2}

PART = 16
"""Elements of a slice that is looked at by itself: of fewer, chance says too much."""

LOST = 0.5
"""What a slice may move by, of its own size."""

_CLASS_NAMES = re.compile(r"logit|prob|score|softmax|class|label|pred", re.IGNORECASE)
_LABEL_SETS = {10, 100, 1000, 1001, 21841, 21843}


@dataclass
class OutputDifference:
    """One output, over all samples. Floating-point measures are None for integers, booleans and strings.

    Attributes:
        shape: the output's shape in the last sample (reference).
        elements: how many were compared.
        mismatches: elements that are not equal (NaN equals NaN, 0.0 equals -0.0).
        misplaced: elements where only one side is NaN, or an infinity differs.
        max_abs, max_rel: see the module's text; over the elements finite on both sides.
        cosine, cosine_min: of the whole output as a vector: mean and lowest over samples.
        sqnr_db: signal to noise power over all samples in dB; None where no element differs
            (or where the squares are beyond float64).
        top1, top1_rows: share of rows with the same best element, and the number of rows; None where it does not fit.
        problem: what makes values incomparable (another shape or dtype, missing), or None.
        own: how much the output may move as a whole where single elements may move by any amount, for the source rounds what
            flows through it (``own_rounding.py``); None elsewhere. ``own_part`` and ``own_share``: the same of a slice, and how
            many of the integers may differ.
        part: the most that a slice moves by, of its own size; see the module's text.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    samples: int = 0
    elements: int = 0
    mismatches: int = 0
    misplaced: int = 0
    max_abs: float | None = None
    max_rel: float | None = None
    cosine: float | None = None
    cosine_min: float | None = None
    sqnr_db: float | None = None
    top1: float | None = None
    top1_rows: int = 0
    tolerance: float | None = None
    problem: str | None = None
    own: float | None = None
    own_part: float = 0.0
    own_share: float = 0.0
    part: float = 0.0

    @property
    def share(self) -> float:
        """How many of the elements differ, of 1."""
        return self.mismatches / max(1, self.elements)

    @property
    def moved(self) -> float | None:
        """The root of the power of the difference over that of the output; None where that is unknown."""
        if self.sqnr_db is None:
            return 0.0 if self.equal else None
        return float(10 ** (-self.sqnr_db / 20))

    @property
    def equal(self) -> bool:
        """True where no element differs."""
        return self.problem is None and self.mismatches == 0

    def within(self, tolerance: float | None = None) -> bool:
        """True where the candidate is the same function up to rounding.

        Args:
            tolerance: bound on ``max_rel``; the dtype's own (``TOLERANCES``) where None.
        """
        return self.why_not(tolerance) is None

    def why_not(self, tolerance: float | None = None) -> str | None:
        """The reason that ``within`` is False, in words, or None."""
        if self.problem is not None:
            return self.problem
        if self.misplaced:
            return f"{self.misplaced:,} of {self.elements:,} elements are NaN or infinite on one side only"
        bound = tolerance if tolerance is not None else self.tolerance
        if bound is None:
            differ = self.mismatches > math.ceil(self.own_share * self.elements)
            return f"{self.mismatches:,} of {self.elements:,} elements differ" if differ else None
        if self.max_rel is not None and self.max_rel > bound:
            if self.own is None or self.moved is None:
                return f"relative error {self.max_rel:.2g} exceeds {bound:.2g}"
            if self.moved > self.own:
                return f"it moves by {self.moved:.2g} of its size; {self.own:.2g} is what the source's own rounding allows"
        if self.part > max(LOST, self.own_part):
            return f"a part of it moves by {self.part:.2g} of its own size"
        return None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"shape": list(self.shape), "equal": self.equal, "within": self.within()}


def first_difference(differences: Iterable[OutputDifference]) -> str | None:
    """The first output that is not the same function up to rounding, in words, or None."""
    return next((f"output {d.name!r}: {w}" for d in differences if (w := d.why_not()) is not None), None)


def compare(
    reference: Mapping[str, Any] | Iterable[Mapping[str, Any]],
    candidate: Mapping[str, Any] | Iterable[Mapping[str, Any]],
    *,
    classes: Iterable[str] = (),
) -> list[OutputDifference]:
    """Differences per output of one sample (two dicts name -> array) or of many (two equally long iterables of dicts).

    Outputs are joined by name; sequences and maps are taken apart into ``name[0]``, ``name[key]``.

    Args:
        classes: outputs that are distributions over classes, whatever their name and shape.
    """
    references = [reference] if isinstance(reference, Mapping) else reference
    candidates = [candidate] if isinstance(candidate, Mapping) else candidate
    comparison = Comparison(classes=classes)
    for r, c in zip(references, candidates, strict=True):
        comparison.add(r, c)
    return comparison.results()


@dataclass
class _Sums:
    """What cannot be kept as the running value of a measure."""

    cosines: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    same_best: int = 0
    classes: bool | None = None


@dataclass
class Comparison:
    """Accumulates samples: ``add`` each, then ``results``."""

    classes: Iterable[str] = ()
    _found: dict[str, OutputDifference] = field(default_factory=dict)
    _sums: dict[str, _Sums] = field(default_factory=dict)

    def add(self, reference: Mapping[str, Any], candidate: Mapping[str, Any]) -> None:
        """Take in the outputs of one sample."""
        left, right = flatten(reference), flatten(candidate)
        for name in [*left, *(n for n in right if n not in left)]:
            self._one(name, left.get(name), right.get(name))

    def results(self) -> list[OutputDifference]:
        """One record per output, in the order of the reference."""
        for name, found in self._found.items():
            sums = self._sums[name]
            if found.cosine_min is not None:
                found.cosine = sums.cosines / found.samples
            if sums.noise > 0 and math.isfinite(sums.signal) and math.isfinite(sums.noise):
                # Without any signal the ratio is zero, minus infinity in dB, which JSON cannot say.
                found.sqnr_db = 10 * math.log10(sums.signal / sums.noise) if sums.signal > 0 else -999.0
            if found.top1_rows:
                found.top1 = sums.same_best / found.top1_rows
        return list(self._found.values())

    def _one(self, name: str, r: np.ndarray | None, c: np.ndarray | None) -> None:
        given = r if r is not None else c
        dtype, shape = (given.dtype.name, given.shape) if given is not None else ("none", ())
        found = self._found.setdefault(name, OutputDifference(name, dtype, shape))
        sums = self._sums.setdefault(name, _Sums())
        found.samples += 1
        if r is None and c is None:
            return
        if r is None or c is None:
            found.problem = f"output is missing in the {'reference' if r is None else 'candidate'}"
            return
        found.shape = r.shape
        if r.shape != c.shape:
            found.problem = f"shape is {list(c.shape)}, was {list(r.shape)}"
            return
        if _kind(r) != _kind(c):
            found.problem = f"dtype is {c.dtype.name}, was {r.dtype.name}"
            return
        found.elements += r.size
        if _kind(r) == "float":
            self._floats(found, sums, r, c)
        else:
            different = r != c
            found.mismatches += int(np.count_nonzero(different))
            if _kind(r) == "integer" and r.size:
                # uint64 and int64 differences overflow in their own type
                gap = float(np.max(np.abs(r.astype(np.float64) - c.astype(np.float64))))
                found.max_abs = max(found.max_abs or 0.0, gap)

    def _floats(self, found: OutputDifference, sums: _Sums, r: np.ndarray, c: np.ndarray) -> None:
        # A candidate in a narrower dtype (float16 for float32) is judged by the coarser of the two.
        names = (r.dtype.name, c.dtype.name)
        bound = max(TOLERANCES.get(n, TOLERANCES["float32"]) for n in names)
        found.tolerance = max(found.tolerance or 0.0, bound)
        limit = min(_largest(n) for n in names)
        r64, c64 = _wide(r), _wide(c)
        same = (r64 == c64) | (np.isnan(r64) & np.isnan(c64))
        found.mismatches += int(r64.size - np.count_nonzero(same))
        finite = np.isfinite(r64) & np.isfinite(c64)
        if finite.all():  # picking all of them would take most of the time
            rf, cf = r64.reshape(-1), c64.reshape(-1)
        else:
            rf, cf = r64[finite], c64[finite]
            found.misplaced += int(np.count_nonzero(~finite & ~same))
        size, error = np.abs(rf), np.abs(rf - cf)
        typical = size < limit / 2
        rt, ct, et = (rf, cf, error) if typical.all() else (rf[typical], cf[typical], error[typical])
        negligible = max(NEGLIGIBLE.get(n, 0.1) for n in names)
        floor = max(_rms(rt), negligible / bound)
        largest = float(error.max(initial=0.0))
        found.max_abs = max(found.max_abs or 0.0, largest)
        relative = error / np.maximum(size, floor, out=size)
        found.max_rel = max(found.max_rel or 0.0, float(relative.max(initial=0.0)))
        with np.errstate(over="ignore"):  # beyond float64: ``results`` then gives no SQNR
            sums.signal += float(rt @ rt)
            sums.noise += float(np.sum(et**2))
        if largest > negligible and largest > bound / 20 * floor:
            found.part = max(found.part, _part(r64, c64, bound / 20 * floor, limit / 2))
        # Where NaN or infinity took every number's place there is no direction left to compare.
        lost = not rt.size and bool(r64.size) and not bool(same.all())
        cosine = 0.0 if lost else 1.0 if largest <= negligible else _cosine(rt, ct)
        sums.cosines += cosine
        found.cosine_min = cosine if found.cosine_min is None else min(found.cosine_min, cosine)
        self._best(found, sums, r64, c64)

    def _best(self, found: OutputDifference, sums: _Sums, r: np.ndarray, c: np.ndarray) -> None:
        if sums.classes is None and r.size:
            sums.classes = found.name in set(self.classes) or is_distribution(found.name, r)
        if not sums.classes or r.ndim < 1 or r.shape[-1] < 2 or not r.size:
            return
        rows_r, rows_c = r.reshape(-1, r.shape[-1]), c.reshape(-1, c.shape[-1])
        known = ~np.isnan(rows_r).any(axis=1)
        rows_r, rows_c = rows_r[known], rows_c[known]
        found.top1_rows += len(rows_r)
        if not len(rows_r):
            return
        chosen = np.take_along_axis(rows_r, np.argmax(rows_c, axis=1)[:, None], axis=1)[:, 0]
        # argmax takes a NaN for the largest, wherever it stands: such a row is wrong whatever it points at.
        right = (chosen == rows_r.max(axis=1)) & ~np.isnan(rows_c).any(axis=1)
        sums.same_best += int(np.count_nonzero(right))


def is_distribution(name: str, values: np.ndarray) -> bool:
    """True where an output is taken for scores over classes or tokens along its last axis (see the module's text)."""
    if values.ndim < 2 or values.shape[-1] < 2 or not values.size:
        return False
    if _CLASS_NAMES.search(name) or (values.ndim == 2 and values.shape[-1] in _LABEL_SETS):
        return True
    finite = bool(np.isfinite(values).all())
    return finite and bool((values >= 0).all()) and bool(np.allclose(values.sum(axis=-1), 1.0, atol=1e-2))


def flatten(outputs: Mapping[str, Any]) -> dict[str, np.ndarray | None]:
    """Outputs as arrays only: sequences and maps become ``name[0]``, ``name[key]``; an empty optional stays None."""
    flat: dict[str, np.ndarray | None] = {}

    def put(name: str, value: Any) -> None:
        if isinstance(value, list | tuple):
            flat[f"{name}.length"] = np.array(len(value), dtype=np.int64)
            for i, item in enumerate(value):
                put(f"{name}[{i}]", item)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                put(f"{name}[{key}]", item)
        else:
            flat[name] = None if value is None else np.asarray(value)

    for name, value in outputs.items():
        put(name, value)
    return flat


def _part(r: np.ndarray, c: np.ndarray, floor: float, limit: float) -> float:
    """The most that a slice along the second or the last axis moves by, of its own size, those that move by less than ``floor``
    (root mean square) left out."""
    worst = 0.0
    with np.errstate(all="ignore"):
        known = np.isfinite(r) & np.isfinite(c) & (np.abs(r) < limit) & (np.abs(c) < limit)
        signal, noise = np.where(known, r, 0.0) ** 2, np.where(known, c - r, 0.0) ** 2
    for axis in {1, r.ndim - 1} if r.ndim > 1 else ():
        others = tuple(i for i in range(r.ndim) if i != axis)
        if r.shape[axis] < 2 or r.size // r.shape[axis] < PART:
            continue
        size, moved = signal.mean(axis=others), noise.mean(axis=others)
        far = moved > floor**2
        worst = max(worst, float(np.sqrt(np.minimum(moved[far] / np.maximum(size[far], 1e-300), 1e12)).max(initial=0.0)))
    return worst


def _kind(array: np.ndarray) -> str:
    if array.dtype.kind == "f" or array.dtype.name.startswith(("bfloat", "float")):
        return "float"
    if array.dtype.kind == "b":
        return "boolean"
    if array.dtype.kind == "c":
        return "float"
    if array.dtype.kind in "iu" or array.dtype.name.startswith(("int", "uint")):
        return "integer"
    return "string"


def _wide(array: np.ndarray) -> np.ndarray:
    """float64, flat copies untouched in shape; a complex array gets a last axis of real and imaginary part."""
    if array.dtype.kind == "c":
        return np.stack([array.real, array.imag], axis=-1).astype(np.float64)
    return array.astype(np.float64)


def _largest(dtype: str) -> float:
    import ml_dtypes

    if dtype.startswith("complex"):
        dtype = "float32" if dtype == "complex64" else "float64"
    return float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]


def _rms(values: np.ndarray) -> float:
    top = float(np.abs(values).max(initial=0.0))
    return top * math.sqrt(float(np.mean((values / top) ** 2))) if top > 0 else 0.0


def _cosine(r: np.ndarray, c: np.ndarray) -> float:
    if not r.size:
        return 1.0
    # Scaling by the largest element keeps the squares of large values in range.
    top_r, top_c = float(np.abs(r).max()), float(np.abs(c).max())
    if top_r == 0.0 or top_c == 0.0:
        return 1.0 if top_r == top_c else 0.0
    r, c = r / top_r, c / top_c
    return float(np.clip((r @ c) / math.sqrt(float(r @ r) * float(c @ c)), -1.0, 1.0))
