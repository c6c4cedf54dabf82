"""Mixtures of experts whose weights are picked token by token."""

import numpy as np
from olc.assumptions import DISTINCT
from olc.rules import CLOSE, EXACT, Attrs, Case, Const, Many, Refused, array, attr, dims, elements, f32, rule


def _gate(op, x):
    """SiLU, as it is written out or as ONNX Runtime's operator for it."""
    return op.either(op.domain("com.microsoft").QuickGelu(x, alpha=1.0), op.Mul(x, op.Sigmoid(x)))


def _interleaved(a):
    """The rows of gates and of what they gate, one of these and one of those in turn."""
    experts, rows, width = a.shape
    return np.ascontiguousarray(a.reshape(experts, 2, rows // 2, width).swapaxes(1, 2)).reshape(a.shape)


SHAPES = {"one_each": np.array([-1, 1, 8]), "times": np.array([1, 2, 1]), "columns": np.array([-1, 8, 1]),
          "flat": np.array([-1]), "last": np.array([2]), "parts": np.array([6, 6]), "total": np.array([-1]),
          "by_row": np.array([-1, 1]), "by_token": np.array([-1, 2, 8]), "summed": np.array([1]),
          "between": np.array([1]), "attrs": {}}  # fmt: skip


@rule(group="experts", safety=CLOSE("the same function, summed in another order"), since=18, targets=("onnxruntime-cpu",),
      emits="com.microsoft::MoE")  # fmt: skip
class Experts:
    """Gated experts whose matrices are picked for each token, multiplied and weighed are ONNX Runtime's MoE.

    Sound because that is its definition: a softmax over the experts, the best few of each token, their outputs weighed by
    these probabilities, or by their shares of the sum. It reads each matrix once for all tokens that want it; picking
    copies it for each of them. Its first matrix holds rows of gates and of what they gate in turn. Of experts that are
    equally probable another may be picked, which is assumed not to happen.
    """

    def pattern(op, x: f32, logits: f32, up: Const, down: Const, k: Const, one_each: Const, times: Const, columns: Const,
                flat: Const, last: Const, parts: Const, total: Const, by_row: Const, by_token: Const, summed: Const,
                between: Const, attrs: Attrs):  # fmt: skip
        values, picked = op.TopK(op.Softmax(logits, axis=-1), k, outputs=2, **attrs)
        values, which = op.shared(values), op.shared(op.Reshape(picked, flat))
        token = op.Reshape(op.Expand(op.either(op.Reshape(x, one_each), op.Unsqueeze(x, between)), times), columns)
        inner = op.Squeeze(op.MatMul(op.Gather(up, which, axis=0), token), last)
        gate, passed = op.Split(inner, parts, axis=1, outputs=2)
        gated = op.Unsqueeze(op.Mul(_gate(op, op.shared(gate)), passed), last)
        each = op.Squeeze(op.MatMul(op.Gather(down, which, axis=0), gated), last)
        share = op.either(op.Div(values, op.ReduceSum(values, total, keepdims=1)), values)
        return op.ReduceSum(op.Reshape(op.Mul(each, op.Reshape(share, by_row)), by_token), summed, keepdims=0)

    def unless(m):
        x, experts, out = dims(m.x), dims(m.logits), dims(m.root.outputs[0])
        up, down, k = array(m.up).shape, array(m.down).shape, int(array(m.k).reshape(-1)[0])
        if x is None or experts is None or out is None or len(experts) != 2 or out[0] != experts[0]:
            return "the tokens are not known to be those of the router"
        if len(up) != 3 or len(down) != 3 or up[1] % 2 or (up[0], up[2], up[1] // 2) != down or experts[1] != up[0]:
            return "the matrices are not those of gated experts"
        if x[-1] != up[2] or out != (experts[0], up[2]) or elements(m.parts) != (down[2], down[2]):
            return "the sizes do not fit"
        one, each = (-1, 1, up[2]), (-1, k, up[2])
        before = (len(x) == 2 and elements(m.between) in ((1,), (-2,))) if m.one_each is None else elements(m.one_each) == one
        if not before or elements(m.times) != (1, k, 1) or elements(m.columns) != (-1, up[2], 1):
            return "each token is not known to be repeated for its experts in turn"
        if elements(m.by_row) != (-1, 1) or elements(m.by_token) != each or elements(m.summed) not in ((1,), (-2,)):
            return "what is summed is not known to be the experts of a token"
        if elements(m.flat) != (-1,) or elements(m.last) not in ((2,), (-1,)):
            return "the picked matrices are not known to be one for each row"
        if attr(m.find("TopK"), "axis", -1) not in (-1, 1) or not attr(m.find("TopK"), "largest", 1):
            return "the experts picked are not the best"
        if m.total is not None and elements(m.total) not in ((-1,), (1,)):
            return "the shares are not of the sum over a token's experts"
        m.count = k
        m.assumes.add(DISTINCT)
        return None

    def rewrite(op, m):
        width = dims(m.x)[-1]
        return op.domain("com.microsoft").MoE(
            op.Reshape(m.x, np.array([-1, width])), m.logits, _interleaved(array(m.up)), None, m.down, k=m.count,
            activation_type="swiglu", swiglu_fusion=1, activation_alpha=1.0, activation_beta=0.0,
            normalize_routing_weights=int(m.total is not None),
        )  # fmt: skip

    cases = [
        Case("Mixtral", x=f32["N", 8], logits=f32["N", 4], up=f32[4, 12, 8], down=f32[4, 8, 6], k=np.array([2]), **SHAPES),
        Case("of texts", x=f32[2, 3, 8], logits=f32[6, 4], up=f32[4, 12, 8], down=f32[4, 8, 6], k=np.array([2]), **SHAPES),
        Refused("the worst experts", x=f32["N", 8], logits=f32["N", 4], up=f32[4, 12, 8], down=f32[4, 8, 6], k=np.array([2]),
                **{**SHAPES, "attrs": {"largest": 0}}, because="not the best"),
        Refused("summed over channels", x=f32["N", 8], logits=f32["N", 4], up=f32[4, 12, 8], down=f32[4, 8, 6],
                k=np.array([2]), **{**SHAPES, "summed": np.array([2])}, because="sizes do not fit"),
    ]  # fmt: skip


@rule(group="experts", safety=EXACT, since=18, targets=("onnxruntime-cpu",))
class ExpertsOfTexts:
    """MoE of texts whose tokens were put into one row, and back, takes the texts.

    Sound because it treats each token alone, whatever axes number them.
    """

    def pattern(op, x: f32, a: Const, logits: f32, b, others: Many, attrs: Attrs, view: Attrs):
        return op.Reshape(op.domain("com.microsoft").MoE(op.Reshape(x, a), logits, *others, **attrs), b, **view)

    def unless(m):
        d = dims(m.x)
        row = dims(m.find("MoE").inputs[0])
        if d is None or row is None or len(d) != 3 or len(row) != 2 or row[1] != d[2] or d != dims(m.root.outputs[0]):
            return "it is not known to be of texts"
        return None

    def rewrite(op, m):
        return op.domain("com.microsoft").MoE(m.x, m.logits, *m.others, **m.attrs)

    cases = [
        Case("Mixtral", x=f32[2, 3, 8], a=np.array([-1, 8]), logits=f32[6, 4], b=np.array([2, 3, 8]),
             others=[f32[4, 12, 8], None, f32[4, 8, 6]],
             attrs={"k": 2, "activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.0, "activation_beta": 0.0},
             view={"allowzero": 1}),
        Refused("channels regrouped", x=f32[2, 4, 8], a=np.array([-1, 16]), logits=f32[4, 4], b=np.array([2, 4, 8]),
                others=[f32[4, 24, 16], None, f32[4, 16, 12]],
                attrs={"k": 2, "activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.0, "activation_beta": 0.0},
                view={}, because="not known to be of texts"),
        Refused("other texts", x=f32[2, 3, 8], a=np.array([-1, 8]), logits=f32[6, 4], b=np.array([3, 2, 8]),
                others=[f32[4, 12, 8], None, f32[4, 8, 6]],
                attrs={"k": 2, "activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.0, "activation_beta": 0.0},
                view={}, because="not known to be of texts"),
    ]  # fmt: skip
