"""Propagation against nrefocus and against theory."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lodestar_live.errors import InputError
from lodestar_live.holography import Optics, Propagator, refocus
from lodestar_live.holography.propagation import safe_distance_um, transfer_function

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it announces the engines it does not find
    import nrefocus

OPTICS = Optics(wavelength_um=0.633, pixel_size_um=0.228)
SHAPES = [(128, 128), (96, 130), (65, 81), (101, 64)]


def band_limited_field(
    shape: tuple[int, int], rng: np.random.Generator, *, share: float = 0.8
) -> np.ndarray:
    """A random field with background 1 that holds no evanescent wave."""
    noise = rng.normal(size=(*shape, 2)) @ [1, 1j]
    ky, kx = (2 * np.pi * np.fft.fftfreq(n, OPTICS.pixel_size_um) for n in shape)
    inside = np.hypot(ky[:, None], kx) < share * OPTICS.k_per_um
    scattered = np.fft.ifft2(np.fft.fft2(noise) * inside)
    return 1 + 0.3 * scattered / scattered.std()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("distance_um", [-4.0, 0.7, 3.0])
def test_refocus_agrees_with_nrefocus(
    shape: tuple[int, int], distance_um: float
) -> None:
    field = band_limited_field(shape, np.random.default_rng(1))
    reference = nrefocus.refocus(
        field,
        d=distance_um / OPTICS.pixel_size_um,
        nm=OPTICS.n_medium,
        res=OPTICS.wavelength_um / OPTICS.pixel_size_um,
        padding=False,
    )
    options = {"padding_px": 0, "band_limit": False}
    ours = refocus(field, distance_um, OPTICS, **options)
    assert ours.dtype == np.complex128
    assert np.abs(ours - reference).max() <= 1e-12
    single = refocus(field.astype(np.complex64), distance_um, OPTICS, **options)
    assert single.dtype == np.complex64
    assert np.abs(single - reference).max() <= 1e-6


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(16, 70),
    width=st.integers(16, 70),
    distance_um=st.floats(-20, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_going_and_coming_back_is_the_identity(
    height: int, width: int, distance_um: float, seed: int
) -> None:
    field = band_limited_field((height, width), np.random.default_rng(seed))
    options = {"padding_px": 0, "band_limit": False}
    away = refocus(field, distance_um, OPTICS, **options)
    assert np.sum(np.abs(away - 1) ** 2) == pytest.approx(
        np.sum(np.abs(field - 1) ** 2)
    )
    np.testing.assert_allclose(
        refocus(away, -distance_um, OPTICS, **options), field, atol=1e-12
    )


def test_round_trip_composition_and_energy_in_complex64() -> None:
    field = band_limited_field((128, 128), np.random.default_rng(0))
    field = field.astype(np.complex64)
    propagator = Propagator((128, 128), OPTICS, padding_px=0, band_limit=False)
    two_steps = propagator(propagator(field, 1.3), 2.2)
    assert np.abs(two_steps - propagator(field, 3.5)).max() < 2e-6
    assert np.abs(propagator(propagator(field, 5.0), -5.0) - field).max() < 2e-6
    energy, after = (
        np.sum(np.abs(f.astype(complex)) ** 2) for f in (field, propagator(field, 5.0))
    )
    assert after == pytest.approx(energy, rel=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("distance_um", [-50.0, 0.0, 3.0, 1500.0])
def test_plane_wave_stays_one_without_border_or_phase(
    shape: tuple[int, int], distance_um: float
) -> None:
    plane = refocus(np.ones(shape, np.complex64), distance_um, OPTICS)
    assert np.abs(plane - 1).max() <= 1e-6


def test_tilted_wave_gets_the_phase_of_the_medium_wavelength() -> None:
    y, x = np.mgrid[:120, :90] * OPTICS.pixel_size_um
    ky, kx = 2 * np.pi * np.array([7 / y.shape[0], -5 / y.shape[1]])
    ky, kx = ky / OPTICS.pixel_size_um, kx / OPTICS.pixel_size_um
    wave = 0.2 * np.exp(1j * (ky * y + kx * x))
    k = 2 * np.pi * 1.33 / 0.633
    expected = 1 + wave * np.exp(3j * (np.sqrt(k**2 - ky**2 - kx**2) - k))
    found = refocus(1 + wave, 3.0, OPTICS, padding_px=0, band_limit=False)
    assert np.abs(found - expected).max() < 1e-12
    assert (
        np.abs(
            refocus(
                (1 + wave).astype("c8"), 3.0, OPTICS, padding_px=0, band_limit=False
            )
            - expected
        ).max()
        < 1e-6
    )


def test_gaussian_beam_spreads_as_theory_says() -> None:
    optics = Optics(wavelength_um=0.633, pixel_size_um=0.25)
    waist_um, z_um = 3.0, 20.0
    y, x = (np.mgrid[:256, :256] - 127.5) * optics.pixel_size_um
    r2 = y**2 + x**2
    start = np.exp(-r2 / waist_um**2)
    k = optics.k_per_um
    rayleigh_um = k * waist_um**2 / 2
    q = 1 + 1j * z_um / rayleigh_um
    expected = np.exp(-r2 / (waist_um**2 * q)) / q  # paraxial: good to (1/k w)^2
    found = refocus(1 + start, z_um, optics) - 1
    assert np.abs(found - expected).max() <= 1e-3


def test_complex64_keeps_its_phase_over_millimetres() -> None:
    shape, far_um = (96, 96), 1500.0
    exact = transfer_function(
        shape, far_um, OPTICS, band_limit=False, dtype=np.complex128
    )
    single = transfer_function(shape, far_um, OPTICS, band_limit=False)
    assert np.abs(single - exact).max() < 1e-6


def test_evanescent_and_aliased_waves_carry_no_energy() -> None:
    fine = Optics(wavelength_um=0.633, pixel_size_um=0.1)
    shape = (128, 100)
    kernel = transfer_function(shape, 1.0, fine, band_limit=False)
    ky, kx = (2 * np.pi * np.fft.fftfreq(n, 0.1) for n in shape)
    evanescent = np.hypot(ky[:, None], kx) >= fine.k_per_um
    assert evanescent.any()
    assert not kernel[evanescent].any()
    assert np.allclose(np.abs(kernel[~evanescent]), 1)

    far_um = 40.0
    limited = transfer_function(shape, far_um, fine)
    limit_y, limit_x = (
        fine.k_per_um / np.hypot(1, 2 * far_um / (n * 0.1)) for n in shape
    )
    outside = (np.abs(ky)[:, None] > limit_y) | (np.abs(kx) > limit_x)
    assert not limited[outside].any()
    assert np.allclose(np.abs(limited[~outside & ~evanescent]), 1)


def test_stack_equals_its_planes_and_kernels_are_reused() -> None:
    field = band_limited_field((64, 80), np.random.default_rng(3)).astype(np.complex64)
    propagator = Propagator((64, 80), OPTICS)
    distances = [-2.0, 0.0, 1.5]
    stack = propagator.prepare(field).stack(distances)
    assert stack.shape == (3, 64, 80)
    for plane, distance_um in zip(stack, distances, strict=True):
        np.testing.assert_allclose(plane, propagator(field, distance_um), atol=1e-6)
    assert propagator.kernel(1.5, np.complex64) is propagator.kernel(1.5, np.complex64)
    np.testing.assert_allclose(stack[1], field, atol=1e-6)


def test_the_callers_field_is_left_alone() -> None:
    field = band_limited_field((32, 32), np.random.default_rng(5)).astype(np.complex64)
    before = field.copy()
    field.flags.writeable = False
    refocus(field, 2.0, OPTICS, padding_px=0)
    np.testing.assert_array_equal(field, before)


def test_impossible_input_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match="wavelength_um = -1"):
        Optics(wavelength_um=-1, pixel_size_um=0.1)
    with pytest.raises(InputError, match="expected \\(y, x\\)"):
        refocus(np.ones((2, 8, 8)), 1.0, OPTICS)
    with pytest.raises(InputError, match="made for"):
        Propagator((8, 8), OPTICS).prepare(np.ones((8, 9)))


def test_safe_distance_follows_the_steepest_ray() -> None:
    assert safe_distance_um(64, OPTICS) == pytest.approx(
        32 * 0.228 / np.tan(np.arcsin(1.3 / 1.33)), rel=1e-3
    )
    assert safe_distance_um(128, OPTICS) == pytest.approx(
        2 * safe_distance_um(64, OPTICS)
    )
