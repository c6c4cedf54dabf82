"""The corpus' architectures in JAX, by jax2onnx: published depths, tiny widths, weights drawn from their names."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import onnx
from flax import nnx
from jax2onnx import to_onnx
from jax2onnx.plugins.examples.eqx import dino as equinox_dino
from jax2onnx.plugins.examples.nnx import dinov3 as flax_dino

from models.corpus import Architecture, Seeded
from models.corpus.weights import draw, key
from models.exporters.pack import Candidates, Origin
from models.exporters.tidy import tidy
from models.recipe import cpu_session

HIDDEN, HEADS, KV_HEADS, INNER, VOCABULARY = 64, 4, 2, 96, 300
LENGTH = 12
"""Tokens of a text where the export is for one length: nnx.make_causal_mask does not export for any other."""
LEAVES = {"scale": "weight", "gamma": "weight", "var": "running_var"}
"""Names that `draw` knows by torch's."""


@dataclass
class Network:
    """A module, its inputs with the names of axes that may vary, and samples of them: the first has the sizes traced with."""

    module: Any
    axes: dict[str, tuple[int | str, ...]]
    sample: Callable[[int, int], dict[str, np.ndarray]]
    keys: list[str]


def named(path: Sequence[Any]) -> str:
    """The name of a parameter, by which it is drawn."""
    parts = [str(getattr(p, "key", getattr(p, "idx", getattr(p, "name", p)))) for p in path]
    return ".".join([*parts[:-1], LEAVES.get(parts[-1], parts[-1])])


def assign(module: nnx.Module) -> list[str]:
    """Give every parameter and running statistic its drawn value; returns their keys."""
    keys = []
    for path, variable in nnx.to_flat_state(nnx.state(module)):
        if isinstance(variable, (nnx.Param, nnx.BatchStat)):
            name, shape = named(path), variable[...].shape
            variable[...] = jnp.asarray(draw(name, shape))
            keys.append(key(name, shape))
    return keys


def assigned(module: equinox.Module) -> tuple[equinox.Module, list[str]]:
    """A module of Equinox with every array of floats drawn, and their keys."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(module)
    keys, drawn = [], []
    for path, leaf in leaves:
        if isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32:
            name = named(path)
            keys.append(key(name, leaf.shape))
            leaf = jnp.asarray(draw(name, leaf.shape))
        drawn.append(leaf)
    return jax.tree_util.tree_unflatten(tree, drawn), keys


def texts(*names: str, length: int | str = "seq") -> dict[str, tuple[int | str, ...]]:
    return dict.fromkeys(names, ("batch", length))


def sample_text(names: Sequence[str], batch: int, length: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    mask = np.ones((batch, length), np.int32)
    mask[1:2, length - length // 4 :] = 0
    kinds = {"attention_mask": mask, "position_ids": np.tile(np.arange(length, dtype=np.int32), (batch, 1)),
             "token_type_ids": np.ones((batch, length), np.int32)}  # fmt: skip
    return {n: kinds.get(n, rng.integers(3, VOCABULARY, (batch, length), np.int32)) for n in names}


def sample_images(name: str, shape: tuple[int, ...], batch: int, _length: int) -> dict[str, np.ndarray]:
    return {name: np.random.default_rng(0).standard_normal((batch, *shape)).astype(np.float32)}


class Mlp(nnx.Module):
    def __init__(self, activation: Callable[[jax.Array], jax.Array], rngs: nnx.Rngs) -> None:
        self.up, self.down = nnx.Linear(HIDDEN, INNER, rngs=rngs), nnx.Linear(INNER, HIDDEN, rngs=rngs)
        self.activation = activation

    def __call__(self, x):
        return self.down(self.activation(self.up(x)))


class Layer(nnx.Module):
    """Attention and MLP with a norm before (`first`) or after each."""

    def __init__(self, activation: Any, first: bool, epsilon: float, rngs: nnx.Rngs) -> None:
        self.attention = nnx.MultiHeadAttention(HEADS, HIDDEN, decode=False, dropout_rate=0.1, deterministic=True, rngs=rngs)
        self.norm1 = nnx.LayerNorm(HIDDEN, epsilon=epsilon, rngs=rngs)
        self.norm2 = nnx.LayerNorm(HIDDEN, epsilon=epsilon, rngs=rngs)
        self.mlp, self.first = Mlp(activation, rngs), first
        self.dropout = nnx.Dropout(0.1, deterministic=True, rngs=rngs)

    def __call__(self, x, mask):
        if self.first:
            x = x + self.dropout(self.attention(self.norm1(x), mask=mask))
            return x + self.dropout(self.mlp(self.norm2(x)))
        x = self.norm1(x + self.dropout(self.attention(x, mask=mask)))
        return self.norm2(x + self.dropout(self.mlp(x)))


exact_gelu = partial(nnx.gelu, approximate=False)


def layers(number: int, activation: Any, first: bool, epsilon: float, rngs: nnx.Rngs) -> nnx.List:
    return nnx.List([Layer(activation, first, epsilon, rngs) for _ in range(number)])


class Bert(nnx.Module):
    def __init__(self, depth: int, rngs: nnx.Rngs) -> None:
        self.words = nnx.Embed(VOCABULARY, HIDDEN, rngs=rngs)
        self.positions = nnx.Embed(64, HIDDEN, rngs=rngs)
        self.kinds = nnx.Embed(2, HIDDEN, rngs=rngs)
        self.norm = nnx.LayerNorm(HIDDEN, epsilon=1e-12, rngs=rngs)
        self.layers = layers(depth, exact_gelu, False, 1e-12, rngs)

    def __call__(self, input_ids, attention_mask, token_type_ids, position_ids):
        x = self.norm(self.words(input_ids) + self.positions(position_ids) + self.kinds(token_type_ids))
        mask = nnx.make_attention_mask(attention_mask > 0, attention_mask > 0, dtype=jnp.bool_)
        for layer in self.layers:
            x = layer(x, mask)
        return x


class Gpt2(nnx.Module):
    def __init__(self, depth: int, rngs: nnx.Rngs) -> None:
        self.words = nnx.Embed(VOCABULARY, HIDDEN, rngs=rngs)
        self.positions = nnx.Embed(64, HIDDEN, rngs=rngs)
        self.norm = nnx.LayerNorm(HIDDEN, epsilon=1e-5, rngs=rngs)
        self.layers = layers(depth, nnx.gelu, True, 1e-5, rngs)

    def __call__(self, input_ids, attention_mask):
        x = self.words(input_ids) + self.positions(jnp.arange(input_ids.shape[1])[None])
        padding = nnx.make_attention_mask(attention_mask > 0, attention_mask > 0, dtype=jnp.bool_)
        mask = nnx.combine_masks(nnx.make_causal_mask(input_ids, dtype=jnp.bool_), padding, dtype=jnp.bool_)
        for layer in self.layers:
            x = layer(x, mask)
        return self.words.attend(self.norm(x))


def rotated(x: jax.Array, positions: jax.Array) -> jax.Array:
    """Halves of each head turned by an angle for each pair."""
    size = x.shape[-1]
    inverse = 1.0 / (10000.0 ** (jnp.arange(0, size, 2, dtype=jnp.float32) / size))
    angles = positions[..., None].astype(jnp.float32) * inverse
    cos, sin = jnp.cos(angles)[:, :, None, :], jnp.sin(angles)[:, :, None, :]
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


class LlamaLayer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        linear = partial(nnx.Linear, use_bias=False, rngs=rngs)
        size = HIDDEN // HEADS
        self.q, self.k, self.v = linear(HIDDEN, HIDDEN), linear(HIDDEN, KV_HEADS * size), linear(HIDDEN, KV_HEADS * size)
        self.o = linear(HIDDEN, HIDDEN)
        self.gate, self.up, self.down = linear(HIDDEN, INNER), linear(HIDDEN, INNER), linear(INNER, HIDDEN)
        self.norm1, self.norm2 = nnx.RMSNorm(HIDDEN, rngs=rngs), nnx.RMSNorm(HIDDEN, rngs=rngs)

    def __call__(self, x, mask, positions):
        batch, length, _ = x.shape
        h, size = self.norm1(x), HIDDEN // HEADS
        q = rotated(self.q(h).reshape(batch, length, HEADS, size), positions)
        k = rotated(self.k(h).reshape(batch, length, KV_HEADS, size), positions)
        v = self.v(h).reshape(batch, length, KV_HEADS, size)
        k, v = (jnp.repeat(t, HEADS // KV_HEADS, axis=2) for t in (k, v))
        x = x + self.o(jax.nn.dot_product_attention(q, k, v, mask=mask).reshape(batch, length, HIDDEN))
        h = self.norm2(x)
        return x + self.down(nnx.silu(self.gate(h)) * self.up(h))


class Llama(nnx.Module):
    def __init__(self, depth: int, rngs: nnx.Rngs) -> None:
        self.words, self.norm = nnx.Embed(VOCABULARY, HIDDEN, rngs=rngs), nnx.RMSNorm(HIDDEN, rngs=rngs)
        self.layers = nnx.List([LlamaLayer(rngs) for _ in range(depth)])
        self.head = nnx.Linear(HIDDEN, VOCABULARY, use_bias=False, rngs=rngs)

    def __call__(self, input_ids, attention_mask, position_ids):
        x = self.words(input_ids)
        seen = position_ids[:, None, :, None] >= position_ids[:, None, None, :]
        mask = seen & (attention_mask > 0)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, mask, position_ids)
        return self.head(self.norm(x))


class Vit(nnx.Module):
    def __init__(self, depth: int, rngs: nnx.Rngs) -> None:
        self.patches = nnx.Conv(3, HIDDEN, (4, 4), strides=(4, 4), padding="VALID", rngs=rngs)
        self.cls, self.positions = nnx.Param(jnp.zeros((1, 1, HIDDEN))), nnx.Param(jnp.zeros((1, 17, HIDDEN)))
        self.layers = layers(depth, exact_gelu, True, 1e-6, rngs)
        self.norm = nnx.LayerNorm(HIDDEN, rngs=rngs)

    def __call__(self, pixels):
        batch = pixels.shape[0]
        x = self.patches(pixels).reshape(batch, 16, HIDDEN)
        x = jnp.concatenate([jnp.broadcast_to(self.cls[...], (batch, 1, HIDDEN)), x], axis=1) + self.positions[...]
        for layer in self.layers:
            x = layer(x, None)
        return self.norm(x)


class Block(nnx.Module):
    """A bottleneck of ResNet-50, channels last as Flax has them."""

    def __init__(self, given: int, made: int, stride: int, rngs: nnx.Rngs) -> None:
        conv = partial(nnx.Conv, padding="SAME", use_bias=False, rngs=rngs)
        norm = partial(nnx.BatchNorm, use_running_average=True, rngs=rngs)
        inner = made // 4
        self.conv1, self.norm1 = conv(given, inner, (1, 1)), norm(inner)
        self.conv2, self.norm2 = conv(inner, inner, (3, 3), strides=(stride, stride)), norm(inner)
        self.conv3, self.norm3 = conv(inner, made, (1, 1)), norm(made)
        self.shortcut = (
            nnx.Sequential(conv(given, made, (1, 1), strides=(stride, stride)), norm(made)) if given != made else None
        )

    def __call__(self, x):
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = nnx.relu(self.norm2(self.conv2(y)))
        return nnx.relu(self.norm3(self.conv3(y)) + (x if self.shortcut is None else self.shortcut(x)))


class Resnet(nnx.Module):
    def __init__(self, depths: Sequence[int], rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(3, 8, (7, 7), strides=(2, 2), padding="SAME", use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
        blocks, width = [], 8
        for stage, depth in enumerate(depths):
            for at in range(depth):
                blocks.append(Block(width, 16 << stage, 2 if stage and not at else 1, rngs))
                width = 16 << stage
        self.blocks, self.head = nnx.List(blocks), nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, pixels):
        x = nnx.max_pool(nnx.relu(self.norm(self.stem(pixels))), window_shape=(3, 3), strides=(2, 2), padding="SAME")
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(x, axis=(1, 2)))


def of_text(module: nnx.Module, *names: str, length: int | str = "seq") -> Network:
    return Network(module, texts(*names, length=length), partial(sample_text, names), assign(module))


def of_images(module: Any, keys: list[str], *shape: int) -> Network:
    return Network(module, {"pixels": ("batch", *shape)}, partial(sample_images, "pixels", shape), keys)


def flax_bert(depths: Sequence[int]) -> Network:
    names = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
    return of_text(Bert(depths[0], nnx.Rngs(0)), *names)


def flax_gpt2(depths: Sequence[int]) -> Network:
    return of_text(Gpt2(depths[0], nnx.Rngs(0)), "input_ids", "attention_mask", length=LENGTH)


def flax_llama(depths: Sequence[int]) -> Network:
    return of_text(Llama(depths[0], nnx.Rngs(0)), "input_ids", "attention_mask", "position_ids")


def flax_vit(depths: Sequence[int]) -> Network:
    module = Vit(depths[0], nnx.Rngs(0))
    return of_images(module, assign(module), 16, 16, 3)


def flax_resnet50(depths: Sequence[int]) -> Network:
    module = Resnet(depths, nnx.Rngs(0))
    return of_images(module, assign(module), 64, 64, 3)


DINO = {"img_size": 16, "patch_size": 4, "embed_dim": HIDDEN, "num_heads": HEADS}


def flax_dinov3(depths: Sequence[int]) -> Network:
    module = flax_dino.VisionTransformer(**DINO, depth=depths[0], rngs=nnx.Rngs(0))
    return of_images(module, assign(module), 3, 16, 16)


def equinox_dinov3(depths: Sequence[int]) -> Network:
    module, keys = assigned(equinox_dino.VisionTransformer(**DINO, depth=depths[0], key=jax.random.PRNGKey(0)))
    return of_images(module, keys, 3, 16, 16)


def candidates(source: Mapping[str, np.ndarray]) -> Iterator[Origin]:
    """Weights as they are, matrices transposed, and kernels of convolutions with their outputs first."""
    for name, array in source.items():
        yield {"from": [name], "steps": []}
        if array.ndim == 2:
            yield {"from": [name], "steps": [["transpose", [1, 0]]]}
        if array.ndim == 4:
            yield {"from": [name], "steps": [["transpose", [3, 2, 0, 1]]]}


@dataclass
class JaxExport:
    """One file made by jax2onnx."""

    stem: str
    opset: int
    network: Network
    source: Seeded
    candidates: Candidates = candidates
    tolerance: float = 1e-4
    sizes: Sequence[tuple[int, int]] = field(default=((2, LENGTH), (1, LENGTH), (3, 9)))

    def run(self) -> onnx.ModelProto:
        """Export, tidy, compare with JAX; the model has all its weights inside."""
        axes = self.network.axes
        dynamic = {n for shape in axes.values() for n in shape if isinstance(n, str)}
        symbols = dict(zip(sorted(dynamic), jax.export.symbolic_shape(", ".join(sorted(dynamic))), strict=True))
        dtypes = {name: array.dtype for name, array in self.network.sample(1, LENGTH).items()}
        inputs = [jax.ShapeDtypeStruct([symbols.get(n, n) for n in shape], dtypes[name]) for name, shape in axes.items()]
        exported = to_onnx(
            self.network.module, inputs, model_name=self.stem, opset=self.opset, input_names=list(axes), output_names=["output"]
        )
        # Where the exporter moves values from NHWC to NCHW their declared shapes stay behind; ONNX Runtime refuses these.
        del exported.graph.value_info[:]
        exported = tidy(exported)
        with tempfile.TemporaryDirectory() as work:
            path = Path(work) / f"{self.stem}.onnx"
            path.write_bytes(exported.SerializeToString())
            session = cpu_session(path)
        for batch, length in self.sizes:
            if length != LENGTH and "seq" not in dynamic:
                continue
            sample = self.network.sample(batch, length)
            wanted = np.asarray(self.network.module(*map(jnp.asarray, sample.values())))
            error = float(np.abs(session.run(None, sample)[0] - wanted).max())
            if not error <= self.tolerance:
                raise SystemExit(f"{self.stem}: ONNX Runtime differs from JAX by {error:.2e} on a batch of {batch}")
            print(f"    {self.stem}: |ort - jax| <= {error:.1e} on a batch of {batch}", flush=True)
        return exported


def exports(architecture: Architecture) -> Iterator[JaxExport]:
    """Every file of an architecture."""
    for variant, stem in zip(architecture.variants, architecture.stems, strict=True):
        network: Network = globals()[architecture.name.replace("-", "_")](architecture.depths)
        yield JaxExport(stem, int(variant.rsplit("op", 1)[1]), network, Seeded(network.keys))
