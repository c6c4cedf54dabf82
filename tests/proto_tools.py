"""Comparing ONNX protos by what they say, and building small models that say something in every field."""

from __future__ import annotations

from typing import Any


def normal(model: Any) -> Any:
    """A copy with only the documented freedoms of ``olc.deserialize`` and ``olc.serialize`` removed.

    An explicit empty string or type equals an absent one, a negative dimension an unknown one, the domain ``ai.onnx``
    equals ``""``; ``value_info`` and ``quantization_annotation`` are sets by name.
    """
    own = type(model)()
    own.CopyFrom(model)
    _clean(own)
    return own


def _clean(message: Any) -> None:
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in value if _repeated(field) else [value]:
                _clean(part)
        elif (
            field.type == field.TYPE_STRING
            and not _repeated(field)
            and (value == "" or (field.name == "domain" and value == "ai.onnx"))
        ):
            message.ClearField(field.name)
    kind = message.DESCRIPTOR.name
    if kind == "Dimension" and message.dim_value < 0:
        message.ClearField("dim_value")
    if kind == "ValueInfoProto" and message.HasField("type") and not message.type.ListFields():
        message.ClearField("type")
    if kind in ("GraphProto", "FunctionProto"):
        _sort(message.value_info, lambda v: v.name)
    if kind == "GraphProto":
        _sort(message.quantization_annotation, lambda a: a.tensor_name)


def _repeated(field: Any) -> bool:
    return bool(field.is_repeated)


def _sort(entries: Any, key: Any) -> None:
    ordered = sorted(entries, key=key)
    copies = []
    for e in ordered:
        c = type(e)()
        c.CopyFrom(e)
        copies.append(c)
    del entries[:]
    entries.extend(copies)


def difference(a: Any, b: Any) -> str:
    """The first lines in which two protos differ, empty when they are equal."""
    if a == b:
        return ""
    import difflib

    left, right = str(a).splitlines(), str(b).splitlines()
    return "\n".join(list(difflib.unified_diff(left, right, "before", "after", lineterm="", n=2))[:40])


def opset(*versions: tuple[str, int]) -> list[Any]:
    """Opset imports, in the order given."""
    from onnx import helper

    return [helper.make_opsetid(domain, version) for domain, version in versions]


def tensor_input(name: str, dims: Any = (2,), dtype: int = 1) -> Any:
    """A ValueInfoProto of a tensor."""
    from onnx import helper

    return helper.make_tensor_value_info(name, dtype, dims)


def relu_chain(count: int) -> Any:
    """``count`` Relu nodes, one after the other."""
    from onnx import helper

    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"], name=f"n{i}") for i in range(count)]
    graph = helper.make_graph(nodes, "chain", [tensor_input("v0")], [tensor_input(f"v{count}")])
    return helper.make_model(graph, opset_imports=opset(("", 17)), ir_version=8)


def say(entries: Any, **props: str) -> None:
    """Add metadata entries, in an order that is not alphabetical."""
    for key, value in sorted(props.items(), reverse=True):
        entries.add(key=key, value=value)


def everything() -> Any:
    """A valid model with something in every field of ONNX that a file may hold."""
    import onnx
    from onnx import TensorProto as T
    from onnx import helper

    float_tensor = helper.make_tensor_type_proto(T.FLOAT, ["N", 4])
    x = tensor_input("x", ["N", 4])
    x.doc_string = "the input"
    x.type.denotation = "IMAGE"
    x.type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    say(x.metadata_props, role="input", a="b")
    cond = tensor_input("cond", (), T.BOOL)
    table = helper.make_value_info("table", helper.make_map_type_proto(T.INT64, float_tensor))
    sequence = helper.make_value_info("items", helper.make_sequence_type_proto(float_tensor))
    maybe = helper.make_value_info(
        "maybe", helper.make_optional_type_proto(helper.make_sequence_type_proto(float_tensor))
    )
    sparse_in = helper.make_value_info("sparse_in", helper.make_sparse_tensor_type_proto(T.FLOAT, [3, 3]))
    scale = tensor_input("scale", [4])

    w = helper.make_tensor("w", T.FLOAT, [4], [1, 2, 3, 4])
    w.doc_string = "weight"
    say(w.metadata_props, origin="layer.0", b="c")
    half = helper.make_tensor("half", T.FLOAT16, [2], b"\x00\x38\x00\xbc", raw=True)
    dense_values = helper.make_tensor("sp", T.FLOAT, [2], [5, 6])
    sparse = helper.make_sparse_tensor(dense_values, helper.make_tensor("", T.INT64, [2], [0, 3]), [4])

    branch = helper.make_graph(
        [helper.make_node("Mul", ["x", "k"], ["then_out"], name="mul")],
        "then",
        [],
        [tensor_input("then_out", ["N", 4])],
        [helper.make_tensor("k", T.FLOAT, [], [2])],
        doc_string="branch",
        value_info=[],
    )
    say(branch.metadata_props, side="then")
    other = helper.make_graph(
        [helper.make_node("Add", ["x", "sp"], ["else_out"])], "else", [], [onnx.ValueInfoProto(name="else_out")]
    )
    choice = helper.make_node("If", ["cond"], ["chosen"], name="choice", then_branch=branch, else_branch=other)
    scaled = helper.make_node("Scaled", ["chosen"], ["scaled"], name="call", domain="local", factor=0.5, overload="v2")
    scaled.doc_string = "a call"
    say(scaled.metadata_props, namespace="root.block", z="1")
    holder = helper.make_node("Holder", ["scaled", ""], ["held", "", "spare"], domain="custom")
    for value in (
        helper.make_attribute("text", "é"),
        helper.make_attribute("texts", ["a", "b"]),
        helper.make_attribute("number", 7),
        helper.make_attribute("numbers", [1, 2]),
        helper.make_attribute("real", 0.1),
        helper.make_attribute("reals", [0.1, float("inf")]),
        helper.make_attribute("tensor", helper.make_tensor("t", T.INT8, [2], [1, -1])),
        helper.make_attribute("tensors", [helper.make_tensor("t", T.BOOL, [1], [True])]),
        helper.make_attribute("sparse", sparse),
        helper.make_attribute("graphs", [helper.make_graph([], "g0", [], [])]),
        helper.make_attribute("type", float_tensor),
        helper.make_attribute("types", [helper.make_map_type_proto(T.STRING, float_tensor), onnx.TypeProto()]),
    ):
        holder.attribute.append(value)
    holder.attribute.add(name="binary", type=onnx.AttributeProto.STRING, s=b"\xff\xfe\x00")
    holder.attribute.add(name="binaries", type=onnx.AttributeProto.STRINGS, strings=[b"\xff", b"ok"])
    holder.attribute.add(name="many_sparse", type=onnx.AttributeProto.SPARSE_TENSORS).sparse_tensors.append(sparse)
    holder.attribute.add(name="no_numbers", type=onnx.AttributeProto.INTS)
    holder.attribute[0].doc_string = "an attribute"
    device = holder.device_configurations.add(configuration_id="pair", pipeline_stage=1)
    spec = device.sharding_spec.add(tensor_name="scaled", device=[0, 1])
    spec.index_to_device_group_map.add(key=-1, value=[0, 1])
    dim = spec.sharded_dim.add(axis=0)
    dim.simple_sharding.add(dim_value=2, num_shards=2)
    dim.simple_sharding.add(dim_param="N", num_shards=1)
    final = helper.make_node("Identity", ["scaled"], ["y"], name="last")

    y = tensor_input("y", ["N", 4])
    graph = helper.make_graph(
        [choice, scaled, holder, final], "main", [x, cond, table, sequence, maybe, sparse_in, scale], [y],
        [w, half, helper.make_tensor("scale", T.FLOAT, [4], [1, 1, 1, 1])],
        doc_string="everything", sparse_initializer=[sparse],
    )  # fmt: skip
    say(graph.metadata_props, graph="yes", also="this")
    unknown = tensor_input("scaled", ["N", None, "3*(N+1)"])
    unknown.doc_string = "between"
    say(unknown.metadata_props, scope="root")
    graph.value_info.extend([unknown, tensor_input("not_there", [1])])
    graph.value_info.extend([x, scale, tensor_input("w", [4]), y])  # nobody needs these, and some tools write them
    for name in ("x", "w", "scaled", "y", "scale", "gone"):
        a = graph.quantization_annotation.add(tensor_name=name)
        say(a.quant_parameter_tensor_names, ZERO_POINT_TENSOR=f"{name}_zero")

    functions = []
    for overload in ("", "v2"):
        reference = helper.make_node("Mul", ["a", "c"], ["b"])
        constant = helper.make_node("Constant", [], ["c"])
        constant.attribute.add(name="value_float", type=onnx.AttributeProto.FLOAT, ref_attr_name="factor")
        f = helper.make_function(
            "local", "Scaled", ["a"], ["b"], [constant, reference], opset(("", 17)), ["factor"],
            attribute_protos=[helper.make_attribute("bias", 1.0)], doc_string="scales", overload=overload,
            value_info=[tensor_input("a", ["M"]), tensor_input("c", []), tensor_input("not_there", [])],
        )  # fmt: skip
        say(f.metadata_props, function="meta")
        functions.append(f)

    model = helper.make_model(
        graph, opset_imports=opset(("local", 1), ("", 17), ("custom", 3)), ir_version=11, functions=functions,
        producer_name="maker", producer_version="1.2", domain="org.example", model_version=9, doc_string="a model",
    )  # fmt: skip
    say(model.metadata_props, licence="CC0", author="nobody")
    model.configuration.add(name="pair", num_devices=2, device=["gpu0", "gpu1"])
    training = model.training_info.add()
    training.initialization.CopyFrom(helper.make_graph([], "init", [], []))
    training.algorithm.CopyFrom(helper.make_graph([], "step", [], []))
    training.initialization_binding.add(key="w", value="w0")
    training.update_binding.add(key="w", value="w1")
    return model
