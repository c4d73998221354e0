"""A window that follows one particle, kept at full resolution: software ROI."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile

from lodestar_live.data import Event, Pixels, RunInfo, Update

logger = logging.getLogger(__name__)
FILE_NAME = "roi.tif"


class RegionRecorder:
    """Write the window around the followed particle of every frame to ``roi.tif``.

    One page per frame in which the particle is tracked; its description is JSON:
    ``frame``, ``track_id`` and the window's first pixel ``y0_px, x0_px``, to be added
    to what is found in it. Pages are complete as they come, so a crash costs at most
    the last one.

    Parameters
    ----------
    folder
        The run's folder.
    size_px
        Side of the window.
    target_id
        The followed track; None (or a track that is gone): the oldest one.
    """

    def __init__(
        self, folder: Path, size_px: int, target_id: Callable[[], int | None]
    ) -> None:
        self._path, self._size_px, self._target_id = (
            folder / FILE_NAME,
            size_px,
            target_id,
        )
        self._writer: tifffile.TiffWriter | None = None

    def open(self, run: RunInfo) -> None:
        """Start the file."""
        self._writer = tifffile.TiffWriter(self._path, bigtiff=True)

    def write(self, update: Update) -> None:
        """Append the window of one frame."""
        rows = update.tracks.rows
        if self._writer is None or not len(rows):
            return
        chosen = rows["track_id"] == self._target_id()
        row = rows[chosen][0] if chosen.any() else rows[rows["age_frames"].argmax()]
        place = float(row["y_px"]), float(row["x_px"])
        window, (y0_px, x0_px) = roi_around(update.frame.pixels, place, self._size_px)
        if window.dtype.kind == "c":
            window = np.abs(window).astype(np.float32)  # a field's amplitude
        about = {
            "frame": update.frame.index,
            "track_id": int(row["track_id"]),
            "y0_px": y0_px,
            "x0_px": x0_px,
        }
        try:
            self._writer.write(
                window, photometric="minisblack", description=json.dumps(about),
                metadata=None, contiguous=False,
            )  # fmt: skip
        except OSError:
            logger.exception("%s: cannot be written; the window ends here", self._path)
            self.close()

    def tell(self, event: Event) -> None:
        """Take news; there is none to keep."""

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def roi_around(
    pixels: Pixels, centre_px: tuple[float, float], size_px: int
) -> tuple[Pixels, tuple[int, int]]:
    """Cut a square window around a position, moved inwards at the frame's edge.

    Parameters
    ----------
    pixels
        Shape (y, x).
    centre_px
        Where the target will be (y, x).
    size_px
        Side of the window; smaller if the frame is.

    Returns
    -------
    The window (a view) and the (y, x) of its first pixel in the frame, to be added to
    what is found in it.
    """
    starts, ends = [], []
    for centre, length in zip(centre_px, pixels.shape, strict=True):
        side = min(size_px, length)
        start = min(max(round(centre - (side - 1) / 2), 0), length - side)
        starts.append(start)
        ends.append(start + side)
    window = pixels[starts[0] : ends[0], starts[1] : ends[1]]
    return window, (starts[0], starts[1])
