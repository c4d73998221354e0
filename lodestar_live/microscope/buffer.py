"""Frames straight from MMCore's circular buffer, for a thousand and more per second.

pycro-manager's engine hands images over one by one, through queues and threads of its
own, some two hundred times a second. A continuous sequence needs none of that: the
camera writes into MMCore's buffer, and images are taken out of it as fast as they can
be processed. Nothing is moved, triggered or stored; for that there are acquisitions.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from lodestar_live.data import Frame
from lodestar_live.events import CameraError
from lodestar_live.microscope.core import Microscope, MicroscopeError
from lodestar_live.microscope.frames import FrameReader
from lodestar_live.microscope.metadata import ImageFacts, read_facts, read_wall_s
from lodestar_live.microscope.trouble import (
    Patience,
    UncurableError,
    find_cause,
    first_line,
    require_ready,
)
from lodestar_live.settings import AcquisitionSettings
from lodestar_live.sources import Offer, Reception, SourceFacts

_SILENT_S = 1.5  # beside three exposures: no image for so long is looked into
_LEAST_PAUSE_S, _MOST_PAUSE_S = 5e-5, 1e-3  # between two looks into an empty buffer
_CHECK_S = 0.02  # how often a sequence without images is asked whether it runs


class BufferSource:
    """Frames of one continuous sequence; see `lodestar_live.sources.FrameSource`.

    It offers to wait: in mode ``every`` each frame is processed before the next is
    taken, and the buffer holds what comes meanwhile. Frames that the buffer had no room
    for are known from the camera's numbers and counted as lost.

    Parameters
    ----------
    microscope
        A core in this process: the demo, one started headless, or pymmcore-plus'
        (`pymmcore_plus.as_microscope`). It is not closed by this source.
    settings
        Exposure time and number of frames.

    Raises
    ------
    MicroscopeError
        The core runs elsewhere.
    """

    offers = frozenset({Offer.STAGE, Offer.FOCUS, Offer.EXACT_TIME, Offer.WAITS})

    def __init__(
        self, microscope: Microscope, settings: AcquisitionSettings | None = None
    ) -> None:
        if not microscope.is_python:
            raise MicroscopeError(
                f'{microscope.name}: acquisition.source = "buffer" needs MMCore in '
                'this process (microscope.backend = "headless" or "demo", or '
                'pymmcore-plus). Use source = "acquire", or "watch".'
            )
        self._microscope = microscope
        self._settings = settings or AcquisitionSettings(source="buffer")

    def open(self) -> SourceFacts:
        """Refuse what could only fail; set the exposure time."""
        require_ready(self._microscope)
        if self._settings.exposure_ms is not None:
            self._microscope.core.set_exposure(self._settings.exposure_ms)
        return self._microscope.facts(self._settings.n_frames)

    def deliver(self, reception: Reception) -> None:
        """Hand over images until the settings' number of frames or `reception.stop`."""
        sequence = _Sequence(self._microscope, reception)
        patience = Patience(_SILENT_S + 3 * sequence.exposure_ms / 1e3)
        while True:
            try:
                sequence.run(self._settings.n_frames, patience)
            except (MicroscopeError, RuntimeError) as error:
                self._survive(error, patience, reception)
                continue
            return

    def close(self) -> None:
        """Nothing is held between two deliveries."""

    def _survive(
        self, error: Exception, patience: Patience, reception: Reception
    ) -> None:
        """Say what is tried again; raise what cannot be mended."""
        try:
            if isinstance(error, UncurableError):
                raise error
            patience.spend(error)
        except MicroscopeError as last:
            reception.abandon(str(last))
            raise MicroscopeError(f"{self._microscope.name}: {last}") from error
        why = f"{first_line(error)}; the sequence is begun again"
        reception.tell(CameraError(why=why).at(reception.clock()))


class _Sequence:
    """The sequences of one delivery, and what all their images have in common."""

    def __init__(self, microscope: Microscope, reception: Reception) -> None:
        from pymmcore import Metadata

        self._microscope, self._reception = microscope, reception
        self._core: Any = microscope.core
        self._reader = FrameReader(reception.clock)
        self._tags = Metadata()
        self._facts: ImageFacts | None = None
        self._n, self._n_seen = 0, 0
        self.exposure_ms = float(self._core.get_exposure())

    def run(self, n_frames: int | None, patience: Patience) -> None:
        """Take images until there are `n_frames`, from when the model is there."""
        core, stop = self._core, self._reception.stop
        shape = int(core.get_image_height()), int(core.get_image_width())
        pause_s = min(max(self.exposure_ms / 8e3, _LEAST_PAUSE_S), _MOST_PAUSE_S)
        self._facts, next_check_s = None, 0.0
        core.start_continuous_sequence_acquisition(0)
        try:
            while not stop.is_set() and (n_frames is None or self._n < n_frames):
                if core.get_remaining_image_count():
                    self._take()
                    continue
                now_s = time.perf_counter()
                if now_s >= next_check_s:
                    next_check_s = now_s + _CHECK_S
                    patience.saw(self._n_seen)
                    self._require_running(patience, shape)
                time.sleep(pause_s)
        finally:
            if core.is_sequence_running():
                core.stop_sequence_acquisition()

    def _take(self) -> None:
        reception = self._reception
        is_ready = reception.is_ready()
        pixels = self._core.pop_next_image_md(self._tags)
        t_arrival_s = reception.clock()
        self._n_seen += 1
        try:
            frame = self._frame(pixels, t_arrival_s)
        except BaseException as error:  # counted; the sequence goes on
            reception.refuse(error, t_arrival_s)
        else:
            reception.take(frame)
        self._n += is_ready

    def _frame(self, pixels: Any, t_arrival_s: float) -> Frame:
        tags = self._tags
        if self._facts is None:
            self._facts = self._read_facts()
        facts = replace(
            self._facts,
            image_number=int(tags.GetSingleTag("ImageNumber").GetValue()),
            received_wall_s=read_wall_s(
                tags.GetSingleTag("TimeReceivedByCore").GetValue()
            ),
        )
        return self._reader.make(pixels, facts, t_arrival_s)

    def _read_facts(self) -> ImageFacts:
        """Read all that the first image says; the others differ in number and time."""
        tags, core = self._tags, self._core
        known = {name: tags.GetSingleTag(name).GetValue() for name in tags.GetKeys()}
        bits = int(core.get_image_bit_depth())
        size_um = self._microscope.pixel_size_um
        facts = {"Exposure": self.exposure_ms, "PixelSizeUm": size_um, "BitDepth": bits}
        return read_facts({**known, **facts})

    def _require_running(self, patience: Patience, shape: tuple[int, int]) -> None:
        """Look into a sequence that has ended by itself, or is silent for too long."""
        has_ended = not self._core.is_sequence_running()
        if has_ended and self._core.get_remaining_image_count():
            return
        if not has_ended and not patience.is_silent():
            return
        cause = find_cause(self._microscope, in_sequence=True, shape=shape)
        if has_ended:
            raise MicroscopeError(cause or "the camera ended its sequence by itself")
        if cause or patience.is_spent():
            raise MicroscopeError(cause or "the camera sends no images")
