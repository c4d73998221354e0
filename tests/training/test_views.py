"""Views, losses and the measured particle, against mathematics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares

from lodestar_live.training.augment.views import ViewMaker, ViewSettings, upsample
from lodestar_live.training.losses import (
    Reach,
    normalised_weights,
    pool,
    stray_weight,
    territory,
    weight_penalty,
)
from lodestar_live.training.particle.measure import cut_crop, measure_particle
from tests.simulation import shapes


def _maker(shape: str = "point", seed: int = 0, **changes: object) -> ViewMaker:
    """Nearly noise-free views of one shape, drawn off the crop's centre."""
    image = 0.1 + shapes.draw(shape, 33.3, 29.6, angle_rad=0.4)
    image = image + np.random.default_rng(0).normal(0, 1e-3, image.shape)
    options = {"side_px": 64, "max_shift_px": 6.0, "noise": (1e-3, 1e-3)} | changes
    return ViewMaker(
        [measure_particle(image)],
        ViewSettings(**options),  # type: ignore[arg-type]
        generator=torch.Generator().manual_seed(seed),
    )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_view_shows_the_particle_where_its_label_says(seed: int) -> None:
    maker = _maker("sphere", seed)
    views = maker.draw(4)
    anchor = torch.tensor([[33.3 - 31.5, 29.6 - 31.5]])
    labels = views.place(anchor).numpy()
    rows, columns = np.indices((64, 64))
    for image, label in zip(views.images[:, 0].numpy(), labels, strict=True):
        # Clipped, not cut: a pixel at the threshold must not jump in and out.
        weight = np.clip(image - 0.2 * image.max(), 0, None).astype(float)
        centroid = [(weight * a).sum() / weight.sum() for a in (rows, columns)]
        # Denoised signal, bicubic sampling: a few hundredths of a pixel.
        assert centroid == pytest.approx(list(label), abs=0.05)


def _fitted_px(image: np.ndarray, start_px: np.ndarray) -> np.ndarray:
    """Return where a sphere fits an image of even noise best."""

    def misfit(guess: np.ndarray) -> np.ndarray:
        y, x, height, level = guess
        return (height * shapes.draw("sphere", y, x) + level - image).ravel()

    fit = least_squares(misfit, [*start_px, image.max(), 0.0], x_scale=[1, 1, 10, 1])
    return np.asarray(fit.x[:2])


def test_noise_pulls_particles_to_where_a_fit_finds_them() -> None:
    options = {"noise": (60.0, 60.0), "crowded": 0.5}  # contrast / noise of 17
    plain = _maker("sphere", 5, **options).draw(16)
    pulled = _maker("sphere", 5, **options, apparent=True).draw(16)
    torch.testing.assert_close(pulled.images, plain.images)  # only the places differ
    anchor = torch.tensor([[33.3 - 31.5, 29.6 - 31.5]])
    true_px = plain.place(anchor)[:8].numpy()
    apparent_px = pulled.place(anchor)[:8].numpy()
    images = plain.images[:8, 0].numpy().astype(float)
    found_px = np.array(
        [_fitted_px(*pair) for pair in zip(images, true_px, strict=True)]
    )
    off_truth = np.sqrt(np.mean((found_px - true_px) ** 2))
    assert off_truth > 0.02  # the noise matters, and the pull explains most of it
    assert np.sqrt(np.mean((found_px - apparent_px) ** 2)) < 0.4 * off_truth
    neighbours = (pulled.shift_px - plain.shift_px)[16:]
    assert (neighbours.abs().amax(dim=1) > 0).all()


def test_the_pull_has_the_bounds_size_and_no_direction() -> None:
    sixty_fold = (60.0, 60.0)  # of the crop's noise, a thousandth of its contrast
    plain = _maker("sphere", 6, noise=sixty_fold).draw(400)
    pulled = _maker("sphere", 6, noise=sixty_fold, apparent=True).draw(400)
    pull = (pulled.shift_px - plain.shift_px).numpy()
    bound = shapes.cramer_rao_bound_px("sphere", 1000 / 60, kind="gaussian")
    assert np.sqrt(np.mean(pull**2)) == pytest.approx(bound, rel=0.1)
    assert np.abs(pull.mean(axis=0)).max() < 4 * bound / np.sqrt(400)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), y=st.floats(-9, 9), x=st.floats(-9, 9))
def test_taking_back_undoes_placing(seed: int, y: float, x: float) -> None:
    views = _maker(seed=seed, crowded=0.5).draw(6)
    anchor = torch.tensor([[y, x]])
    back = views.take_back(views.place(anchor))
    torch.testing.assert_close(back, anchor.expand_as(back), atol=1e-4, rtol=1e-5)


def test_crowded_views_hold_more_copies_beyond_touching_distance() -> None:
    maker = _maker("sphere", crowded=0.5, neighbours=2)
    views = maker.draw(16)
    assert views.is_lone.tolist() == [True] * 8 + [False] * 8
    first, *others = views.shift_px[8:].split(8)
    assert views.view[8:].tolist() == [*range(8, 16)] * 3
    for a, b in ((first, others[0]), (first, others[1]), (others[0], others[1])):
        assert ((a - b).norm(dim=1) >= 2 * maker.radius_px - 1e-4).all()


def test_upsampling_keeps_the_samples_of_a_band_limited_image() -> None:
    image = shapes.draw("point", 31.2, 32.7)
    np.testing.assert_allclose(upsample(image)[::4, ::4], image, atol=1e-9)
    assert upsample(image).shape == (256, 256)
    assert upsample(image)[124, 130] == pytest.approx(
        float(np.exp(-((31 - 31.2) ** 2 + (32.5 - 32.7) ** 2) / 8)), abs=1e-4
    )


def test_pooled_position_of_equal_votes_is_that_vote() -> None:
    votes = torch.full((1, 2, 5, 5), 3.25)
    weights = normalised_weights(torch.randn(1, 5, 5))
    pooled = pool(votes, weights)
    torch.testing.assert_close(pooled.positions, torch.full((1, 2), 3.25))
    torch.testing.assert_close(pooled.spread_px, torch.zeros(1))


def test_weights_sum_to_one_even_when_the_network_sees_nothing() -> None:
    weights = normalised_weights(torch.full((2, 4, 4), -200.0))
    torch.testing.assert_close(weights.sum((1, 2)), torch.ones(2))


def test_each_cell_belongs_to_its_nearest_copy() -> None:
    views = _maker(crowded=1.0).draw(1)
    axis = torch.arange(0.0, 64.0, 4)
    cells = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1)
    placed = torch.tensor([[10.0, 10.0], [50.0, 50.0]])
    shared = territory(placed, views, cells, Reach(near_px=9.0, far_px=20.0, here_px=3))
    assert shared.own[0, 2, 2] == 1
    assert shared.own[1, 2, 2] == 0
    assert (shared.own.sum(0) >= 1).all()
    distance = (cells - placed[:, None, None]).norm(dim=-1)
    torch.testing.assert_close(shared.near.sum((1, 2)), torch.ones(2))
    assert ((shared.near > 0) == (distance < 9)).all()
    torch.testing.assert_close(shared.far.sum(), torch.tensor(1.0))
    assert ((shared.far[0] > 0) == (distance.amin(0) > 20)).all()
    torch.testing.assert_close(shared.here.sum(), torch.tensor(1.0))


def test_little_weight_far_away_costs_the_root_of_its_share() -> None:
    views = _maker(crowded=0.0).draw(1)
    axis = torch.arange(0.0, 64.0, 4)
    cells = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1)
    placed = torch.tensor([[30.0, 30.0]])
    shared = territory(placed, views, cells, Reach(near_px=9.0, far_px=20.0, here_px=3))
    rho = torch.full((1, 16, 16), -40.0)
    rho[0, 7:9, 7:9] = 40.0  # four cells on the particle, of weight 1
    assert stray_weight(rho, shared) < 1e-5
    rho[0, 0, 0] = float(np.log(4e-4))  # a corner, of weight 4e-4
    torch.testing.assert_close(
        stray_weight(rho, shared), torch.tensor(0.01), rtol=1e-3, atol=0
    )
    # The mean of -ln(1 - w) over the far cells hardly sees it.
    assert weight_penalty(rho, rho, shared) < 1e-5


def test_batches_drawn_together_are_like_batches_drawn_alone() -> None:
    views = _maker("sphere", crowded=0.5, neighbours=2).draw(8, batches=3)
    alone = _maker("sphere", crowded=0.5, neighbours=2).draw(8)
    parts = views.split(3)
    assert len(parts) == 3
    for part in parts:
        assert part.view.tolist() == alone.view.tolist()
        assert part.is_lone.tolist() == alone.is_lone.tolist()
        assert part.images.shape == alone.images.shape
    # Every lone copy lies in its own batch's view: that is brightest on it.
    for part in parts:
        for copy in range(4):
            y, x = part.shift_px[copy].round().long().tolist()
            image = part.images[part.view[copy], 0]
            assert image[y - 1 : y + 2, x - 1 : x + 2].mean() > 0.3 * image.max()


def test_stuck_pixels_are_shown_in_crowded_views_only() -> None:
    views = _maker("sphere", crowded=0.5, neighbours=2).draw(8)
    images = views.images[:, 0]
    middle = images[:, 1:-1, 1:-1]
    around = [
        images[:, 1 + dy : 63 + dy, 1 + dx : 63 + dx]
        for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1))
    ]
    # A sphere is smooth: no pixel of it stands out from all four of its neighbours.
    peak = images[views.is_lone].amax()
    alone = (middle - torch.stack(around).amax(0) > 0.5 * peak).sum((1, 2))
    assert (alone[views.is_lone] == 0).all()
    assert alone[~views.is_lone].sum() >= 3  # one may lie on the view's rim


@pytest.mark.parametrize("shape", ["point", "sphere", "annulus"])
def test_particle_is_measured_as_it_was_made(shape: str) -> None:
    truth = shapes.sample(shape, 1, snr=10, seed=12)
    particle = measure_particle(truth.images[0])
    assert particle.centre_px == pytest.approx(list(truth.centres_px[0]), abs=0.5)
    # Poisson: variance (0.1 + s) / k with k = 100 / 1.21.
    assert particle.background == pytest.approx(0.1, abs=0.02)
    assert particle.noise == pytest.approx(0.0348, rel=0.1)
    assert particle.gain == pytest.approx(0.0121, rel=0.4)
    # Nine pixels around a point of sigma 2 average 0.89; denoising takes a tenth.
    assert particle.contrast == pytest.approx(0.95, abs=0.17)


@pytest.mark.parametrize("shape", ["sphere", "annulus", "ellipse", "crescent"])
def test_noise_of_a_crop_is_measured_without_bias(shape: str) -> None:
    crops = [shapes.sample(shape, 1, snr=10, seed=s).images[0] for s in range(24)]
    particles = [measure_particle(crop) for crop in crops]
    # As above; 24 crops give the means to 1 and to 2 %.
    assert np.mean([p.noise for p in particles]) == pytest.approx(0.0348, rel=0.03)
    assert np.mean([p.gain for p in particles]) == pytest.approx(0.0121, rel=0.07)


def test_a_particle_whose_bright_and_dark_parts_cancel_is_measured() -> None:
    rows, columns = np.indices((32, 32)) - 15.5
    bright = np.exp(-((columns - 3) ** 2 + rows**2) / 18)
    dark = np.exp(-((columns + 3) ** 2 + rows**2) / 18)
    signal = (bright - dark).ravel()
    # In some of the images the mean vanishes so well that it is below the noise.
    for seed in range(40):
        noise = np.random.default_rng(seed).normal(0, 0.03, bright.shape)
        particle = measure_particle(bright - dark + noise)
        # Half a per cent of the energy is the noise that the filter lets through.
        assert np.corrcoef(particle.signal.ravel(), signal)[0, 1] > 0.99


@pytest.mark.parametrize(("gain", "offset"), [(0.1, 3.0), (100.0, -500.0)])
def test_gain_and_offset_of_the_crop_do_not_change_the_views(
    gain: float, offset: float
) -> None:
    image = shapes.sample("ellipse", 1, snr=10, seed=5).images[0]
    drawn = [
        ViewMaker(
            [measure_particle(crop)],
            ViewSettings(side_px=64, max_shift_px=8.0, noise=(0.3, 5.0), crowded=0.25),
            generator=torch.Generator().manual_seed(7),
        ).draw(4)
        for crop in (image, gain * image + offset)
    ]
    torch.testing.assert_close(drawn[0].images, drawn[1].images, atol=1e-3, rtol=1e-3)


def test_crop_at_the_edge_is_moved_inwards() -> None:
    image = np.arange(400.0).reshape(20, 20)
    np.testing.assert_array_equal(cut_crop(image, (0, 19), 8), image[:8, 12:])
