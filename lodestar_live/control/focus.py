"""Focus lock: keep the target at the focal plane.

Two ways. Where the model measures z (`z_um`), the focus drive follows it like a
one-axis stage. Elsewhere a focus measure is kept at its maximum: blur is the same on
both sides of focus, so the side is found by trying, and the measured response curve
says how far to go.

A crash into the sample is the costliest fault of all, so a lock that does not see its
moves do what they should is held: the drive goes the wrong way or not at all, the image
is beyond the measured curve, or trying does not help.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from lodestar_live import events
from lodestar_live.control.focus_guard import FocusGuard
from lodestar_live.control.gate import SafetyGate
from lodestar_live.control.moves import MoveLog
from lodestar_live.control.sharpness import FocusCurve, sharpness
from lodestar_live.data import Event, Update
from lodestar_live.errors import CalibrationError
from lodestar_live.settings import ControlSettings

AVERAGED_FRAMES = 3
IMPLAUSIBLE = 2.0  # times the peak: sharper than the microscope can be, so no signal
BEYOND_IN_A_ROW = 2  # averages beyond the curve before the focus is called lost
WORSE_IN_A_ROW = 5  # moves that did not help before the search is given up
FocusState = Literal["ok", "no signal"]


class FocusLock:
    """Decides on focus moves, frame by frame.

    Parameters
    ----------
    gate, moves
        The way to the focus drive and the log of its moves.
    settings
        `focus`, `z_deadband_um` and the limits of a focus move.
    z_sign
        +1 when a focus move of +1 µm makes `z_um` grow, -1 when it makes it fall.
        0, unknown: ``z`` refuses.
    curve
        The measured response. None: ``sharpness`` refuses.
    tell
        Takes an event when the focus signal goes and comes back.

    Raises
    ------
    CalibrationError
        What this kind of lock needs was not measured.
    """

    def __init__(
        self,
        gate: SafetyGate,
        moves: MoveLog,
        settings: ControlSettings,
        *,
        z_sign: int = 0,
        curve: FocusCurve | None = None,
        tell: Callable[[Event], None] = lambda event: None,
    ) -> None:
        if settings.focus == "z" and z_sign == 0:
            raise CalibrationError(
                'control.focus = "z", but the direction of the focus drive was not '
                "measured. Run lodestar-live calibrate --z."
            )
        if settings.focus == "sharpness" and curve is None:
            raise CalibrationError(
                'control.focus = "sharpness", but no focus response was measured. '
                "Run lodestar-live calibrate --focus UM."
            )
        self._gate, self._moves, self._settings = gate, moves, settings
        self._z_sign, self._curve, self._tell = z_sign, curve, tell
        self._side = 1.0  # which way the last successful move went
        self.state: FocusState = "ok"
        self.forget()

    def forget(self) -> None:
        """Start anew: it was armed again."""
        self._recent: list[float] = []
        self._tried: float | None = None  # the measure before the last move
        self._n_beyond = self._n_worse = 0
        self._start_um = float("nan")  # where this search for the focus began
        self._guard = FocusGuard(self._z_sign)
        self.error_um = float("nan")

    def process(self, update: Update, track_id: int | None) -> None:
        """Take one frame; only frames exposed after the last focus move count."""
        t_s = update.frame.t_exposure_s
        settled_s = self._gate.t_sent_s("z") + self._moves.response.settle_s
        if t_s < settled_s or not self._gate.is_ready("z"):
            return
        if self._settings.focus == "z":
            self._follow_z(update, track_id)
        else:
            self._keep_sharp(update)

    # ---- by measured z ---------------------------------------------------------------

    def _follow_z(self, update: Update, track_id: int | None) -> None:
        rows = update.tracks.rows
        mine = rows[(rows["track_id"] == track_id) & (rows["missed_frames"] == 0)]
        if not len(mine) or not np.isfinite(mine["z_um"][0]):
            return
        self._recent.append(float(mine["z_um"][0]))
        if len(self._recent) < AVERAGED_FRAMES:
            return
        self.error_um = float(np.median(self._recent))
        spread_um = float(np.std(self._recent))
        self._recent.clear()
        height_um = self._gate.read_position().z_um
        self._guard.observe(height_um, self.error_um, spread_um, track_id)
        why = self._guard.suspicion()
        if why:
            self._hold(why)
        elif abs(self.error_um) > self._settings.z_deadband_um:
            step_um = self._guard.careful(-self._z_sign * self.error_um)
            if self._move_by(step_um, update):
                self._guard.moved(height_um, self.error_um, track_id)

    # ---- by sharpness ----------------------------------------------------------------

    def _keep_sharp(self, update: Update) -> None:
        curve = self._curve
        assert curve is not None  # noqa: S101 - refused at the start
        self._recent.append(sharpness(update.frame.pixels))
        if len(self._recent) < AVERAGED_FRAMES:
            return
        measure = float(np.median(self._recent))
        self._recent.clear()
        has_signal = 0 < measure <= IMPLAUSIBLE * curve.peak
        self._enter("ok" if has_signal else "no signal", measure)
        if not has_signal:
            self.error_um, self._tried = float("nan"), None
            return
        self._n_beyond = self._n_beyond + 1 if curve.is_beyond(measure) else 0
        if self._n_beyond >= BEYOND_IN_A_ROW:
            self._lost(f"the image is blurred beyond the scanned {curve.range_um:g} um")
        elif not self._n_beyond:
            self._approach(measure, curve, update)

    def _approach(self, measure: float, curve: FocusCurve, update: Update) -> None:
        """Go towards the focus, on the side that made the image sharper last time."""
        self.error_um = curve.distance_at(measure)
        is_worse = self._tried is not None and measure <= self._tried
        self._n_worse = self._n_worse + 1 if is_worse else 0
        if is_worse:
            self._side = -self._side  # the focus is on the other side
        if self.error_um <= self._settings.z_deadband_um:
            self._tried, self._n_worse = None, 0
            self._start_um = float("nan")
            return
        height_um = self._gate.read_position().z_um
        if np.isnan(self._start_um):
            self._start_um = height_um
        if self._n_worse >= WORSE_IN_A_ROW:
            self._lost(f"{self._n_worse} moves in a row did not make the image sharper")
        elif abs(height_um - self._start_um) > curve.range_um + self._longest_um:
            self._lost(f"no focus within the scanned {curve.range_um:g} um")
        elif self._move_by(self._side * self.error_um, update):
            self._tried = measure
        else:
            self._side, self._tried = -self._side, None

    # ---- moving, and not moving ------------------------------------------------------

    @property
    def _longest_um(self) -> float:
        return self._settings.max_z_step_um

    def _move_by(self, step_um: float, update: Update) -> bool:
        step_um = float(np.clip(step_um, -self._longest_um, self._longest_um))
        height_um = self._gate.read_position().z_um
        verdict = self._gate.move_z(
            height_um + step_um,
            t_data_s=update.frame.t_exposure_s,
            why=f"focus {self._settings.focus}",
            error_um=self.error_um,
            frame=update.frame.index,
        )
        return verdict.passed

    def _lost(self, why: str) -> None:
        self.error_um = float("nan")
        self._hold(f"focus lost: {why}. Find the focus by hand; then arm again.")

    def _hold(self, why: str) -> None:
        if self._gate.is_armed:
            self._gate.hold(why)

    def _enter(self, state: FocusState, measure: float) -> None:
        if state != self.state:
            self.state = state
            news = events.FocusState(state=state, measure=measure)
            self._tell(news.at(self._gate.now_s()))
