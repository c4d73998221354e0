"""The microscope as the page looks at it: one thread asks it, one thing at a time."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from lodestar_live.data import Pixels
from lodestar_live.errors import InputError, LodestarError
from lodestar_live.microscope import CoreStage, Microscope, open_microscope
from lodestar_live.settings import MicroscopeSettings

_log = logging.getLogger(__name__)
_PERIOD_S = 0.04  # at most 25 live images a second
_CLOSE_WITHIN_S = 10.0


class Camera:
    """A microscope's camera, opened, watched and let go of on a thread of its own.

    Parameters
    ----------
    show
        Takes each image and whether it is a snapshot, on this object's thread.
    fail
        Takes a sentence about what went wrong, on this object's thread.
    """

    def __init__(
        self, show: Callable[[Pixels, bool], None], fail: Callable[[str], None]
    ) -> None:
        self._show, self._fail = show, fail
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._microscope: Microscope | None = None
        self.is_live = False
        self._thread = threading.Thread(
            target=self._work, name="lodestar-camera", daemon=True
        )
        self._thread.start()

    def do(self, task: Callable[[], None]) -> None:
        """Carry `task` out on this object's thread, after those before it."""
        self._tasks.put(task)

    def close(self) -> None:
        """Let go of the microscope and end the thread."""
        self.do(self.release)
        self._tasks.put(None)
        self._thread.join(_CLOSE_WITHIN_S)

    # -- tasks: only on this object's thread -----------------------------------

    def open(self, settings: MicroscopeSettings) -> dict[str, Any]:
        """Open a microscope, take one image, and say what it is."""
        self.release()
        self._microscope = open_microscope(settings)
        self.snap()
        return self.facts()

    def release(self) -> None:
        """Let go of the microscope, so that another process can take it."""
        self.is_live = False
        if self._microscope is not None:
            microscope, self._microscope = self._microscope, None
            microscope.close()

    def expose(self, exposure_ms: float) -> None:
        """Set the exposure."""
        self._reached().core.set_exposure(exposure_ms)

    def snap(self) -> None:
        """Take the snapshot."""
        self._show(self._reached().snap(), True)

    def facts(self) -> dict[str, Any]:
        """Return what the page shows of the microscope."""
        microscope = self._reached()
        told = microscope.facts()
        return {
            "name": told.name,
            "camera": told.camera,
            "exposure_ms": told.exposure_ms,
            "pixel_size_um": _known(told.pixel_size_um),
            "objective": microscope.objective,
            "stage_um": self._stage_um(microscope),
        }

    def _stage_um(self, microscope: Microscope) -> dict[str, float | None] | None:
        stage = CoreStage(microscope)
        with contextlib.suppress(LodestarError), contextlib.closing(stage):
            here = stage.position_um()
            return {"z": _known(here.z_um), "y": here.y_um, "x": here.x_um}
        return None

    def _reached(self) -> Microscope:
        if self._microscope is None:
            raise InputError("no microscope is connected; connect one first.")
        return self._microscope

    def _work(self) -> None:
        while True:
            try:
                task = self._tasks.get(timeout=_PERIOD_S if self.is_live else None)
            except queue.Empty:
                task = self._look
            if task is None:
                return
            try:
                task()
            except LodestarError as error:
                self.is_live = False
                self._fail(str(error))
            except Exception as error:  # of a driver: whatever it may be, it is told
                _log.exception("the microscope failed")
                self.is_live = False
                self._fail(f"the microscope failed: {error}")

    def _look(self) -> None:
        self._show(self._reached().snap(), False)


def levels(pixels: Pixels) -> dict[str, float]:
    """Return darkest, brightest and the share of saturated pixels of an image."""
    top = float(pixels.max())
    full = float(np.iinfo(pixels.dtype).max) if pixels.dtype.kind in "iu" else top
    share = float(np.mean(pixels == pixels.max())) if top >= full else 0.0
    return {"low": float(pixels.min()), "high": top, "saturated": share}


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
