"""Emitters that diffuse and blink, and how often their identity survives the dark."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from lodestar_live.data import Detections
from tests.simulation.motion import SimulatedFrame

ON_FRAMES = 20.0  # on average
APART_PX = 30.0  # at the start
NOISE_PX = 0.15


def simulate_blinking(
    off_frames: float,
    seed: int,
    *,
    n: int = 40,
    size_px: float = 400.0,
    n_frames: int = 300,
    step_px: float = 1.0,
) -> list[SimulatedFrame]:
    """Return emitters that step by `step_px` per axis and frame.

    Both the time in the light (`ON_FRAMES`) and that in the dark (`off_frames`) are
    geometric; there are no other misses and no false positives.
    """
    rng = np.random.default_rng(seed)
    yx = rng.uniform(0, size_px, (n, 2))
    for _ in range(200):
        near = cdist(yx, yx) + 2 * APART_PX * np.eye(n) < APART_PX
        moved = np.flatnonzero(near.any(axis=1))[::2]
        yx[moved] = rng.uniform(0, size_px, (len(moved), 2))
    is_lit = rng.random(n) < ON_FRAMES / (ON_FRAMES + off_frames)
    frames = []
    for _ in range(n_frames):
        seen = rng.permutation(np.flatnonzero(is_lit))
        found = yx[seen] + rng.normal(0, NOISE_PX, (len(seen), 2))
        frames.append(SimulatedFrame(Detections.from_positions(found), seen))
        yx = np.abs(yx + rng.normal(0, step_px, yx.shape))
        yx = np.where(yx > size_px, 2 * size_px - yx, yx)
        goes_dark = rng.random(n) < 1 / ON_FRAMES
        comes_back = rng.random(n) < 1 / off_frames
        is_lit = np.where(is_lit, ~goes_dark, comes_back)
    return frames


def count_returns(
    frames: Sequence[SimulatedFrame], ids: Sequence[npt.NDArray[np.int64]]
) -> tuple[int, int, int]:
    """Return how many returns kept the identity, how many there were, and wrong ids.

    A wrong id is that of another particle, taken where the own one was not kept.
    """
    last: dict[int, tuple[int, int]] = {}  # particle -> (frame, id)
    owner: dict[int, int] = {}
    kept = returns = wrong = 0
    for k, (frame, found) in enumerate(zip(frames, ids, strict=True)):
        for particle, track in zip(
            frame.particle.tolist(), found.tolist(), strict=True
        ):
            before = last.get(particle)
            if before is not None and k - before[0] > 1:
                returns += 1
                kept += before[1] == track
            if owner.setdefault(track, particle) != particle:
                wrong += before is None or before[1] != track
            last[particle] = (k, track)
    return kept, returns, wrong
