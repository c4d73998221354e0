"""How a frame goes through the graph: whole, in parts, or around positions only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
            tiles = layout.parts(intake.shape, max_px, self.engine.n_parallel)
        else:
            tiles = layout.whole(intake.shape, max_px)
        if len(tiles) == 1:
            (found,) = self.whole(["detections"], intake, threshold)
            return found
        if not layout.can_open:
            return self.around(intake, tiles, threshold)
        parts = [tiles[index : index + 1] for index in range(len(tiles))]
        feeds = [_pixels(intake, part.pixels) for part in parts]
        return self._collect(zip(parts, feeds, strict=True), threshold)

    def around(self, intake: Intake, tiles: Tiles, threshold: float) -> rows.Found:
        """Return the rows of tiles; tiles that are alike run together."""
        if not len(tiles):
            return np.empty((0, self.n_columns))
        groups = list(tiles.alike(self.max_tile_px))
        feeds = self._feeds(intake, groups)
        pairs = zip(groups, feeds, strict=True)
        fair = len(tiles) / self.engine.n_parallel
        shares = [share for pair in pairs for share in _shares(*pair, fair)]
        # The longest first: no thread begins one when the others are done.
        shares.sort(key=lambda share: len(share[0]), reverse=True)
        return self._collect(shares, threshold)

    def scores(self, intake: Intake) -> FloatArray:
        """Return the log score of every cell of the frame, tile by tile."""
        whole = np.empty(self.layout.map_shape(intake.shape))
        tiles = self.layout.whole(intake.shape, self.max_tile_px)
        for index in range(len(tiles)):
            tile = tiles[index : index + 1]
            (feeds,) = self._feeds(intake, [tile])
            criteria = self._criteria(NO_THRESHOLD)
            (score,) = self.engine.run(["score"], {**feeds, **criteria})
            (top, bottom), (left, right) = tile.owned[0]
            row, column = tile.origin[0]
            whole[top:bottom, left:right] = score[
                0, 0, top - row : bottom - row, left - column : right - column
            ]
        return whole

    def _collect(
        self, groups: Iterable[tuple[Tiles, Feeds]], threshold: float
    ) -> rows.Found:
        """Return the rows of groups of tiles, in the frame's coordinates."""
        tiles, feeds = zip(*groups, strict=True)
        criteria = self._criteria(threshold)
        parts = [
            Part({**one, **criteria}, group.opening)
            for group, one in zip(tiles, feeds, strict=True)
        ]
        results = self.engine.run_parts(["detections"], parts)
        found = [
            owned_rows(group, detections, self.layout)
            for group, (detections,) in zip(tiles, results, strict=True)
        ]
        return np.concatenate(found)

    def _feeds(self, intake: Intake, groups: Sequence[Tiles]) -> list[Feeds]:
        """Return what the network reads of each group's tiles."""
        feeds = [_pixels(intake, group.pixels) for group in groups]
        if self.layout.contrast_margin_px == 0:
            return feeds
        step = self.layout.block_px
        local = self._local(intake, [group.surround for group in groups])
        for group, one, (maps, corner) in zip(groups, feeds, local, strict=True):
            index = np.arange(len(group)) % len(maps[0])
            start = (group.pixels[..., 0] - corner) // step
            shape = [self.layout.map_side(side) for side in group.shape]
            for name, values in zip(LOCAL, maps, strict=True):
                one[name] = windows(values, index, start, shape)
        return feeds

    def _local(
        self, intake: Intake, surrounds: Sequence[IntArray]
    ) -> list[tuple[list[Array], IntArray]]:
        """Return the maps `LOCAL` of each group's surrounds, and their corners, px.

        One map for all if that is less than one for each.
        """
        together = bounding(np.concatenate(surrounds))[None]
        is_less = area(together) <= sum(map(area, surrounds))
        read = [together] if is_less else list(surrounds)
        # Not `run`: one thread does so little as soon, and wakes no pool for it.
        found = self.engine.run_parts(LOCAL, [Part(_pixels(intake, r)) for r in read])
        local = [(m, r[..., 0]) for m, r in zip(found, read, strict=True)]
        return local * len(surrounds) if is_less else local

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


def _shares(
    group: Tiles, feeds: Feeds, fair_share: float
) -> Iterator[tuple[Tiles, Feeds]]:
    """Yield what each of the threads computes of a group, about a fair share each."""
    n_shares = max(1, round(len(group) / max(fair_share, _LEAST_BATCH)))
    size = -(-len(group) // n_shares)
    for start in range(0, len(group), size):
        part = slice(start, start + size)
        cut = {k: v[part] for k, v in feeds.items() if k in ("pixels", *LOCAL)}
        yield group[part], {**feeds, **cut}


def _level(value: float) -> npt.NDArray[np.float32]:
    return np.full((1, 1, 1, 1), value, np.float32)
