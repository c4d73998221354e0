"""Write an ONNX graph node by node, and the names that its readers rely on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

CARD_KEY = "lodestar_live"  # the model file's entry that holds its card
LOOKS_KEY = "lodestar_live.looks"
OPSET = 18
COLUMNS = (
    "image", "row", "column", "y_px", "x_px", "score", "log_weight", "consistency_px",
    "contrast",
)  # fmt: skip
INPUTS = (
    "pixels", "background", "scale", "alpha", "beta", "threshold", "quantile",
)  # fmt: skip
OUTPUTS = ("detections", "features", "contrast", "log_weight", "clustering", "score")
NET = ("features", "contrast")  # what the network computes; the rest is read-out
LEVEL = "level"  # what a score has to exceed
PADDED = "padded"  # the pixels, up to whole cells
# What the local normalisation knows about a block of pixels from those around it.
LOCAL = ("local_background", "local_gain", "local_deviation")


class Nodes:
    """Collects nodes and constants; every result gets a name as it comes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Append a node with one output and return the output's name."""
        name = name or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def split(self, value: str, n: int, axis: int) -> list[str]:
        """Split `value` into `n` slices of length 1."""
        names = [f"split_{len(self.nodes)}_{index}" for index in range(n)]
        node = helper.make_node("Split", [value], names, axis=axis, num_outputs=n)
        self.nodes.append(node)
        return names

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """Store a constant and return its name."""
        name = f"constant_{len(self.constants)}"
        array = np.ascontiguousarray(value, dtype).reshape(np.shape(value))
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def integers(self, *values: int) -> str:
        """Store a vector of int64."""
        return self.constant(values, np.int64)

    def size(self, value: str, axis: int) -> str:
        """Length of one axis, as a vector of one int64."""
        return self.add("Shape", value, start=axis, end=axis + 1)


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model, to be changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def cut(
    model: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str]
) -> onnx.ModelProto:
    """Return the part of a model that computes `outputs` from `inputs`.

    Inputs that are not needed are left out; those that were inner values of `model`
    become float32 maps of any size.
    """
    wanted, kept = set(outputs) - set(inputs), []
    used: set[str] = set(outputs) & set(inputs)
    for node in reversed(model.graph.node):
        if wanted.isdisjoint(node.output):
            continue
        kept.append(node)
        used |= set(node.input)
        wanted |= set(node.input) - set(inputs)
    known = {value.name: value for value in model.graph.input}
    known_out = {value.name: value for value in model.graph.output}
    graph = helper.make_graph(
        kept[::-1],
        model.graph.name,
        [known.get(name) or _any_map(name) for name in inputs if name in used],
        [known_out.get(name) or _any_map(name) for name in outputs],
        [tensor for tensor in model.graph.initializer if tensor.name in used],
    )
    return helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )


def _any_map(name: str) -> onnx.ValueInfoProto:
    shape = [f"{name}_{axis}" for axis in range(4)]
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
