"""Files: load a model, untrusted, into a verified graph; save a graph so that no half-written file is ever seen.

Loading judges before it allocates (size, protobuf structure, every tensor's bytes, every external range), repairs what
ONNX allows but the graph does not express (nodes out of order; names of a body that hide an outer one), and turns
everything else into ``BadInput``. External data is mapped, not read.

Saving writes to temporary files in the target's folder, flushes them to disk and renames them: data first, then the
model. Tensors of at least ``EXTERNAL_TENSOR`` bytes go to ``<name>.data`` when asked (``external=True``), when the
model would come near protobuf's 2 GiB, or when ``KEEP_EXTERNAL`` bytes or more are in data files already; they are
streamed a megabyte at a time. Below that, everything is in the one file. Saving over the very files a model is mapped
from is safe on POSIX (the mapping keeps the old content) and refused on Windows.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import hashlib
import io
import mmap
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import ir, repairs
from .deserialize import LIMITS, Limits, from_proto
from .errors import BadInput, OutputError
from .file_kinds import explain
from .serialize import to_proto
from .tensors import DataFile, MappedTensor, SparseTensor
from .verifier import Problem, check, find_cycle, label, verify

__all__ = ["Limits", "load", "load_bytes", "load_proto", "save", "to_bytes", "to_proto"]

PROTOBUF_BYTES = (1 << 31) - 1
#: Above this many bytes of tensors the model gets a data file: protobuf stops at 2 GiB, and nodes take room too.
SPLIT_BYTES = 1_800_000_000
#: A source whose data files hold at least this much keeps one: below, a single file is easier to move.
KEEP_EXTERNAL = 128 << 20
#: Smaller tensors stay in the model, where shape inference can read them (onnx's own threshold).
EXTERNAL_TENSOR = 1024
_ALIGN, _ALIGN_LARGE, _LARGE = 64, 4096, 1 << 20
SOURCE = "olc.source"


# loading


def load(path: str | os.PathLike[str], *, limits: Limits = LIMITS) -> ir.Model:
    """The verified model in an ONNX file. Its external data must lie in the same folder.

    Raises:
        BadInput: says what is wrong, where, and what to do.
    """
    path = os.fspath(path)
    raw = read_file(path)
    proto = _parse(raw, path)
    del raw
    model = _accept(proto, path, os.path.dirname(path) or ".", limits)
    model.meta[SOURCE] = path
    return model


def load_bytes(raw: bytes, *, where: str = "bytes", folder: str | None = None, limits: Limits = LIMITS) -> ir.Model:
    """The verified model in a serialized ModelProto; without ``folder`` it may have no external data."""
    return _accept(_parse(bytes(raw), where), where, folder, limits)


def load_proto(
    proto: Any, *, where: str = "ModelProto", folder: str | None = None, limits: Limits = LIMITS
) -> ir.Model:
    """The verified model in an ``onnx.ModelProto``, which is copied: the graph must not change under its owner."""
    own = type(proto)()
    own.CopyFrom(proto)
    return _accept(own, where, folder, limits)


def read_file(path: str, limit: int = PROTOBUF_BYTES) -> bytes:
    """The content of a regular file that may be anything. Raises BadInput."""
    try:
        with open(path, "rb", opener=lambda p, flags: os.open(p, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise BadInput("not a regular file", where=path, hint="give the path of an .onnx file")
            if info.st_size > limit:
                what = f"{info.st_size:,} bytes; such a file ends at {limit:,}"
                raise BadInput(what, where=path, hint="save the model with external data")
            return file.read(limit)
    except FileNotFoundError:
        raise BadInput("no such file", where=path, hint="check the path") from None
    except IsADirectoryError:
        raise BadInput("a folder, not a file", where=path, hint=_models_in(path)) from None
    except PermissionError:
        raise BadInput("cannot be read: permission denied", where=path, hint="chmod +r, or run as its owner") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise BadInput(f"cannot be read: {error}", where=path) from error


def _models_in(folder: str) -> str:
    found = sorted(Path(folder).glob("*.onnx"))
    return f"give the file: {found[0]}" if found else "give the path of an .onnx file"


def _parse(raw: bytes, where: str) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    reason = explain(raw)
    if reason is not None:
        raise BadInput(reason[0], where=where, hint=reason[1])
    try:
        return onnx.ModelProto.FromString(raw)
    except DecodeError as error:
        what, hint = _protobuf_says(error) or explain(raw, broken=True) or ("not an ONNX model", None)
        raise BadInput(what, where=where, hint=hint) from None


def _protobuf_says(error: Exception) -> tuple[str, str | None] | None:
    if "MaxDepth" in str(error):
        return "nested deeper than protobuf allows (100 levels)", "no real model is: the file is damaged or hostile"
    return None


def _accept(proto: Any, where: str, folder: str | None, limits: Limits) -> ir.Model:
    if not proto.HasField("graph"):
        raise BadInput("no graph in it, so not an ONNX model", where=where, hint="give the .onnx file of a model")
    if not proto.opset_import:
        if proto.ir_version >= 3:
            hint = "export the model again; onnx.helper.make_model sets opset imports"
            raise BadInput("the model imports no operator set", where=where, hint=hint)
        proto.opset_import.add(domain="", version=1)  # what IR versions 1 and 2 mean by silence
    try:
        with _no_collection():
            model, problems = from_proto(proto, folder, limits)
    except RecursionError:  # only a proto that was built in memory can be so deep: protobuf's reader stops before
        raise BadInput("nested too deep to be a real model", where=where) from None
    _refuse(problems, where)
    repairs.run(model)
    _unshadow(model)
    problems = verify(model)
    if any(p.kind == "order" for p in problems):
        _sort(model, where)
        problems = verify(model)
    _refuse(problems, where)
    return model


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Building a large graph makes a million objects that all stay: looking for garbage among them doubles the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _refuse(problems: list[Problem], where: str) -> None:
    if problems:
        first, more = problems[0], len(problems) - 1
        what = first.what + (f" (and {more} more problem{'s' if more > 1 else ''})" if more else "")
        raise BadInput(what, where=f"{where}: {first.where}" if first.where else where, hint=first.hint)


def _sort(model: ir.Model, where: str) -> None:
    """Put nodes after those whose results they read; files may come in any order, our graphs may not."""
    for graph in (model.graph, *(f.graph for f in model.functions.values())):
        try:
            graph.sort()
        except ValueError:
            for inner in ir.all_graphs(model):
                cycle = find_cycle(inner)
                if cycle:
                    path = " -> ".join(label(n) for n in [*cycle[:6], *cycle[:1]])
                    more = f" (of {len(cycle)} nodes)" if len(cycle) > 6 else ""
                    hint = "a graph must have no cycle: the tool that wrote it is at fault"
                    raise BadInput(f"nodes wait for one another: {path}{more}", where=where, hint=hint) from None
            raise BadInput("nodes wait for one another", where=where) from None


def _unshadow(model: ir.Model) -> None:
    """Rename values of bodies that have the name of one around: legal ONNX, but a trap for a rewriter.

    An input or an initializer may hide a value. A node's output may only have the name of one that the body cannot see, which
    most often is what the node that holds the body makes of it (Optimum's merged decoders); one that hides a value is left for
    the verifier to refuse.
    """
    for root in (model.graph, *(f.graph for f in model.functions.values())):
        if any(True for node in root for _ in ir.subgraphs(node)):
            taken = {v.name or "" for g in ir.with_bodies(root) for v in _defined(g)}
            _unshadow_body(root, set(), set(), taken, {})


def _unshadow_body(
    graph: ir.Graph, scope: set[str], visible: set[str], taken: set[str], numbers: dict[str, int]
) -> None:
    """``scope`` holds the names around, ``visible`` those of them that are defined before the body: they are added to and
    restored, not copied, so that the walk stays linear."""

    def rename(v: ir.Value, base: str) -> None:
        number = numbers.get(base, 0) + 1
        while f"{base}_{number}" in taken:
            number += 1
        numbers[base] = number
        v.name = f"{base}_{number}"
        taken.add(v.name)

    given = [*graph.inputs, *graph.initializers.values()]
    for v in given:
        if v.name in scope:
            rename(v, v.name)
    if scope:
        for node in graph:
            for v in node.outputs:
                if v.name in scope and v.name not in visible:
                    rename(v, v.name)
    if any(True for node in graph for _ in ir.subgraphs(node)):
        own = {v.name or "" for v in _defined(graph)} - scope
        scope |= own
        seen = {v.name or "" for v in given} - visible
        visible |= seen
        for node in graph:
            for body in ir.subgraphs(node):
                _unshadow_body(body, scope, visible, taken, numbers)
            made = {v.name for v in node.outputs if v.name} - visible
            visible |= made
            seen |= made
        scope -= own
        visible -= seen


def _defined(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from (v for v in node.outputs if v.name)


# saving


def to_bytes(model: ir.Model) -> bytes:
    """The whole model, external tensors included, as one serialized ModelProto."""
    return _serialize(to_proto(model), None)


def external_names(path: str | os.PathLike[str]) -> list[str]:
    """Names of the files that hold a model's external data, as the model gives them, sorted.

    Raises:
        OSError: there is no such file, or it is no model.
    """
    with open(path, "rb") as f:
        if not os.fstat(f.fileno()).st_size:  # which cannot be mapped
            return []
        with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as held:
            # The key under which a tensor names its file: most models have none, and parsing takes time and memory.
            if held.find(b"location") < 0:
                return []
            raw = held[:]
    import onnx
    from google.protobuf.message import DecodeError
    from onnx.external_data_helper import ExternalDataInfo, _get_all_tensors, uses_external_data

    try:
        model = onnx.ModelProto.FromString(raw)
        return sorted({ExternalDataInfo(t).location for t in _get_all_tensors(model) if uses_external_data(t)})
    except (DecodeError, ValueError) as e:
        raise OSError(f"not a model: {e}") from e


def described(path: Path, name: str) -> dict[str, Any]:
    """A model file as the report names it, external data counted in; ``files`` are the two apart, where there is such data."""
    files = [path, *(path.parent / name for name in external_names(path))]
    whole, total = hashlib.sha256(), 0
    parts: list[dict[str, Any]] = []
    for file in files:
        digest = hashlib.sha256()
        with open(file, "rb") as f:
            while block := f.read(1 << 22):
                digest.update(block)
                whole.update(block)
        size = file.stat().st_size
        total += size
        parts.append({"path": name if file is path else file.name, "sha256": digest.hexdigest(), "bytes": size})
    found = {"path": name, "sha256": whole.hexdigest(), "bytes": total}
    return found if len(parts) == 1 else {**found, "files": parts}


def data_name(path: str) -> str:
    """The file beside a model that ``save`` puts its external data into."""
    return path + ".data"


def save(model: ir.Model, path: str | os.PathLike[str], *, external: bool | None = None) -> list[str]:
    """Write the model, and its data file where it needs one; gives the paths written, the model's first.

    Args:
        model: checked first (``VerificationFailed``): what is wrong in memory is not made permanent.
        path: the model file; its folder must exist.
        external: True: large tensors in ``<name>.data``; False: all in one file; None: as the module says.

    Raises:
        OutputError: nothing was written, and no temporary file is left.
    """
    path = os.fspath(path)
    check(model, path)
    if os.path.isdir(path):
        raise OutputError("a folder is in the way", where=path, hint="give a file name")
    if external is None:
        external = _wants_data_file(model)
    layout = _Layout(model, data_name(os.path.basename(path))) if external else None
    data_path = data_name(path) if layout is not None and layout.tensors else None
    if data_path is not None:
        _check_target(model, data_path)
    proto = to_proto(model, layout.place if layout is not None else None)
    raw = _serialize(proto, path)
    del proto
    try:
        with _Temporaries(path) as temporaries:
            if layout is not None and data_path is not None:
                temporaries.write(data_path, layout.write)
                for file in layout.files:
                    if _same(file.path, data_path):
                        file.pin()
            temporaries.write(path, lambda f: f.write(raw))
            temporaries.commit()
    except OSError as error:
        raise _output_error(error, path) from error
    return [path] if data_path is None else [path, data_path]


def _serialize(proto: Any, where: str | None) -> bytes:
    from google.protobuf.message import EncodeError

    try:
        raw: bytes = proto.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        hint = "if the model is large: save with external=True, so that the weights go to a data file"
        raise OutputError(f"protobuf refuses the model: {error}", where=where, hint=hint) from error
    if len(raw) > PROTOBUF_BYTES:
        hint = "save with external=True, so that the weights go to a data file"
        raise OutputError(f"the model needs {len(raw):,} bytes; protobuf ends at 2 GiB", where=where, hint=hint)
    return raw


def _tensors(model: ir.Model) -> Iterator[tuple[Any, bool]]:
    """Every tensor of the model, with whether it is an initializer."""
    for graph in ir.all_graphs(model):
        for v in graph.initializers.values():
            if v.const_value is not None:
                yield v.const_value, True
        for node in graph:
            for a in node.attributes.values():
                if a.type == ir.AttributeType.TENSOR and not a.is_ref():
                    yield a.value, False


def _wants_data_file(model: ir.Model) -> bool:
    total = mapped = 0
    for tensor, _ in _tensors(model):
        size = 0 if isinstance(tensor, SparseTensor) else tensor.nbytes
        total += size
        if isinstance(tensor, ir.ExternalTensor):
            mapped += size
    return total > SPLIT_BYTES or mapped >= KEEP_EXTERNAL


class _Layout:
    """Which tensor lies where in the data file. Tensors that share their bytes in a source share them here."""

    def __init__(self, model: ir.Model, location: str) -> None:
        self.location = location
        self.tensors: list[tuple[Any, int, int]] = []
        self.files: set[DataFile] = set()
        self._places: dict[Any, tuple[str, int, int]] = {}
        end = 0
        for tensor, initializer in _tensors(model):
            external = isinstance(tensor, ir.ExternalTensor)
            if isinstance(tensor, MappedTensor):
                self.files.add(tensor.file)
            if isinstance(tensor, SparseTensor) or tensor.dtype == ir.DataType.STRING:
                continue
            if tensor.nbytes < EXTERNAL_TENSOR:
                continue
            if not initializer and not external:  # runtimes read attributes from the model only
                continue
            key = self._key(tensor)
            if key in self._places:
                continue
            align = _ALIGN_LARGE if tensor.nbytes >= _LARGE else _ALIGN
            start = -(-end // align) * align
            end = start + tensor.nbytes
            self.tensors.append((tensor, start, tensor.nbytes))
            self._places[key] = (location, start, tensor.nbytes)

    @staticmethod
    def _key(tensor: Any) -> Any:
        if isinstance(tensor, MappedTensor):
            return tensor.file, tensor.offset, tensor.nbytes
        return id(tensor)

    def place(self, tensor: Any) -> tuple[str, int, int] | None:
        return self._places.get(self._key(tensor))

    def write(self, file: io.BufferedWriter) -> None:
        at = 0
        for tensor, start, length in self.tensors:
            file.write(b"\0" * (start - at))
            if isinstance(tensor, MappedTensor):
                for chunk in tensor.chunks():
                    file.write(chunk)
            else:
                tensor.tofile(file)
            at = file.tell()
            if at != start + length:
                what = f"tensor {tensor.name!r} gave {at - start:,} bytes instead of {length:,}"
                raise OutputError(what, where=file.name)


def _same(a: str, b: str) -> bool:
    try:
        return os.path.samefile(a, b)
    except OSError:
        return False


def _check_target(model: ir.Model, data_path: str) -> None:
    """The data file may replace one that the model's tensors are read from only where that is safe."""
    for tensor, _ in _tensors(model):
        if not isinstance(tensor, ir.ExternalTensor) or not _same(tensor.path, data_path):
            continue
        if sys.platform == "win32" or not isinstance(tensor, MappedTensor):
            what = f"tensor {tensor.name!r} of this model is read from that file"
            raise OutputError(what, where=data_path, hint="save under another name")


class _Temporaries:
    """Files that appear under their names complete, together and last, or not at all."""

    def __init__(self, path: str) -> None:
        self.folder = os.path.dirname(path) or "."
        self.pending: list[tuple[str, str]] = []

    def __enter__(self) -> _Temporaries:
        return self

    def __exit__(self, *_: object) -> None:
        for temporary, _target in self.pending:
            with contextlib.suppress(FileNotFoundError):  # renamed already
                os.unlink(temporary)

    def write(self, target: str, fill: Any) -> None:
        descriptor, temporary = tempfile.mkstemp(dir=self.folder, prefix=f".{os.path.basename(target)[:100]}.")
        self.pending.append((temporary, target))
        with open(descriptor, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _mode(target))

    def commit(self) -> None:
        """Rename all. Once the first is in place an interrupt waits for the others, so that they belong together."""
        first, *rest = self.pending
        try:
            os.replace(*first)
        finally:
            if not os.path.lexists(first[0]):
                for temporary, target in rest:
                    os.replace(temporary, target)
        if hasattr(os, "O_DIRECTORY"):
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _mode(target: str) -> int:
    """The permissions of the file replaced, or what a new file would get."""
    try:
        return stat.S_IMODE(os.stat(target).st_mode)
    except OSError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


def _output_error(error: OSError, path: str) -> OutputError:
    folder = os.path.dirname(path) or "."
    reasons = {
        errno.ENOSPC: ("the disk is full", "free some space, or write elsewhere"),
        errno.EDQUOT: ("the disk quota is used up", "free some space, or write elsewhere"),
        errno.EFBIG: ("the file is larger than the system allows", "raise the limit (ulimit -f), or write elsewhere"),
        errno.EACCES: ("permission denied", f"choose a folder that you may write to, not {folder}"),
        errno.EPERM: ("permission denied", f"choose a folder that you may write to, not {folder}"),
        errno.EROFS: ("the file system is read-only", "write elsewhere"),
        errno.ENOENT: (f"the folder {folder} does not exist", f"mkdir -p {folder}"),
        errno.ENOTDIR: (f"{folder} is not a folder", "choose a folder"),
        errno.EISDIR: ("a folder is in the way", "give a file name"),
        errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
    }
    what, hint = reasons.get(error.errno or 0, (f"cannot be written: {error.strerror or error}", None))
    return OutputError(what, where=path, hint=hint)
