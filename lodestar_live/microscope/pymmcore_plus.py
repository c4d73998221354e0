"""pymmcore-plus as a source of frames: its MDA runner, and its live view, watched.

Nothing is acquired by us: experiments of `useq`, scripts and napari-micromanager go on
as they would, and every image that they take is tracked.
"""

from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING, Any

from lodestar_live.data import StagePosition
from lodestar_live.errors import SettingsError
from lodestar_live.microscope.core import Microscope, MicroscopeError
from lodestar_live.microscope.frames import FrameReader, SnapFacts
from lodestar_live.microscope.metadata import NAN, ImageFacts, read_facts
from lodestar_live.sources import Offer, Reception, SourceFacts

if TYPE_CHECKING:
    import numpy as np

_AXES = {"t": "time", "p": "position", "c": "channel", "z": "z"}
_LOOK_S = 0.002  # between two looks for a live image, at most a quarter of an exposure
_IDLE_S = 0.05


class SnakeCore:
    """A `CMMCorePlus` that answers in the snake_case the rest of the room speaks."""

    def __init__(self, core: Any) -> None:
        self._core = core

    def __getattr__(self, name: str) -> Any:
        head, *rest = name.split("_")
        words = (
            re.sub("^(api|md|roi|slm|xy)$", lambda m: m[0].upper(), w) for w in rest
        )
        camel = head + "".join(word[:1].upper() + word[1:] for word in words)
        return getattr(self._core, camel)


def as_microscope(core: Any) -> Microscope:
    """Return a `CMMCorePlus` as a microscope, for its stage and its facts."""
    return Microscope(SnakeCore(core), is_python=True, owns_core=False)


class PymmcorePlusSource:
    """Frames of every MDA, snap sequence and live view of one `CMMCorePlus`.

    Use it as a source, or hand it to the runner itself as one of its outputs:
    ``core.mda.run(sequence, output=source)``.

    Parameters
    ----------
    core
        None: pymmcore-plus' own instance, which napari-micromanager uses.
    ends_with_mda
        The delivery ends when an MDA has ended.
    watches_live
        Also take the images of a continuous sequence.
    """

    offers = frozenset({Offer.STAGE, Offer.FOCUS, Offer.EXACT_TIME})

    def __init__(
        self,
        core: Any = None,
        *,
        ends_with_mda: bool = False,
        watches_live: bool = True,
    ) -> None:
        if core is None:
            core = _own_instance()
        self.core = core
        self._ends_with_mda, self._watches_live = ends_with_mda, watches_live
        self._reception: Reception | None = None
        self._reader: FrameReader | None = None
        self._origin_px, self._bit_depth, self._binning = (0, 0), 0, 1
        self._mda_ended = threading.Event()
        self._last_live = -1

    def open(self) -> SourceFacts:
        """Say what the core is; refuse a camera that sends colours."""
        microscope = as_microscope(self.core)
        if not self.core.getCameraDevice():
            raise MicroscopeError("pymmcore-plus: no camera is set (Core-Camera).")
        if self.core.getNumberOfComponents() != 1:
            raise MicroscopeError(
                f"pymmcore-plus: camera {self.core.getCameraDevice()} sends colour "
                "images; expected grey ones. Set its PixelType to 8bit or 16bit."
            )
        return microscope.facts()

    def deliver(self, reception: Reception) -> None:
        """Hand over what is acquired until `reception.stop` or the MDA's end."""
        self._reader = FrameReader(reception.clock)
        self._mda_ended.clear()
        self._note_camera()
        events = self.core.mda.events
        events.sequenceStarted.connect(self._begin)
        events.sequenceFinished.connect(self._end)
        events.frameReady.connect(self.frameReady)
        self._reception = reception
        try:
            while not reception.stop.is_set():
                if self._ends_with_mda and self._mda_ended.wait(0):
                    return
                reception.stop.wait(self._look_for_live(reception))
        finally:
            self._reception = None
            events.frameReady.disconnect(self.frameReady)
            events.sequenceFinished.disconnect(self._end)
            events.sequenceStarted.disconnect(self._begin)

    def close(self) -> None:
        """Nothing is held between two deliveries."""

    def frameReady(  # noqa: N802 - the runner looks for this name
        self, image: np.ndarray[Any, Any], event: Any, meta: dict[str, Any]
    ) -> None:
        """Take one image of the MDA runner; never raises, never waits."""
        reception, reader = self._reception, self._reader
        if reception is None or reader is None:
            return
        t_arrival_s = reception.clock()
        try:
            facts, snap = self._facts(event, meta)
            frame = reader.make(image, facts, t_arrival_s, snap)
        except BaseException as error:  # counted; the acquisition goes on
            reception.refuse(error, t_arrival_s)
        else:
            reception.take(frame)

    def _begin(self, *_: Any) -> None:
        self._note_camera()

    def _end(self, *_: Any) -> None:
        self._mda_ended.set()

    def _note_camera(self) -> None:
        x, y, *_ = self.core.getROI()
        camera = self.core.getCameraDevice()
        self._origin_px = int(y), int(x)
        self._bit_depth = int(self.core.getImageBitDepth())
        text = "1"
        if camera and self.core.hasProperty(camera, "Binning"):
            text = str(self.core.getProperty(camera, "Binning")).split("x")[0]
        self._binning = int(text) if text.isdecimal() and int(text) else 1

    def _facts(
        self, event: Any, meta: dict[str, Any]
    ) -> tuple[ImageFacts, SnapFacts | None]:
        """Return what the runner says of one image, in our terms."""
        tags = dict(meta.get("camera_metadata") or {})
        known = read_facts(tags)
        index: dict[str, Any] = {str(k): v for k, v in event.index.items()}
        channel = event.channel.config if event.channel is not None else ""
        axes = {_AXES.get(name, name): value for name, value in index.items()}
        if channel:
            axes["channel"] = channel
        position = str(event.pos_name or index.get("p", ""))
        planned = [getattr(event, f"{axis}_pos") for axis in "zyx"]
        stood = meta.get("position") or {}
        stage_um = StagePosition(
            *(
                float(p) if p is not None else _number(stood.get(axis))
                for p, axis in zip(planned, "zyx", strict=True)
            )
        )
        # A snap's time is that of its end, on this process's monotonic clock.
        begun_s = time.perf_counter() - self.core.mda.seconds_elapsed()
        ended_s = begun_s + float(meta["runner_time_ms"]) / 1e3
        is_stamped = known.received_wall_s is not None
        snap = SnapFacts(ended_s, self._origin_px, self._binning, self._bit_depth)
        return ImageFacts(
            pixel_size_um=float(meta.get("pixel_size_um") or NAN),
            exposure_ms=float(meta.get("exposure_ms") or NAN),
            bit_depth=self._bit_depth or None,
            origin_px=self._origin_px,
            binning=self._binning,
            camera=str(meta.get("camera_device") or known.camera),
            channel=channel,
            axes=axes,
            received_wall_s=known.received_wall_s,
            planned_axes="".join(
                axis
                for axis, p in zip("XYZ", reversed(planned), strict=True)
                if p is not None
            ),
            planned_um=stage_um,
            position=position,
            time_index=index.get("t"),
            z_index=index.get("z"),
            image_number=known.image_number if is_stamped else None,
        ), (None if is_stamped else snap)

    def _look_for_live(self, reception: Reception) -> float:
        """Take the newest images of a continuous sequence; return the pause after it.

        They stay in the buffer for whoever shows them.
        """
        core = self.core
        if not self._watches_live or core.mda.is_running():
            return _IDLE_S
        if not core.isSequenceRunning():
            self._last_live = -1
            return _IDLE_S
        pause_s = max(min(_LOOK_S, float(core.getExposure()) / 4e3), 0.0005)
        n_new = self._new_live_images(core)
        for n_before in reversed(range(n_new)):
            self._take_live(n_before, reception)
        return pause_s

    def _new_live_images(self, core: Any) -> int:
        """Return how many images came since the last look, and are still to be had."""
        if not core.getRemainingImageCount():
            return 0
        try:
            number = read_facts(_nth_newest(core, 0)[1]).image_number
        except (RuntimeError, IndexError):  # popped by somebody else meanwhile
            return 0
        if number is None or number == self._last_live:
            return 0
        is_new_start = number < self._last_live or self._last_live < 0
        n_new = 1 if is_new_start else number - self._last_live
        self._last_live = number
        return int(min(n_new, core.getRemainingImageCount()))

    def _take_live(self, n_before: int, reception: Reception) -> None:
        t_arrival_s = reception.clock()
        try:
            image, tags = _nth_newest(self.core, n_before)
        except (RuntimeError, IndexError):
            return  # the gap is seen in the next image's number
        tags.setdefault("Exposure", self.core.getExposure())
        tags.setdefault("PixelSize_um", self.core.getPixelSizeUm())
        if self._reader is None:
            return
        try:
            frame = self._reader.read(image, tags, t_arrival_s)
        except BaseException as error:
            reception.refuse(error, t_arrival_s)
        else:
            reception.take(frame)


def _nth_newest(core: Any, n_before: int) -> tuple[Any, dict[str, Any]]:
    """Return an image of the circular buffer and its tags, and leave it there."""
    image, tags = core.getNBeforeLastImageAndMD(n_before)
    return image, dict(tags)


def _number(value: Any) -> float:
    return NAN if value is None else float(value)


def _own_instance() -> Any:
    try:
        from pymmcore_plus import CMMCorePlus
    except ImportError as error:
        raise SettingsError(
            "pymmcore-plus is not installed: pip install 'lodestar-live[plus]'."
        ) from error
    return CMMCorePlus.instance()
