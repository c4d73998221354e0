"""Measuring the calibration: move the stage, watch the image.

Two axes, several moves each and the same way back, so that backlash shows. The shift of
the image is measured twice, by sub-pixel phase correlation of the whole image and by
the centroids of single particles, and the two must agree.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from lodestar_live.calibration.shifts import image_shift, particle_shift
from lodestar_live.control.calibration import Calibration
from lodestar_live.control.commands import Verdict
from lodestar_live.control.driver import StageDriver
from lodestar_live.control.gate import SafetyGate
from lodestar_live.control.moves import MoveLog, StageResponse
from lodestar_live.control.sharpness import FocusCurve, sharpness
from lodestar_live.data import Event, FloatArray, Pixels, StagePosition
from lodestar_live.errors import CalibrationError, StageError
from lodestar_live.geometry import PixelToStage
from lodestar_live.settings import ControlSettings, TravelLimits

MIN_MOVES = 5
SETTLE_S = 0.05
TIMEOUT_S = 10.0


class Bench:
    """What a calibration is measured with; every move passes the safety gate.

    Parameters
    ----------
    snap
        Takes one image (y, x).
    stage
        The driver.
    settings
        Limits and longest steps; must be armed.
    tell
        Takes an event per move.
    clock, wait
        Seconds; sleeping. Tests put a virtual clock here.
    """

    def __init__(
        self,
        snap: Callable[[], Pixels],
        stage: StageDriver,
        settings: ControlSettings,
        *,
        tell: Callable[[Event], None],
        clock: Callable[[], float] = time.perf_counter,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.snap, self.clock, self._wait = snap, clock, wait
        self._longest_um = settings.max_step_um
        self._longest_z_um = settings.max_z_step_um
        self._pause_z_s = 1.0 / settings.max_z_rate_hz
        self._gate = SafetyGate(
            stage, settings, clock=clock, tell=tell, moves=MoveLog()
        )

    def position_um(self) -> StagePosition:
        """Return where the stage is now."""
        return self._gate.read_position()

    def go(self, y_um: float, x_um: float) -> None:
        """Move in the plane and wait until the stage stands.

        Raises
        ------
        StageError
            The gate refuses, or the stage does not come to rest.
        """
        goal = np.array([y_um, x_um])
        for place in _pieces(np.array(self.position_um()[1:]), goal, self._longest_um):
            self.start(float(place[0]), float(place[1]))
            self._rest()

    def start(self, y_um: float, x_um: float) -> None:
        """Start a move in the plane."""
        _require(self._gate.move_xy(y_um, x_um, t_data_s=self.clock()))

    def go_z(self, z_um: float) -> None:
        """Move the focus drive and wait until it stands; errors as `go`."""
        here = np.array([self.position_um().z_um])
        for place in _pieces(here, np.array([z_um]), self._longest_z_um):
            _require(self._gate.move_z(float(place[0]), t_data_s=self.clock()))
            self._rest()
            self._wait(self._pause_z_s)

    @contextmanager
    def returning(self, axis: Literal["xy", "z"]) -> Iterator[None]:
        """Bring an axis back at the end, unless something stopped it.

        Ctrl-C means that nothing moves any more: the stage is stopped where it is.
        """
        home = self.position_um()

        def go_home() -> None:
            if axis == "z":
                self.go_z(home.z_um)
            else:
                self.go(home.y_um, home.x_um)

        try:
            yield
        except Exception:
            if self._gate.halted is None:
                with suppress(StageError):  # the first error is the one to tell
                    go_home()
            raise
        except BaseException as error:
            self._gate.stop(type(error).__name__)
            raise
        go_home()

    def _rest(self) -> None:
        """Wait until the stage stands, confirmed where it was sent."""
        until_s = self.clock() + TIMEOUT_S
        while self._gate.is_busy() or not self._gate.supervisor.is_settled:
            if self._gate.halted is not None:
                raise StageError(self._gate.halted)
            if self.clock() > until_s:
                raise StageError(f"the stage was still busy after {TIMEOUT_S} s.")
            self._wait(0.005)
        self._wait(SETTLE_S)


@dataclass(frozen=True, slots=True, eq=False)
class Walk:
    """Where the stage went and how the image followed.

    Parameters
    ----------
    stage_um
        Commanded places, (n, 2).
    shift_px, shift_particles_px
        Image shift against the first image, by correlation and by particles, (n, 2);
        NaN where no particle could be matched.
    direction
        Way each axis moved last: +1 or -1, (n, 2).
    """

    stage_um: FloatArray
    shift_px: FloatArray
    shift_particles_px: FloatArray
    direction: FloatArray


def calibrate(
    bench: Bench,
    *,
    step_um: float,
    n_moves: int = MIN_MOVES,
    objective: str = "",
    microscope_um_per_px: FloatArray | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Measure map, backlash and response on the microscope; the stage comes back.

    Parameters
    ----------
    bench
        Camera, stage and limits.
    step_um
        Length of one move; about a tenth of the view.
    n_moves
        Moves per axis and way, at least 5.
    objective
        For the record.
    microscope_um_per_px
        (2, 2), (y, x): what Micro-Manager believes, kept for comparison.
    progress
        Told (done, total).

    Raises
    ------
    CalibrationError
        The image does not follow the stage well enough.
    StageError
        A move would leave the limits, or the stage does not come to rest.
    """
    with bench.returning("xy"):
        walk = walk_axes(bench, step_um=step_um, n_moves=n_moves, progress=progress)
        calibration = fit(walk)
        response = measure_response(bench, calibration.map, step_um=step_um)
    return replace(
        calibration,
        response=response,
        objective=objective,
        microscope_um_per_px=microscope_um_per_px,
    )


def measure_calibration(
    driver: StageDriver,
    snap: Callable[[], Pixels],
    *,
    step_um: float = 10.0,
    objective: str = "",
) -> Calibration:
    """Measure the map only, in a box of seven steps around the present position.

    `calibrate` measures more; this is for a stage known to answer at once. Parameters
    and errors are those of `calibrate`.
    """
    here = driver.position_um()
    reach_um = 7 * step_um
    limits = TravelLimits(
        y_um=(here.y_um - reach_um, here.y_um + reach_um),
        x_um=(here.x_um - reach_um, here.x_um + reach_um),
    )
    settings = ControlSettings(armed=True, limits=limits, max_step_um=2 * step_um)
    bench = Bench(snap, driver, settings, tell=lambda event: None)
    with bench.returning("xy"):
        calibration = fit(walk_axes(bench, step_um=step_um))
    return replace(calibration, objective=objective)


def walk_axes(
    bench: Bench,
    *,
    step_um: float,
    n_moves: int = MIN_MOVES,
    progress: Callable[[int, int], None] | None = None,
) -> Walk:
    """Walk along y and back, then along x and back, snapping at every stop."""
    if n_moves < MIN_MOVES:
        raise CalibrationError(f"n_moves = {n_moves}; expected at least {MIN_MOVES}.")
    home = np.array(bench.position_um()[1:])
    bench.go(*(home - step_um / 2))  # so that backlash is taken up, the same on both
    bench.go(*home)
    first = bench.snap()
    stops = _stops(n_moves)
    rows: list[tuple[FloatArray, FloatArray, FloatArray, FloatArray]] = []
    direction: FloatArray = np.ones(2)
    last: FloatArray = np.zeros(2)
    shift: FloatArray = np.zeros(2)
    for done, stop in enumerate(stops):
        moved = np.sign(stop - last)
        direction, last = np.where(moved == 0, direction, moved), stop
        place = home + stop * step_um
        bench.go(*place)
        image = bench.snap()
        shift = image_shift(first, image, shift)
        particles = particle_shift(first, image, shift)
        rows.append((place, shift, particles, direction))
        if progress is not None:
            progress(done + 1, len(stops))
    return Walk(*(np.array(column) for column in zip(*rows, strict=True)))


def fit(walk: Walk) -> Calibration:
    """Least squares of ``stage = home - A shift + backlash/2 direction``."""
    design = np.column_stack([-walk.shift_px, np.ones(len(walk.shift_px))])
    matrix, backlash = np.zeros((2, 2)), np.zeros(2)
    misfit = np.zeros_like(walk.stage_um)
    for axis in range(2):
        full = np.column_stack([design, walk.direction[:, axis] / 2])
        solution = np.linalg.lstsq(full, walk.stage_um[:, axis], rcond=None)[0]
        matrix[axis], backlash[axis] = solution[:2], solution[3]
        misfit[:, axis] = walk.stage_um[:, axis] - full @ solution
    scale = np.sqrt(abs(np.linalg.det(matrix)))
    if not np.isfinite(scale) or scale == 0 or np.linalg.cond(matrix) > 100:
        raise CalibrationError(
            f"calibration: the image does not follow the stage (map {matrix.tolist()});"
            " expected two independent directions. Is there structure in the image?"
        )
    both = walk.shift_px - walk.shift_particles_px
    seen = np.isfinite(both).all(axis=1)
    disagreement = float(np.sqrt(np.mean(both[seen] ** 2))) if seen.any() else np.nan
    return Calibration(
        map=PixelToStage(matrix),
        residual_px=float(np.sqrt(np.mean(misfit**2)) / scale),
        measured=datetime.now(UTC),
        # Play is not negative; where there is none, its fit scatters about zero.
        backlash_um=(max(float(backlash[0]), 0.0), max(float(backlash[1]), 0.0)),
        particles_px=disagreement,
    )


def measure_response(
    bench: Bench, mapping: PixelToStage, *, step_um: float, n_steps: int = 4
) -> StageResponse:
    """Watch steps while they happen and fit dead time and time constant."""
    home = np.array(bench.position_um()[1:])
    away = home + np.array([0.0, step_um])
    times: list[float] = []
    shares: list[float] = []
    for k in range(n_steps):
        here, goal = (home, away) if k % 2 == 0 else (away, home)
        bench.go(*here)
        first, t_start_s = bench.snap(), bench.clock()
        bench.start(*goal)
        images = []
        for _ in range(12):  # first take all, then compare: time matters here
            before_s = bench.clock()
            images.append(bench.snap())
            times.append((before_s + bench.clock()) / 2 - t_start_s)
        ways = [mapping.matrix_um_per_px @ image_shift(first, i) for i in images]
        last = float(np.linalg.norm(ways[-1]))  # the step less the backlash
        shares += [float(np.linalg.norm(way)) / last for way in ways]
    return fit_response(np.array(times), np.array(shares))


def fit_response(t_s: FloatArray, share: FloatArray) -> StageResponse:
    """Find dead time and time constant (2 ms steps) that explain the seen shares."""

    def misfit(response: StageResponse) -> float:
        left = [float(response.remaining_um(np.ones(1), float(t))[0]) for t in t_s]
        return float(np.sum((1.0 - np.array(left) - share) ** 2))

    grid = np.arange(0.0, 0.1, 0.002)
    candidates = [StageResponse(float(d), float(tau)) for d in grid for tau in grid]
    return min(candidates, key=misfit)


def measure_z_sign(
    bench: Bench, z_of: Callable[[Pixels], float], *, step_um: float
) -> int:
    """Return +1 or -1: whether a focus move of +1 µm makes the measured z grow.

    Parameters
    ----------
    z_of
        Image to the z (µm) of what it shows, say the median over all detections.
    """
    home_um = bench.position_um().z_um
    heights = home_um + np.array([-1.0, -0.5, 0.5, 1.0]) * step_um
    with bench.returning("z"):
        seen = []
        for height_um in heights:
            bench.go_z(float(height_um))
            seen.append(z_of(bench.snap()))
    slope = np.polyfit(heights - home_um, np.array(seen), 1)[0]
    if not 0.5 < abs(slope) < 2.0:
        raise CalibrationError(
            f"focus drive: z changes by {slope:.3g} um per um; expected about 1 or -1. "
            "Does the model measure z for these particles?"
        )
    return 1 if slope > 0 else -1


def scan_focus(bench: Bench, *, range_um: float, n_heights: int = 21) -> FocusCurve:
    """Measure the focus response around the present height; the drive comes back."""
    home_um = bench.position_um().z_um
    heights = home_um + np.linspace(-range_um, range_um, n_heights)
    measures = []
    with bench.returning("z"):
        for height_um in heights:
            bench.go_z(float(height_um))
            measures.append(sharpness(bench.snap()))
    return FocusCurve.fit(heights, np.array(measures))


def _stops(n_moves: int) -> Sequence[FloatArray]:
    """Out and back along y, then along x, in steps from home."""
    out = [*range(1, n_moves + 1), *range(n_moves - 1, -1, -1)]
    return [np.array([k, 0.0]) for k in out] + [np.array([0.0, k]) for k in out]


def _pieces(here: FloatArray, goal: FloatArray, longest: float) -> list[FloatArray]:
    """Split a way into steps the gate allows."""
    n = max(1, int(np.ceil(np.linalg.norm(goal - here) / (0.9 * longest))))
    return [here + (goal - here) * (k + 1) / n for k in range(n)]


def _require(verdict: Verdict) -> None:
    if verdict.reason != "sent":
        raise StageError(
            f"calibrate: a move was refused: {verdict.reason}. Arm it with wider "
            "limits, use shorter steps or start nearer to the middle."
        )
