"""Where an artifact comes from: an in-toto Statement (v1) with SLSA's provenance predicate (v1), unsigned."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ..errors import BadInput
from . import Report
from .materials import EXTRA, materials, moment, parts

try:
    from google.protobuf.json_format import MessageToDict, ParseDict
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
    from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
    from in_toto_attestation.v1.statement import Statement
except ImportError as e:
    raise BadInput("provenance needs the package in-toto-attestation", where="--provenance", hint=EXTRA) from e

PREDICATE = "https://slsa.dev/provenance/v1"
BUILD = "urn:olc-compiler:compile:v1"
"""What the parameters mean: those of ``olc compile``."""


def provenance(report: Report) -> str:
    """The statement as JSON. Subjects: the artifact and its external data. Materials: source, data, rules and versions."""
    text = report.dumps()
    versions = {("olc-compiler" if name == "olc" else name): v for name, v in report.versions.items()}
    packages = [{"uri": f"pkg:pypi/{name}@{v}"} for name, v in versions.items() if name not in ("python", "olc-compiler")]
    metadata: dict[str, Any] = {"invocationId": f"urn:sha256:{hashlib.sha256(text.encode()).hexdigest()}"}
    when = moment()
    if when is not None:
        metadata |= {"startedOn": when.isoformat(), "finishedOn": when.isoformat()}
    predicate = {
        "buildDefinition": {
            "buildType": BUILD,
            "externalParameters": {k: v for k, v in report.options.items() if v is not None},
            "internalParameters": {"plan": report.plan, "target": report.target, "session": report.session_options},
            "resolvedDependencies": [
                *({"name": m.name, "digest": {"sha256": m.sha256}, "annotations": {"role": m.role}} for m in materials(report)),
                *packages,
            ],
        },
        "runDetails": {
            "builder": {"id": f"pkg:pypi/olc-compiler@{versions['olc-compiler']}", "version": versions},
            "metadata": metadata,
            "byproducts": [{"name": Path(report.artifact["path"]).stem + ".olc.json",
                            "digest": {"sha256": hashlib.sha256(text.encode()).hexdigest()}}],
        },
    }  # fmt: skip
    ParseDict(predicate, provenance_pb2.Provenance())  # raises where a field is unknown or of another type
    subjects = [ResourceDescriptor(name=f["path"], digest={"sha256": f["sha256"]}).pb for f in parts(report.artifact)]
    statement = Statement(subjects, PREDICATE, predicate)
    statement.validate()
    # Not the message's own copy of the predicate: protobuf has no integers in there.
    data = {**MessageToDict(statement.pb), "predicate": predicate}
    return json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
