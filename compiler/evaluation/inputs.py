"""Inputs made up from the graph, where the user gives no data: right in dtype, shape, range, vocabulary and mask.

They serve to time a model and to see that a compiled one computes the same; they say nothing about its task. A report
must say that they were synthesised: ``Plan.describe`` tells how each was chosen.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import ir
from ..analysis import cost, shapes
from ..errors import BadInput, OlcError
from ..passes import branch_sizes, doubtful_sizes, equal_sizes
from . import roles, sizes
from .roles import Input
from .sizes import Sizes

Feed = dict[str, Any]

#: Of so many samples the one of this number has its choices made the other way. Padding comes and goes in turns of two.
_EVERY, _FALSE = 3, 1

#: Runs tried while looking for sizes that the model accepts.
ATTEMPTS = 60

MOST_BYTES = 1 << 30
"""Bytes of one value inside the model, beyond which pictures and sounds that nobody gave the sizes of are made smaller: scores of
attention grow with the fourth power of a picture's side, and source and artifact are open side by side."""


@dataclass(frozen=True)
class Note:
    """How one input was chosen."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    role: str
    text: str

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape), "role": self.role, "text": self.text}


@dataclass
class Plan:
    """What each input will hold. ``make(i)`` gives sample i; the same seed and number give the same arrays.

    Attributes:
        cautious: integers of unknown meaning are 0, because others were out of range for the model.
        choices: flags that choose a branch of an If are false in one of three samples, so that both branches run. What is not
            asked to be cached has no past: a mask has an entry for each new token then.
        tried: what had to be changed from the defaults to make the model run, in words.
    """

    inputs: list[Input]
    sizes: Sizes
    seed: int = 0
    cautious: bool = False
    choices: bool = False
    tried: list[str] = field(default_factory=list)

    def make(self, number: int = 0) -> Feed:
        """Sample ``number``: input name -> array (a list of arrays for a sequence)."""
        sample = _Sample(self, number)
        return {item.name: sample.value(item) for item in self.inputs}

    def describe(self) -> list[Note]:
        """One note per input, in words."""
        return [Note(i.name, i.dtype, self.sizes.shape(i), i.role, self._text(i)) for i in self.inputs]

    @property
    def less(self) -> str:
        """What was made smaller than usual, in words; "" where nothing was."""
        smaller = [f"{s}={self.sizes.values[s]}" for s, origin in self.sizes.origin.items() if origin == sizes.LESS]
        return f"; {', '.join(smaller)} for the memory that larger ones take (--dim says other sizes)" if smaller else ""

    def lines(self) -> list[str]:
        """``describe`` as text."""
        return [f"{n.name} {n.dtype}{list(n.shape)}: {n.role}, {n.text}" for n in self.describe()]

    def _text(self, item: Input) -> str:
        if item.role == roles.IDS and item.trace.rows is not None:
            return f"uniform from 1 to {item.trace.rows - 1:,}, the rows of {item.trace.table!r}"
        if item.role == roles.OTHER:
            kind = _family(item.dtype)
            if kind == "integer":
                return "zeros" if self.cautious else f"uniform from {_least(item)} to 3"
            return _BY_DTYPE[kind]
        if item.role == roles.FLAG and self.choices and chooses(item):
            return "true, but false in one of three"
        return _TEXTS[item.role]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: sizes with their origin, and the notes."""
        return {
            "synthesised": True,
            "seed": self.seed,
            "sizes": {s: {"size": v, "kind": self.sizes.kinds[s], "origin": self.sizes.origin[s]}
                      for s, v in self.sizes.values.items()},
            "tried": list(self.tried),
            "inputs": [n.to_dict() for n in self.describe()],
        }  # fmt: skip


_TEXTS = {
    roles.IDS: "small ids, 1 to 99: the table that they index is not in the graph",
    roles.SEGMENTS: "0 in the first half, 1 in the second",
    roles.POSITIONS: "rising from the length of the past",
    roles.MASK: "ones; every other row is padded by a quarter",
    roles.ADDED_MASK: "zeros; every other row has -10000 in a quarter",
    roles.CACHE: "standard normal",
    roles.STATE: "normal, scaled by 0.1",
    roles.FEATURES: "standard normal",
    roles.IMAGE: "smooth random pictures within -2 to 2 (0 to 255 for uint8)",
    roles.AUDIO: "sines and noise within -0.5 to 0.5",
    roles.RATE: "16000",
    roles.STEP: "uniform from 0 to 999",
    roles.FLAG: "true",
    roles.PAST_LENGTH: "length of the past",
    roles.TOTAL_LENGTH: "length of past and new tokens",
    roles.LAST_INDEX: "length of past and new tokens, less 1",
    roles.LENGTH: "the full length",
}
_BY_DTYPE = {
    "float": "standard normal",
    "byte": "uniform over the whole range",
    "bool": "random",
    "string": "short words",
}


def synthesize(
    model: ir.Model,
    dims: Mapping[str, int] | None = None,
    seed: int = 0,
    count: int = 1,
    run: Callable[[Feed], Any] | None = None,
) -> list[Feed]:
    """``count`` samples for the model; see ``plan``."""
    made = plan(model, dims, seed, run)
    return [made.make(i) for i in range(count)]


def describe(
    model: ir.Model, dims: Mapping[str, int] | None = None, run: Callable[[Feed], Any] | None = None
) -> list[str]:
    """How ``synthesize`` chooses each input, one line each. Where a plan is at hand, ``plan.lines()`` is cheaper."""
    return plan(model, dims, run=run).lines()


def plan(
    model: ir.Model,
    dims: Mapping[str, int] | None = None,
    seed: int = 0,
    run: Callable[[Feed], Any] | None = None,
) -> Plan:
    """Decide what each input holds, and prove it by one run of the model; other sizes are tried where it fails.

    Args:
        dims: sizes of dynamic dimensions, by symbol (``past_seq``), by place (``x.2``) or by kind (``seq``).
        run: runs the model on a feed and raises ``OlcError`` where inference fails; ONNX Runtime on a temporary copy of
            the model where None.

    Raises:
        BadInput: no sizes were found with which the model runs, or an input is of a kind that cannot be made up.
    """
    if run is None:
        with tempfile.TemporaryDirectory(prefix="olc-") as folder:
            return plan(model, dims, seed, _runner(model, Path(folder) / "model.onnx"))
    try:
        return _proved(_first(model, equal_sizes.named(model), dims, seed), run)
    except BadInput:
        settled = equal_sizes.named(model, always=True)
        if _dims(settled) == _dims(model):
            raise
        return _proved(_first(model, settled, dims, seed), run)  # sizes that Reshapes prove, say


def _dims(model: ir.Model) -> set[str]:
    return {str(n) for v in model.graph.inputs for n in v.shape or ()}


def _first(model: ir.Model, settled: ir.Model, dims: Mapping[str, int] | None, seed: int) -> Plan:
    """The usual sizes; ``settled``: the model with sizes that must be equal."""
    alike = doubtful_sizes.named(branch_sizes.named(settled))
    # who names a dim by a name that went means it apart
    found = roles.inputs(model if (_dims(model) - _dims(alike)) & set(dims or ()) else alike)
    for item in found:
        _refuse(item)
    return Plan(found, _affordable(alike, found, sizes.choose(found, dims)), seed)


def _affordable(model: ir.Model, found: list[Input], usual: Sizes) -> Sizes:
    """The sizes, or smaller ones where some value would be too large; the usual where no smaller ones help."""
    tried = usual
    while (less := sizes.smaller(tried)) is not None:
        if _largest(model, found, tried) <= MOST_BYTES:
            return tried
        tried = less
    return usual if tried is usual or _largest(model, found, tried) > MOST_BYTES else tried


def _largest(model: ir.Model, found: list[Input], at: Sizes) -> int:
    """Bytes of the largest value inside the model, as far as shapes are known."""
    model = model.clone()
    given = {item.name: item for item in found if item.axes is not None and not item.sequence}
    for value in model.graph.inputs:
        if value.name in given:
            value.shape = ir.Shape(at.shape(given[value.name]))
    shapes.infer(model)
    return max((cost.bytes_of(v, {}) or 0 for n in model.graph for v in n.outputs), default=0)


def _refuse(item: Input) -> None:
    if item.axes is None and not item.sequence:
        raise BadInput(f"the shape of input {item.name!r} is not in the model", where=item.name, hint="give --data")
    if item.dtype not in NUMPY and item.dtype != "string":
        raise BadInput(f"no values can be made up for input {item.name!r} of type {item.dtype}", where=item.name,
                       hint="give --data")  # fmt: skip


def _runner(model: ir.Model, path: Path) -> Callable[[Feed], Any]:
    from ..session import SessionOptions, run, session
    from ..storage import save

    save(model, path)
    opened = session(path, options=SessionOptions(optimization="basic"))
    return lambda feed: run(opened, feed, where=model.graph.name or "model")


def chooses(item: Input) -> bool:
    """Is the input a flag that chooses a branch?"""
    return item.role == roles.FLAG and "If" in item.trace.consumers


def _proved(first: Plan, run: Callable[[Feed], Any]) -> Plan:
    found = _that_runs(first, run)
    both = replace(found, choices=True)
    return both if any(map(chooses, found.inputs)) and _failure(both, run, _FALSE) is None else found


def _that_runs(first: Plan, run: Callable[[Feed], Any]) -> Plan:
    error = _failure(first, run)
    if error is None:
        return first
    loose = [i for i in first.inputs if i.role == roles.OTHER and _is_integer(i.dtype)]
    for attempt, (chosen, what) in enumerate(_candidates(first.sizes)):
        if attempt >= ATTEMPTS:
            break
        candidate = replace(first, sizes=chosen, tried=[what] if what else [])
        if what and _failure(candidate, run) is None:
            return candidate
        if loose:
            careful = replace(candidate, cautious=True, tried=[*candidate.tried, "integers=0"])
            if _failure(careful, run) is None:
                return careful
    chosen_sizes = ", ".join(f"{s}={v}" for s, v in first.sizes.values.items()) or "none are dynamic"
    names = " ".join(f"--dim {s}=SIZE" for s, origin in first.sizes.origin.items() if origin != "given")
    raise BadInput(
        f"no input could be made up with which the model runs; with the sizes {chosen_sizes} it says: {error.what}",
        where=error.where,
        hint=f"say the sizes ({names}) or give real inputs with --data" if names else "give real inputs with --data",
    )


def _candidates(start: Sizes) -> Any:
    yield start, ""
    yield from sizes.alternatives(start)


def _failure(candidate: Plan, run: Callable[[Feed], Any], number: int = 0) -> OlcError | None:
    try:
        run(candidate.make(number))
    except OlcError as error:
        return error
    return None


#: ONNX's dtype name -> numpy's or ml_dtypes' name.
NUMPY = {
    "float": "float32", "double": "float64", "float16": "float16", "bfloat16": "bfloat16", "bool": "bool",
    "int8": "int8", "int16": "int16", "int32": "int32", "int64": "int64",
    "uint8": "uint8", "uint16": "uint16", "uint32": "uint32", "uint64": "uint64",
    "float8e4m3fn": "float8_e4m3fn", "float8e5m2": "float8_e5m2", "float8e4m3fnuz": "float8_e4m3fnuz",
    "float8e5m2fnuz": "float8_e5m2fnuz",
}  # fmt: skip


def numpy_dtype(name: str) -> np.dtype:
    """The numpy dtype (ml_dtypes for those numpy lacks) of an ONNX dtype name such as ``float`` or ``bfloat16``."""
    import ml_dtypes

    plain = NUMPY[name]
    return np.dtype(getattr(ml_dtypes, plain)) if plain.startswith(("bfloat", "float8")) else np.dtype(plain)


def _is_integer(dtype: str) -> bool:
    return dtype.startswith(("int", "uint"))


def _family(dtype: str) -> str:
    if dtype in ("bool", "string"):
        return dtype
    if _is_integer(dtype):
        return "byte" if dtype in ("int8", "uint8") else "integer"
    return "float"


def _least(item: Input) -> int:
    return 1 if item.trace.consumers & roles.COUNTED else 0


class _Sample:
    """The arrays of one sample; what several inputs share (padding, past) is decided once."""

    def __init__(self, plan: Plan, number: int) -> None:
        self.plan = plan
        self.number = number
        self.rng = np.random.default_rng([plan.seed, number])
        self.chosen = not plan.choices or number % _EVERY != _FALSE
        self.past = (plan.sizes.of(sizes.PAST) or 0) if self.chosen and any(i.role == roles.CACHE for i in plan.inputs) else 0
        self.sizes = plan.sizes if self.chosen else sizes.without_past(plan.sizes)
        self.new = plan.sizes.of(sizes.SEQ) or self._fixed_length()

    def _fixed_length(self) -> int:
        return next((self.plan.sizes.shape(i)[-1] for i in self.plan.inputs if i.role == roles.IDS and i.rank), 1)

    def value(self, item: Input) -> Any:
        shape = self.sizes.shape(item)
        if item.sequence:
            return [self._tensor(item, shape) for _ in range(2)]
        return self._tensor(item, shape)

    def _tensor(self, item: Input, shape: tuple[int, ...]) -> np.ndarray:
        if item.dtype == "string":
            words = np.array(["alpha", "beta", "gamma", "delta"], dtype=object)
            return np.asarray(self.rng.choice(words, shape), dtype=object)
        make = getattr(self, "_" + item.role.replace(" ", "_"))
        values = np.broadcast_to(make(item, shape), shape)
        return np.ascontiguousarray(values.astype(numpy_dtype(item.dtype))).reshape(shape)

    def _token_ids(self, item: Input, shape: tuple[int, ...]) -> np.ndarray:
        # 0 is most often the padding token, which models treat apart.
        rows = item.trace.rows if item.trace.rows is not None else 100
        return self.rng.integers(1 if rows > 1 else 0, rows, shape)

    def _segment_ids(self, item: Input, shape: tuple[int, ...]) -> np.ndarray:
        length = shape[-1] if shape else 1
        highest = 1 if item.trace.rows is None else min(1, item.trace.rows - 1)
        return np.minimum((np.arange(length) >= (length + 1) // 2).astype(np.int64), highest)

    def _positions(self, item: Input, shape: tuple[int, ...]) -> np.ndarray:
        length = shape[-1] if shape else 1
        start = self.past
        rising = np.arange(start, start + length) if shape else np.array(start)
        masks = [i for i in self.plan.inputs if i.role == roles.MASK and i.rank == 2 and "encoder" not in i.name]
        if masks and len(shape) == 2 and start:
            # Padding at the head of the past does not count as a position.
            kept = self._mask(masks[0], self.sizes.shape(masks[0]))
            if kept.shape[0] == shape[0] and kept.shape[1] >= length:
                rising = np.maximum(np.cumsum(kept, axis=1) - 1, 0)[:, -length:]
        return rising if item.trace.rows is None else np.minimum(rising, item.trace.rows - 1)

    def _mask(self, item: Input, shape: tuple[int, ...]) -> np.ndarray:
        return np.where(self._padded(shape), 0, 1)

    def _additive_mask(self, item: Input, shape: tuple[int, ...]) -> np.ndarray:
        return np.where(self._padded(shape), -10000.0, 0.0)

    def _padded(self, shape: tuple[int, ...]) -> np.ndarray:
        """True where padding is. The first row of the first sample is whole, the next padded, and so on in turn.

        Padding lies at the end, but with a cache at its head: the newest token, which is last, is never padding.
        """
        padded = np.zeros(shape, dtype=bool)
        if not shape or shape[-1] < 4:
            return padded
        with_cache = self.past > 0 and shape[-1] > self.new
        width = min(shape[-1] // 4, self.past // 2) if with_cache else shape[-1] // 4
        rows = shape[0] if len(shape) > 1 else 1
        for row in range(rows):
            if (self.number * rows + row) % 2 == 1:
                part = padded[row] if len(shape) > 1 else padded
                part[..., :width] = with_cache
                part[..., shape[-1] - width :] = not with_cache
        return padded

    def _cache(self, item: Input, shape: tuple[int, ...]) -> np.ndarray:
        return self.rng.standard_normal(shape)

    def _state(self, item: Input, shape: tuple[int, ...]) -> np.ndarray:
        return self.rng.standard_normal(shape) * 0.1

    def _features(self, item: Input, shape: tuple[int, ...]) -> np.ndarray:
        return self.rng.standard_normal(shape)

    def _image(self, item: Input, shape: tuple[int, ...]) -> np.ndarray:
        last = item.axes is not None and item.axes[1] not in (1, 3, 4) and item.axes[3] in (1, 3, 4)
        batch, height, width, channels = shape if last else (shape[0], shape[2], shape[3], shape[1])
        # Coarse blobs and a little grain: neighbouring pixels agree, as in pictures.
        coarse = self.rng.uniform(-1.6, 1.6, (batch, -(-height // 16), -(-width // 16), channels))
        picture = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width]
        picture = np.clip(picture + 0.1 * self.rng.standard_normal(picture.shape), -2, 2)
        if item.dtype == "uint8":
            picture = np.round((picture + 2) / 4 * 255)
        return picture if last else picture.transpose(0, 3, 1, 2)

    def _audio(self, item: Input, shape: tuple[int, ...]) -> np.ndarray:
        time = np.arange(shape[-1] if shape else 1) / 16000.0
        tones = sum(np.sin(2 * np.pi * f * time) for f in self.rng.uniform(80, 800, 4)) * 0.1
        wave: np.ndarray = np.clip(tones + 0.02 * self.rng.standard_normal(shape), -0.5, 0.5)
        return wave

    def _sample_rate(self, item: Input, shape: tuple[int, ...]) -> np.ndarray:
        return np.array(16000)

    def _timestep(self, item: Input, shape: tuple[int, ...]) -> np.ndarray:
        return self.rng.integers(0, 1000, shape)

    def _flag(self, item: Input, shape: tuple[int, ...]) -> np.ndarray:
        return np.array(self.chosen or not chooses(item))

    def _past_length(self, item: Input, shape: tuple[int, ...]) -> np.ndarray:
        return np.array(self.past)

    def _total_length(self, item: Input, shape: tuple[int, ...]) -> np.ndarray:
        return np.array(self.past + self.new)

    def _last_index(self, item: Input, shape: tuple[int, ...]) -> np.ndarray:
        return np.array(self.past + self.new - 1)

    def _length(self, item: Input, shape: tuple[int, ...]) -> np.ndarray:
        longest = self.plan.sizes.of(sizes.SAMPLES) or self.plan.sizes.of(sizes.SEQ) or self._fixed_length()
        return np.array(longest)

    def _other(self, item: Input, shape: tuple[int, ...]) -> np.ndarray:
        family = _family(item.dtype)
        if family == "bool":
            return self.rng.random(shape) < 0.5
        if family == "byte":
            info = np.iinfo(item.dtype)
            return self.rng.integers(info.min, info.max + 1, shape)
        if family == "integer":
            return np.zeros(shape, dtype=np.int64) if self.plan.cautious else self.rng.integers(_least(item), 4, shape)
        return self.rng.standard_normal(shape)
