"""How a frame goes through the graph: whole, in parts, or around positions only."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from lodestar_live.data import FloatArray
from lodestar_live.detection.engines.cpu import Engine, Part
from lodestar_live.detection.frame.halo import places
from lodestar_live.detection.frame.prepare import Intake
from lodestar_live.detection.frame.tiles import (
    Layout,
    Tiles,
    owned_rows,
    share_out,
    windows,
)
from lodestar_live.detection.model.nodes import LEVEL
from lodestar_live.detection.run import postprocess as rows

NO_THRESHOLD = -1e30  # every score passes
_SMALL_PX = 256 * 256  # a smaller frame is computed sooner by one thread than by two
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
        pixels = np.ascontiguousarray(intake.image)[None]
        numbers = self._numbers(intake, threshold, quantile)
        return self.engine.run(outputs, {"pixels": pixels, **numbers})

    def everywhere(self, intake: Intake, threshold: float) -> rows.Found:
        """Return the rows of the whole frame, computed as is fastest here."""
        layout, max_px = self.layout, self.max_tile_px
        is_small = math.prod(intake.shape) < _SMALL_PX
        if layout.can_open:
            n_strips = 1 if is_small else self.engine.n_strips
            tiles = layout.parts(intake.shape, max_px, n_strips)
        else:
            tiles = layout.whole(intake.shape, max_px)
        if len(tiles) == 1 and is_small:
            # On the calling thread: several would wait for each other longer than
            # they compute.
            part = Part(
                {
                    "pixels": np.ascontiguousarray(intake.image)[None],
                    **self._numbers(intake, threshold),
                },
                fits=self._fits(intake.shape),
            )
            ((found,),) = self.engine.run_parts(["detections"], [part])
            return found
        if len(tiles) == 1:
            (found,) = self.whole(["detections"], intake, threshold)
            return found
        if not layout.can_open:
            return self.around(intake, tiles, threshold)
        numbers = self._numbers(intake, threshold)
        strips = [[tile] for tile in tiles]
        parts = [self._part(intake, one, numbers, is_tiles=False) for one in strips]
        return self._collect(strips, parts)

    def around(self, intake: Intake, tiles: Tiles, threshold: float) -> rows.Found:
        """Return the rows of tiles; tiles that are alike run together."""
        if not len(tiles):
            return np.empty((0, self.n_columns))
        # The longest comes first: no thread begins one when the others are done.
        work = share_out(tiles, self.engine.n_parallel, self.max_tile_px)
        numbers = self._numbers(intake, threshold)
        return self._collect(work, [self._part(intake, one, numbers) for one in work])

    def scores(self, intake: Intake) -> FloatArray:
        """Return the log score of every cell of the frame, of a large one in tiles."""
        tiles = self.layout.whole(intake.shape, self.max_tile_px)
        if len(tiles) == 1:
            (whole,) = self.whole(["score"], intake)
            return np.asarray(whole[0, 0], float)
        numbers = self._numbers(intake, NO_THRESHOLD)
        parts = [self._part(intake, [tile], numbers) for tile in tiles]
        scores = np.empty(self.layout.map_shape(intake.shape))
        results = self.engine.run_parts(["score"], parts)
        for tile, (score,) in zip(tiles, results, strict=True):
            (top, bottom), (left, right) = tile.rows.owned, tile.columns.owned
            row, column = self.layout.origin(tile)
            scores[top:bottom, left:right] = score[
                0, 0, top - row : bottom - row, left - column : right - column
            ]
        return scores

    def _collect(self, work: Sequence[Tiles], parts: Sequence[Part]) -> rows.Found:
        """Return the rows of groups of tiles, in the frame's coordinates."""
        results = self.engine.run_parts(["detections"], parts)
        found = [detections for (detections,) in results]
        return owned_rows(self.layout, work, found)

    def _part(
        self, intake: Intake, tiles: Tiles, numbers: Feeds, *, is_tiles: bool = True
    ) -> Part:
        """Return what is computed of tiles, or of a strip, in one run."""
        layout, first = self.layout, tiles[0]
        fits = self._fits({*first.shape, *first.surround_shape})
        spans = [(tile.rows.pixels, tile.columns.pixels) for tile in tiles]
        feeds = {"pixels": windows(intake.image, spans), **numbers}
        if is_tiles and layout.contrast_margin_px > 0:  # a strip has it within
            spans = [(tile.rows.surround, tile.columns.surround) for tile in tiles]
            feeds["surround"] = windows(intake.image, spans)
            feeds["places"] = places(layout, tiles)
        return Part(feeds, first.opening, is_tiles, fits)

    def _fits(self, sides: Collection[int]) -> bool:
        """Tell whether pixels of these sides are whole cells, with nothing to pad."""
        layout = self.layout
        is_whole = not any(side % layout.grid_px for side in sides)
        return is_whole and min(sides) >= 3 * layout.stride

    def _numbers(
        self, intake: Intake, threshold: float, quantile: float = 1.0
    ) -> Feeds:
        """Return the frame's levels and the criteria, as the graph takes them."""
        background, scale = map(_level, intake.graph_levels)
        criteria = _criteria(threshold, quantile, self.alpha, self.beta)
        return {"background": background, "scale": scale, **criteria}


@lru_cache(maxsize=16)
def _criteria(threshold: float, quantile: float, alpha: float, beta: float) -> Feeds:
    """Return the criteria as the graph takes them; nobody writes into them."""
    numbers = {
        "threshold": threshold, "quantile": quantile, "alpha": alpha, "beta": beta
    }  # fmt: skip
    criteria: Feeds = {name: np.array(n, np.float32) for name, n in numbers.items()}
    if quantile >= 1:  # models written before it had a name take the two above
        criteria[LEVEL] = _level(threshold)
    return criteria


def _level(value: float) -> npt.NDArray[np.float32]:
    return np.full((1, 1, 1, 1), value, np.float32)
