"""Calibration on the real core: its beads move by -1 px per µm."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from typer.testing import CliRunner

from lodestar_live.calibration import measure_calibration
from lodestar_live.cli import app
from lodestar_live.control import Calibration, load_calibration
from lodestar_live.data import Detections
from lodestar_live.errors import CalibrationError
from lodestar_live.geometry import PixelToStage
from lodestar_live.live import LiveTracker
from lodestar_live.microscope import CoreStage
from lodestar_live.settings import Settings

pytestmark = pytest.mark.system


def test_the_demo_stage_is_measured_to_a_hundredth(microscope) -> None:
    calibration = measure_calibration(CoreStage(microscope), microscope.snap)
    # The camera draws exactly 1 px per um; registration is good to 0.01 px in 30.
    assert np.allclose(calibration.map.matrix_um_per_px, np.eye(2), atol=2e-3)
    assert calibration.residual_px < 0.05
    assert CoreStage(microscope).position_um()[1:] == pytest.approx((0.0, 0.0))


def test_an_image_that_does_not_follow_the_stage_is_refused(microscope) -> None:
    still = microscope.snap()
    with pytest.raises(CalibrationError, match="does not follow the stage"):
        measure_calibration(CoreStage(microscope), lambda: still)


MEASURED = Calibration(
    PixelToStage(np.eye(2)), residual_px=0.05, measured=datetime.now(UTC),
    objective="Res10x",
)  # fmt: skip


@pytest.fixture
def turret(microscope):
    """Turn the DemoCamera's objective turret; 10X is back in place afterwards."""

    def turn(position: int) -> None:
        microscope.core.set_state("Objective", position)
        microscope.core.wait_for_system()

    yield turn
    microscope.core.set_config("Objective", "10X")
    microscope.core.wait_for_system()


def start_following(calibration: Calibration, microscope, folder) -> None:
    """Start and end a run whose settings name the calibration's file."""
    calibration.save(folder / "calibration.toml")
    control = {
        "follow": True,
        "armed": True,
        "limits": {"y_um": (-50, 50), "x_um": (-50, 50)},
        "calibration": str(folder / "calibration.toml"),
    }
    settings = Settings(
        control=control,
        streams={"enabled": False},
        recording={"enabled": False, "folder": str(folder)},
    )
    with LiveTracker(settings, microscope=microscope, detect=nothing):
        pass


def nothing(pixels) -> Detections:
    return Detections.empty()


def test_the_calibration_of_the_objective_in_place_is_taken_without_a_word(
    microscope, tmp_path, caplog
) -> None:
    start_following(MEASURED, microscope, tmp_path)
    assert not caplog.records


def test_the_calibration_of_another_objective_is_refused(
    microscope, turret, tmp_path
) -> None:
    turret(3)  # Nikon 20X Plan Fluor ELWD, whose pixel-size configuration is Res20x
    with pytest.raises(
        CalibrationError, match=r"'Res10x', but 'Res20x' is in place.*live calibrate"
    ):
        start_following(MEASURED, microscope, tmp_path)


def test_without_pixel_sizes_the_objectives_config_group_names_it(
    microscope, turret, monkeypatch, tmp_path
) -> None:
    turret(0)
    pixel_sizes = "get_current_pixel_size_config"
    monkeypatch.setattr(microscope.core, pixel_sizes, lambda: "")
    assert microscope.objective == "40X"
    with pytest.raises(CalibrationError, match="'20X', but '40X' is in place"):
        start_following(replace(MEASURED, objective="20X"), microscope, tmp_path)


@pytest.mark.parametrize("known", ["Res10x", ""], ids=["file-knows", "file-does-not"])
def test_an_objective_that_cannot_be_read_is_a_warning(
    microscope, turret, tmp_path, caplog, known
) -> None:
    turret(2)  # an empty place of the turret: no pixel size, no preset
    assert microscope.objective == ""
    with caplog.at_level(logging.WARNING):
        start_following(replace(MEASURED, objective=known), microscope, tmp_path)
    assert "cannot be checked" in caplog.text and repr(known) in caplog.text


def test_the_command_measures_everything_and_compares(tmp_path) -> None:
    """10 px of focus blur per 20 µm on beads of 2 px: a curve; 1 µm per px, aligned."""
    config, out = tmp_path / "c.toml", tmp_path / "calibration.toml"
    config.write_text('[microscope]\nbackend = "demo"\n')
    command = ["calibrate", str(config), "-o", str(out), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1 and "no travel limits" in str(result.exception)
    result = CliRunner().invoke(app, [*command, "--travel", "300", "--focus", "8"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout.splitlines()[-1])
    assert facts["scale_um_per_px"] == pytest.approx(1.0, abs=2e-3)
    assert facts["rotation_deg"] == pytest.approx(0.0, abs=0.1)
    assert facts["residual_px"] < 0.05 and facts["particles_px"] < 0.2
    assert np.abs(facts["backlash_um"]).max() < 0.05
    assert facts["has_focus_curve"] and not facts["is_mirrored"]
    stored = load_calibration(out)
    assert stored.objective == "Res10x"
    assert stored.measured.date() == datetime.now(UTC).date()
