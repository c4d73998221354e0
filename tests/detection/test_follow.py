"""Following tiles finds what full passes find; newcomers come with the full pass."""

from __future__ import annotations

import numpy as np
import pytest

from lodestar_live.detection import Detector, Follower
from lodestar_live.detection.frame import prepare as intake
from tests.detection import networks

SHAPE = (384, 512)


@pytest.fixture(scope="module")
def detector() -> Detector:
    model = networks.model(networks.spot_finder(), threshold=-1.5)
    return Detector(model, n_threads=1)


def movie(n_frames: int, n_spots: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    start = rng.uniform(60, 320, (n_spots, 2))
    step = rng.normal(0, 1.5, (n_frames, n_spots, 2))
    return [
        rng.poisson(networks.spots(start + s, SHAPE)).astype(np.uint16)
        for s in np.cumsum(step, axis=0)
    ]


def by_row(positions_px: np.ndarray) -> np.ndarray:
    return positions_px[np.argsort(positions_px[:, 0])]


def share_near(detector: Detector, frame: np.ndarray, positions: np.ndarray) -> float:
    tiles = detector.tiles_near(frame.shape, positions, reach_px=8.0)
    return detector.share_of(tiles, frame.shape)


def test_following_gives_the_positions_of_full_passes(detector) -> None:
    follower = Follower(detector, full_every=4)
    seen: np.ndarray = np.empty((0, 2))
    passes = []
    for frame in movie(9):
        followed = by_row(follower(frame, seen).positions_px)
        passes.append(follower.was_full)
        # Levels are the last full pass's, measured to 1 %.
        np.testing.assert_allclose(
            followed, by_row(detector(frame).positions_px), atol=0.02
        )
        seen = followed
    assert passes == [True, False, False, False] * 2 + [True]


@pytest.mark.parametrize("dtype", [np.int32, np.float64, np.uint8])
def test_following_finds_the_same_in_every_pixel_type(detector, dtype) -> None:
    first, second = (frame.astype(dtype) for frame in movie(2))
    follower = Follower(detector)
    seen = follower(first, []).positions_px
    followed = follower(second, seen)
    assert not follower.was_full
    whole = detector(second)
    for column in ("y_px", "intensity"):
        np.testing.assert_allclose(
            np.sort(followed.rows[column]), np.sort(whole.rows[column]), rtol=0.01
        )


def test_newcomers_are_found_at_the_next_full_pass(detector) -> None:
    follower = Follower(detector, full_every=3)
    old, new = np.array([[60.0, 70.0]]), np.array([[300.0, 400.0]])
    before = np.random.default_rng(0).poisson(networks.spots(old, SHAPE))
    after = np.random.default_rng(0).poisson(networks.spots(np.r_[old, new], SHAPE))
    assert len(follower(before, [])) == 1
    assert [len(follower(after, old)) for _ in range(3)] == [1, 1, 2]


def test_fast_particles_are_followed_as_far_as_they_may_go(detector) -> None:
    follower = Follower(detector)
    before, after = np.array([[60.0, 70.0]]), np.array([[60.0, 95.0]])
    first, second = (
        np.random.default_rng(0).poisson(networks.spots(place, SHAPE))
        for place in (before, after)
    )
    for reach_px, n_found in ((6.0, 0), ([24.0], 1), (np.inf, 1), (np.nan, 1)):
        seen = follower(first, []).positions_px
        assert len(follower(second, seen, reach_px)) == n_found
        assert follower.was_full == (not np.isfinite(reach_px).all())


def test_many_tiles_are_dearer_than_one_full_pass(detector) -> None:
    follower = Follower(detector)
    frame = movie(1)[0]
    follower(frame, [])
    many = np.random.default_rng(0).uniform(0, 380, (130, 2))
    assert share_near(detector, frame, many) > 1
    follower(frame, many)
    assert follower.was_full
    few = many[:30]
    assert share_near(detector, frame, few) < 1
    follower(frame, few)
    assert not follower.was_full
    follower(frame, [[100.0, 100.0], [np.nan, 1.0]])
    assert not follower.was_full


def test_a_new_frame_size_starts_with_a_full_pass(detector) -> None:
    follower = Follower(detector)
    follower(movie(1)[0], [])
    follower(movie(1)[0][:200], [[100.0, 100.0]])
    assert follower.was_full


def test_lost_and_outlying_predictions_do_no_harm(detector) -> None:
    follower = Follower(detector)
    frame = movie(1)[0]
    follower(frame, [])
    assert len(follower(frame, [[-50.0, 9000.0]])) == 0


def test_a_full_pass_measures_the_levels_once(detector, monkeypatch) -> None:
    follower = Follower(detector)
    measured = []
    monkeypatch.setattr(intake, "estimate", lambda p: measured.append(p) or (20.0, 4.5))
    follower(movie(1)[0], [])
    assert follower.was_full and len(measured) == 1
