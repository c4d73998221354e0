"""The shipped field model on simulated fields, through the steps of the pipeline."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path

import numpy as np
import pytest

from lodestar_live.data import Frame
from lodestar_live.detection import Detector
from lodestar_live.holography import HologramPreparer, Optics, ParticleRefiner
from lodestar_live.linking import Linker
from lodestar_live.pipeline.pipeline import Pipeline
from lodestar_live.resources import find
from lodestar_live.settings import HolographySettings
from lodestar_live.simulation.holograms import (
    OffAxisCamera,
    Sphere,
    brownian_movie,
    complex_noise,
    render_field,
)

OPTICS = Optics(wavelength_um=0.633, pixel_size_um=0.228)
SETTINGS = HolographySettings(wavelength_um=0.633, z_range_um=(-6, 6))


@pytest.fixture(scope="module")
def model() -> Path:
    return find("models", "beads_hologram.onnx")


@pytest.fixture(scope="module")
def detector(model: Path) -> Detector:
    return Detector(model, n_threads=1)


def scattered_spheres(
    rng: np.random.Generator, n: int, side: int, *, apart_px: float = 18.0
) -> list[Sphere]:
    spheres: list[Sphere] = []
    while len(spheres) < n:
        y, x = rng.uniform(16, side - 17, 2)
        if all(np.hypot(s.y_px - y, s.x_px - x) > apart_px for s in spheres):
            spheres.append(Sphere(y, x, rng.uniform(-5, 5)))
    return spheres


@pytest.mark.parametrize("name", ["beads_hologram.onnx", "beads_inline.onnx"])
def test_card_names_the_file(name: str) -> None:
    path = find("models", name)
    card = tomllib.loads(path.with_suffix(".toml").read_text())
    assert card["file"] == name
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert tuple(card["channels"]) == Detector(path, n_threads=1).card.channels


def test_card_describes_the_model(model: Path, detector: Detector) -> None:
    card = tomllib.loads(model.with_suffix(".toml").read_text())
    assert card["pixel_size_um"] == detector.card.optics.pixel_size_um
    gates = {gate.channel: gate for gate in detector.card.gate}
    assert gates["z_um"].slope == pytest.approx(1, abs=0.02)
    assert gates["ln_scale"].slope == pytest.approx(1, abs=0.05)


def test_every_sphere_of_a_field_is_found_in_three_dimensions(
    detector: Detector,
) -> None:
    rng = np.random.default_rng(11)
    spheres = scattered_spheres(rng, 14, 256)
    field = render_field(spheres, (256, 256), OPTICS)
    field = (field + complex_noise(field.shape, OPTICS, rng, std=0.005)).astype("c8")
    detections = detector(field)
    refine = ParticleRefiner.from_card(SETTINGS, detector.card)
    refined = refine(Frame(0, field, pixel_size_um=0.228), detections)
    truth = np.array([[s.y_px, s.x_px, s.z_um] for s in spheres])
    assert len(detections) == len(spheres)
    apart = np.hypot(*(truth[:, None, :2] - detections.positions_px).T)
    which = np.argmin(apart, axis=0)
    assert np.sqrt(np.mean(np.min(apart, axis=0) ** 2)) < 0.15
    network = detections.rows["z_um"][which] - truth[:, 2]
    assert np.sqrt(np.mean(network**2)) < 0.15
    z_um = refined.rows["z_um"][which] - truth[:, 2]
    assert np.std(z_um) < 0.02
    assert abs(np.median(z_um)) < 0.1
    alpha = refined.rows["polarizability_um3"]
    assert np.mean(alpha) == pytest.approx(0.0180, rel=0.08)


def test_blank_field_holds_no_particle(detector: Detector) -> None:
    rng = np.random.default_rng(12)
    for std in (0.0, 0.002, 0.005, 0.01):
        field = 1 + complex_noise((256, 256), OPTICS, rng, std=max(std, 1e-9))
        assert len(detector(field.astype("c8"))) == 0


def test_holograms_become_tracks_with_z_and_polarizability(detector: Detector) -> None:
    rng = np.random.default_rng(13)
    spheres = scattered_spheres(rng, 4, 128, apart_px=35)
    movie = brownian_movie(
        spheres, (128, 128), OPTICS, rng, n_frames=12, drift=0.5, noise=0.0,
        diffusion_um2_per_s=0.3,
    )  # fmt: skip
    camera = OffAxisCamera()
    settings = SETTINGS.model_copy(update={"background_rate": 0.0})
    prepare = HologramPreparer(settings)
    blank = camera.expose(movie.background(0), rng)
    prepare(Frame(0, blank, pixel_size_um=0.057))
    assert prepare.retrieval is not None
    prepare.retrieval.learn_background([blank])
    refine = ParticleRefiner.from_card(settings, detector.card)
    linker = Linker(search_radius_px=8.0, method="nearest")
    pipeline = Pipeline(
        lambda frame: refine(frame, detector(frame.pixels)),
        lambda found, frame: linker(found, frame.index),
        prepare=prepare,
    )
    errors = []
    for index in range(12):
        raw = camera.expose(movie.wave(index), rng)
        update = pipeline.process(Frame(index, raw, pixel_size_um=0.057))
        truth = np.array([[s.y_px, s.x_px, s.z_um] for s in movie.truth(index)])
        rows = update.tracks.rows[update.tracks.rows["missed_frames"] == 0]
        for row in rows:
            away = np.hypot(truth[:, 0] - row["y_px"], truth[:, 1] - row["x_px"])
            assert away.min() < 1
            errors.append(row["z_um"] - truth[np.argmin(away), 2])
            assert row["polarizability_um3"] == pytest.approx(0.018, rel=0.3)
    assert len(errors) >= 40
    assert np.std(errors) < 0.05
    assert abs(np.median(errors)) < 0.1
