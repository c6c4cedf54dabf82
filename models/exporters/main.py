"""Export, pack, prove: the work behind `python -m models export`."""

from __future__ import annotations

import importlib
import importlib.util
import time
from pathlib import Path
from typing import TYPE_CHECKING

from models import corpus, skeleton
from models.exporters.pack import SMALL, pack_and_prove
from models.recipe import Recipe

if TYPE_CHECKING:
    from models.exporters.common import Export

EXPORTERS = {"tf2onnx": ("keras_corpus", "keras_hub"), "jax": ("jax_corpus", "jax2onnx"), "": ("corpus", "torch")}
"""What a variant's name begins with: the module that exports it, and the package that must be there. The last is for all
others."""
CORPUS_SMALL = 64  # bytes: in so narrow networks every bias would otherwise stay in the skeleton, as noise


def export(recipe: Recipe, module: str, only: str | None = None) -> None:
    """Re-export every file of a recipe (or those whose stem contains `only`) and rewrite its skeletons."""
    for job in importlib.import_module(f"models.exporters.{module}").exports():
        if not only or only in job.stem:
            _export(job, skeleton.FOLDER, SMALL)


def export_corpus(only: str | None = None) -> None:
    """The same for the corpus of generated architectures, by those exporters whose packages are installed here."""
    for architecture in corpus.ARCHITECTURES.values():
        module, package = next(found for begin, found in EXPORTERS.items() if architecture.variants[0].startswith(begin))
        if only and not any(only in stem for stem in architecture.stems):
            continue
        if importlib.util.find_spec(package) is None:
            print(f"  {architecture.name}: not exported, {package} is not installed", flush=True)
            continue
        for job in importlib.import_module(f"models.exporters.{module}").exports(architecture):
            if not only or only in job.stem:
                _export(job, corpus.FOLDER, CORPUS_SMALL)


def _export(job: Export, folder: Path, small: int) -> None:
    folder.mkdir(exist_ok=True)
    start = time.monotonic()
    model = job.run()
    said = pack_and_prove(folder / f"{job.stem}.onnx.xz", model, job.source, job.candidates, small)
    job.source.release()
    print(f"  {said} ({len(model.graph.node):,} nodes, {time.monotonic() - start:.0f} s)", flush=True)
