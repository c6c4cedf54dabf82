"""A repository of one small model for tests of ``olc check``, and reports of it whose measured numbers are given."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import onnx
import onnx.parser

NAMES = "models/small.onnx -O2 onnxruntime-cpu"
WEIRD = "a<b>&\"'|`@all`\x01]]> é"
TEXT = """<ir_version: 10, opset_import: ["":20]>
g (float[batch, 2] x) => (float[batch, 2] y)
<float[2, 2] w = {1, 2, 3, 4}, float half = {0.5}, float root = {1.4142135}, float one = {1}>
{
  h = MatMul(x, w)
  d = Div(h, root)
  e = Erf(d)
  f = Add(e, one)
  g1 = Mul(h, half)
  y = Mul(g1, f)
}"""


def save(path: Path, name: str = "") -> Path:
    """A product and a Gelu in parts; ``name`` is that of its Erf."""
    model = onnx.parser.parse_model(TEXT)
    model.graph.node[2].name = name
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def repository(folder: Path, toml: str, name: str = "") -> Path:
    """A folder with ``models/small.onnx`` and this ``olc.toml``, whose path is given back."""
    save(folder / "models" / "small.onnx", name)
    file = folder / "olc.toml"
    file.write_text(toml, encoding="utf-8")
    return file


@cache
def _compiled() -> tuple[Path, Any]:
    import olc

    folder = Path(mkdtemp(prefix="olc-tests-"))
    out = folder / "small.olc.onnx"
    return out, olc.compile(save(folder / "small.onnx", WEIRD), out, level=2, measure=False)


def measured(speed: tuple[float, float, float] = (2.0, 1.9, 2.1), memory: float = 0.5, load: float = 0.5, ms: float = 1.0) -> Any:
    """A report of the small model: times the speed with its interval, memory and load time over the source's, time per run."""
    from olc.report import Report

    report = Report.loads(_compiled()[1].dumps())
    e = report.evaluation
    assert e is not None
    side = {"median": ms / 1e3, "low": ms / 1e3, "high": ms / 1e3, "cpu": ms / 1e3}
    e["paired"] = {"ratio": speed[0], "low": speed[1], "high": speed[2], "a": side, "b": side}
    for which, share_of_memory, share_of_load in (("a", 1.0, 1.0), ("b", memory, load)):
        e[which] |= {"peak_bytes": int(100e6 * share_of_memory), "load_s": 0.1 * share_of_load, "process": {}}
    return report


def compiles_to(monkeypatch: Any, *reports: Any) -> list[Any]:
    """Have each compile give the next of these reports (the last again and again); what was asked for is noted."""
    asked: list[Any] = []

    def compile(source: Any, output: str, settings: Any, say: Any) -> Any:
        shutil.copy(_compiled()[0], output)
        asked.append(settings)
        report = reports[min(len(asked), len(reports)) - 1]
        return replace(report, options={**report.options, "level": settings.level})

    monkeypatch.setattr("olc.batch.compile", compile)
    return asked
