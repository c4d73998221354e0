"""Focus lock: keep the target at the focal plane.

Two ways. Where the model measures z (`z_um`), the focus drive follows it like a
one-axis stage. Elsewhere a focus measure is kept at its maximum: blur is the same on
both sides of focus, so the side is found by trying, and the measured response curve
says how far to go.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lodestar_live.control.gate import SafetyGate
from lodestar_live.control.moves import MoveLog
from lodestar_live.data import FloatArray, Pixels, Update
from lodestar_live.errors import CalibrationError
from lodestar_live.settings import ControlSettings

AVERAGED_FRAMES = 3
LOWEST_RESPONSE = 0.02  # of the peak; below, the curve says nothing


def sharpness(pixels: Pixels) -> float:
    """Return a focus measure: gradient power over contrast power.

    Independent of gain, offset and the number of particles, and largest in focus: for
    a spot of width s it is about 1 / s^2. `pixels` has shape (y, x).
    """
    image = np.asarray(pixels, dtype=np.float32)
    contrast = image - np.median(image)
    slope_y = image[2:, :] - image[:-2, :]
    slope_x = image[:, 2:] - image[:, :-2]
    power = float(np.mean(slope_y**2) + np.mean(slope_x**2))
    total = float(np.mean(contrast**2))
    return power / total if total > 0 else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class FocusCurve:
    """The measured response: focus measure against distance from focus.

    Parameters
    ----------
    distance_um
        Ascending from 0, shape (n,).
    response
        Share of the peak, falling from 1, shape (n,).
    peak
        The measure in focus.
    """

    distance_um: FloatArray
    response: FloatArray
    peak: float

    @classmethod
    def fit(cls, z_um: FloatArray, measures: FloatArray) -> FocusCurve:
        """Build the curve from a scan, (n,) heights and their focus measures.

        Raises
        ------
        CalibrationError
            The scan does not contain the focus, or nothing is in view.
        """
        z, m = np.asarray(z_um, dtype=float), np.asarray(measures, dtype=float)
        best = int(np.argmax(m))
        if not 0 < best < len(z) - 1 or m[best] <= 1.2 * m.min():
            raise CalibrationError(
                "focus scan: no maximum inside the scanned range; expected particles "
                "in view and a range that contains the focus."
            )
        centre = z[best] + _vertex(z[best - 1 : best + 2], m[best - 1 : best + 2])
        order = np.argsort(np.abs(z - centre))
        distance, share = np.abs(z - centre)[order], m[order] / m.max()
        falling = np.minimum.accumulate(np.minimum(share, 1.0))
        return cls(
            np.concatenate([[0.0], distance]),
            np.concatenate([[1.0], falling]),
            float(m.max()),
        )

    def distance_at(self, measure: float) -> float:
        """Return the distance from focus (µm, not signed) that a measure implies."""
        share = np.clip(measure / self.peak, LOWEST_RESPONSE, 1.0)
        return float(np.interp(-share, -self.response, self.distance_um))


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
        self._z_sign, self._curve = z_sign, curve
        self._recent: list[float] = []
        self._side = 1.0  # which way the last successful move went
        self._tried: float | None = None  # the measure before the last move
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

    def _follow_z(self, update: Update, track_id: int | None) -> None:
        rows = update.tracks.rows
        mine = rows[(rows["track_id"] == track_id) & (rows["missed_frames"] == 0)]
        if not len(mine) or not np.isfinite(mine["z_um"][0]):
            return
        self._recent.append(float(mine["z_um"][0]))
        if len(self._recent) < AVERAGED_FRAMES:
            return
        self.error_um = float(np.median(self._recent))
        self._recent.clear()
        if abs(self.error_um) > self._settings.z_deadband_um:
            self._move_by(-self._z_sign * self.error_um, update)

    def _keep_sharp(self, update: Update) -> None:
        assert self._curve is not None  # noqa: S101
        self._recent.append(sharpness(update.frame.pixels))
        if len(self._recent) < AVERAGED_FRAMES:
            return
        measure = float(np.median(self._recent))
        self._recent.clear()
        distance_um = self._curve.distance_at(measure)
        self.error_um = distance_um
        if self._tried is not None and measure < self._tried:
            self._side = -self._side  # it got worse: the focus is on the other side
        if distance_um <= self._settings.z_deadband_um:
            self._tried = None
            return
        self._tried = measure
        self._move_by(self._side * distance_um, update)

    def _move_by(self, step_um: float, update: Update) -> None:
        longest_um = self._settings.max_z_step_um
        step_um = float(np.clip(step_um, -longest_um, longest_um))
        height_um = self._gate.read_position().z_um
        verdict = self._gate.move_z(
            height_um + step_um,
            t_data_s=update.frame.t_exposure_s,
            why=f"focus {self._settings.focus}",
            error_um=self.error_um,
            frame=update.frame.index,
        )
        if not verdict:
            self._side, self._tried = -self._side, None


def _vertex(x: FloatArray, y: FloatArray) -> float:
    """Offset from the middle of three points to the vertex of their parabola."""
    left, right = x[0] - x[1], x[2] - x[1]
    a = (y[0] - y[1]) / left, (y[2] - y[1]) / right
    bend = (a[1] - a[0]) / (right - left)
    if bend >= 0:
        return 0.0
    slope = a[0] - bend * left
    return float(np.clip(-slope / (2 * bend), left, right))
