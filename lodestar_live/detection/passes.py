"""How a frame goes through the graph: whole, in parts, or around positions only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lodestar_live.data import FloatArray, Pixels
from lodestar_live.detection import rows
from lodestar_live.detection.engines import Engine, Part
from lodestar_live.detection.intake import Intake
from lodestar_live.detection.layers import LOCAL
from lodestar_live.detection.tiles import (
    Layout,
    Region,
    Tile,
    area,
    batches,
    bounding,
    cut_out,
    owned_rows,
)

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
        feeds = _pixels([intake.image], intake)
        return self.engine.run(
            outputs, {**feeds, **self._criteria(threshold, quantile)}
        )

    def everywhere(self, intake: Intake, threshold: float) -> rows.Found:
        """Return the rows of the whole frame, computed as is fastest here."""
        if not self.layout.can_open:
            return self._closed(intake, threshold)
        n_parallel = self.engine.n_parallel
        tiles = self.layout.parts(intake.shape, self.max_tile_px, n_parallel)
        if len(tiles) == 1:
            (found,) = self.whole(["detections"], intake, threshold)
            return found
        cuts = [_pixels([cut_out(intake.image, t.surround)], intake) for t in tiles]
        return self._collect([[tile] for tile in tiles], cuts, threshold)

    def _closed(self, intake: Intake, threshold: float) -> rows.Found:
        tiles = self.layout.whole(intake.shape, self.max_tile_px)
        if len(tiles) > 1:
            return self.around(intake, tiles, threshold)
        (found,) = self.whole(["detections"], intake, threshold)
        return found

    def around(
        self, intake: Intake, tiles: Sequence[Tile], threshold: float
    ) -> rows.Found:
        """Return the rows of tiles; tiles that are alike run together."""
        n_parallel = self.engine.n_parallel
        groups = list(batches(tiles, self.max_tile_px, n_parallel))
        local = self._local(intake, tiles)
        cuts = [self._cut(intake, group, local) for group in groups]
        return self._collect(groups, cuts, threshold)

    def scores(self, intake: Intake) -> FloatArray:
        """Return the log score of every cell of the frame, tile by tile."""
        whole = np.empty(self.layout.map_shape(intake.shape))
        for tile in self.layout.whole(intake.shape, self.max_tile_px):
            feeds = self._cut(intake, [tile], self._local(intake, [tile]))
            feeds |= self._criteria(NO_THRESHOLD)
            (score,) = self.engine.run(["score"], feeds)
            (top, bottom), (left, right) = tile.owned
            row, column = tile.origin
            whole[top:bottom, left:right] = score[
                0, 0, top - row : bottom - row, left - column : right - column
            ]
        return whole

    def _collect(
        self, groups: Sequence[list[Tile]], cuts: Sequence[Feeds], threshold: float
    ) -> rows.Found:
        """Return the rows of groups of tiles, in the frame's coordinates."""
        criteria = self._criteria(threshold)
        parts = [
            Part({**feeds, **criteria}, group[0].opening)
            for group, feeds in zip(groups, cuts, strict=True)
        ]
        results = self.engine.run_parts(["detections"], parts)
        found = [
            owned_rows(group, detections, self.layout)
            for group, (detections,) in zip(groups, results, strict=True)
        ]
        return np.concatenate([np.empty((0, self.n_columns)), *found])

    def _cut(
        self, intake: Intake, tiles: Sequence[Tile], local: dict[Region, list[Array]]
    ) -> Feeds:
        """Return what the network reads of tiles of one shape, one after the other."""
        cuts = [cut_out(intake.image, tile.pixels) for tile in tiles]
        feeds = _pixels(cuts, intake)
        for index, name in enumerate(LOCAL[: len(next(iter(local.values()), []))]):
            feeds[name] = np.stack([local[tile.pixels][index] for tile in tiles])
        return feeds

    def _local(
        self, intake: Intake, tiles: Sequence[Tile]
    ) -> dict[Region, list[Array]]:
        """Return the local normalisation's maps of what the network reads of tiles."""
        if self.layout.contrast_margin_px == 0:
            return {}
        regions = [tile.surround for tile in tiles]
        together = bounding(regions)
        if area(together) <= sum(map(area, regions)):
            regions = [together] * len(tiles)
        maps = dict(self._normalised(intake, regions))
        step = self.layout.block_px
        return {
            tile.pixels: [
                cut_out(one, tile.pixels, region, step) for one in maps[region]
            ]
            for tile, region in zip(tiles, regions, strict=True)
        }

    def _normalised(
        self, intake: Intake, regions: Sequence[Region]
    ) -> Iterator[tuple[Region, list[Array]]]:
        """Yield the maps `LOCAL` of every region; regions of one shape run together."""
        alike: dict[tuple[int, int], list[Region]] = {}
        for region in dict.fromkeys(regions):
            (top, bottom), (left, right) = region
            alike.setdefault((bottom - top, right - left), []).append(region)
        for group in alike.values():
            cuts = [cut_out(intake.image, region) for region in group]
            maps = self.engine.run(LOCAL, _pixels(cuts, intake))
            for index, region in enumerate(group):
                yield region, [one[index] for one in maps]

    def _criteria(self, threshold: float, quantile: float = 1.0) -> Feeds:
        numbers = {
            "threshold": threshold,
            "quantile": quantile,
            "alpha": self.alpha,
            "beta": self.beta,
        }
        return {name: np.array(n, np.float32) for name, n in numbers.items()}


def _pixels(cuts: Sequence[Pixels], intake: Intake) -> Feeds:
    """Return images of one shape and the frame's levels as the graph takes them."""
    one = len(cuts) == 1
    return {
        "pixels": np.ascontiguousarray(cuts[0])[None] if one else np.stack(cuts),
        "background": _level(intake.levels.background),
        "scale": _level(intake.levels.noise),
    }


def _level(value: float) -> npt.NDArray[np.float32]:
    return np.full((1, 1, 1, 1), value, np.float32)
