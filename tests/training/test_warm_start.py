"""Generic starting weights: what they were made of, and what they spare."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from lodestar_live.detection import Detector
from lodestar_live.errors import InputError
from lodestar_live.training import train
from lodestar_live.training.network import warm_start
from lodestar_live.training.network.network import dilations_for
from lodestar_live.training.plan import CELL_PX
from models.make_warm_start.blobs import MOST_ALIKE, draw_blobs, mirror_likeness
from models.make_warm_start.pretrain import RECIPE, pretrain
from tests.simulation import shapes


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_the_benchmark_shapes_are_not_among_the_blobs(shape: str) -> None:
    picture = shapes.draw(shape, 31.3, 32.1, angle_rad=0.4)
    assert mirror_likeness(picture) > 0.9998 > MOST_ALIKE


def test_blobs_have_no_mirror_axis_and_the_size_asked_for() -> None:
    blobs = draw_blobs(12, radius_px=(5.6, 7.5), seed=3)
    assert all(5.6 <= blob.radius_px <= 7.5 for blob in blobs)
    # Measured from noisy crops, so a little less alike than as drawn.
    assert max(mirror_likeness(blob.signal) for blob in blobs) < MOST_ALIKE
    again = draw_blobs(12, radius_px=(5.6, 7.5), seed=3)
    assert all((a.signal == b.signal).all() for a, b in zip(blobs, again, strict=True))


def test_no_range_of_sizes_mixes_spacings_of_the_taps() -> None:
    for low, high in pairwise(warm_start.RADII_PX):
        radii = np.linspace(low + 0.01, high - 0.01, 20)
        assert len({dilations_for(radius, CELL_PX) for radius in radii}) == 1


def test_a_warm_start_needs_fewer_steps() -> None:
    image = shapes.sample("ellipse", 1, snr=10, seed=50).images[0]
    truth = shapes.sample("ellipse", 100, snr=10, seed=51)
    error = {}
    for start in ("warm", "scratch"):
        model = train(image, seed=1, start=start, steps=60)
        assert model.card.training.start == start
        found = Detector(model.to_bytes()).locate(truth.images)
        error[start] = shapes.rmse_px(
            shapes.position_errors_px("ellipse", found, truth)
        )
    assert error["warm"] < 0.75 * error["scratch"]
    assert error["warm"] < 2 * shapes.cramer_rao_bound_px("ellipse", 10)


def test_weights_that_do_not_help_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = np.zeros_like(warm_start._load())
    monkeypatch.setattr(warm_start, "_load", lambda: dead)
    image = shapes.sample("sphere", 1, snr=10, seed=50).images[0]
    card = train(image, seed=1, start="warm", steps=200).card
    assert card.training.start == "scratch"
    assert card.training.attempts > 1
    assert not card.report.problem


def test_other_networks_have_no_warm_start() -> None:
    image = shapes.sample("sphere", 1, snr=10, seed=50).images[0]
    with pytest.raises(InputError, match="only 'live' has generic weights"):
        train(image, network="paper", start="warm")


@pytest.mark.parametrize("radius_px", [1.0, 8.0, 60.0])
def test_every_size_has_a_start(radius_px: float) -> None:
    weights = warm_start._load()
    assert np.isfinite(weights).all()
    assert (weights != 0).mean(axis=1) == pytest.approx(1, abs=0.2)
    assert warm_start.range_of(radius_px) == {1.0: 0, 8.0: 3, 60.0: 7}[radius_px]


def test_the_weights_can_be_made_again() -> None:
    brief = replace(RECIPE, steps=3)
    made = [pretrain((3.8, 5.6), recipe=brief, n_blobs=4, seed=2) for _ in range(2)]
    assert made[0].shape == warm_start._load()[0].shape
    np.testing.assert_array_equal(made[0], made[1])
