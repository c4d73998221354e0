"""Tiles that bring along what their local normalisation reads.

A tile's network needs some cells around what the tile answers for; its local
normalisation reads farther, but only means of blocks. So a tile comes twice: as the
`pixels` of the network, and as a larger `surround` from which the maps `LOCAL` are
made. `places` says which of their cells are the tile's, as flat indices into those maps
one after the other, (n, maps, rows, columns).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from lodestar_live.detection.frame.tiles import Layout, Tiles
from lodestar_live.detection.model.nodes import LOCAL, copied, cut

SURROUND = ("surround", "places")
_PREFIX = "surround_"


def surrounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model whose `LOCAL` maps are made from `surround`."""
    nodes = _of_surround(model)
    copy = copied(model)
    for node in copy.graph.node:  # nobody reads these maps any more
        for index, name in enumerate(node.output):
            if name in LOCAL:
                node.output[index] = f"{name}_of_pixels"
    for node in reversed(nodes):
        copy.graph.node.insert(0, node)
    flat = numpy_helper.from_array(np.array([-1], np.int64), "surround_flat")
    copy.graph.initializer.append(flat)
    pixels = next(v for v in copy.graph.input if v.name == "pixels")
    surround = onnx.ValueInfoProto()
    surround.CopyFrom(pixels)
    surround.name = "surround"
    for dim in surround.type.tensor_type.shape.dim[2:]:
        dim.dim_param = _PREFIX + dim.dim_param
    shape: list[str | int | None] = ["n", len(LOCAL), "tile_rows", "tile_columns"]
    chosen = helper.make_tensor_value_info("places", TensorProto.INT32, shape)
    copy.graph.input.extend([surround, chosen])
    return copy


def _of_surround(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes that make `LOCAL` from `surround`, under names of their own."""
    given = [value.name for value in model.graph.input]
    local = cut(model, given, LOCAL).graph
    constants = (tensor.name for tensor in local.initializer)
    shared = {"", *given, *constants} - {"pixels"}
    for node in local.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = name if name in shared else _renamed(name)
    return [*local.node, *_choose([_renamed(name) for name in LOCAL])]


def places(layout: Layout, tiles: Tiles) -> npt.NDArray[np.int32]:
    """Return where the cells of tiles, all of one size, lie in their surrounds."""
    block, first = layout.block_px, tiles[0]
    height, width = layout.blocks(first.surround_shape)
    firsts = [
        (tile.rows.pixels[0] - tile.rows.surround[0]) // block * width
        + (tile.columns.pixels[0] - tile.columns.surround[0]) // block
        for tile in tiles
    ]
    maps = np.arange(len(LOCAL) * len(tiles), dtype=np.int32) * (height * width)
    starts = maps.reshape(-1, len(LOCAL)) + np.array(firsts, np.int32)[:, None]
    within = _within(layout.blocks(first.shape), width)
    return np.asarray(starts[..., None, None] + within)


@lru_cache(maxsize=64)
def _within(tile: tuple[int, int], width: int) -> npt.NDArray[np.int32]:
    rows, columns = np.ogrid[: tile[0], : tile[1]]
    return np.asarray(rows * width + columns, np.int32)


def _renamed(name: str) -> str:
    return "surround" if name == "pixels" else _PREFIX + name


def _choose(maps: list[str]) -> list[onnx.NodeProto]:
    """Single numbers are fetched fastest by GatherElements, from a flat map."""
    make = helper.make_node
    return [
        make("Concat", maps, ["surround_maps"], axis=1),
        make("Reshape", ["surround_maps", "surround_flat"], ["surround_all"]),
        make("Reshape", ["places", "surround_flat"], ["places_flat"]),
        make("GatherElements", ["surround_all", "places_flat"], ["tiles_flat"], axis=0),
        make("Shape", ["places"], ["places_shape"]),
        make("Reshape", ["tiles_flat", "places_shape"], ["tiles_maps"]),
        make("Split", ["tiles_maps"], list(LOCAL), axis=1, num_outputs=len(maps)),
    ]
