"""`train(channels=("y", "x", "angle"))` from one click, to detections and tracks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from lodestar_live.data import (
    TRACK_DTYPE,
    Detections,
    Frame,
    RunInfo,
    Tracks,
    Update,
    blank_rows,
)
from lodestar_live.detection import Detector
from lodestar_live.errors import InputError
from lodestar_live.linking import Linker
from lodestar_live.recording import Recorder, Recording
from lodestar_live.recording.summary import track_summary
from lodestar_live.training import train
from tests.simulation.fields import Scene, simulate_field

SCENE = Scene(
    shape="ellipse", n_particles=14, size_px=(300, 300), spacing_px=50, snr=10
)


@pytest.fixture(scope="module")
def model() -> bytes:
    """Give a model of one ellipse that measures angles."""
    field = simulate_field(SCENE, seed=3)
    chosen = np.argmin(np.abs(field.positions_px - 150).max(axis=1))
    at = tuple(field.positions_px[chosen])
    found = train(field.pixels, at=at, steps=200, channels=("y", "x", "angle"))
    assert found.card.orientation is not None and found.card.orientation.fold == 2
    return found.to_bytes()


@pytest.mark.parametrize("seed", [4, 5])
def test_detections_know_their_angle_and_how_well(model: bytes, seed: int) -> None:
    field = simulate_field(SCENE, seed=seed)
    rows = Detector(model)(field.pixels).rows
    gap, which = cKDTree(field.positions_px).query(
        np.column_stack([rows["y_px"], rows["x_px"]])
    )
    inside = (np.abs(field.positions_px[which] - 150) < 130).all(axis=1) & (gap < 2)
    assert inside.sum() >= 8
    truth = np.degrees(field.angles_rad[which])
    error = ((rows["angle_deg"] - truth + 90) % 180 - 90)[inside]
    # The bound at this contrast is half a degree; the clicked crop is as noisy.
    assert np.abs(error).max() < 3
    assert (error - error.mean()).std() < 2 * np.median(rows["sigma_angle_deg"])


def test_smaller_views_of_the_frame_say_the_same(model: bytes) -> None:
    field = simulate_field(SCENE, seed=4)
    detector = Detector(model)
    whole = detector(field.pixels).rows
    near = detector.near(field.pixels, detector(field.pixels).positions_px[:3]).rows
    for row in near:
        gap = np.hypot(whole["y_px"] - row["y_px"], whole["x_px"] - row["x_px"])
        k = np.argmin(gap)
        assert row["angle_deg"] == pytest.approx(whole["angle_deg"][k], abs=0.2)


def test_tracks_carry_the_angle_of_what_was_seen(model: bytes) -> None:
    field = simulate_field(SCENE, seed=4)
    found = Detector(model)(field.pixels)
    linker = Linker()
    for index in range(4):
        tracks = linker(found, frame_index=index)
    angles = tracks.rows["angle_deg"]
    assert sorted(angles) == sorted(found.rows["angle_deg"])
    tracks = linker(Detections.empty(), frame_index=4)  # the last that was seen
    assert (tracks.rows["angle_deg"] == angles).all()


def test_a_round_particle_has_no_angle() -> None:
    field = simulate_field(replace(SCENE, shape="sphere"), seed=3)
    at = tuple(field.positions_px[0])
    found = train(field.pixels, at=at, steps=120, channels=("y", "x", "angle"))
    assert found.card.orientation is not None and found.card.orientation.fold == 0
    rows = Detector(found.to_bytes())(field.pixels).rows
    assert len(rows) and np.isnan(rows["angle_deg"]).all()


def test_other_channels_are_refused() -> None:
    with pytest.raises(InputError, match="angle"):
        train(np.ones((64, 64)), channels=("y", "x", "mass"))


def test_summary_knows_how_fast_tracks_turn(tmp_path: Path) -> None:
    """Angles modulo 180 degrees: known rotational diffusion and turning."""
    rng = np.random.default_rng(2)
    diffusion, speed_deg, interval_s, n = 0.2, 30.0, 0.05, 400
    steps = rng.normal(0, np.sqrt(2 * diffusion * interval_s), (n, 30))
    path = steps.cumsum(axis=0)
    path_deg = np.degrees(path) + speed_deg * interval_s * np.arange(n)[:, None]
    seen_deg = (path_deg + rng.normal(0, 1.0, path_deg.shape)) % 180
    recorder = Recorder(tmp_path)
    model = {"orientation": {"fold": 2, "axis_deg": [0.0]}}
    recorder.open(RunInfo("r", "now", pixel_size_um=0.1, model=model))
    for index in range(n):
        rows = blank_rows(TRACK_DTYPE, 30)
        rows["track_id"] = np.arange(30)
        rows["y_px"] = rows["x_px"] = 50.0
        rows["angle_deg"] = seen_deg[index]
        frame = Frame(index, np.zeros((99, 99), np.uint8))
        frame = replace(frame, t_exposure_s=index * interval_s, t_arrival_s=0.0)
        recorder.write(Update(frame, Detections.empty(), Tracks(rows)))
    recorder.close()
    with Recording(tmp_path) as recording:
        table = track_summary(recording)
    assert table["rotational_diffusion"].mean() == pytest.approx(diffusion, rel=0.05)
    spread = table["rotational_diffusion"].std()
    assert np.median(table["rotational_diffusion_error"]) == pytest.approx(
        spread, rel=0.3
    )
    of_the_mean = np.degrees(np.sqrt(2 * diffusion / (n * interval_s) / 30))
    assert abs(table["angular_velocity"].mean() - speed_deg) < 4 * of_the_mean
