"""Inputs that the user gives: an .npz file, a folder of them, or a Python function that yields feeds.

Feeds are read one at a time, so a folder may be larger than memory, and each is checked against the model's inputs.
A key that begins with ``label`` and is no input of the model is a label: it is never fed, and is there for metrics.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from ..decoding import Port, may_be_empty, ports
from ..errors import BadInput, OlcError
from ..session import INT8_CACHE, cache_scales

if TYPE_CHECKING:
    from .. import ir

Feed = dict[str, Any]

LABEL = "label"
"""How the key of a label begins."""


@dataclass(frozen=True)
class Expected:
    """What the model declares for one input.

    Attributes:
        dtype: numpy's or ml_dtypes' name (``float32``, ``bfloat16``), or ``"string"``.
        shape: sizes, None for one that may vary; None where even the rank may.
        dims: the same with the names of those that have one.
        grows: the axis along which it grows, of a decoder's cache: where no cache is given, all are empty.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    dims: tuple[int | str | None, ...] | None = None
    grows: int | None = None


_ORT_TYPES = {
    "float": "float32", "double": "float64", "float8e4m3fn": "float8_e4m3fn", "float8e4m3fnuz": "float8_e4m3fnuz",
    "float8e5m2": "float8_e5m2", "float8e5m2fnuz": "float8_e5m2fnuz",
}  # fmt: skip


def expected(opened: Any) -> list[Expected]:
    """The inputs of an ``onnxruntime.InferenceSession``, as ``session.run`` takes them. Sequences and maps are named, but not
    checked."""
    found, caches, grow = [], cache_scales(opened), may_be_empty(*ports(opened))
    for item in opened.get_inputs():
        inner = item.type[len("optional(") : -1] if item.type.startswith("optional(") else item.type
        if not inner.startswith("tensor("):
            found.append(Expected(item.name, "any", None))
            continue
        plain = "float" if item.name in caches else inner[len("tensor(") :].rstrip(")")
        shape = None if item.shape is None else tuple(d if isinstance(d, int) and d >= 0 else None for d in item.shape)
        dims = None if item.shape is None else tuple(item.shape)
        found.append(Expected(item.name, _ORT_TYPES.get(plain, plain), shape, dims, grow.get(item.name)))
    return found


def declared(model: ir.Model) -> list[Expected]:
    """The inputs of a graph that a caller must give."""
    from .inputs import NUMPY
    from .roles import inputs

    def port(v: ir.Value) -> Port:
        dims = (d if isinstance(d, int) else d.value for d in v.shape or ())
        return Port(v.name or "", "" if v.dtype is None else f"tensor({v.dtype.name.lower()})", tuple(dims))

    found, caches = [], json.loads(model.metadata_props.get(INT8_CACHE, "{}"))
    grow = may_be_empty(*([port(v) for v in side] for side in (model.graph.inputs, model.graph.outputs)))
    for item in inputs(model):
        shape = None if item.axes is None else tuple(d if isinstance(d, int) else None for d in item.axes)
        dtype = "any" if item.sequence else "string" if item.dtype == "string" else NUMPY.get(item.dtype, "any")
        dtype = "float32" if item.name in caches else dtype
        axes = None if item.sequence else item.axes
        dims = None if axes is None else tuple(d if d is None or isinstance(d, int) else str(d) for d in axes)
        found.append(Expected(item.name, dtype, None if item.sequence else shape, dims, grow.get(item.name)))
    return found


class Data:
    """Feeds from where ``spec`` says; may be iterated any number of times.

    Attributes:
        spec: as the user gave it.
    """

    def __init__(self, spec: str, source: Callable[[], Iterable[tuple[str, Mapping[str, Any]]]],
                 inputs: Sequence[Expected] | None, with_labels: bool = False) -> None:  # fmt: skip
        self.spec = spec
        self._source = source
        self._inputs = inputs
        self._with_labels = with_labels

    def labelled(self) -> Data:
        """The same with labels beside the inputs."""
        return Data(self.spec, self._source, self._inputs, with_labels=True)

    def __iter__(self) -> Iterator[Feed]:
        empty = True
        for where, feed in self._source():
            empty = False
            inputs = dict(feed) if self._inputs is None else check(feed, self._inputs, where)
            yield inputs | labels(feed, inputs) if self._with_labels else inputs
        if empty:
            raise BadInput("holds no sample", where=self.spec, hint="give at least one feed")

    def to_dict(self) -> dict[str, Any]:
        return {"synthesised": False, "data": self.spec}


def load(spec: str | os.PathLike[str], inputs: Sequence[Expected] | ir.Model | None = None) -> Data:
    """Feeds from an ``.npz`` file (arrays named as the inputs), a folder of them by name, or ``module:function``.

    The function takes no argument and returns an iterable of dicts input name -> array; the current folder is
    importable.

    Args:
        inputs: check and convert each feed against these, or against those of a model.

    Raises:
        BadInput: there is nothing of that name, or (while iterating) a feed does not fit the model.
    """
    text = os.fspath(spec)
    path = Path(text)
    if inputs is not None and not isinstance(inputs, Sequence):
        inputs = declared(inputs)
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            raise BadInput("the folder holds no .npz file", where=text, hint="save feeds with numpy.savez")
        return Data(text, lambda: ((str(f), _read(f)) for f in files), inputs)
    if path.is_file():
        return Data(text, lambda: [(text, _read(path))], inputs)
    if _names_function(text):
        found = function(text)
        return Data(text, lambda: _called(found, text), inputs)
    raise BadInput(
        "no such file or folder", where=text,
        hint="give an .npz file, a folder of .npz files, or module:function yielding dicts of arrays",
    )  # fmt: skip


def _read(file: Path) -> Feed:
    try:
        # Pickled arrays could run code; strings are kept as numpy's own text type instead.
        held = np.load(file, allow_pickle=False)
        if isinstance(held, np.lib.npyio.NpzFile):
            with held:
                return {name: held[name] for name in held.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise BadInput(f"cannot be read as .npz: {error}", where=str(file), hint="save it with numpy.savez") from error
    raise BadInput("is one array, not an .npz of named arrays", where=str(file),
                   hint="save it with numpy.savez(file, input_name=array)")  # fmt: skip


def _names_function(text: str) -> bool:
    module, _, name = text.partition(":")
    return name.isidentifier() and all(p.isidentifier() for p in module.split("."))


def function(spec: str) -> Callable[..., Any]:
    """The function ``module:function``; the current folder is importable.

    Raises:
        BadInput: there is none, or its module cannot be imported.
    """
    if not _names_function(spec):
        raise BadInput("is not module:function", where=spec, hint="name a function of a module in the current folder")
    module, _, name = spec.partition(":")
    here = os.getcwd()
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # a stranger's module may raise anything, and may not even be Python
        raise BadInput(f"module {module!r} cannot be imported: {type(error).__name__}: {error}", where=spec,
                       hint="run olc in the module's folder, or install it") from error  # fmt: skip
    finally:
        if added:
            sys.path.remove(here)
    if not callable(found):
        raise BadInput(f"module {module!r} has no function {name!r}", where=spec, hint="check the name")
    return found


_END = object()


@contextmanager
def _guarded(spec: str) -> Iterator[None]:
    """A stranger's function may raise anything: it is said as its fault."""
    try:
        yield
    except OlcError:
        raise
    except Exception as error:
        raise BadInput(f"raised {type(error).__name__}: {error}", where=spec, hint="run the function by itself") from error


def _called(function: Callable[[], Any], spec: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with _guarded(spec):
        produced = function()
    if isinstance(produced, Mapping):
        produced = [produced]
    if not isinstance(produced, Iterable):
        raise BadInput(f"returned {type(produced).__name__}, not feeds", where=spec, hint="yield dicts name -> array")
    samples = iter(produced)
    for number in count():
        with _guarded(spec):
            feed = next(samples, _END)
        if feed is _END:
            return
        if not isinstance(feed, Mapping):
            raise BadInput(f"sample {number} is a {type(feed).__name__}, not a dict of arrays", where=spec,
                           hint="yield dicts input name -> array")  # fmt: skip
        yield f"{spec}, sample {number}", feed


def check(feed: Mapping[str, Any], inputs: Sequence[Expected], where: str | None = None) -> Feed:
    """The feed with each array in the model's dtype.

    Labels are left out.

    Raises:
        BadInput: a name is missing or unknown, a rank or fixed size differs, or a value does not survive the cast.
    """
    names = [i.name for i in inputs]
    empty = _empty_caches(feed, inputs)
    missing = [n for n in names if n not in feed and n not in empty]
    unknown = [n for n in feed if n not in names and not n.startswith(LABEL)]
    if missing:
        raise BadInput(f"input {missing[0]!r} is missing", where=where,
                       hint=f"the model takes {', '.join(names)}; given were {', '.join(feed) or 'none'}")  # fmt: skip
    if unknown:
        raise BadInput(f"the model has no input {unknown[0]!r}", where=where,
                       hint=f"it takes {', '.join(names) or 'none'}; the key of a label begins with {LABEL!r}")  # fmt: skip
    return {i.name: _fitted(feed[i.name] if i.name in feed else empty[i.name], i, where) for i in inputs}


def _empty_caches(feed: Mapping[str, Any], inputs: Sequence[Expected]) -> Feed:
    """All caches without a token, where the feed has none of them: what a prompt begins with."""
    caches = [i for i in inputs if i.grows is not None and i.dims is not None]
    if any(i.name in feed for i in caches):
        return {}
    named = (pair for i in inputs if i.name in feed for pair in zip(i.dims or (), np.shape(feed[i.name]), strict=False))
    sizes = {dim: size for dim, size in named if isinstance(dim, str)}
    empty = {}
    for i in caches:
        shape = [sizes.get(dim) if isinstance(dim, str) else dim for dim in i.dims or ()]
        shape[i.grows or 0] = 0
        known = [size for size in shape if size is not None]
        if len(known) == len(shape):
            empty[i.name] = np.zeros(known, np.float32)
    return empty


def labels(feed: Mapping[str, Any], inputs: Mapping[str, Any]) -> Feed:
    """What a feed holds beside the inputs: labels."""
    return {name: value for name, value in feed.items() if name.startswith(LABEL) and name not in inputs}


def _fitted(value: Any, item: Expected, where: str | None) -> Any:
    if item.dtype == "any":
        return value
    array = np.asarray(value)
    if item.shape is not None:
        wanted = ["?" if d is None else d for d in item.shape]
        fits = array.ndim == len(item.shape) and all(
            d is None or d == size for d, size in zip(item.shape, array.shape, strict=True)
        )
        if not fits:
            hint = "a single sample needs a batch axis too" if array.ndim < len(item.shape) else "give it that shape"
            raise BadInput(f"input {item.name!r} has shape {list(array.shape)}, the model takes {wanted}", where=where,
                           hint=hint)  # fmt: skip
    if item.dtype == "string":
        if array.dtype.kind not in "OUS":
            raise BadInput(f"input {item.name!r} is {array.dtype.name}, the model takes strings", where=where)
        return array.astype(object)
    return _cast(array, item, where)


def _cast(array: np.ndarray, item: Expected, where: str | None) -> np.ndarray:
    import ml_dtypes

    wanted = np.dtype(getattr(ml_dtypes, item.dtype, item.dtype))
    if array.dtype == wanted:
        return array
    hint = f"save it as {item.dtype}"
    if array.dtype.kind in "OUSV" or array.dtype.kind == "c":
        raise BadInput(f"input {item.name!r} is {array.dtype.name}, the model takes {item.dtype}", where=where,
                       hint=hint)  # fmt: skip
    with np.errstate(all="ignore"):
        cast = array.astype(wanted)
        back = cast.astype(array.dtype)
    numeric = array.dtype.kind == "f" or array.dtype.name.startswith(("bfloat", "float"))
    same = (back == array) | (np.isnan(array) & np.isnan(back)) if numeric else back == array
    # A float that is true of 2**63 comes back from int64 saturated, and an int in a bool as 1: the round trip shows it.
    if not bool(np.all(same)):
        raise BadInput(
            f"input {item.name!r} is {array.dtype.name}; the model takes {item.dtype}, which would change its values",
            where=where, hint=hint,
        )  # fmt: skip
    return cast


class _Part:
    def __init__(self, feeds: Iterable[Feed], remainder: int) -> None:
        self._feeds = feeds
        self._remainder = remainder

    def __iter__(self) -> Iterator[Feed]:
        return (feed for number, feed in enumerate(self._feeds) if number % 2 == self._remainder)


@overload
def split(feeds: Sequence[Feed]) -> tuple[list[Feed], list[Feed]]: ...


@overload
def split(feeds: Iterable[Feed]) -> tuple[Iterable[Feed], Iterable[Feed]]: ...


def split(feeds: Iterable[Feed]) -> tuple[Iterable[Feed], Iterable[Feed]]:
    """(calibration, judging): the odd samples and the even ones. No sample does both, and sorted data is spread evenly.

    Lists are split into lists; other feeds lazily, to be iterated as often as they may be. A single sample goes to
    judging, and calibration is empty.
    """
    parts = _Part(feeds, 1), _Part(feeds, 0)
    return (list(parts[0]), list(parts[1])) if isinstance(feeds, Sequence) else parts
