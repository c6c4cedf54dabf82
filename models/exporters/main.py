"""Export, pack, prove: the work behind `python -m models export`."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from models import corpus, skeleton
from models.exporters.pack import SMALL, pack_and_prove
from models.recipe import Recipe

if TYPE_CHECKING:
    from models.exporters.common import Export

CORPUS_SMALL = 64  # bytes: in so narrow networks every bias would otherwise stay in the skeleton, as noise


def export(recipe: Recipe, module: str, only: str | None = None) -> None:
    """Re-export every file of a recipe (or those whose stem contains `only`) and rewrite its skeletons."""
    for job in importlib.import_module(f"models.exporters.{module}").exports():
        if not only or only in job.stem:
            _export(job, skeleton.FOLDER, SMALL)


def export_corpus(only: str | None = None, exporter: str = "corpus") -> None:
    """The same for the corpus of generated architectures: those that a module makes."""
    made = importlib.import_module(f"models.exporters.{exporter}")
    for architecture in corpus.ARCHITECTURES.values():
        if architecture.exporter == exporter and (not only or any(only in stem for stem in architecture.stems)):
            for job in made.exports(architecture):
                if not only or only in job.stem:
                    _export(job, corpus.FOLDER, CORPUS_SMALL)


def _export(job: Export, folder: Path, small: int) -> None:
    folder.mkdir(exist_ok=True)
    start = time.monotonic()
    model = job.run()
    said = pack_and_prove(folder / f"{job.stem}.onnx.xz", model, job.source, job.candidates, small)
    job.source.release()
    print(f"  {said} ({len(model.graph.node):,} nodes, {time.monotonic() - start:.0f} s)", flush=True)
