"""How a frame goes through the graph: whole, in parts, or around positions only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lodestar_live.data import FloatArray
from lodestar_live.detection import rows
from lodestar_live.detection.engines import Engine, Part
from lodestar_live.detection.intake import Intake
from lodestar_live.detection.layers import LOCAL
from lodestar_live.detection.tiles import (
    IntArray,
    Layout,
    Tiles,
    area,
    bounding,
    owned_rows,
    windows,
)

_LEAST_BATCH = 3  # fewer tiles are done before a second thread has begun
NO_THRESHOLD = -1e30  # every score passes
Array = npt.NDArray[Any]
Feeds = dict[str, Array]


@dataclass(slots=True, eq=False)
class Passes:
    """Runs the graph on frames that were taken in.

    Parameters
    ----------
    engine
        What computes.
    layout
        What the model needs around a cell.
    max_tile_px
        Larger frames are cut into tiles.
    alpha, beta
        Exponents of the score.
    n_columns
        Of the graph's rows.
    """

    engine: Engine
    layout: Layout
    max_tile_px: int
    alpha: float
    beta: float
    n_columns: int

    def whole(
        self,
        outputs: Sequence[str],
        intake: Intake,
        threshold: float = NO_THRESHOLD,
        quantile: float = 1.0,
    ) -> list[Array]:
        """Return outputs of the graph for the whole frame in one run."""
        height, width = intake.shape
        feeds = _pixels(intake, np.array([[[0, height], [0, width]]]))
        criteria = self._criteria(threshold, quantile)
        return self.engine.run(outputs, {**feeds, **criteria})

    def everywhere(self, intake: Intake, threshold: float) -> rows.Found:
        """Return the rows of the whole frame, computed as is fastest here."""
        layout, max_px = self.layout, self.max_tile_px
        if layout.can_open:
            tiles = layout.parts(intake.shape, max_px, self.engine.n_strips)
        else:
            tiles = layout.whole(intake.shape, max_px)
        if len(tiles) == 1:
            (found,) = self.whole(["detections"], intake, threshold)
            return found
        if not layout.can_open:
            return self.around(intake, tiles, threshold)
        parts = [tiles[index : index + 1] for index in range(len(tiles))]
        feeds = [_pixels(intake, part.pixels) for part in parts]
        return self._collect(list(zip(parts, feeds, strict=True)), threshold)

    def around(self, intake: Intake, tiles: Tiles, threshold: float) -> rows.Found:
        """Return the rows of tiles; tiles that are alike run together."""
        if not len(tiles):
            return np.empty((0, self.n_columns))
        fair = max(len(tiles) / self.engine.n_parallel, _LEAST_BATCH)
        work = []
        for alike in tiles.alike():
            feeds = self._feeds(intake, alike)
            shares = alike.shares(fair, self.max_tile_px)
            work += [(alike[share], _cut(feeds, share)) for share in shares]
        # The longest first: no thread begins one when the others are done.
        work.sort(key=lambda share: len(share[0]), reverse=True)
        return self._collect(work, threshold)

    def scores(self, intake: Intake) -> FloatArray:
        """Return the log score of every cell of the frame, tile by tile."""
        whole = np.empty(self.layout.map_shape(intake.shape))
        tiles = self.layout.whole(intake.shape, self.max_tile_px)
        for index in range(len(tiles)):
            tile = tiles[index : index + 1]
            feeds = self._feeds(intake, tile)
            criteria = self._criteria(NO_THRESHOLD)
            (score,) = self.engine.run(["score"], {**feeds, **criteria})
            (top, bottom), (left, right) = tile.owned[0]
            row, column = tile.origin[0]
            whole[top:bottom, left:right] = score[
                0, 0, top - row : bottom - row, left - column : right - column
            ]
        return whole

    def _collect(
        self, work: Sequence[tuple[Tiles, Feeds]], threshold: float
    ) -> rows.Found:
        """Return the rows of groups of tiles, in the frame's coordinates."""
        criteria = self._criteria(threshold)
        parts = [Part({**feeds, **criteria}, tiles.opening) for tiles, feeds in work]
        results = self.engine.run_parts(["detections"], parts)
        found = [detections for (detections,) in results]
        return owned_rows([tiles for tiles, _ in work], found, self.layout.stride)

    def _feeds(self, intake: Intake, tiles: Tiles) -> Feeds:
        """Return what the network reads of tiles that are alike."""
        feeds = _pixels(intake, tiles.pixels)
        if self.layout.contrast_margin_px == 0:
            return feeds
        maps, index, corner = self._local(intake, tiles.surround)
        start = (tiles.pixels[..., 0] - corner) // self.layout.block_px
        shape = [self.layout.map_side(side) for side in tiles.shape]
        for name, values in zip(LOCAL, maps, strict=True):
            feeds[name] = windows(values, index, start, shape)
        return feeds

    def _local(
        self, intake: Intake, surround: IntArray
    ) -> tuple[list[Array], IntArray, IntArray]:
        """Return the maps `LOCAL`, which of them each tile reads, and its corner, px.

        One map for all tiles if that is less than one for each.
        """
        index = np.arange(len(surround))
        together = bounding(surround)[None]
        if area(together) < area(surround):
            surround, index = together, np.zeros_like(index)
        # Not `run`: one thread does so little as soon, and wakes no pool for it.
        (maps,) = self.engine.run_parts(LOCAL, [Part(_pixels(intake, surround))])
        return maps, index, surround[index, :, 0]

    def _criteria(self, threshold: float, quantile: float = 1.0) -> Feeds:
        numbers = {
            "threshold": threshold,
            "quantile": quantile,
            "alpha": self.alpha,
            "beta": self.beta,
        }
        return {name: np.array(n, np.float32) for name, n in numbers.items()}


def _pixels(intake: Intake, spans: IntArray) -> Feeds:
    """Return parts of a frame, of one shape, and its levels as the graph takes them."""
    shape = np.diff(spans[0])[:, 0]
    index = np.zeros(len(spans), np.int64)
    pixels = windows(intake.image[None], index, spans[..., 0], shape)
    background, scale = map(_level, intake.graph_levels)
    return {"pixels": pixels, "background": background, "scale": scale}


def _cut(feeds: Feeds, share: slice) -> Feeds:
    """Return what a share of the tiles is fed."""
    of_tiles = ("pixels", *LOCAL)
    return {k: v[share] if k in of_tiles else v for k, v in feeds.items()}


def _level(value: float) -> npt.NDArray[np.float32]:
    return np.full((1, 1, 1, 1), value, np.float32)
