"""Is the microscope still the one that was calibrated? Asked at every frame."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lodestar_live.control.calibration import MAX_CONTRADICTION, Calibration
from lodestar_live.data import Frame

REMEDY = "Change it back or calibrate again; then arm."


class OpticsGuard:
    """Compares what frames and devices state with the calibration and with before.

    Pixel size and devices are compared with the calibration. Shape, place on the sensor
    and camera of the frames are compared with those of the first frame since arming,
    and so is whatever the calibration does not name.

    Parameters
    ----------
    calibration
        None: there is only what was before.
    """

    def __init__(self, calibration: Calibration | None) -> None:
        self._calibration = calibration
        self._first: Frame | None = None
        self._devices: dict[str, str] = {}
        self.forget()

    def forget(self) -> None:
        """Take the next frame, and devices as they stand, for right: it was armed."""
        self._first = None
        self._devices = {}
        if self._calibration is not None:
            self._devices = dict(self._calibration.optics)
            if self._calibration.objective:
                self._devices["objective"] = self._calibration.objective

    def contradiction(self, frame: Frame) -> str:
        """Return what in a frame contradicts calibration or earlier frames, or ""."""
        if self._first is None:
            pixels = np.broadcast_to(np.uint8(0), frame.pixels.shape)
            self._first = Frame(
                frame.index,
                pixels,
                pixel_size_um=frame.pixel_size_um,
                origin_px=frame.origin_px,
                camera=frame.camera,
            )
        first = self._first
        pairs: dict[str, tuple[object, object]] = {
            "shape (y, x)": (first.pixels.shape, frame.pixels.shape),
            "place on the sensor (y, x)": (first.origin_px, frame.origin_px),
        }
        if first.camera and frame.camera:
            pairs["camera"] = (first.camera, frame.camera)
        for name, (before, now) in pairs.items():
            if before != now:
                return (
                    f"the image has changed: frame {frame.index} has {name} {now}, "
                    f"frame {first.index} had {before}. {REMEDY}"
                )
        return self._of_scale(frame)

    def contradiction_of_devices(self, devices: Mapping[str, str]) -> str:
        """Return which device is not as calibrated, or as before, or ""."""
        for name, now in devices.items():
            before = self._devices.setdefault(name, now)
            if before != now:
                return (
                    f"the microscope has changed: {name} is {now!r}, expected "
                    f"{before!r}. {REMEDY}"
                )
        return ""

    def _of_scale(self, frame: Frame) -> str:
        assert self._first is not None  # noqa: S101 - set before
        expected_um, whose = self._first.pixel_size_um, f"frame {self._first.index}"
        if self._calibration is not None:
            expected_um, whose = self._calibration.scale_um_per_px, "the calibration"
        if not np.isfinite([expected_um, frame.pixel_size_um]).all():
            return ""
        if abs(frame.pixel_size_um / expected_um - 1) <= MAX_CONTRADICTION:
            return ""
        return (
            f"the magnification has changed: frame {frame.index} states "
            f"{frame.pixel_size_um:.4g} um per pixel, {whose} has {expected_um:.4g}. "
            f"{REMEDY}"
        )
