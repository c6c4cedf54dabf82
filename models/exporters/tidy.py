"""What of an export is kept."""

from __future__ import annotations

from typing import Any

import onnx

# Kept: which module of the network a node came from. Dropped: stack traces and FX dumps, megabytes of text that name
# folders of the exporting machine.
KEEP_METADATA = ("namespace", "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy")


def tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what only describes the exporting machine: long metadata, doc strings with stack traces."""

    def keep(owner: Any) -> None:
        kept = [entry for entry in owner.metadata_props if entry.key in KEEP_METADATA]
        del owner.metadata_props[:]
        owner.metadata_props.extend(kept)
        owner.doc_string = ""

    def graph(g: onnx.GraphProto) -> None:
        keep(g)
        for value in (*g.input, *g.output, *g.value_info, *g.initializer):
            keep(value)
        for node in g.node:
            keep(node)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    graph(attribute.g)

    keep(model)
    graph(model.graph)
    for function in model.functions:
        keep(function)
        for node in function.node:
            keep(node)
    return model
