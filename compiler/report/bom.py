"""The bill of materials: CycloneDX 1.6, the artifact as a machine-learning model with its model card."""

from __future__ import annotations

import json
import uuid
from typing import Any

from ..errors import BadInput
from . import Report
from .materials import EXTRA, Material, materials, moment, parts

try:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType, Pedigree
    from cyclonedx.model.tool import ToolRepository
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL
except ImportError as e:
    raise BadInput("a bill of materials needs the package cyclonedx-python-lib", where="--bom", hint=EXTRA) from e


def bom(report: Report) -> str:
    """The bill as JSON. Its serial number is made of the digests of source and artifact."""
    serial = uuid.uuid5(uuid.NAMESPACE_URL, f"olc:{report.source['sha256']}:{report.artifact['sha256']}")
    went_in = materials(report)
    model = Component(
        type=ComponentType.MACHINE_LEARNING_MODEL, name=report.artifact["path"], bom_ref="artifact",
        hashes=_sha256(parts(report.artifact)[0]["sha256"]),
        pedigree=Pedigree(ancestors=[_model(f, f"source-{i}") for i, f in enumerate(parts(report.source)[:1])]),
        components=[_file(f) for f in parts(report.artifact)[1:]],
    )  # fmt: skip
    others = [_component(m, f"{m.role}-{i}") for i, m in enumerate(went_in) if m.role != "source"]
    tools = [_package(name, version) for name, version in report.versions.items() if name != "python"]
    about = BomMetaData(component=model, tools=ToolRepository(components=tools))
    made = Bom(serial_number=serial, metadata=about, components=others)
    made.register_dependency(model, others)
    data = json.loads(JsonV1Dot6(made).output_as_string())
    when = moment()
    if when is None:
        del data["metadata"]["timestamp"]
    else:
        data["metadata"]["timestamp"] = when.isoformat()
    # The library has no class for the model card; its schema does, and the tests hold the whole against that.
    datasets = [c.bom_ref.value or "" for c in others if c.type == ComponentType.DATA]
    data["metadata"]["component"]["modelCard"] = _card(report, datasets)
    return json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _sha256(digest: str) -> list[HashType]:
    return [HashType(alg=HashAlgorithm.SHA_256, content=digest)]


def _model(described: dict[str, Any], ref: str) -> Component:
    kind = ComponentType.MACHINE_LEARNING_MODEL
    return Component(type=kind, name=described["path"], bom_ref=ref, hashes=_sha256(described["sha256"]))


def _file(described: dict[str, Any]) -> Component:
    name = described["path"]
    return Component(type=ComponentType.FILE, name=name, bom_ref=name, hashes=_sha256(described["sha256"]))


def _component(m: Material, ref: str) -> Component:
    kind = ComponentType.DATA if m.role in ("data", "ranges") else ComponentType.FILE
    role = Property(name="olc:role", value=m.role)
    return Component(type=kind, name=m.name, bom_ref=ref, hashes=_sha256(m.sha256), properties=[role])


def _package(name: str, version: str) -> Component:
    project = "olc-compiler" if name == "olc" else name
    purl = PackageURL("pypi", None, project, version)
    return Component(type=ComponentType.LIBRARY, name=project, version=version, bom_ref=str(purl), purl=purl)


def _card(report: Report, datasets: list[str]) -> dict[str, Any]:
    """What a model card can hold of a report: data, measured quality and speed, limits, and how it was rounded."""
    e = report.evaluation
    rounded: dict[str, int] = {}
    for r in report.layers:
        if r["kept"]:
            rounded[r["rule"]] = rounded.get(r["rule"], 0) + 1
    properties = [("olc:level", str(report.options["level"])), ("olc:source:sha256", report.source["sha256"])]
    properties += [(f"olc:quantization:{rule}", f"{n} layers") for rule, n in sorted(rounded.items())]
    limits = [f"assumes that {a['what']}" for a in report.assumed.values()] + report.notes
    card: dict[str, Any] = {
        "modelParameters": {"datasets": [{"ref": d} for d in datasets]},
        "properties": [{"name": name, "value": value} for name, value in properties],
        "considerations": {"technicalLimitations": limits},
    }
    if e is not None:
        card["modelParameters"]["outputs"] = [{"format": o["dtype"]} for o in e["outputs"]]
        card["quantitativeAnalysis"] = {"performanceMetrics": _metrics(e, report.target["name"])}
    return card


def _metrics(e: dict[str, Any], target: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if (p := e["paired"]) is not None:
        between = {"lowerBound": f"{p['low']:.4f}", "upperBound": f"{p['high']:.4f}"}
        speed = {"type": "speed over the source's", "value": f"{p['ratio']:.4f}", "slice": target}
        found.append({**speed, "confidenceInterval": between})
    kinds = (("cosine_min", "lowest cosine against the source"), ("max_rel", "largest relative error against the source"),
             ("top1", "same top-1 as the source"))  # fmt: skip
    for o in e["outputs"]:
        known = ((words, o[kind]) for kind, words in kinds if o[kind] is not None)
        found += [{"type": words, "value": f"{x:.6g}", "slice": o["name"]} for words, x in known]
    return found
