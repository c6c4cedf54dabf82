"""Real data with labels, out of packages: what task metrics are measured on.

Each function gives data of its own package; nothing is kept in this repository. Licences: gensim LGPL-2.1, the novels
public domain, pocketsphinx-testdata BSD-2-Clause with public-domain recordings, Fashion-MNIST MIT, scikit-image's
pictures CC0 or public domain.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import struct
import wave
import zlib
from functools import cache

import numpy as np

from models.debian import DebianPackage
from models.errors import ModelsError
from models.packages import Package

_ANY = ("--python-version", "3.11", "--implementation", "cp", "--abi", "cp311", "--platform", "manylinux_2_28_x86_64")
GENSIM = Package(
    "gensim", "4.4.0", "gensim-4.4.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8", 27_809_988, _ANY,
)  # fmt: skip
SKIMAGE = Package(
    "scikit-image", "0.26.0", "scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
    "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af", 13_711_217, _ANY,
)  # fmt: skip
SPHINX = DebianPackage(
    "pocketsphinx-testdata", "0.8+5prealpha+1-15", "eaeb7a01d54f20b799d1a81ef110ec544b2cb47ea006614078220737a33019f0"
)
AUSTEN = DebianPackage(
    "r-cran-janeaustenr", "1.0.0-1", "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95"
)
FASHION = DebianPackage(
    "dataset-fashion-mnist", "0.0~git20200523.55506a9-1", "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"
)


def documents() -> tuple[list[str], np.ndarray]:
    """50 short news texts, and how alike people found each two of them: float64 [50, 50] from 0 to 1, upper triangle."""
    texts = _lines("lee.cor")
    rows = [[float(x) for x in line.split()] for line in _lines("similarities0-1.txt")]
    scores = np.full((len(texts), len(texts)), np.nan)
    for i, row in enumerate(rows):
        scores[i, i + 1 : len(row)] = row[i + 1 :]
    return texts, scores


def news() -> list[str]:
    """300 other news texts of the same source."""
    return _lines("lee_background.cor")


def _lines(name: str) -> list[str]:
    return GENSIM.read(f"gensim/test/test_data/{name}").decode("utf-8", "replace").strip().split("\n")


@cache
def novels() -> dict[str, str]:
    """Jane Austen's six novels by title in small letters (``persuasion``)."""
    packed = AUSTEN.files["usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"]
    found = {}
    while packed:
        raw, packed = _record(packed)
        lines = _texts(raw)
        if lines:
            found[next(line for line in lines if line.strip()).strip().lower()] = "\n".join(lines)
    return found


def _record(packed: bytes) -> tuple[bytes, bytes]:
    """The first value of R's lazy-load database, unpacked, and what follows it.

    A record is its unpacked length (u32, big-endian), then 'Z' and raw LZMA2, '2' and bzip2, or zlib without a mark.
    """
    size, kind = struct.unpack(">I", packed[:4])[0], packed[4:5]
    unpack = (
        lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 6}]) if kind == b"Z"
        else bz2.BZ2Decompressor() if kind == b"2" else zlib.decompressobj()
    )  # fmt: skip
    raw = unpack.decompress(packed[5 if kind in (b"Z", b"2") else 4 :])
    if len(raw) != size:
        raise ModelsError(f"a record has {len(raw)} bytes, {size} are expected", AUSTEN.filename, "delete it from the cache")
    return raw, unpack.unused_data


def _texts(raw: bytes) -> list[str]:
    """A character vector in R's XDR serialization; an empty list for values of other types."""
    version = struct.unpack(">I", raw[2:6])[0]
    at = 14  # format, three versions
    if version == 3:
        at += 4 + struct.unpack(">I", raw[at : at + 4])[0]  # the native encoding's name
    flags, count = struct.unpack(">II", raw[at : at + 8])
    if flags & 0xFF != 16:
        return []
    at += 8
    found = []
    for _ in range(count):
        size = max(0, struct.unpack(">i", raw[at + 4 : at + 8])[0])  # -1: a missing value
        found.append(raw[at + 8 : at + 8 + size].decode("latin-1"))
        at += 8 + size
    return found


def speech() -> dict[str, tuple[np.ndarray, str | None]]:
    """Name -> (float32 samples in -1..1 at 16 kHz, what is said, None where nobody wrote that down)."""
    base = "usr/share/pocketsphinx/test/data"
    found: dict[str, tuple[np.ndarray, str | None]] = {}
    for folder, name in (("librivox", "transcription"), ("cards", "cards.transcription")):
        for said, clip in re.findall(r"<s>(.*?)</s>\s*\((\S+)\)", SPHINX.files[f"{base}/{folder}/{name}"].decode()):
            with wave.open(io.BytesIO(SPHINX.files[f"{base}/{folder}/{clip}.wav"])) as file:
                found[f"{folder}/{clip}"] = _sound(file.readframes(file.getnframes())), said.strip()
    for clip in ("goforward", "numbers", "something"):
        found[clip] = _sound(SPHINX.files[f"{base}/{clip}.raw"]), "go forward ten meters" if clip == "goforward" else None
    return found


def _sound(raw: bytes) -> np.ndarray:
    return np.frombuffer(raw, "<i2").astype(np.float32) / 32768


def clothes(part: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first pictures of Fashion-MNIST's ``train`` or ``t10k``: float32 [count, 784] in 0..1, labels int64 [count]."""
    raw = {
        kind: gzip.decompress(FASHION.files[f"usr/share/datasets/fashion-mnist/{part}-{kind}-ubyte.gz"])
        for kind in ("images-idx3", "labels-idx1")
    }
    pixels = np.frombuffer(raw["images-idx3"], np.uint8, offset=16).reshape(-1, 784)[:count]
    return pixels.astype(np.float32) / 255, np.frombuffer(raw["labels-idx1"], np.uint8, offset=8)[:count].astype(np.int64)


def photograph(file: str) -> np.ndarray:
    """A picture of scikit-image by its file name (``coffee.png``), uint8 [height, width, 3]. Needs Pillow."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(SKIMAGE.read(f"skimage/data/{file}"))).convert("RGB"), np.uint8)
