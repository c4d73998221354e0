"""The second half of the graph: `features` to scores, maxima and positions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from lodestar_live.detection.model.nodes import LEVEL, Nodes
from lodestar_live.detection.model.weights import NetworkWeights

VARIANCE_FLOOR_PX2 = 1e-6
HOME = (
    0.6  # a cell is its particle's own if it votes within this many strides of itself
)
LEAST_GATE_PX = 1.0
_FAR = -1e30  # log weight of a cell outside the map


def add_readout(
    nodes: Nodes, weights: NetworkWeights, *, window_px: float, vote_px: float
) -> None:
    """Write everything from `features` and `contrast` to `detections`."""
    _score(nodes, weights)
    cells = _candidates(nodes, weights)
    radius = max(1, round(window_px / weights.stride))
    _localise(nodes, weights, cells, radius=radius, vote_px=vote_px)


def _score(nodes: Nodes, weights: NetworkWeights) -> None:
    """Score each cell: alpha ln w - beta ln(variance of the 3 x 3 votes + floor)."""
    channels = weights.channels
    _log_weight(nodes, _channel(nodes, weights, "rho"))

    axes = nodes.integers(channels.index("dy"), channels.index("dx"))
    offsets = nodes.add("Gather", "features", axes, axis=1)
    kernel, bias = _difference_kernel(weights.stride)
    differences = nodes.add(
        "Conv", offsets, nodes.constant(kernel), nodes.constant(bias)
    )
    squares = nodes.add("Mul", differences, differences)
    mean = nodes.constant(np.full((1, len(kernel), 1, 1), 1 / 9))
    variance = nodes.add("Conv", squares, mean)
    # The outermost cells have no full neighbourhood: they take their neighbour's.
    edge = nodes.integers(0, 0, 1, 1, 0, 0, 1, 1)
    variance = nodes.add("Pad", variance, edge, mode="edge")
    floored = nodes.add("Add", variance, nodes.constant(VARIANCE_FLOOR_PX2))
    nodes.add("Neg", nodes.add("Log", floored), name="clustering")
    weighted = nodes.add("Mul", "log_weight", "alpha")
    clustered = nodes.add("Mul", "clustering", "beta")
    nodes.add("Add", weighted, clustered, name="score")


def _log_weight(nodes: Nodes, rho: str) -> str:
    """Write ln sigmoid(rho) = min(rho, 0) - ln(1 + exp(-|rho|)).

    A fifth of the time of ONNX Runtime's Softplus, and as exact: where the second
    term loses digits it is below 1e-7.
    """
    decay = nodes.add("Exp", nodes.add("Neg", nodes.add("Abs", rho)))
    rest = nodes.add("Log", nodes.add("Add", decay, nodes.constant(1.0)))
    least = nodes.add("Min", rho, nodes.constant(0.0))
    return nodes.add("Sub", least, rest, name="log_weight")


def _difference_kernel(
    stride: int,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Weights of the convolution (dy, dx) -> 16 differences between votes.

    The nine votes' deviations from their mean, per axis, have eight degrees of freedom:
    their products with the eight cosines of a 3 x 3 block that are not constant. The
    squares of these add up to those of the deviations, and like them they are small,
    so that float32 keeps their digits.
    """
    ones, slope, bend = np.array([1, 1, 1]), np.array([-1, 0, 1]), np.array([1, -2, 1])
    cosines = [a / np.linalg.norm(a) for a in (ones, slope, bend)]
    patterns = [np.outer(a, b) for a in cosines for b in cosines][1:]
    place = stride * np.indices((3, 3))
    kernel = np.zeros((2, 8, 2, 3, 3))
    bias = np.zeros((2, 8))
    for axis in range(2):
        kernel[axis, :, axis] = patterns
        bias[axis] = [(pattern * place[axis]).sum() for pattern in patterns]
    return kernel.reshape(16, 2, 3, 3), bias.reshape(16)


def _candidates(nodes: Nodes, weights: NetworkWeights) -> str:
    """Cells above the threshold that stand for a particle, (n, 4).

    A cell does if its score is the largest of its 3 x 3, or if it votes for a place in
    itself: of two particles nearer than two cells only one can be a maximum, but both
    lie in a cell of their own. Candidates of one particle are merged by their places.
    """
    largest = nodes.add(
        "MaxPool", "score", kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4
    )
    is_peak = nodes.add("GreaterOrEqual", "score", largest)
    reach = nodes.constant(HOME * weights.stride)
    is_home = nodes.add(
        "And",
        *(
            nodes.add("Less", nodes.add("Abs", _channel(nodes, weights, name)), reach)
            for name in ("dy", "dx")
        ),
    )
    is_high = nodes.add("Greater", "score", _threshold(nodes))
    stands = nodes.add("And", nodes.add("Or", is_peak, is_home), is_high)
    return nodes.add("Transpose", nodes.add("NonZero", stands), perm=[1, 0])


def _channel(nodes: Nodes, weights: NetworkWeights, name: str) -> str:
    index = nodes.integers(weights.channels.index(name))
    return nodes.add("Gather", "features", index, axis=1)


def _threshold(nodes: Nodes) -> str:
    """Take the larger of the absolute threshold and, unless it is 1, the quantile.

    Who knows the result feeds `LEVEL` instead of both.
    """
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
    top = nodes.add("Where", is_on, last, off)
    return nodes.add("Max", "threshold", top, name=LEVEL)


def _localise(
    nodes: Nodes, weights: NetworkWeights, cells: str, *, radius: int, vote_px: float
) -> None:
    """Average the votes around each candidate and write the rows.

    A mean shift from the candidate's own vote: both steps average the votes, weighted
    by how near they are to the place so far, so that a neighbour's votes do not pull.
    The second is as wide as the votes scattered in the first.
    """
    stride, channels = weights.stride, weights.channels
    offsets = np.mgrid[-radius : radius + 1, -radius : radius + 1].reshape(2, -1).T
    seen, is_outside = _gather(nodes, weights, cells, offsets)

    axes = nodes.integers(channels.index("dy"), channels.index("dx"))
    local = nodes.add("Gather", seen.features, axes, axis=1)
    votes = nodes.add("Add", local, nodes.constant(stride * offsets.T))
    near = np.where(np.abs(offsets).max(axis=1) <= 1, 0.0, _FAR)
    outside = nodes.add("Mul", is_outside, nodes.constant(_FAR))
    logits = nodes.add("Add", seen.log_weight, outside)

    first = _share(nodes, nodes.add("Add", logits, nodes.constant(near)))
    apart = _square_distance(nodes, votes, _average(nodes, first, votes))
    consistency = nodes.add("Sqrt", _average(nodes, first, apart))

    centre = nodes.integers(len(offsets) // 2)
    own_vote, log_weight = (
        nodes.add("Gather", value, centre, axis=2) for value in (votes, seen.log_weight)
    )
    wide = nodes.constant(-0.5 / vote_px**2)
    apart = _square_distance(nodes, votes, own_vote)
    share = _gated(nodes, logits, apart, wide)
    apart = _square_distance(nodes, votes, _average(nodes, share, votes))
    scatter = _average(nodes, share, apart)
    width = nodes.add("Max", scatter, nodes.constant(LEAST_GATE_PX**2))
    narrow = nodes.add("Div", nodes.constant(-0.5), width)
    share = _gated(nodes, logits, apart, narrow)
    measured = [seen.score, log_weight, consistency, _strongest(nodes, seen.contrast)]
    extras = [c for c in channels if c not in ("dy", "dx", "rho")]
    if extras:
        which = nodes.integers(*(channels.index(name) for name in extras))
        values = nodes.add("Gather", seen.features, which, axis=1)
        measured.append(_average(nodes, share, values))
    place = _place(nodes, cells, _average(nodes, share, votes), stride)
    row = nodes.add("Concat", *measured, axis=1)
    row = nodes.add("Cast", _flat(nodes, row), to=TensorProto.DOUBLE)
    nodes.add("Concat", place, row, name="detections", axis=1)


class _Seen(NamedTuple):
    """The maps in a window around each cell, (n, channels, window)."""

    features: str
    log_weight: str
    contrast: str
    score: str  # of the cell itself only


def _gather(
    nodes: Nodes, weights: NetworkWeights, cells: str, offsets: npt.NDArray[np.int_]
) -> tuple[_Seen, str]:
    """Collect the maps around each cell.

    Also says which places of the window lie outside the map: (n, 1, window).
    """
    n_channels, n_window = len(weights.channels), len(offsets)
    own = nodes.add("GatherND", "score", cells)
    own = nodes.add("Reshape", own, nodes.integers(-1, 1, 1))
    cells = nodes.add("Unsqueeze", cells, nodes.integers(2))
    image, _, row, column = nodes.split(cells, 4, 1)
    height, width = nodes.size("score", 2), nodes.size("score", 3)
    rows, is_row_outside = _inside(nodes, row, offsets[:, 0], height)
    columns, is_column_outside = _inside(nodes, column, offsets[:, 1], width)
    places = nodes.add("Add", nodes.add("Mul", rows, width), columns)
    is_outside = nodes.add("Or", is_row_outside, is_column_outside)
    is_outside = nodes.add("Cast", is_outside, to=TensorProto.FLOAT)
    n_cells = nodes.add("Mul", height, width)

    def around(value: str, places: str, n: int) -> str:
        """Single numbers are fetched fastest by GatherElements, from a flat map."""
        flat = nodes.add("Reshape", value, nodes.integers(-1))
        at = nodes.add("Reshape", places, nodes.integers(-1))
        values = nodes.add("GatherElements", flat, at, axis=0)
        return nodes.add("Reshape", values, nodes.integers(-1, n, n_window))

    first = nodes.add("Mul", image, n_cells)
    at = nodes.add("Add", first, places)
    log_weight, contrast = around("log_weight", at, 1), around("contrast", at, 1)
    channel = nodes.constant(np.arange(n_channels)[:, None], np.int64)
    first = nodes.add("Mul", image, nodes.integers(n_channels))
    first = nodes.add("Mul", nodes.add("Add", first, channel), n_cells)
    features = around("features", nodes.add("Add", first, places), n_channels)
    return _Seen(features, log_weight, contrast, own), is_outside


def _inside(
    nodes: Nodes, index: str, offsets: npt.NDArray[np.int_], size: str
) -> tuple[str, str]:
    """Shift indices, clipped into the map, and say which were clipped."""
    shifted = nodes.add("Add", index, nodes.integers(*offsets.tolist()))
    last = nodes.add("Sub", size, nodes.integers(1))
    clipped = nodes.add("Min", nodes.add("Max", shifted, nodes.integers(0)), last)
    return clipped, nodes.add("Not", nodes.add("Equal", shifted, clipped))


def _share(nodes: Nodes, logits: str) -> str:
    return nodes.add("Softmax", logits, axis=2)


def _gated(nodes: Nodes, logits: str, apart: str, gate: str) -> str:
    """Shares that fall with a vote's square distance; `gate`: -1/2 width²."""
    return _share(nodes, nodes.add("Add", logits, nodes.add("Mul", apart, gate)))


def _average(nodes: Nodes, share: str, values: str) -> str:
    """Weighted mean over the window: (n, channels, window) -> (n, channels, 1)."""
    products = nodes.add("Mul", share, values)
    return nodes.add("ReduceSum", products, nodes.integers(2), keepdims=1)


def _square_distance(nodes: Nodes, votes: str, place: str) -> str:
    """|vote - place|²: (n, 2, window) -> (n, 1, window)."""
    apart = nodes.add("Sub", votes, place)
    squares = nodes.add("Mul", apart, apart)
    return nodes.add("ReduceSum", squares, nodes.integers(1), keepdims=1)


def _strongest(nodes: Nodes, values: str) -> str:
    """Value farthest from 0 in the window, sign kept."""
    axis = nodes.integers(2)
    highest = nodes.add("ReduceMax", values, axis, keepdims=1)
    lowest = nodes.add("ReduceMin", values, axis, keepdims=1)
    is_bright = nodes.add("GreaterOrEqual", highest, nodes.add("Neg", lowest))
    return nodes.add("Where", is_bright, highest, lowest)


def _place(nodes: Nodes, cells: str, average: str, stride: int) -> str:
    """Columns image, row, column, y_px, x_px in float64."""
    cell = nodes.add("Cast", cells, to=TensorProto.DOUBLE)
    which = nodes.add("Gather", cell, nodes.integers(0, 2, 3), axis=1)
    step = nodes.constant(stride, np.float64)
    half = nodes.constant((stride - 1) / 2, np.float64)
    centre = nodes.add("Add", nodes.add("Mul", cell, step), half)
    centre = nodes.add("Gather", centre, nodes.integers(2, 3), axis=1)
    local = nodes.add("Cast", _flat(nodes, average), to=TensorProto.DOUBLE)
    return nodes.add("Concat", which, nodes.add("Add", centre, local), axis=1)


def _flat(nodes: Nodes, values: str) -> str:
    """Drop the window's axis: (n, channels, 1) -> (n, channels)."""
    return nodes.add("Squeeze", values, nodes.integers(2))
