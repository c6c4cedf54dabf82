"""Padded tokens are left out, and nothing else."""

from __future__ import annotations

import numpy as np
import onnx
from olc import ir
from olc.evaluation.padding import without_padding


def model(inputs: str, body: str = "y = Identity(x)") -> ir.Model:
    return ir.serde.deserialize_model(onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 18]> g ({inputs}, float[B, S, 4] x) => (float[B, S, 4] y) {{ {body} }}'
    ))


def test_tokens_that_the_mask_takes_out_go() -> None:
    name, keep = without_padding(model("int64[B, S] attention_mask"))
    assert name == "attention_mask"
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    y = np.arange(24.0).reshape(2, 3, 4)
    got = keep({"attention_mask": mask}, {"y": y, "pooled": y[:, 0], "names": ["a"]})
    np.testing.assert_array_equal(got["y"], np.stack([y[0, 0], y[0, 1], y[1, 0]]))
    np.testing.assert_array_equal(got["pooled"], y[:, 0])
    assert got["names"] == ["a"]


def test_a_cache_mask_is_longer_than_the_output() -> None:
    _, keep = without_padding(model("int64[B, T] attention_mask"))
    y = np.ones((2, 3, 4))
    assert keep({"attention_mask": np.array([[0, 1, 1, 1, 1]] * 2)}, {"y": y})["y"] is y


def test_without_a_mask_everything_stays() -> None:
    name, keep = without_padding(model("int64[B, S] input_ids"))
    y = np.ones((2, 3, 4))
    assert name is None
    assert keep({"input_ids": np.zeros((2, 3))}, {"y": y})["y"] is y
