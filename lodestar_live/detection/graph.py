"""Build the self-contained ONNX model: camera pixels in, positions out.

    pixels -> normalise -> network -> `features`
           -> log weight, clustering, log score -> local maxima above a threshold
           -> local weighted average of the votes -> `detections`

Three choices keep float32 exact (each has a test against a float64 reference):

* Weights stay logarithms, ln w = -softplus(-rho): a sigmoid is 0 below rho = -18,
  and trained networks put the background far below that.
* The clustering variance is computed from deviations of the nine local votes, by one
  convolution; with absolute coordinates float32 would cancel.
* Positions leave as float64: the cell's place is added to the local average last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from lodestar_live.detection.weights import Conv, Layer, MaxPool, NetworkWeights

CARD_KEY = "lodestar_live"
OPSET = 18
COLUMNS = (
    "image", "row", "column", "y_px", "x_px", "score", "log_weight", "consistency_px",
    "contrast",
)  # fmt: skip
INPUTS = ("pixels", "background", "scale", "alpha", "beta", "threshold", "quantile")
OUTPUTS = ("detections", "features", "contrast", "log_weight", "clustering", "score")
VARIANCE_FLOOR_PX2 = 1e-6
_FAR = -1e30  # log weight of a cell outside the map


def build_model(weights: NetworkWeights, card: Mapping[str, Any]) -> onnx.ModelProto:
    """Return the ONNX model of a trained network, card included.

    Parameters
    ----------
    weights
        The trained network.
    card
        What a reader should know, JSON-safe. `window_px` (radius of the local
        average) and `vote_px` (how far a vote may lie from it) become part of the
        graph; everything else is stored as it is.

    Notes
    -----
    Inputs: `pixels` (n, channels, y, x) float32; `background` and `scale`,
    broadcast against it; scalars `alpha`, `beta`, `threshold`, `quantile` (1: off).
    Output `detections`: one row per detection, columns `COLUMNS`, then the extra
    channels of the network.
    """
    card = {**card, "stride": weights.stride, "channels": list(weights.channels)}
    card.setdefault("window_px", 8.0)
    card.setdefault("vote_px", float(max(2, weights.stride)))
    card["margin_px"] = weights.margin_px
    nodes = _Nodes()
    normalised = _normalise(nodes, weights.stride)
    _network(nodes, weights.layers, normalised)
    nodes.add(
        "AveragePool",
        normalised,
        name="contrast",
        kernel_shape=[weights.stride] * 2,
        strides=[weights.stride] * 2,
    )
    _score(nodes, weights)
    cells = _maxima(nodes)
    _localise(nodes, weights, cells, card)
    model = helper.make_model(
        nodes.graph(weights),
        producer_name="lodestar_live",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=9,
    )
    helper.set_model_props(model, {CARD_KEY: json.dumps(card, allow_nan=False)})
    return model


class _Nodes:
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

    def graph(self, weights: NetworkWeights) -> onnx.GraphProto:
        """Return the finished graph."""
        real = TensorProto.FLOAT
        image: list[str | int | None] = ["n", weights.n_inputs, "height", "width"]
        inputs = [
            helper.make_tensor_value_info("pixels", real, image),
            helper.make_tensor_value_info("background", real, ["b0", "b1", "b2", "b3"]),
            helper.make_tensor_value_info("scale", real, ["s0", "s1", "s2", "s3"]),
            *(helper.make_tensor_value_info(name, real, []) for name in INPUTS[3:]),
        ]
        n_columns = len(COLUMNS) + len(weights.channels) - 3
        rows = helper.make_tensor_value_info(
            "detections", TensorProto.DOUBLE, ["n", n_columns]
        )
        maps = [
            helper.make_tensor_value_info(
                name, real, ["image", None, "rows", "columns"]
            )
            for name in OUTPUTS[1:]
        ]
        return helper.make_graph(
            self.nodes, "lodestar", inputs, [rows, *maps], self.constants
        )


def _normalise(nodes: _Nodes, stride: int) -> str:
    """(pixels - background) / scale, padded by its edge to whole cells, at least 3."""
    counts = nodes.add("Cast", "pixels", to=TensorProto.FLOAT)
    contrast = nodes.add("Sub", counts, "background")
    unpadded = nodes.add("Div", contrast, "scale", name="normalised")
    size = nodes.add("Shape", "pixels", start=2, end=4)
    almost = nodes.add("Add", size, nodes.integers(stride - 1, stride - 1))
    cells = nodes.add("Div", almost, nodes.integers(stride, stride))
    cells = nodes.add("Max", cells, nodes.integers(3, 3))
    wanted = nodes.add("Mul", cells, nodes.integers(stride, stride))
    missing = nodes.add("Sub", wanted, size)
    pads = nodes.add("Concat", nodes.integers(*[0] * 6), missing, axis=0)
    return nodes.add("Pad", unpadded, pads, mode="edge")


def _network(nodes: _Nodes, layers: Sequence[Layer], value: str) -> None:
    for index, layer in enumerate(layers):
        name = "features" if index == len(layers) - 1 else ""
        if isinstance(layer, Conv):
            value = _convolve(nodes, layer, value, name)
        elif isinstance(layer, MaxPool):
            sides = [layer.factor] * 2
            value = nodes.add("MaxPool", value, kernel_shape=sides, strides=sides)
        else:
            value = _space_to_depth(nodes, layer.factor, value)


def _convolve(nodes: _Nodes, layer: Conv, value: str, name: str) -> str:
    value = nodes.add(
        "Conv",
        value,
        nodes.constant(layer.weight),
        nodes.constant(layer.bias),
        name="" if layer.relu else name,
        kernel_shape=list(layer.weight.shape[2:]),
        strides=[layer.stride] * 2,
        dilations=[layer.dilation] * 2,
        pads=[*layer.padding, *layer.padding],
    )
    return nodes.add("Relu", value, name=name) if layer.relu else value


def _space_to_depth(nodes: _Nodes, factor: int, value: str) -> str:
    """Channel order of torch's pixel_unshuffle (channel, block row, block column)."""
    size = [nodes.size(value, axis) for axis in (0, 1, 2, 3)]
    side = nodes.integers(factor)
    height = nodes.add("Div", size[2], side)
    width = nodes.add("Div", size[3], side)
    blocks = nodes.add("Concat", *size[:2], height, side, width, side, axis=0)
    value = nodes.add("Reshape", value, blocks)
    value = nodes.add("Transpose", value, perm=[0, 1, 3, 5, 2, 4])
    channels = nodes.add("Mul", size[1], nodes.integers(factor**2))
    flat = nodes.add("Concat", size[0], channels, height, width, axis=0)
    return nodes.add("Reshape", value, flat)


def _score(nodes: _Nodes, weights: NetworkWeights) -> None:
    """Score each cell: alpha ln w - beta ln(variance of the 3 x 3 votes + floor)."""
    channels = weights.channels
    rho = nodes.add("Gather", "features", nodes.integers(channels.index("rho")), axis=1)
    soft = nodes.add("Softplus", nodes.add("Neg", rho))
    nodes.add("Neg", soft, name="log_weight")

    axes = nodes.integers(channels.index("dy"), channels.index("dx"))
    offsets = nodes.add("Gather", "features", axes, axis=1)
    kernel, bias = _deviation_kernel(weights.stride)
    deviations = nodes.add(
        "Conv", offsets, nodes.constant(kernel), nodes.constant(bias)
    )
    squares = nodes.add("Mul", deviations, deviations)
    mean = nodes.constant(np.full((1, 18, 1, 1), 1 / 9))
    variance = nodes.add("Conv", squares, mean)
    # The outermost cells have no full neighbourhood: they take their neighbour's.
    edge = nodes.integers(0, 0, 1, 1, 0, 0, 1, 1)
    variance = nodes.add("Pad", variance, edge, mode="edge")
    floored = nodes.add("Add", variance, nodes.constant(VARIANCE_FLOOR_PX2))
    nodes.add("Neg", nodes.add("Log", floored), name="clustering")
    weighted = nodes.add("Mul", "log_weight", "alpha")
    clustered = nodes.add("Mul", "clustering", "beta")
    nodes.add("Add", weighted, clustered, name="score")


def _deviation_kernel(
    stride: int,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Weights of the convolution (dy, dx) -> 18 deviations of votes from their mean."""
    kernel = np.zeros((2, 9, 2, 3, 3))
    bias = np.zeros((2, 9))
    for cell in range(9):
        place = np.unravel_index(cell, (3, 3))
        for axis in range(2):
            kernel[axis, cell, axis] = -1 / 9
            kernel[axis, cell, axis, place[0], place[1]] += 1
            bias[axis, cell] = stride * (float(place[axis]) - 1)
    return kernel.reshape(18, 2, 3, 3), bias.reshape(18)


def _maxima(nodes: _Nodes) -> str:
    """Cells that are the largest of their 3 x 3 and above the threshold, (n, 4)."""
    largest = nodes.add(
        "MaxPool", "score", kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4
    )
    is_peak = nodes.add("GreaterOrEqual", "score", largest)
    is_high = nodes.add("Greater", "score", _threshold(nodes))
    found = nodes.add("NonZero", nodes.add("And", is_peak, is_high))
    return nodes.add("Transpose", found, perm=[1, 0])


def _threshold(nodes: _Nodes) -> str:
    """Take the larger of the absolute threshold and, unless it is 1, the quantile."""
    flat = nodes.add("Reshape", "score", nodes.integers(-1))
    one = nodes.constant(1.0)
    share = nodes.add("Sub", one, "quantile")
    count = nodes.add("Cast", nodes.add("Shape", flat), to=TensorProto.FLOAT)
    above = nodes.add("Ceil", nodes.add("Mul", count, share))
    k = nodes.add("Cast", nodes.add("Max", above, one), to=TensorProto.INT64)
    nodes.nodes.append(
        helper.make_node("TopK", [flat, k], ["top_scores", "top_cells"], axis=0)
    )
    last = nodes.add("ReduceMin", "top_scores", keepdims=0)
    is_on = nodes.add("Less", "quantile", one)
    off = nodes.constant(-np.finfo(np.float32).max)
    return nodes.add("Max", "threshold", nodes.add("Where", is_on, last, off))


def _localise(
    nodes: _Nodes, weights: NetworkWeights, cells: str, card: Mapping[str, Any]
) -> None:
    """Average the votes around each maximum and write the rows."""
    stride, channels = weights.stride, weights.channels
    radius = max(1, round(card["window_px"] / stride))
    offsets = np.mgrid[-radius : radius + 1, -radius : radius + 1].reshape(2, -1).T
    around, is_outside = _gather(nodes, cells, offsets)
    names = [*channels, "log_weight", "score", "contrast"]
    columns = dict(zip(names, nodes.split(around, len(names), 2), strict=True))

    grid = stride * offsets.astype(float)
    y = nodes.add("Add", columns["dy"], nodes.constant(grid[:, :1]))
    x = nodes.add("Add", columns["dx"], nodes.constant(grid[:, 1:]))
    near = np.where(np.abs(offsets).max(axis=1) <= 1, 0.0, _FAR)[:, None]
    outside = nodes.add("Mul", is_outside, nodes.constant(_FAR))
    logits = nodes.add("Add", columns["log_weight"], outside)

    first = _share(nodes, nodes.add("Add", logits, nodes.constant(near)))
    y0, x0 = _average(nodes, first, y), _average(nodes, first, x)
    apart = _square_distance(nodes, (y, y0), (x, x0))
    consistency = nodes.add("Sqrt", _average(nodes, first, apart))
    gate = nodes.constant(-0.5 / float(card["vote_px"]) ** 2)
    share = _share(nodes, nodes.add("Add", logits, nodes.add("Mul", apart, gate)))

    centre = nodes.integers(len(offsets) // 2)
    at_peak = [
        nodes.add("Gather", columns[name], centre, axis=1)
        for name in ("score", "log_weight")
    ]
    extras = [
        _average(nodes, share, columns[name])
        for name in channels
        if name not in ("dy", "dx", "rho")
    ]
    contrast = _strongest(nodes, columns["contrast"])
    place = _place(nodes, cells, [_average(nodes, share, v) for v in (y, x)], stride)
    measured = nodes.add("Concat", *at_peak, consistency, contrast, *extras, axis=2)
    measured = nodes.add("Squeeze", measured, nodes.integers(1))
    measured = nodes.add("Cast", measured, to=TensorProto.DOUBLE)
    nodes.add("Concat", place, measured, name="detections", axis=1)


def _gather(
    nodes: _Nodes, cells: str, offsets: npt.NDArray[np.int_]
) -> tuple[str, str]:
    """Collect the maps in a window around each cell: (n, window, maps).

    Also says which places of the window lie outside the map: (n, window, 1).
    """
    contrast = nodes.add("Gather", "contrast", nodes.integers(0), axis=1)
    maps = nodes.add("Concat", "features", "log_weight", "score", contrast, axis=1)
    table = nodes.add("Transpose", maps, perm=[0, 2, 3, 1])
    table = nodes.add("Flatten", table, axis=3)
    image, _, row, column = nodes.split(cells, 4, 1)
    height, width = nodes.size("score", 2), nodes.size("score", 3)
    rows, is_row_outside = _inside(nodes, row, offsets[:, 0], height)
    columns, is_column_outside = _inside(nodes, column, offsets[:, 1], width)
    index = nodes.add("Add", nodes.add("Mul", image, height), rows)
    index = nodes.add("Add", nodes.add("Mul", index, width), columns)
    is_outside = nodes.add("Or", is_row_outside, is_column_outside)
    is_outside = nodes.add("Cast", is_outside, to=TensorProto.FLOAT)
    is_outside = nodes.add("Unsqueeze", is_outside, nodes.integers(2))
    return nodes.add("Gather", table, index, axis=0), is_outside


def _inside(
    nodes: _Nodes, index: str, offsets: npt.NDArray[np.int_], size: str
) -> tuple[str, str]:
    """Shift indices, clipped into the map, and say which were clipped: (n, window)."""
    shifted = nodes.add("Add", index, nodes.integers(*offsets.tolist()))
    last = nodes.add("Sub", size, nodes.integers(1))
    clipped = nodes.add("Min", nodes.add("Max", shifted, nodes.integers(0)), last)
    return clipped, nodes.add("Not", nodes.add("Equal", shifted, clipped))


def _share(nodes: _Nodes, logits: str) -> str:
    return nodes.add("Softmax", logits, axis=1)


def _average(nodes: _Nodes, share: str, value: str) -> str:
    """Weighted mean over the window: (n, window, 1) -> (n, 1, 1)."""
    products = nodes.add("Mul", share, value)
    return nodes.add("ReduceSum", products, nodes.integers(1), keepdims=1)


def _square_distance(nodes: _Nodes, *pairs: tuple[str, str]) -> str:
    squares = []
    for value, reference in pairs:
        difference = nodes.add("Sub", value, reference)
        squares.append(nodes.add("Mul", difference, difference))
    return nodes.add("Add", *squares)


def _strongest(nodes: _Nodes, values: str) -> str:
    """Value farthest from 0 in the window, sign kept: (n, window, 1) -> (n, 1, 1)."""
    axis = nodes.integers(1)
    highest = nodes.add("ReduceMax", values, axis, keepdims=1)
    lowest = nodes.add("ReduceMin", values, axis, keepdims=1)
    is_bright = nodes.add("GreaterOrEqual", highest, nodes.add("Neg", lowest))
    return nodes.add("Where", is_bright, highest, lowest)


def _place(nodes: _Nodes, cells: str, averages: Sequence[str], stride: int) -> str:
    """Columns image, row, column, y_px, x_px in float64."""
    image, _, row, column = nodes.split(cells, 4, 1)
    double = [nodes.add("Cast", v, to=TensorProto.DOUBLE) for v in (image, row, column)]
    step = nodes.constant(stride, np.float64)
    half = nodes.constant((stride - 1) / 2, np.float64)
    positions = []
    for index, average in zip(double[1:], averages, strict=True):
        local = nodes.add("Squeeze", average, nodes.integers(2))
        local = nodes.add("Cast", local, to=TensorProto.DOUBLE)
        centre = nodes.add("Add", nodes.add("Mul", index, step), half)
        positions.append(nodes.add("Add", centre, local))
    return nodes.add("Concat", *double, *positions, axis=1)
