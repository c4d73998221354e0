"""The microscope's stage and properties as the control room wants to drive them."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from lodestar_live.data import UNKNOWN_POSITION, StagePosition
from lodestar_live.errors import SettingsError, StageError
from lodestar_live.microscope.core import Microscope, read_objective

logger = logging.getLogger(__name__)
NAN = float("nan")
_FRESH_S = 0.02  # age of a reading that is as good as a new one
_FRESH_Z_S = 0.2  # of a focus drive that nobody of us moved
_RESTING_REMOTE_S = 0.1
_RESTING_S = 0.05  # between readings of a stage that stands still
_MOVING_S = 0.01
_READINGS_KEPT = 256
_STOP_WITHIN_S = 1.0
_ORIENTATION = (
    "Binning",
    "TransposeCorrection",
    "TransposeMirrorX",
    "TransposeMirrorY",
    "TransposeXY",
)
_DRIVES = (5, 6, 9)  # MMDevice.h: StageDevice, XYStageDevice, AutoFocusDevice


class CoreStage:
    """Stage, focus, properties and objective of one MMCore; nothing here waits.

    The drives are those that were MMCore's when this was made, and are named in every
    call: whoever makes another drive the current one does not redirect ours.

    Calls go through a core handle of their own, so a slow camera call never delays a
    command (the Java bridge serialises every call on one socket). There each call is a
    round trip, 0.3 ms at rest and up to an exposure while a camera of the same adapter
    is busy: positions are read anew only when they can have changed, and only drives
    that were moved are asked whether they still are.

    Parameters
    ----------
    xy, z
        Labels of the XY stage and of the focus drive; "": Micro-Manager's default.

    Raises
    ------
    SettingsError
        There is no such stage.
    """

    def __init__(self, microscope: Microscope, *, xy: str = "", z: str = "") -> None:
        self._microscope = microscope
        self._is_remote = not microscope.is_python
        self._core = microscope.second_handle()
        _require_stage(self._core, xy, "xy_stage")
        _require_stage(self._core, z, "z_stage")
        self._xy = xy or str(self._core.get_xy_stage_device())
        self._z = z or str(self._core.get_focus_device())
        self._moving = {self._xy, self._z} - {""}
        self._last, self._read_s, self._z_read_s = UNKNOWN_POSITION, -1e9, -1e9
        self._lock = threading.Lock()
        self._is_closed = False

    @property
    def is_remote(self) -> bool:
        """Whether every call is a round trip to another process."""
        return self._is_remote

    def close(self) -> None:
        """Let go of the handle; nothing may be called after it, this may be again."""
        if not self._is_closed:
            self._is_closed = True
            with self._lock:  # who reads just now comes to an end first
                self._microscope.give_back(self._core)

    def position_um(self) -> StagePosition:
        """Return where the stage stands now; NaN where there is no drive."""
        with self._lock:
            now_s = time.perf_counter()
            if self._is_closed or (self._is_remote and now_s - self._read_s < _FRESH_S):
                return self._last
            z_um = self._last.z_um
            if not self._is_remote or now_s - self._z_read_s > _FRESH_Z_S:
                z_um = float(self._core.get_position(self._z)) if self._z else NAN
                self._z_read_s = now_s
            y_um = float(self._core.get_y_position(self._xy)) if self._xy else NAN
            x_um = float(self._core.get_x_position(self._xy)) if self._xy else NAN
            self._last, self._read_s = StagePosition(z_um, y_um, x_um), now_s
            return self._last

    def move_to_um(self, y_um: float, x_um: float) -> None:
        """Command an absolute XY position; returns before it is reached."""
        if not self._xy:
            raise StageError("the Micro-Manager configuration has no XY stage.")
        self._core.set_xy_position(self._xy, float(x_um), float(y_um))
        self._moving.add(self._xy)
        self._read_s = -1e9

    def move_z_to_um(self, z_um: float) -> None:
        """Command an absolute focus position; returns before it is reached."""
        if not self._z:
            raise StageError("the Micro-Manager configuration has no focus drive.")
        self._core.set_position(self._z, float(z_um))
        self._moving.add(self._z)
        self._read_s = self._z_read_s = -1e9

    def is_busy(self) -> bool:
        """Tell whether XY stage or focus drive still moves."""
        asked = self._moving if self._is_remote else {self._xy, self._z} - {""}
        busy = {device for device in tuple(asked) if self._core.device_busy(device)}
        self._moving &= busy
        return bool(busy)

    def stop(self) -> None:
        """Stop both drives where they are."""
        for device in (self._xy, self._z):
            if device:
                self._core.stop(device)
        self._read_s = self._z_read_s = -1e9

    def set_property(self, device: str, name: str, value: str) -> None:
        """Set a Micro-Manager device property."""
        self._core.set_property(device, name, value)

    def is_drive(self, device: str) -> bool:
        """Tell whether a device moves stage or focus, or says which device does."""
        if device == "Core" or device in (self._xy, self._z):
            return True
        kind = self._core.get_device_type(device)
        number = kind.swig_value() if hasattr(kind, "swig_value") else kind  # Java
        return int(number) in _DRIVES

    def optics(self) -> dict[str, str]:
        """Return what decides how the sample appears in the image, from MMCore's cache.

        Objective, camera, binning and the camera's mirrors, as far as they are known;
        no device is asked, so this never waits for an exposure.
        """
        core = self._core
        camera = str(core.get_camera_device())
        found = {"objective": read_objective(core), "camera": camera}
        for name in _ORIENTATION if camera else ():
            if core.has_property(camera, name):
                found[name] = str(core.get_property_from_cache(camera, name))
        return {name: value for name, value in found.items() if value}

    def objective(self) -> str:
        """Return the name of the objective in place; "" where none is known."""
        return read_objective(self._core)


def _require_stage(core: Any, label: str, key: str) -> None:
    if not label:
        return
    try:
        (core.get_x_position if key == "xy_stage" else core.get_position)(label)
    except Exception as error:
        raise SettingsError(
            f"microscope.{key} = {label!r}: this microscope has no such stage "
            f"({str(error).splitlines()[0]}). Use the label of its configuration."
        ) from error


class StageWatch:
    """Where a stage that others move stood at any instant; read beside the run.

    MMCore answers for a device only when no other device of the same adapter is busy:
    a reading can wait for a whole exposure. So a thread of its own waits for it, not
    the frame, and the engine's next call is not held up by one of every frame.

    Parameters
    ----------
    read
        Returns where the stage stands now.
    clock
        Seconds since the run's start.
    is_remote
        Each reading is several round trips: take fewer.
    """

    def __init__(
        self,
        read: Callable[[], StagePosition],
        clock: Callable[[], float],
        *,
        is_remote: bool = False,
    ) -> None:
        self._resting_s = _RESTING_REMOTE_S if is_remote else _RESTING_S
        self._read, self._clock = read, clock
        self._readings: deque[tuple[float, StagePosition]] = deque(
            maxlen=_READINGS_KEPT
        )
        self._stop = threading.Event()
        self._has_failed = False
        self._thread = threading.Thread(
            target=self._watch, name="lodestar-stage", daemon=True
        )

    def start(self) -> None:
        """Read once, then go on in the background."""
        self._note()
        self._thread.start()

    def close(self) -> None:
        """End the readings; may be called twice."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_WITHIN_S)

    def at(self, t_s: float) -> StagePosition:
        """Return the position at `t_s`, between readings by interpolation.

        Outside what was read: the nearest reading, at most 0.05 s old unless MMCore
        made it wait; NaN before any.
        """
        later_s, later = np.inf, UNKNOWN_POSITION
        for read_s, position in reversed(tuple(self._readings)):
            if read_s <= t_s:
                if later_s == np.inf or later == position:
                    return position
                share = (t_s - read_s) / (later_s - read_s)
                both = zip(position, later, strict=True)
                return StagePosition(*(a + share * (b - a) for a, b in both))
            later_s, later = read_s, position
        return later

    def _watch(self) -> None:
        pause_s = self._resting_s
        while not self._stop.wait(pause_s):
            pause_s = _MOVING_S if self._note() else self._resting_s

    def _note(self) -> bool:
        """Read the stage; say whether it has moved since the last reading."""
        try:
            position = self._read()
        except Exception as error:  # of any adapter; the frames go on
            if not self._has_failed:
                logger.error("the stage position cannot be read: %s", error)
            self._has_failed, position = True, UNKNOWN_POSITION
        before = self._readings[-1][1] if self._readings else position
        self._readings.append((self._clock(), position))
        return not np.array_equal(position, before, equal_nan=True)
