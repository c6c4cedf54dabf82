"""What rounding SmolLM2's weights to 4 bits by least squares leaves of it, and what each part of that is worth.

    python -m benchmarks least_squares [--prompts N]

All linear layers, the head included, are rounded in blocks as ``int4-block-linear`` does it, from N prompts of 129 tokens [8].
On 8 other prompts the logits of each token are compared with those in float: the mean of 1 - cosine, the cosine that 5 % of
the tokens are below, and how many keep their most likely next token.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import olc
from olc import ir, storage, targets
from olc.analysis import shapes
from olc.evaluation.padding import as_it_is
from olc.matching import Match
from olc.passes import Context
from olc.pipeline import Options, optimize
from olc.quantization import rounding
from olc.rewriter import why
from olc.rules import registry
from olc.session import run, session
from olc.strategy import rounding as learning

import models
from benchmarks._quantized.engines import feeds
from benchmarks._quantized.rows import passage

RULE, TOKENS, APART = "int4-block-linear", 129, 8
Feed = dict[str, Any]


def prompts(count: int, first: int) -> list[Feed]:
    """Every other passage, from the first: with empty caches, 9 heads of queries on 3 of keys."""
    encode = models.find("smollm2-135m").encode
    texts = [encode(passage(first + 2 * i, TOKENS))[:, :TOKENS] for i in range(count)]
    caches = {f"past_key_values.{i}.{what}": np.zeros((1, 3, 0, 64), np.float32) for i in range(30) for what in ("key", "value")}
    return [{**feeds(text, TOKENS), **caches} for text in texts]


@contextmanager
def changed(where: Any, **values: Any) -> Iterator[None]:
    """Attributes of a module as they are not."""
    before = {name: getattr(where, name) for name in values}
    for name, value in values.items():
        setattr(where, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(where, name, value)


def alike(part: np.ndarray, bits: int, symmetric: bool = False, search: bool = False, weight: object = None) -> Any:
    """The grid of a block of which every row counts the same."""
    return _GRID(part, bits, symmetric, search)


_GRID = rounding.block_grid
VARIANTS: dict[str, Callable[[], Any]] = {
    "as it is": lambda: changed(rounding),
    "loud tokens as loud as they are": lambda: changed(rounding, LOUD=1e30),
    "all rows of a block alike": lambda: changed(rounding, block_grid=alike),
    "neither": lambda: changed(rounding, LOUD=1e30, block_grid=alike),
    **{f"damping {d}": partial(lambda d: changed(learning, round_blocks=partial(rounding.round_blocks, damping=d)), d)
       for d in (0.01, 0.03, 0.3)},
}  # fmt: skip


def logits(model: ir.Model, path: Path, given: Sequence[Feed]) -> np.ndarray:
    """Of all tokens, one after the other: float32 [tokens, vocabulary]."""
    storage.save(model, path)
    opened = session(path, threads=1)
    return np.concatenate([run(opened, feed, ["logits"])["logits"][0] for feed in given])


def line(name: str, made: np.ndarray, reference: np.ndarray) -> None:
    cosines = (made * reference).sum(1) / np.linalg.norm(made, axis=1) / np.linalg.norm(reference, axis=1)
    same = (made.argmax(1) == reference.argmax(1)).mean()
    print(f"  {name:32} {1 - cosines.mean():8.4f} {np.quantile(cosines, 0.05):8.4f} {same:8.1%}", flush=True)


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks least_squares")
    parser.add_argument("--prompts", type=int, default=8, help="prompts that are learnt from [8]")
    learnt, judging = prompts(parser.parse_args(arguments).prompts, 1), prompts(APART, 0)
    source = models.find("smollm2-135m").build("dynamo_op18")["decoder"]
    with tempfile.TemporaryDirectory(prefix="olc-least-squares-") as folder:
        fused = Path(folder) / "fused.onnx"
        olc.compile(source, fused, level=2, measure=False, threads=1)
        model = storage.load(fused)
        shapes.infer(model)
        reference = logits(model, Path(folder) / "reference.onnx", judging)
        target, rules = targets.get("onnxruntime-cpu"), registry()
        nodes = frozenset(ir.site(n) for n, m in why(model, rules[RULE]) if isinstance(m, Match))

        def rounded(weights: learning.Weights) -> np.ndarray:
            made = model.clone()
            options = Options(level=3, start=2, sites={RULE: nodes}, weights=weights)
            optimize(made, options, Context(target=target), rules)
            return logits(made, Path(folder) / "rounded.onnx", judging)

        sites = [(RULE, node) for node in sorted(nodes)]
        print(f"{len(sites)} layers; weights           1 - cosine     5 %   same next token")
        line("to the nearest", rounded({}), reference)
        for name, variant in VARIANTS.items():
            with variant():
                weights = learning.least_squares(model, sites, learnt, as_it_is, 1)
            line(name, rounded(weights), reference)
