"""The first ``olc.toml`` of a repository: what ``olc check --init`` writes."""

from __future__ import annotations

import json
import os
from pathlib import Path

_SKIPPED = frozenset({"node_modules", "build", "dist", "venv", "__pycache__"})

_HEAD = """\
# What `olc check` compiles and judges. Every key is explained in olc's docs/ci.md.

[defaults]
targets = ["onnxruntime-cpu"]
levels = [2]
# data = "samples/"             # .npz files of real inputs; without them inputs are made up
# dims = {batch = 1, seq = 128} # sizes of dynamic dims in inputs that are made up

[defaults.budget]
size = {source = 1.1}           # at most 1.1 times the source's size
fusions = "all"                 # whatever looks like attention, a norm, gelu … has fused
# latency = {source = 1.02}     # at most 1.02 times the source's time, on the machine that runs the check
# latency = {baseline = 1.1}    # at most 1.1 times what `olc check --update-baseline` recorded
# memory = {source = 1.1}
# load = {source = 1.5}
# accuracy = "cosine>=0.99"
# operators = ["MatMul", "com.microsoft::FusedMatMul"]
# domains = ["ai.onnx"]
# opset = [17, 23]
"""


def models(folder: Path) -> list[str]:
    """The ONNX files below a folder, as paths from it, sorted; hidden folders and artifacts of olc are left out."""
    found = []
    for here, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".") and f not in _SKIPPED]
        for file in files:
            if file.endswith(".onnx") and not file.endswith(".olc.onnx"):
                found.append(os.path.relpath(os.path.join(here, file), folder).replace(os.sep, "/"))
    # A name that is no text (bytes of another encoding) or has control characters has no place in a TOML file.
    return sorted(f for f in found if f.isprintable())


def text(found: list[str]) -> str:
    """The file, with a ``[[models]]`` entry for each."""
    entries = [f"\n[[models]]\npath = {json.dumps(f, ensure_ascii=False)}\n" for f in found]
    return _HEAD + ("".join(entries) or '\n[[models]]\npath = "models/*.onnx"        # no model was found: say where they are\n')
