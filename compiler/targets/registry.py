"""Capability tables from the registries of an installed ONNX Runtime: what each execution provider has kernels for."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from . import capabilities
from .capabilities import Kernel, Parameter, Signature, Table

_OPEN = 2**31 - 1  # how the registry writes "no end version"


def generate(provider: str) -> Table:
    """The table of one provider of the installed runtime, read from its registries."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kernels: dict[tuple[str, str], list[Kernel]] = {}
    for k in state.get_all_opkernel_def():
        if k.provider == provider:
            since, until = k.version_range
            types = {name: frozenset(bare(t) for t in allowed) for name, allowed in k.type_constraints.items()}
            record = Kernel(since, None if until == _OPEN else until, types)
            kernels.setdefault((k.domain, k.op_name), []).append(record)
    forms: dict[tuple[str, str], list[Signature]] = {}
    for s in state.get_all_operator_schema():
        # Other providers' private operators (TensorRT plugins, layout variants) are no part of what a model may hold.
        if s.domain.startswith("com.ms.internal") or s.name.endswith("_TRT"):
            continue
        forms.setdefault((s.domain, s.name), []).append(_signature(s))
    return Table(
        "onnxruntime",
        onnxruntime.__version__,
        provider,
        _newest_ir_version(),
        {key: tuple(sorted(found, key=lambda s: s.since)) for key, found in sorted(forms.items())},
        {key: capabilities.merge(found) for key, found in sorted(kernels.items())},
    )


def bare(text: str) -> str:
    """``tensor(float)`` -> ``float``; other types as they are."""
    return text[len("tensor(") : -1] if text.startswith("tensor(") else text


def _signature(schema: Any) -> Signature:
    standard = schema.domain in ("", "ai.onnx.ml")
    attributes = {} if standard else {name: _attribute(a) for name, a in schema.attributes.items()}
    sides = [tuple(parameter(p, p.typeStr) for p in side) for side in (schema.inputs, schema.outputs)]
    return Signature(schema.since_version, sides[0], sides[1], attributes, schema.deprecated)


def parameter(formal: Any, type_: str) -> Parameter:
    """A parameter as a schema of onnx or of the runtime has it; they call its type otherwise."""
    option = {"Single": "one", "Optional": "optional", "Variadic": "many"}[formal.option.name]
    return Parameter(formal.name or "_", bare(type_), option)


def _attribute(declared: Any) -> tuple[str, bool, Any]:
    import onnx
    import onnx.helper

    default = None
    if declared._default_value:
        proto = onnx.AttributeProto()
        proto.ParseFromString(declared._default_value)
        value = onnx.helper.get_attribute_value(proto)
        default = value.decode() if isinstance(value, bytes) else list(value) if _is_list(value) else value
        # float32 as the shortest decimal that reads back as the same float32
        default = float(f"{default:.8g}") if isinstance(default, float) else default
    return declared.type.name, bool(declared.required), default


def _is_list(value: Any) -> bool:
    return hasattr(value, "__iter__") and not isinstance(value, str)


def _newest_ir_version() -> int:
    """The registry does not say it, so ask: a one-node model of rising IR version until one is refused."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    newest = 0
    for version in range(8, onnx.IR_VERSION + 8):
        model = onnx.parser.parse_model(
            f'<ir_version: {version}, opset_import: ["": 13]> g (float[1] x) => (float[1] y) {{ y = Neg (x) }}'
        )
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            if "IR version" not in str(error):
                raise
            break
        newest = version
    return newest


@lru_cache(maxsize=8)
def load(path: Path, provider: str) -> Table:
    """The stored table, unless the installed runtime is another that has the provider: then one generated now (``origin``
    says so)."""
    import onnxruntime

    stored = capabilities.from_json(path.read_text(encoding="utf-8")) if path.is_file() else None
    if stored is not None and (stored.version == onnxruntime.__version__ or stored.runtime != "onnxruntime"
                               or provider not in onnxruntime.get_available_providers()):  # fmt: skip
        return stored
    table = generate(provider)
    held = "none is stored" if stored is None else f"the stored one is of {stored.version}"
    table.origin = f"generated from the installed onnxruntime {table.version}: {held}"
    return table


def main(file: str, make: Callable[[], Table], argv: list[str] | None = None) -> int:
    """Print the table that ``make`` gives, of the installed runtime, or store it beside the module with ``--write``."""
    import argparse

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--write", action="store_true", help="store the table beside the module")
    text = capabilities.to_json(make())
    if parser.parse_args(argv).write:
        path = Path(file).with_suffix(".json")
        path.write_text(text, encoding="utf-8")
        print(f"{path.name}: {len(text):,} bytes")
    else:
        print(text, end="")
    return 0
