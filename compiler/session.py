"""Open a model on ONNX Runtime as it was meant to run: ``olc.session("model.onnx")``.

olc writes the session options that it measured beside the artifact, in ``<stem>.olc.json`` under ``session_options``.
ONNX Runtime by itself reads only a few of them from a model's metadata, so they are applied here.
"""

from __future__ import annotations

import json
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BadInput, OlcError

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime

#: Names of optimization levels, weakest first, and ONNX Runtime's own.
LEVELS = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "layout": "ORT_ENABLE_LAYOUT",
    "all": "ORT_ENABLE_ALL",
}

CPU = "CPUExecutionProvider"

#: Config entries with which the CPU computes QDQ as it is written, not by integer kernels of its own that may saturate.
AS_WRITTEN = {"session.disable_quant_qdq": "1"}

#: Metadata of a model whose caches are held in 8 bits: JSON, the scale of each input and output, by name.
INT8_CACHE = "olc.int8_cache"

#: The config entry that lets threads sleep as soon as they have nothing to do.
SPINNING = ("session.intra_op.allow_spinning", "0")
SPINNING_TEXT = "threads that do not spin"


UNOPENED = "cannot be opened"
"""How an error begins that says why the runtime refuses a model."""


@dataclass(frozen=True)
class SessionOptions:
    """How a model should be opened.

    Attributes:
        threads: threads within an operator; None leaves it to the runtime (one per physical core).
        optimization: a key of ``LEVELS``.
        config: session config entries (``session.…``) and their values.
        disabled_optimizers: graph optimizers of the runtime that must not run, by name.
        parallel: branches of the graph run side by side, on as many threads again.
        arena: memory that was used is kept for what comes after.
        providers: execution providers, best first; those that the installed runtime lacks are passed over, and the CPU's
            comes last in any case.
    """

    threads: int | None = None
    optimization: str = "all"
    config: Mapping[str, str] = field(default_factory=dict)
    disabled_optimizers: tuple[str, ...] = ()
    parallel: bool = False
    arena: bool = True
    providers: tuple[str, ...] = (CPU,)

    @property
    def text(self) -> str:
        """What differs from the runtime's defaults, and its optimization level, in words."""
        threads = () if self.threads is None else (f"{self.threads} thread{'s' if self.threads != 1 else ''}",)
        switches = (("branches in parallel", self.parallel), ("no memory arena", not self.arena),
                    *((f"without {name}", True) for name in self.disabled_optimizers))  # fmt: skip
        entries = (SPINNING_TEXT if (k, v) == SPINNING else f"{k}={v}" for k, v in sorted(self.config.items()))
        return ", ".join([f"runtime level {self.optimization}", *threads, *(text for text, on in switches if on), *entries])

    def with_threads(self, threads: int | None) -> SessionOptions:
        """The same with so many threads; None leaves what is there."""
        return self if threads is None else replace(self, threads=threads)

    def to_dict(self) -> dict[str, Any]:
        return {
            "threads": self.threads,
            "optimization": self.optimization,
            "config": dict(sorted(self.config.items())),
            "disabled_optimizers": list(self.disabled_optimizers),
            "parallel": self.parallel,
            "arena": self.arena,
            "providers": list(self.providers),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str | None = None) -> SessionOptions:
        """Options from their JSON form.

        Raises:
            BadInput: a field is unknown or holds a value of another kind.
        """
        hint = "compile the model again, or delete the file to open the model with defaults"
        unknown = sorted(set(data) - {f.name for f in fields(cls)})
        if unknown:
            raise BadInput(f"session option {unknown[0]!r} is not known", where=where, hint=hint)
        threads, level = data.get("threads"), data.get("optimization", "all")
        config, disabled = data.get("config", {}), data.get("disabled_optimizers", [])
        if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 0):
            raise BadInput(f"session option 'threads' is {threads!r}, not a count", where=where, hint=hint)
        if level not in LEVELS:
            raise BadInput(f"session option 'optimization' is {level!r}, not one of {', '.join(LEVELS)}",
                           where=where, hint=hint)  # fmt: skip
        if not isinstance(config, Mapping) or not all(isinstance(v, str) for v in config.values()):
            raise BadInput("session option 'config' is not a table of texts", where=where, hint=hint)
        if not isinstance(disabled, list) or not all(isinstance(v, str) for v in disabled):
            raise BadInput("session option 'disabled_optimizers' is not a list of names", where=where, hint=hint)
        providers = data.get("providers", [CPU])
        if not isinstance(providers, list) or not all(isinstance(v, str) for v in providers):
            raise BadInput("session option 'providers' is not a list of names", where=where, hint=hint)
        switches = {name: data.get(name, default) for name, default in (("parallel", False), ("arena", True))}
        for name, value in switches.items():
            if not isinstance(value, bool):
                raise BadInput(f"session option {name!r} is {value!r}, neither true nor false", where=where, hint=hint)
        return cls(threads, level, dict(config), tuple(disabled), providers=tuple(providers), **switches)


def sidecar(path: str | os.PathLike[str]) -> Path:
    """Where the facts about an artifact lie: ``model.onnx`` -> ``model.olc.json``."""
    model = Path(path)
    return model.with_name(f"{model.stem}.olc.json")


def recommended(path: str | os.PathLike[str]) -> SessionOptions:
    """The options recorded beside the artifact, or defaults where nothing is recorded."""
    file = sidecar(path)
    if not file.is_file():
        return SessionOptions()
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        hint = "compile the model again, or delete the file"
        raise BadInput(f"is not JSON: {error}", where=str(file), hint=hint) from error
    options = data.get("session_options", {}) if isinstance(data, dict) else None
    if not isinstance(options, dict):
        raise BadInput("holds no table 'session_options'", where=str(file), hint="compile the model again")
    return SessionOptions.from_dict(options, where=str(file))


def session(
    path: str | os.PathLike[str] | bytes,
    threads: int | None = None,
    *,
    options: SessionOptions | None = None,
    providers: Iterable[str] | None = None,
    libraries: Iterable[str | os.PathLike[str]] = (),
    profile: str | os.PathLike[str] | None = None,
) -> onnxruntime.InferenceSession:
    """An ``onnxruntime.InferenceSession`` on the model, with the options recommended beside it.

    Args:
        path: the model file; or a serialized ModelProto, which has nothing beside it.
        threads: threads within an operator; wins over what is recommended. None leaves the recommendation.
        options: use these instead of the recorded ones.
        providers: execution providers, best first; None for those of the options. Where only the CPU's is there and others are
            wanted, the model is one that computes with float16's rounding (``stand_in.py``): for accuracy, not for speed.
        libraries: custom-operator libraries to load. They are native code: only name what you trust.
        profile: beginning of the file that the session's ``end_profiling`` writes; None for no profile.

    Raises:
        BadInput: no such file, or the options recorded beside it are malformed.
        OlcError: ONNX Runtime refuses the model; the message holds its reason.
    """
    import onnxruntime

    if isinstance(path, bytes):
        where, chosen = "<model in memory>", options if options is not None else SessionOptions()
    else:
        where = os.fspath(path)
        if not Path(where).is_file():
            raise BadInput("no such file", where=where, hint="give the path of an ONNX model")
        chosen = options if options is not None else recommended(where)
    chosen = chosen.with_threads(threads)
    wanted = [*(chosen.providers if providers is None else providers), CPU]
    available = frozenset(onnxruntime.get_available_providers())
    stands_in = not isinstance(path, bytes) and lacking(wanted)
    if stands_in:
        chosen = replace(chosen, config={**chosen.config, **AS_WRITTEN})
    native = native_options(chosen)
    if profile is not None:
        native.enable_profiling, native.profile_file_prefix = True, os.fspath(profile)
    for library in libraries:
        native.register_custom_ops_library(os.fspath(library))

    def opened(file: str | os.PathLike[str] | bytes) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(
            file if isinstance(file, bytes) else os.fspath(file),
            native,
            providers=list(dict.fromkeys(p for p in wanted if p in available)),
            disabled_optimizers=list(chosen.disabled_optimizers) or None,
        )

    with tempfile.TemporaryDirectory(prefix="olc-", ignore_cleanup_errors=True) as folder:
        file = _on_the_cpu(where, Path(folder)) if stands_in else path
        try:
            return opened(file)
        except Exception as error:  # the binding raises a dozen unrelated classes, RuntimeError among them
            repaired = None if isinstance(path, bytes) else _repaired(error, where, Path(folder))
            if repaired is None:
                raise refusal(error, where, UNOPENED) from error
        try:
            return opened(repaired)
        except Exception as error:
            raise refusal(error, where, UNOPENED) from error


@cache
def runs(provider: str) -> bool:
    """Can this machine run models by that execution provider? Found out by running one: a build of the runtime lists those
    that it was built with, and gives the CPU's session where there is no device."""
    import onnx.parser
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        return False
    text = '<ir_version: 8, opset_import: ["": 13]> g (float[1] x) => (float[1] y) { y = Neg (x) }'
    native = native_options(SessionOptions())
    opened = onnxruntime.InferenceSession(onnx.parser.parse_model(text).SerializeToString(), native, providers=[provider])
    return provider in opened.get_providers()


def lacking(providers: Sequence[str]) -> bool:
    """Is none of these execution providers, the CPU's apart, on this machine, where there are such?"""
    others = [p for p in providers if p != CPU]
    return bool(others) and not any(map(runs, others))


def _repaired(error: Exception, path: str, folder: Path) -> Path | None:
    """The file to open where the runtime refused one for an operator that is none (``repairs.py``); None where it was not for
    that."""
    from . import storage
    from .errors import OlcError
    from .repairs import REPAIRED, REPAIRS

    if not any(f" {op} " in str(error) for op in REPAIRS):
        return None
    try:
        model = storage.load(path)
    except OlcError:  # the runtime's own reason says more
        return None
    if not model.meta.get(REPAIRED):
        return None
    storage.save(model, folder / "repaired.onnx")
    return folder / "repaired.onnx"


def _on_the_cpu(path: str, folder: Path) -> Path:
    """The file to open where the CPU takes the place of a provider that is not there: one that is rounded as it would be."""
    from . import storage
    from .stand_in import stand_in

    model = stand_in(path)
    if model is None:
        return Path(path)
    storage.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def native_options(options: SessionOptions) -> onnxruntime.SessionOptions:
    """ONNX Runtime's own options object."""
    import onnxruntime

    native = onnxruntime.SessionOptions()
    native.log_severity_level = 4  # errors come as exceptions; warnings (unused initializers) are no news to a user
    native.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, LEVELS[options.optimization])
    if options.threads is not None:
        native.intra_op_num_threads = options.threads
        native.inter_op_num_threads = options.threads if options.parallel else 1
    if options.parallel:
        native.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    native.enable_cpu_mem_arena = options.arena
    for key, value in options.config.items():
        native.add_session_config_entry(key, value)
    return native


def refusal(error: Exception, where: str, what: str) -> OlcError:
    """An ``OlcError`` that carries the runtime's message, shortened to what a person can use."""
    text = shorten(str(error))
    hint = None
    if "Could not find an implementation" in text or "is not a registered function/op" in text:
        hint = "`olc compile` says which operators ONNX Runtime lacks, and replaces those that it can"
    return OlcError(f"{what}: {text}", where=where, hint=hint)


def shorten(message: str, limit: int = 400) -> str:
    """The runtime's message without its prefix, source paths and C++ signatures, on one line."""
    import re

    text = " ".join(message.split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : ", "", text)
    text = re.sub(r"/?\S*onnxruntime_src/\S+?:\d+ .*?\) (?:const )?(?:\[with .*?\] )?(?=\S)", "", text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def run(
    opened: onnxruntime.InferenceSession,
    feed: Mapping[str, Any],
    outputs: list[str] | None = None,
    where: str | None = None,
) -> dict[str, Any]:
    """Run once; outputs by name. Takes and gives bfloat16 and float8 (ml_dtypes), as the runtime's ``run`` does not, and
    floats for caches that are held in 8 bits.

    Args:
        feed: input name -> array (lists of arrays for sequences), dtypes as the model declares.
        outputs: names wanted, all where None.
        where: what to call the model in an error.

    Raises:
        OlcError: inference failed; the message holds the runtime's reason.
    """
    kinds = _output_types(opened)
    names = outputs if outputs is not None else list(kinds)
    feed, scales = _in_bytes(opened, feed), cache_scales(opened)
    special = any(_exotic(v) for v in feed.values()) or any(kinds.get(n) in _EXOTIC_OUTPUTS for n in names)
    try:
        if not special:
            found = dict(zip(names, opened.run(names, dict(feed)), strict=True))
        else:
            values = opened.run_with_ort_values(names, {k: _to_ort(v) for k, v in feed.items()})
            found = {n: _from_ort(v) for n, v in zip(names, values, strict=True)}
    except Exception as error:  # as in session()
        raise refusal(error, where or "<model>", "inference failed") from error
    return {n: v * scales[n] if n in scales else v for n, v in found.items()} if scales else found


def prepared(opened: onnxruntime.InferenceSession, feed: Mapping[str, Any]) -> Callable[[], Any]:
    """A function that runs the session on this feed and does as little else as can be, for timing.

    Its result is the runtime's own, of no use where bfloat16 or float8 is among the outputs.
    """
    kinds = _output_types(opened)
    names = list(kinds)
    if any(_exotic(v) for v in feed.values()) or any(t in _EXOTIC_OUTPUTS for t in kinds.values()):
        values = {k: _to_ort(v) for k, v in feed.items()}
        return lambda: opened.run_with_ort_values(names, values)
    arrays = dict(_in_bytes(opened, feed))
    return lambda: opened.run(names, arrays)


def _in_bytes(opened: Any, feed: Mapping[str, Any]) -> Mapping[str, Any]:
    """The feed with what goes into caches of 8 bits rounded."""
    import numpy as np

    scales = cache_scales(opened)
    rounded = {
        name: np.clip(np.rint(np.asarray(feed[name]) / scale), -127, 127).astype(np.int8)
        for name, scale in scales.items() if name in feed and np.asarray(feed[name]).dtype.kind == "f"
    }  # fmt: skip
    return {**feed, **rounded} if rounded else feed


_told: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()


def cache_scales(opened: Any) -> dict[str, Any]:
    """Scale of each input and output that is a cache in 8 bits, float32, by name: ``run`` takes and gives floats for them."""
    import numpy as np

    found = _told.get(opened)
    if found is None:
        text = opened.get_modelmeta().custom_metadata_map.get(INT8_CACHE, "{}")
        found = _told[opened] = {name: np.float32(scale) for name, scale in json.loads(text).items()}
    return found


_EXOTIC = {
    "bfloat16": "BFLOAT16",
    "float8_e4m3fn": "FLOAT8E4M3FN",
    "float8_e4m3fnuz": "FLOAT8E4M3FNUZ",
    "float8_e5m2": "FLOAT8E5M2",
    "float8_e5m2fnuz": "FLOAT8E5M2FNUZ",
}
_EXOTIC_OUTPUTS = {f"tensor({name.replace('_', '')})": name for name in _EXOTIC}


_types: weakref.WeakKeyDictionary[Any, dict[str, str]] = weakref.WeakKeyDictionary()


def _output_types(opened: Any) -> dict[str, str]:
    """Output name -> type, asked once a session: a model with 60 outputs pays for it in every run otherwise."""
    found = _types.get(opened)
    if found is None:
        found = _types[opened] = {o.name: o.type for o in opened.get_outputs()}
    return found


def _exotic(value: Any) -> bool:
    return getattr(getattr(value, "dtype", None), "name", "") in _EXOTIC


def _to_ort(value: Any) -> Any:
    import numpy as np
    import onnx
    import onnxruntime

    if isinstance(value, list):
        raise TypeError("a sequence input cannot be fed where another input or output is bfloat16 or float8")
    array = np.ascontiguousarray(value)
    if array.dtype.kind in "OUS":
        raise TypeError("a string input cannot be fed where another input or output is bfloat16 or float8")
    if not _exotic(array):
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    bits = array.view(np.uint16 if array.dtype.itemsize == 2 else np.uint8)
    kind = getattr(onnx.TensorProto, _EXOTIC[array.dtype.name])
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, kind)


def _from_ort(value: Any) -> Any:
    import ctypes

    import ml_dtypes
    import numpy as np

    name = _EXOTIC_OUTPUTS.get(value.data_type())
    if name is None:
        return value.numpy()
    dtype = np.dtype(getattr(ml_dtypes, name))
    shape = tuple(value.shape())
    count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw: np.ndarray = np.frombuffer(ctypes.string_at(value.data_ptr(), count), dtype=dtype)
    return raw.reshape(shape)
