"""silero-vad: says where in a recording somebody speaks. Ready-made ONNX with If subgraphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models import audio
from models.packages import Package
from models.recipe import CheckResult, Feed, FromWheel, Recipe, Session, SessionFactory, Variant, cpu_session

PACKAGE = Package(
    "silero-vad",
    "6.2.3",
    "silero_vad-6.2.3-py3-none-any.whl",
    "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
    11_317_527,
)
CHUNK, CONTEXT = 512, 64  # samples a step, and samples of the step before that each step sees again


def recording() -> tuple[np.ndarray, np.ndarray]:
    """Two seconds of hiss, a spoken sentence, two seconds of a humming tone.

    Returns float32 samples [n] and, for each whole chunk, 1 where speech is, 0 where it isn't, -1 at the borders.
    """
    speech, _ = audio.clips()["selfish"]
    random = np.random.default_rng(0)
    quiet = 2 * audio.RATE
    hiss = 0.002 * random.standard_normal(quiet)
    hum = 0.05 * np.sin(2 * np.pi * 120 * np.arange(quiet) / audio.RATE)
    samples = np.concatenate([hiss, speech, hum]).astype(np.float32)
    truth = np.zeros(len(samples) // CHUNK, int)
    first, last = quiet // CHUNK, (quiet + len(speech)) // CHUNK
    truth[first:last] = 1
    border = audio.RATE // 3 // CHUNK  # the reader breathes before and after the words
    truth[first - 1 : first + border] = -1
    truth[last - border : last + border] = -1
    return samples, truth


@dataclass(frozen=True)
class Silero(Recipe):
    """Role `vad`: input float32 [batch, 576], state float32 [2, batch, 128], sr int64 [] -> probability, new state.

    The `sequence` variant takes all chunks at once and separate h and c; `half` and `openvino` have no sr.
    """

    def walk(self, session: Session) -> tuple[np.ndarray, list[Feed]]:
        """Probability of speech for each chunk of the recording, and the feeds that gave them."""
        samples, _ = recording()
        count = len(samples) // CHUNK
        padded = np.concatenate([np.zeros(CONTEXT, np.float32), samples[: count * CHUNK]])
        windows = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + CHUNK)[::CHUNK].copy()
        names = {value.name for value in session.get_inputs()}
        if "h" in names:
            zero = np.zeros((1, 1, 128), np.float32)
            feed = {"input": windows, "h": zero, "c": zero}
            return session.run(None, feed)[0].astype(np.float32).ravel(), [feed]
        state = np.zeros((2, 1, 128), np.float32)
        found, feeds = [], []
        for window in windows:
            feed = {"input": window[None], "state": state}
            if "sr" in names:
                feed["sr"] = np.array(audio.RATE, np.int64)
            probability, state = session.run(None, feed)[:2]
            found.append(float(probability.ravel()[0]))
            feeds.append(feed)
        return np.array(found), feeds

    def check(self, paths: Mapping[str, Path], open_session: SessionFactory = cpu_session) -> CheckResult:
        """Score: the share of chunks judged rightly, 32 ms each, borders left out."""
        probability, _ = self.walk(open_session(paths["vad"]))
        _, truth = recording()
        spoken, silent = probability[truth == 1] > 0.5, probability[truth == 0] < 0.5
        score = float(np.concatenate([spoken, silent]).mean())
        passed = bool(spoken.mean() >= 0.85 and silent.mean() >= 0.95)
        text = f"speech found in {spoken.mean():.0%} of spoken chunks, silence in {silent.mean():.0%} of hiss and hum"
        return CheckResult(passed, score, text)

    def feeds(self, paths: Mapping[str, Path], open_session: SessionFactory = cpu_session) -> dict[str, list[Feed]]:
        """Eight chunks, some silent, some spoken, each with the state it met (the sequence variant: the whole clip)."""
        _, feeds = self.walk(open_session(paths["vad"]))
        return {"vad": feeds[:: max(1, len(feeds) // 8)]}


MEMBERS = {
    "main": "silero_vad",
    "op15_16k": "silero_vad_16k_op15",
    "op18_ifless": "silero_vad_op18_ifless",
    "half": "silero_vad_half",
    "sequence": "silero_vad_16k_sequence",
    "openvino": "silero_vad_openvino_16k",
}


def _file(variant: str, member: str) -> FromWheel:
    stem = "silero-vad" if variant == "main" else f"silero-vad_{variant}"
    return FromWheel(stem, PACKAGE, f"silero_vad/data/{member}.onnx")


RECIPE = Silero(
    name="silero-vad",
    title="voice activity detector, 0.3 M parameters",
    licence="MIT",
    source="snakers4/silero-vad, ready-made ONNX of the silero-vad package",
    shows="speech is found in a spoken sentence, none in hiss and hum",
    packages=(PACKAGE,),
    variants=tuple(Variant(name, {"vad": _file(name, member)}) for name, member in MEMBERS.items()),
)
