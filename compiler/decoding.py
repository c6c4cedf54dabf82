"""Run a decoder token by token without copying its cache out and in: ``olc.decoder("model.onnx", capacity=2048)``.

A decoder that is exported with a cache takes the keys and values of earlier tokens (past) and gives those of all tokens
(present). Through numpy they are copied at each step. Here the present values of one step become the past values of the next
as they are; and where the model was compiled to the shared form (``targets/shared_cache.py``), both are one buffer of full
capacity, in which each step writes the new tokens only.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import BadInput
from .session import SessionOptions, _from_ort, _to_ort, refusal, session

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime

SHARED = "olc.shared_cache"
"""Metadata of a model in the shared form: JSON, ``{"total": [input, axis], "new": [input, axis]}``, whose sizes are the
tokens in use after a step and those that the step adds."""

Dims = Sequence[int | str | None]

_NOISE = {"past", "present", "cache", "updated", "new", "input", "output", "in", "out", "kv"}
_TYPES = {"tensor(float)": 1, "tensor(uint8)": 2, "tensor(int8)": 3, "tensor(float16)": 10, "tensor(double)": 11,
          "tensor(bfloat16)": 16}  # fmt: skip
"""Types of caches and their numbers in ONNX."""


@dataclass(frozen=True)
class Port:
    """An input or output of a model: name, type as ONNX Runtime writes it, dims (numbers, names, None)."""

    name: str
    type: str
    dims: tuple[int | str | None, ...]


@dataclass(frozen=True)
class Pair:
    """A cache: the input that takes it, the output that gives it on, and the axis along which it grows."""

    past: Port
    present: str
    axis: int


def decoder(
    path: str | os.PathLike[str] | bytes,
    capacity: int = 2048,
    *,
    threads: int | None = None,
    options: SessionOptions | None = None,
    pairs: Mapping[str, str] | None = None,
    axis: int | None = None,
    dims: Mapping[str, int] | None = None,
) -> Decoder:
    """A loop around a decoder with a cache.

    Args:
        path: the model file, or a serialized ModelProto.
        capacity: most tokens that the cache holds.
        threads, options: as for ``olc.session``.
        pairs: past input -> present output, where they are not found by name or order.
        axis: the axis along which caches grow, where their dims do not tell.
        dims: sizes of dims of the caches that no other input has.

    Raises:
        BadInput: no such file; the model has no cache, or which output belongs to which input is not clear.
        OlcError: ONNX Runtime refuses the model.
    """
    where = "<model in memory>" if isinstance(path, bytes) else os.fspath(path)
    if capacity < 1:
        raise BadInput(f"a capacity of {capacity} holds no token", where="capacity", hint="give the most tokens, at least 1")
    return Decoder(session(path, threads, options=options), capacity, pairs=pairs, axis=axis, dims=dims, where=where)


class Decoder:
    """An opened decoder and its cache.

    Attributes:
        length: tokens in the cache.
        capacity: most tokens that it holds.
        shared: past and present are one buffer.
        pairs: the caches.
    """

    def __init__(
        self,
        opened: onnxruntime.InferenceSession,
        capacity: int,
        *,
        pairs: Mapping[str, str] | None = None,
        axis: int | None = None,
        dims: Mapping[str, int] | None = None,
        where: str = "<model>",
    ) -> None:
        inputs, outputs = ports(opened)
        self.pairs = find_pairs(inputs, outputs, pairs, axis, where)
        self.capacity, self.length = capacity, 0
        self._opened, self._where, self._dims = opened, where, dict(dims or {})
        pasts = {p.past.name for p in self.pairs}
        presents = {p.present for p in self.pairs}
        self._feeds = {p.name: p for p in inputs if p.name not in pasts}
        self._wanted = [p.name for p in outputs if p.name not in presents]
        told = opened.get_modelmeta().custom_metadata_map.get(SHARED)
        self._told: dict[str, tuple[str, int]] = {} if told is None else {k: (n, i) for k, (n, i) in json.loads(told).items()}
        self._caches: dict[str, Any] = {}
        self._binding: Any = None

    @property
    def shared(self) -> bool:
        return bool(self._told)

    def reset(self) -> None:
        """Forget all tokens. The next step may have another batch."""
        self._caches, self._binding, self.length = {}, None, 0

    def step(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Run once and keep the cache.

        Args:
            feeds: every input but the caches, by name: arrays as for ``olc.session(...).run``. An attention mask has an
                entry for each token in the cache and each new one.

        Returns:
            every output but the caches, by name.

        Raises:
            BadInput: an input is missing or unknown; the cache is full; the feeds do not fit the tokens in the cache.
                The cache is as it was.
            OlcError: inference failed. In the shared form, the new tokens may have been written; ``length`` is as it was.
        """
        missing = sorted(self._feeds.keys() - feeds.keys())
        unknown = sorted(feeds.keys() - self._feeds.keys())
        if missing or unknown:
            wrong = f"input {missing[0]!r} is not fed" if missing else f"{unknown[0]!r} is no input to feed"
            hint = f"feed {', '.join(self._feeds)}; the loop feeds the caches"
            raise BadInput(wrong, where=self._where, hint=hint)
        values = {name: _to_ort(value) for name, value in feeds.items()}
        return self._in_place(values) if self.shared else self._passed_on(values)

    def _passed_on(self, feeds: dict[str, Any]) -> dict[str, np.ndarray]:
        """Present values of one step are the past ones of the next."""
        caches = self._caches or {p.past.name: self._empty(p, 0, feeds) for p in self.pairs}
        names = [*self._wanted, *(p.present for p in self.pairs)]
        try:
            found = self._opened.run_with_ort_values(names, feeds | caches)
        except Exception as error:  # the binding raises a dozen unrelated classes, RuntimeError among them
            raise refusal(error, self._where, "inference failed") from error
        kept = found[len(self._wanted) :]
        length = int(kept[0].shape()[self.pairs[0].axis])
        self._check_room(length)
        self._caches = {p.past.name: value for p, value in zip(self.pairs, kept, strict=True)}
        self.length = length
        return {name: _from_ort(value) for name, value in zip(self._wanted, found, strict=False)}

    def _in_place(self, feeds: dict[str, Any]) -> dict[str, np.ndarray]:
        """Past and present are one buffer."""
        length, new = (self._size(feeds, *self._told[key]) for key in ("total", "new"))
        self._check_room(length)
        if length != self.length + new:
            name, axis = self._told["total"]
            raise BadInput(
                f"axis {axis} of {name!r} is {length}, but {self.length} tokens are in the cache and {new} are new",
                where=self._where, hint=f"give it {self.length + new} entries, or reset() the cache",
            )  # fmt: skip
        if self._binding is None:
            self._bind(feeds)
        for name, value in feeds.items():
            self._binding.bind_ortvalue_input(name, value)
        for name in self._wanted:
            self._binding.bind_output(name)  # anew, since its shape may be another
        try:
            self._opened.run_with_iobinding(self._binding)
        except Exception as error:  # as above
            if self.length == 0:
                self._binding = None  # its buffers are of these feeds' sizes, which may be what is wrong
            raise refusal(error, self._where, "inference failed") from error
        self.length = length
        found = self._binding.get_outputs()  # in the order in which they were bound first
        return {name: _from_ort(value) for name, value in zip(self._wanted, found[len(self.pairs) :], strict=True)}

    def _bind(self, feeds: dict[str, Any]) -> None:
        caches = {p.past.name: self._empty(p, self.capacity, feeds) for p in self.pairs}
        self._caches, self._binding = caches, self._opened.io_binding()
        for pair in self.pairs:
            self._binding.bind_ortvalue_input(pair.past.name, caches[pair.past.name])
            self._binding.bind_ortvalue_output(pair.present, caches[pair.past.name])

    def _check_room(self, length: int) -> None:
        if length > self.capacity:
            raise BadInput(
                f"the cache holds {self.capacity} tokens, and this step makes them {length}", where=self._where,
                hint="open the decoder with a larger capacity, or reset() it",
            )  # fmt: skip

    def _size(self, feeds: dict[str, Any], name: str, axis: int) -> int:
        shape = feeds[name].shape()
        if axis >= len(shape):
            raise BadInput(f"{name!r} has rank {len(shape)}", where=self._where, hint="feed it with the rank of the model")
        return int(shape[axis])

    def _empty(self, pair: Pair, length: int, feeds: dict[str, Any]) -> Any:
        """A buffer for a cache of that many tokens, other sizes as in the feeds."""
        import onnxruntime

        sizes = dict(self._dims)
        for port in self._feeds.values():
            for dim, size in zip(port.dims, feeds[port.name].shape(), strict=False):
                if isinstance(dim, str):
                    sizes.setdefault(dim, size)
        shape = []
        for i, dim in enumerate(pair.past.dims):
            if i == pair.axis:
                shape.append(length)
            elif isinstance(dim, int):
                shape.append(dim)
            elif dim in sizes:
                shape.append(sizes[dim])
            else:
                raise BadInput(
                    f"the size of axis {i} ({dim!r}) of cache {pair.past.name!r} is not known from the inputs",
                    where=self._where, hint=f"give it: dims={{{dim!r}: ...}}" if dim else "name the dim in the model",
                )  # fmt: skip
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, _TYPES[pair.past.type])


# --- which input belongs to which output -----------------------------------------------------------------------------------


def ports(opened: onnxruntime.InferenceSession) -> tuple[list[Port], list[Port]]:
    """Inputs and outputs of a model."""

    def side(values: Sequence[Any]) -> list[Port]:
        return [Port(v.name, v.type, tuple(v.shape or ())) for v in values]

    return side(opened.get_inputs()), side(opened.get_outputs())


def find_pairs(
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    given: Mapping[str, str] | None = None,
    axis: int | None = None,
    where: str | None = None,
) -> list[Pair]:
    """The caches of a model, in the order of its inputs.

    A past and a present have one type and rank, and equal sizes where both are numbers. They are paired by what their names
    have in common (``past_key_values.0.key`` and ``present.0.key``), else by their order, if there are as many of rank 4
    and more on both sides.

    Raises:
        BadInput: there are none, or it is not clear which.
    """
    sources, results = {p.name: p for p in inputs}, {p.name: p for p in outputs}
    if given is not None:
        for name, known, side in [*((n, sources, "input") for n in given), *((n, results, "output") for n in given.values())]:
            if name not in known:
                raise BadInput(f"the model has no {side} {name!r}", where="pairs", hint=f"one of: {', '.join(known)}")
        for past, present in given.items():
            if not _alike(sources[past], results[present]):
                fact = f"{past!r} and {present!r} differ in type or shape, or have no axis that grows"
                raise BadInput(fact, where="pairs", hint="pair each past with its own present")
        found = [(sources[past], results[present]) for past, present in given.items()]
    else:
        found = _by_name(inputs, outputs) or _by_order(inputs, outputs)
    if not found:
        raise BadInput(
            "no cache is found: no growing input and output are alike in type, shape, and in name or order", where=where,
            hint="export the model with its cache (use_cache), or name the pairs: pairs={'past': 'present'}",
        )  # fmt: skip
    shared = {dim for p in inputs if p not in [past for past, _ in found] for dim in p.dims}
    return [Pair(past, present.name, _grows(past, present, axis, shared, where)) for past, present in found]


def may_be_empty(inputs: Sequence[Port], outputs: Sequence[Port]) -> dict[str, int]:
    """The caches that are empty before the first token, and the axis along which each grows: one whose dim has a name that is
    of caches alone, so that it is no batch."""
    try:
        pairs = find_pairs(inputs, outputs)
    except BadInput:
        return {}
    pasts = {p.past.name for p in pairs}
    others = {dim for p in inputs if p.name not in pasts for dim in p.dims}
    return {p.past.name: p.axis for p in pairs if isinstance(p.past.dims[p.axis], str) and p.past.dims[p.axis] not in others}


def _alike(past: Port, present: Port) -> bool:
    sizes = zip(past.dims, present.dims, strict=False)
    same = all(a == b for a, b in sizes if isinstance(a, int) and isinstance(b, int))
    return past.type == present.type in _TYPES and len(past.dims) == len(present.dims) and same and not _fixed(past)


def _fixed(port: Port) -> bool:
    return all(isinstance(dim, int) for dim in port.dims)


def _by_name(inputs: Sequence[Port], outputs: Sequence[Port]) -> list[tuple[Port, Port]]:
    named: dict[str, list[Port]] = {}
    for port in outputs:
        if _stem(port.name):  # "input" and "output" have nothing in common but that they are no name
            named.setdefault(_stem(port.name), []).append(port)
    found = []
    for port in inputs:
        alike = [p for p in named.get(_stem(port.name), []) if _alike(port, p)]
        if len(alike) == 1 and len(port.dims) >= 3:
            found.append((port, alike[0]))
    return found if len({present.name for _, present in found}) == len(found) else []


def _stem(name: str) -> str:
    """What two names of one cache have in common."""
    words = re.findall(r"[a-z]+|\d+", name.lower().replace("key_values", ""))
    return " ".join(word for word in words if word not in _NOISE)


def _by_order(inputs: Sequence[Port], outputs: Sequence[Port]) -> list[tuple[Port, Port]]:
    pasts = [p for p in inputs if len(p.dims) >= 4 and p.type in _TYPES and not _fixed(p)]
    presents = [p for p in outputs if len(p.dims) >= 4 and p.type in _TYPES]
    if len(pasts) != len(presents) or not all(map(_alike, pasts, presents)):
        return []
    return list(zip(pasts, presents, strict=True))


def _grows(past: Port, present: Port, axis: int | None, shared: set[int | str | None], where: str | None) -> int:
    """The axis along which a cache grows: the only one whose dim is no number and differs between past and present, or that
    no other input has."""
    if axis is not None:
        if not -len(past.dims) <= axis < len(past.dims):
            raise BadInput(f"cache {past.name!r} has rank {len(past.dims)}, no axis {axis}", where="axis", hint="count from 0")
        return axis % len(past.dims)
    free = [i for i, dim in enumerate(past.dims) if not isinstance(dim, int)]
    for choice in (
        [i for i in free if past.dims[i] != present.dims[i]],
        [i for i in free if past.dims[i] is not None and past.dims[i] not in shared],
        free,
    ):
        if len(choice) == 1:
            return choice[0]
    dims = ", ".join(map(str, past.dims))
    raise BadInput(f"which axis of cache {past.name!r} [{dims}] grows is not clear", where=where, hint="give it: axis=2, say")
