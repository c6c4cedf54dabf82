"""The corpus' architectures by both exporters: published depths, tiny widths, weights drawn from their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import timm
import torch
import torchvision
import transformers

from models.corpus import Architecture, Seeded
from models.corpus.architectures import DYNAMO23
from models.corpus.weights import draw, key
from models.exporters.common import Export, rounding
from models.exporters.pack import Origin, plain_candidates

HIDDEN, HEADS, KV_HEADS, INNER, VOCABULARY = 64, 4, 2, 96, 300
BATCH, SEQ, PAST = 2, 7, 5
Pick = Callable[[Any], Any]


class Call(torch.nn.Module):
    """A model called by position, which is what exporters like, with one tensor or a tuple of them as its result."""

    def __init__(self, model: torch.nn.Module, inputs: Sequence[str], pick: Pick, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.model, self.inputs, self.pick, self.options = model, tuple(inputs), pick, dict(options)

    def forward(self, *arguments):
        # The dynamo exporter hands `*arguments` over as one tuple.
        flat = arguments[0] if isinstance(arguments[0], tuple) else arguments
        return self.pick(self.model(**dict(zip(self.inputs, flat, strict=True)), **self.options))


class CachedCall(torch.nn.Module):
    """One step of a causal language model with a flat cache: key and value of layer 0, of layer 1, ..."""

    def __init__(self, model: torch.nn.Module, inputs: Sequence[str]) -> None:
        super().__init__()
        self.model, self.inputs = model, tuple(inputs)

    def forward(self, *arguments):
        flat = arguments[0] if isinstance(arguments[0], tuple) else arguments
        named, past = flat[: len(self.inputs)], flat[len(self.inputs) :]
        cache = transformers.DynamicCache([(past[i], past[i + 1]) for i in range(0, len(past), 2)])
        found = self.model(**dict(zip(self.inputs, named, strict=True)), past_key_values=cache, use_cache=True)
        layers = found.past_key_values.layers
        return (found.logits, *(tensor for layer in layers for tensor in (layer.keys, layer.values)))


@dataclass
class Network:
    """What `Export` needs to know of an architecture: the module, its inputs and which of their axes may vary."""

    module: torch.nn.Module
    inputs: dict[str, torch.Tensor]
    outputs: list[str]
    dynamic: dict[str, dict[int, str]]
    others: list[dict[str, torch.Tensor]] = field(default_factory=list)
    rotary: bool = False  # rotates by tables of batch 1, which ONNX Runtime's RotaryEmbedding refuses at any other


def assign(module: torch.nn.Module) -> list[str]:
    """Give every parameter and running statistic its drawn value; returns their keys."""
    keys = []
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            leaf = name.rpartition(".")[2]
            if isinstance(tensor, torch.nn.Parameter) or leaf.startswith("running_"):
                tensor.copy_(torch.tensor(draw(name, tuple(tensor.shape))))
                keys.append(key(name, tensor.shape))
    return keys


def ids(batch: int, length: int) -> torch.Tensor:
    """Random token ids; the same each time."""
    return torch.randint(3, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(0))


def mask(batch: int, length: int) -> torch.Tensor:
    """All ones but for the last tokens of the second row."""
    found = torch.ones(batch, length, dtype=torch.long)
    found[1:2, length - length // 4 :] = 0
    return found


def noise(*shape: int) -> torch.Tensor:
    """Standard normal numbers; the same each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def built(kind: Any, config: Any, attention: str | None) -> torch.nn.Module:
    """The model class on the config, with the attention asked for, else the class' own default."""
    options = {"attn_implementation": attention} if attention else {}
    return kind._from_config(config, **options).eval()


def of_text(kind: Any, config: Any, attention: str | None, names: str = "input_ids attention_mask",
            output: str = "last_hidden_state", rotary: bool = False, **options: Any) -> Network:  # fmt: skip
    """A network over token ids; every input is [batch, seq], those with `decoder_` in their name [batch, dec_seq]."""
    inputs, dynamic = names.split(), {}
    for name in (*inputs, output):
        own = name.startswith("decoder_") or (name == output and "decoder_input_ids" in inputs)
        dynamic[name] = {0: "batch", 1: "dec_seq" if own else "seq"}

    def sample(batch: int, seq: int, decoded: int) -> dict[str, torch.Tensor]:
        kinds = {"attention_mask": mask, "token_type_ids": lambda *shape: torch.ones(shape, dtype=torch.long)}
        return {n: kinds.get(n, ids)(batch, decoded if n.startswith("decoder_") else seq) for n in inputs}

    module = Call(built(kind, config, attention), inputs, lambda found: getattr(found, output), options)
    return Network(module, sample(BATCH, SEQ, 6), [output], dynamic, [sample(1, 9, 4)], rotary)


def of_images(module: torch.nn.Module, size: int, name: str = "pixel_values", output: str = "last_hidden_state",
              ) -> Network:  # fmt: skip
    """A network over pictures of a fixed size."""
    batch = {0: "batch"}
    return Network(module, {name: noise(BATCH, 3, size, size)}, [output], {name: batch, output: batch},
                   [{name: noise(1, 3, size, size)}])  # fmt: skip


def of_pixels(kind: Any, config: Any, attention: str | None, size: int) -> Network:
    """A network of transformers over pictures."""
    model = built(kind, config, attention)
    return of_images(Call(model, ["pixel_values"], lambda found: found.last_hidden_state, {}), size)


def cached(kind: Any, config: Any, attention: str | None, layers: int, heads: int) -> Network:
    """A causal language model with key/value cache as inputs and outputs."""
    past = [f"past_key_values.{i}.{part}" for i in range(layers) for part in ("key", "value")]
    present = [name.replace("past_key_values", "present") for name in past]
    named = ["input_ids", "attention_mask", "position_ids"]

    def sample(batch: int, new: int, old: int) -> dict[str, torch.Tensor]:
        positions = torch.arange(old, old + new)[None].repeat(batch, 1)
        cache = {name: 0.3 * noise(batch, heads, old, HIDDEN // HEADS) for name in past}
        return {**dict(zip(named, (ids(batch, new), mask(batch, old + new), positions), strict=True)), **cache}

    dynamic = {name: {0: "batch", 1: "seq"} for name in ("input_ids", "position_ids", "logits")}
    dynamic["attention_mask"] = {0: "batch", 1: "total_seq"}
    dynamic |= {name: {0: "batch", 2: "past_seq"} for name in past}
    dynamic |= {name: {0: "batch", 2: "total_seq"} for name in present}
    module = CachedCall(built(kind, config, attention), named)
    return Network(module, sample(BATCH, 3, PAST), ["logits", *present], dynamic, [sample(1, 1, 9)])


# One function an architecture, of the same name. Each gets the depths and the attention asked for (None: the default).


def bert(depths: Sequence[int], attention: str | None, hidden: int = HIDDEN, heads: int = HEADS, inner: int = INNER,
         positions: int = 128) -> Network:  # fmt: skip
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, num_hidden_layers=depths[0], num_attention_heads=heads,
        intermediate_size=inner, max_position_embeddings=positions,
    )  # fmt: skip
    return of_text(transformers.BertModel, config, attention, "input_ids attention_mask token_type_ids")


def bert_base(depths: Sequence[int], attention: str | None) -> Network:
    """At its published widths, to be timed; the vocabulary, of which a token reads one row, is as small as the others'."""
    return bert(depths, attention, 768, 12, 3072, 512)


def roberta(depths: Sequence[int], attention: str | None) -> Network:
    config = transformers.RobertaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=depths[0], num_attention_heads=HEADS,
        intermediate_size=INNER, max_position_embeddings=130, type_vocab_size=1, pad_token_id=1,
    )  # fmt: skip
    return of_text(transformers.RobertaModel, config, attention)


def distilbert(depths: Sequence[int], attention: str | None) -> Network:
    config = transformers.DistilBertConfig(
        vocab_size=VOCABULARY, dim=HIDDEN, n_layers=depths[0], n_heads=HEADS, hidden_dim=INNER,
        max_position_embeddings=128,
    )  # fmt: skip
    return of_text(transformers.DistilBertModel, config, attention)


def electra(depths: Sequence[int], attention: str | None) -> Network:
    config = transformers.ElectraConfig(
        vocab_size=VOCABULARY, embedding_size=HIDDEN // 2, hidden_size=HIDDEN, num_hidden_layers=depths[0],
        num_attention_heads=HEADS, intermediate_size=INNER, max_position_embeddings=128,
    )  # fmt: skip
    return of_text(transformers.ElectraModel, config, attention)


def deberta(depths: Sequence[int], attention: str | None) -> Network:
    """As DeBERTa-v3, which is of the class DebertaV2."""
    config = transformers.DebertaV2Config(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=depths[0], num_attention_heads=HEADS,
        intermediate_size=INNER, max_position_embeddings=128, relative_attention=True, position_buckets=16,
        norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"], position_biased_input=False,
    )  # fmt: skip
    return of_text(transformers.DebertaV2Model, config, attention)


def gpt2_config(depths: Sequence[int]) -> Any:
    return transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=HIDDEN, n_layer=depths[0], n_head=HEADS, n_inner=INNER, n_positions=128,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip


def gpt2(depths: Sequence[int], attention: str | None) -> Network:
    return of_text(transformers.GPT2LMHeadModel, gpt2_config(depths), attention, output="logits", use_cache=False)


def llama_config(kind: Any, depths: Sequence[int], **options: Any) -> Any:
    """The fields that the configs of Llama's kind share."""
    return kind(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=depths[0], num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, intermediate_size=INNER, max_position_embeddings=128, bos_token_id=1,
        eos_token_id=2, pad_token_id=0, **options,
    )  # fmt: skip


def llama(depths: Sequence[int], attention: str | None) -> Network:
    config = llama_config(transformers.LlamaConfig, depths)
    return of_text(transformers.LlamaForCausalLM, config, attention, output="logits", rotary=True, use_cache=False)


def mistral(depths: Sequence[int], attention: str | None) -> Network:
    config = llama_config(transformers.MistralConfig, depths, sliding_window=5)
    return of_text(transformers.MistralForCausalLM, config, attention, output="logits", rotary=True, use_cache=False)


def qwen2(depths: Sequence[int], attention: str | None) -> Network:
    config = llama_config(transformers.Qwen2Config, depths, tie_word_embeddings=True)
    return of_text(transformers.Qwen2ForCausalLM, config, attention, output="logits", rotary=True, use_cache=False)


def qwen3(depths: Sequence[int], attention: str | None) -> Network:
    config = llama_config(transformers.Qwen3Config, depths, tie_word_embeddings=True, head_dim=2 * HIDDEN // HEADS)
    return of_text(transformers.Qwen3ForCausalLM, config, attention, output="logits", rotary=True, use_cache=False)


def of_experts(kind: Any, config: Any, attention: str | None) -> Network:
    network = of_text(kind, config, attention, output="logits", rotary=True, use_cache=False)
    network.module.model.set_experts_implementation("batched_mm")
    return network


def mixtral(depths: Sequence[int], attention: str | None) -> Network:
    config = llama_config(transformers.MixtralConfig, depths, num_local_experts=4, num_experts_per_tok=2)
    return of_experts(transformers.MixtralForCausalLM, config, attention)


def olmoe(depths: Sequence[int], attention: str | None) -> Network:
    config = llama_config(transformers.OlmoeConfig, depths, num_experts=4, num_experts_per_tok=2)
    return of_experts(transformers.OlmoeForCausalLM, config, attention)


def granite_moe(depths: Sequence[int], attention: str | None) -> Network:
    config = llama_config(transformers.GraniteMoeConfig, depths, num_local_experts=4, num_experts_per_tok=2)
    return of_experts(transformers.GraniteMoeForCausalLM, config, attention)


def gpt_oss(depths: Sequence[int], attention: str | None) -> Network:
    config = llama_config(
        transformers.GptOssConfig, depths, num_local_experts=4, num_experts_per_tok=2, head_dim=HIDDEN // HEADS, sliding_window=5,
    )  # fmt: skip
    return of_experts(transformers.GptOssForCausalLM, config, attention)


def deepseek_v3(depths: Sequence[int], attention: str | None) -> Network:
    """The first layer has no experts."""
    config = llama_config(
        transformers.DeepseekV3Config, depths, moe_intermediate_size=INNER // 2, n_routed_experts=8, num_experts_per_tok=2,
        n_group=4, topk_group=2, first_k_dense_replace=1, q_lora_rank=HIDDEN // 2, kv_lora_rank=HIDDEN // 2, qk_rope_head_dim=8,
        qk_nope_head_dim=8, v_head_dim=12,
    )  # fmt: skip
    config.num_key_value_heads = HEADS
    return of_experts(transformers.DeepseekV3ForCausalLM, config, attention)


def gemma(depths: Sequence[int], attention: str | None) -> Network:
    config = transformers.GemmaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=depths[0], num_attention_heads=HEADS,
        num_key_value_heads=1, head_dim=HIDDEN // HEADS, intermediate_size=INNER, max_position_embeddings=128,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return of_text(transformers.GemmaForCausalLM, config, attention, output="logits", rotary=True, use_cache=False)


def plain_config(kind: Any, depths: Sequence[int]) -> Any:
    return kind(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=depths[0], num_attention_heads=HEADS,
        intermediate_size=INNER, max_position_embeddings=128, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip


def phi(depths: Sequence[int], attention: str | None) -> Network:
    config = plain_config(transformers.PhiConfig, depths)
    return of_text(transformers.PhiForCausalLM, config, attention, output="logits", rotary=True, use_cache=False)


def gpt_neox(depths: Sequence[int], attention: str | None) -> Network:
    config = plain_config(transformers.GPTNeoXConfig, depths)
    return of_text(transformers.GPTNeoXForCausalLM, config, attention, output="logits", rotary=True, use_cache=False)


def gpt_j(depths: Sequence[int], attention: str | None) -> Network:
    config = transformers.GPTJConfig(
        vocab_size=VOCABULARY, n_embd=HIDDEN, n_layer=depths[0], n_head=HEADS, n_inner=INNER, rotary_dim=8,
        n_positions=128, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return of_text(transformers.GPTJForCausalLM, config, attention, output="logits", use_cache=False)


def bloom(depths: Sequence[int], attention: str | None) -> Network:
    config = transformers.BloomConfig(vocab_size=VOCABULARY, hidden_size=HIDDEN, n_layer=depths[0], n_head=HEADS)
    return of_text(transformers.BloomForCausalLM, config, attention, output="logits", use_cache=False)


def codegen(depths: Sequence[int], attention: str | None) -> Network:
    config = transformers.CodeGenConfig(
        vocab_size=VOCABULARY, n_embd=HIDDEN, n_layer=depths[0], n_head=HEADS, n_inner=INNER, n_positions=128, n_ctx=128,
        rotary_dim=8, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return of_text(transformers.CodeGenForCausalLM, config, attention, output="logits", use_cache=False)


def gpt_neo(depths: Sequence[int], attention: str | None) -> Network:
    config = transformers.GPTNeoConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_layers=depths[0], num_heads=HEADS, intermediate_size=INNER,
        max_position_embeddings=128, attention_types=[[["global", "local"], depths[0] // 2]], window_size=5, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    return of_text(transformers.GPTNeoForCausalLM, config, attention, output="logits", use_cache=False)


def falcon(depths: Sequence[int], attention: str | None) -> Network:
    config = transformers.FalconConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=depths[0], num_attention_heads=HEADS, multi_query=True,
    )  # fmt: skip
    return of_text(transformers.FalconForCausalLM, config, attention, output="logits", rotary=True, use_cache=False)


def mpnet(depths: Sequence[int], attention: str | None) -> Network:
    config = transformers.MPNetConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=depths[0], num_attention_heads=HEADS,
        intermediate_size=INNER, max_position_embeddings=130,
    )  # fmt: skip
    return of_text(transformers.MPNetModel, config, attention)


def modernbert(depths: Sequence[int], attention: str | None) -> Network:
    config = transformers.ModernBertConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=depths[0], num_attention_heads=HEADS,
        intermediate_size=INNER, max_position_embeddings=128, local_attention=4, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, cls_token_id=1, sep_token_id=2,
    )  # fmt: skip
    return of_text(transformers.ModernBertModel, config, attention, rotary=True)


def cohere(depths: Sequence[int], attention: str | None) -> Network:
    config = transformers.CohereConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=depths[0], num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, intermediate_size=INNER, max_position_embeddings=128, pad_token_id=0,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return of_text(transformers.CohereForCausalLM, config, attention, output="logits", use_cache=False)


def gpt2_kv(depths: Sequence[int], attention: str | None) -> Network:
    return cached(transformers.GPT2LMHeadModel, gpt2_config(depths), attention, depths[0], HEADS)


def llama_kv(depths: Sequence[int], attention: str | None) -> Network:
    config = llama_config(transformers.LlamaConfig, depths)
    return cached(transformers.LlamaForCausalLM, config, attention, depths[0], KV_HEADS)


def qwen2_kv(depths: Sequence[int], attention: str | None) -> Network:
    config = llama_config(transformers.Qwen2Config, depths, tie_word_embeddings=True)
    return cached(transformers.Qwen2ForCausalLM, config, attention, depths[0], KV_HEADS)


def t5_config(encoder: int, decoder: int) -> Any:
    return transformers.T5Config(
        vocab_size=VOCABULARY, d_model=HIDDEN, d_kv=HIDDEN // HEADS, d_ff=INNER, num_layers=encoder,
        num_decoder_layers=decoder, num_heads=HEADS, decoder_start_token_id=0,
    )  # fmt: skip


def t5_encoder(depths: Sequence[int], attention: str | None) -> Network:
    return of_text(transformers.T5EncoderModel, t5_config(depths[0], depths[0]), attention)


def t5(depths: Sequence[int], attention: str | None) -> Network:
    names = "input_ids attention_mask decoder_input_ids"
    return of_text(transformers.T5Model, t5_config(*depths), attention, names, use_cache=False)


def bart(depths: Sequence[int], attention: str | None) -> Network:
    config = transformers.BartConfig(
        vocab_size=VOCABULARY, d_model=HIDDEN, encoder_layers=depths[0], decoder_layers=depths[1],
        encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, encoder_ffn_dim=INNER, decoder_ffn_dim=INNER,
        max_position_embeddings=128, decoder_start_token_id=2,
    )  # fmt: skip
    names = "input_ids attention_mask decoder_input_ids"
    return of_text(transformers.BartModel, config, attention, names, use_cache=False)


def clip_text(depths: Sequence[int], attention: str | None) -> Network:
    config = transformers.CLIPTextConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, num_hidden_layers=depths[0], num_attention_heads=HEADS,
        intermediate_size=INNER, max_position_embeddings=77, projection_dim=32, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    network = of_text(transformers.CLIPTextModelWithProjection, config, attention, output="text_embeds")
    network.dynamic["text_embeds"] = {0: "batch"}
    return network


def clip_vision(depths: Sequence[int], attention: str | None) -> Network:
    config = transformers.CLIPVisionConfig(
        hidden_size=HIDDEN, num_hidden_layers=depths[0], num_attention_heads=HEADS, intermediate_size=INNER,
        image_size=32, patch_size=8,
    )  # fmt: skip
    return of_pixels(transformers.CLIPVisionModel, config, attention, 32)


def swin(depths: Sequence[int], attention: str | None) -> Network:
    config = transformers.SwinConfig(
        image_size=128, patch_size=4, embed_dim=16, depths=list(depths), num_heads=[1, 2, 4, 8], window_size=4,
        mlp_ratio=2.0,
    )  # fmt: skip
    return of_pixels(transformers.SwinModel, config, attention, 128)


def convnext(depths: Sequence[int], attention: str | None) -> Network:
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16, 32, 64], depths=list(depths), image_size=64)
    return of_pixels(transformers.ConvNextModel, config, None, 64)


def wav2vec2(depths: Sequence[int], attention: str | None) -> Network:
    config = transformers.Wav2Vec2Config(
        vocab_size=32, hidden_size=HIDDEN, num_hidden_layers=depths[0], num_attention_heads=HEADS,
        intermediate_size=INNER, conv_dim=[32] * 7, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=16,
        layerdrop=0.0, apply_spec_augment=False,
    )  # fmt: skip
    module = Call(built(transformers.Wav2Vec2Model, config, attention), ["input_values"],
                  lambda found: found.last_hidden_state, {})  # fmt: skip
    dynamic = {"input_values": {0: "batch", 1: "samples"}, "last_hidden_state": {0: "batch", 1: "frames"}}
    return Network(module, {"input_values": noise(BATCH, 4000)}, ["last_hidden_state"], dynamic,
                   [{"input_values": noise(1, 5000)}])  # fmt: skip


def classifier(model: torch.nn.Module) -> Network:
    """A convolutional classifier of timm or torchvision."""
    return of_images(Call(model.eval(), ["x"], lambda found: found, {}), 64, "input", "logits")


def resnet50(depths: Sequence[int], attention: str | None) -> Network:
    return classifier(timm.models.resnet.ResNet(timm.models.resnet.Bottleneck, depths, 32, channels=(8, 16, 24, 32)))


def efficientnet(depths: Sequence[int], attention: str | None) -> Network:
    build = timm.models.efficientnet._gen_efficientnet
    return classifier(build("efficientnet_b0", channel_multiplier=0.25, num_classes=32))


def mobilenetv3(depths: Sequence[int], attention: str | None) -> Network:
    return classifier(torchvision.models.mobilenet_v3_large(width_mult=0.25, num_classes=32))


def vit(depths: Sequence[int], attention: str | None) -> Network:
    config = transformers.ViTConfig(
        hidden_size=HIDDEN, num_hidden_layers=depths[0], num_attention_heads=HEADS, intermediate_size=INNER,
        image_size=32, patch_size=8,
    )  # fmt: skip
    return of_pixels(transformers.ViTModel, config, attention, 32)


def whisper(depths: Sequence[int], attention: str | None) -> torch.nn.Module:
    config = transformers.WhisperConfig(
        vocab_size=VOCABULARY, d_model=HIDDEN, encoder_layers=depths[0], decoder_layers=depths[0],
        encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, encoder_ffn_dim=INNER, decoder_ffn_dim=INNER,
        num_mel_bins=20, max_source_positions=25, max_target_positions=64, bos_token_id=1, eos_token_id=2,
        pad_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    return built(transformers.WhisperModel, config, attention)


def whisper_encoder(depths: Sequence[int], attention: str | None) -> Network:
    module = Call(whisper(depths, attention).encoder, ["input_features"], lambda found: found.last_hidden_state, {})
    batch = {0: "batch"}
    return Network(module, {"input_features": noise(BATCH, 20, 50)}, ["last_hidden_state"],
                   {"input_features": batch, "last_hidden_state": batch}, [{"input_features": noise(1, 20, 50)}])  # fmt: skip


def whisper_decoder(depths: Sequence[int], attention: str | None) -> Network:
    def sample(batch: int, length: int) -> dict[str, torch.Tensor]:
        return {"input_ids": ids(batch, length), "attention_mask": mask(batch, length),
                "encoder_hidden_states": noise(batch, 25, HIDDEN)}  # fmt: skip

    inputs, own = sample(BATCH, SEQ), {0: "batch", 1: "seq"}
    module = Call(whisper(depths, attention).decoder, list(inputs), lambda found: found.last_hidden_state,
                  {"use_cache": False})  # fmt: skip
    dynamic = {"input_ids": own, "attention_mask": own, "encoder_hidden_states": {0: "batch"}, "last_hidden_state": own}
    return Network(module, inputs, ["last_hidden_state"], dynamic, [sample(1, 9)])


def candidates(source: Mapping[str, np.ndarray]) -> Iterator[Origin]:
    """Weights as they are, and convolutions with the BatchNormalization folded in that follows them in the network."""
    yield from plain_candidates(source)
    names = list(source)
    for at, name in enumerate(names):
        if source[name].ndim != 4:
            continue
        size = len(source[name])
        scales = (n.removesuffix(f".weight:{size}") for n in names[at:] if n.endswith(f".weight:{size}"))
        owner = next((scale for scale in scales if f"{scale}.running_var:{size}" in names), None)
        if owner is None:
            continue
        found = f"{owner}.running_var:{size}"
        norm = [f"{owner}.{part}:{size}" for part in ("weight", "bias", "running_mean", "running_var")]
        for epsilon in (1e-5, 1e-3):
            for ulps in ("=" * len(source[found]), rounding(source[found], epsilon)):
                for step in ("batchnorm_weight", "batchnorm_bias"):
                    yield {"from": [name, *norm], "steps": [[step, epsilon, ulps]]}


def dims() -> dict[str, Any]:
    """Bounds for the dynamo exporter; a dim that is absent is inferred."""
    dim = torch.export.Dim
    return {
        "batch": dim("batch", min=1),
        "seq": dim("seq", min=2, max=64),
        "dec_seq": dim("dec_seq", min=2, max=64),
        "past_seq": dim("past_seq", min=1, max=64),
    }


def exports(architecture: Architecture) -> Iterator[Export]:
    """Every file of an architecture."""
    for variant, stem in zip(architecture.variants, architecture.stems, strict=True):
        attention = "eager" if variant.startswith("eager") else None
        network: Network = globals()[architecture.name.replace("-", "_")](architecture.depths, attention)
        yield Export(
            stem=stem,
            source=Seeded(assign(network.module)),
            module=lambda network=network: network.module,
            arguments=tuple(network.inputs.values()),
            inputs=list(network.inputs),
            outputs=network.outputs,
            dynamo="dynamo" in variant,
            opset=int(variant.rsplit("op", 1)[1]),
            dynamic=network.dynamic,
            dims=dims(),
            varargs=0,
            candidates=candidates,
            compared=not (network.rotary and variant == DYNAMO23),
            others=lambda network=network: [tuple(sample.values()) for sample in network.others],
        )
