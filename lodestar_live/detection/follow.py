"""Between full passes, look only where particles are expected."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lodestar_live.data import Detections, Pixels
from lodestar_live.detection.detector import Detector
from lodestar_live.detection.frame.prepare import Levels
from lodestar_live.detection.frame.tiles import Tiles

_REACH_PX = 6.0  # where nobody says how far a particle may be
_FARTHEST_PX = 1e5  # beyond any frame
_BESIDE_PX = 2.0  # so far from a particle its best cell may lie
_CLASSES_PX = 4.0  # reaches are multiples of it: tiles of one size run together


class Follower:
    """Detect around predicted positions, and everywhere every n-th frame.

    Inside its tiles it finds exactly what the full pass finds there, so a linker sees
    no seams; newcomers are found at the next full pass.

    Parameters
    ----------
    detector
        The model at run time.
    full_every
        Every n-th frame is a full pass.
    """

    def __init__(self, detector: Detector, *, full_every: int = 10) -> None:
        self.detector = detector
        self.full_every = full_every
        self.was_full = False
        self._since_full = 0
        self._levels: Levels | None = None
        self._shape: tuple[int, ...] = ()

    def __call__(
        self,
        pixels: Pixels,
        predicted_px: npt.ArrayLike,
        reach_px: npt.ArrayLike = _REACH_PX,
    ) -> Detections:
        """Find the particles of one frame.

        Parameters
        ----------
        pixels
            Shape (y, x).
        predicted_px
            Where tracks are expected in this frame, (n, 2), (y, x).
        reach_px
            How far from there they may be, scalar or (n,). NaN: nobody knows, so the
            whole frame is looked at.
        """
        predicted = np.asarray(predicted_px, dtype=float).reshape(-1, 2)
        known = np.isfinite(predicted).all(axis=1)
        reach = np.asarray(reach_px, dtype=float) + _BESIDE_PX
        reach = np.minimum(np.ceil(reach / _CLASSES_PX) * _CLASSES_PX, _FARTHEST_PX)
        tiles = self._tiles(
            pixels, predicted[known], np.broadcast_to(reach, len(predicted))[known]
        )
        self.was_full = tiles is None
        if tiles is None:
            self._since_full, self._shape = 0, pixels.shape
            self._levels = self.detector.levels(pixels)
            return self.detector(pixels, levels=self._levels)
        self._since_full += 1
        return self.detector.within(tiles, pixels, levels=self._levels)

    def _tiles(
        self,
        pixels: Pixels,
        predicted: npt.NDArray[np.float64],
        reach_px: npt.NDArray[np.float64],
    ) -> Tiles | None:
        """Return where to look; None if a full pass is due, or costs less."""
        if self._levels is None or pixels.shape != self._shape or not len(predicted):
            return None
        if np.isnan(reach_px).any():
            return None
        if self._since_full + 1 >= self.full_every:
            return None
        tiles = self.detector.tiles_near(pixels.shape, predicted, reach_px=reach_px)
        # A tile's pixel costs as much as the frame's, all in all: measured, 48 tiles of
        # 76 px take as long as a frame of 512 x 512, 1.06 times their pixels.
        return tiles if self.detector.share_of(tiles, pixels.shape) < 1 else None
