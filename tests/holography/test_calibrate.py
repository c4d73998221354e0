"""z calibration from simulated focus sweeps."""

from __future__ import annotations

import numpy as np
import pytest

from lodestar_live.errors import CalibrationError
from lodestar_live.holography import Optics, autofocus
from lodestar_live.holography.calibrate import calibrate_z
from lodestar_live.simulation.holograms import Sphere, complex_noise, render_field

OPTICS = Optics(wavelength_um=0.633, pixel_size_um=0.228)


@pytest.mark.parametrize("direction", [1, -1])
def test_sweep_of_a_stuck_bead_gives_scale_sign_and_offset(direction: int) -> None:
    rng = np.random.default_rng(0)
    drive_um = np.linspace(-2, 2, 9)
    per_drive = -direction * 1.33 / 1.5  # medium µm per drive µm: focal shift
    distance = []
    for drive in drive_um:
        z_um = per_drive * (drive - 0.4)
        field = render_field([Sphere(31.5, 31.5, z_um)], (64, 64), OPTICS)
        field += complex_noise((64, 64), OPTICS, rng, std=0.005)
        focus = autofocus(field, [[31.5, 31.5]], OPTICS, z_range_um=(-5, 5))
        distance.append(focus.z_um[0])
    distance[2] = 4.0  # a passing neighbour
    result = calibrate_z(drive_um, distance, focus_um=0.4)
    assert result.z_scale == pytest.approx(direction * 1.5 / 1.33, rel=0.01)
    assert result.n == 8
    assert result.error < 0.01
    z_um = result.z_scale * np.asarray(distance) + result.z_offset_um
    # What is reported is the move that focuses the bead.
    np.testing.assert_allclose(
        np.delete(z_um, 2), np.delete(0.4 - drive_um, 2), atol=0.03
    )


def test_useless_sweeps_are_refused() -> None:
    with pytest.raises(CalibrationError, match="Sweep farther"):
        calibrate_z([0, 1, 2], [0, 1, 2])
    with pytest.raises(CalibrationError, match="Sweep farther"):
        calibrate_z(np.linspace(0, 0.1, 9), np.linspace(0, 0.1, 9))
    with pytest.raises(CalibrationError, match="does not change"):
        calibrate_z(np.arange(6.0), np.zeros(6))
    wild = np.random.default_rng(0).normal(0, 3, 20)
    with pytest.raises(CalibrationError, match="stuck, lone"):
        calibrate_z(np.linspace(0, 3, 20), wild)
