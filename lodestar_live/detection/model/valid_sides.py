"""Parts of a frame without a wasted rim: convolutions that shrink where a part ends.

A convolution pads its input with zeros, which is right at the frame's edge only. Where
a part of a frame ends elsewhere, its outermost cells come out wrong, layer by layer,
and computing them is wasted. On an *open* side nothing is padded: each layer's map is
as much smaller as its kernel reaches, and everything that comes out is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lodestar_live.detection.model.nodes import PADDED, copied

PLAIN = ("Conv", "Relu", "LeakyRelu")  # a network on the grid of its output
_END = 2**31  # beyond the end of any axis


class Opening(NamedTuple):
    """Where a part of a frame goes on, instead of ending at the frame's edge.

    Parameters
    ----------
    top, left, bottom, right
        Whether the part is open on that side.
    rim_cells
        What the local normalisation needs around the part: cells that are dropped on
        the open sides, in front of the network.
    """

    top: bool = False
    left: bool = False
    bottom: bool = False
    right: bool = False
    rim_cells: int = 0


CLOSED = Opening()


def can_open(model: onnx.ModelProto, margin_cells: float) -> bool:
    """Say whether all that looks around, `margin_cells` in all, can be opened.

    True if the network is one stack of convolutions on the grid of its output, as the
    live network is; pooling between them, as in the paper's, needs the padding.
    """
    convolutions, _ = _convolutions(model)
    is_plain = all(set(_ints(node, "strides")) <= {1} for node in convolutions)
    return is_plain and margin_cells == sum(max(_pads(n)) for n in convolutions)


def opened(model: onnx.ModelProto, opening: Opening) -> onnx.ModelProto:
    """Return a copy of a model whose maps shrink on the open sides.

    `contrast` shrinks with `features`; the maps up to the network keep their rim.
    """
    if not any(opening[:4]):
        return model
    copy = copied(model)
    convolutions, source = _convolutions(copy)
    sides = np.array(opening[:4])
    rim = opening.rim_cells * sides
    margin = np.zeros(4, int)
    for node in convolutions:
        pads = np.array(_pads(node))
        margin += pads * sides
        _set_pads(node, pads * ~sides)
    if rim.any():
        _crop(copy.graph, source, rim)
    _crop(copy.graph, "contrast", rim + margin)
    return copy


def stack(
    model: onnx.ModelProto, through: Sequence[str]
) -> tuple[list[onnx.NodeProto], str]:
    """Return the nodes of some operators that end in `features`, and their source."""
    makers = {name: node for node in model.graph.node for name in node.output}
    value, found = "features", []
    while value in makers and makers[value].op_type in through:
        found.append(makers[value])
        value = found[-1].input[0]
    return found, value


def _convolutions(model: onnx.ModelProto) -> tuple[list[onnx.NodeProto], str]:
    """Return the convolutions of a plain network, and what they start from."""
    nodes, source = stack(model, PLAIN)
    return [node for node in nodes if node.op_type == "Conv"], source


def _crop(graph: onnx.GraphProto, name: str, cells: np.ndarray) -> None:
    """Drop cells (top, left, bottom, right) of a map where it is made."""
    makers = (index for index, node in enumerate(graph.node) if name in node.output)
    place = next(makers)
    whole = f"{name}_uncropped"
    outputs = graph.node[place].output
    outputs[list(outputs).index(name)] = whole
    top, left, bottom, right = (int(n) for n in cells)
    ends = [-bottom or _END, -right or _END]
    limits = {"start": [top, left], "end": ends, "axes": [2, 3]}
    inputs = [f"{name}_{key}" for key in limits]
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.int64), key)
        for key, value in zip(inputs, limits.values(), strict=True)
    )
    graph.node.insert(place + 1, helper.make_node("Slice", [whole, *inputs], [name]))


def _pads(node: onnx.NodeProto) -> list[int]:
    return _ints(node, "pads") or [0] * 4


def _ints(node: onnx.NodeProto, name: str) -> list[int]:
    return [n for a in node.attribute if a.name == name for n in a.ints]


def _set_pads(node: onnx.NodeProto, pads: np.ndarray) -> None:
    for attribute in node.attribute:
        if attribute.name == "pads":
            del attribute.ints[:]
            attribute.ints.extend(int(n) for n in pads)


def unpadded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model for pixels that are whole cells, at least 3 a side."""
    copy = copied(model)
    for node in copy.graph.node:
        if node.output[0].endswith(PADDED):  # a surround's as well
            image, output = node.input[0], node.output[0]
            node.CopyFrom(helper.make_node("Identity", [image], [output]))
    return copy
