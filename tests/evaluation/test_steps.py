"""Steps made of prompts: what a loop with caches in numpy feeds for a prompt's last token, and only where the model says so."""

from __future__ import annotations

import numpy as np
import pytest
from olc import storage
from olc.evaluation import steps
from olc.session import run, session

from tests.test_decoding import CORE, HEAD, MASK, Plain, feeds, model


def prompt(length: int, batch: int = 1) -> dict[str, np.ndarray]:
    tokens = np.arange(3, 3 + length * batch).reshape(batch, length) % 32
    past = {f"past_{what}_0": np.zeros((batch, 1, 0, 8), np.float32) for what in ("key", "value")}
    return feeds(tokens, np.ones((batch, length), np.int64)) | past


def made(source: bytes, *given: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    return steps.of_prompts(storage.load_bytes(source), session(source, threads=1), given)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_step_is_what_a_loop_feeds(batch: int) -> None:
    whole = prompt(9, batch)
    loop = Plain(model(), batch)
    loop.step(feeds(whole["input_ids"][:, :-1], whole["attention_mask"][:, :-1]))
    expected = feeds(whole["input_ids"][:, -1:], whole["attention_mask"]) | loop.caches
    (step,) = made(model(), whole)
    assert step.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(step[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_padded_prompt_makes_a_step_where_its_last_token_is_one() -> None:
    whole = prompt(9)
    whole["attention_mask"][0, :3] = 0
    (step,) = made(model(), whole)
    logits = [run(session(model(), threads=1), feed)["logits"][:, -1] for feed in (whole, step)]
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-4)


def test_none_where_the_last_token_comes_out_otherwise() -> None:
    """Here each token is added the mean of the new ones, so that alone it is another."""
    other = CORE.replace("h = Add(x, y)", "mean = ReduceMean(x)\n    z = Add(x, mean)\n    h = Add(z, y)")
    assert made(model(HEAD + MASK + other), prompt(9)) == []


def test_none_where_only_the_last_tokens_are_cached() -> None:
    """Of a window of four, what was before the last token is not all there."""
    window = """
    last = Constant<value_ints = [-4]>()
    end = Constant<value_ints = [1000]>()
    axis = Constant<value_ints = [2]>()
    present_key_0 = Slice(all_keys, last, end, axis)
    present_value_0 = Slice(all_values, last, end, axis)
}
"""
    core = CORE.replace("y, present_key_0, present_value_0", "y, all_keys, all_values").rstrip().removesuffix("}") + window
    assert made(model(HEAD + MASK + core), prompt(9)) == []


def test_none_beside_steps_of_the_user() -> None:
    whole = prompt(9)
    (step,) = made(model(), whole)
    assert made(model(), whole, step) == []
    assert made(model(), prompt(steps.FEW)) == []


def test_none_of_a_model_without_a_cache() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 18]>
    encoder (int64[batch, seq] input_ids) => (float[batch, seq, 16] y) <float[32, 16] table> { y = Gather(table, input_ids) }
    """
    assert made(model(text), {"input_ids": np.arange(9)[None]}) == []
