"""Every real model through the levels: the artifact agrees with the source, and still does its job."""

from __future__ import annotations

from pathlib import Path

import olc
import pytest
from olc.session import session

import models

CASES = [(recipe.name, variant.name) for recipe in models.all_recipes().values() for variant in recipe.variants]
LARGE = {"smollm2-135m", "smollm2-135m-nocache", "whisper-tiny-en"}
ALIKE = {*LARGE, "minilm-l6"}
FIRST = [(name, models.find(name).variants[0].name) for name in models.all_recipes()]
KEPT = {*(c for c in FIRST if c[0] != "smollm2-135m-nocache"), ("minilm-l6", "int8")}


def compiled(name: str, variant: str, level: int, folder: Path, **options: object) -> dict[str, Path]:
    """The recipe's files at a level; the evaluation inside ``olc.compile`` raises where the outputs differ."""
    found = {}
    for role, path in models.find(name).build(variant).items():
        found[role] = folder / f"{path.stem}.onnx"
        olc.compile(path, found[role], level=level, samples=1, measure=False, **options)
    return found


# That all exports of these compile to one graph is shown by tests/test_exporters.py; the decoder without a cache is one of them.
@pytest.mark.parametrize(("name", "variant"), [
    pytest.param(*c, marks=pytest.mark.long if c[0] in ALIKE and c not in KEPT else []) for c in CASES
])  # fmt: skip
def test_level_2_does_the_models_job(name: str, variant: str, tmp_path: Path) -> None:
    # tests/test_corpus.py compares such networks with their sources
    result = models.find(name).check(compiled(name, variant, 2, tmp_path, evaluate=name not in LARGE), session)
    assert result.passed, result.text


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize(("name", "variant"), [c for c in FIRST if c[0] not in LARGE])
def test_lower_levels_do_the_models_job(name: str, variant: str, level: int, tmp_path: Path) -> None:
    result = models.find(name).check(compiled(name, variant, level, tmp_path), session)
    assert result.passed, result.text


@pytest.mark.parametrize("name", ["minilm-l6", "keras-mlp", "silero-vad"])
def test_level_3_does_the_models_job(name: str, tmp_path: Path) -> None:
    """-O3 on all models, timings included, is ``python -m benchmarks levels``."""
    variant = models.find(name).variants[0].name
    result = models.find(name).check(compiled(name, variant, 3, tmp_path, seconds=5.0), session)
    assert result.passed, result.text
