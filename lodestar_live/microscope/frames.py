"""From one image of a host, with the host's own metadata, to a `Frame`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from lodestar_live.data import Frame, Pixels
from lodestar_live.errors import InputError
from lodestar_live.microscope.camera_clock import StampClock, WallClock
from lodestar_live.microscope.metadata import ImageFacts, read_facts
from lodestar_live.microscope.numbering import SourceNumbers

SNAP_KEY = "lodestar-live snap"  # see `snaps.note_snaps`
_SIGMA_STAMP_S = 5e-4  # of two clocks read one after the other
_SIGMA_ELAPSED_S = 1e-3  # milliseconds, whole ones on the Java side


class SnapFacts(NamedTuple):
    """What is known in the moment a snap ends, and in no metadata."""

    ended_perf_s: float
    origin_px: tuple[int, int]
    binning: int
    bit_depth: int | None


class _Stamp(NamedTuple):
    """When an image was delivered: a reading of one clock of the host's."""

    kind: str  # wall, perf or elapsed
    value_s: float


class FrameReader:
    """Make frames of images as they arrive; keeps the clocks and counts of all cameras.

    Parameters
    ----------
    clock
        Seconds since the run's start, monotonic.
    wall
        POSIX seconds, the clock of MMCore's stamps.
    """

    def __init__(
        self, clock: Callable[[], float], wall: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._wall = WallClock(clock, wall)
        self._stamps: dict[tuple[str, str], StampClock] = {}
        self._numbers: dict[tuple[str, bool], SourceNumbers] = {}
        self._newest: dict[tuple[str, bool], int] = {}

    def read(
        self, pixels: Any, metadata: Mapping[str, Any] | None, t_arrival_s: float
    ) -> Frame:
        """Return the frame of one image; its `index` is for the run to give.

        What `note_snaps` put into `metadata` is taken out of it again.

        Raises
        ------
        InputError
            The image is not a grey one.
        """
        snap = metadata.pop(SNAP_KEY, None) if isinstance(metadata, dict) else None
        facts = read_facts({} if metadata is None else metadata)
        return self.make(pixels, facts, t_arrival_s, snap)

    def make(
        self,
        pixels: Any,
        facts: ImageFacts,
        t_arrival_s: float,
        snap: SnapFacts | None = None,
    ) -> Frame:
        """Return the frame of one image about which `facts` are known."""
        self._wall.look()
        image = _require_grey(pixels)
        stamp = self._stamp(facts, snap)
        number, is_newest = self._count(facts, stamp)
        t_s, sigma_s = self._delivered(facts.camera, stamp, t_arrival_s, is_newest)
        t_s -= facts.exposure_ms / 2e3 if facts.exposure_ms > 0 else 0.0
        return Frame(
            index=-1,
            pixels=image,
            t_exposure_s=t_s,
            t_arrival_s=t_arrival_s,
            stage_um=facts.planned_um,
            pixel_size_um=facts.pixel_size_um,
            origin_px=snap.origin_px if snap else facts.origin_px,
            exposure_ms=facts.exposure_ms,
            bit_depth=(snap.bit_depth if snap else None) or facts.bit_depth,
            camera=facts.camera,
            channel=facts.channel,
            axes=facts.axes,
            position=facts.position,
            time_index=facts.time_index,
            z_index=facts.z_index,
            binning=snap.binning if snap else facts.binning,
            source_number=number,
            sigma_t_s=sigma_s,
            planned_axes=facts.planned_axes,
        )

    def _stamp(self, facts: ImageFacts, snap: SnapFacts | None) -> _Stamp | None:
        if snap is not None:
            return _Stamp("perf", snap.ended_perf_s)
        if facts.received_wall_s is not None:
            return _Stamp("wall", facts.received_wall_s)
        if facts.elapsed_s is not None:
            return _Stamp("elapsed", facts.elapsed_s)
        return None

    def _count(
        self, facts: ImageFacts, stamp: _Stamp | None
    ) -> tuple[int | None, bool]:
        """Return the image's number in its camera's count, and whether it is newest."""
        is_counter = facts.image_number is not None
        raw = facts.image_number if is_counter else facts.time_number
        if raw is None:
            return None, True
        key = facts.camera, is_counter
        numbers = self._numbers.setdefault(key, SourceNumbers())
        # An elapsed time starts again with every acquisition, so it orders nothing.
        value_s = None if stamp is None or stamp.kind == "elapsed" else stamp.value_s
        number = numbers.count(raw, value_s)
        is_newest = number > self._newest.get(key, -1)
        if is_newest:
            self._newest[key] = number
        return number, is_newest

    def _delivered(
        self,
        camera: str,
        stamp: _Stamp | None,
        t_arrival_s: float,
        is_newest: bool,
    ) -> tuple[float, float]:
        """Return when the image was delivered, run time, and its uncertainty."""
        if stamp is None:
            return t_arrival_s, float("nan")
        if stamp.kind == "perf":
            ago_s = time.perf_counter() - stamp.value_s
            return min(self._clock() - ago_s, t_arrival_s), _SIGMA_STAMP_S
        is_wall = stamp.kind == "wall"
        value_s = self._wall.run_s(stamp.value_s) if is_wall else stamp.value_s
        fit = self._stamps.setdefault((camera, stamp.kind), StampClock(is_wall))
        read = fit.delivered_s if is_newest else fit.peek_s
        sigma_s = _SIGMA_STAMP_S if is_wall else _SIGMA_ELAPSED_S
        return read(value_s, t_arrival_s), sigma_s


def _require_grey(pixels: Any) -> Pixels:
    image = pixels if isinstance(pixels, np.ndarray) else np.asarray(pixels)
    if image.ndim != 2 or 0 in image.shape or image.dtype.kind not in "uifcb":
        raise InputError(
            f"an image has shape {image.shape} and type {image.dtype}; expected one "
            "grey image (y, x) of numbers. Colour cameras: set the camera to a grey "
            "pixel type (8bit or 16bit), or hand on a single channel."
        )
    return image
