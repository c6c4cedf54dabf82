"""Speech in numpy: the kept clips, and Whisper's log-mel spectrogram."""

from __future__ import annotations

import json
import wave
from functools import cache
from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parent / "data"
RATE = 16_000  # samples a second, of every clip and model here
WINDOW, HOP, BANDS, SECONDS = 400, 160, 80, 30


def clips() -> dict[str, tuple[np.ndarray, str]]:
    """Name -> (float32 samples in -1..1 at 16 kHz, what is said)."""
    said = json.loads((DATA / "speech.json").read_text())
    return {name: (read_wav(DATA / f"speech_{name}.wav"), text) for name, text in said.items()}


def read_wav(path: Path) -> np.ndarray:
    """A 16-bit mono 16 kHz wav file as float32 [samples]."""
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE), path
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def _mel(hertz: np.ndarray | float) -> np.ndarray:
    """Slaney's mel scale: linear below 1 kHz, logarithmic above."""
    hertz = np.asarray(hertz, np.float64)
    return np.where(hertz < 1000, 3 * hertz / 200, 15 + np.log(np.maximum(hertz, 1e-9) / 1000) * 27 / np.log(6.4))


def _hertz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, 200 * mel / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


@cache
def filters() -> np.ndarray:
    """Triangular mel filters of unit area, float64 [201 frequencies, 80 bands]."""
    edges = _hertz(np.linspace(_mel(0), _mel(RATE / 2), BANDS + 2))
    bins = np.linspace(0, RATE / 2, WINDOW // 2 + 1)[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (high - low))


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Whisper's input features: samples [n] -> float32 [80, 3000], silence to 30 s, centred frames, 80 dB floor."""
    padded = np.zeros(RATE * SECONDS)
    padded[: min(len(samples), len(padded))] = samples[: len(padded)]
    padded = np.pad(padded, WINDOW // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:-1]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    power = np.abs(np.fft.rfft(frames * hann)) ** 2
    decibels = np.log10(np.maximum(power @ filters(), 1e-10)).T
    decibels = np.maximum(decibels, decibels.max() - 8)
    return ((decibels + 4) / 4).astype(np.float32)
