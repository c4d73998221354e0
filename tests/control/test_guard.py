"""The sign guard alone: a target at rest or moving, a stage that obeys or does not."""

from __future__ import annotations

import numpy as np
import pytest

from lodestar_live.control.guard import ORIENTATIONS, SignGuard

NOISE_UM = 0.05


def watched(turn, *, velocity_um=(0.0, 0.0), missed=(), n_frames=14, view_um=80.0):
    """Move the stage by (6, 10) µm between frames 6 and 8, seen through `turn`."""
    rng = np.random.default_rng(0)
    guard = SignGuard(NOISE_UM, view_um=view_um)
    for k in range(n_frames):
        stage = np.array([6.0, 10.0]) * np.clip((k - 6) / 2, 0, 1)
        target = np.array(velocity_um) * k + rng.normal(0, NOISE_UM, 2)
        if k not in missed:
            guard.observe(k, stage, stage + turn @ (target - stage))
    return guard


@pytest.mark.parametrize("turn", ORIENTATIONS[1:])
def test_every_wrong_orientation_shows_with_one_move(turn) -> None:
    guard = watched(turn, velocity_um=(0.3, -0.2))
    found = np.linalg.inv(turn).astype(int).tolist()
    assert f"sign/calibration? It looks turned by {found}" in guard.suspicion()


def test_a_move_that_falls_into_a_missed_frame_shows_too() -> None:
    assert watched(-np.eye(2), missed=(7,)).suspicion()
    assert not watched(np.eye(2), missed=(7,)).suspicion()


def test_a_move_along_the_diagonal_does_not_prove_the_axes() -> None:
    """Seen with y and x swapped, a target on the diagonal looks as it should."""
    guard = SignGuard(NOISE_UM)
    rng = np.random.default_rng(0)
    for k in range(14):
        stage = np.full(2, 3.0) * np.clip((k - 6) / 2, 0, 1)
        offset = np.array([[0.0, 1.0], [1.0, 0.0]]) @ (0.5 * k - stage)
        guard.observe(k, stage, stage + offset + rng.normal(0, NOISE_UM, 2))
    assert not guard.is_verified.any()


def test_an_obedient_stage_is_verified_and_not_suspected() -> None:
    guard = watched(np.eye(2), velocity_um=(0.3, -0.2))
    assert guard.is_verified.all()
    assert guard.suspicion() == ""
