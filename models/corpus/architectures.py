"""The architectures of the corpus: depths as published, widths tiny, and what a compiler should find in each.

`counts` follow from the depths alone. They are written as sums so that each term can be checked against the model's
code: `2 * n + 1` norms are two a layer and one at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

TORCHSCRIPT, DYNAMO, DYNAMO23 = "ts_op17", "dynamo_op18", "dynamo_op23"
VARIANTS = (TORCHSCRIPT, DYNAMO, DYNAMO23)
KERAS = ("tf2onnx_op15",)
EAGER = ("eager_ts_op17", "eager_dynamo_op18")
JAX = ("jax_op23",)


@dataclass(frozen=True)
class Architecture:
    """A network whose exports are kept.

    Attributes:
        name: of its files, and of its function in the module of `models/exporters` that makes them.
        depths: numbers of layers: one number, or encoder and decoder, or one a stage.
        counts: operator -> how many there should be at -O2.
        variants: its exports; `eager` names the attention that torch would otherwise leave to one fused call.
        padded: whether what it gives for tokens of padding means anything. It does not where these see no token at all:
            a mean over all tokens and 0 are both right then.
    """

    name: str
    depths: tuple[int, ...]
    counts: Mapping[str, int]
    variants: tuple[str, ...] = VARIANTS
    padded: bool = True

    @property
    def stems(self) -> tuple[str, ...]:
        """The names of its files."""
        return tuple(f"{self.name}_{variant}" for variant in self.variants)


def transformer(name: str, *depths: int, attention: int, variants: tuple[str, ...] = VARIANTS, **counts: int) -> Architecture:
    """One with `attention` Attention nodes, and nothing left of a softmax spelled out or of its guard against NaN."""
    whole = {"Attention": attention, "Softmax": 0, "IsNaN": 0, "Erf": 0, "Tanh": 0, "Sigmoid": 0, "Pow": 0, **counts}
    return Architecture(name, depths, MappingProxyType(whole), variants)


def decoder(
    name: str, layers: int, norms: int | None = None, variants: tuple[str, ...] = VARIANTS, **counts: int
) -> Architecture:
    """One of Llama's kind: RMS norms, two a layer and one at the end, queries and keys rotated, a SiLU gate."""
    norms = 2 * layers + 1 if norms is None else norms
    counts = {"RMSNormalization": norms, "RotaryEmbedding": 2 * layers, "QuickGelu": layers, **counts}
    return transformer(name, layers, attention=counts.pop("attention", layers), variants=variants, **counts)


def convolutional(name: str, *depths: int, **counts: int) -> Architecture:
    """One whose BatchNormalizations all go into convolutions."""
    return Architecture(name, depths, MappingProxyType({"BatchNormalization": 0, "Pad": 0, **counts}), VARIANTS)


def encoder_norms(layers: int) -> dict[str, int]:
    """BERT's kind: a norm after the embeddings and two a layer; one Gelu a layer."""
    return {"LayerNormalization": 2 * layers + 1, "Gelu": layers}


def stages(*depths: int) -> int:
    """Norms of a network in stages beside those of its blocks: after the patches, before each later stage, at the end."""
    return 1 + (len(depths) - 1) + 1


ALL = (
    # By Keras' own export, which is tf2onnx.
    transformer("keras-bert", 12, attention=12, variants=KERAS, Tanh=1, **encoder_norms(12)),
    transformer("keras-gpt2", 12, attention=12, variants=KERAS, **encoder_norms(12)),
    transformer("keras-gpt-neox", 12, attention=12, variants=KERAS, RotaryEmbedding=2 * 12, **encoder_norms(12)),
    decoder("keras-llama", 16, variants=KERAS),
    transformer("keras-t5", 6, 6, attention=6 + 2 * 6, variants=KERAS, RMSNormalization=(2 * 6 + 1) + (3 * 6 + 1)),
    transformer(
        "keras-whisper", 4, 4, attention=4 + 2 * 4, variants=KERAS, LayerNormalization=(2 * 4 + 1) + (3 * 4 + 1), Gelu=4 + 4 + 2
    ),
    transformer("keras-vit", 12, attention=12, variants=KERAS, **encoder_norms(12)),
    transformer("bert", 12, attention=12, variants=VARIANTS + EAGER, **encoder_norms(12)),
    # The same at its published widths, to be timed.
    transformer("bert-base", 12, attention=12, variants=(DYNAMO,), **encoder_norms(12)),
    transformer("roberta", 12, attention=12, **encoder_norms(12)),
    transformer("distilbert", 6, attention=6, **encoder_norms(6)),
    transformer("electra", 12, attention=12, **encoder_norms(12)),
    # The norm of the relative embeddings is of constants.
    replace(transformer("deberta", 12, attention=12, **encoder_norms(12)), padded=False),
    # As many norms as BERT: the one of the end in place of the one of the embeddings.
    transformer("gpt2", 12, attention=12, variants=VARIANTS + EAGER, **encoder_norms(12)),
    transformer("gpt2-kv", 12, attention=12, **encoder_norms(12)),
    transformer("gpt-neox", 12, attention=12, RotaryEmbedding=2 * 12, **encoder_norms(12)),
    # Attention and MLP share one norm. GPT-J and Cohere rotate neighbours, not halves; torch's TorchScript export of the
    # latter does not run.
    transformer("gpt-j", 28, attention=28, RotaryEmbedding=2 * 28, LayerNormalization=28 + 1, Gelu=28),
    transformer("cohere", 40, attention=40, variants=(DYNAMO,), RotaryEmbedding=2 * 40, LayerNormalization=40 + 1, QuickGelu=40),
    # Older habits: heads joined with the batch (torch.bmm), slopes in place of positions, tables of what is causal, local
    # windows, one head of keys for all, a scale after the mask, and two things added to the scores.
    transformer("bloom", 24, attention=24, LayerNormalization=2 * 24 + 2, Gelu=24),
    transformer("codegen", 20, attention=20, RotaryEmbedding=2 * 20, LayerNormalization=20 + 1, Gelu=20),
    transformer("gpt-neo", 12, attention=12, LayerNormalization=2 * 12 + 1, Gelu=12),
    # torch refuses to export it for opset 23.
    transformer(
        "falcon", 32, attention=32, variants=(TORCHSCRIPT, DYNAMO), RotaryEmbedding=2 * 32, LayerNormalization=32 + 1, Gelu=32
    ),
    transformer("mpnet", 12, attention=12, **encoder_norms(12)),
    # The first layer has no norm before its attention; padding in a window of padding sees no token.
    replace(
        transformer("modernbert", 22, attention=22, RotaryEmbedding=2 * 22, LayerNormalization=(22 - 1) + 22 + 2, Gelu=22),
        padded=False,
    ),
    transformer("phi", 24, attention=24, RotaryEmbedding=2 * 24, LayerNormalization=24 + 1, Gelu=24),
    decoder("llama", 16, variants=VARIANTS + EAGER),
    decoder("llama-kv", 16),
    decoder("mistral", 32),
    decoder("qwen2", 24),
    decoder("qwen2-kv", 24),
    # Norms of queries and keys besides.
    decoder("qwen3", 28, norms=4 * 28 + 1),
    # Experts as products of matrices that are picked for each token, which is the form that exports.
    decoder("mixtral", 32, QuickGelu=0, MoE=32),
    decoder("olmoe", 16, norms=4 * 16 + 1, QuickGelu=0, MoE=16),
    decoder("granite-moe", 24, QuickGelu=0, MoE=24),
    # Its attention has a sink for each head, for which the standard's operator has no input.
    decoder("gpt-oss", 24, attention=0, GroupQueryAttention=24, QuickGelu=0, MoE=24),
    # As many layers as Moonlight, which is of its kind. Norms of what queries and of what keys are made of besides; a SiLU in
    # what all tokens share, and in the first layer, which has no experts; routers with a sigmoid.
    decoder("deepseek-v3", 27, norms=4 * 27 + 1, QuickGelu=27, Sigmoid=27 - 1, MoE=27 - 1),
    decoder("gemma", 18, QuickGelu=0, Gelu=18),
    transformer("t5-encoder", 6, attention=6, RMSNormalization=2 * 6 + 1),
    # A decoder's layer attends twice.
    transformer("t5", 6, 6, attention=6 + 2 * 6, RMSNormalization=(2 * 6 + 1) + (3 * 6 + 1)),
    transformer("bart", 6, 6, attention=6 + 2 * 6, LayerNormalization=(2 * 6 + 1) + (3 * 6 + 1), Gelu=6 + 6),
    transformer("vit", 12, attention=12, variants=VARIANTS + EAGER, **encoder_norms(12)),
    # Norms before and after the layers; of the latter, only the pooled output has one, which is not exported.
    transformer("clip-vision", 12, attention=12, LayerNormalization=2 * 12 + 1, QuickGelu=12),
    transformer("clip-text", 12, attention=12, LayerNormalization=2 * 12 + 1, QuickGelu=12),
    transformer("swin", 2, 2, 6, 2, attention=12, LayerNormalization=2 * 12 + stages(2, 2, 6, 2), Gelu=12),
    convolutional("convnext", 3, 3, 9, 3, LayerNormalization=18 + stages(3, 3, 9, 3) - 1, Gelu=18, Conv=18 + 4),
    # Two convolutions, each with a Gelu.
    transformer("whisper-encoder", 6, attention=6, LayerNormalization=2 * 6 + 1, Gelu=6 + 2),
    transformer("whisper-decoder", 6, attention=2 * 6, LayerNormalization=3 * 6 + 1, Gelu=6),
    # Seven convolutions and the one of the positions, each with a Gelu; a norm after each part.
    transformer("wav2vec2", 12, attention=12, LayerNormalization=2 * 12 + 2, Gelu=12 + 7 + 1),
    # Stem, three a block, a shortcut a stage; an activation after all but the shortcuts.
    convolutional("resnet50", 3, 4, 6, 3, Conv=1 + 3 * 16 + 4, Relu=1 + 3 * 16, MaxPool=1),
    # Stem, two in the first block and three in others, two a gate, head; all but last ones and gates activated.
    convolutional(
        "efficientnet", 1, 2, 2, 3, 3, 4, 1, Conv=1 + 2 + 3 * 15 + 2 * 16 + 1, QuickGelu=1 + 1 + 2 * 15 + 16 + 1, Sigmoid=16
    ),
    # Likewise with gates in eight blocks. HardSwish, which has no kernel, is a HardSigmoid and a product: two each in nine
    # blocks, in stem, head and classifier.
    convolutional(
        "mobilenetv3",
        *(1, 2, 3, 4, 2, 3),
        Conv=1 + 2 + 3 * 14 + 2 * 8 + 1,
        HardSwish=0,
        HardSigmoid=(2 * 9 + 3) + 8,
        Relu=1 + 2 * 5 + 8,
    ),
    # From JAX: Flax, and where it says so Equinox. A query of padding sees no token.
    replace(transformer("flax-bert", 12, attention=12, variants=JAX, **encoder_norms(12)), padded=False),
    replace(transformer("flax-gpt2", 12, attention=12, variants=JAX, **encoder_norms(12)), padded=False),
    decoder("flax-llama", 16, variants=JAX),
    transformer("flax-vit", 12, attention=12, variants=JAX, **encoder_norms(12)),
    transformer("flax-dinov3", 12, attention=12, variants=JAX, RotaryEmbedding=2 * 12, **encoder_norms(12)),
    transformer("equinox-dinov3", 12, attention=12, variants=JAX, RotaryEmbedding=2 * 12, **encoder_norms(12)),
    replace(
        convolutional("flax-resnet50", 3, 4, 6, 3, Conv=1 + 3 * 16 + 4, Relu=1 + 3 * 16, MaxPool=1, Sigmoid=0), variants=JAX
    ),
)

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType({architecture.name: architecture for architecture in ALL})
