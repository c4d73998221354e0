"""The report and the plots: right numbers, from whole runs and from bare ones."""

from __future__ import annotations

import imageio.v3 as imageio
import numpy as np
import pytest
import trackpy
from pandas import DataFrame

from lodestar_live.data import blank_rows
from lodestar_live.diffusion import (
    ensemble_msd,
    fit_diffusion,
    mean_squared_displacement,
)
from lodestar_live.view import RUN_TRACK_DTYPE, RunArrays, write_plots, write_report
from lodestar_live.view.figures import charts, run_data
from tests.view.made_runs import PIXEL_SIZE_UM, brownian_run, picture


def assert_is_picture(path, *, min_colours=50):
    image = imageio.imread(path)
    assert image.shape[0] > 600 and image.shape[1] > 1000
    colours = np.unique(image[::3, ::3].reshape(-1, image.shape[2]), axis=0)
    assert len(colours) > min_colours, "the picture is empty"


def test_report_of_a_followed_run_shows_everything(tmp_path):
    run, truth = brownian_run(follow=True, swim_px=0.8, n_frames=80)
    crop = (truth["y_px"][4], truth["x_px"][4], 25)
    path = tmp_path / "new" / "report.png"
    write_report(run, path, snapshot=picture(run, truth), crop=crop, truth=truth)
    assert_is_picture(path)


@pytest.mark.parametrize("draw", [write_report, write_plots])
@pytest.mark.parametrize("n_rows", [0, 1, 2])
def test_pictures_of_a_run_with_next_to_nothing_in_it(tmp_path, draw, n_rows):
    rows = blank_rows(RUN_TRACK_DTYPE, n_rows)
    rows["y_px"] = rows["x_px"] = rows["frame"] = np.arange(n_rows)
    draw(RunArrays(rows), tmp_path / "empty.png")
    assert_is_picture(tmp_path / "empty.png", min_colours=5)


def test_plots_of_a_run_with_z_and_polarizability(tmp_path):
    run, _ = brownian_run(with_z=True, n_frames=60)
    assert_is_picture(write_plots(run, tmp_path / "plots.png"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:trackpy")
def test_msd_is_trackpy_s():
    run, _ = brownian_run(n_tracks=1, n_frames=120)
    rows = np.delete(run.tracks(), [3, 50, 51])  # gaps
    at = np.column_stack([rows["y_px"], rows["x_px"]])
    ours, _ = mean_squared_displacement(rows["frame"].astype(float), at, 20)
    frame = DataFrame({"frame": rows["frame"], "x": rows["x_px"], "y": rows["y_px"]})
    theirs = trackpy.motion.msd(frame, mpp=1, fps=1, max_lagtime=20)
    np.testing.assert_allclose(ours, theirs["msd"], rtol=1e-9)


def test_diffusion_and_noise_are_found_within_their_error():
    run, _ = brownian_run(
        n_tracks=200, n_frames=200, diffusion_um2_per_s=0.5, noise_px=0.3
    )
    each = [
        mean_squared_displacement(
            rows["frame"].astype(float),
            run_data.positions_px(run, rows) * PIXEL_SIZE_UM,
            10,
        )
        for rows in run_data.trajectories(run.tracks()).values()
    ]
    msds, n_pairs = (np.array(part) for part in zip(*each, strict=True))
    fit = fit_diffusion(msds, n_pairs, np.arange(1, 11) * 0.02)
    # 4 standard errors: wrong once in 16 000 seeds, and the seed is fixed
    assert abs(fit.coefficient - 0.5) < 4 * fit.error < 0.05
    # offset = 4 sigma^2 (localisation noise per axis 0.03 um)
    assert fit.offset == pytest.approx(4 * 0.03**2, rel=0.35)
    assert np.isfinite(ensemble_msd(msds, n_pairs)).all()


def test_errors_are_the_noise_that_was_added():
    run, truth = brownian_run(noise_px=0.07)
    errors = charts.errors_px(run, truth)
    assert len(errors) == len(truth)
    # 9000 values per axis: the standard error of an RMSE is 0.7 %
    np.testing.assert_allclose(np.sqrt((errors**2).mean(0)), 0.07, rtol=0.03)


def test_stage_motion_is_taken_out_of_the_trajectories():
    still, _ = brownian_run(seed=3, swim_px=0.5)
    moved, _ = brownian_run(seed=3, swim_px=0.5, follow=True)
    np.testing.assert_allclose(
        run_data.positions_px(moved, moved.tracks()),
        run_data.positions_px(still, still.tracks()),
        atol=1e-9,
    )


def test_predicted_rows_are_not_taken_for_measured_ones():
    run, _ = brownian_run(n_tracks=2, n_frames=20)
    rows = run.tracks().copy()
    rows["missed_frames"][rows["track_id"] == 2] = 1
    assert list(run_data.trajectories(rows)) == [1]
