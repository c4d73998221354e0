"""The simulator itself against miepython, the optical theorem and energy."""

from __future__ import annotations

import miepython
import numpy as np
import pytest

from lodestar_live.holography import Optics
from lodestar_live.simulation import mie
from lodestar_live.simulation.holograms import (
    Sphere,
    brownian_movie,
    complex_noise,
    render_field,
    upsample,
)

OPTICS = Optics(wavelength_um=0.633, pixel_size_um=0.228)
K = OPTICS.k_per_um


@pytest.mark.parametrize("radius_um", [0.05, 0.15, 0.228, 1.0, 3.0])
@pytest.mark.parametrize("n_particle", [1.40, 1.58, 1.2])
def test_mie_amplitudes_agree_with_miepython(
    radius_um: float, n_particle: float
) -> None:
    x, m = K * radius_um, n_particle / 1.33
    cosines = np.linspace(-1, 1, 31)
    s1, s2 = mie.amplitudes(cosines, x, m)
    # miepython's time runs the other way, hence the conjugate.
    expected = miepython.S1_S2(m, x, cosines, norm="wiscombe")
    scale = np.abs(expected).max()
    np.testing.assert_allclose(s1, np.conj(expected[0]), atol=1e-6 * scale)
    np.testing.assert_allclose(s2, np.conj(expected[1]), atol=1e-6 * scale)


def test_optical_theorem_holds_in_the_rendered_field() -> None:
    field = render_field([Sphere(128, 127.6)], (256, 256), OPTICS)
    removed_um2 = -2 * np.sum((field - 1).real) * OPTICS.pixel_size_um**2
    expected = mie.extinction_um2(0.228, 1.58, k_per_um=K, n_medium=1.33)
    # The frame cuts the outermost fringes off: 0.4e-4 to 2.4e-4 measured.
    assert removed_um2 == pytest.approx(expected, rel=1e-3)


def test_integrated_phase_is_the_polarizability_at_any_defocus() -> None:
    expected = mie.polarizability_um3(0.228, 1.58, k_per_um=K, n_medium=1.33)
    for z_um in (-2.0, 0.0, 3.0):
        field = render_field([Sphere(128, 128, z_um)], (256, 256), OPTICS)
        integral = np.sum((field - 1).imag) * OPTICS.pixel_size_um**2
        assert 2 / K * integral == pytest.approx(expected.real, rel=5e-3)


def test_denser_sphere_in_focus_delays_the_light() -> None:
    peak = render_field([Sphere(32, 32)], (64, 64), OPTICS)[32, 32] - 1
    assert peak == pytest.approx(-0.47 + 0.88j, abs=0.02)


def test_field_shifts_with_the_sphere_by_whole_pixels() -> None:
    one = render_field([Sphere(30.25, 40.5, 1.0)], (80, 90), OPTICS)
    moved = render_field([Sphere(35.25, 37.5, 1.0)], (80, 90), OPTICS)
    np.testing.assert_allclose(moved[5:, :-3], one[:-5, 3:], atol=1e-12)


def test_noise_has_the_wanted_size_and_lies_in_the_aperture() -> None:
    noise = complex_noise((128, 96), OPTICS, np.random.default_rng(0), std=0.02)
    assert noise.real.std() == pytest.approx(0.02, rel=0.03)
    assert noise.imag.std() == pytest.approx(0.02, rel=0.03)
    slow = complex_noise((128, 96), OPTICS, np.random.default_rng(0), std=0.02, na=0.43)
    ky, kx = (2 * np.pi * np.fft.fftfreq(n, 0.228) for n in slow.shape)
    outside = np.hypot(ky[:, None], kx) > 2 * np.pi * 0.43 / 0.633 + 1e-9
    assert np.abs(np.fft.fft2(slow)[outside]).max() < 1e-10


def test_upsampling_keeps_the_original_pixels() -> None:
    field = render_field([Sphere(20, 31, 1.0)], (40, 63), OPTICS)
    np.testing.assert_allclose(upsample(field, 3)[::3, ::3], field, atol=2e-6)


def test_brownian_movie_diffuses_and_stays_in_range() -> None:
    spheres = [Sphere(64, 64, z) for z in np.linspace(-3, 3, 60)]
    movie = brownian_movie(
        spheres, (64, 64), OPTICS, np.random.default_rng(0), n_frames=400, drift=1.0
    )
    steps = np.diff(movie.paths_um, axis=0)
    lateral = np.mean(steps[..., 1:] ** 2) * 30 / 2
    assert lateral == pytest.approx(0.97, rel=0.03)
    assert np.abs(movie.paths_um[..., 0]).max() <= 5
    one = brownian_movie(
        spheres[:1], (64, 64), OPTICS, np.random.default_rng(0), n_frames=3, drift=1.0
    )
    np.testing.assert_array_equal(one.wave(2), one.wave(2))
    assert one.truth(0)[0].y_px == pytest.approx(64)
