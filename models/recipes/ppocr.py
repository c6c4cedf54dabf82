"""PP-OCRv4: finds the lines of text on a page, tells which way up they are, reads them. Ready-made ONNX from Paddle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from olc.evaluation.metrics.words import edits

from models import images, text
from models.packages import Package
from models.recipe import CheckResult, Feed, FromWheel, Recipe, Session, SessionFactory, Variant, cpu_session

PACKAGE = Package(
    "rapidocr-onnxruntime",
    "1.4.4",
    "rapidocr_onnxruntime-1.4.4-py3-none-any.whl",
    "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
    14_915_192,
)
FOLDER = "rapidocr_onnxruntime/models"
DETECTOR = FromWheel("ppocrv4-det", PACKAGE, f"{FOLDER}/ch_PP-OCRv4_det_infer.onnx")
READER = FromWheel("ppocrv4-rec", PACKAGE, f"{FOLDER}/ch_PP-OCRv4_rec_infer.onnx")
TURNER = FromWheel("ppocrv4-cls", PACKAGE, f"{FOLDER}/ch_ppocr_mobile_v2.0_cls_infer.onnx")
HEIGHT = 48  # pixels: every line is scaled to it before reading
Box = tuple[int, int, int, int]  # top, bottom, left, right; bottom and right are one past the last pixel


def to_input(picture: np.ndarray) -> np.ndarray:
    """Grey [h, w] in 0..255 -> float32 [1, 3, h, w] in -1..1."""
    return np.repeat((picture.astype(np.float32) / 127.5 - 1)[None, None], 3, axis=1)


def components(mask: np.ndarray) -> list[Box]:
    """Bounding boxes of the connected areas of a bool mask [h, w], from top to bottom."""
    boxes: list[list[int]] = []
    above: list[tuple[int, int, list[int]]] = []  # runs of the row above: start, stop, their box
    for y, row in enumerate(mask):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
        runs: list[tuple[int, int, list[int]]] = []
        for start, stop in edges.reshape(-1, 2).tolist():
            touching = [box for left, right, box in above if left < stop and start < right]
            box = touching[0] if touching else [y, y + 1, start, stop]
            if not touching:
                boxes.append(box)
            for other in touching[1:]:
                if other is box:
                    continue
                box[:] = [min(box[0], other[0]), y + 1, min(box[2], other[2]), max(box[3], other[3])]
                boxes[:] = [b for b in boxes if b is not other]
                above = [(left, right, box if b is other else b) for left, right, b in above]
                runs = [(left, right, box if b is other else b) for left, right, b in runs]
            box[1], box[2], box[3] = y + 1, min(box[2], start), max(box[3], stop)
            runs.append((start, stop, box))
        above = runs
    return [(top, bottom, left, right) for top, bottom, left, right in sorted(boxes)]


def lines(probability: np.ndarray) -> list[Box]:
    """Lines of text in the detector's map [h, w]: areas above 0.3, kept if large, grown as the detector shrank them."""
    found = []
    for top, bottom, left, right in components(probability > 0.3):
        height, width = bottom - top, right - left
        if height < 5 or width < 10 or probability[top:bottom, left:right].mean() < 0.4:
            continue
        grow = round(1.6 * height * width / (2 * (height + width)))
        h, w = probability.shape
        found.append((max(0, top - grow), min(h, bottom + grow), max(0, left - grow), min(w, right + grow)))
    return found


@dataclass(frozen=True)
class PpOcr(Recipe):
    """Roles, float32: `det` x [batch, 3, h, w] (h, w multiples of 32) -> text probability [batch, 1, h, w];

    `rec` x [batch, 3, 48, w] -> character probabilities [batch, w / 8, 6625], CTC, blank first;
    `cls` x [batch, 3, 48, 192] -> probabilities [batch, 2] of upright and upside down.
    """

    @cached_property
    def alphabet(self) -> list[str]:
        """Characters by class: blank, then those in the reader's own metadata, then space."""
        model = onnx.ModelProto.FromString(PACKAGE.read(READER.member))
        (kept,) = [entry.value for entry in model.metadata_props if entry.key == "character"]
        return ["", *kept.splitlines(), " "]

    def crops(self, page: np.ndarray, boxes: list[Box]) -> list[Feed]:
        """The reader's inputs: each line cut out of the page and scaled to 48 pixels."""
        found = []
        for top, bottom, left, right in boxes:
            cut = page[top:bottom, left:right]
            width = max(HEIGHT, round(cut.shape[1] * HEIGHT / cut.shape[0] / 8) * 8)
            found.append({"x": to_input(images.resize(cut, HEIGHT, width))})
        return found

    def turns(self, page: np.ndarray, boxes: list[Box]) -> Feed:
        """The turner's input: the beginning of each line upright, then each upside down."""
        starts = [page[top:bottom, left : left + 4 * (bottom - top)] for top, bottom, left, _ in boxes]
        both = [*starts, *(start[::-1, ::-1] for start in starts)]
        return {"x": np.concatenate([to_input(images.resize(start, HEIGHT, 4 * HEIGHT)) for start in both])}

    def read(self, session: Session, feed: Feed) -> str:
        """Best path of CTC: repeated classes are one character, blanks part them."""
        best = session.run(None, feed)[0][0].argmax(-1)
        changed = np.concatenate([[True], best[1:] != best[:-1]])
        return "".join(self.alphabet[i] for i in best[changed])

    def check(self, paths: Mapping[str, Path], open_session: SessionFactory = cpu_session) -> CheckResult:
        """Score: share of the page's letters read right (0 to 1)."""
        page, truth = images.page()
        boxes = lines(open_session(paths["det"]).run(None, {"x": to_input(page)})[0][0, 0])
        reader = open_session(paths["rec"])
        found = [self.read(reader, feed) for feed in self.crops(page, boxes)]
        wanted = text.letters("".join(truth))
        score = 1 - edits(wanted, text.letters("".join(found))) / len(wanted)
        first = found[0] if found else ""
        told = f"{len(boxes)} of {len(truth)} lines found, {score:.1%} of their letters read; the first is {first!r}"
        passed = bool(score >= 0.95 and len(boxes) == len(truth))
        if "cls" in paths and boxes:
            turned = open_session(paths["cls"]).run(None, self.turns(page, boxes))[0].argmax(-1)
            right = int((turned == np.repeat([0, 1], len(boxes))).sum())
            passed &= right >= 0.9 * len(turned)
            told += f"; {right} of {len(turned)} told upright from upside down"
        return CheckResult(passed, score, told)

    def feeds(self, paths: Mapping[str, Path], open_session: SessionFactory = cpu_session) -> dict[str, list[Feed]]:
        """The page for the detector, its lines for the reader and the turner."""
        page, _ = images.page()
        feed = {"x": to_input(page)}
        boxes = lines(open_session(paths["det"]).run(None, feed)[0][0, 0])
        return {"det": [feed], "rec": self.crops(page, boxes), "cls": [self.turns(page, boxes)]}


RECIPE = PpOcr(
    name="ppocrv4",
    title="text detector and reader for Chinese and English",
    licence="Apache-2.0",
    source="PaddleOCR PP-OCRv4 mobile, ready-made ONNX of the rapidocr-onnxruntime package",
    shows="a printed page is read",
    packages=(PACKAGE,),
    variants=(Variant("mobile", {"det": DETECTOR, "rec": READER, "cls": TURNER}),),
)
