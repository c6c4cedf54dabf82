"""Identity, and inference-mode Dropout."""

import numpy as np
from olc.rules import EXACT, Attrs, Case, Refused, Scalar, f32, floats, rule, scalar

from .. import _shapes as s


@rule(group="noops", safety=EXACT, keeps_shape=True)
class DropIdentity:
    """Identity returns its input, so its users may read that. Sound by the operator's definition.

    An Identity that gives a graph output its name stays, because an input or another output cannot carry the name;
    of two in a row one stays.
    """

    def pattern(op, x):
        return op.Identity(op.either(op.shared(op.Identity(x)), x))

    def rewrite(op, m):
        return op.Identity(m.x) if m.root.outputs[0].is_graph_output() and len(m.nodes) == 2 else m.x

    cases = [Case("two in a row", x=f32["N", 4])]


@rule(group="noops", safety=EXACT, keeps_shape=True)
class DropDropout:
    """Dropout outside of training returns its input. Sound by the operator's definition."""

    def pattern(op, x: floats, ratio: Scalar | None, training: Scalar | None, attrs: Attrs):
        return op.Dropout(x, ratio, training, **attrs)

    def unless(m):
        if m.training is not None and scalar(m.training):
            return "it is in training mode"
        if s.others_used(m.root):
            return s.OTHERS

    def rewrite(op, m):
        return m.x

    cases = [
        Case("by default", x=f32["N", 4]),
        Case("as exporters write it", x=f32["N", 4], ratio=np.float32(0.1), training=np.array(False)),
        Case("with the ratio as attribute", x=f32["N", 4], attrs={"ratio": 0.1}, opset=7),
        Refused("training", x=f32["N", 4], ratio=np.float32(0.1), training=np.array(True), because="training mode"),
    ]
