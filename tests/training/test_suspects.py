"""What is like the chosen particle, how it varies, and the threshold that follows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lodestar_live.data import DETECTION_DTYPE, blank_rows
from lodestar_live.training.augment.canvas import Canvas
from lodestar_live.training.calibrate.noise import NoiseTexture
from lodestar_live.training.calibrate.snapshot import (
    Judged,
    fewest_errors,
    learn_threshold,
)
from lodestar_live.training.particle.choose import (
    choose_particle,
    estimate_size,
    refine_click,
)
from lodestar_live.training.particle.measure import cut_crop, measure_particle
from lodestar_live.training.particle.suspects import (
    BACKGROUND,
    CERTAIN,
    Suspects,
    find_suspects,
    search_area,
)

SIDE, PITCH = 400, 50


def _places(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    cells = np.argwhere(np.ones((7, 7)))
    return PITCH * (cells + 1.0) + rng.uniform(-5, 5, cells.shape)


def _nucleus(place, radius, aspect, angle):
    y, x = np.indices((SIDE, SIDE)) - np.reshape(place, (2, 1, 1))
    u, v = y * np.cos(angle) + x * np.sin(angle), x * np.cos(angle) - y * np.sin(angle)
    q = np.hypot(u / (radius * np.sqrt(aspect)), v / (radius / np.sqrt(aspect)))
    return 1 / (1 + np.exp((q - 1) * radius / 1.5))


def _field(*, spread: float, seed: int = 0, noise: float = 0.05):
    """Return a field of nuclei, and their places; the first is a middle one."""
    rng = np.random.default_rng(seed)
    places, image = _places(seed), np.zeros((SIDE, SIDE))
    for index, place in enumerate(places):
        size, aspect = (np.exp(rng.uniform(-spread, spread)) for _ in range(2))
        if index == 0:
            size = aspect = 1.0
        image += _nucleus(place, 9 * size, aspect, rng.uniform(0, np.pi))
    return image + rng.normal(0, noise, image.shape), places


def _found(image, place, size=40):
    particle = measure_particle(cut_crop(image, tuple(place), size))
    return particle, find_suspects(image, [particle])


def test_every_particle_of_a_field_is_certain_and_nothing_else() -> None:
    image, places = _field(spread=0.0)
    _, found = _found(image, places[0])
    certain = found.positions_px[found.is_particle]
    apart = np.hypot(*(places[:, None] - certain[None]).transpose(2, 0, 1))
    assert (apart.min(axis=1) < 3).all()
    assert (apart.min(axis=0) < 3).all()


def test_alike_particles_do_not_vary_and_varied_ones_do() -> None:
    image, places = _field(spread=0.0)
    assert _found(image, places[0])[1].stretch is None
    image, places = _field(spread=0.35)
    stretch = _found(image, places[0])[1].stretch
    assert stretch is not None
    # sizes along an axis: exp(+-(0.35 + 0.175)) at most, half of that usually
    assert 0.5 < stretch[0] < 0.85
    assert 1.15 < stretch[1] < 2.0


def test_a_wall_is_background_where_particles_are_many() -> None:
    image, places = _field(spread=0.0)
    columns = np.arange(SIDE)
    for left in (25, 375):
        image[:, np.abs(columns - left) < 3] += 0.5
    _, found = _found(image, places[24])
    on_wall = np.abs(found.positions_px[:, 1] - 200) > 160
    assert on_wall.any()
    assert not found.is_particle[on_wall].any()
    assert (found.kind[on_wall] == BACKGROUND).mean() > 0.5
    assert found.is_particle.sum() == len(places)


def test_a_large_snapshot_is_searched_around_the_crop_only() -> None:
    area = search_area(np.zeros((3000, 2000), np.uint8), np.array([2900.0, 10.0]))
    assert area.size <= 1_300_000
    assert area.shape[0] == area.shape[1]


def test_patches_say_how_far_the_next_particle_is() -> None:
    image, places = _field(spread=0.0)
    canvas = Canvas.of(image, places, 9.0, 48)
    assert canvas is not None
    generator = torch.Generator().manual_seed(0)
    images, away = canvas.cut(torch.full((50, 2), 24.0), 48, generator)
    assert images.shape == away.shape == (50, 48, 48)
    assert float(images[away < 4].median()) > 5  # in units of noise, 0.05
    assert abs(float(images[away > 18].median())) < 0.5
    # Copies lie on free places mostly: away from every particle.
    assert float((away[:, 24, 24] > 1.5 * 9).float().mean()) > 0.6


def test_a_small_snapshot_is_no_canvas() -> None:
    image = np.random.default_rng(0).normal(size=(60, 60))
    assert Canvas.of(image, _places(), 9.0, 48) is None


def test_the_threshold_errs_least_between_particles_and_the_rest() -> None:
    judged = Judged(np.array([1.0, 1.2, -0.2, 0.9, 1.1]), np.array([-3.0, -2.0, -0.5]))
    assert fewest_errors(judged, -10.0) == pytest.approx(-0.35)
    assert fewest_errors(judged, -0.3) >= -0.3  # never where noise passes


def test_company_lowers_the_threshold_within_the_snapshots_own_gap_only() -> None:
    judged = Judged(np.array([1.0, 1.2, 0.9, 1.1]), np.array([-3.0, -2.0, -1.1]))
    assert fewest_errors(judged, -10.0) == pytest.approx(-0.1)
    assert fewest_errors(judged, -10.0, wanted=-0.6) == pytest.approx(-0.6)
    assert fewest_errors(judged, -10.0, wanted=0.5) == pytest.approx(-0.1)
    assert fewest_errors(judged, -10.0, wanted=-9.0) == pytest.approx(-1.1 + 0.15 * 2)


def _suspects(n: int) -> tuple[Suspects, np.ndarray]:
    places = 40.0 * np.arange(1, n + 1)[:, None] * [0, 1] + [50, 0]
    ones = np.ones(n)
    found = Suspects(places, ones, ones, np.full(n, CERTAIN))
    rows = blank_rows(DETECTION_DTYPE, 2 * n)
    rows["y_px"], rows["x_px"] = np.tile(places, (2, 1)).T
    rows["y_px"][n:] += 60  # as many maxima beside them
    rows["score"] = np.where(np.arange(2 * n) < n, -1.0, -4.0)
    rows["intensity"] = 10.0
    return found, rows


def test_few_suspects_do_not_set_a_threshold() -> None:
    found, rows = _suspects(3)
    assert learn_threshold(rows, found, 9.0, -9.0, (900, 900)) is None
    found, rows = _suspects(20)
    assert learn_threshold(rows, found, 9.0, -9.0, (900, 900)) == pytest.approx(-2.5)


def test_what_a_run_drops_as_too_faint_does_not_raise_the_threshold() -> None:
    found, rows = _suspects(20)
    rows["score"][20:22], rows["intensity"][20:22] = -1.2, 2.0
    assert learn_threshold(rows, found, 9.0, -9.0, (900, 900)) == pytest.approx(-1.1)
    learnt = learn_threshold(rows, found, 9.0, -9.0, (900, 900), floor=3.0)
    assert learnt == pytest.approx(-2.5)


def test_noise_keeps_its_autocovariance() -> None:
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(3)
    image = 5 * gaussian_filter(rng.normal(size=(SIDE, SIDE)), 1.0, mode="wrap")
    particle = measure_particle(20 * _nucleus((200, 200), 9, 1, 0)[180:221, 180:221])
    none = Suspects(np.empty((0, 2)), *(np.empty(0),) * 2, np.empty(0, np.int64))
    texture = NoiseTexture.of(image, none, particle)
    assert texture is not None
    drawn = texture.draw(256, rng)
    # A patch of 24 px has 24^2 / (4 pi) = 46 independent values, and its mean and two
    # slopes are taken out: 7 % of the variance.
    for lag in (1, 2, 4):
        wanted, got = (float((p[:, lag:] * p[:, :-lag]).mean()) for p in (image, drawn))
        assert got == pytest.approx(wanted, abs=0.1 * image.var())
    white = rng.normal(size=(SIDE, SIDE))
    assert NoiseTexture.of(white, none, particle) is None


def test_a_click_on_a_rough_cell_finds_the_whole_and_in_a_crowd_the_one() -> None:
    rng = np.random.default_rng(1)
    y, x = np.indices((300, 300))
    cell = 0.4 / (1 + np.exp((np.hypot(y - 150, x - 140) - 50) / 1.5))
    for angle in rng.uniform(0, 2 * np.pi, 5):
        at = 150 + 30 * np.sin(angle), 140 + 30 * np.cos(angle)
        width = rng.uniform(3, 7)
        cell -= np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / (2 * width**2))
    image = cell + rng.normal(0, 0.02, cell.shape)
    assert estimate_size(image, (150.0, 140.0)) >= 110
    found = refine_click(image, (170.0, 150.0))  # weighted by contrast: the holes pull
    assert np.hypot(found[0] - 150, found[1] - 140) < 50 / 3
    crowd = np.zeros((300, 300))
    for row in range(-3, 4):
        for column in range(-3, 4):
            at = 150 + 12 * row, 150 + 12 * column + 6 * (row % 2)
            if np.hypot(at[0] - 150, at[1] - 150) < 38:
                crowd += np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / (2 * 3.0**2))
    assert estimate_size(crowd + rng.normal(0, 0.02, crowd.shape), (150, 150)) <= 28


def test_what_the_user_said_is_none_is_none() -> None:
    rng = np.random.default_rng(0)
    places, image = _places(), rng.normal(0, 0.05, (SIDE, SIDE))
    for index, place in enumerate(places):  # every second one is a little longer
        aspect = 1.15 if index % 2 else 1.0
        image += _nucleus(place, 9, aspect, rng.uniform(0, np.pi))
    wanted, unwanted = (
        measure_particle(cut_crop(image, tuple(place), 40)) for place in places[:2]
    )

    def may_be(**more: object) -> np.ndarray:
        found = find_suspects(image, [wanted], **more)
        where = found.positions_px[found.may_be]
        apart = np.hypot(*(places[:, None] - where[None]).transpose(2, 0, 1))
        return apart.min(axis=1) < 4

    assert may_be().all()
    judged = may_be(lures=(unwanted,))
    assert judged[::2].all()
    assert not judged[1::2].any()


def _spot(place, width: float, side: int = 520) -> np.ndarray:
    y, x = np.indices((side, side)) - np.reshape(place, (2, 1, 1))
    return np.exp(-(y**2 + x**2) / (2 * width**2))


def _rough_cell(rng: np.random.Generator) -> np.ndarray:
    """Return a cell of 64 px with grains that stand out more than itself."""
    y, x = np.indices((520, 520))
    cell = 0.3 / (1 + np.exp((np.hypot(y - 250, x - 240) - 32) / 1.5))
    for k in range(9):  # grains of many sizes, bright and dark
        angle, radius = 2.4 * k, 26 * np.sqrt(k / 8)
        at = 250 + radius * np.sin(angle), 240 + radius * np.cos(angle)
        height = rng.uniform(0.7, 1.5) * (1, -1)[k % 2]
        cell += height * _spot(at, (1.3, 1.3, 2, 2, 3, 3, 4, 4, 2)[k])
    return cell + rng.normal(0, 0.02, cell.shape)


def _around(n: int) -> np.ndarray:
    """Return places well off the cell."""
    angle = 2 * np.pi * np.arange(n) / n
    return 255 + 190 * np.stack([np.sin(angle), np.cos(angle)], axis=1)


def test_the_choice_is_the_whole_cell_and_not_dust_or_its_parts() -> None:
    rng = np.random.default_rng(2)
    image = _rough_cell(rng)
    for place in _around(12):  # dust: of any size and brightness, dark or bright
        height = rng.uniform(0.2, 0.9) * rng.choice([-1, 1])
        image += height * _spot(place, rng.uniform(1.5, 4))
    chosen = choose_particle(image)
    assert np.hypot(chosen.at_px[0] - 250, chosen.at_px[1] - 240) < 32 / 3
    assert chosen.size_px >= 70


def test_the_choice_is_one_of_many_alike_and_not_a_lump_among_them() -> None:
    image = _rough_cell(np.random.default_rng(2))
    beads = _around(16)
    for place in beads:
        image += _spot(place, 2.5)
    chosen = choose_particle(image)
    assert np.hypot(*(beads - chosen.at_px).T).min() < 1
    assert chosen.size_px <= 40
