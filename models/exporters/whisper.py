"""Whisper tiny.en in four files by both exporters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

import numpy as np
import torch
from transformers import DynamicCache, EncoderDecoderCache, WhisperConfig, WhisperFeatureExtractor
from transformers import WhisperForConditionalGeneration as Model

from models import audio
from models.exporters.common import Export
from models.exporters.pack import Origin, with_transposes
from models.recipes import whisper
from models.recipes.whisper import CROSS, FRAMES, HEAD_SIZE, HEADS, LAYERS, PAST, SELF, WEIGHTS, WIDTH, present


def state(source: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """CTranslate2's names and fused projections -> transformers' state dict, float32."""
    found: dict[str, torch.Tensor] = {}

    def get(name: str) -> torch.Tensor:
        return torch.tensor(source[name].astype(np.float32))

    def norm(ours: str, theirs: str) -> None:
        found[f"{ours}.weight"], found[f"{ours}.bias"] = get(f"{theirs}/gamma"), get(f"{theirs}/beta")

    def linear(ours: str, theirs: str, parts: tuple[str, ...] = ("",)) -> None:
        weights, biases = get(f"{theirs}/weight").chunk(len(parts)), get(f"{theirs}/bias").chunk(len(parts))
        for part, weight, bias in zip(parts, weights, biases, strict=True):
            name = ".".join(filter(None, (ours, part)))
            found[f"{name}.weight"] = weight
            if part == "k_proj":  # Whisper's keys have no bias; the converter wrote zeros
                assert not bias.any(), name
            else:
                found[f"{name}.bias"] = bias

    for side in ("encoder", "decoder"):
        for i in range(LAYERS):
            ours, theirs = f"model.{side}.layers.{i}", f"{side}/layer_{i}"
            norm(f"{ours}.self_attn_layer_norm", f"{theirs}/self_attention/layer_norm")
            linear(f"{ours}.self_attn", f"{theirs}/self_attention/linear_0", ("q_proj", "k_proj", "v_proj"))
            linear(f"{ours}.self_attn.out_proj", f"{theirs}/self_attention/linear_1")
            if side == "decoder":
                norm(f"{ours}.encoder_attn_layer_norm", f"{theirs}/attention/layer_norm")
                linear(f"{ours}.encoder_attn.q_proj", f"{theirs}/attention/linear_0")
                linear(f"{ours}.encoder_attn", f"{theirs}/attention/linear_1", ("k_proj", "v_proj"))
                linear(f"{ours}.encoder_attn.out_proj", f"{theirs}/attention/linear_2")
            norm(f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm")
            linear(f"{ours}.fc1", f"{theirs}/ffn/linear_0")
            linear(f"{ours}.fc2", f"{theirs}/ffn/linear_1")
        norm(f"model.{side}.layer_norm", f"{side}/layer_norm")
        found[f"model.{side}.embed_positions.weight"] = get(f"{side}/position_encodings/encodings")
    for conv in ("conv1", "conv2"):
        linear(f"model.encoder.{conv}", f"encoder/{conv}")
    found["model.decoder.embed_tokens.weight"] = found["proj_out.weight"] = get("decoder/embeddings/weight")
    return found


@cache
def load() -> Model:
    """The whole model; also compares our mel spectrogram with transformers'."""
    samples, _ = audio.clips()["selfish"]
    theirs = WhisperFeatureExtractor(feature_size=80)(samples, sampling_rate=audio.RATE, return_tensors="np")
    error = np.abs(theirs.input_features[0] - audio.log_mel(samples)).max()
    if error > 1e-4:
        raise SystemExit(f"models.audio.log_mel differs from transformers by {error}")
    config = WhisperConfig(
        vocab_size=51864,
        d_model=WIDTH,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=4 * WIDTH,
        decoder_ffn_dim=4 * WIDTH,
        bos_token_id=whisper.END,
        eos_token_id=whisper.END,
        pad_token_id=whisper.END,
        decoder_start_token_id=whisper.START[0],
        tie_word_embeddings=True,
    )
    model = Model(config).eval()
    model.load_state_dict(state(WEIGHTS), strict=True)
    return model


class Encoder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = load().model.encoder

    def forward(self, input_features):
        return self.encoder(input_features).last_hidden_state


class Decoder(torch.nn.Module):
    """All tokens at once. The mask of ones is explicit: without one, TorchScript meets aten::diff, which it lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.head = load().model.decoder, load().proj_out

    def forward(self, input_ids, encoder_hidden_states):
        found = self.decoder(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            encoder_hidden_states=encoder_hidden_states,
            use_cache=False,
        )
        return self.head(found.last_hidden_state)


class CrossKeysValues(torch.nn.Module):
    """What the decoder's cross attention needs of the encoder: computed once a recording."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(layer.encoder_attn for layer in load().model.decoder.layers)

    def forward(self, encoder_hidden_states):
        found = []
        for attention in self.layers:
            for project in (attention.k_proj, attention.v_proj):
                flat = project(encoder_hidden_states)
                found.append(flat.view(*flat.shape[:2], HEADS, HEAD_SIZE).transpose(1, 2))
        return tuple(found)


class CachedDecoder(Decoder):
    """New tokens only, after a flat cache in the order of `PAST`."""

    def forward(self, input_ids, position_ids, *past):
        flat = past[0] if len(past) == 1 else past
        own = DynamicCache([(flat[4 * i], flat[4 * i + 1]) for i in range(LAYERS)])
        cross = DynamicCache([(flat[4 * i + 2], flat[4 * i + 3]) for i in range(LAYERS)])
        found = self.decoder(
            input_ids=input_ids,
            # Only its length is looked at: the cross attention's keys and values are in the cache.
            encoder_hidden_states=torch.zeros(input_ids.shape[0], FRAMES, WIDTH),
            position_ids=position_ids,
            past_key_values=EncoderDecoderCache(own, cross),
            use_cache=True,
        )
        layers = found.past_key_values.self_attention_cache.layers
        return (self.head(found.last_hidden_state), *(t for layer in layers for t in (layer.keys, layer.values)))


def candidates(source: Mapping[str, np.ndarray]) -> Iterator[Origin]:
    """CTranslate2 stacks query, key, value (or key, value) in one matrix."""
    for name, array in source.items():
        steps = [["cast", "float32"]] if array.dtype == np.float16 else []
        yield from with_transposes({"from": [name], "steps": steps}, array.shape)
        if "linear_0/" in name or "linear_1/" in name:
            for parts in (2, 3):
                rows = len(array) // parts
                for part in range(parts):
                    cut = [["rows", part * rows, (part + 1) * rows], *steps]
                    yield from with_transposes({"from": [name], "steps": cut}, array.shape)


def past(batch: int, length: int) -> tuple[torch.Tensor, ...]:
    """A random cache of `length` tokens in the order of `PAST`; the same each time."""
    random = torch.Generator().manual_seed(0)
    sizes = [FRAMES if ".encoder." in name else length for name in PAST]
    return tuple(0.3 * torch.randn(batch, HEADS, size, HEAD_SIZE, generator=random) for size in sizes)


def exports() -> Iterator[Export]:
    dim = torch.export.Dim
    dims = {
        "batch": dim("batch", min=1),
        "dec_seq": dim("dec_seq", min=2, max=448),
        "past_seq": dim("past_seq", min=0, max=447),
    }
    features = torch.tensor(np.stack([audio.log_mel(samples) for samples, _ in audio.clips().values()]))
    hidden = load().model.encoder(features).last_hidden_state.detach()
    ids = torch.tensor([[*whisper.START, 314, 1101], [*whisper.START, 383, 1]])
    new, at = torch.tensor([[314, 1101]] * 2), torch.tensor([[3, 4]] * 2)
    batch, decoded, step = {0: "batch"}, {0: "batch", 1: "dec_seq"}, {0: "batch", 1: "seq"}
    cache_dims = {name: {0: "batch", 2: "past_seq"} if name in SELF else batch for name in PAST}
    for variant in whisper.VARIANTS:
        common = {
            "source": WEIGHTS,
            "dynamo": "dynamo" in variant,
            "opset": int(variant.rsplit("op", 1)[1]),
            "dims": dims,
            "candidates": candidates,
            "tolerance": 2e-3,
        }
        yield Export(
            stem=whisper.stem("encoder", variant),
            module=Encoder,
            arguments=(features[:2],),
            inputs=["input_features"],
            outputs=["last_hidden_state"],
            dynamic={"input_features": batch, "last_hidden_state": batch},
            others=lambda: [(features[2:],)],
            **common,
        )
        yield Export(
            stem=whisper.stem("decoder", variant),
            module=Decoder,
            arguments=(ids, hidden[:2]),
            inputs=["input_ids", "encoder_hidden_states"],
            outputs=["logits"],
            dynamic={"input_ids": decoded, "encoder_hidden_states": batch, "logits": decoded},
            others=lambda: [(ids[:1, :3], hidden[2:])],
            **common,
        )
        yield Export(
            stem=whisper.stem("crosskv", variant),
            module=CrossKeysValues,
            arguments=(hidden[:2],),
            inputs=["encoder_hidden_states"],
            outputs=[present(name) for name in CROSS],
            dynamic=dict.fromkeys(("encoder_hidden_states", *map(present, CROSS)), batch),
            others=lambda: [(hidden[2:],)],
            **common,
        )
        yield Export(
            stem=whisper.stem("decoder-kv", variant),
            module=CachedDecoder,
            arguments=(new, at, *past(2, 3)),
            inputs=["input_ids", "position_ids", *PAST],
            outputs=["logits", *map(present, SELF)],
            dynamic={
                **dict.fromkeys(("input_ids", "position_ids", "logits"), step),
                **cache_dims,
                **{present(name): {0: "batch", 2: "total_seq"} for name in SELF},
            },
            varargs=2,
            others=lambda: [(new[:1], torch.tensor([[0, 1]]), *past(1, 0)), (new[:1, :1], at[:1, :1], *past(1, 3))],
            **common,
        )
