"""One way to export a torch module by either exporter, and to compare the file with torch."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from models.exporters.pack import Candidates, plain_candidates
from models.exporters.tidy import tidy
from models.recipe import cpu_session
from models.sources import Source


@dataclass
class Export:
    """One .onnx file to be exported.

    dynamic: input or output name -> {axis: dim name}. dims: dim name -> torch.export.Dim (dynamo only; a name that is
    absent here is inferred). varargs: index of the first input that belongs to the module's `*past`. compared: whether the
    file can run on `arguments`; if not, it is compared on `others` only.
    """

    stem: str
    source: Source
    module: Callable[[], torch.nn.Module]
    arguments: tuple[torch.Tensor, ...]
    inputs: list[str]
    outputs: list[str]
    dynamo: bool
    opset: int
    dynamic: dict[str, dict[int, str]]
    dims: dict[str, Any] = field(default_factory=dict)
    varargs: int | None = None
    tolerance: float = 1e-4
    candidates: Candidates = plain_candidates
    others: Callable[[], Iterable[tuple[torch.Tensor, ...]]] = lambda: ()
    compared: bool = True

    def run(self) -> onnx.ModelProto:
        """Export, tidy, compare with torch; the model has all its weights inside."""
        torch.set_num_threads(2)
        module = self.module().eval()
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as work, torch.no_grad():
            warnings.simplefilter("ignore")
            path = Path(work) / f"{self.stem}.onnx"
            common = {"input_names": self.inputs, "output_names": self.outputs, "opset_version": self.opset}
            if self.dynamo:
                program = torch.onnx.export(
                    module,
                    self.arguments,
                    None,
                    dynamo=True,
                    dynamic_shapes=self._dynamic_shapes(),
                    verbose=False,
                    **common,
                )
                program.save(str(path))
            else:
                torch.onnx.export(module, self.arguments, str(path), dynamo=False, dynamic_axes=self.dynamic, **common)
            # The TorchScript exporter may leave training mode (and so dropout) on when it returns.
            module.eval()
            model = rename_dims(tidy(onnx.load(str(path))), self.dynamic)
            self._compare(model, module)
        return model

    def _dynamic_shapes(self) -> tuple:
        auto = torch.export.Dim.AUTO
        each = [{axis: self.dims.get(d, auto) for axis, d in self.dynamic.get(n, {}).items()} for n in self.inputs]
        return tuple(each) if self.varargs is None else (*each[: self.varargs], tuple(each[self.varargs :]))

    def _compare(self, model: onnx.ModelProto, module: torch.nn.Module) -> None:
        """Raise unless ONNX Runtime gives torch's outputs, on the export's inputs and on others of other sizes."""
        with tempfile.TemporaryDirectory() as work:
            path = Path(work) / "model.onnx"
            path.write_bytes(model.SerializeToString())
            session = cpu_session(path)
            known = {value.name for value in session.get_inputs()}
            for arguments in (*[self.arguments] * self.compared, *self.others()):
                wanted = module(*arguments)
                wanted = [wanted] if isinstance(wanted, torch.Tensor) else list(wanted)
                feed = {n: a.numpy() for n, a in zip(self.inputs, arguments, strict=True) if n in known}
                found = session.run(None, feed)
                error = max(float(np.abs(f - w.numpy()).max()) for f, w in zip(found, wanted, strict=True))
                shapes = "; ".join("x".join(map(str, a.shape)) for a in arguments[:3])
                if not error <= self.tolerance:
                    raise SystemExit(f"{self.stem}: ONNX Runtime differs from torch by {error:.2e} on inputs {shapes}")
                print(f"    {self.stem}: |ort - torch| <= {error:.1e} on inputs {shapes}", flush=True)


def rounding(var: np.ndarray, epsilon: float) -> str:
    """How torch's square root of `var + epsilon` is rounded here: one of `=+-` a channel."""
    shifted = var + np.float32(epsilon)
    ours, theirs = np.sqrt(shifted), torch.sqrt(torch.tensor(shifted)).numpy()
    return "".join("=+-"[sign] for sign in np.sign(theirs.astype(np.float64) - ours).astype(int))


def rename_dims(model: onnx.ModelProto, dynamic: dict[str, dict[int, str]]) -> onnx.ModelProto:
    """Dims that dynamo inferred carry its symbols (`s70`): give them the names asked for, wherever they occur."""
    names = {}
    for value in model.graph.input:
        for axis, name in dynamic.get(value.name, {}).items():
            symbol = value.type.tensor_type.shape.dim[axis].dim_param
            if re.fullmatch(r"s\d+", symbol):
                names[symbol] = name
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\bs\d+\b", lambda found: names.get(found[0], found[0]), dim.dim_param)
    return model
