from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from lodestar_live.calibration.stage import Bench, calibrate, fit_response, scan_focus
from lodestar_live.control import Calibration, StageResponse, load_calibration
from lodestar_live.control.focus import FocusCurve, sharpness
from lodestar_live.errors import CalibrationError, StageError
from lodestar_live.geometry import PixelToStage, centre_px
from lodestar_live.settings import ControlSettings, TravelLimits
from tests.simulation.stage import SimulatedStage, StagePhysics, VirtualClock

SHAPE = (128, 160)
LIMITS = TravelLimits(y_um=(-60, 60), x_um=(-60, 60), z_um=(-8, 8))


class Scene:
    """Gaussian spots fixed in the sample, seen by a camera turned against the stage."""

    def __init__(self, matrix, physics=None, limits=LIMITS) -> None:
        self.clock = VirtualClock()
        self.stage = SimulatedStage(self.clock, physics or StagePhysics())
        self.mapping = PixelToStage(matrix)
        self.spots_um = np.random.default_rng(5).uniform(-60, 60, (60, 2))
        settings = ControlSettings(armed=True, limits=limits)
        self.bench = Bench(
            self.snap,
            self.stage,
            settings,
            tell=lambda event: None,
            clock=self.clock,
            wait=self.wait,
        )

    def wait(self, seconds: float) -> None:
        self.clock.now_s += seconds

    def snap(self):
        self.clock.now_s += 0.005
        stage = self.stage.true_position_um()
        self.clock.now_s += 0.005
        spots = self.mapping.pixel_px(self.spots_um, stage[1:], SHAPE)
        sigma = np.hypot(2.0, 0.5 * stage[0])
        rows, columns = np.arange(SHAPE[0]), np.arange(SHAPE[1])
        along_y = np.exp(-((rows - spots[:, :1]) ** 2) / (2 * sigma**2))
        along_x = np.exp(-((columns - spots[:, 1:]) ** 2) / (2 * sigma**2))
        image = 100.0 + 500.0 * along_y.T @ along_x
        return np.random.default_rng(1).poisson(image)


def turned(degrees: float, scale: float, *, mirrored: bool = False):
    angle = np.radians(degrees)
    c, s = np.cos(angle), np.sin(angle)
    return scale * np.array([[c, -s], [s, c]]) @ np.diag([1, -1 if mirrored else 1])


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_turned_camera_is_measured(mirrored) -> None:
    """10 moves per axis with 0.02 px correlation error give the map to 0.2 %."""
    truth = turned(30, 0.5, mirrored=mirrored)
    found = calibrate(Scene(truth).bench, step_um=5.0)
    assert np.abs(found.map.matrix_um_per_px - truth).max() < 0.002 * 0.5
    assert found.residual_px < 0.1
    assert found.particles_px < 0.2
    assert found.rotation_deg == pytest.approx(30, abs=0.2)
    assert found.is_mirrored == mirrored
    assert found.condition == pytest.approx(1, abs=0.01)


def test_backlash_and_response_are_measured() -> None:
    physics = StagePhysics(dead_s=0.02, tau_s=0.015, backlash_um=1.0, busy_s=0.1)
    found = calibrate(Scene(turned(0, 0.5), physics).bench, step_um=5.0)
    assert found.backlash_um == pytest.approx((1.0, 1.0), abs=0.1)
    assert found.response.dead_s == pytest.approx(0.02, abs=0.01)
    assert found.response.tau_s == pytest.approx(0.015, abs=0.01)


def test_the_stage_comes_back_and_never_leaves_the_limits() -> None:
    scene = Scene(turned(0, 0.5))
    calibrate(scene.bench, step_um=5.0)
    assert scene.stage.true_position_um() == pytest.approx([0, 0, 0], abs=0.1)
    small = TravelLimits(y_um=(-12, 12), x_um=(-12, 12))
    with pytest.raises(StageError, match="outside the travel limits"):
        calibrate(Scene(turned(0, 0.5), limits=small).bench, step_um=5.0)


def test_an_image_that_does_not_follow_is_refused() -> None:
    scene = Scene(turned(0, 0.5))
    still = scene.snap()
    scene.bench.snap = lambda: still
    with pytest.raises(CalibrationError, match="does not follow the stage"):
        calibrate(scene.bench, step_um=5.0)


def test_response_of_a_known_stage_is_found_from_its_samples() -> None:
    truth = StageResponse(0.010, 0.030)
    t_s = np.linspace(0, 0.3, 40)
    left = np.array([truth.remaining_um(np.ones(1), t)[0] for t in t_s])
    assert fit_response(t_s, 1 - left) == truth


def test_the_focus_scan_gives_a_falling_curve_and_the_distance_back() -> None:
    """Blur of 0.5 px per µm on spots of 2 px: truth known to the noise of the curve."""
    scene = Scene(turned(0, 0.5))
    curve = scan_focus(scene.bench, range_um=6.0)
    assert np.all(np.diff(curve.response) <= 0)
    scene.bench.go_z(3.0)
    assert curve.distance_at(sharpness(scene.snap())) == pytest.approx(3.0, abs=0.5)


def test_a_scan_without_the_focus_is_refused() -> None:
    heights = np.linspace(2, 6, 9)
    with pytest.raises(CalibrationError, match="no maximum inside"):
        FocusCurve.fit(heights, 1 / heights)


GOOD = Calibration(
    PixelToStage(turned(90, 0.2)),
    residual_px=0.05,
    measured=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
    objective='60x "oil"',
    response=StageResponse(0.01, 0.02),
    backlash_um=(0.5, 0.25),
    particles_px=0.1,
    microscope_um_per_px=turned(90, 0.2),
    z_sign=-1,
    focus=FocusCurve(np.array([0.0, 1.0]), np.array([1.0, 0.5]), 0.3),
)


def test_the_file_gives_back_what_was_measured(tmp_path) -> None:
    GOOD.save(tmp_path / "c.toml")
    again = load_calibration(tmp_path / "c.toml")
    assert np.allclose(again.map.matrix_um_per_px, GOOD.map.matrix_um_per_px)
    assert again.response == GOOD.response and again.measured == GOOD.measured
    assert again.objective == GOOD.objective and again.z_sign == -1
    assert again.focus is not None and again.focus.peak == 0.3
    assert again.contradiction == pytest.approx(0)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"measured": GOOD.measured - timedelta(days=31)}, "31 days old"),
        ({"residual_px": 0.6}, "residual = 0.6 px"),
        ({"residual_px": float("nan")}, "residual = nan px"),
        ({"microscope_um_per_px": turned(90, 0.25)}, "differs by 20%"),
        ({"microscope_um_per_px": turned(0, 0.2)}, "differs by 141%"),
        ({"map": PixelToStage(np.zeros((2, 2)))}, "singular"),
    ],
)
def test_a_doubtful_calibration_is_refused(change, expected) -> None:
    doubtful = replace(GOOD, **({"microscope_um_per_px": None} | change))
    with pytest.raises(CalibrationError, match=expected):
        doubtful.require_usable(max_age_days=30, now=GOOD.measured)


def test_the_microscopes_pixel_size_can_contradict() -> None:
    GOOD.require_usable(max_age_days=30, now=GOOD.measured, pixel_size_um=0.21)
    with pytest.raises(CalibrationError, match="more than 10 % apart"):
        GOOD.require_usable(max_age_days=30, now=GOOD.measured, pixel_size_um=0.25)


def test_a_calibration_of_another_objective_names_both_and_the_remedy() -> None:
    for same_or_unknown in ('60x "oil"', "", None):
        GOOD.require_usable(
            max_age_days=30, now=GOOD.measured, objective=same_or_unknown
        )
    with pytest.raises(CalibrationError, match=r"60x .oil.*Res20x.*calibrate"):
        GOOD.require_usable(max_age_days=30, now=GOOD.measured, objective="Res20x")


@pytest.mark.parametrize("text", ["", "a = [", 'measured = "yesterday"'])
def test_a_broken_file_is_named(tmp_path, text) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CalibrationError, match=r"c\.toml: not a calibration"):
        load_calibration(path)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(CalibrationError, match="cannot be read"):
        load_calibration(tmp_path / "absent.toml")


def test_centre_is_where_the_stage_stands() -> None:
    scene = Scene(turned(0, 0.5))
    seen = scene.mapping.pixel_px([0.0, 0.0], [0.0, 0.0], SHAPE)
    assert np.allclose(seen, centre_px(SHAPE))
