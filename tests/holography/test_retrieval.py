"""From camera counts to the field, off-axis and inline."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lodestar_live.errors import InputError
from lodestar_live.holography import (
    Background,
    Inline,
    OffAxis,
    Optics,
    autofocus,
    refocus,
)
from lodestar_live.holography.background import background_noise, flatten
from lodestar_live.holography.inline import check_one_sided
from lodestar_live.simulation.holograms import (
    InlineCamera,
    OffAxisCamera,
    Sphere,
    complex_noise,
    drift_wave,
    render_field,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it announces the engines it does not find
    import qpretrieve

FIELD = Optics(wavelength_um=0.633, pixel_size_um=0.228)
SPHERES = [Sphere(40.3, 70.8, 2.0), Sphere(90, 33, -1.0), Sphere(75.0, 75.0, 0.0)]


def camera_optics(factor: int) -> Optics:
    return FIELD.with_pixel_size(FIELD.pixel_size_um / factor)


@pytest.mark.parametrize(
    ("shape", "factor", "carrier"),
    [
        ((128, 128), 4, (0.26, 0.27)),
        ((96, 131), 4, (0.26, -0.27)),
        ((101, 97), 4, (-0.255, 0.31)),
        ((128, 96), 4, (-0.26, -0.26)),
        ((120, 120), 5, (0.0, 0.36)),
    ],
)
def test_off_axis_field_is_found_with_the_right_sign(
    shape: tuple[int, int], factor: int, carrier: tuple[float, float]
) -> None:
    rng = np.random.default_rng(0)
    camera = OffAxisCamera(factor=factor, carrier=carrier, electrons=np.inf)
    truth = render_field(SPHERES, shape, FIELD)
    retrieve = OffAxis(camera_optics(factor), camera.expose(truth, rng).shape)
    hologram = camera.expose(truth, rng)
    retrieve(hologram)
    retrieve.learn_background([camera.expose(np.ones(shape, complex), rng)])
    field = retrieve(hologram)
    assert field.shape == shape
    assert field.dtype == np.complex64
    assert retrieve.factor == factor
    assert retrieve.optics.pixel_size_um == pytest.approx(FIELD.pixel_size_um)
    error = np.linalg.norm(field - truth) / np.linalg.norm(truth - 1)
    assert error <= 0.05  # 12-bit counts, no shot noise; 0.02 to 0.03 measured
    assert field[75, 75].imag > 0.8  # the sphere in focus delays the light


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_z_keeps_its_slope_whatever_the_camera_samples(factor: int) -> None:
    """A pixel size off by 5 % would show as a slope of about 1.1."""
    rng = np.random.default_rng(factor)
    camera = OffAxisCamera(factor=factor)
    shape, centre = (96, 96), (47.3, 48.1)
    retrieve = OffAxis(
        camera_optics(factor), (96 * factor, 96 * factor), carrier=camera.carrier
    )
    retrieve.learn_background(
        [camera.expose(np.ones(shape, complex), rng) for _ in range(8)]
    )
    assert retrieve.factor == factor
    truth, found = np.array([-3.0, -1.5, 0.0, 1.5, 3.0]), []
    for z_um in truth:
        field = render_field([Sphere(*centre, z_um)], shape, FIELD)
        hologram = camera.expose(field, rng)
        focus = autofocus(
            retrieve(hologram), [centre], retrieve.optics, z_range_um=(-5, 5)
        )
        found.append(focus.z_um[0])
    # An ideal point as reference: 18 nm rms, so 0.004 of slope.
    assert np.polyfit(truth, found, 1)[0] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("carrier", [(0.26, 0.27), (-0.26, -0.27)])
def test_sideband_is_chosen_by_particles_even_after_an_empty_background(
    carrier: tuple[float, float],
) -> None:
    rng = np.random.default_rng(8)
    camera = OffAxisCamera(carrier=carrier)
    retrieve = OffAxis(camera_optics(4), (512, 512))
    blank = [camera.expose(np.ones((128, 128), complex), rng) for _ in range(4)]
    retrieve.learn_background(blank)
    retrieve(blank[0])
    assert not retrieve.is_sure
    truth = render_field(SPHERES, (128, 128), FIELD)
    field = retrieve(camera.expose(truth, rng))
    assert retrieve.is_sure
    assert retrieve.carrier == pytest.approx(carrier, abs=1e-3)
    again = retrieve(camera.expose(truth, rng))
    for found in (field, again):
        error = np.linalg.norm(found - truth) / np.linalg.norm(truth - 1)
        assert error < 0.35  # shot noise; the conjugate would be above 1


def test_carrier_given_or_found_give_the_same_field() -> None:
    rng = np.random.default_rng(0)
    camera = OffAxisCamera(electrons=np.inf)
    hologram = camera.expose(render_field(SPHERES, (128, 128), FIELD), rng)
    found = OffAxis(camera_optics(4), hologram.shape)
    found(hologram)
    field = found(hologram)
    assert found.carrier == pytest.approx(camera.carrier, abs=1 / 512)
    given_ = OffAxis(camera_optics(4), hologram.shape, carrier=found.carrier)
    np.testing.assert_array_equal(given_(hologram), field)
    conjugate = OffAxis(
        camera_optics(4), hologram.shape, carrier=tuple(-f for f in found.carrier)
    )
    np.testing.assert_allclose(conjugate(hologram), field.conj(), atol=2e-3)


def test_noise_is_at_the_shot_limit_with_an_averaged_background() -> None:
    rng = np.random.default_rng(1)
    camera, shape = OffAxisCamera(electrons=1e4), (128, 128)
    blank = np.ones(shape, complex)
    retrieve = OffAxis(camera_optics(4), (512, 512), carrier=camera.carrier)
    retrieve.learn_background(camera.expose(blank, rng) for _ in range(16))
    field = retrieve(camera.expose(blank, rng))
    # White noise of N electrons per pixel, the share of the spectrum inside the
    # aperture, a fringe amplitude of N / 2, two components.
    share = np.pi * (FIELD.cutoff_per_um * FIELD.pixel_size_um / 4 / (2 * np.pi)) ** 2
    limit = np.sqrt(1e4 * share / 2) / (1e4 / 2)
    assert field.real.std() <= 1.1 * limit
    assert field.imag.std() <= 1.1 * limit
    assert background_noise(field) == pytest.approx(limit, rel=0.1)
    single = OffAxis(camera_optics(4), (512, 512), carrier=camera.carrier)
    single.learn_background([camera.expose(blank, rng)])
    assert single(camera.expose(blank, rng)).real.std() > 1.3 * limit


@settings(max_examples=30, deadline=None)
@given(
    gain=st.floats(0.5, 2),
    piston_rad=st.floats(-3.1, 3.1),
    tilt_y=st.floats(-6, 6),
    tilt_x=st.floats(-6, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_piston_tilt_and_gain_are_removed(
    gain: float, piston_rad: float, tilt_y: float, tilt_x: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shape = (96, 121)
    truth = render_field([Sphere(30, 80, 1.0), Sphere(60, 40, -2.0)], shape, FIELD)
    truth = truth + complex_noise(shape, FIELD, rng, std=0.005)
    wave = drift_wave(
        shape, gain=gain, piston_rad=piston_rad, tilt_rad=(tilt_y, tilt_x)
    )
    field = flatten((truth * wave).astype(np.complex64))
    change = field / truth
    assert np.abs(np.abs(change) - 1).max() < 0.005
    assert np.abs(np.angle(change)).max() < 0.01


def test_drift_is_removed_along_a_movie() -> None:
    rng = np.random.default_rng(2)
    camera, shape = OffAxisCamera(), (96, 96)
    retrieve = OffAxis(camera_optics(4), (384, 384), carrier=camera.carrier)
    static = 1 + complex_noise(shape, FIELD, rng, std=0.05, na=0.3)
    retrieve.learn_background(camera.expose(static, rng) for _ in range(16))
    piston = gain = 0.0
    tilt = np.zeros(2)
    for _ in range(5):
        piston, gain = piston + rng.normal(0, 0.1), gain + rng.normal(0, 0.03)
        tilt += rng.normal(0, 0.2, 2)
        wave = drift_wave(shape, gain=1 + gain, piston_rad=piston, tilt_rad=tuple(tilt))
        field = retrieve(camera.expose(static * wave, rng))
        assert abs(np.mean(np.abs(field)) - 1) < 0.005
        assert np.abs(np.angle(np.mean(field.reshape(4, 24, 96), (1, 2)))).max() < 0.01


def test_running_background_follows_slow_change_but_not_particles() -> None:
    rng = np.random.default_rng(3)
    shape = (96, 96)
    background = Background(running_rate=0.1)
    smooth = complex_noise(shape, FIELD, rng, std=0.02, na=0.2)
    particle = render_field([Sphere(48, 48)], shape, FIELD)
    for _ in range(60):
        noise = complex_noise(shape, FIELD, rng, std=0.005)
        field = background(((1 + smooth) * particle + noise).astype(np.complex64))
    far = np.hypot(*(np.mgrid[:96, :96] - 48)) > 30
    assert np.std((field - 1)[far]) < 1.5 * np.sqrt(2) * 0.005
    assert abs(field[48, 48] - particle[48, 48]) < 0.15 * abs(particle[48, 48] - 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_any_camera_dtype_gives_the_same_field(dtype: type) -> None:
    rng = np.random.default_rng(4)
    camera = OffAxisCamera(bit_depth=8)
    hologram = camera.expose(render_field(SPHERES, (128, 128), FIELD), rng)
    before = hologram.copy()
    expected = OffAxis(camera_optics(4), (512, 512))(hologram)
    field = OffAxis(camera_optics(4), (512, 512))(hologram.astype(dtype))
    np.testing.assert_array_equal(field, expected)
    np.testing.assert_array_equal(hologram, before)


def test_holograms_without_fringes_or_of_another_shape_are_refused() -> None:
    rng = np.random.default_rng(5)
    retrieve = OffAxis(camera_optics(4), (256, 256))
    with pytest.raises(InputError, match="no fringes found"):
        retrieve(rng.poisson(100, (256, 256)))
    with pytest.raises(InputError, match="one per shape"):
        retrieve(np.zeros((128, 256)))
    with pytest.raises(InputError, match="no room for a sideband"):
        OffAxis(FIELD.with_pixel_size(0.4), (256, 256))(rng.poisson(9, (256, 256)))
    with pytest.raises(InputError, match="no hologram given"):
        retrieve.learn_background([])


def test_real_off_axis_hologram_agrees_with_qpretrieve(real_data: Path) -> None:
    data = np.load(real_data / "offaxis_cell" / "hologram_cell.npz")
    hologram, blank = data["data"], data["bg_data"]
    side = 200  # qpretrieve pads to a square; the same square for both
    hologram, blank = hologram[:side, :side], blank[:side, :side]
    oracle, oracle_blank = (
        qpretrieve.OffAxisHologram(image, padding=0) for image in (hologram, blank)
    )
    options = {"filter_name": "disk", "filter_size": 1 / 3}
    oracle.run_pipeline(**options)
    fy, fx = (float(f) for f in np.ravel(oracle.pipeline_kws["sideband_freq"]))
    oracle_blank.run_pipeline(
        **options, sideband_freq=oracle.pipeline_kws["sideband_freq"]
    )
    expected = np.squeeze(oracle.field / oracle_blank.field)
    # Our optics that pass the same disk: radius of a third of the carrier, one pixel.
    radius = np.hypot(fy, fx) / 3
    optics = Optics(wavelength_um=1.0, pixel_size_um=1.0, na=radius, n_medium=1.33)
    retrieve = OffAxis(optics, (side, side), carrier=(fy, fx))
    retrieve.learn_background([blank])
    field = retrieve(hologram)
    step = retrieve.factor
    height, width = retrieve.field_shape
    expected = expected[: step * height : step, : step * width : step]
    expected = flatten(expected)
    inner = (slice(8, -8), slice(8, -8))
    error = np.linalg.norm((field - expected)[inner])
    assert error / np.linalg.norm((expected - 1)[inner]) < 0.05


def test_inline_twin_is_as_sharp_as_the_particle() -> None:
    rng = np.random.default_rng(6)
    truth = render_field([Sphere(64, 64, 8.0)], (128, 128), FIELD)
    retrieve = Inline(FIELD, (128, 128))
    retrieve.learn_background(
        InlineCamera().expose(np.ones((128, 128)), rng) for _ in range(16)
    )
    field = retrieve(InlineCamera().expose(truth, rng))
    peaks = [np.abs(refocus(field, z, FIELD) - 1)[60:69, 60:69].max() for z in (8, -8)]
    assert peaks[0] > 0.3
    assert peaks[1] == pytest.approx(peaks[0], rel=0.1)


def test_inline_range_across_focus_is_refused() -> None:
    with pytest.raises(InputError, match="one side of 0"):
        check_one_sided((-5.0, 20.0))
    check_one_sided((0.0, 20.0))
    check_one_sided((-20.0, -1.0))


def test_real_inline_hologram_becomes_flat(real_data: Path) -> None:
    frame = np.load(real_data / "plankton" / "fig1_data.npy")
    field = Inline(Optics(wavelength_um=0.633, pixel_size_um=3.6), frame.shape)(frame)
    assert field.shape == frame.shape
    assert abs(np.median(field.real) - 1) < 0.02
    assert not field.imag.any()
