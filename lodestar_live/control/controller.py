"""The controller: a sink that turns tracks into moves, behind the safety gate.

It has one thread of its own, which owns the stage. `process` holds the whole decision
for one frame and can be called without the thread, as the simulator does.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lodestar_live.control.calibration import Calibration, load_calibration
from lodestar_live.control.driver import PropertyDriver, StageDriver
from lodestar_live.control.gate import SafetyGate
from lodestar_live.control.moves import MoveLog, StageResponse
from lodestar_live.control.targets import Sight, Target
from lodestar_live.data import Event, FloatArray, Frame, RunInfo, StagePosition, Update
from lodestar_live.errors import CalibrationError
from lodestar_live.geometry import PixelToStage
from lodestar_live.settings import ControlSettings

logger = logging.getLogger(__name__)
POLL_S = 0.005
CLOSE_DEADLINE_S = 2.0
REFUSALS_IN_A_ROW = 3
PAUSE_S = 1.0
MAX_LEAD_FRAMES = 50
MIN_SHARE = 0.6  # of a move that is visible in the frame it is aimed at


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
        Where rules set device properties. None: nowhere.
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
        properties: PropertyDriver | None = None,
        calibration: Calibration | None = None,
        pixel_size_um: float | None = None,
    ) -> None:
        self.settings, self._clock, self._tell = settings, clock, tell
        calibration = _usable(settings, calibration, pixel_size_um)
        response = calibration.response if calibration else StageResponse()
        self._map = calibration.map if calibration else None
        self.moves = MoveLog(response)
        self.gate = SafetyGate(
            driver,
            settings,
            clock=clock,
            tell=tell,
            moves=self.moves,
            properties=properties,
        )
        self.target = Target(settings, tell)
        self._intervals_s: deque[float] = deque(maxlen=15)
        self._last_frame: Frame | None = None
        self._last_aim: dict[str, Any] = {}
        self._refusals, self._pause_until_s = 0, float("-inf")
        self._t_fresh_s: float | None = None
        self._lock = threading.RLock()
        self._mail: Update | None = None
        self._news = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self.gate.read_position()

    # ---- sink ----------------------------------------------------------------

    def open(self, run: RunInfo) -> None:
        """Start the control thread."""
        self._closing = False
        self._thread = threading.Thread(
            target=self._run, name="lodestar-control", daemon=True
        )
        self._thread.start()

    def write(self, update: Update) -> None:
        """Take the newest update; one that still waits is replaced."""
        self.gate.check_reply()
        with self._news:
            self._mail = update
            self._news.notify()

    def tell(self, event: Event) -> None:
        """Stand still when the run degrades or ends."""
        if event.kind in ("run.degraded", "run.end"):
            self.stop(event.kind)

    def close(self) -> None:
        """Stop the stage and the thread; may be called twice."""
        if self._closing:
            return
        self._closing = True
        self.stop("the run has ended")
        with self._news:
            self._news.notify()
        if self._thread is not None:
            self._thread.join(CLOSE_DEADLINE_S)

    # ---- questions -------------------------------------------------------------

    @property
    def target_id(self) -> int | None:
        """Track id of the followed particle."""
        return self.target.track_id

    def stage_at(self, t_s: float) -> StagePosition:
        """Return the stage position at `t_s` from the move log; NaN if unknown."""
        return self.moves.position_at(t_s)

    def status(self) -> dict[str, Any]:
        """Return a JSON-safe summary for heartbeats and overlays."""
        return {
            "state": self.target.state,
            "track_id": self.target.track_id,
            "armed": self.gate.is_armed,
            "halted": self.gate.halted,
            **self._last_aim,
        }

    # ---- commands ----------------------------------------------------------------

    def stop(self, reason: str = "asked") -> None:
        """Make the stage stand still at once, from any thread; lasts until `follow`."""
        if self.gate.halted is None or not self.gate.halted.startswith("stop"):
            self.gate.stop(f"stop: {reason}")

    def follow(self, choice: str | int) -> None:
        """Follow a track id, or ``nearest``, ``brightest``, ``fastest``."""
        with self._lock:
            self.gate.allow()
            self.target.follow(choice)

    def release(self) -> None:
        """Follow nobody; the stage stays where it is."""
        with self._lock:
            self.target.release()

    def verbs(self) -> dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]]:
        """Return what the control socket may ask for: verb -> callable."""
        return {
            "follow": self._on_follow,
            "release": self._on_release,
            "stop": self._on_stop,
            "status": lambda message: self.status(),
        }

    def _on_follow(self, message: Mapping[str, Any]) -> dict[str, Any]:
        self.follow(message.get("track_id", message.get("target", "nearest")))
        return self.status()

    def _on_release(self, message: Mapping[str, Any]) -> dict[str, Any]:
        self.release()
        return self.status()

    def _on_stop(self, message: Mapping[str, Any]) -> dict[str, Any]:
        self.stop(str(message.get("reason", "asked")))
        return self.status()

    # ---- one frame -----------------------------------------------------------------

    def process(self, update: Update) -> None:
        """Decide on one frame: see, choose, predict, and perhaps move."""
        with self._lock:
            self._note_time(update.frame)
            sight = self._see(update)
            if sight is None:
                return
            self.target.observe(sight)
            self._move_towards_target(sight)

    def idle(self) -> None:
        """Between frames: read the stage, watch for frames that stay away."""
        self.gate.read_position()
        fresh_s, period_s = self._t_fresh_s, self._period_s()
        if fresh_s is None or period_s is None:
            return
        if self._clock() - fresh_s > 3 * period_s + self.settings.max_age_s:
            self._t_fresh_s = None
            self._tell(Event("control.no_frames", self._clock()))

    def _see(self, update: Update) -> Sight | None:
        frame = update.frame
        stage = self.moves.position_at(frame.t_exposure_s)
        if not np.isfinite(stage[1:]).all():
            stage = frame.stage_um
        period_s, mapping = self._period_s(), self._map
        if mapping is None and np.isfinite(frame.pixel_size_um):
            mapping = PixelToStage.from_pixel_size(frame.pixel_size_um)
        if mapping is None or period_s is None or not np.isfinite(stage[1:]).all():
            return None
        height, width = frame.pixels.shape[:2]
        shape = (int(height), int(width))
        stage_um = np.array(stage[1:])
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

    def _move_towards_target(self, sight: Sight) -> None:
        now_s = self._clock()
        t_aim_s, share = self._when_visible(sight, now_s)
        aim = self.target.aim(t_aim_s)
        if aim is None:
            return
        there = np.array(self.moves.position_at(t_aim_s)[1:])
        correction = aim.position - there
        distance_um = float(np.linalg.norm(correction))
        self._last_aim = {
            "error_um": distance_um,
            "predicted_y_um": float(aim.position[0]),
            "predicted_x_um": float(aim.position[1]),
        }
        if distance_um <= self.settings.deadband_um or not self._may_move(now_s):
            return
        goal = np.array(self.moves.goal[1:]) + correction / share
        verdict = self.gate.move_xy(
            *self._within_reach(goal),
            t_data_s=sight.t_s,
            stage_known=True,
            why="follow",
            track_id=self.target.track_id,
            frame=sight.frame_index,
            **self._last_aim,
        )
        self._count_refusal(verdict.passed, now_s)

    def _when_visible(self, sight: Sight, now_s: float) -> tuple[float, float]:
        """Return the first exposure that shows most of a move made now, and how much.

        The stage needs time; a move longer by 1/share is exactly right by then.
        """
        n_periods = np.floor((now_s - sight.t_s) / sight.period_s + 1e-6) + 1
        for n_more in range(MAX_LEAD_FRAMES):
            t_s = sight.t_s + (n_periods + n_more) * sight.period_s
            rest = self.moves.response.remaining_um(np.ones(1), t_s - now_s)
            if rest[0] < 1 - MIN_SHARE:
                break
        return t_s, max(1.0 - float(rest[0]), MIN_SHARE)

    def _within_reach(self, goal: FloatArray) -> list[float]:
        """Shorten a move to the longest step, as seen from where the stage is now."""
        here = np.array(self.gate.read_position()[1:])
        way = goal - here
        longest_um = self.settings.max_step_um
        length_um = float(np.linalg.norm(way))
        if length_um > longest_um:
            goal = here + way * (longest_um / length_um)
        return [float(v) for v in goal]

    def _may_move(self, now_s: float) -> bool:
        return (
            self.gate.halted is None
            and now_s >= self._pause_until_s
            and not self.gate.is_busy()
        )

    def _count_refusal(self, passed: bool, now_s: float) -> None:
        """After three refusals in a row rest for a second instead of insisting."""
        self._refusals = 0 if passed else self._refusals + 1
        if self._refusals >= REFUSALS_IN_A_ROW:
            self._refusals, self._pause_until_s = 0, now_s + PAUSE_S
            self._tell(Event("control.state", now_s, details={"state": "held"}))

    def _note_time(self, frame: Frame) -> None:
        self._t_fresh_s = self._clock()
        before, self._last_frame = self._last_frame, frame
        if before is not None and frame.index > before.index:
            n = frame.index - before.index
            self._intervals_s.append((frame.t_exposure_s - before.t_exposure_s) / n)

    def _period_s(self) -> float | None:
        period_s = float(np.median(self._intervals_s)) if self._intervals_s else 0.0
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
                self.gate.hold(f"control failed: {type(error).__name__}: {error}")


def _usable(
    settings: ControlSettings,
    calibration: Calibration | None,
    pixel_size_um: float | None,
) -> Calibration | None:
    if calibration is None and settings.calibration is not None:
        calibration = load_calibration(settings.calibration)
    if calibration is None:
        if settings.armed:
            raise CalibrationError(
                "control.armed = true, but control.calibration is missing; expected "
                "a file made by lodestar-live calibrate."
            )
        return None
    calibration.require_usable(
        max_age_days=settings.max_calibration_age_days, pixel_size_um=pixel_size_um
    )
    return calibration
