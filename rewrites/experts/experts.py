"""Mixtures of experts whose weights are picked token by token."""

import numpy as np
from olc.assumptions import DISTINCT, UNCLIPPED
from olc.rules import CLOSE, EXACT, Attrs, Case, Const, Many, Refused, array, attr, dims, elements, f32, i64, rule

LAST, MIDDLE, LAST_OF_TWO = ((2,), (-1,)), ((1,), (-2,)), ((1,), (-1,))
OFF = -1e4
"""Of this the exponential is 0, so that all of a softmax goes to the expert whose number is 0."""
SUMMED = CLOSE("the same function, summed in another order")


def _gate(op, x, alpha):
    """SiLU, or its like with another slope, as it is written out or as ONNX Runtime's operator for it."""
    return op.either(op.domain("com.microsoft").QuickGelu(x, alpha=alpha), op.Mul(x, op.Sigmoid(x)))


def _huge(w):
    """Could products with these overflow, or by being summed in another order no longer do so?"""
    a = array(w)  # compared without a copy, for experts are most of a model
    return not (a.min(initial=0) > -1e18 and a.max(initial=0) < 1e18)


def _up(op, row, which, up, bias, last):
    inner = op.Squeeze(op.MatMul(op.Gather(up, which, axis=0), row), last)
    return op.either(op.Add(inner, op.Gather(bias, which, axis=0)), inner)


def _down(op, gated, which, down, last):
    return op.Squeeze(op.MatMul(op.Gather(down, which, axis=0), op.Unsqueeze(gated, last)), last)


def _unfit(m):
    """Why these are not experts of two matrices, or None."""
    row, asked = dims(m.row), dims(m.which)
    up, down, bias = array(m.up).shape, array(m.down).shape, None if m.bias is None else array(m.bias).shape
    if row is None or asked is None or len(row) != 3 or asked != row[:1]:
        return "it is not known that each row has an expert"
    if len(up) != 3 or len(down) != 3 or row[1:] != (up[2], 1) or up[1] % 2 or (up[0], up[1] // 2) != (down[0], down[2]):
        return "the matrices are not those of gated experts"
    if bias not in (None, up[:2]):
        return "what is added is not a bias of each expert"
    if down[1] != up[2]:
        return f"experts give {down[1]} channels and read {up[2]}"
    if elements(m.last) not in LAST:
        return "the products are not of a row each"
    return None


def _experts(op, m, up, bias, alpha, **more):
    """One expert for each row, which all of a softmax goes to."""
    number, _, width = up.shape
    router = op.OneHot(m.which, np.int64(number), np.array([OFF, 0], np.float32), axis=-1)
    return op.domain("com.microsoft").MoE(
        op.Reshape(m.row, np.array([-1, width])), router, up, bias, m.down, k=1, activation_type="swiglu", swiglu_fusion=1,
        activation_alpha=1.0 if alpha is None else alpha, normalize_routing_weights=1, **more,
    )  # fmt: skip


def _in_turn(a):
    """Rows [experts, 2 * inner, ...] of gates and then of what they gate: one of these and one of those in turn."""
    return np.ascontiguousarray(a.reshape(len(a), 2, a.shape[1] // 2, *a.shape[2:]).swapaxes(1, 2)).reshape(a.shape)


def _asks(m):
    """Does each row of a MoE ask for the one expert of its number?"""
    one = attr(m.find("MoE"), "k", 1) == 1 and attr(m.find("OneHot"), "axis", -1) in (-1, 1)
    return one and array(m.values).tolist() == [OFF, 0]


@rule(group="experts", safety=SUMMED, since=18, targets=("onnxruntime-cpu",))
class PickedColumns:
    """Rows times matrices that were picked, one for each, are these matrices turned times columns.

    Sound because (x W)' = W' x'. So the matrices of experts are of one form, whichever way a model holds them.
    """

    def pattern(op, row: f32, which: i64["rows"], w: Const[f32["experts", "inner", "outer"]], axis: Const):
        return op.Squeeze(op.MatMul(row, op.Gather(w, which, axis=0)), axis)

    def unless(m):
        row, asked = dims(m.row), dims(m.which)
        if row is None or asked is None or row != (asked[0], 1, array(m.w).shape[1]):
            return "it is not known that each row has a matrix"
        if elements(m.axis) not in MIDDLE:
            return "what goes is not the rows' axis"
        if _huge(m.w):
            return "the weights hold numbers that are not finite, or near that"
        return None

    def rewrite(op, m):
        turned = np.ascontiguousarray(array(m.w).swapaxes(1, 2))
        column = op.Reshape(m.row, np.array([-1, turned.shape[2], 1]))
        return op.Squeeze(op.MatMul(op.Gather(turned, m.which, axis=0), column), np.array([2]))

    cases = [
        Case("GPT-OSS", row=f32["rows", 1, 8], which=i64["rows"], w=f32[4, 8, 12], axis=np.array([1])),
        Refused("of one row", row=f32["rows", 2, 8], which=i64["rows"], w=f32[1, 8, 1], axis=np.array([2]),
                because="not known that each row has a matrix"),
        Refused("infinite", row=f32["rows", 1, 8], which=i64["rows"], w=np.full((4, 8, 12), np.inf, np.float32),
                axis=np.array([1]), because="not finite, or near that"),
    ]  # fmt: skip


HALVES = {"last": np.array([2]), "parts": np.array([6, 6]), "alpha": 1.0}


@rule(group="experts", safety=SUMMED, since=18, targets=("onnxruntime-cpu",), emits="com.microsoft::MoE")
class Experts:
    """Gated experts whose matrices are picked for each row are ONNX Runtime's MoE, with one expert for each row.

    Sound because that is its definition: all of the softmax is the one expert's, as each of the others has an exponential
    of 0. It reads each matrix once for all rows that want it; picking copies it for each of them. Its first matrix holds
    rows of gates and of what they gate in turn.
    """

    def pattern(op, row: f32, which: i64, up: Const[f32], bias: Const | None, down: Const[f32], last: Const, parts: Const,
                alpha):  # fmt: skip
        gate, passed = op.Split(_up(op, row, which, up, bias, last), parts, axis=1, outputs=2)
        return _down(op, op.Mul(_gate(op, op.shared(gate), alpha), passed), which, down, last)

    def unless(m):
        reason = _unfit(m)
        if reason is None and elements(m.parts) != (array(m.down).shape[2],) * 2:
            return "gates and what they gate are not halves"
        return reason

    def rewrite(op, m):
        bias = None if m.bias is None else _in_turn(array(m.bias))
        return _experts(op, m, _in_turn(array(m.up)), bias, m.alpha, activation_beta=0.0)

    cases = [
        Case("Mixtral", row=f32["N", 8, 1], which=i64["N"], up=f32[4, 12, 8], bias=f32[4, 12], down=f32[4, 8, 6], **HALVES),
        Refused("to other channels", row=f32["N", 8, 1], which=i64["N"], up=f32[4, 12, 8], bias=f32[4, 12], down=f32[4, 5, 6],
                **HALVES, because="give 5 channels and read 8"),
        Refused("one expert for all rows", row=f32[3, 8, 1], which=i64[1], up=f32[4, 12, 8], bias=f32[4, 12], down=f32[4, 8, 6],
                **HALVES, because="not known that each row has an expert"),
    ]  # fmt: skip


TURNS = {"last": np.array([2]), "even": np.array([0]), "odd": np.array([1]), "ends": np.array([12]), "axis": np.array([1]),
         "step": np.array([2]), "low": np.float32(-7), "limit": np.float32(7), "beta": np.float32(1), "alpha": 1.702}  # fmt: skip


@rule(group="experts", safety=SUMMED, since=18, targets=("onnxruntime-cpu",), emits="com.microsoft::MoE")
class ClippedExperts:
    """Experts whose gates and what they gate are clipped and stand in turn are ONNX Runtime's MoE, one expert for each row.

    Sound because that is its definition, of gates up to a limit, and what they gate between its negative and itself. That
    nothing infinite is clipped is assumed.
    """

    def pattern(op, row: f32, which: i64, up: Const[f32], bias: Const | None, down: Const[f32], last: Const, even: Const,
                odd: Const, ends: Const, axis: Const, step: Const, low: Const, limit: Const, beta: Const, alpha):  # fmt: skip
        inner = _up(op, row, which, up, bias, last)
        gate, passed = op.Clip(op.Slice(inner, even, ends, axis, step), None, limit), op.Slice(inner, odd, ends, axis, step)
        gated = op.Mul(_gate(op, op.shared(gate), alpha), op.Add(op.Clip(passed, low, limit), beta))
        return _down(op, gated, which, down, last)

    def unless(m):
        reason = _unfit(m)
        if reason is not None:
            return reason
        if (elements(m.even), elements(m.odd), elements(m.step)) != ((0,), (1,), (2,)) or elements(m.axis) not in ((1,), (-1,)):
            return "gates and what they gate do not stand in turn"
        if elements(m.ends)[0] < array(m.up).shape[1] or array(m.beta).size != 1:
            return "not all of them are used alike"
        low, limit = (float(array(v).reshape(-1)[0]) for v in (m.low, m.limit))
        if not 0 <= limit == -low:
            return "the limits are not a number and its negative"
        if any(_huge(w) for w in (m.up, m.bias, m.down) if w is not None):
            return "the weights hold numbers that are not finite, or near that"
        m.assumes.add(UNCLIPPED)
        return None

    def rewrite(op, m):
        limit, beta = (float(array(v).reshape(-1)[0]) for v in (m.limit, m.beta))
        return _experts(op, m, array(m.up), m.bias, m.alpha, activation_beta=beta, swiglu_limit=limit)

    cases = [
        Case("GPT-OSS", row=f32["N", 8, 1], which=i64["N"], up=f32[4, 12, 8], bias=f32[4, 12], down=f32[4, 8, 6], **TURNS),
        Refused("other limits", row=f32["N", 8, 1], which=i64["N"], up=f32[4, 12, 8], bias=f32[4, 12], down=f32[4, 8, 6],
                **{**TURNS, "low": np.float32(-5)}, because="limits are not a number and its negative"),
        Refused("limits that leave nothing", row=f32["N", 8, 1], which=i64["N"], up=f32[4, 12, 8], bias=f32[4, 12],
                down=f32[4, 8, 6], **{**TURNS, "low": np.float32(7), "limit": np.float32(-7)},
                because="limits are not a number and its negative"),
        Refused("only some", row=f32["N", 8, 1], which=i64["N"], up=f32[4, 12, 8], bias=f32[4, 12], down=f32[4, 8, 5],
                **{**TURNS, "ends": np.array([10])}, because="not those of gated experts"),
        Refused("infinite", row=f32["N", 8, 1], which=i64["N"], up=np.full((4, 12, 8), np.inf, np.float32), bias=f32[4, 12],
                down=f32[4, 8, 6], **TURNS, because="not finite, or near that"),
        Refused("the other way", row=f32["N", 8, 1], which=i64["N"], up=f32[4, 12, 8], bias=f32[4, 12], down=f32[4, 8, 6],
                **{**TURNS, "even": np.array([1]), "odd": np.array([0])}, because="do not stand in turn"),
    ]  # fmt: skip


GATED = {"activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.0, "activation_beta": 0.0}
WEIGHTS = [f32[4, 12, 8], None, f32[4, 8, 6]]
ASKED = {"depth": np.int64(4), "values": np.array([OFF, 0], np.float32), "axis": {}}


@rule(group="experts", safety=SUMMED, since=18, targets=("onnxruntime-cpu",))
class BiasOfExperts:
    """What is picked for each row's expert and added to what it gives is its bias.

    Sound because a row has one expert, whose output counts whole.
    """

    def pattern(op, row: f32, which: i64, depth: Const, values: Const, up, up_bias, down: Const[f32], bias: Const[f32],
                attrs: Attrs, axis: Attrs):  # fmt: skip
        router = op.OneHot(which, depth, values, **axis)
        return op.Add(op.domain("com.microsoft").MoE(row, router, up, up_bias, down, **attrs), op.Gather(bias, which, axis=0))

    def unless(m):
        if not _asks(m):
            return "a row asks for more than one expert"
        if array(m.bias).shape != array(m.down).shape[:2]:
            return "what is added is not a bias of each expert"
        return None

    def rewrite(op, m):
        router = op.OneHot(m.which, m.depth, m.values, **m.axis)
        return op.domain("com.microsoft").MoE(m.row, router, m.up, m.up_bias, m.down, m.bias, **m.attrs)

    cases = [
        Case("GPT-OSS", row=f32["N", 8], which=i64["N"], **ASKED, up=f32[4, 12, 8], up_bias=f32[4, 12], down=f32[4, 8, 6],
             bias=f32[4, 8], attrs={"k": 1, **GATED}),
        Refused("two experts", row=f32["N", 8], which=i64["N"], **{**ASKED, "values": np.array([0, 0], np.float32)},
                up=f32[4, 12, 8], up_bias=f32[4, 12], down=f32[4, 8, 6], bias=f32[4, 8], attrs={"k": 2, **GATED},
                because="more than one expert"),
    ]  # fmt: skip


SHAPES = {"one_each": np.array([-1, 1, 8]), "times": np.array([1, 2, 1]), "columns": np.array([-1, 8]), "flat": np.array([-1]),
          "by_row": np.array([-1, 1]), "by_token": np.array([-1, 2, 8]), "summed": np.array([1]), "between": np.array([1]),
          "attrs": {}, "k": np.array([2]), "gates": {"k": 1, **GATED}, "others": WEIGHTS, **ASKED}  # fmt: skip


def _tokens(op, x, which, share, depth, values, others, one_each, times, columns, between, by_row, by_token, summed, gates, axis):
    """Each token's rows, one for an expert, weighed and summed."""
    rows = op.Reshape(op.Expand(op.either(op.Reshape(x, one_each), op.Unsqueeze(x, between)), times), columns)
    each = op.domain("com.microsoft").MoE(rows, op.OneHot(op.shared(which), depth, values, **axis), *others, **gates)
    return op.ReduceSum(op.Reshape(op.Mul(each, op.Reshape(share, by_row)), by_token), summed, keepdims=0)


def _scattered(m):
    """Why these rows are not each token's best experts in turn, or None; sets ``m.count``, how many a token has."""
    x, experts, out = dims(m.x), dims(m.logits), dims(m.root.outputs[0])
    if x is None or experts is None or out is None or len(experts) != 2 or out[0] != experts[0]:
        return "the tokens are not known to be those of the router"
    if not _asks(m) or elements(m.depth) != experts[1:]:
        return "a row asks for more than one expert"
    k, width = int(array(m.k).reshape(-1)[0]), x[-1]
    before = (len(x) == 2 and elements(m.between) in MIDDLE) if m.one_each is None else elements(m.one_each) == (-1, 1, width)
    if not before or elements(m.times) != (1, k, 1) or elements(m.columns) != (-1, width) or elements(m.flat) != (-1,):
        return "each token is not known to be repeated for its experts in turn"
    if elements(m.by_row) != (-1, 1) or elements(m.by_token) != (-1, k, out[-1]) or elements(m.summed) not in MIDDLE:
        return "what is summed is not known to be the experts of a token"
    if attr(m.find("TopK"), "axis", -1) not in (-1, 1) or not attr(m.find("TopK"), "largest", 1):
        return "the experts picked are not the best"
    m.count = k
    m.assumes.add(DISTINCT)
    return None


def _mixture(op, m, normalized):
    gates = {**m.gates, "k": m.count, "normalize_routing_weights": int(normalized)}
    return op.domain("com.microsoft").MoE(op.Reshape(m.x, np.array([-1, dims(m.x)[-1]])), m.logits, *m.others, **gates)


@rule(group="experts", safety=SUMMED, since=18, targets=("onnxruntime-cpu",))
class ExpertsOfTokens:
    """The probabilities of each token's best experts, each asked for by a row, are the shares of one MoE of the tokens.

    Sound because that is its definition: a softmax over the experts, the best few of each token, their outputs weighed by
    these probabilities, or by their shares of the sum. Of experts that are equally probable another may be picked, which
    is assumed not to happen.
    """

    def pattern(op, x: f32, logits: f32, depth: Const, values: Const, k: Const, one_each: Const, times: Const, columns: Const,
                flat: Const, total: Const, by_row: Const, by_token: Const, summed: Const, between: Const, others: Many,
                attrs: Attrs, gates: Attrs, axis: Attrs):  # fmt: skip
        best, picked = op.TopK(op.Softmax(logits, axis=-1), k, outputs=2, **attrs)
        best = op.shared(best)
        share = op.either(op.Div(best, op.ReduceSum(best, total, keepdims=1)), best)
        return _tokens(op, x, op.Reshape(picked, flat), share, depth, values, others, one_each, times, columns, between, by_row,
                       by_token, summed, gates, axis)  # fmt: skip

    def unless(m):
        reason = _scattered(m)
        if reason is None and m.total is not None and elements(m.total) not in LAST_OF_TWO:
            return "the shares are not of the sum over a token's experts"
        return reason

    def rewrite(op, m):
        return _mixture(op, m, m.total is not None)

    cases = [
        Case("Mixtral", x=f32["N", 8], logits=f32["N", 4], total=np.array([-1]), **SHAPES),
        Case("of texts", x=f32[2, 3, 8], logits=f32[6, 4], total=np.array([-1]), **SHAPES),
        Refused("the worst experts", x=f32["N", 8], logits=f32["N", 4], total=np.array([-1]),
                **{**SHAPES, "attrs": {"largest": 0}}, because="not the best"),
        Refused("summed over channels", x=f32["N", 8], logits=f32["N", 4], total=np.array([-1]),
                **{**SHAPES, "summed": np.array([2])}, because="not known to be the experts of a token"),
    ]  # fmt: skip


@rule(group="experts", safety=SUMMED, since=18, targets=("onnxruntime-cpu",))
class ExpertsOfBest:
    """A softmax over what a router says of each token's best experts makes the shares of one MoE of the tokens.

    Sound because a softmax over a few is their shares of the sum in the softmax over all. Of experts that are equally
    probable another may be picked, which is assumed not to happen.
    """

    def pattern(op, x: f32, logits: f32, depth: Const, values: Const, k: Const, one_each: Const, times: Const, columns: Const,
                flat: Const, by_row: Const, by_token: Const, summed: Const, between: Const, others: Many, last, attrs: Attrs,
                gates: Attrs, axis: Attrs):  # fmt: skip
        best, picked = op.TopK(logits, k, outputs=2, **attrs)
        return _tokens(op, x, op.Reshape(picked, flat), op.Softmax(best, axis=last), depth, values, others, one_each, times,
                       columns, between, by_row, by_token, summed, gates, axis)  # fmt: skip

    def unless(m):
        reason = _scattered(m)
        if reason is None and m.last not in (-1, 1):
            return "the shares are not of the sum over a token's experts"
        return reason

    def rewrite(op, m):
        return _mixture(op, m, True)

    cases = [
        Case("GPT-OSS", x=f32["N", 8], logits=f32["N", 4], last=1, **SHAPES),
        Refused("over tokens", x=f32["N", 8], logits=f32["N", 4], last=0, **SHAPES, because="not of the sum"),
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
