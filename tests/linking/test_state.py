"""A linker that was saved goes on as if nothing had happened."""

from __future__ import annotations

import pickle

import numpy as np

from lodestar_live.data import Detections
from lodestar_live.linking import Linker


def test_a_pickled_linker_gives_the_rows_of_one_that_was_not() -> None:
    rng = np.random.default_rng(0)
    path = rng.uniform(0, 200, (30, 2)) + np.cumsum(rng.normal(0, 1, (60, 30, 2)), 0)
    frames = [
        Detections.from_positions(yx[rng.random(30) < 0.9], sigma_px=0.1) for yx in path
    ]
    for method in ("motion", "nearest"):
        whole, saved = (Linker(8.0, 3, method) for _ in range(2))
        for index, found in enumerate(frames):
            expected = whole(found, index, 0.05 * index).rows
            saved = pickle.loads(pickle.dumps(saved))
            rows = saved(found, index, 0.05 * index).rows
            assert rows.tobytes() == expected.tobytes()
        assert len(expected) >= 25
        assert saved.summary().tobytes() == whole.summary().tobytes()
