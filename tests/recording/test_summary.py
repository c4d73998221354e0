"""Tables of tracks against simulations whose diffusion and drift are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lodestar_live.data import (
    TRACK_DTYPE,
    Detections,
    Frame,
    RunInfo,
    Tracks,
    Update,
    blank_rows,
)
from lodestar_live.diffusion import covariance_diffusion
from lodestar_live.recording import Recorder, Recording
from lodestar_live.recording.export import export
from lodestar_live.recording.summary import SUMMARY_COLUMNS, track_summary
from lodestar_live.view.figures.populations import KINDS, write_populations
from lodestar_live.view.figures.run_data import time_unit

D, INTERVAL_S, NOISE, DRIFT = 0.4, 0.05, 0.1, np.array([3.0, -2.0])


def walks(n_tracks: int, n_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Return noisy positions of drifting, diffusing particles, (tracks, frames, 2)."""
    shape = (n_tracks, n_frames, 2)
    path = rng.normal(0, np.sqrt(2 * D * INTERVAL_S), shape).cumsum(axis=1)
    path += np.arange(n_frames)[:, None] * INTERVAL_S * DRIFT
    return path + rng.normal(0, NOISE, shape)


@pytest.mark.parametrize("n_frames", [20, 200])
def test_covariance_estimator_is_unbiased_and_knows_its_error(n_frames: int) -> None:
    rng = np.random.default_rng(0)
    found = []
    for path in walks(1500, n_frames, rng):
        keep = rng.random(n_frames) > 0.05
        frame = np.flatnonzero(keep).astype(float)
        one = covariance_diffusion(frame, path[keep], INTERVAL_S)
        assert one is not None
        found.append((one.coefficient, one.error, one.variance))
    d, error, variance = np.array(found).T
    of_the_mean = d.std() / np.sqrt(len(d))
    assert d.mean() == pytest.approx(D, abs=0.02 * D + 3 * of_the_mean)
    assert np.median(error) == pytest.approx(d.std(), rel=0.3)
    assert variance.mean() == pytest.approx(NOISE**2, rel=0.1)


def record(folder: Path, *, pixel_size_um: float, is_timed: bool = True) -> None:
    """Record 60 tracks of 60 frames, with polarizability."""
    rng = np.random.default_rng(1)
    paths_px = walks(60, 60, rng) / 0.5 + rng.uniform(50, 200, (60, 1, 2))
    recorder = Recorder(folder)
    source = {} if is_timed else {"path": "m.npy", "time_axis": "none"}
    recorder.open(RunInfo("r", "now", pixel_size_um=pixel_size_um, source=source))
    for index in range(60):
        rows = blank_rows(TRACK_DTYPE, 60)
        rows["track_id"] = np.arange(60)
        rows["y_px"], rows["x_px"] = paths_px[:, index].T
        rows["polarizability_um3"] = 0.02 + rng.normal(0, 0.002, 60)
        frame = Frame(index, np.zeros((256, 256), np.uint8), time_index=index)
        t_s = index * INTERVAL_S if is_timed else np.nan
        frame = replace(frame, t_exposure_s=t_s, t_arrival_s=index * 0.001)
        recorder.write(Update(frame, Detections.empty(), Tracks(rows)))
    recorder.close()


def test_summary_has_diffusion_velocity_and_polarizability(tmp_path: Path) -> None:
    record(tmp_path, pixel_size_um=0.5)
    with Recording(tmp_path) as recording:
        table = track_summary(recording)
        export(recording, tmp_path / "s.csv", to="summary")
    assert len(table) == 60
    assert set(table.dtype.names) == set(SUMMARY_COLUMNS)
    assert set(table["n_frames"]) == {60}
    assert table["length"] == pytest.approx(59 * INTERVAL_S)
    for name in ("diffusion", "diffusion_msd"):
        error = table[name].std() / np.sqrt(60)
        assert table[name].mean() == pytest.approx(D, abs=3.5 * error)
    velocity = np.stack([table["velocity_y"], table["velocity_x"]], axis=1)
    pull = (velocity - DRIFT) / table["velocity_error"][:, None]
    assert pull.std() == pytest.approx(1.0, rel=0.3)
    pull = (table["polarizability_um3"] - 0.02) / table["polarizability_error_um3"]
    assert pull.std() == pytest.approx(1.0, rel=0.3)
    np.testing.assert_allclose(
        pd.read_csv(tmp_path / "s.csv")["diffusion"], table["diffusion"]
    )


def test_run_without_time_and_pixel_size_is_told_in_frames_and_pixels(
    tmp_path: Path,
) -> None:
    record(tmp_path, pixel_size_um=np.nan, is_timed=False)
    with Recording(tmp_path) as recording:
        table = track_summary(recording)
        assert time_unit(recording) == "frames"
    in_px_per_frame = D * INTERVAL_S / 0.5**2
    error = table["diffusion"].std() / np.sqrt(60)
    assert table["diffusion"].mean() == pytest.approx(in_px_per_frame, abs=4 * error)


def test_populations_are_drawn(tmp_path: Path) -> None:
    record(tmp_path, pixel_size_um=0.5)
    with Recording(tmp_path) as recording:
        path = write_populations(recording, tmp_path / "p.png", KINDS)
    assert path.stat().st_size > 10_000
