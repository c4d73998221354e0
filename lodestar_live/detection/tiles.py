"""Cut frames into tiles whose detections are those of the whole frame.

A tile owns a rectangle of cells. It reads so much more around it that every owned
cell is computed from the same numbers as in the whole frame: the window of the local
average, the reach of the network, and the reach of the local normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lodestar_live.data import FloatArray, Pixels
from lodestar_live.detection.opening import CLOSED, Opening

_LEAST_STRIP_CELLS = 24  # thinner strips lose more at their edges than they gain
_LEAST_BATCH = 3  # fewer tiles are done before a second thread has begun


class Span(NamedTuple):
    """A half-open interval along one axis."""

    start: int
    stop: int


Region = tuple[Span, Span]


class Tile(NamedTuple):
    """Part of a frame and the cells it answers for.

    Parameters
    ----------
    pixels
        (y, x) spans that the network reads, px.
    surround
        (y, x) spans that the local normalisation reads, px.
    origin
        (row, column) in the frame's map of the tile's first cell.
    owned
        (rows, columns) spans of the frame's map.
    opening
        The sides on which its maps shrink.
    """

    pixels: Region
    surround: Region
    origin: tuple[int, int]
    owned: Region
    opening: Opening = CLOSED

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) that the network reads, px."""
        y, x = self.pixels
        return y.stop - y.start, x.stop - x.start


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

    def parts(self, shape: Sequence[int], max_px: int, n_parallel: int) -> list[Tile]:
        """Return parts that own every cell once and normalise for themselves.

        Only for models that can be opened. As many strips as can be computed side by
        side, if the frame is high enough; tiles of about `max_px` if it is large.
        """
        rows, columns = self.map_shape(shape)
        n_strips = n_parallel if rows >= n_parallel * _LEAST_STRIP_CELLS else 1
        bands, across = _spans(rows, -(-rows // n_strips)), [Span(0, columns)]
        if shape[0] * shape[1] > max_px:
            side = max(8, math.isqrt(max_px) // self.stride)
            bands, across = _spans(rows, side), _spans(columns, side)
        return [self._part(owned, shape) for owned in product(bands, across)]

    def _part(self, owned: Region, shape: Sequence[int]) -> Tile:
        margin = self.margin_px // self.stride
        rim = _ceil(self.contrast_margin_px, self.grid_px) // self.stride
        reach = (self._around_cells + margin + rim) * self.stride
        spans, is_open, origin = [], [], []
        for (first, last), size in zip(owned, shape, strict=True):
            start = (first * self.stride - reach) // self.grid_px * self.grid_px
            stop = _ceil(last * self.stride + reach, self.grid_px)
            is_open.append((start > 0, stop < size))
            spans.append(Span(max(0, start), min(stop, size)))
            origin.append(start // self.stride + margin + rim if start > 0 else 0)
        (top, bottom), (left, right) = is_open
        opening = Opening(top, left, bottom, right, rim)
        region = (spans[0], spans[1])
        return Tile(region, region, (origin[0], origin[1]), owned, opening)

    def tile(self, owned: Region, shape: Sequence[int]) -> Tile:
        """Return the closed tile that answers for the cells `owned` of a frame."""
        axes = [self._axis(*pair) for pair in zip(owned, shape, strict=True)]
        (y, y_surround), (x, x_surround) = axes
        origin = (y.start // self.stride, x.start // self.stride)
        return Tile((y, x), (y_surround, x_surround), origin, owned)

    def _axis(self, owned: Span, size: int) -> tuple[Span, Span]:
        """Return the pixels that the network and the normalisation read."""
        start, length = self._reach(owned)
        # Tiles of as many cells read as many pixels, at the frame's edge too, so that
        # they can run together.
        start = max(0, min(start, _ceil(size, self.grid_px) - length))
        inner = Span(start, min(size, start + length))
        reach = _ceil(self.contrast_margin_px, self.grid_px)
        return inner, self._widen(inner, reach, size)

    def _reach(self, owned: Span) -> tuple[int, int]:
        """Return the first pixel that the network reads, and how many, edges aside."""
        reach = _ceil(self._around_cells * self.stride + self.margin_px, self.grid_px)
        first = (owned.start * self.stride - reach) // self.grid_px * self.grid_px
        n_px = (owned.stop - owned.start - 1) * self.stride + self.grid_px
        return first, _ceil(n_px, self.grid_px) + 2 * reach

    def _opened(self, tile: Tile, shape: Sequence[int]) -> Tile:
        """Return the tile open on all sides if the frame goes on there."""
        for owned, size in zip(tile.owned, shape, strict=True):
            start, length = self._reach(owned)
            if not self.can_open or start < 0 or start + length > size:
                return tile
        margin = self.margin_px // self.stride
        row, column = tile.origin
        opening = Opening(top=True, left=True, bottom=True, right=True)
        return tile._replace(origin=(row + margin, column + margin), opening=opening)

    def _widen(self, span: Span, reach: int, size: int) -> Span:
        start = max(0, span.start - reach) // self.grid_px * self.grid_px
        return Span(start, min(size, _ceil(span.stop + reach, self.grid_px)))

    def whole(self, shape: Sequence[int], max_px: int) -> list[Tile]:
        """Return closed tiles of at most about `max_px` pixels that own every cell."""
        rows, columns = self.map_shape(shape)
        side = max(8, math.isqrt(max_px) // self.stride)
        if shape[0] * shape[1] <= max_px:
            side = max(rows, columns)
        spans = product(_spans(rows, side), _spans(columns, side))
        return [self.tile(owned, shape) for owned in spans]

    def around(
        self, positions_px: FloatArray, reach_px: float, shape: Sequence[int]
    ) -> list[Tile]:
        """Return tiles that own the cells within `reach_px` of each position."""
        limits = np.array(self.map_shape(shape))
        first = np.floor((positions_px - reach_px) / self.stride).astype(int)
        size = math.ceil(2 * reach_px / self.stride) + 1
        first = np.clip(first, 0, np.maximum(limits - size, 0))
        stop = np.minimum(first + size, limits)
        corners = np.hstack([first, stop])
        if len(corners) > 1:
            corners = np.unique(corners, axis=0)
        owned = [(Span(int(a), int(c)), Span(int(b), int(d))) for a, b, c, d in corners]
        return [self._opened(self.tile(cells, shape), shape) for cells in owned]


def batches(
    tiles: Iterable[Tile], max_px: int, n_parallel: int = 1
) -> Iterator[list[Tile]]:
    """Group tiles that can run together: alike, `max_px` in all.

    Where parts run side by side, groups are split so that all have something to do.
    """
    groups: dict[tuple[tuple[int, int], Opening], list[Tile]] = {}
    for tile in tiles:
        groups.setdefault((tile.shape, tile.opening), []).append(tile)
    for ((height, width), _), group in groups.items():
        most = max(1, max_px // (height * width))
        fair = max(_LEAST_BATCH, math.ceil(len(group) / n_parallel))
        step = min(most, fair)
        for start in range(0, len(group), step):
            yield group[start : start + step]


def area(region: Region) -> int:
    """Return the number of pixels in a region."""
    (top, bottom), (left, right) = region
    return (bottom - top) * (right - left)


def bounding(regions: Sequence[Region]) -> Region:
    """Return the smallest region that holds all `regions`."""
    edges = np.array(regions)  # (n, axis, start or stop)
    (top, left), (bottom, right) = edges[..., 0].min(axis=0), edges[..., 1].max(axis=0)
    return Span(int(top), int(bottom)), Span(int(left), int(right))


def cut_out(
    image: Pixels, region: Region, within: Region | None = None, step: int = 1
) -> Pixels:
    """Return a view of `region` in an image (..., y, x).

    Parameters
    ----------
    image
        The frame, or a map of its part `within`.
    region
        What to cut, px of the frame.
    within
        What `image` shows, px of the frame; None: all of it.
    step
        Pixels per element of `image`.
    """
    slices = []
    for axis, span in enumerate(region):
        start, stop = within[axis] if within else (0, image.shape[axis - 2])
        is_end = span.stop == stop  # maps may be padded there
        end = None if is_end else (span.stop - start) // step
        slices.append(slice((span.start - start) // step, end))
    return image[..., slices[0], slices[1]]


def owned_rows(
    tiles: Sequence[Tile], found: npt.NDArray[np.float64], layout: Layout
) -> npt.NDArray[np.float64]:
    """Move the detections of tiles into the frame, keeping those of cells they own.

    `found` has columns image (index of the tile), row, column, y_px, x_px first; see
    `graph.COLUMNS`.
    """
    index = found[:, 0].astype(np.intp)
    origin = np.array([tile.origin for tile in tiles], dtype=float)[index]
    owned = np.array([tile.owned for tile in tiles])[index]
    moved = found.copy()
    moved[:, 1:3] += origin
    moved[:, 3:5] += layout.stride * origin
    cell = moved[:, 1:3]
    is_owned = ((owned[..., 0] <= cell) & (cell < owned[..., 1])).all(axis=1)
    return np.asarray(moved[is_owned])


def _spans(size: int, side: int) -> list[Span]:
    n = max(1, math.ceil(size / side))
    edges = np.linspace(0, size, n + 1).round().astype(int).tolist()
    return [Span(a, b) for a, b in pairwise(edges)]


def _ceil(value: int, step: int) -> int:
    return -(-value // step) * step
