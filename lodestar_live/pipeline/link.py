"""The link step: detections to tracks, in the sample's frame."""

from __future__ import annotations

import math

import numpy as np

from lodestar_live.data import Detections, Event, FloatArray, Frame, Rows, Tracks
from lodestar_live.geometry import PixelToStage, sample_positions_um
from lodestar_live.linking import Linker

_NO_SHIFT = np.zeros(2)
_NO_SHIFT.flags.writeable = False
SHARE_OF_INTERVAL = 0.1  # more uncertain than that, times say less than frame numbers


class LinkStep:
    """Link in the sample's frame, so that moves of our own stage are no motion.

    A frame of another shape, or from another place on the sensor, ends all tracks.

    Parameters
    ----------
    linker
        Links positions in the sample's frame, px.
    stage_map
        Pixel-to-stage calibration. None: positions are linked as the camera sees them.
    pixel_factor
        Camera pixels per pixel of the prepared frame; 1 for camera images.

    Attributes
    ----------
    pixel_size_um
        Of frames that do not say their own; NaN: unknown.
    knows_stage
        Whether frames say where the stage stood. Sample positions are then stage
        coordinates, and NaN for frames that do not say it.
    """

    def __init__(
        self,
        linker: Linker,
        *,
        stage_map: PixelToStage | None = None,
        pixel_factor: float = 1.0,
    ) -> None:
        self.linker, self.stage_map, self.pixel_factor = (
            linker,
            stage_map,
            pixel_factor,
        )
        self.model_version = 0  # of the detector in use, written into every row
        self.pixel_size_um = float("nan")
        self.knows_stage = False
        self._last_s = -np.inf  # exposure of the frame before
        self._stage_start_um: FloatArray | None = None
        self._view: tuple[tuple[int, ...], tuple[int, int]] | None = None

    def __call__(self, detections: Detections, frame: Frame) -> Tracks:
        """Link the detections of `frame`; positions stay in the camera's frame."""
        self._meet(frame)
        shift_px = self._stage_shift_px(frame)
        if shift_px is not _NO_SHIFT:
            detections = Detections(_shifted(detections.rows, shift_px))
        tracks = self.linker(detections, frame.index, self._instant_s(frame))
        back_px = shift_px if shift_px is _NO_SHIFT else -shift_px
        rows = _shifted(tracks.rows, back_px)
        rows = rows.copy() if rows is tracks.rows else rows
        rows["model_version"] = self.model_version
        at_um = self._sample_um(rows, frame)
        rows["y_um"], rows["x_um"] = at_um.T
        return Tracks(rows)

    def expect(self, frame: Frame) -> tuple[FloatArray, FloatArray]:
        """Return where tracks are expected in `frame`.

        Returns
        -------
        Positions (n, 2), (y, x), and the radius (n,) around each, px of the frame.
        """
        self._meet(frame)
        expected_px, radius_px = self.linker.expect(frame.index)
        return expected_px - self._stage_shift_px(frame), radius_px

    def take_events(self) -> tuple[Event, ...]:
        """Return what the linker noticed in the last frame."""
        return self.linker.take_events()

    def summary(self) -> Rows:
        """Return what is known of each live track's motion; see `Linker.summary`."""
        return self.linker.summary()

    def _sample_um(self, rows: Rows, frame: Frame) -> FloatArray:
        """Return where tracks are in the sample, stage and calibration taken out."""
        size_um = frame.pixel_size_um
        return sample_positions_um(
            np.array([rows["y_px"], rows["x_px"]]).T,
            map_um=self.stage_map,
            pixel_size_um=size_um if np.isfinite(size_um) else self.pixel_size_um,
            stage_um=frame.stage_um[1:] if self.knows_stage else None,
            shape_px=frame.pixels.shape[:2],
        )

    def _instant_s(self, frame: Frame) -> float | None:
        """Return the exposure's instant; None where frame numbers are the better clock.

        That is so where the instant is not known to a small part of the interval: an
        arrival jitters with the machine, and frames that come in a burst are dated by
        their arrivals.
        """
        interval_s = frame.t_exposure_s - self._last_s
        self._last_s = frame.t_exposure_s
        is_exact = frame.sigma_t_s < SHARE_OF_INTERVAL * interval_s
        return frame.t_exposure_s if is_exact else None

    def _meet(self, frame: Frame) -> None:
        view = (frame.pixels.shape, frame.origin_px)
        if self._view is not None and view != self._view:
            self.linker.end_all()
        self._view = view

    def _stage_shift_px(self, frame: Frame) -> FloatArray:
        """Return how far the stage has carried the frame since the first one, px."""
        _, y_um, x_um = frame.stage_um
        if self.stage_map is None or not math.isfinite(y_um + x_um):
            return _NO_SHIFT
        stage_um = np.array([y_um, x_um])
        if self._stage_start_um is None:
            self._stage_start_um = stage_um
        moved_um = stage_um - self._stage_start_um
        camera_px = np.linalg.solve(self.stage_map.matrix_um_per_px, moved_um)
        return np.asarray(camera_px / self.pixel_factor)


def _shifted(rows: Rows, shift_px: FloatArray) -> Rows:
    if shift_px is _NO_SHIFT or not shift_px.any():
        return rows
    rows = rows.copy()
    for axis, shift in zip("yx", shift_px, strict=True):
        for column in (f"{axis}_px", f"{axis}_filtered_px"):
            if column in (rows.dtype.names or ()):
                rows[column] += shift
    return rows
