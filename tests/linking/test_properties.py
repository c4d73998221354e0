"""Properties that hold for any detections, found by hypothesis."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lodestar_live import Detections, Linker
from lodestar_live.data import TRACK_DTYPE
from lodestar_live.linking.gate import pairs_within

METHODS = st.sampled_from(["motion", "nearest"])
COORDINATE = st.one_of(
    st.floats(0, 60), st.integers(0, 8).map(float), st.sampled_from([np.nan, 1e6])
)
POINTS = st.lists(st.tuples(COORDINATE, COORDINATE), max_size=12)
MOVIES = st.lists(st.tuples(st.integers(-1, 4), POINTS), min_size=1, max_size=10)


def as_frames(movie):
    """Turn (jump, points) into (frame index, detections); jumps below 1 are stale."""
    index, frames = 0, []
    for jump, points in movie:
        index += jump
        positions = np.array(points, dtype=float).reshape(-1, 2)
        frames.append((index, Detections.from_positions(positions)))
    return frames


@settings(max_examples=60, deadline=None)
@given(movie=MOVIES, method=METHODS)
def test_ids_are_unique_monotone_and_never_reused(movie, method):
    linker, ended, newest = Linker(method=method), set(), -1
    last_ids, last_frame = set(), None
    for index, detections in as_frames(movie):
        rows = linker(detections, index).rows
        assert rows.dtype == TRACK_DTYPE
        ids = rows["track_id"].tolist()
        assert len(set(ids)) == len(ids)
        assert not ended & set(ids), "an ended id came back"
        if last_frame is None or index > last_frame:
            new = sorted(set(ids) - last_ids)
            assert all(i > newest for i in new)
            newest = max([newest, *ids])
            ended |= last_ids - set(ids)
            last_ids, last_frame = set(ids), index
        else:
            assert set(ids) == last_ids, "a stale frame changed something"
    counts = linker.counts
    assert counts.frames + counts.duplicates + counts.late == len(movie)


@settings(max_examples=60, deadline=None)
@given(movie=MOVIES, method=METHODS)
def test_every_usable_detection_belongs_to_exactly_one_track(movie, method):
    linker, last_frame = Linker(method=method), None
    for index, detections in as_frames(movie):
        rows = linker(detections, index).rows
        if last_frame is not None and index <= last_frame:
            continue
        last_frame = index
        finite = np.flatnonzero(np.isfinite(detections.positions_px).all(axis=1))
        seen = rows[rows["detection_index"] >= 0]
        assert sorted(seen["detection_index"]) == finite.tolist()
        there = detections.rows[seen["detection_index"]]
        assert (there["y_px"] == seen["y_px"]).all()
        assert (there["x_px"] == seen["x_px"]).all()
        assert ((rows["missed_frames"] == 0) == (rows["detection_index"] >= 0)).all()
        assert np.isfinite(rows["y_px"]).all()
        assert np.isfinite(rows["x_px"]).all()


@settings(max_examples=60, deadline=None)
@given(movie=MOVIES, method=METHODS, seed=st.integers(0, 2**32 - 1))
def test_the_order_of_detections_does_not_matter(movie, method, seed):
    rng = np.random.default_rng(seed)
    one, other = Linker(method=method), Linker(method=method)
    for index, detections in as_frames(movie):
        order = rng.permutation(len(detections))
        a = one(detections, index).rows
        b = other(Detections(detections.rows[order].copy()), index).rows
        for name in ("track_id", "y_px", "x_px", "age_frames", "existence"):
            np.testing.assert_array_equal(a[name], b[name])


@settings(max_examples=50, deadline=None)
@given(
    movie=MOVIES,
    method=METHODS,
    radius_px=st.floats(0.5, 20),
    gap=st.integers(0, 3),
)
def test_limits_given_by_the_user_are_never_exceeded(movie, method, radius_px, gap):
    linker, last = Linker(radius_px, gap, method), {}
    for index, detections in as_frames(movie):
        for row in linker(detections, index).rows:
            track_id, here = int(row["track_id"]), np.array([row["y_px"], row["x_px"]])
            assert row["missed_frames"] <= gap
            if row["detection_index"] < 0:
                continue
            if track_id in last and last[track_id][0] < index:
                before, there = last[track_id]
                step = np.hypot(*(here - there)) / (index - before)
                assert step <= radius_px * (1 + 1e-9)
            last[track_id] = (index, here)


@settings(max_examples=50, deadline=None)
@given(
    tracks=st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), max_size=15),
    points=st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), max_size=15),
    radius=st.floats(-1, 60),
)
@example(tracks=[(0.0, 0.0)], points=[(0.0, 0.0)], radius=-7e-284)
def test_the_gate_finds_every_pair_within_reach(tracks, points, radius):
    a = np.array(tracks).reshape(-1, 2)
    b = np.array(points).reshape(-1, 2)
    rng = np.random.default_rng(len(a))
    reach = radius * rng.uniform(0.2, 1.0, len(a))
    distance2 = ((a[:, None] - b[None]) ** 2).sum(axis=2)
    inside = (distance2 <= reach[:, None] ** 2) & (reach[:, None] >= 0)
    track, detection = pairs_within(a.T, reach, b.T)
    assert list(zip(track.tolist(), detection.tolist(), strict=True)) == [
        tuple(pair) for pair in np.argwhere(inside).tolist()
    ]


LINK_A_MOVIE = """
import hashlib
from lodestar_live import Linker
from tests.simulation.motion import Scenario, simulate_motion
linker, digest = Linker(), hashlib.sha256()
for k, frame in enumerate(simulate_motion(Scenario("switch", 80, 0.3, 12, seed=4))):
    digest.update(linker(frame.detections, k).rows.tobytes())
    digest.update(repr([(e.kind, e.details) for e in linker.take_events()]).encode())
print(digest.hexdigest())
"""


@pytest.mark.parametrize("hash_seeds", [("0", "4242")])
def test_the_result_does_not_depend_on_the_hash_seed(hash_seeds):
    digests = {
        subprocess.run(
            [sys.executable, "-c", LINK_A_MOVIE],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in hash_seeds
    }
    assert len(digests) == 1
    assert len(digests.pop()) == hashlib.sha256().digest_size * 2
