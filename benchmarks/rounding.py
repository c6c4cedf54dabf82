"""-O3 with real inputs beside ONNX Runtime's own quantization: speed against plain ONNX Runtime, and cosine on samples apart.

    python -m benchmarks rounding [MODEL...]

One thread. ``quantize_dynamic`` and ``quantize_static`` run as their documentation has them, weights per channel, the latter
on the samples that choose for olc too. All sessions of a table are live at once and take turns.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import olc
from olc.errors import OlcError
from olc.evaluation import numerics
from olc.evaluation.data import split
from olc.evaluation.latency import interleaved
from olc.evaluation.padding import without_padding
from olc.frontend import load
from olc.session import SessionOptions, run, session
from olc.strategy.budget import Budget

import models
import models.feeds
from benchmarks._named import chosen

CASES = {
    "minilm-l6_dynamo_op18": 0.99, "efficientnet-lite0_dynamo_op18": 0.98, "ppocrv4-rec": 0.95,
    "whisper-tiny-en-encoder_dynamo_op18": 0.99,
}  # fmt: skip
"""File and the lowest cosine that olc may give."""
SAMPLES = 8


def dynamic(source: Path, out: Path, choosing: list[dict[str, Any]]) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, out, weight_type=QuantType.QInt8, per_channel=True)


def static(source: Path, out: Path, choosing: list[dict[str, Any]]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(choosing)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.left, None)

    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantize_static(prepared, out, Reader(), per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)


def table(stem: str, cosine: float, folder: Path) -> None:
    _, variant, role = models.locate(stem)
    source = variant.files[role].build()
    data = f"models.feeds:{stem.replace('-', '_')}"
    choosing, judging = (part[:SAMPLES] for part in split(list(getattr(models.feeds, stem.replace("-", "_"))())))
    options = SessionOptions(threads=1)
    opened = {"plain ONNX Runtime": session(source, options=options)}
    for name, make in (("quantize_dynamic", dynamic), ("quantize_static", static)):
        out = folder / f"{stem}.{name}.onnx"
        try:
            make(source, out, choosing)
            opened[name] = session(out, options=options)
        except Exception as e:  # what a peer may raise is not known
            print(f"  {name:22} {type(e).__name__}: {str(e).splitlines()[0][:90]}")
    out = folder / f"{stem}.olc.onnx"
    report = olc.compile(source, out, level=3, data=data, samples=SAMPLES, threads=1, budget=Budget(cosine, 0.0))
    opened["olc -O3"] = session(out, threads=1)
    _, keep = without_padding(load(source))
    outputs = {n: [keep(f, run(s, f)) for f in judging] for n, s in opened.items()}
    programs = [lambda s=s: [run(s, f) for f in judging] for s in opened.values()]  # type: ignore[misc]
    rounds = interleaved(programs, budget_s=20.0)
    for i, name in enumerate(opened):
        p = rounds.compare(0, i)
        found = numerics.compare(outputs["plain ONNX Runtime"], outputs[name])
        worst = min((d.cosine_min for d in found if d.cosine_min is not None), default=float("nan"))
        print(f"  {name:22} {p.ratio:6.2f} ({p.low:.2f} to {p.high:.2f})   cosine {worst:.4f}")
    kept = sum(bool(row["kept"]) for row in report.layers)
    print(f"  rounded by olc: {kept} sites; front: " + "; ".join(f"{f['speed']:.2f} at {f['error']:.2g}" for f in report.front))


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks rounding")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="beginning of a file's name; all where none is given")
    stems = chosen(parser, parser.parse_args(arguments).models, CASES, str)
    np.seterr(all="ignore")  # the peers' calibration divides by ranges of 0
    for stem in stems:
        print(f"{stem}, olc within cosine {CASES[stem]}", flush=True)
        try:
            with tempfile.TemporaryDirectory(prefix="olc-rounding-") as folder:
                table(stem, CASES[stem], Path(folder))
        except OlcError as e:
            print(f"  FAILED: {e}", flush=True)
