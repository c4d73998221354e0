"""Recordings through the live pipeline: their own time, place, channels, positions."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import trackpy

from lodestar_live.data import Detections
from lodestar_live.live import replay
from lodestar_live.live.replay import replay_movie
from lodestar_live.live.tracker import LiveTracker
from lodestar_live.recording import Recording
from lodestar_live.recording.export import export
from lodestar_live.recording.movies import Choice
from lodestar_live.settings import parse_settings

SIDE = 256
PIXEL_UM = 0.5
D_UM2_PER_S = 0.4
DRIFT_UM_PER_S = np.array([12.0, -8.0])  # (y, x)
INTERVAL_S = 0.05


def find_bright(pixels: np.ndarray) -> Detections:
    """Detect particles drawn as 3 x 3 pixels whose counts hold the exact position."""
    y, x = np.nonzero((pixels[1:-1, 1:-1] >= 1000) & (pixels[1:-1, :-2] == 1))
    y, x = y + 1, x + 1
    fraction = np.stack([pixels[y - 1, x], pixels[y + 1, x]], axis=-1) / 60_000 - 0.5
    return Detections.from_positions(
        np.stack([y, x], axis=-1) + fraction, sigma_px=0.05
    )


def draw(image: np.ndarray, at_px: np.ndarray) -> None:
    """Draw particles so that `find_bright` finds them where they are."""
    whole = np.rint(at_px).astype(int)
    inside = ((whole > 1) & (whole < np.array(image.shape) - 2)).all(axis=1)
    for (y, x), (dy, dx) in zip(whole[inside], (at_px - whole)[inside], strict=True):
        image[y, x], image[y, x - 1] = 1000, 1
        image[y - 1, x] = round((dy + 0.5) * 60_000)
        image[y + 1, x] = round((dx + 0.5) * 60_000)


@pytest.fixture
def find_instead_of_train(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let replays use `find_bright`: what is tested lies behind the detector."""

    def tracker(settings, **options) -> LiveTracker:
        detection = settings.detection.model_copy(update={"model": None})
        settings = settings.model_copy(update={"detection": detection})
        return LiveTracker(settings, detect=find_bright, **options)

    monkeypatch.setattr(replay, "LiveTracker", tracker)


def settings_for(folder: Path):
    base = {"streams": {"enabled": False}, "recording": {"folder": str(folder)}}
    return parse_settings({**base, "linking": {"min_track_frames": 5}})


def run(path: Path, out: Path, choice: Choice | None = None) -> Path:
    return replay_movie(
        path, settings_for(out), model=Path("none.onnx"), out=out, choice=choice
    ).run_folder


def write_followed_movie(folder: Path) -> None:
    """Write the NDTiff of a followed run: stage moving, exposures of two lengths.

    Particles diffuse and drift; the stage follows the drift roughly, by metadata that
    Micro-Manager writes. Every tenth image is missing.
    """
    from ndstorage import NDTiffDataset

    rng = np.random.default_rng(3)
    n_frames, n = 300, 40
    times_s = np.arange(n_frames) * INTERVAL_S
    steps = rng.normal(size=(n_frames, n, 2)) * np.sqrt(2 * D_UM2_PER_S * INTERVAL_S)
    steps[0] = rng.uniform(-55, 55, (n, 2))
    at_um = steps.cumsum(axis=0) + times_s[:, None, None] * DRIFT_UM_PER_S
    stage_um = np.round(times_s[:, None] * DRIFT_UM_PER_S * 1.1, 1)
    dataset = NDTiffDataset(
        str(folder), summary_metadata={}, writable=True, name="followed"
    )
    for t in range(n_frames):
        if t % 10 == 7:
            continue
        image = np.zeros((SIDE, SIDE), np.uint16)
        draw(image, (at_um[t] - stage_um[t]) / PIXEL_UM + (SIDE - 1) / 2)
        exposure_ms = 5.0 if t % 2 else 15.0
        delivered_ms = times_s[t] * 1e3 + exposure_ms / 2
        metadata = {
            "ElapsedTime-ms": delivered_ms, "Exposure": exposure_ms,
            "PixelSizeUm": PIXEL_UM, "YPositionUm": stage_um[t, 0],
            "XPositionUm": stage_um[t, 1], "ZPositionUm": 0.0,
        }  # fmt: skip
        dataset.put_image({"time": t}, image, metadata)
    dataset.finish()
    dataset.close()


# ndstorage 0.1.18 leaves a file of its own open where it writes
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("find_instead_of_train")
def test_followed_recording_gives_diffusion_and_drift_of_the_sample(
    tmp_path: Path,
) -> None:
    write_followed_movie(tmp_path / "movie")
    folder = run(tmp_path / "movie", tmp_path / "out")
    with Recording(folder) as recording:
        rows = recording.tracks(20, measured_only=True)
        export(recording, tmp_path / "t.csv", min_frames=20)
    # the time axis is the middle of each exposure, the frames' gaps are in it
    assert np.allclose(np.mod(rows["t_exposure_s"] + 1e-6, INTERVAL_S), 0, atol=2e-6)
    table = pd.read_csv(tmp_path / "t.csv")
    drift = drift_um_per_s(table)
    # diffusion itself leaves a drift of 0.037 µm/s in 40 tracks of 15 s
    np.testing.assert_allclose(drift, DRIFT_UM_PER_S, atol=0.01 * 14.4)
    still = table.assign(
        y=table["y"] - drift[0] * table["t"], x=table["x"] - drift[1] * table["t"]
    )
    # `frame` keeps the gaps of the images that lack, as trackpy expects
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # trackpy 0.7 with pandas 3
        msd = trackpy.emsd(still, mpp=1.0, fps=1 / INTERVAL_S, max_lagtime=4)
    d_um2_per_s = np.polyfit(msd.index, msd, 1)[0] / 4
    assert d_um2_per_s == pytest.approx(D_UM2_PER_S, rel=0.05)


def drift_um_per_s(table: pd.DataFrame) -> np.ndarray:
    """Return the mean velocity, (y, x), from each track's steps."""
    step = table.sort_values(["particle", "t"]).groupby("particle")[["t", "y", "x"]]
    total = step.diff().dropna().sum()
    return total[["y", "x"]].to_numpy() / total["t"]


@pytest.mark.usefixtures("find_instead_of_train")
def test_channels_are_linked_each_by_itself(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    start = rng.uniform(20, 236, (2, 12, 2))
    movie = np.zeros((15, 2, SIDE, SIDE), np.uint16)
    for t in range(15):
        start += rng.normal(size=start.shape)
        for c in range(2):
            draw(movie[t, c], start[c])
    tifffile.imwrite(tmp_path / "m.tif", movie, imagej=True, metadata={"axes": "TCYX"})
    folder = run(tmp_path / "m.tif", tmp_path / "out")
    with Recording(folder) as recording:
        rows, frames = recording.tracks(5), recording.frames()
    assert np.isnan(frames["t_exposure_s"]).all()
    assert np.isnan(rows["y_um"]).all()
    ids, channels = np.unique(rows[["track_id", "channel"]]).tolist(), set()
    assert len(ids) == len({i for i, _ in ids}) == 24  # 12 particles in each channel
    channels = {c for _, c in ids}
    assert channels == {"0", "1"}


@pytest.mark.usefixtures("find_instead_of_train")
def test_rate_and_pixel_size_of_the_user_are_taken(tmp_path: Path) -> None:
    movie = np.zeros((10, 64, 64), np.uint16)
    for image in movie:
        draw(image, np.array([[30.0, 20.25]]))
    np.save(tmp_path / "m.npy", movie)
    folder = run(tmp_path / "m.npy", tmp_path, Choice(fps=24.0, pixel_size_um=0.2))
    with Recording(folder) as recording:
        rows = recording.tracks()
        assert recording.info.source["time_axis"] == "fps"
    np.testing.assert_allclose(rows["t_exposure_s"], rows["frame"] / 24)
    np.testing.assert_allclose(rows["y_um"], rows["y_px"] * 0.2)
    assert set(rows["pixel_size_um"]) == {0.2}
