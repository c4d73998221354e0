"""The sign guard alone: a target at rest or moving, a stage that obeys or does not."""

from __future__ import annotations

import numpy as np
import pytest

from lodestar_live.control.guard import ORIENTATIONS, SignGuard

NOISE_UM = 0.05
PERIOD_S = 0.03


def watched(turn, *, velocity_um=(0.0, 0.0), missed=(), n_frames=14, view_um=80.0):
    """Move the stage by (6, 10) µm between frames 6 and 8, seen through `turn`."""
    rng = np.random.default_rng(0)
    guard = SignGuard(NOISE_UM, view_um=view_um)
    for k in range(n_frames):
        stage = np.array([6.0, 10.0]) * np.clip((k - 6) / 2, 0, 1)
        target = np.array(velocity_um) * k + rng.normal(0, NOISE_UM, 2)
        if k not in missed:
            guard.observe(k, PERIOD_S * k, stage, stage + turn @ (target - stage))
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
        guard.observe(
            k, PERIOD_S * k, stage, stage + offset + rng.normal(0, NOISE_UM, 2)
        )
    assert not guard.is_verified.any()


def test_an_obedient_stage_is_verified_and_not_suspected() -> None:
    guard = watched(np.eye(2), velocity_um=(0.3, -0.2))
    assert guard.is_verified.all()
    assert guard.suspicion() == ""


#: Exposure (s), stage y, x and the target's offset y, x (µm), as a demo recorded them
#: while the machine was busy: a swimmer at 60 µm/s, frames 33 to 150 ms apart.
BUSY = np.array(
    [
        [0.076, 0.0, 0.0, -1.7, -20.8],
        [0.123, 0.0, 0.0, -0.7, -22.0],
        [0.229, 0.0, 0.0, -0.5, -23.0],
        [0.284, np.nan, np.nan, np.nan, np.nan],
        [0.350, -0.65, -22.04, 0.4, -3.2],
        [0.401, -0.12, -25.86, 1.7, -5.1],
        [0.444, -0.12, -25.86, 0.9, -2.1],
        [0.482, -0.12, -25.86, 1.4, -2.6],
        [0.534, 1.70, -30.21, 2.0, -3.4],
        [0.631, 1.70, -30.21, 0.7, 0.1],
        [0.677, 2.60, -30.62, 0.9, -1.3],
        [0.719, 2.60, -30.62, 0.4, -1.1],
        [0.761, 4.08, -33.02, -0.4, 1.1],
        [0.912, 4.08, -33.02, -0.8, 0.6],
        [1.022, 4.08, -33.02, 0.3, -0.3],
        [1.081, 4.08, -33.02, 0.6, -0.3],
        [1.136, 4.08, -33.02, 0.9, -1.4],
        [1.208, 5.42, -35.34, 1.5, -2.6],
        [1.267, 5.43, -35.34, 0.7, -1.7],
        [1.307, 7.74, -39.41, 0.4, -2.5],
        [1.346, 7.74, -39.41, -1.6, 1.1],
    ]
)


def test_a_camera_that_waits_does_not_make_the_stage_look_wrong() -> None:
    """By frame numbers this swimmer bends at every wait; in time it does not."""
    guard = SignGuard(0.15, view_um=512)
    for frame_index, (t_s, *seen) in enumerate(BUSY):
        stage, offset = np.array(seen[:2]), np.array(seen[2:])
        if not np.isnan(stage).any():
            guard.observe(frame_index, t_s, stage, stage + offset)
        assert guard.suspicion() == ""
