"""Calibration on the real core: its beads move by -1 px per µm."""

from __future__ import annotations

import numpy as np
import pytest

from lodestar_live.control import measure_calibration
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
