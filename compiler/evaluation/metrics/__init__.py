"""Metrics of a task: numbers that say how well a model does what it is for, on labelled data.

A metric keeps of each sample what it needs (``reduce``), so that no data set of logits has to be held, and makes a number
of what it kept of all (``total``). Each file of this package gives some in ``METRICS``; a new file is found by walking.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ...errors import BadInput, OlcError
from ...session import run
from .. import data

Outputs = Mapping[str, Any]
"""Of one sample, by name."""
Sample = Mapping[str, Any]
"""Inputs and labels of one sample, by name."""


@dataclass(frozen=True)
class Metric:
    """A number for a model on data.

    Attributes:
        name: as the user gives it.
        reduce: what is kept of one sample.
        total: the number, from what was kept of the model's samples and of its source's. Metrics of agreement compare the
            two; the others look at the first only.
        needs: keys that each sample must hold.
        higher: more is better.
    """

    name: str
    reduce: Callable[[Outputs, Sample], Any]
    total: Callable[[list[Any], list[Any]], float]
    needs: tuple[str, ...] = ()
    higher: bool = True


@dataclass(frozen=True)
class Drop:
    """How much worse than the source's a metric may be: as a number, or as a part of the source's value."""

    amount: float = 0.01
    relative: bool = True

    @classmethod
    def parse(cls, text: str) -> Drop:
        """``0.5`` or ``1%``.

        Raises:
            ValueError: it is neither, or below 0.
        """
        relative = text.strip().endswith("%")
        amount = float(text.strip().removesuffix("%")) / (100 if relative else 1)
        if not 0 <= amount < math.inf:
            raise ValueError(text)
        return cls(amount, relative)

    def scaled(self, part: float) -> Drop:
        """That part of it."""
        return Drop(self.amount * part, self.relative)

    def allowed(self, source: float) -> float:
        """The same in units of the metric."""
        return self.amount * abs(source) if self.relative else self.amount


@dataclass(frozen=True)
class Score:
    """A metric's value for the source and for the model made of it."""

    name: str
    higher: bool
    source: float
    value: float

    @property
    def drop(self) -> float:
        """How much worse the model is than its source; below 0 where it is better, NaN where it has no value."""
        return self.source - self.value if self.higher else self.value - self.source

    def breach(self, most: Drop) -> str | None:
        """Why this is more than may be lost, or None."""
        allowed = most.allowed(self.source)
        if self.drop <= allowed + 1e-12:  # a bound of 0.1 allows .9 where .8 is left
            return None
        turn = "below" if self.higher else "above"
        lost = f"more than {allowed:.3g} {turn} the source's {self.source:.5g}"
        return f"{self.name} is {self.value:.5g}, {lost}"

    def to_dict(self, most: Drop | None = None) -> dict[str, Any]:
        """JSON-able; a value that is not finite is None."""
        value, drop = (x if math.isfinite(x) else None for x in (self.value, self.drop))
        return {
            "name": self.name, "higher": self.higher, "source": self.source, "value": value, "drop": drop,
            "allowed": None if most is None else most.allowed(self.source),
        }  # fmt: skip


class Kept:
    """What metrics keep of a model's outputs, sample by sample.

    Args:
        where: what to call the samples in an error.
    """

    def __init__(self, metrics: Sequence[Metric], where: str) -> None:
        self.metrics, self.where = metrics, where
        self.parts: list[list[Any]] = [[] for _ in metrics]
        self.count = 0

    def add(self, outputs: Outputs, sample: Sample) -> None:
        """Take in one sample.

        Raises:
            BadInput: it lacks what a metric needs.
        """
        for metric, parts in zip(self.metrics, self.parts, strict=True):
            missing = [key for key in metric.needs if key not in sample]
            if missing:
                raise BadInput(
                    f"the metric {metric.name!r} needs {missing[0]!r}, which sample {self.count} lacks", where=self.where,
                    hint=f"it holds {', '.join(sample)}; give each sample {missing[0]!r}, or choose another --metric",
                )  # fmt: skip
            try:
                parts.append(metric.reduce(outputs, sample))
            except BadInput as error:
                raise BadInput(error.what, where=error.where or f"{self.where}, sample {self.count}", hint=error.hint) from error
        self.count += 1


def scores(source: Kept, found: Kept) -> Iterator[Score]:
    """The metrics' values, made one by one.

    Raises:
        BadInput: the source has no finite value.
    """
    for metric, a, b in zip(source.metrics, source.parts, found.parts, strict=True):
        of_source = metric.total(a, a)
        if not math.isfinite(of_source):
            raise BadInput(f"the metric {metric.name!r} of the source model is {of_source}", where=source.where,
                           hint="check its labels, and that the model's outputs are finite")  # fmt: skip
        yield Score(metric.name, metric.higher, of_source, metric.total(b, a))


class Task:
    """Metrics on samples, and what they keep of the source's outputs.

    Args:
        samples: inputs with labels; iterated once for each model.
        source: an open session.
    """

    def __init__(self, metrics: Sequence[Metric], samples: Iterable[Sample], source: Any, where: str) -> None:
        self.metrics, self.samples, self.where = metrics, samples, where
        self._source = self._kept(source)

    def scores(self, opened: Any) -> Iterator[Score]:
        """Of the model that is open. Nothing is run before the first is asked for."""
        yield from scores(self._source, self._kept(opened))

    def _kept(self, opened: Any) -> Kept:
        names = [i.name for i in opened.get_inputs()]
        kept = Kept(self.metrics, self.where)
        for sample in self.samples:
            kept.add(run(opened, {n: sample[n] for n in names}), sample)
        return kept


Factory = Callable[[Callable[..., Any]], Metric]
"""Makes a metric that needs a function of the user's: the word error rate one that decodes."""


@cache
def known() -> dict[str, Metric | Factory]:
    """All metrics by name."""
    files = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]
    return {name: metric for file in files for name, metric in file.METRICS.items()}


def load(spec: str) -> Metric:
    """A metric by name, with a function (``wer=module:function``), or the user's own: ``module:function``.

    The user's own takes a list of outputs and a list of samples, dicts name -> array, and returns a number; more is better.

    Raises:
        BadInput: there is none of that name, or no such function.
    """
    name, given, rest = spec.partition("=")
    found = known().get(name)
    if isinstance(found, Metric):
        if given:
            raise BadInput(f"the metric {name!r} takes no function", where=f"--metric {spec}", hint=f"give --metric {name}")
        return found
    if found is not None:
        if not rest:
            raise BadInput(
                f"the metric {name!r} needs a function that makes text of outputs", where=f"--metric {spec}",
                hint=f"give --metric {name}=module:function; it takes (outputs, sample), dicts name -> array",
            )  # fmt: skip
        return found(_guarded(data.function(rest), rest))
    if ":" not in spec:
        raise BadInput(f"there is no metric {spec!r}", where="--metric",
                       hint=f"one of {', '.join(sorted(known()))}, or module:function")  # fmt: skip
    return _own(spec)


def _own(spec: str) -> Metric:
    function = _guarded(data.function(spec), spec)

    def total(found: list[Any], source: list[Any]) -> float:
        value = function([outputs for outputs, _ in found], [sample for _, sample in found])
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise BadInput(f"the metric returned {type(value).__name__}, not a number", where=spec) from error

    return Metric(spec, lambda outputs, sample: (dict(outputs), dict(sample)), total)


def _guarded(function: Callable[..., Any], spec: str) -> Callable[..., Any]:
    """The function; what it raises is told under its name."""

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except OlcError:
            raise
        except Exception as error:  # anything may be raised by a stranger's code
            raise BadInput(f"the function raised {type(error).__name__}: {error}", where=spec,
                           hint="it is called with outputs and samples, dicts name -> array") from error  # fmt: skip

    return call


def floating(outputs: Outputs, ranks: Sequence[int], metric: str) -> tuple[str, np.ndarray]:
    """The first floating-point output of one of these ranks.

    Raises:
        BadInput: there is none.
    """
    for name, value in outputs.items():
        if isinstance(value, np.ndarray) and value.ndim in ranks and (value.dtype.kind == "f" or "float" in value.dtype.name):
            return name, value
    has = ", ".join(f"{k} {getattr(v, 'dtype', '')}{list(getattr(v, 'shape', []))}" for k, v in outputs.items())
    raise BadInput(f"the metric {metric!r} needs a floating-point output of rank {' or '.join(map(str, ranks))}",
                   hint=f"the model gives {has}; write a metric of your own: --metric module:function")  # fmt: skip


def joined(found: list[np.ndarray], source: list[np.ndarray], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """What was kept of all samples of a model and of its source, along the first axis.

    Raises:
        BadInput: the two are not of one shape.
    """
    a, b = np.concatenate(found), np.concatenate(source)
    if a.shape != b.shape:
        raise BadInput(f"the metric {metric!r} compares {list(a.shape)} answers with {list(b.shape)}", where="--metric",
                       hint="the two models, or outputs and labels, must have the same shapes")  # fmt: skip
    return a, b


def mask(sample: Sample, shape: tuple[int, ...]) -> np.ndarray:
    """Tokens that count, bool [batch, seq]: those that an input called a mask keeps, all where there is none.

    A mask over past and present tokens is longer; its end belongs to these.
    """
    found: list[np.ndarray] = []
    for name, value in sample.items():
        # That of an encoder is over other tokens.
        if "mask" in name and not name.startswith(data.LABEL) and re.search(r"(?<!d)encoder|cross", name.lower()) is None:
            array = np.asarray(value)
            if array.ndim == 2 and len(array) == shape[0] and array.shape[1] >= shape[1]:
                found.append(array)
    if not found:
        return np.ones(shape, bool)
    nearest = min(found, key=lambda a: a.shape[1])
    kept: np.ndarray = nearest[:, nearest.shape[1] - shape[1] :] != 0
    return kept
