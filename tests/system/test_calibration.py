"""Calibration on the real core: its beads move by -1 px per µm."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pytest
from typer.testing import CliRunner

from lodestar_live.cli import app
from lodestar_live.control import load_calibration, measure_calibration
from lodestar_live.errors import CalibrationError
from lodestar_live.microscope import CoreStage

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
    assert stored.objective and stored.measured.date() == datetime.now(UTC).date()
