"""Export, pack, prove: the work behind `python -m models export`."""

from __future__ import annotations

import importlib
import time

from models import skeleton
from models.exporters.pack import pack_and_prove
from models.recipe import Recipe


def export(recipe: Recipe, module: str, only: str | None = None) -> None:
    """Re-export every file of a recipe (or those whose stem contains `only`) and rewrite its skeletons."""
    skeleton.FOLDER.mkdir(exist_ok=True)
    for job in importlib.import_module(f"models.exporters.{module}").exports():
        if only and only not in job.stem:
            continue
        start = time.monotonic()
        model = job.run()
        path = skeleton.FOLDER / f"{job.stem}.onnx.xz"
        said = pack_and_prove(path, model, job.source, job.candidates)
        job.source.release()
        print(f"  {said} ({len(model.graph.node):,} nodes, {time.monotonic() - start:.0f} s)", flush=True)
