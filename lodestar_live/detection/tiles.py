"""Cut frames into tiles whose detections are those of the whole frame.

A tile owns a rectangle of cells. It reads so much more around it that every owned
cell is computed from the same numbers as in the whole frame: the window of the local
average, the reach of the network, and the reach of the local normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise, product
from typing import Any

import numpy as np
import numpy.typing as npt

from lodestar_live.data import FloatArray, Pixels
from lodestar_live.detection.opening import Opening

_LEAST_STRIP_CELLS = 24  # thinner strips lose more at their edges than they gain
_LEAST_KIND = 4  # fewer tiles are done, closed, before a run of their own would be

IntArray = npt.NDArray[np.int64]
Sides = npt.NDArray[np.bool_]  # (n, 4), as `Opening` orders them


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """Parts of a frame and the cells they answer for, one row each.

    Parameters
    ----------
    pixels
        What the network reads, px: (n, axis, start or stop), half-open.
    surround
        What the local normalisation reads, px, likewise.
    origin
        (row, column) in the frame's map of each tile's first cell, (n, 2).
    owned
        Cells of the frame's map, (n, axis, start or stop).
    is_open
        Sides on which their maps shrink.
    rim_cells
        Of each `Opening`.
    """

    pixels: IntArray
    surround: IntArray
    origin: IntArray
    owned: IntArray
    is_open: Sides
    rim_cells: int = 0

    def __len__(self) -> int:
        return len(self.owned)

    def __getitem__(self, index: slice | Sequence[int]) -> Tiles:
        """Return some of the tiles."""
        return Tiles(
            self.pixels[index],
            self.surround[index],
            self.origin[index],
            self.owned[index],
            self.is_open[index],
            self.rim_cells,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) that the network reads of each, px, if they are alike."""
        height, width = np.diff(self.pixels[0])[:, 0].tolist()
        return height, width

    @property
    def opening(self) -> Opening:
        """The sides on which the maps of each shrink, if they are alike."""
        top, left, bottom, right = self.is_open[0].tolist()
        return Opening(top, left, bottom, right, self.rim_cells)

    def alike(self) -> Iterator[Tiles]:
        """Group tiles that read as many pixels; those of one kind follow each other."""
        if len(self) == 1:
            yield self
            return
        spans = np.concatenate([self.pixels, self.surround], axis=1)
        sizes = spans[..., 1] - spans[..., 0]
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, key in enumerate(map(tuple, sizes.tolist())):
            groups.setdefault(key, []).append(index)
        kinds = _kinds(self.is_open).tolist()
        for group in groups.values():
            yield self[sorted(group, key=kinds.__getitem__)]

    def shares(self, fair_share: float, max_px: int) -> Iterator[slice]:
        """Yield runs of tiles of one kind, for tiles that are `alike`.

        Each about `fair_share` tiles, and `max_px` at most if it is more than one.
        """
        if len(self) == 1:
            yield slice(0, 1)
            return
        most = max(1, max_px // math.prod(self.shape))
        ends = [*np.flatnonzero(np.diff(_kinds(self.is_open))) + 1, len(self)]
        for start, end in pairwise([0, *ends]):
            n_shares = max(1, round((end - start) / fair_share))
            step = min(-(-(end - start) // n_shares), most)
            for first in range(start, end, step):
                yield slice(first, min(first + step, end))


@dataclass(frozen=True, slots=True)
class Layout:
    """What a model needs around a cell; see `NetworkWeights`.

    `can_open`: see `opening.can_open`.
    """

    stride: int
    grid_px: int
    block_px: int
    margin_px: int
    contrast_margin_px: int
    window_cells: int
    can_open: bool = False

    @classmethod
    def of(cls, card: Mapping[str, Any], *, can_open: bool = False) -> Layout:
        """Read the layout from a model's card."""
        return cls(
            stride=card["stride"],
            grid_px=card["grid_px"],
            block_px=card["block_px"],
            margin_px=card["margin_px"],
            contrast_margin_px=card["contrast_margin_px"],
            window_cells=max(1, round(card["window_px"] / card["stride"])),
            can_open=can_open,
        )

    @property
    def _around_cells(self) -> int:
        """Cells that the read-out sees around a cell; 2: the score of a neighbour."""
        return max(2, self.window_cells)

    def map_shape(self, shape: Sequence[int]) -> tuple[int, int]:
        """Return (rows, columns) of the map of a frame of `shape`."""
        rows, columns = (
            _ceil(max(size, 3 * self.stride), self.grid_px) // self.stride
            for size in shape
        )
        return rows, columns

    @lru_cache(maxsize=16)  # noqa: B019 - layouts are few numbers, and equal by value
    def parts(self, shape: tuple[int, ...], max_px: int, n_parallel: int) -> Tiles:
        """Return strips that own every cell once and normalise for themselves.

        Only for models that can be opened. As many as can be computed side by side, if
        the frame is high enough; more if it has more than `max_px` pixels. A camera's
        frames are of one shape: the last answers are kept.
        """
        rows, columns = self.map_shape(shape)
        n_strips = n_parallel if rows >= n_parallel * _LEAST_STRIP_CELLS else 1
        side = -(-rows // n_strips)
        if shape[0] * shape[1] > max_px:
            # First, middle and last strips keep memory of their own, and one more for
            # each that runs beside another.
            strip_px = max_px // (n_parallel + 2)
            side = max(8, strip_px // (columns * self.stride**2))
        owned = _grid((rows, columns), (side, columns))
        stride, margin = self.stride, self.margin_px // self.stride
        rim = _ceil(self.contrast_margin_px, self.grid_px) // stride
        reach = (self._around_cells + margin + rim) * stride
        start = (owned[..., 0] * stride - reach) // self.grid_px * self.grid_px
        stop = _ceil(owned[..., 1] * stride + reach, self.grid_px)
        is_open = np.hstack([start > 0, stop < np.array(shape)])
        start, stop = np.maximum(start, 0), np.minimum(stop, shape)
        origin = np.where(start > 0, start // stride + margin + rim, 0)
        spans = np.stack([start, stop], axis=2)
        return Tiles(spans, spans, origin, owned, is_open, rim)

    def whole(self, shape: Sequence[int], max_px: int) -> Tiles:
        """Return closed tiles of at most about `max_px` pixels that own every cell."""
        rows, columns = self.map_shape(shape)
        sides = (self._side_cells(max_px),) * 2
        if shape[0] * shape[1] <= max_px:
            sides = (rows, columns)
        return self._tiles(_grid((rows, columns), sides), shape, can_open=False)

    def around(
        self,
        positions_px: FloatArray,
        reach_px: FloatArray | float,
        shape: Sequence[int],
    ) -> Tiles:
        """Return tiles that own the cells within `reach_px` of each position.

        `reach_px`: one for all, or one each. The tiles are open where the frame goes on
        beyond what they read.
        """
        limits = np.array(self.map_shape(shape))
        reach = np.broadcast_to(reach_px, len(positions_px))[:, None]
        first = np.floor((positions_px - reach) / self.stride).astype(np.int64)
        size = np.ceil(2 * reach / self.stride).astype(np.int64) + 1
        first = np.clip(first, 0, np.maximum(limits - size, 0))
        owned = np.stack([first, np.minimum(first + size, limits)], axis=2)
        if len(owned) > 1:  # each tile once; np.unique takes longer
            flat = dict.fromkeys(map(tuple, owned.reshape(-1, 4).tolist()))
            owned = np.array(list(flat)).reshape(-1, 2, 2)
        return self._tiles(owned, shape, can_open=self.can_open)

    def _tiles(self, owned: IntArray, shape: Sequence[int], *, can_open: bool) -> Tiles:
        grid, size = self.grid_px, np.array(shape)
        reach = _ceil(self._around_cells * self.stride + self.margin_px, grid)
        first = (owned[..., 0] * self.stride - reach) // grid * grid
        n_px = (owned[..., 1] - owned[..., 0] - 1) * self.stride + grid
        length = _ceil(n_px, grid) + 2 * reach
        rim = _ceil(self.contrast_margin_px, grid)
        pixels = _inside(first, length, size, grid)
        surround = _inside(pixels[..., 0] - rim, length + 2 * rim, size, grid)
        is_open = np.hstack([first >= 0, first + length <= size]) & can_open
        is_open = _of_few_kinds(is_open)
        origin = pixels[..., 0] // self.stride
        origin += is_open[:, :2] * (self.margin_px // self.stride)
        return Tiles(pixels, surround, origin, owned, is_open)

    def map_side(self, length_px: int) -> int:
        """Return how many blocks the graph makes of so many pixels of a tile."""
        padded_px: int = _ceil(max(length_px, 3 * self.stride), self.grid_px)
        return padded_px // self.block_px

    def _side_cells(self, max_px: int) -> int:
        return max(8, math.isqrt(max_px) // self.stride)


def bounding(spans: IntArray) -> IntArray:
    """Return the smallest region (axis, start or stop) that holds all of `spans`."""
    return np.stack([spans[..., 0].min(axis=0), spans[..., 1].max(axis=0)], axis=1)


def area(spans: IntArray) -> int:
    """Return the number of pixels in regions (..., axis, start or stop)."""
    return int(np.diff(spans)[..., 0].prod(axis=-1).sum())


def windows(
    images: Pixels, index: npt.NDArray[np.int64], start: IntArray, shape: Sequence[int]
) -> Pixels:
    """Return windows of one shape, (n, channels, y, x).

    Parameters
    ----------
    images
        Shape (m, channels, y, x).
    index
        Which image each window is cut from, (n,).
    start
        Its first pixel, (n, 2).
    """
    if len(start) == 1:  # a strip of whole rows is not copied
        ((top, left),), (height, width) = start, shape
        one = images[index[0], :, top : top + height, left : left + width]
        return np.ascontiguousarray(one)[None]
    size = np.array(images.shape[2:]) - shape + 1
    steps = images.strides
    views = np.lib.stride_tricks.as_strided(  # sliding_window_view takes longer
        images, (*images.shape[:2], *size, *shape), (*steps, *steps[2:])
    )
    return np.ascontiguousarray(views[index, :, start[:, 0], start[:, 1]])


def owned_rows(
    groups: Sequence[Tiles], found: Sequence[npt.NDArray[np.float64]], stride: int
) -> npt.NDArray[np.float64]:
    """Move the detections of tiles into the frame, keeping those of cells they own.

    `found` has, for each group, columns image (index of the tile in it), row, column,
    y_px, x_px first; see `graph.COLUMNS`.
    """
    moved = np.concatenate(found)
    index = moved[:, 0].astype(np.intp)
    if len(groups) > 1:
        first = accumulate(map(len, groups[:-1]), initial=0)
        index += np.repeat(list(first), [len(rows) for rows in found])
    origin = np.concatenate([tiles.origin for tiles in groups])[index]
    owned = np.concatenate([tiles.owned for tiles in groups])[index]
    moved[:, 1:3] += origin
    moved[:, 3:5] += stride * origin
    cell = moved[:, 1:3]
    is_within = (owned[..., 0] <= cell) & (cell < owned[..., 1])
    return np.asarray(moved[is_within[:, 0] & is_within[:, 1]])


def _kinds(is_open: Sides) -> IntArray:
    """Return a number for the open sides of each tile."""
    return np.asarray(is_open @ np.array([1, 2, 4, 8]))


def _of_few_kinds(is_open: Sides) -> Sides:
    """Close sides of tiles of rare kinds until these are one kind: a run costs more."""
    kind = _kinds(is_open)
    is_rare = np.bincount(kind)[kind] < _LEAST_KIND
    common = is_open[is_rare].all(axis=0)
    return np.asarray(np.where(is_rare[:, None], is_open & common, is_open))


def _inside(first: IntArray, length: IntArray, size: IntArray, grid: int) -> IntArray:
    """Return spans of `length` from `first`, moved into the frame.

    Tiles of as many cells read as many pixels, at the frame's edge too, so that they
    can run together.
    """
    start = np.maximum(0, np.minimum(first, _ceil(size, grid) - length))
    return np.stack([start, np.minimum(size, start + length)], axis=2)


def _grid(shape: tuple[int, int], sides: tuple[int, int]) -> IntArray:
    """Return rectangles of about `sides` that cover a map, (n, axis, start or stop)."""
    spans = [_spans(*pair) for pair in zip(shape, sides, strict=True)]
    return np.array([np.stack(pair) for pair in product(*spans)])


def _spans(size: int, side: int) -> IntArray:
    n = max(1, math.ceil(size / side))
    edges = np.linspace(0, size, n + 1).round().astype(np.int64)
    return np.column_stack([edges[:-1], edges[1:]])


def _ceil(value: Any, step: int) -> Any:
    return -(-value // step) * step
