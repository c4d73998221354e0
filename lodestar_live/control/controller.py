"""The controller: a sink that turns tracks into moves, behind the safety gate.

It has one thread of its own, which owns the stage. `process` holds the whole decision
for one frame and can be called without the thread, as the simulator does.
"""

from __future__ import annotations

import itertools
import logging
import math
import statistics
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import ValidationError

from lodestar_live import events
from lodestar_live.commands import Handler
from lodestar_live.control.acquisition import AcquisitionEvent, EventStage
from lodestar_live.control.backlash import BacklashStage
from lodestar_live.control.calibration import Calibration, usable_calibration
from lodestar_live.control.driver import DeviceDriver, KnowsOptics, StageDriver
from lodestar_live.control.focus import FocusLock
from lodestar_live.control.gate import SafetyGate
from lodestar_live.control.groups import (
    Centroid,
    Followed,
    Nobody,
    Oscillate,
    Place,
    Visit,
)
from lodestar_live.control.moves import MoveLog, StageResponse
from lodestar_live.control.optics import OpticsGuard
from lodestar_live.control.rules import Rules
from lodestar_live.control.steering import Steering
from lodestar_live.control.supervisor import REPLY_WITHIN_S, Supervisor
from lodestar_live.control.targets import Sight, Target
from lodestar_live.control.verbs import verbs_of
from lodestar_live.data import Event, FloatArray, Frame, RunInfo, StagePosition, Update
from lodestar_live.errors import CalibrationError, SettingsError, StageError
from lodestar_live.geometry import PixelToStage
from lodestar_live.settings import ControlSettings

logger = logging.getLogger(__name__)
POLL_S = 0.005
CLOSE_DEADLINE_S = 2.0
WATCHDOG_PERIODS = 3
UNKNOWN_EXPOSURE_S = 60.0  # until a frame tells how long the camera keeps a driver
OPTICS_EVERY_S = 0.5  # how often the devices' cache is read
CHANGEABLE = ("deadband_um", "target", "mode", "dwell_s", "lost", "coast_frames")


class Controller:
    """Keeps a target centred with the stage.

    Parameters
    ----------
    settings
        What may move and how far.
    driver
        The stage.
    clock
        Monotonic seconds since the run's start; the clock of `Frame.t_exposure_s`.
    tell
        Takes an event per command, refusal and change of state; thread-safe.
    properties
        Where rules set device properties, and what knows the objective in place, to
        refuse a calibration of another one. None: nothing does.
    calibration
        None: read from the file that the settings name.
    pixel_size_um
        What the microscope says, to contradict a wrong calibration; without any
        calibration it serves the dry run.

    Raises
    ------
    SettingsError, CalibrationError, StageError
        Armed without limits, without a usable calibration, or outside the limits.
    """

    def __init__(
        self,
        settings: ControlSettings,
        driver: StageDriver,
        *,
        clock: Callable[[], float],
        tell: Callable[[Event], None],
        properties: DeviceDriver | None = None,
        calibration: Calibration | None = None,
        pixel_size_um: float | None = None,
    ) -> None:
        self.settings, self._clock, self._tell = settings, clock, tell
        calibration = usable_calibration(
            settings, calibration, pixel_size_um, properties
        )
        response = calibration.response if calibration else StageResponse()
        self._map = calibration.map if calibration else None
        self._optics = OpticsGuard(calibration)
        self._properties: object = properties
        self._t_optics_s = -math.inf
        self.moves = MoveLog(response)
        self.supervisor = Supervisor(driver, settings, clock=clock, tell=tell)
        self.supervisor.reply_within_s = UNKNOWN_EXPOSURE_S
        stage = BacklashStage(
            self.supervisor,
            calibration.play_um if calibration else (0.0, 0.0),
            settings.limits,
            max_step_um=settings.max_step_um,
        )
        self._events: EventStage | None = None
        if settings.move_by == "events":
            self._events = EventStage(
                stage, self.moves, clock=clock, max_age_s=settings.max_age_s
            )
        self.gate = SafetyGate(
            self._events or stage,
            settings,
            clock=clock,
            tell=tell,
            moves=self.moves,
            properties=properties,
            moves_at_once=self._events is None,
            supervisor=self.supervisor,
        )
        self.steering = Steering(self.gate, self.moves, settings, tell=tell)
        self.rules = Rules(settings.rules, self.gate)
        self.focus: FocusLock | None = None
        if settings.focus != "off":
            self.focus = FocusLock(
                self.gate,
                self.moves,
                settings,
                z_sign=calibration.z_sign if calibration else 0,
                curve=calibration.focus if calibration else None,
                tell=tell,
            )
        self.followed: Followed = Nobody()
        if settings.follow:
            self.followed = self._first_target()
        self._frames: deque[Frame] = deque(maxlen=64)
        self._arrivals_s: deque[float] = deque(maxlen=16)
        self._is_starved = False
        self._mail: Update | None = None
        self._news = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self.gate.read_position()

    # ---- sink ----------------------------------------------------------------

    def open(self, run: RunInfo) -> None:
        """Start the control thread; the stage stands until somebody follows."""
        self._closing = False
        self._thread = threading.Thread(
            target=self._run, name="lodestar-control", daemon=True
        )
        self._thread.start()

    def write(self, update: Update) -> None:
        """Take the newest update; one that still waits is replaced."""
        with self._news:
            self._mail = update
            self._news.notify()

    def tell(self, event: Event) -> None:
        """Stand still when the run degrades."""
        if event.kind == events.RunDegraded.kind:
            self.stop(event.kind)

    def close(self) -> None:
        """Stop the stage and the thread; may be called twice."""
        if self._closing:
            return
        self._closing = True
        self.supervisor.refuse_all("stop: the run has ended", for_ever=True)
        self.stop("the run has ended")
        with self._news:
            self._news.notify()
        if self._thread is not None:
            self._thread.join(CLOSE_DEADLINE_S)
        self.supervisor.close()

    # ---- questions -------------------------------------------------------------

    @property
    def target_id(self) -> int | None:
        """Track id of the followed particle."""
        return self.followed.track_id

    @property
    def own_axes(self) -> str:
        """The axes of "XYZ" that acquisition events must leave to this controller."""
        plane = "XY" if self._events is None else ""
        return plane + ("Z" if self.focus is not None else "")

    def stage_at(self, t_s: float) -> StagePosition:
        """Return the stage position at `t_s` from the move log; NaN if unknown."""
        return self.moves.position_at(t_s)

    def status(self) -> dict[str, Any]:
        """Return a JSON-safe summary for heartbeats and overlays."""
        return {
            "state": self.followed.state,
            "track_id": self.followed.track_id,
            "armed": self.gate.is_armed,
            "halted": self.gate.halted,
            "no_frames": self._is_starved,
            "focus": "off" if self.focus is None else self.focus.state,
            **self.steering.aim,
        }

    def place_event(self, event: AcquisitionEvent) -> AcquisitionEvent:
        """Put an acquisition event at the predicted position (`move_by` "events")."""
        if self._events is None:
            return event
        if self.gate.halted is not None:
            self._events.forget()
        return self._events.place(event)

    # ---- commands ----------------------------------------------------------------

    def stop(self, reason: str = "asked") -> None:
        """Make the stage stand still at once, from any thread; lasts until `arm`.

        Answers within 50 ms, whatever the driver does.
        """
        self.gate.stop(f"stop: {reason}")

    def arm(self) -> None:
        """Take back a stop or a hold: somebody has looked why, and means it.

        The only way to take one back; `follow` chooses a target and no more.

        Raises
        ------
        StageError
            The settings do not arm, the run has ended, or the driver still hangs.
        """
        if not self.settings.armed:
            raise StageError(
                "arm: control.armed = false in the settings of this run (dry run); "
                "expected true. Arm it there and start again."
            )
        self.gate.allow()
        self._optics.forget()
        if self.focus is not None:
            self.focus.forget()

    def refuse_all(self, reason: str) -> None:
        """Send nothing from now on; `stop` then makes the stage stand still."""
        self.gate.refuse_all(f"stop: {reason}")

    def follow(self, wish: int | str | tuple[float, float]) -> None:
        """Follow a track id; ``nearest``, ``brightest``, ``fastest``; or a place.

        A place is (y_um, x_um) in the sample; the track nearest to it is taken. A stage
        that was stopped or held stays so until `arm`.
        """
        self.followed = Target(wish, self.settings, self._tell)

    def follow_many(self, track_ids: Sequence[int] | None) -> None:
        """Keep the middle of several tracks in view, or visit them (``mode``).

        None: all tracks in view, chosen in the next frame (`Centroid`), or whichever
        is in view at each turn (`Visit`).
        """
        if track_ids is not None and not track_ids:
            raise SettingsError("follow: track_ids is empty; expected at least one.")
        self.followed = self._group(track_ids)

    def _first_target(self) -> Followed:
        if self.settings.mode == "oscillate":
            return Oscillate(self.settings)
        if self.settings.mode != "one":
            return self._group(None)
        return Target(self.settings.target, self.settings, self._tell)

    def _group(self, track_ids: Sequence[int] | None) -> Followed:
        if self.settings.mode == "visit":
            return Visit(track_ids, self.settings, self._tell)
        return Centroid(track_ids, self.settings)

    def recenter(self, y_um: float, x_um: float) -> None:
        """Bring a place in the sample to the centre of the view, then rest."""
        near_um = max(self.settings.deadband_um, 0.5)
        self.followed = Place(np.array([y_um, x_um]), near_um=near_um)

    def release(self) -> None:
        """Follow nobody; the stage stays where it is."""
        self.followed = Nobody()

    def set(self, name: str, value: Any) -> None:
        """Change one setting; as `set_many`."""
        self.set_many({name: value})

    def set_many(self, values: Mapping[str, Any]) -> None:
        """Change settings that cannot make the stage less safe: all of them or none.

        A new `mode` takes effect at once on a set that is followed.

        Raises
        ------
        SettingsError
            Any other setting (limits, steps, rates, arming), or an impossible value.
        """
        for name in values:
            if name not in CHANGEABLE:
                raise SettingsError(
                    f"set: {name!r} cannot be changed during a run; expected one of "
                    f"{', '.join(CHANGEABLE)}."
                )
        changed = self.settings.model_dump() | dict(values)
        try:
            settings = ControlSettings.model_validate(changed)
        except ValidationError as error:
            problems = [
                f"{'.'.join(map(str, p['loc']))}: {p['msg']}"
                for p in error.errors(include_input=False, include_url=False)
            ]
            raise SettingsError(f"set: {'; '.join(problems)}.") from error
        has_new_mode = settings.mode != self.settings.mode
        if has_new_mode and "oscillate" in (settings.mode, self.settings.mode):
            raise SettingsError(
                f"set: mode = {settings.mode!r}: oscillation is begun with a run and "
                "ends with it; set control.mode in the settings."
            )
        self.settings = settings
        self.steering.use(settings)
        followed = self.followed
        if has_new_mode and isinstance(followed, Centroid | Visit):
            self.followed = self._group(followed.members)

    def verbs(self) -> dict[str, Handler]:
        """Return what the control socket may ask for: verb -> callable."""
        return verbs_of(self)

    def place_um(
        self, y_px: float, x_px: float, frame_index: int | None = None
    ) -> tuple[float, float]:
        """Return the position (y_um, x_um) in the sample of a position in a frame.

        `frame_index` None: the newest. Raises a SettingsError or CalibrationError when
        the frame or the scale is not known.
        """
        frames = {frame.index: frame for frame in self._frames}
        index = max(frames, default=-1) if frame_index is None else frame_index
        if index not in frames:
            raise SettingsError(f"frame {index} is not among the last {len(frames)}.")
        frame = frames[index]
        mapping, stage_um = self._mapping(frame), self._stage_um(frame)
        if mapping is None:
            raise CalibrationError("neither calibration nor pixel size is known.")
        y_um, x_um = mapping.sample_um([y_px, x_px], stage_um, _shape(frame))
        return float(y_um), float(x_um)

    # ---- one frame -----------------------------------------------------------------

    def process(self, update: Update) -> None:
        """Decide on one frame: see, choose, predict, and perhaps move.

        Commands from other threads only put values in place, which are read once here:
        whoever commands never waits for a driver.
        """
        followed = self.followed
        self._note_time(update.frame)
        self._watch_optics(update.frame)
        self.rules.apply(update)
        if self.focus is not None:
            self.focus.process(update, followed.track_id)
        sight = self._see(update)
        if sight is None:
            return
        followed.observe(sight)
        self.steering.steer(followed, sight, self._clock())

    def idle(self) -> None:
        """Between frames: read the stage, notice when frames stay away."""
        self.gate.read_position()
        if len(self._arrivals_s) < 2 or self._is_starved:
            return
        typical_s = float(np.median(np.diff(self._arrivals_s)))
        silence_s = self._clock() - self._arrivals_s[-1]
        if silence_s > WATCHDOG_PERIODS * typical_s + POLL_S:
            self._is_starved = True
            silence = events.ControlNoFrames(silence_s=silence_s, typical_s=typical_s)
            self._tell(silence.at(self._clock()))
            self.gate.stand_still()

    def _watch_optics(self, frame: Frame) -> None:
        """Halt before the next move when the microscope is not as calibrated."""
        if self.gate.halted is not None or not self.gate.is_armed:
            return
        why = self._optics.contradiction(frame)
        now_s = self._clock()
        if now_s - self._t_optics_s > OPTICS_EVERY_S:
            self._t_optics_s = now_s
            why = why or self._optics.contradiction_of_devices(self._devices())
        if why:
            self.gate.stop(why)

    def _devices(self) -> dict[str, str]:
        if not isinstance(self._properties, KnowsOptics):
            return {}
        try:
            return self._properties.optics()
        except Exception:  # hardware may raise anything; the frames state the rest
            logger.debug("the optics cannot be read", exc_info=True)
            return {}

    def _see(self, update: Update) -> Sight | None:
        frame = update.frame
        mapping, stage_um = self._mapping(frame), self._stage_um(frame)
        period_s = self._period_s()
        if mapping is None or period_s is None or not np.isfinite(stage_um).all():
            return None
        shape = _shape(frame)
        scale = float(np.sqrt(abs(np.linalg.det(mapping.matrix_um_per_px))))
        return Sight(
            frame_index=frame.index,
            t_s=frame.t_exposure_s,
            period_s=period_s,
            rows=update.tracks.rows,
            positions_um=mapping.sample_um(update.tracks.positions_px, stage_um, shape),
            stage_um=stage_um,
            um_per_px=scale,
            view_um=min(shape) * scale,
        )

    def _mapping(self, frame: Frame) -> PixelToStage | None:
        if self._map is None and np.isfinite(frame.pixel_size_um):
            return PixelToStage.from_pixel_size(frame.pixel_size_um)
        return self._map

    def _stage_um(self, frame: Frame) -> FloatArray:
        """Stage (y, x) at exposure: from the move log, else as the frame says."""
        logged = np.array(self.moves.position_at(frame.t_exposure_s)[1:])
        return logged if np.isfinite(logged).all() else np.array(frame.stage_um[1:])

    def _note_time(self, frame: Frame) -> None:
        exposure_s = float(np.nan_to_num(frame.exposure_ms)) / 1e3
        readout_s = frame.t_arrival_s - frame.t_exposure_s - exposure_s / 2
        self.gate.cycle_s = exposure_s + max(readout_s, 0.0)
        self.supervisor.reply_within_s = REPLY_WITHIN_S + 3 * self.gate.cycle_s
        self._arrivals_s.append(self._clock())
        self._is_starved = False
        no_pixels = np.broadcast_to(np.uint8(0), frame.pixels.shape)
        self._frames.append(replace(frame, pixels=no_pixels))  # 64 images are too many

    def _period_s(self) -> float | None:
        """Learnt time between exposures: median over the last frames."""
        newest = list(self._frames)[-16:]
        times = [
            (b.t_exposure_s - a.t_exposure_s) / (b.index - a.index)
            for a, b in itertools.pairwise(newest)
            if b.index > a.index
        ]
        period_s = statistics.median(times) if times else 0.0
        return period_s if period_s > 0 else None

    # ---- thread ----------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            with self._news:
                if self._mail is None and not self._closing:
                    self._news.wait(POLL_S)
                update, self._mail = self._mail, None
            try:
                if update is None:
                    self.idle()
                else:
                    self.process(update)
            except Exception as error:  # the stage must stand still, the run goes on
                logger.exception("control failed")
                self.stop(f"control failed: {type(error).__name__}: {error}")


def _shape(frame: Frame) -> tuple[int, int]:
    return int(frame.pixels.shape[0]), int(frame.pixels.shape[1])
