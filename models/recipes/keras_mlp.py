"""A Dense 784-64-64-10 classifier of clothes, trained in Keras on Fashion-MNIST; its weights are in the repository."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from models import images
from models.recipe import CheckResult, Feed, FromSkeleton, Recipe, SessionFactory, Variant, cpu_session
from models.sources import Npz

WEIGHTS = Npz("keras_mlp.npz")


@dataclass(frozen=True)
class KerasMlp(Recipe):
    """Role `classifier`: pixels float32 [batch, 784] in 0..1 -> probabilities float32 [batch, 10]."""

    def check(self, paths: Mapping[str, Path], open_session: SessionFactory = cpu_session) -> CheckResult:
        """Score: accuracy on 500 test pictures (0 to 1); chance is 0.1, and pictures look alike, so 0.88 is usual."""
        pixels, labels = images.fashion()
        session = open_session(paths["classifier"])
        found = session.run(None, {session.get_inputs()[0].name: pixels})[0]
        score = float((found.argmax(1) == labels).mean())
        return CheckResult(score >= 0.84, score, f"{score:.1%} of {len(labels)} test pictures of clothes named rightly")

    def feeds(self, paths: Mapping[str, Path], open_session: SessionFactory = cpu_session) -> dict[str, list[Feed]]:
        """One picture, and a batch of 32."""
        pixels, _ = images.fashion()
        name = open_session(paths["classifier"]).get_inputs()[0].name
        return {"classifier": [{name: pixels[:1]}, {name: pixels[:32]}]}


RECIPE = KerasMlp(
    name="keras-mlp",
    title="clothes classifier, Dense 784-64-64-10, 55 k parameters",
    licence="weights Apache-2.0 (trained here), data MIT (Fashion-MNIST)",
    source="trained by models/exporters/train_keras.py on Fashion-MNIST",
    shows="accuracy on 500 test pictures",
    packages=(),
    variants=(Variant("keras_op18", {"classifier": FromSkeleton("keras-mlp", WEIGHTS)}),),
)
