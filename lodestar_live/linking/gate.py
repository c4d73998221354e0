"""Which detections lie within reach of which track: a grid, one radius per track.

A k-d tree answers the same question for one radius; uncertain tracks would then widen
the gate of all. The grid is also about twice as fast (10 000 against 10 000 points).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lodestar_live.data import FloatArray

IntArray = npt.NDArray[np.signedinteger[Any]]
BoolArray = npt.NDArray[np.bool_]

FEW_PAIRS = 2**14  # so few are compared directly
MOST_PAIRS = 3_000_000  # looked at in one frame, however crowded one place is


def pairs_within(
    tracks_px: FloatArray, radius_px: FloatArray, detections_px: FloatArray
) -> tuple[IntArray, IntArray]:
    """Return the pairs closer than each track's radius.

    Parameters
    ----------
    tracks_px, detections_px
        Finite positions, shape (2, n) and (2, m), px.
    radius_px
        Shape (n,), px; a track with a radius below 0 reaches nothing.

    Returns
    -------
    Track and detection of every pair, sorted by (track, detection).
    """
    n, m = len(radius_px), detections_px.shape[1]
    if n * m <= FEW_PAIRS:
        off = tracks_px[:, :, None] - detections_px[:, None]
        off *= off
        # Not -radius**2: the square of a tiny one is 0.
        reach2 = np.where(radius_px < 0, -1.0, radius_px * radius_px)
        near = off[0] + off[1] <= reach2[:, None]
        track, detection = near.nonzero()
        return track, detection
    reaching = np.flatnonzero(radius_px >= 0)
    if not len(reaching):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    (y, x), r = tracks_px.take(reaching, axis=1), radius_px[reaching]
    grid = _Grid(detections_px, cell_px=float(np.sort(r)[len(r) // 2]))
    near, detection = grid.around(y, x, r)
    dy = y[near] - detections_px[0].take(detection)
    dx = x[near] - detections_px[1].take(detection)
    keep = np.flatnonzero(dy * dy + dx * dx <= (r * r)[near])
    near, detection = near[keep], detection[keep]
    order = np.argsort(near * m + detection, kind="stable")
    return reaching[near[order]], detection[order]


class _Grid:
    """Points sorted into square cells, with a table of where each cell starts."""

    def __init__(self, points_px: FloatArray, cell_px: float) -> None:
        n = points_px.shape[1]
        self.low = points_px.min(axis=1)
        extent = points_px.max(axis=1) - self.low
        # Never many more cells than points, however far apart they lie.
        smallest = max(
            float(np.sqrt(extent[0] * extent[1] / (4 * n + 64))),
            float(extent.max()) / (4 * n + 64),
        )
        self.cell = max(cell_px, smallest, 1e-9)
        self.n_y, self.n_x = ((extent / self.cell).astype(np.int64) + 1).tolist()
        cells = ((points_px - self.low[:, None]) / self.cell).astype(np.int64)
        key = cells[0] * self.n_x + cells[1]
        self.order = np.argsort(key, kind="stable")
        self.start = np.zeros(self.n_y * self.n_x + 1, np.int64)
        counts = np.bincount(key, minlength=self.n_y * self.n_x)
        np.cumsum(counts, out=self.start[1:])

    def around(
        self, y: FloatArray, x: FloatArray, r: FloatArray
    ) -> tuple[IntArray, IntArray]:
        """Return (query, point) for every point in the cells a query's square meets."""
        y0, n_rows = self._span((y - self.low[0]) / self.cell, r / self.cell, self.n_y)
        x0, n_cols = self._span((x - self.low[1]) / self.cell, r / self.cell, self.n_x)
        query = np.repeat(np.arange(len(y)), n_rows)
        first_cell = _ranges(y0, n_rows) * self.n_x + x0[query]
        first = self.start[first_cell]
        n_points = self.start[first_cell + n_cols[query]] - first
        if n_points.sum() > MOST_PAIRS:
            n_points = np.minimum(n_points, MOST_PAIRS // len(n_points))
        return np.repeat(query, n_points), self.order[_ranges(first, n_points)]

    @staticmethod
    def _span(
        centre: FloatArray, reach: FloatArray, n: int
    ) -> tuple[IntArray, IntArray]:
        low = np.clip(np.floor(centre - reach), 0, n).astype(np.int64)
        high = np.clip(np.floor(centre + reach) + 1, 0, n).astype(np.int64)
        return low, high - low


def _ranges(starts: IntArray, counts: IntArray) -> IntArray:
    """Return the concatenation of ``arange(start, start + count)``."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    offsets: IntArray = np.repeat(starts - (ends - counts), counts)
    return np.arange(total) + offsets
