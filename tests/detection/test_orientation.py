"""Angles against particles drawn at known ones, and the least error physics allows."""

from __future__ import annotations

import numpy as np
import pytest

from lodestar_live.detection.run.orientation import Orientation
from lodestar_live.detection.run.template import shown_around
from lodestar_live.training.particle.measure import Particle, measure_particle
from lodestar_live.training.particle.symmetry import orientation_of
from tests.simulation.shapes import BACKGROUND, photons_per_unit, sample
from tests.simulation.shapes import _fisher_matrix as fisher_matrix

FOLDS = {"point": 0, "sphere": 0, "annulus": 0, "ellipse": 2, "crescent": 1}


def clicked(shape: str, *, snr: float = 20, seed: int = 7) -> tuple[Particle, float]:
    """Return a particle as a crop shows it, and its angle."""
    crop = sample(shape, 1, snr=snr, seed=seed)
    return measure_particle(crop.images[0]), float(crop.angles_rad[0])


def apart_deg(first, second, fold: int) -> np.ndarray:
    period = 360 / fold
    return (np.asarray(first) - second + period / 2) % period - period / 2


@pytest.mark.parametrize("shape", FOLDS)
@pytest.mark.parametrize("snr", [8])
def test_the_fold_is_the_shapes_own(shape: str, snr: float) -> None:
    found = [orientation_of([clicked(shape, snr=snr, seed=s)[0]]) for s in range(3)]
    assert [facts.fold for facts in found].count(FOLDS[shape]) >= 2


def test_several_particles_have_the_fold_they_share() -> None:
    kinds = {shape: clicked(shape)[0] for shape in ("sphere", "ellipse", "crescent")}
    for shapes, fold in [
        (("ellipse", "sphere"), 2),
        (("ellipse", "crescent"), 1),
        (("sphere", "sphere"), 0),
    ]:
        assert orientation_of([kinds[shape] for shape in shapes]).fold == fold


def test_the_axis_is_the_long_one_or_towards_the_light() -> None:
    particle, angle = clicked("ellipse")
    (axis_deg,) = orientation_of([particle]).axis_deg
    assert abs(apart_deg(axis_deg, np.degrees(angle), 2)) < 1
    particle, angle = clicked("crescent")
    (axis_deg,) = orientation_of([particle]).axis_deg
    # the crescent's light lies behind the middle of its disk
    assert abs(apart_deg(axis_deg, np.degrees(angle) + 180, 1)) < 2


@pytest.mark.parametrize("shape", ["ellipse", "crescent"])
@pytest.mark.parametrize("snr", [3, 10])
def test_error_is_near_the_bound_and_known(shape: str, snr: float) -> None:
    """At most 1.15 times the Cramér-Rao bound, no gross error, calibrated sigma."""
    particle, zero_rad = clicked(shape)
    facts = orientation_of([particle])
    size = 1.3 * particle.radius_px
    look = shown_around(particle.signal, particle.centre_px, size)
    orientation = Orientation.of([look], facts)
    data = sample(shape, 400, snr=snr, seed=11)
    # The pivot, which detections name, turns with the particle.
    at = clicked_offset(shape, particle, zero_rad)
    axes, across = data.axes, data.axes[:, ::-1] * [1, -1]
    places = data.centres_px + at[0] * axes + at[1] * across
    places = places + np.random.default_rng(0).normal(0, 1.5 / snr, places.shape)
    photons = photons_per_unit(snr)
    found = [
        orientation.measure(
            image, place[None], noise=(BACKGROUND / photons) ** 0.5, gain=1 / photons
        )
        for image, place in zip(data.images, places, strict=True)
    ]
    angle_deg, sigma_deg = np.array(found)[:, :, 0].T
    turned = apart_deg(facts.axis_deg[0], np.degrees(zero_rad), facts.fold)
    error = apart_deg(angle_deg, np.degrees(data.angles_rad) + turned, facts.fold)
    assert np.abs(error).max() < 30
    middle = (31.5, 31.5)
    bound = [
        np.linalg.inv(fisher_matrix(shape, (*middle, a), snr, "poisson"))[2, 2]
        for a in data.angles_rad[:20]
    ]
    # What the noisy crop says of its own angle is the same for all particles.
    assert error.std() <= 1.15 * np.degrees(np.sqrt(np.mean(bound)))
    assert 0.85 < error.std() / np.median(sigma_deg) < 1.2
    assert ((angle_deg >= 0) & (angle_deg < 360 / facts.fold)).all()


def clicked_offset(shape: str, particle: Particle, angle: float) -> np.ndarray:
    """Return the pivot from the drawn centre, along the axis and across it."""
    centre = sample(shape, 1, snr=20, seed=7).centres_px[0]
    offset = np.array(particle.centre_px) - centre
    along = np.array([np.sin(angle), np.cos(angle)])
    across = along[::-1] * [1, -1]
    return np.array([offset @ along, offset @ across])


def test_counts_and_units_of_noise_give_the_same_angles() -> None:
    particle, _ = clicked("ellipse")
    facts = orientation_of([particle])
    look = shown_around(particle.signal, particle.centre_px, 12)
    orientation = Orientation.of([look], facts)
    image, place = particle.crop, np.array([particle.centre_px])
    one = orientation.measure(image, place, noise=0.1, gain=0.01)
    other = orientation.measure(image * 50 + 9, place, noise=5.0, gain=0.5)
    np.testing.assert_allclose(one, other, rtol=1e-3)
    empty = orientation.measure(image, np.empty((0, 2)), noise=1.0, gain=0.0)
    assert [len(values) for values in empty] == [0, 0]
