"""Overlay movies are real movies, and the circles lie on the particles."""

from __future__ import annotations

import re
import subprocess

import imageio.v2 as imageio
import imageio_ffmpeg
import numpy as np
import pytest

from lodestar_live.errors import InputError
from lodestar_live.view.figures.overlay_movie import write_overlay_movie
from lodestar_live.view.figures.run_data import frame_interval_s
from tests.view.made_runs import brownian_run, picture

N_FRAMES = 6


@pytest.fixture(scope="module")
def made():
    run, truth = brownian_run(n_tracks=5, n_frames=N_FRAMES, size_px=160)
    return run, [picture(run, truth, i, size_px=160) for i in range(N_FRAMES)]


def described(path):
    """Return the number of frames and their size."""
    if path.suffix == ".gif":
        frames = imageio.mimread(path)
        return len(frames), frames[0].shape[:2]
    n_frames, _ = imageio_ffmpeg.count_frames_and_secs(path)
    asked = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path)]
    told = subprocess.run(asked, capture_output=True, text=True).stderr
    height, width = re.search(r", (\d+)x(\d+)", told).groups()
    return n_frames, (int(height), int(width))


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_movie_has_every_frame_enlarged_to_be_seen(made, tmp_path, suffix):
    run, images = made
    path = tmp_path / f"overlay.{suffix}"
    told = []
    n = write_overlay_movie(
        run, images, path, progress=lambda done, total: told.append((done, total))
    )
    assert n == N_FRAMES and told[-1] == (N_FRAMES, N_FRAMES)
    assert described(path) == (N_FRAMES, (480, 480))  # three times 160


def test_circles_are_coloured_and_lie_around_the_particles(made, tmp_path):
    run, images = made
    path = tmp_path / "overlay.gif"
    write_overlay_movie(run, images, path)
    last = imageio.mimread(path)[-1][..., :3].astype(int)
    is_coloured = np.ptp(last, axis=2) > 60
    rows = run.tracks()[run.tracks()["frame"] == N_FRAMES - 1]
    y, x = np.nonzero(is_coloured)
    for row in rows:
        away = np.hypot(y - (row["y_px"] + 0.5) * 3, x - (row["x_px"] + 0.5) * 3)
        assert (abs(away - 12) < 2).sum() > 40  # the circle's radius is 12 px here


def test_the_score_map_is_beside_over_the_same_field(made, tmp_path):
    """Drawn by the command's own function: bright where the particle is, dark else."""
    from lodestar_live.cli.export import _score_map
    from tests.detection import networks

    run, _ = made
    model = tmp_path / "spots.onnx"
    model.write_bytes(networks.model(networks.spot_finder(), threshold=-1.5))
    at = np.array([[41.0, 112.0]])
    images = [networks.spots(at, (160, 163))] * N_FRAMES
    path = tmp_path / "overlay.gif"
    write_overlay_movie(run, images, path, score_map=_score_map(model))
    last = imageio.mimread(path)[-1][..., :3].astype(int)
    assert last.shape[:2] == (480, 2 * 488)  # three times, even
    brightness = last[:, 488:].sum(axis=2)
    y, x = np.nonzero(brightness > 0.6 * brightness.max())
    assert abs(y.mean() / 3 - 41) < 4 and abs(x.mean() / 3 - 112) < 4
    assert np.median(brightness) < 0.1 * brightness.max()


def test_rate_is_the_recordings_own(made, tmp_path):
    run, images = made
    write_overlay_movie(run, images, tmp_path / "overlay.mp4")
    reader = imageio.get_reader(tmp_path / "overlay.mp4")
    own = 1.0 / frame_interval_s(run)
    assert reader.get_meta_data()["fps"] == pytest.approx(min(own, 60.0), rel=0.02)
    reader.close()


def test_what_cannot_be_written_is_said_before_anything_is_drawn(made, tmp_path):
    run, images = made
    with pytest.raises(InputError, match="format"):
        write_overlay_movie(run, images, tmp_path / "overlay.avi")
    with pytest.raises(InputError, match="images"):
        write_overlay_movie(run, [], tmp_path / "overlay.gif")
