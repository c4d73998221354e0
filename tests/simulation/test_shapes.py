"""The benchmark's images and its bound, against independent figures."""

from __future__ import annotations

import numpy as np
import pytest

from tests.simulation import shapes

# Two independent implementations of the same description gave these, in px at SNR 1.
BOUND_AT_SNR_1_PX = {
    "point": 0.576,
    "sphere": 0.438,
    "annulus": 0.233,
    "ellipse": 0.390,
    "crescent": 0.409,
}


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_bound_agrees_with_published_constants(shape: str) -> None:
    bound = shapes.cramer_rao_bound_px(shape, 10.0, n_poses=20)
    # The constants are given to three digits; poses scatter by well under 1 %.
    assert 10 * bound == pytest.approx(BOUND_AT_SNR_1_PX[shape], rel=0.01)


@pytest.mark.parametrize("shape", ["point", "sphere", "annulus", "ellipse"])
def test_symmetric_shapes_are_centred_where_they_were_put(shape: str) -> None:
    image = shapes.draw(shape, 30.3, 33.8, angle_rad=0.7)
    rows, columns = np.indices(image.shape)
    centroid = [(image * axis).sum() / image.sum() for axis in (rows, columns)]
    assert centroid == pytest.approx([30.3, 33.8], abs=1e-3)
    assert image.max() == pytest.approx(1, abs=0.02)


def test_turning_a_shape_turns_its_image() -> None:
    image = shapes.draw("crescent", 31.5, 31.5, angle_rad=0.0)
    turned = shapes.draw("crescent", 31.5, 31.5, angle_rad=np.pi / 2)
    # The body axis points along +x first, along +y (down) after a quarter turn.
    np.testing.assert_allclose(turned, np.rot90(image, -1), atol=1e-6)


@pytest.mark.parametrize("kind", ["poisson", "gaussian"])
def test_noise_has_the_stated_strength(kind: str) -> None:
    rng = np.random.default_rng(0)
    image = shapes.add_noise(np.ones((300, 300)), 5.0, rng, kind=kind)
    expected = {"gaussian": 1 / 5, "poisson": 1.154 / 5}[kind]  # at the peak
    assert image.std() == pytest.approx(expected, rel=0.02)


def test_crescent_errors_ignore_a_constant_offset_along_its_axis() -> None:
    truth = shapes.sample("crescent", 50, snr=10, seed=1)
    estimates = truth.centres_px + 0.8 * truth.axes
    errors = shapes.position_errors_px("crescent", estimates, truth)
    assert shapes.rmse_px(errors) == pytest.approx(0, abs=1e-9)
