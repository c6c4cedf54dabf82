"""Every model that `models/` lists is built and does its real job; nothing is skipped."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

import models
from models import registry

CASES = [(recipe.name, variant.name) for recipe in models.all_recipes().values() for variant in recipe.variants]
FILES = [file.stem for recipe in models.all_recipes().values() for v in recipe.variants for file in v.files.values()]
LARGE = {"smollm2-135m", "smollm2-135m-nocache", "whisper-tiny-en"}
FIRST = {(recipe.name, recipe.variants[0].name) for recipe in models.all_recipes().values()}
FOLDER = Path(models.__file__).parent


@pytest.fixture(scope="session")
def built() -> dict[tuple[str, str], dict[str, Path]]:
    """Every variant's files, role -> path; downloads what the cache lacks."""
    return {(name, variant): models.find(name).build(variant) for name, variant in CASES}


# That all exports of the large ones are one graph, weights and all, is shown by tests/test_exporters.py.
@pytest.mark.parametrize(("name", "variant"), [
    pytest.param(*c, marks=pytest.mark.long if c[0] in LARGE and c not in FIRST else []) for c in CASES
])  # fmt: skip
def test_model_does_its_job(built, name, variant):
    result = models.find(name).check(built[name, variant])
    assert result.passed, result.text
    assert np.isfinite(result.score)


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_file_is_a_valid_model_without_machine_paths(built, name, variant):
    for path in built[name, variant].values():
        onnx.checker.check_model(str(path))
        data = path.read_bytes()
        assert b"/site-packages/" not in data
        assert b"olc.skeleton" not in data


@pytest.mark.parametrize("name", models.all_recipes())
def test_feeds_run(built, name):
    """Real inputs are given for every role, with the graph's names and dtypes, and give finite outputs."""
    recipe = models.find(name)
    paths = built[name, recipe.variants[0].name]
    feeds = recipe.feeds(paths)
    assert set(feeds) == set(paths)
    for role, path in paths.items():
        session = models.cpu_session(path)
        for feed in feeds[role]:
            assert set(feed) == {value.name for value in session.get_inputs()}
            assert all(np.isfinite(output).all() for output in session.run(None, feed))


def test_second_build_does_nothing(built):
    path = built["keras-mlp", "keras_op18"]["classifier"]
    before = path.stat().st_mtime_ns
    models.find("keras-mlp").build()
    assert path.stat().st_mtime_ns == before


def test_build_gives_the_same_bytes_each_time(built, tmp_path):
    for name in ("keras-mlp", "efficientnet-lite0"):
        variant = models.find(name).variants[0]
        (file,) = variant.files.values()
        file.write(tmp_path / "again.onnx")
        assert (tmp_path / "again.onnx").read_bytes() == built[name, variant.name]["classifier"].read_bytes()


# The recipe without a cache has the same check.
@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.long if name in LARGE else []) for name in models.all_recipes()
])  # fmt: skip
def test_check_can_fail(built, tmp_path, name):
    """A model with its weights shuffled must not pass: otherwise check() shows nothing."""
    recipe = models.find(name)
    paths = dict(built[name, recipe.variants[0].name])
    role = {"whisper-tiny-en": "encoder", "ppocrv4": "rec"}.get(name, next(iter(paths)))
    model = onnx.load(paths[role])
    random = np.random.default_rng(0)
    for tensor in models.skeleton.walk(model):
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.raw_data) > 4096:
            tensor.raw_data = random.permutation(np.frombuffer(tensor.raw_data, np.float32)).tobytes()
    paths[role] = tmp_path / "broken.onnx"
    paths[role].write_bytes(model.SerializeToString())
    assert not recipe.check(paths).passed


def test_file_names_are_unique_and_every_skeleton_is_used():
    assert [stem for stem, count in Counter(FILES).items() if count > 1] == []
    assert {path.name.removesuffix(".onnx.xz") for path in (FOLDER / "skeletons").iterdir()} <= set(FILES)


def test_skeletons_are_small():
    sizes = {path.name: path.stat().st_size for path in (FOLDER / "skeletons").glob("*.xz")}
    assert max(sizes.values()) < 60_000, sizes
    assert sum(sizes.values()) < 400_000, sizes


def test_frameworks_are_imported_by_exporters_only():
    heavy = {"torch", "transformers", "keras", "tensorflow", "onnxscript", "efficientnet_lite_pytorch"}
    for path in FOLDER.rglob("*.py"):
        if path.relative_to(FOLDER).parts[0] == "exporters":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & heavy, path


def test_every_recipe_states_licence_source_and_what_it_shows():
    readme = (FOLDER / "README.md").read_text()
    assert [stem for stem in FILES if f"| {stem} |" not in readme] == []
    for recipe in models.all_recipes().values():
        assert recipe.licence
        assert recipe.source
        assert recipe.shows
        assert f"| {recipe.name} |" in readme
        files = [file for variant in recipe.variants for file in variant.files.values()]
        for package in {*recipe.packages, *(package for file in files for package in file.packages)}:
            assert package.requirement in readme
            assert len(package.sha256) == 64


def test_locate_finds_a_file_by_name():
    recipe, variant, role = registry.locate("whisper-tiny-en-decoder-kv_ts_op17")
    assert (recipe.name, variant.name, role) == ("whisper-tiny-en", "ts_op17", "decoder-kv")
    with pytest.raises(models.ModelsError, match="no-such-file"):
        registry.locate("no-such-file")


def test_feeds_are_had_by_file_name(built):
    import models.feeds

    feeds = list(models.feeds.ppocrv4_rec())
    assert len(feeds) == 5
    assert all(feed["x"].shape[:3] == (1, 3, 48) for feed in feeds)
    with pytest.raises(AttributeError, match="ppocrv4_rec"):
        _ = models.feeds.nonesuch
