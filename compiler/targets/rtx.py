"""An artifact built into an engine by TensorRT-RTX, which needs no GPU: what its builder makes of the model, kernel by kernel.

Nothing is run, so nothing is said of speed. TensorRT itself fuses by rules of its own, but reads models by the same parser.
The child process that builds, for the builder is native code that may crash, is this module::

    python -m olc.targets.rtx REQUEST.json
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OlcError, Unsupported

CAPABILITY = "SM89"
"""Compute capability to build for: the oldest with kernels of every dtype that olc emits."""
MOST_SIZES = 64
"""Elements of an input that holds sizes, at most."""
TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Engine:
    """What was built.

    Attributes:
        version: of TensorRT-RTX.
        kernels: how many there are; ``attention``: of which one does a whole attention; ``int8``: of which multiply int8.
    """

    version: str
    kernels: int
    attention: int
    int8: int

    @property
    def text(self) -> str:
        """The engine in words."""
        return (f"TensorRT-RTX {self.version} builds an engine for {CAPABILITY} of it: {self.kernels} kernels, "
                f"{self.attention} of them attentions, {self.int8} products in int8")  # fmt: skip


def installed() -> bool:
    """Is tensorrt-rtx there?"""
    return importlib.util.find_spec("tensorrt_rtx") is not None


def version() -> str:
    """Of the tensorrt-rtx that is installed."""
    return importlib.metadata.version("tensorrt-rtx")


def build(path: str | os.PathLike[str], feeds: Sequence[Mapping[str, Any]]) -> Engine:
    """Build an engine for inputs whose shapes are those of the feeds, and what lies between.

    Raises:
        Unsupported: the parser or the builder refuses the model; the message holds the reason.
        OlcError: the builder crashed, or took longer than ``TIMEOUT_S``.
    """
    where = os.fspath(path)
    with tempfile.TemporaryDirectory(prefix="olc-engine-") as folder:
        request, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        request.write_text(json.dumps({"path": os.path.abspath(where), "shapes": _shapes(feeds), "answer": str(answer),
                                       "values": _values(feeds)}))
        command = [sys.executable, "-m", __name__, str(request)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as e:
            raise OlcError(f"TensorRT-RTX did not end within {TIMEOUT_S:.0f} s", where=where) from e
        if done.returncode != 0 or not answer.exists():
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            raise OlcError(f"TensorRT-RTX ended with code {done.returncode}: {last}", where=where)
        found = json.loads(answer.read_text())
    if found["problem"] is not None and "profile" in found["problem"]:  # which is ours to give
        raise OlcError(f"TensorRT-RTX {found['version']}: {found['problem']}", where=where)
    if found["problem"] is not None:
        raise Unsupported(f"TensorRT-RTX {found['version']} does not build it: {found['problem']}", where=where,
                          hint="compile for onnxruntime-cuda, or leave out what it names: --skip, --keep-float")  # fmt: skip
    return Engine(found["version"], found["kernels"], found["attention"], found["int8"])


def _shapes(feeds: Sequence[Mapping[str, Any]]) -> dict[str, list[list[int]]]:
    """Smallest, usual and largest shape of each input; the first feed's is the usual one."""
    found = {}
    for name in feeds[0]:
        shapes = np.array([np.shape(feed[name]) for feed in feeds], np.int64)
        found[name] = [shapes.min(axis=0).tolist(), shapes[0].tolist(), shapes.max(axis=0).tolist()]
    return found


def _values(feeds: Sequence[Mapping[str, Any]]) -> dict[str, list[list[int]]]:
    """Least, usual and largest contents of inputs that may be sizes: small tensors of integers."""
    found = {}
    for name, first in feeds[0].items():
        a = [np.asarray(feed[name]) for feed in feeds]
        if a[0].dtype.kind in "iu" and a[0].size <= MOST_SIZES and all(x.shape == a[0].shape for x in a):
            found[name] = [np.min(a, axis=0).ravel().tolist(), np.ravel(first).tolist(), np.max(a, axis=0).ravel().tolist()]
    return found


def logger() -> Any:
    """A logger that keeps what it is told in ``lines``, severity and text."""
    import tensorrt_rtx as trt

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[tuple[str, str]] = []

        def log(self, severity: Any, text: str) -> None:
            self.lines.append((str(severity).rpartition(".")[2], text))

    return Log()


def _build(
    path: str, shapes: Mapping[str, Sequence[Sequence[int]]], values: Mapping[str, Sequence[Sequence[int]]]
) -> dict[str, Any]:
    import tensorrt_rtx as trt

    def refused(problem: str) -> dict[str, Any]:
        return {"version": trt.__version__, "problem": problem}

    log = logger()
    builder = trt.Builder(log)
    network = builder.create_network(0)  # the parser keeps no reference to it
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(path):
        first = parser.get_error(0) if parser.num_errors else None
        return refused("it cannot be parsed" if first is None else
                       f"node {first.node_name()!r} ({first.node_operator()}): {first.desc()}")  # fmt: skip
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, CAPABILITY), 0)
    profile = builder.create_optimization_profile()
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    for tensor in inputs:
        if tensor.is_shape_tensor and tensor.name in values:
            profile.set_shape_input(tensor.name, *values[tensor.name])
        elif not tensor.is_shape_tensor and tensor.name in shapes:
            profile.set_shape(tensor.name, *(tuple(s) for s in shapes[tensor.name]))
    config.add_optimization_profile(profile)
    if builder.build_serialized_network(network, config) is None:
        errors = [text for severity, text in log.lines if "ERROR" in severity]
        return refused(errors[0] if errors else "the builder gives no reason")
    # The builder tells its table of kernels to the log; the inspector of engines needs a driver.
    told = (text for _, text in log.lines if text.startswith("Layers:"))
    table = [line for text in told for line in text.splitlines() if line.startswith("Name: ")]
    return {"version": trt.__version__, "problem": None, "kernels": len(table),
            "attention": sum("_gemm_mha" in line for line in table),
            "int8": sum(_multiplies_int8(line) for line in table)}  # fmt: skip


def _multiplies_int8(line: str) -> bool:
    """Is a kernel of the builder's table a product whose first input is int8?"""
    kind = re.search(r"LayerType: (\w+)", line)
    first = re.search(r"Inputs: \[.*?Datatype: (\w+)", line)
    return kind is not None and first is not None and kind[1] in ("gemm", "correlation") and first[1] == "Int8"


def main(file: str) -> None:
    asked = json.loads(Path(file).read_text())
    Path(asked["answer"]).write_text(json.dumps(_build(asked["path"], asked["shapes"], asked["values"])))


if __name__ == "__main__":
    main(sys.argv[1])
