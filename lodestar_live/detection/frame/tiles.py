"""Cut frames into tiles whose detections are those of the whole frame.

A tile owns a rectangle of cells. It reads so much more around it that every owned
cell is computed from the same numbers as in the whole frame: the window of the local
average, the reach of the network, and the reach of the local normalisation.

Tiles are plain numbers, not arrays: a frame has few, and numpy takes longer to begin
than Python to do them all.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lodestar_live.data import FloatArray, Pixels
from lodestar_live.detection.model.valid_sides import CLOSED, Opening
from lodestar_live.model_card import ModelCard

_LEAST_STRIP_CELLS = 24  # thinner strips lose more at their edges than they gain
_LEAST_KIND = 4  # fewer tiles are done, closed, before a run of their own would be
_LEAST_SHARE = 3  # fewer tiles are done before a second thread has begun
_RUN_COST = 2  # to begin a run, in tiles

Span = tuple[int, int]  # start and stop, half-open


class Side(NamedTuple):
    """A tile along one axis.

    Parameters
    ----------
    owned
        Cells of the frame's map.
    pixels
        What the network reads, px.
    surround
        What the local normalisation reads, px.
    goes_on
        Whether the frame does, before and behind what the network reads.
    """

    owned: Span
    pixels: Span
    surround: Span
    goes_on: tuple[bool, bool]


class Tile(NamedTuple):
    """A part of a frame and the cells it answers for.

    `opening`: on which sides its maps shrink.
    """

    rows: Side
    columns: Side
    opening: Opening = CLOSED

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) that the network reads, px."""
        return _length(self.rows.pixels), _length(self.columns.pixels)

    @property
    def surround_shape(self) -> tuple[int, int]:
        """(height, width) that the local normalisation reads, px."""
        return _length(self.rows.surround), _length(self.columns.surround)


Tiles = Sequence[Tile]


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
    def of(cls, card: ModelCard, *, can_open: bool = False) -> Layout:
        """Read the layout from a model's card."""
        return cls(
            stride=card.stride,
            grid_px=card.grid_px,
            block_px=card.block_px,
            margin_px=card.margin_px,
            contrast_margin_px=card.contrast_margin_px,
            window_cells=max(1, round(card.window_px / card.stride)),
            can_open=can_open,
        )

    @property
    def _around_cells(self) -> int:
        """Cells that the read-out sees around a cell; 2: the score of a neighbour."""
        return max(2, self.window_cells)

    @property
    def _rim_px(self) -> int:
        """What the local normalisation reads around what the network reads."""
        return _ceil(self.contrast_margin_px, self.grid_px)

    def map_shape(self, shape: Sequence[int]) -> tuple[int, int]:
        """Return (rows, columns) of the map of a frame of `shape`."""
        rows, columns = (
            _ceil(max(size, 3 * self.stride), self.grid_px) // self.stride
            for size in shape
        )
        return rows, columns

    def blocks(self, shape: Sequence[int]) -> tuple[int, int]:
        """Return (rows, columns) of blocks that the graph makes of a tile's pixels."""
        per_cell = self.stride / self.block_px
        rows, columns = (round(side * per_cell) for side in self.map_shape(shape))
        return rows, columns

    def origin(self, tile: Tile) -> tuple[int, int]:
        """Return (row, column) in the frame's map of the first cell of a tile's map."""
        lost = self.margin_px // self.stride + tile.opening.rim_cells
        row = tile.rows.pixels[0] // self.stride + lost * tile.opening.top
        column = tile.columns.pixels[0] // self.stride + lost * tile.opening.left
        return row, column

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
        reach = self._around_cells * self.stride + self.margin_px + self._rim_px
        across = self._strip((0, columns), reach, shape[1])
        rim_cells = self._rim_px // self.stride
        strips = (self._strip(owned, reach, shape[0]) for owned in _spans(rows, side))
        return [_opened(along, across, rim_cells) for along in strips]

    def _strip(self, owned: Span, reach_px: int, size_px: int) -> Side:
        """Return one side of what reads `reach_px` around the cells it owns."""
        start = (owned[0] * self.stride - reach_px) // self.grid_px * self.grid_px
        stop = _ceil(owned[1] * self.stride + reach_px, self.grid_px)
        pixels = max(start, 0), min(stop, size_px)
        return Side(owned, pixels, pixels, (start > 0, stop < size_px))

    def whole(self, shape: Sequence[int], max_px: int) -> Tiles:
        """Return closed tiles of at most about `max_px` pixels that own every cell."""
        side = max(8, math.isqrt(max_px) // self.stride)
        if shape[0] * shape[1] <= max_px:
            side = max(self.map_shape(shape))
        spans = (_spans(size, side) for size in self.map_shape(shape))
        height, width = shape
        return [
            Tile(self._side(rows, height), self._side(columns, width))
            for rows, columns in product(*spans)
        ]

    def around(
        self,
        positions_px: FloatArray,
        reach_px: FloatArray | float,
        shape: Sequence[int],
    ) -> Tiles:
        """Return tiles that own the cells within `reach_px` of each position.

        `reach_px`: one for all, or one each. The tiles are open where the frame goes on
        beyond what they read. Places farther outside the frame have none.
        """
        (height, width), (n_rows, n_columns) = shape, self.map_shape(shape)
        reach = np.broadcast_to(reach_px, len(positions_px)) / self.stride
        cells = positions_px / self.stride
        owned = {
            (_cells(y, far, n_rows), _cells(x, far, n_columns)): None
            for (y, x), far in zip(cells.tolist(), reach.tolist(), strict=True)
            if not (y < -far or y > n_rows + far or x < -far or x > n_columns + far)
        }  # each once, in order
        tiles = [
            (self._side(rows, height), self._side(columns, width))
            for rows, columns in owned
        ]
        if not self.can_open:
            return [Tile(*sides) for sides in tiles]
        return _of_few_kinds([_opened(*sides) for sides in tiles])

    @lru_cache(maxsize=4096)  # noqa: B019 - as above
    def _side(self, owned: Span, size_px: int) -> Side:
        """Return one side of a tile of usual size."""
        grid = self.grid_px
        reach = _ceil(self._around_cells * self.stride + self.margin_px, grid)
        start = (owned[0] * self.stride - reach) // grid * grid
        n_px = (owned[1] - owned[0] - 1) * self.stride + grid
        length = _ceil(n_px, grid) + 2 * reach
        pixels = _inside(start, length, size_px, grid)
        rim = self._rim_px
        surround = _inside(pixels[0] - rim, length + 2 * rim, size_px, grid)
        goes_on = start >= 0, start + length <= size_px
        return Side(owned, pixels, surround, goes_on)


def share_out(tiles: Tiles, n_parallel: int, max_px: int) -> list[Tiles]:
    """Return groups of tiles that run together, being of one size and opening.

    Few, but so that `n_parallel` threads have about as much to do each; and of `max_px`
    at most if they are more than one. The largest come first.
    """
    if len(tiles) == 1:
        return [tiles]
    groups: defaultdict[tuple[object, ...], list[Tile]] = defaultdict(list)
    for tile in tiles:
        groups[tile.shape, tile.surround_shape, tile.opening].append(tile)
    n_runs = len(groups) + n_parallel - 1
    fair = left = (len(tiles) + _RUN_COST * n_runs) / n_parallel
    shares = []
    for group in sorted(groups.values(), key=len, reverse=True):
        most = max(1, max_px // math.prod(group[0].shape))
        first = 0
        while first < len(group):
            size = max(round(left) - _RUN_COST, _LEAST_SHARE)
            if len(group) - first - size < _LEAST_SHARE:
                size = len(group) - first
            share = group[first : first + min(size, most)]
            shares.append(share)
            first += len(share)
            left -= len(share) + _RUN_COST
            if left < _RUN_COST + _LEAST_SHARE:  # the next thread's
                left += fair
    return sorted(shares, key=len, reverse=True)


def area(tiles: Tiles) -> int:
    """Return the number of pixels that the network reads."""
    return sum(math.prod(tile.shape) for tile in tiles)


def windows(image: Pixels, spans: Sequence[tuple[Span, Span]]) -> Pixels:
    """Return windows of one shape, (n, channels, y, x).

    Parameters
    ----------
    image
        Shape (channels, y, x).
    spans
        Rows and columns of each.
    """
    rows, columns = spans[0]
    if len(spans) == 1:  # a strip of whole rows is not copied
        return np.ascontiguousarray(image[:, slice(*rows), slice(*columns)])[None]
    shape = len(spans), len(image), _length(rows), _length(columns)
    cut = np.empty(shape, image.dtype)
    for index, ((top, bottom), (left, right)) in enumerate(spans):
        cut[index] = image[:, top:bottom, left:right]
    return cut


def owned_rows(
    layout: Layout, groups: Sequence[Tiles], found: Sequence[npt.NDArray[np.float64]]
) -> npt.NDArray[np.float64]:
    """Move the detections of tiles into the frame, keeping those of cells they own.

    `found` has, for each group, columns image (index of the tile in it), row, column,
    y_px, x_px first; see `graph.COLUMNS`.
    """
    moved = np.concatenate(found)
    index = moved[:, 0].astype(np.intp)
    n_before = 0
    if len(groups) > 1:
        firsts = []
        for group, rows in zip(groups, found, strict=True):
            firsts += [n_before] * len(rows)
            n_before += len(group)
        index += np.array(firsts, np.intp)  # there may be none
    sides = [
        (*layout.origin(tile), *tile.rows.owned, *tile.columns.owned)
        for group in groups
        for tile in group
    ]
    place = np.array(sides)[index]
    origin = place[:, :2]
    cell = moved[:, 1:3]
    cell += origin
    moved[:, 3:5] += layout.stride * origin
    is_owned = (place[:, 2::2] <= cell) & (cell < place[:, 3::2])
    return np.asarray(moved[is_owned[:, 0] & is_owned[:, 1]])


def _opened(rows: Side, columns: Side, rim_cells: int = 0) -> Tile:
    (top, bottom), (left, right) = rows.goes_on, columns.goes_on
    return Tile(rows, columns, Opening(top, left, bottom, right, rim_cells))


def _of_few_kinds(tiles: list[Tile]) -> list[Tile]:
    """Close sides of tiles of rare kinds until these are one kind: a run costs more."""
    n_of = Counter(tile.opening for tile in tiles)
    rare = [opening for opening, n in n_of.items() if n < _LEAST_KIND]
    if len(rare) < 2:
        return tiles
    common = Opening(*map(all, list(zip(*rare, strict=True))[:4]))
    return [
        tile._replace(opening=common) if tile.opening in rare else tile
        for tile in tiles
    ]


def _cells(at: float, reach: float, limit: int) -> Span:
    """Return the cells of a map within `reach` of a place, both in cells."""
    size = math.ceil(2 * reach) + 1
    first = min(max(math.floor(at - reach), 0), max(limit - size, 0))
    return first, min(first + size, limit)


def _inside(start: int, length: int, size: int, grid: int) -> Span:
    """Return a span of `length` from `start`, moved into the frame.

    Tiles of as many cells read as many pixels, at the frame's edge too, so that they
    can run together.
    """
    start = max(0, min(start, _ceil(size, grid) - length))
    return start, min(size, start + length)


def _spans(size: int, side: int) -> list[Span]:
    """Return spans of about `side` that cover `size`."""
    n = max(1, math.ceil(size / side))
    return list(pairwise(round(k * size / n) for k in range(n + 1)))


def _length(span: Span) -> int:
    return span[1] - span[0]


def _ceil(value: int, step: int) -> int:
    return -(-value // step) * step
