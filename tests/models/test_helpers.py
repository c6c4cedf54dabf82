"""The small numpy pieces that checks rest on."""

from __future__ import annotations

import numpy as np
import pytest

from models import audio, images, text
from models.recipes.ppocr import components


def mask(*rows: str) -> np.ndarray:
    return np.array([[sign == "#" for sign in row] for row in rows])


@pytest.mark.parametrize(
    ("rows", "boxes"),
    [
        (["....", "...."], []),
        ([".##.", ".##."], [(0, 2, 1, 3)]),
        (["#..#", "#..#", "####"], [(0, 3, 0, 4)]),  # two arms that meet later are one area
        (["#.#.#", "#.#.#", "#####", "....."], [(0, 3, 0, 5)]),
        (["###", "#.#", "###"], [(0, 3, 0, 3)]),
        (["#.#", "...", "###"], [(0, 1, 0, 1), (0, 1, 2, 3), (2, 3, 0, 3)]),
        (["..#", "###", "#..", "###"], [(0, 4, 0, 3)]),
    ],
)
def test_components(rows, boxes):
    assert components(mask(*rows)) == boxes


def test_resize_keeps_constants_and_means():
    np.testing.assert_allclose(images.resize(np.full((5, 7, 3), 9, np.uint8), 12, 3), 9)
    picture = np.arange(16, dtype=np.float32).reshape(4, 4)
    np.testing.assert_allclose(images.resize(picture, 2, 2), picture.reshape(2, 2, 2, 2).mean((1, 3)))
    np.testing.assert_array_equal(images.resize(picture, 4, 4), picture)


def test_words_have_neither_case_nor_punctuation():
    assert text.words("Cold-hearted, he said.") == text.words("cold hearted he said")


def test_log_mel_finds_a_tone_in_its_band():
    tone = np.sin(2 * np.pi * 1000 * np.arange(audio.RATE) / audio.RATE).astype(np.float32)
    features = audio.log_mel(tone)
    assert features.shape == (80, 3000)
    assert features.dtype == np.float32
    loudest = features[:, 10:90].mean(1).argmax()
    centre = np.argmax(audio.filters()[:, loudest]) * audio.RATE / audio.WINDOW
    assert abs(centre - 1000) < 60
    assert (features[:, 200:] == features.min()).all()
