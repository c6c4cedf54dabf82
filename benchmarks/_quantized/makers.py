"""How each peer makes its quantized file: source, a folder of its own, samples to calibrate on -> what its engine opens.

Each as its documentation has it. What calibrates is what chooses for olc too.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Sample = dict[str, np.ndarray]

# --- olc --------------------------------------------------------------------------------------------------------------


def olc(
    source: Path, folder: Path, choosing: list[Sample], data: str, samples: int, threads: int, cosine: float, shared_cache: bool,
    int8_cache: bool = False,
) -> Path:
    """-O3 on all the data, of which every other sample chooses and the rest judges."""
    import olc
    from olc.strategy.budget import Budget

    olc.compile(
        source, folder / "model.onnx", level=3, data=data, samples=samples, threads=threads, budget=Budget(cosine, 0.0),
        shared_cache=shared_cache, int8_cache=int8_cache,
    )  # fmt: skip
    return folder / "model.onnx"


# --- ONNX Runtime -----------------------------------------------------------------------------------------------------


def ort_dynamic(source: Path, folder: Path, choosing: list[Sample]) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, folder / "model.onnx", weight_type=QuantType.QInt8, per_channel=True)
    return folder / "model.onnx"


def ort_static(source: Path, folder: Path, choosing: list[Sample]) -> Path:
    """QDQ, weights int8 per channel, activations uint8, on the model as ``quant_pre_process`` prepares it."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(choosing)

        def get_next(self) -> Sample | None:
            return next(self.left, None)

    prepared = folder / "prepared.onnx"
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(prepared, folder / "model.onnx", Reader(), per_channel=True, **types)
    return folder / "model.onnx"


def ort_nbits(source: Path, folder: Path, choosing: list[Sample]) -> Path:
    """Its tool for MatMulNBits, 4 bits in its own blocks of 128; accuracy level 4, without which it is several times slower."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    tool = MatMulNBitsQuantizer(onnx.load(source), accuracy_level=4)
    tool.process()
    tool.model.save_model_to_file(str(folder / "model.onnx"))
    return folder / "model.onnx"


# --- OpenVINO ---------------------------------------------------------------------------------------------------------


def openvino_float(source: Path, folder: Path, choosing: list[Sample]) -> Path:
    """The source itself: OpenVINO reads ONNX."""
    return source


def openvino_int8(source: Path, folder: Path, choosing: list[Sample], transformer: bool) -> Path:
    """NNCF's post-training quantization; for a transformer it smooths activations (SmoothQuant)."""
    import nncf
    import openvino as ov

    made = nncf.quantize(
        ov.Core().read_model(source), nncf.Dataset(choosing), subset_size=len(choosing),
        preset=nncf.QuantizationPreset.MIXED, model_type=nncf.ModelType.TRANSFORMER if transformer else None,
    )  # fmt: skip
    ov.save_model(made, folder / "model.xml", compress_to_fp16=False)
    return folder / "model.xml"


def openvino_weights(source: Path, folder: Path, choosing: list[Sample], bits: int) -> Path:
    """NNCF's compression of weights alone, to 8 bits or to blocks of 4 bits."""
    import nncf
    import openvino as ov

    mode = nncf.CompressWeightsMode.INT8_ASYM if bits == 8 else nncf.CompressWeightsMode.INT4_ASYM
    grouped = {} if bits == 8 else {"group_size": 64, "all_layers": True}
    ov.save_model(nncf.compress_weights(ov.Core().read_model(source), mode=mode, **grouped), folder / "model.xml",
                  compress_to_fp16=False)  # fmt: skip
    return folder / "model.xml"


# --- Neural Compressor and Olive ----------------------------------------------------------------------------------------


def neural_compressor(source: Path, folder: Path, choosing: list[Sample], approach: str) -> Path:
    from neural_compressor import PostTrainingQuantConfig, quantization

    class Loader:
        """What it takes for a data loader: batches of (inputs, label)."""

        batch_size = len(next(iter(choosing[0].values())))

        def __iter__(self) -> Iterator[tuple[Sample, int]]:
            return iter([(sample, 0) for sample in choosing])

    config = PostTrainingQuantConfig(approach=approach)
    made = quantization.fit(str(source), config, calib_dataloader=Loader())
    if made is None:
        raise RuntimeError("it gave no model")
    made.save(str(folder / "model.onnx"))
    return folder / "model.onnx"


def olive(source: Path, folder: Path, choosing: list[Sample], dynamic: bool) -> Path:
    """One pass of its workflow on the CPU."""
    import olive
    from olive.data.registry import Registry

    @Registry.register_dataset()
    def choosing_dataset(**_: Any) -> list[tuple[Sample, int]]:
        return [(sample, 0) for sample in choosing]

    @Registry.register_dataloader()
    def choosing_dataloader(dataset: Any, **_: Any) -> Any:
        return dataset

    data = {
        "name": "choosing", "type": "DataContainer", "load_dataset_config": {"type": "choosing_dataset"},
        "pre_process_data_config": {"type": "skip_pre_process"}, "post_process_data_config": {"type": "skip_post_process"},
        "dataloader_config": {"type": "choosing_dataloader"},
    }  # fmt: skip
    rounding = {"type": "OnnxDynamicQuantization"} if dynamic else {"type": "OnnxStaticQuantization", "data_config": "choosing"}
    system = {"type": "LocalSystem", "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}]}
    found = olive.run({
        "input_model": {"type": "ONNXModel", "model_path": str(source)}, "data_configs": [data],
        "systems": {"here": system}, "host": "here", "target": "here", "passes": {"rounding": rounding},
        "cache_dir": str(folder / "cache"), "output_dir": str(folder / "out"), "log_severity_level": 4,
    })  # fmt: skip
    made = found.get_best_candidate() if found.has_output_model() else None
    if made is None:
        raise RuntimeError("the run ended and there is no model")
    return Path(made.model_path)


# --- language-model tools -----------------------------------------------------------------------------------------------


def genai_int4(source: Path, folder: Path, choosing: list[Sample]) -> Path:
    """The model builder's int4 for the CPU; ``source`` is GGUF, which transformers turns into the float weights it wants."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    read = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    facts = {k: v for k, v in read.config.to_dict().items() if k not in ("quantization_config", "model_type")}
    plain = type(read)(type(read.config)(**{**facts, "architectures": [type(read).__name__]}))  # one that may be saved
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder / "float")
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder / "float")
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", folder / "float", "-o", folder / "int4"]
    done = subprocess.run([*command, "-p", "int4", "-e", "cpu", "-c", folder / "cache"], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "the builder gave no reason")
    shutil.rmtree(folder / "float")
    return folder / "int4"


def gguf(source: Path, folder: Path, choosing: list[Sample]) -> Path:
    """The GGUF file as it is."""
    return source


MAKERS: dict[str, Callable[..., Path]] = {
    f.__name__: f
    for f in (olc, ort_dynamic, ort_static, ort_nbits, openvino_float, openvino_int8, openvino_weights, neural_compressor, olive,
              genai_int4, gguf)
}  # fmt: skip
