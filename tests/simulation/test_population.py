"""Frames of particles of varying form, against their moments."""

from __future__ import annotations

import numpy as np
import pytest

from tests.simulation.population import FORMS, Population, simulate_population


@pytest.mark.parametrize("family", FORMS)
def test_particles_lie_where_the_truth_says_and_have_its_form(family) -> None:
    field = simulate_population(
        Population(family, n_particles=12, size_px=(300, 320), snr=1e4), seed=2
    )
    rows, columns = np.indices((41, 41)) - 20
    low, high = FORMS[family]
    assert field.forms.max() - field.forms.min() > 0.5 * (high - low)
    for place, form, peak in zip(
        field.positions_px, field.forms, field.peaks, strict=True
    ):
        y, x = place.round().astype(int)
        patch = field.pixels[max(y - 20, 0) : y + 21, max(x - 20, 0) : x + 21] - 0.1
        if patch.shape != (41, 41):
            continue
        assert patch.max() == pytest.approx(peak, rel=0.03)  # of sampled peaks
        moments = [(patch * axis).sum() / patch.sum() for axis in (rows, columns)]
        # Poisson noise of 1e-4 over 41 x 41 px: some thousandths of a pixel
        np.testing.assert_allclose(moments, place - (y, x), atol=0.02)
        spread = np.cov(
            np.stack([rows.ravel(), columns.ravel()]), aweights=patch.ravel().clip(0)
        )
        short, long = np.linalg.eigvalsh(spread) - 2.0**2  # of the blur
        if family == "ellipse":  # second moments: a quarter of the squared half axes
            assert np.sqrt(long / short) == pytest.approx(form, rel=0.04)
        else:  # of a ring: a quarter of the sum of the squared radii
            exact = (form**2 + (form - 4) ** 2) / 4
            assert (short + long) / 2 == pytest.approx(exact, rel=0.04)


def test_strangers_are_no_members() -> None:
    scene = Population(n_particles=10, n_strangers=5)
    one, other = (simulate_population(scene, seed=1) for _ in range(2))
    np.testing.assert_array_equal(one.pixels, other.pixels)
    assert len(one.positions_px) == len(one.forms) == len(one.peaks) == 10
    alone = simulate_population(Population(n_particles=10), seed=1)
    assert one.pixels.sum() > alone.pixels.sum() + 5 * 20  # a point of 25 each
