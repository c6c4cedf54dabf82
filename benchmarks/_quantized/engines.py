"""How each runtime runs its file. An engine is made of the file, the threads and its options; then, for each run,

    ready(sample)   all that comes before, untimed
    run()           what is timed
    outputs()       name -> array of the last run

Two kinds. ``arrays``: a sample is the model's inputs. ``text``: it is ``tokens`` [1, n] and ``context``, of which the first
``context`` tokens are in the cache when a run begins, and the others are what it appends; outputs are the last token's logits.
Every engine comes back to the context before each run, so that all have the same number of tokens in their caches.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Sample = dict[str, np.ndarray]
#: Tokens that the cache of a decoder that cannot go back may grow beyond the context.
ROOM = 16


def feeds(tokens: np.ndarray, length: int) -> Sample:
    """Inputs of a decoder but its cache, for the last of ``length`` tokens: tokens [1, new]."""
    places = np.arange(length - tokens.shape[1], length, dtype=np.int64)[None]
    return {"input_ids": tokens, "attention_mask": np.ones((1, length), np.int64), "position_ids": places}


class Engine:
    """The part that all have in common."""

    packages: tuple[str, ...] = ()
    found: Any = None

    def outputs(self) -> Sample:
        return {name: np.asarray(value) for name, value in self.found.items()}


# --- ONNX Runtime and olc ---------------------------------------------------------------------------------------------


def opened(file: Path, threads: int, recommended: bool) -> Any:
    """A session with ONNX Runtime's default options, or with those that olc recommends beside its artifact."""
    from olc.session import SessionOptions, session

    return session(file, threads, options=None if recommended else SessionOptions())


class OrtArrays(Engine):
    packages = ("onnxruntime",)

    def __init__(self, file: Path, threads: int, recommended: bool = False) -> None:
        self.session = opened(file, threads, recommended)
        self.names = [output.name for output in self.session.get_outputs()]

    def ready(self, sample: Sample) -> None:
        self.sample = sample

    def run(self) -> None:
        self.found = self.session.run(self.names, self.sample)

    def outputs(self) -> Sample:
        return dict(zip(self.names, self.found, strict=True))


class Text(Engine, ABC):
    """A decoder that is fed tokens."""

    def __init__(self) -> None:
        self.sample: Sample | None = None

    def ready(self, sample: Sample) -> None:
        self.context = int(sample["context"])
        if sample is not self.sample:
            self.sample, self.tokens = sample, sample["tokens"]
            self.begin()
            if self.context:
                self.append(self.tokens[:, : self.context], self.context)
            self.keep()
        else:
            self.back()

    def run(self) -> None:
        self.found = self.append(self.tokens[:, self.context :], self.tokens.shape[1])

    def outputs(self) -> Sample:
        return {"logits": np.asarray(self.found, np.float32).reshape(-1, self.found.shape[-1])[-1:]}

    @abstractmethod
    def begin(self) -> None:
        """Back to an empty cache."""

    def keep(self) -> None:
        """Called once the context is in the cache."""

    @abstractmethod
    def back(self) -> None:
        """Back to the context."""

    @abstractmethod
    def append(self, tokens: np.ndarray, length: int) -> Any:
        """Run on new tokens [1, new], which make the cache that long; the logits."""


class OrtText(Text):
    """Caches go out to numpy and come back."""

    packages = ("onnxruntime",)

    def __init__(self, file: Path, threads: int, recommended: bool = False) -> None:
        super().__init__()
        self.session = opened(file, threads, recommended)
        self.names = [output.name for output in self.session.get_outputs()]
        self.shapes = {v.name: v.shape for v in self.session.get_inputs() if v.name.startswith("past")}

    def begin(self) -> None:
        self.caches = {name: np.zeros((1, shape[1], 0, shape[3]), np.float32) for name, shape in self.shapes.items()}

    def keep(self) -> None:
        self.kept = dict(self.caches)

    def back(self) -> None:
        self.caches = dict(self.kept)

    def append(self, tokens: np.ndarray, length: int) -> np.ndarray:
        found = dict(zip(self.names, self.session.run(self.names, {**feeds(tokens, length), **self.caches}), strict=True))
        self.caches = {name: found[name.replace("past_key_values", "present")] for name in self.caches}
        return found["logits"]


class OlcDecoder(Text):
    """``olc.decoder``. It cannot go back: each run appends to the one before, up to ROOM tokens beyond the context."""

    packages = ("onnxruntime",)

    def __init__(self, file: Path, threads: int, capacity: int) -> None:
        import olc

        super().__init__()
        self.decoder = olc.decoder(file, capacity, threads=threads)

    def begin(self) -> None:
        self.decoder.reset()

    def back(self) -> None:
        if self.context and self.decoder.length < self.context + ROOM:
            return
        self.begin()
        if self.context:
            self.append(self.tokens[:, : self.context], self.context)

    def append(self, tokens: np.ndarray, length: int) -> np.ndarray:
        return self.decoder.step(feeds(tokens, self.decoder.length + tokens.shape[1]))["logits"]


# --- OpenVINO ---------------------------------------------------------------------------------------------------------


def compiled(model: Any, threads: int, precision: str) -> Any:
    import openvino as ov

    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    return ov.Core().compile_model(model, "CPU", {**options, "PERFORMANCE_HINT": "LATENCY"})


class OpenVinoArrays(Engine):
    """Compiled for the sizes of the first sample, which are those of all; inputs and outputs are shared, not copied."""

    packages = ("openvino",)

    def __init__(self, file: Path, threads: int, precision: str = "f32") -> None:
        self.file, self.threads, self.precision = file, threads, precision
        self.request: Any = None

    def ready(self, sample: Sample) -> None:
        import openvino as ov

        if self.request is None:
            model = ov.Core().read_model(self.file)
            model.reshape({name: list(value.shape) for name, value in sample.items()})
            self.request = compiled(model, self.threads, self.precision).create_infer_request()
        self.sample = sample

    def run(self) -> None:
        self.found = self.request.infer(self.sample, share_inputs=True, share_outputs=True)

    def outputs(self) -> Sample:
        return {port.any_name: np.array(value) for port, value in self.found.items()}


class OpenVinoText(Text):
    """Caches are the model's state, as OpenVINO's own pass makes them of inputs and outputs."""

    packages = ("openvino",)

    def __init__(self, file: Path, threads: int, precision: str = "f32") -> None:
        import openvino as ov
        from openvino._offline_transformations import apply_make_stateful_transformation

        super().__init__()
        model = ov.Core().read_model(file)
        model.reshape({port.any_name: [1, *list(port.partial_shape)[1:]] for port in model.inputs})
        pasts = [port.any_name for port in model.inputs if port.any_name.startswith("past")]
        pairs = {name: name.replace("past_key_values", "present") for name in pasts}
        apply_make_stateful_transformation(model, pairs)
        self.request = compiled(model, threads, precision).create_infer_request()

    def begin(self) -> None:
        self.request.reset_state()

    def keep(self) -> None:
        self.kept = [(state, np.array(state.state.data)) for state in self.request.query_state()] if self.context else []

    def back(self) -> None:
        import openvino as ov

        if not self.kept:
            self.request.reset_state()
        for state, value in self.kept:
            state.state = ov.Tensor(value)

    def append(self, tokens: np.ndarray, length: int) -> np.ndarray:
        return self.request.infer(feeds(tokens, length), share_inputs=True, share_outputs=True)["logits"]


# --- language-model runtimes ------------------------------------------------------------------------------------------


class GenAi(Text):
    """onnxruntime-genai; its file is the folder that its model builder makes."""

    packages = ("onnxruntime-genai",)

    def __init__(self, file: Path, threads: int, capacity: int) -> None:
        import onnxruntime_genai as og

        super().__init__()
        config = og.Config(str(file))
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
        self.model = og.Model(config)
        self.capacity = capacity

    def begin(self) -> None:
        import onnxruntime_genai as og

        parameters = og.GeneratorParams(self.model)
        parameters.set_search_options(max_length=self.capacity, batch_size=1, do_sample=False)
        self.generator = og.Generator(self.model, parameters)

    def back(self) -> None:
        self.generator.rewind_to(self.context)

    def append(self, tokens: np.ndarray, length: int) -> np.ndarray:
        self.generator.append_tokens(tokens.astype(np.int32))
        return self.generator.get_output("logits")


class LlamaCpp(Text):
    """llama.cpp; its file is GGUF. A prompt is one batch."""

    packages = ("llama-cpp-python",)

    def __init__(self, file: Path, threads: int, capacity: int) -> None:
        import llama_cpp

        super().__init__()
        self.llama = llama_cpp.Llama(
            str(file), n_ctx=capacity, n_batch=512, n_threads=threads, n_threads_batch=threads, verbose=False
        )

    def begin(self) -> None:
        self.llama.reset()

    def back(self) -> None:
        self.llama.n_tokens = self.context  # ``eval`` drops what is in the cache beyond them

    def append(self, tokens: np.ndarray, length: int) -> np.ndarray:
        self.llama.eval(tokens[0].tolist())
        size = self.llama.n_vocab()
        return np.ctypeslib.as_array(self.llama._ctx.get_logits(), (size,))[None]


ENGINES: dict[tuple[str, str], Callable[..., Any]] = {
    ("onnxruntime", "arrays"): OrtArrays, ("onnxruntime", "text"): OrtText, ("olc.decoder", "text"): OlcDecoder,
    ("openvino", "arrays"): OpenVinoArrays, ("openvino", "text"): OpenVinoText, ("genai", "text"): GenAi,
    ("llama.cpp", "text"): LlamaCpp,
}  # fmt: skip
