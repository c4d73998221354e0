"""The convolutions in float16, for hardware that is faster in it."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lodestar_live.detection.model.nodes import copied
from lodestar_live.detection.model.valid_sides import PLAIN, stack
from lodestar_live.errors import ModelError

_MOST_ROUNDING = 1e-3  # of a filter; float16 rounds a normal number by 0.0005 at most


def half_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model whose network computes in float16.

    Only the convolutions that end in `features`, and what lies between them: the
    normalisation in front reads camera counts, which float16 cannot hold, and the
    read-out behind takes differences. `features` leave as float32.

    Raises
    ------
    ModelError
        Float16 cannot hold a filter: its weights are too large or too small.
    """
    copy = copied(model)
    nodes, source = stack(copy, through=(*PLAIN, "MaxPool"))
    tensors = {tensor.name: tensor for tensor in copy.graph.initializer}
    for node in nodes:
        if node.op_type == "Conv":
            _round([tensors[name] for name in node.input[1:]])
    _cast_around(copy.graph, nodes, source)
    return copy


def _round(tensors: list[onnx.TensorProto]) -> None:
    """Round the weights and biases of one convolution to float16."""
    exact = [numpy_helper.to_array(tensor) for tensor in tensors]
    with np.errstate(over="ignore"):  # it becomes infinite, and is refused below
        halves = [values.astype(np.float16) for values in exact]
    filters = _by_filter(exact)
    rounding = np.abs(_by_filter(halves) - filters).sum(axis=1)
    if not (rounding <= _MOST_ROUNDING * np.abs(filters).sum(axis=1)).all():
        raise ModelError(
            f"{tensors[0].name}: weights from {np.abs(filters).min():.2g} to "
            f"{np.abs(filters).max():.2g} do not fit into float16."
        )
    for tensor, values in zip(tensors, halves, strict=True):
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _by_filter(tensors: list[np.ndarray]) -> np.ndarray:
    """Return one row for each output channel: its weights and its bias."""
    rows = [tensor.reshape(len(tensor), -1) for tensor in tensors]
    return np.hstack(rows, dtype=np.float64)


def _cast_around(
    graph: onnx.GraphProto, nodes: list[onnx.NodeProto], source: str
) -> None:
    """Enter the network in float16, and leave it in float32."""
    entry, result = f"{source}_half", "features_half"
    for node in nodes:
        if node.input[0] == source:
            node.input[0] = entry
        if node.output[0] == "features":
            node.output[0] = result
    to_half = helper.make_node("Cast", [source], [entry], to=TensorProto.FLOAT16)
    to_float = helper.make_node("Cast", [result], ["features"], to=TensorProto.FLOAT)
    first = next(i for i, node in enumerate(graph.node) if entry in node.input)
    graph.node.insert(first, to_half)
    graph.node.append(to_float)
