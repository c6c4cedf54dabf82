"""Readers of labelled data, on bytes made here; what packages hold is seen by ``python -m benchmarks tasks``."""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from benchmarks.tasks import EfficientNet, Whisper
from models import labelled
from models.debian import DebianPackage
from models.errors import ModelsError
from models.packages import Package


def vector(texts: list[str | None], version: int = 3, kind: int = 16) -> bytes:
    """R's serialization of a character vector (or of another type) in XDR."""
    encoding = struct.pack(">I", 5) + b"UTF-8" if version == 3 else b""
    items = b"".join(
        struct.pack(">Ii", 9, -1 if t is None else len(t.encode("latin-1"))) + (t or "").encode("latin-1") for t in texts
    )
    return b"X\n" + struct.pack(">III", version, 0, 0) + encoding + struct.pack(">II", kind | 0x200, len(texts)) + items


@pytest.mark.parametrize("version", [2, 3])
def test_character_vectors_of_r(version: int) -> None:
    assert labelled._texts(vector(["PERSUASION", "", None, "café"], version)) == ["PERSUASION", "", "", "café"]
    assert labelled._texts(vector([], version, kind=14)) == []


def test_records_of_the_three_kinds_follow_one_another() -> None:
    raw = vector(["a"] * 50)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6}]
    size = struct.pack(">I", len(raw))
    packed = size + zlib.compress(raw) + size + b"Z" + lzma.compress(raw, lzma.FORMAT_RAW, filters=filters)
    packed += size + b"2" + bz2.compress(raw)
    for _ in range(3):
        found, packed = labelled._record(packed)
        assert found == raw
    assert packed == b""
    with pytest.raises(ModelsError, match="a record has"):
        labelled._record(struct.pack(">I", 7) + zlib.compress(raw))


def test_scores_of_documents_are_an_upper_triangle(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"lee.cor": b"one\ntwo\nthree\n", "similarities0-1.txt": b"1.0 0.3 0.5\n1.0 1.0 0.2\n0.0 0.0 1.0\n"}
    monkeypatch.setattr(Package, "read", lambda self, member: held[member.rsplit("/", 1)[1]])
    texts, scores = labelled.documents()
    assert texts == ["one", "two", "three"]
    assert scores[np.triu_indices(3, 1)].tolist() == [0.3, 0.5, 0.2]
    assert np.isnan(scores[np.tril_indices(3)]).all()


def test_a_package_that_is_another_one_or_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLC_MODELS_CACHE", str(tmp_path))
    package = DebianPackage("some-data", "1.0", "00")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelsError, match=r"(?s)some-data=1\.0.*apt-get is not there.*put some-data_1\.0_all\.deb into"):
        package.file()
    (tmp_path / "debs" / package.filename).write_bytes(b"something else")
    with pytest.raises(ModelsError, match="00 is expected"):
        package.file()


def test_what_judges_is_not_what_calibrates(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not set(EfficientNet.CALIBRATE) & set(EfficientNet.JUDGE)
    clips = {name: (np.full(1, i), None) for i, name in enumerate(["librivox/a", "cards/b", "goforward", "numbers"])}
    monkeypatch.setattr(labelled, "speech", lambda: clips)
    case = Whisper()
    judged, heard = ({int(samples[0]) for samples, _ in case.clips(judge)} for judge in (True, False))
    assert (judged, heard) == ({0, 2}, {1, 3})
