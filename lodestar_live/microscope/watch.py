"""Watch what the user does in a running Micro-Manager: Live, Snap, MDA.

Nothing is acquired, moved or taken out of a buffer: newest images are looked at through
the bridge, on sockets of our own. Live images come from the core's circular buffer and
are numbered by the camera; images of Snap and MDA come from the data provider of the
window that shows them, with their coordinates.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from lodestar_live.data import StagePosition
from lodestar_live.microscope.bridge import listens, release
from lodestar_live.microscope.core import Microscope, MicroscopeError
from lodestar_live.microscope.frames import FrameReader
from lodestar_live.microscope.metadata import NAN, ImageFacts
from lodestar_live.microscope.trouble import first_line
from lodestar_live.sources import Offer, Reception, SourceFacts

_IDLE_S = 0.05  # between two looks while nothing is on
_LEAST_S = 0.002  # between two looks at Live
_MOST_MISSED = 5  # answers in a row that may be errors
_AXES = (("t", "time"), ("p", "position"), ("c", "channel"), ("z", "z"))


class WatchSource:
    """Frames of whatever a running Micro-Manager takes.

    Parameters
    ----------
    microscope
        Attached to; it is not closed by this source.
    """

    offers = frozenset({Offer.STAGE, Offer.FOCUS, Offer.EXACT_TIME})

    def __init__(self, microscope: Microscope) -> None:
        if microscope.is_python:
            raise MicroscopeError(
                'acquisition.source = "watch" needs a running Micro-Manager '
                '(microscope.backend = "running"); a core of this process shows no '
                "window. For pymmcore-plus use PymmcorePlusSource."
            )
        self._microscope = microscope
        self._core: Any = None
        self._studio: Any = None

    def open(self) -> SourceFacts:
        """Take a socket of our own for the core, and the window if there is one."""
        self._core = self._microscope.second_handle()
        with contextlib.suppress(Exception):  # headless: no window, Live only
            self._studio = _studio(self._microscope.port)
        return self._microscope.facts()

    def deliver(self, reception: Reception) -> None:
        """Hand over newest images until `reception.stop`."""
        if self._core is None:
            self.open()
        live = _Live(self._core, reception)
        shown = None if self._studio is None else _Shown(self._studio, reception)
        missed = 0
        while not reception.stop.is_set():
            begin_s = time.perf_counter()
            try:
                pause_s = live.look()
                if pause_s is None:
                    pause_s = _IDLE_S if shown is None else shown.look()
                missed = 0
            except Exception as error:
                missed, pause_s = missed + 1, _IDLE_S
                self._require_alive(error, missed)
            spent_s = time.perf_counter() - begin_s
            reception.stop.wait(max(pause_s - spent_s, 0.0005))

    def close(self) -> None:
        """Let go of the sockets; may be called twice."""
        if self._studio is not None:
            release(self._studio)
        if self._core is not None:
            self._microscope.give_back(self._core)
        self._core = self._studio = None

    def _require_alive(self, error: Exception, missed: int) -> None:
        name = self._microscope.name
        if not listens(self._microscope.port):
            raise MicroscopeError(
                f"{name}: it is gone: it has ended or crashed. Start it and run again."
            ) from error
        if missed >= _MOST_MISSED:
            raise MicroscopeError(
                f"{name}: it cannot be watched: {first_line(error)}"
            ) from error


class _Live:
    """The newest image of a running sequence, numbered by its camera."""

    def __init__(self, core: Any, reception: Reception) -> None:
        self._core, self._reception = core, reception
        self._reader = FrameReader(reception.clock)
        self._last: tuple[str, str] | None = None  # number and stamp
        self._is_on = False

    def look(self) -> float | None:
        """Take the newest image if it is new; None when no sequence runs."""
        core = self._core
        if not core.is_sequence_running():
            self._is_on = False
            return None
        if not self._is_on:
            self._is_on, self._exposure_ms = True, float(core.get_exposure())
        pause_s = max(self._exposure_ms / 4e3, _LEAST_S)
        if not core.get_remaining_image_count():
            return pause_s
        tagged = core.get_last_tagged_image()
        t_arrival_s = self._reception.clock()
        tags = tagged.tags
        known = str(tags.get("ImageNumber")), str(tags.get("TimeReceivedByCore"))
        if known != self._last:
            self._last = known
            tags.setdefault("Exposure", self._exposure_ms)
            _deliver(
                self._reception,
                t_arrival_s,
                lambda: self._reader.read(_shaped(tagged.pix, tags), tags, t_arrival_s),
            )
        return pause_s


class _Shown:
    """The images of the active window: Snap shows its newest, MDA all of them.

    Each question is a round trip, so what stays the same is asked once: the camera's
    facts per channel, the names of channels and positions.
    """

    def __init__(self, studio: Any, reception: Reception) -> None:
        self._displays, self._reception = studio.displays(), reception
        self._reader = FrameReader(reception.clock)
        self._newest_snap = ""
        self._begin("")

    def _begin(self, name: str) -> None:
        self._name, self._n_seen = name, 0
        self._coords: Any = None
        self._index = dict.fromkeys((axis for axis, _ in _AXES), 0)
        self._fixed: dict[tuple[int, int], ImageFacts] = {}

    def look(self) -> float:
        """Take the images that are new in the active window."""
        viewer = self._displays.get_active_data_viewer()
        if viewer is None:
            return _IDLE_S
        provider = viewer.get_data_provider()
        name, n_images = str(provider.get_name()), int(provider.get_num_images())
        if name != self._name or n_images < self._n_seen:
            self._begin(name)
        if n_images == 1:  # Snap replaces its only image
            self._take_snap(provider)
            return _IDLE_S
        while self._n_seen < n_images and not self._reception.stop.is_set():
            coords = self._coords_of(provider, self._n_seen)
            image = provider.get_image(coords)
            if image is None:
                break  # of an order in which it is still to come
            self._take(provider, image, image.get_metadata())
            self._n_seen += 1
        return _IDLE_S / 4

    def _coords_of(self, provider: Any, k: int) -> Any:
        """Return the coordinates of the k-th image: times, positions, channels, z.

        Of an acquisition in another order all images are found too, some of them late.
        """
        newest = provider.get_max_indices()
        index, rest = {}, k
        for axis, _ in reversed(_AXES):
            rest, index[axis] = divmod(rest, int(getattr(newest, f"get_{axis}")()) + 1)
        builder = (self._coords or newest).copy_builder()
        for axis, value in index.items():
            if self._coords is None or value != self._index[axis]:
                builder = getattr(builder, axis)(value)
        self._coords, self._index = builder.build(), index
        return self._coords

    def _take_snap(self, provider: Any) -> None:
        image = provider.get_any_image()
        metadata = image.get_metadata()
        received = str(metadata.get_received_time())
        if received != self._newest_snap:
            self._newest_snap, self._n_seen = received, 1
            self._take(provider, image, metadata)

    def _take(self, provider: Any, image: Any, metadata: Any) -> None:
        t_arrival_s = self._reception.clock()
        _deliver(
            self._reception,
            t_arrival_s,
            lambda: self._reader.make(
                _pixels_of(image), self._facts(provider, metadata), t_arrival_s
            ),
        )

    def _facts(self, provider: Any, metadata: Any) -> ImageFacts:
        key = self._index["c"], self._index["p"]
        if key not in self._fixed:
            self._fixed[key] = self._ask_fixed(provider, metadata)
        elapsed_ms = float(metadata.get_elapsed_time_ms(-1.0))
        return replace(
            self._fixed[key],
            axes={name: self._index[axis] for axis, name in _AXES},
            elapsed_s=elapsed_ms / 1e3 if elapsed_ms > 0 else None,
            planned_um=StagePosition(
                _number(metadata.get_z_position_um()),
                _number(metadata.get_y_position_um()),
                _number(metadata.get_x_position_um()),
            ),
            time_index=self._index["t"],
            z_index=self._index["z"],
        )

    def _ask_fixed(self, provider: Any, metadata: Any) -> ImageFacts:
        roi, summary = metadata.get_roi(), provider.get_summary_metadata()
        return ImageFacts(
            pixel_size_um=_number(metadata.get_pixel_size_um()),
            exposure_ms=_number(metadata.get_exposure_ms()),
            bit_depth=metadata.get_bit_depth(),
            origin_px=(0, 0) if roi is None else (int(roi.y), int(roi.x)),
            binning=int(metadata.get_binning() or 1),
            camera=str(metadata.get_camera() or ""),
            channel=str(summary.get_safe_channel_name(self._index["c"])),
            position=str(metadata.get_position_name() or ""),
        )


def _deliver(reception: Reception, t_arrival_s: float, make: Callable[[], Any]) -> None:
    try:
        frame = make()
    except BaseException as error:  # counted; the watch goes on
        reception.refuse(error, t_arrival_s)
    else:
        reception.take(frame)


def _shaped(flat: Any, tags: dict[str, Any]) -> Any:
    return np.asarray(flat).reshape(int(tags["Height"]), int(tags["Width"]), -1)[..., 0]


def _pixels_of(image: Any) -> Any:
    flat = np.asarray(image.get_raw_pixels())
    return flat.reshape(int(image.get_height()), int(image.get_width()))


def _number(value: Any) -> float:
    return NAN if value is None else float(value)


def _studio(port: int) -> Any:
    from pyjavaz import JavaObject

    return JavaObject("org.micromanager.Studio", port=port, new_socket=True)
