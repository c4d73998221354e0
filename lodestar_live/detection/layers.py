"""The first half of the graph: camera pixels to the network's `features`."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from lodestar_live.detection.nodes import Nodes
from lodestar_live.detection.weights import (
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
    `scale`.
    """
    value = _normalise(nodes, weights)
    layers = weights.layers
    if isinstance(layers[0], LocalContrast):
        value, layers = _local_contrast(nodes, weights, layers[0], value)
    else:
        _pool(nodes, value, weights.stride, "contrast")
    for index, layer in enumerate(layers):
        name = "features" if index == len(layers) - 1 else ""
        value = _layer(nodes, layer, value, name)


def _normalise(nodes: Nodes, weights: NetworkWeights) -> str:
    """(pixels - background) / scale, padded by its edge to whole cells, at least 3."""
    counts = nodes.add("Cast", "pixels", to=TensorProto.FLOAT)
    contrast = nodes.add("Sub", counts, "background")
    unpadded = nodes.add("Div", contrast, "scale")
    grid = nodes.integers(weights.grid_px)
    size = nodes.add("Shape", "pixels", start=2, end=4)
    wanted = nodes.add("Max", size, nodes.integers(3 * weights.stride))
    wanted = nodes.add("Add", wanted, nodes.integers(weights.grid_px - 1))
    wanted = nodes.add("Mul", nodes.add("Div", wanted, grid), grid)
    missing = nodes.add("Sub", wanted, size)
    pads = nodes.add("Concat", nodes.integers(*[0] * 6), missing, axis=0)
    return nodes.add("Pad", unpadded, pads, mode="edge")


def _local_contrast(
    nodes: Nodes, weights: NetworkWeights, layer: LocalContrast, image: str
) -> tuple[str, tuple[Layer, ...]]:
    """Normalise locally, on the grid of cells; return the value and what follows."""
    blocks = _space_to_depth(nodes, layer.cell_px, image)
    n_pixels = layer.cell_px**2
    average = nodes.constant(np.full((1, n_pixels, 1, 1), 1 / n_pixels))
    means = nodes.add("Conv", blocks, average)
    background = _box_mean(nodes, means, layer.background_cells)
    deviation = nodes.add("Sub", means, background)
    power = nodes.add("Mul", deviation, deviation)
    power = _box_mean(nodes, power, layer.contrast_cells)
    power = nodes.add("Add", power, nodes.constant(layer.floor))
    gain = nodes.add("Reciprocal", nodes.add("Sqrt", power))

    blocks, background, gain = (_crop(nodes, v) for v in (blocks, background, gain))
    above = nodes.add("Sub", blocks, background)
    value = nodes.add("Mul", above, gain)
    if weights.layers[1] == SpaceToDepth(layer.cell_px):
        _crop(nodes, deviation, name="contrast")
        return value, weights.layers[2:]
    pixels = _depth_to_space(nodes, layer.cell_px, above)
    _pool(nodes, pixels, weights.stride, "contrast")
    return _depth_to_space(nodes, layer.cell_px, value), weights.layers[1:]


def _box_mean(nodes: Nodes, value: str, side: int) -> str:
    """Mean over `side` x `side` cells; cells outside the image do not count."""
    for kernel in ((1, side), (side, 1)):
        pads = [size // 2 for size in kernel] * 2
        value = nodes.add("AveragePool", value, kernel_shape=kernel, pads=pads)
    return value


def _crop(nodes: Nodes, value: str, name: str = "") -> str:
    """Cut the cells that only the local normalisation needed (input `crop`)."""
    top_left = nodes.add("Slice", "crop", nodes.integers(0), nodes.integers(2))
    bottom_right = nodes.add("Slice", "crop", nodes.integers(2), nodes.integers(4))
    size = nodes.add("Shape", value, start=2, end=4)
    end = nodes.add("Sub", size, bottom_right)
    return nodes.add("Slice", value, top_left, end, nodes.integers(2, 3), name=name)


def _pool(nodes: Nodes, value: str, factor: int, name: str) -> str:
    sides = [factor] * 2
    return nodes.add("AveragePool", value, name=name, kernel_shape=sides, strides=sides)


def _layer(nodes: Nodes, layer: Layer, value: str, name: str) -> str:
    if isinstance(layer, Conv):
        return _convolve(nodes, layer, value, name)
    if isinstance(layer, MaxPool):
        sides = [layer.factor] * 2
        return nodes.add("MaxPool", value, kernel_shape=sides, strides=sides)
    assert isinstance(layer, SpaceToDepth)  # noqa: S101 - narrows the type
    return _space_to_depth(nodes, layer.factor, value)


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
    return nodes.add("Relu", value, name=name) if layer.relu else value


def _space_to_depth(nodes: Nodes, factor: int, value: str) -> str:
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


def _depth_to_space(nodes: Nodes, factor: int, value: str) -> str:
    return nodes.add("DepthToSpace", value, blocksize=factor, mode="CRD")
