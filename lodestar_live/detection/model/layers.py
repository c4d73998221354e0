"""The first half of the graph: camera pixels to the network's `features`."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from lodestar_live.detection.model.nodes import PADDED, Nodes
from lodestar_live.detection.model.weights import (
    Conv,
    Layer,
    LocalContrast,
    MaxPool,
    NetworkWeights,
    SpaceToDepth,
)


def add_network(nodes: Nodes, weights: NetworkWeights) -> None:
    """Write everything from `pixels` to `features` and `contrast`.

    `contrast` is the mean of each cell's pixels above the background, in units of
    `scale`: the local background, if the network has one.
    """
    counts = nodes.add("Cast", "pixels", to=TensorProto.FLOAT)
    layers, n_channels = weights.layers, weights.n_inputs
    contrast = weights.contrast
    if contrast is not None:
        image = _pad(nodes, weights, counts)
        value = _local_contrast(nodes, weights, contrast, image)
        is_folded = weights.layers[1] == SpaceToDepth(contrast.cell_px)
        layers = layers[2:] if is_folded else layers[1:]
        n_channels = contrast.cell_px**2 if is_folded else 1
    else:
        above = nodes.add("Sub", counts, "background")
        value = _pad(nodes, weights, nodes.add("Div", above, "scale"))
        _pool(nodes, value, weights.stride, "contrast")
    for index, layer in enumerate(layers):
        name = "features" if index == len(layers) - 1 else ""
        value, n_channels = _layer(nodes, layer, value, n_channels, name)


def _pad(nodes: Nodes, weights: NetworkWeights, image: str) -> str:
    """Repeat the last row and column up to whole cells, at least 3."""
    grid = nodes.integers(weights.grid_px)
    size = nodes.add("Shape", "pixels", start=2, end=4)
    wanted = nodes.add("Max", size, nodes.integers(3 * weights.stride))
    wanted = nodes.add("Add", wanted, nodes.integers(weights.grid_px - 1))
    wanted = nodes.add("Mul", nodes.add("Div", wanted, grid), grid)
    missing = nodes.add("Sub", wanted, size)
    pads = nodes.add("Concat", nodes.integers(*[0] * 6), missing, axis=0)
    return nodes.add("Pad", image, pads, mode="edge", name=PADDED)


def _local_contrast(
    nodes: Nodes, weights: NetworkWeights, layer: LocalContrast, image: str
) -> str:
    """Normalise locally. Pixels are touched once; the rest happens per block.

    The frame's `background` drops out, and its `scale` only enters the floor.
    Of a tile the maps `LOCAL` come from a larger surround; see `surround`.
    """
    blocks = nodes.add("SpaceToDepth", image, blocksize=layer.cell_px)
    side = layer.cell_px
    average = nodes.constant(np.full((1, 1, side, side), 1 / side**2))
    # Straight from the image: who needs the means only need not sort its pixels.
    means = nodes.add("Conv", image, average, strides=[side, side])
    background = _box_mean(nodes, means, layer.background_cells, "local_background")
    deviation = nodes.add("Sub", means, background, name="local_deviation")
    power = nodes.add("Mul", deviation, deviation)
    power = _box_mean(nodes, power, layer.contrast_cells)
    noise = nodes.add("Mul", "scale", "scale")
    floor = nodes.add("Mul", noise, nodes.constant(layer.floor))
    spread = nodes.add("Sqrt", nodes.add("Add", power, floor))
    gain = nodes.add("Reciprocal", spread, name="local_gain")

    above = nodes.add("Sub", blocks, background)
    value = nodes.add("Mul", above, gain)
    if weights.layers[1] == SpaceToDepth(layer.cell_px):
        nodes.add("Div", deviation, "scale", name="contrast")
        return value
    pixels = _depth_to_space(nodes, layer.cell_px, nodes.add("Div", above, "scale"))
    _pool(nodes, pixels, weights.stride, "contrast")
    return _depth_to_space(nodes, layer.cell_px, value)


def _box_mean(nodes: Nodes, value: str, side: int, name: str = "") -> str:
    """Mean over `side` x `side` cells; cells outside the image do not count."""
    half = side // 2
    value = nodes.add(
        "AveragePool", value, kernel_shape=[1, side], pads=[0, half, 0, half]
    )
    return nodes.add(
        "AveragePool", value, name=name, kernel_shape=[side, 1], pads=[half, 0, half, 0]
    )


def _pool(nodes: Nodes, value: str, factor: int, name: str) -> str:
    sides = [factor] * 2
    return nodes.add("AveragePool", value, name=name, kernel_shape=sides, strides=sides)


def _layer(
    nodes: Nodes, layer: Layer, value: str, n_channels: int, name: str
) -> tuple[str, int]:
    """Write one layer; return its value and its number of channels."""
    if isinstance(layer, Conv):
        return _convolve(nodes, layer, value, name), len(layer.weight)
    if isinstance(layer, MaxPool):
        sides = [layer.factor] * 2
        value = nodes.add("MaxPool", value, kernel_shape=sides, strides=sides)
        return value, n_channels
    assert isinstance(layer, SpaceToDepth)  # noqa: S101 - narrows the type
    value = _space_to_depth(nodes, layer.factor, value, n_channels)
    return value, n_channels * layer.factor**2


def _convolve(nodes: Nodes, layer: Conv, value: str, name: str) -> str:
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
    if not layer.relu:
        return value
    if layer.leak:
        return nodes.add("LeakyRelu", value, name=name, alpha=layer.leak)
    return nodes.add("Relu", value, name=name)


def _space_to_depth(nodes: Nodes, factor: int, value: str, n_channels: int) -> str:
    """Channel order of torch's pixel_unshuffle: channel, block row, block column."""
    value = nodes.add("SpaceToDepth", value, blocksize=factor)
    if n_channels == 1:
        return value
    # ONNX puts the channel last.
    order = np.arange(n_channels * factor**2).reshape(-1, n_channels).T.ravel()
    return nodes.add("Gather", value, nodes.integers(*order.tolist()), axis=1)


def _depth_to_space(nodes: Nodes, factor: int, value: str) -> str:
    return nodes.add("DepthToSpace", value, blocksize=factor, mode="DCR")
