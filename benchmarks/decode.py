"""Decoding token by token: SmolLM2 on one thread, after 128 and after 1,024 tokens.

Four programs make the same tokens: plain ONNX Runtime with its caches in numpy, on the source and on the artifact of -O2;
``olc.decoder`` on that artifact; and on its shared form, in which past and present are one buffer. Each is paired with the
first, and those of -O2 with each other; a ratio is the median over pairs of steps, with its 95 % interval.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import olc
from olc.decoding import Decoder, decoder
from olc.evaluation.latency import Paired, paired
from olc.session import SessionOptions, session

import models

CONTEXTS = (128, 1024)
SECONDS = 10.0
MOST = 200
"""Steps of one comparison at most: how far a context may grow beyond its number."""

Feeds = dict[str, np.ndarray]


class Numpy:
    """ONNX Runtime as it is: caches go out to numpy and come back."""

    def __init__(self, path: Path, options: SessionOptions | None = None) -> None:
        self.opened = session(path, threads=1, options=options)
        self.outputs = [v.name for v in self.opened.get_outputs()]
        self.reset()

    def reset(self) -> None:
        shapes = {v.name: v.shape for v in self.opened.get_inputs() if v.name.startswith("past")}
        self.caches = {name: np.zeros((1, shape[1], 0, shape[3]), np.float32) for name, shape in shapes.items()}

    def step(self, feeds: Feeds) -> Feeds:
        found = dict(zip(self.outputs, self.opened.run(self.outputs, {**feeds, **self.caches}), strict=True))
        self.caches = {name: found.pop(name.replace("past_key_values", "present")) for name in self.caches}
        return found


def started(program: Numpy | Decoder, context: int) -> tuple[Callable[[], object], list[int]]:
    """A function that makes the next token after a prompt of that many, and the tokens that it has made."""
    program.reset()
    prompt = np.random.default_rng(0).integers(0, 40_000, (1, context))
    made: list[int] = []

    def run(tokens: np.ndarray, length: int) -> None:
        places = np.arange(length - tokens.shape[1], length)[None]
        mask = np.ones((1, length), np.int64)
        found = program.step({"input_ids": tokens, "attention_mask": mask, "position_ids": places})
        made.append(int(found["logits"][0, -1].argmax()))

    run(prompt, context)
    return lambda: run(np.array([made[-1:]]), context + len(made)), made


def compare(a: Numpy | Decoder, b: Numpy | Decoder, context: int) -> Paired:
    """Both from the same prompt. They must make the same tokens."""
    (run_a, made_a), (run_b, made_b) = started(a, context), started(b, context)
    found = paired(run_a, run_b, budget_s=SECONDS, max_pairs=MOST)
    assert made_a == made_b, "the programs make different tokens"
    return found


def main() -> None:
    source = models.find("smollm2-135m").build("dynamo_op18")["decoder"]
    with tempfile.TemporaryDirectory(prefix="olc-decode-") as folder:
        artifact, shared = Path(folder) / "o2.onnx", Path(folder) / "shared.onnx"
        olc.compile(source, artifact, level=2, measure=False, threads=1)
        olc.compile(source, shared, level=2, measure=False, threads=1, shared_cache=True)
        capacity = max(CONTEXTS) + MOST + 64  # warm-up makes tokens too
        base, plain = Numpy(source, SessionOptions()), Numpy(artifact)
        loop, in_place = decoder(artifact, capacity, threads=1), decoder(shared, capacity, threads=1)
        pairs = (
            ("source -> -O2", base, plain), ("source -> -O2, loop", base, loop), ("source -> shared, loop", base, in_place),
            ("-O2 -> -O2, loop", plain, loop), ("-O2 -> shared, loop", plain, in_place),
        )  # fmt: skip
        print(f"{'context':>7}  {'programs':24} {'ms a token':>14} {'ratio':>6} {'95 %':>13}  pairs")
        for context in CONTEXTS:
            for name, a, b in pairs:
                p = compare(a, b, context)
                took = f"{p.a.median * 1e3:.1f} -> {p.b.median * 1e3:.1f}"
                print(f"{context:>7}  {name:24} {took:>14} {p.ratio:6.2f} {p.low:5.2f} to {p.high:.2f}  {p.pairs}", flush=True)
