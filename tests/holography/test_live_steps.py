"""prepare and refine, as the live pipeline composes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from lodestar_live.data import Detections, Flag, Frame
from lodestar_live.errors import InputError, ModelError, SettingsError
from lodestar_live.holography import (
    HologramPreparer,
    Optics,
    ParticleRefiner,
    Reference,
)
from lodestar_live.holography.inline import Inline
from lodestar_live.model_card import ReferenceField
from lodestar_live.settings import HolographySettings, parse_settings
from lodestar_live.simulation import mie
from lodestar_live.simulation.holograms import (
    InlineCamera,
    OffAxisCamera,
    Sphere,
    render_field,
)

FIELD = Optics(wavelength_um=0.633, pixel_size_um=0.228)
SETTINGS = HolographySettings(wavelength_um=0.633, z_range_um=(-6, 6))
CAMERA = OffAxisCamera()
ALPHA_UM3 = mie.polarizability_um3(
    0.228, 1.58, k_per_um=FIELD.k_per_um, n_medium=1.33
).real


def hologram_frame(
    spheres: list[Sphere], rng: np.random.Generator, *, side: int = 128, index: int = 0
) -> Frame:
    pixels = CAMERA.expose(render_field(spheres, (side, side), FIELD), rng)
    return Frame(index, pixels, pixel_size_um=0.057)


def field_frame(field: np.ndarray, *, pixel_size_um: float = 0.228) -> Frame:
    return Frame(0, field.astype(np.complex64), pixel_size_um=pixel_size_um)


def reference_crop() -> Reference:
    return Reference(render_field([Sphere(31.5, 31.5)], (64, 64), FIELD), 0.228)


def test_counts_become_tracks_quantities_in_two_calls(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    blank = [hologram_frame([], rng).pixels for _ in range(16)]
    tifffile.imwrite(tmp_path / "empty.tif", np.stack(blank), photometric="minisblack")
    settings = SETTINGS.model_copy(
        update={"background_file": str(tmp_path / "empty.tif"), "carrier": (0.26, 0.27)}
    )
    spheres = [Sphere(40.2, 45.7, 2.0), Sphere(90.1, 80.4, -1.5)]
    frame = hologram_frame(spheres, rng)
    prepare = HologramPreparer(settings)
    prepared = prepare(frame)
    assert prepared.pixels.dtype == np.complex64
    assert prepared.pixels.shape == (128, 128)
    assert prepared.pixel_size_um == pytest.approx(0.228)
    assert prepare.factor == 4
    refine = ParticleRefiner(settings, reference=reference_crop())
    found = refine(
        prepared, Detections.from_positions([[s.y_px, s.x_px] for s in spheres])
    )
    assert found.rows["z_um"] == pytest.approx([2.0, -1.5], abs=0.1)
    assert (found.rows["sigma_z_um"] > 0).all()
    assert found.rows["polarizability_um3"] == pytest.approx(ALPHA_UM3, rel=0.15)
    assert (found.rows["sigma_polarizability_um3"] > 0).all()
    assert not found.rows["flags"].any()


def test_polarizabilities_are_multiplied_by_the_measured_scale() -> None:
    field = render_field([Sphere(64.0, 64.0)], (128, 128), FIELD)
    noise = np.random.default_rng(0).normal(0, 0.01, (2, 128, 128))
    frame = field_frame(field + noise[0] + 1j * noise[1])
    names = "polarizability_um3", "sigma_polarizability_um3", "scale_polarizability_um3"
    detections = Detections.from_positions([[64.0, 64.0]]).rows.copy()
    detections["scale_polarizability_um3"] = ALPHA_UM3
    one, twice = (
        ParticleRefiner(
            SETTINGS.model_copy(update={"polarizability_scale": scale}),
            reference=reference_crop(),
        )(frame, Detections(detections.copy())).rows
        for scale in (1.0, 2.0)
    )
    for name in names:
        assert twice[name] == pytest.approx(2 * one[name])
    assert twice["flags"] == one["flags"] and twice["z_um"] == one["z_um"]


def test_roi_or_binning_change_starts_a_new_retrieval() -> None:
    rng = np.random.default_rng(1)
    prepare = HologramPreparer(SETTINGS)
    frame = hologram_frame([Sphere(64, 64, 1.0)], rng)
    first = prepare(frame)
    roi = replace(frame, pixels=frame.pixels[64:448, 32:455])
    assert prepare(roi).pixels.shape == (96, 105)
    assert prepare(frame).pixels.shape == first.pixels.shape
    binned = replace(frame, pixel_size_um=0.0456)
    prepare(binned)
    assert prepare.factor == 5


def test_first_frames_can_be_the_background() -> None:
    rng = np.random.default_rng(2)
    prepare = HologramPreparer(SETTINGS.model_copy(update={"background_frames": 4}))
    edge = []
    for index in range(5):
        field = prepare(hologram_frame([], rng, index=index)).pixels
        edge.append(np.abs(field - 1).max())
    # The fringes cut at the border ring until they are divided out.
    assert edge[4] < 0.05 < edge[0]


def test_z_calibration_is_applied_with_sign_and_offset() -> None:
    rng = np.random.default_rng(3)
    field = render_field([Sphere(64, 64, 2.0)], (128, 128), FIELD)
    frame = field_frame(field)
    settings = SETTINGS.model_copy(update={"z_scale": -1.128, "z_offset_um": 0.5})
    refine = ParticleRefiner(settings, reference=reference_crop())
    detections = Detections.from_positions(rng.normal(64, 0.05, (1, 2)))
    z_um = refine(frame, detections).rows["z_um"][0]
    # The reference's own z is measured as an ideal point's, 54 nm downstream.
    assert (z_um - 0.5) / -1.128 == pytest.approx(2.0, abs=0.1)


def test_end_of_range_is_flagged_and_not_given_as_z() -> None:
    field = render_field([Sphere(64, 64, 4.0)], (128, 128), FIELD)
    settings = SETTINGS.model_copy(update={"z_range_um": (-1.0, 3.7)})
    refine = ParticleRefiner(settings, reference=reference_crop())
    rows = refine(field_frame(field), Detections.from_positions([[64, 64]])).rows
    assert rows["flags"][0] & Flag.Z_AT_EDGE
    assert np.isnan(rows["z_um"][0])


def test_disagreement_with_the_scale_channel_is_flagged() -> None:
    field = render_field([Sphere(64, 64)], (128, 128), FIELD).astype(np.complex64)
    refine = ParticleRefiner(SETTINGS, reference=reference_crop())
    for claimed, flagged in ((ALPHA_UM3, False), (2 * ALPHA_UM3, True)):
        detections = Detections.from_positions([[64, 64]]).rows.copy()
        detections["scale_polarizability_um3"] = claimed
        rows = refine(field_frame(field), Detections(detections)).rows
        assert bool(rows["flags"][0] & Flag.POLARIZABILITY_DISAGREES) is flagged
        assert rows["polarizability_um3"][0] == pytest.approx(ALPHA_UM3, rel=0.1)


def test_reference_survives_the_model_card() -> None:
    reference = reference_crop()
    again = Reference.from_card(reference.to_card())
    np.testing.assert_array_equal(again.field, reference.field.astype(np.complex64))
    with pytest.raises(ModelError, match="train the model again"):
        Reference.from_card(
            ReferenceField(shape=(3, 3), complex64="AAAA", pixel_size_um=0.1)
        )
    with pytest.raises(ModelError, match="µm per pixel"):
        ParticleRefiner(SETTINGS, reference=reference)(
            field_frame(np.ones((64, 64)), pixel_size_um=0.3),
            Detections.from_positions([[32, 32]]),
        )


def test_inline_particles_are_found_on_their_side() -> None:
    rng = np.random.default_rng(4)
    optics = Optics(wavelength_um=0.633, pixel_size_um=0.228, na=0.8)
    camera, shape = InlineCamera(), (192, 192)
    settings = HolographySettings(
        wavelength_um=0.633, na=0.8, mode="inline", z_range_um=(2, 20)
    )
    big = {"radius_um": 0.5, "n_particle": 1.58}
    crop = Inline(optics, shape)(
        camera.expose(
            render_field([Sphere(95.5, 95.5, 8.0, **big)], shape, optics), rng
        )
    )
    reference = Reference(crop[48:144, 48:144], 0.228)
    settings = settings.model_copy(update={"reference_z_um": 8.0})
    refine = ParticleRefiner(settings, reference=reference)
    for z_um in (6.0, 9.0, 12.0):
        field = render_field([Sphere(90, 100, z_um, **big)], shape, optics)
        frame = Frame(0, camera.expose(field, rng), pixel_size_um=0.228)
        prepared = HologramPreparer(settings)(frame)
        rows = refine(prepared, Detections.from_positions([[90, 100]])).rows
        assert rows["z_um"][0] == pytest.approx(z_um, abs=0.25)
        assert np.isnan(rows["polarizability_um3"][0])  # the phase is lost


def test_impossible_settings_and_frames_are_refused() -> None:
    with pytest.raises(SettingsError, match="one side of 0"):
        parse_settings(
            {
                "holography": {
                    "mode": "inline",
                    "wavelength_um": 0.6,
                    "z_range_um": [-5, 5],
                }
            }
        )
    with pytest.raises(SettingsError, match="low < high"):
        parse_settings({"holography": {"wavelength_um": 0.6, "z_range_um": [5, -5]}})
    with pytest.raises(SettingsError, match="pixel size"):
        HologramPreparer(SETTINGS)(Frame(0, np.zeros((64, 64))))
    refine = ParticleRefiner(SETTINGS)
    with pytest.raises(InputError, match="HologramPreparer"):
        refine(Frame(0, np.zeros((64, 64))), Detections.empty())
    nobody = Frame(0, np.ones((64, 64), np.complex64))
    assert len(refine(nobody, Detections.empty())) == 0
