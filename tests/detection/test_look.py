"""The look of a particle: found in any orientation, unlike other shapes, gain-proof."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lodestar_live.detection import Detector
from lodestar_live.detection.model.graph import build_model
from lodestar_live.detection.model.nodes import LOOKS_KEY
from lodestar_live.detection.model.seal import sealed
from lodestar_live.detection.run.template import Look, shown_around
from lodestar_live.errors import ModelError
from tests.detection import networks
from tests.simulation import shapes

CENTRE_PX = (31.25, 30.5)
RADII_PX = {"point": 4.0, "sphere": 11.0, "annulus": 16.0, "ellipse": 13.0}
RADII_PX["crescent"] = 13.0


def look_of(shape: str) -> Look:
    picture = shapes.draw(shape, *CENTRE_PX, angle_rad=0.3)
    return Look.of([shown_around(picture, CENTRE_PX, RADII_PX[shape])])


def matches(look: Look, sample: shapes.Sample) -> np.ndarray:
    pairs = zip(sample.images, sample.centres_px, strict=True)
    return np.array([look.match(image, centre[None])[0] for image, centre in pairs])


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_a_particle_is_recognised_in_every_pose(shape: str) -> None:
    look = look_of(shape)
    rng = np.random.default_rng(0)
    for angle in rng.uniform(0, 2 * np.pi, 20):
        centre = 31.5 + rng.uniform(-5, 5, 2)
        picture = shapes.draw(shape, *centre, angle_rad=angle)[:, ::-1]  # mirrored
        place = np.array([[centre[0], 63 - centre[1]]])
        # Turns come in steps of 7.5 degrees, pixels are interpolated linearly.
        assert look.match(picture, place)[0] > 0.99


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_other_shapes_are_less_alike_than_noisy_particles(shape: str) -> None:
    look = look_of(shape)
    own = matches(look, shapes.sample(shape, 60, snr=5, seed=1))
    for other in set(shapes.SHAPES) - {shape}:
        strange = matches(look, shapes.sample(other, 60, snr=5, seed=2))
        assert np.quantile(strange, 0.98) < np.quantile(own, 0.02), other


def test_gain_and_offset_do_not_matter() -> None:
    sample = shapes.sample("ellipse", 1, snr=10, seed=3)
    look, place = look_of("ellipse"), sample.centres_px
    image = sample.images[0]
    expected = look.match(image, place)
    for changed in (100 * image, image + 1e4, np.round(4e4 * image).astype(np.uint16)):
        np.testing.assert_allclose(look.match(changed, place), expected, atol=1e-4)


def test_nothing_looks_like_nothing() -> None:
    look = look_of("sphere")
    assert look.match(np.full((40, 40), 7, np.uint8), np.array([[20.0, 20.0]])) == 0
    assert look.match(np.zeros((40, 40)), np.empty((0, 2))).shape == (0,)


def test_places_at_the_frame_s_edge_see_its_edge_repeated() -> None:
    image = shapes.sample("sphere", 1, snr=10, seed=4).images[0]
    corners = np.array([[0.0, 0.0], [63.0, 63.0], [-0.5, 63.5]])
    match = look_of("sphere").match(image, corners)
    assert (np.abs(match) <= 1).all()


def test_several_particles_are_one_look_that_any_of_them_meets() -> None:
    shown = [
        shown_around(shapes.draw(s, *CENTRE_PX, angle_rad=0), CENTRE_PX, RADII_PX[s])
        for s in ("sphere", "ellipse")
    ]
    both = Look.of(shown)
    for shape in ("sphere", "ellipse"):
        assert (matches(both, shapes.sample(shape, 5, snr=20, seed=5)) > 0.97).all()


@pytest.mark.parametrize(
    "looks", [[[[1, 2], [3, 4]]], [[[1, 2, 3]]], [[["a"] * 3] * 3], [[]], 7], ids=str
)
def test_damaged_looks_are_refused(looks: object) -> None:
    model = build_model(networks.thin())
    entry = model.metadata_props.add()
    entry.key, entry.value = LOOKS_KEY, json.dumps(looks)
    with pytest.raises(ModelError, match="squares of finite numbers"):
        Detector(sealed(model))


def test_files_without_looks_are_judged_by_their_votes() -> None:
    frame = networks.spots(np.array([[20.0, 30.0], [60.25, 44.5]]), (96, 96))
    votes = networks.first_version(
        networks.spot_finder(), threshold=-1.5, consistency_px=0.0
    )
    detector = Detector(votes, n_threads=1)
    assert len(detector(frame)) == 2
    detector.only_like_training = True
    assert len(detector(frame)) == 0
