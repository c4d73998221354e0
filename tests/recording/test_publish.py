"""A followed run with known diffusion and drift: every export gives both back."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import geff
import numpy as np
import pandas as pd
import pytest

from lodestar_live.data import (
    TRACK_DTYPE,
    Detections,
    Event,
    Frame,
    RunInfo,
    StagePosition,
    Tracks,
    Update,
    blank_rows,
)
from lodestar_live.geometry import PixelToStage
from lodestar_live.recording import Recorder, Recording
from lodestar_live.recording.export import export

D_UM2_PER_S, INTERVAL_S = 0.4, 0.05
DRIFT_UM_PER_S = np.array([12.0, -8.0])  # (y, x)
SHAPE = (400, 500)
ANGLE = np.deg2rad(20)
MATRIX = 0.5 * np.array(
    [[-np.cos(ANGLE), np.sin(ANGLE)], [np.sin(ANGLE), np.cos(ANGLE)]]
)  # a camera that is turned and mirrored with respect to the stage


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record 60 tracks in 400 frames; the stage follows, a tenth of frames is dropped.

    Every twentieth row is a prediction, far off.
    """
    rng = np.random.default_rng(5)
    n, n_frames = 60, 400
    steps = rng.normal(0, np.sqrt(2 * D_UM2_PER_S * INTERVAL_S), (n_frames, n, 2))
    steps[0] = rng.uniform(-50, 50, (n, 2))
    t_s = np.arange(n_frames) * INTERVAL_S
    at_um = steps.cumsum(axis=0) + t_s[:, None, None] * DRIFT_UM_PER_S
    stage_um = t_s[:, None] * DRIFT_UM_PER_S + rng.normal(0, 2.0, (n_frames, 2))
    stage_map = PixelToStage(MATRIX)
    recorder = Recorder(folder := tmp_path_factory.mktemp("run"))
    calibration = {"matrix_um_per_px": MATRIX.tolist()}
    recorder.open(RunInfo("r", "now", calibration=calibration, pixel_size_um=0.5))
    for index in range(n_frames):
        if index % 10 == 3:
            recorder.tell(Event("frame.dropped", t_s[index], index, {}))
            continue
        rows = blank_rows(TRACK_DTYPE, n)
        rows["track_id"], rows["score"] = np.arange(n), 1.0
        at_px = stage_map.pixel_px(at_um[index], stage_um[index], SHAPE)
        is_missed = (np.arange(n) + index) % 20 == 0
        at_px[is_missed] += 30.0
        rows["missed_frames"] = is_missed
        rows["y_px"], rows["x_px"] = at_px.T
        exposure_ms = 20.0 if index % 2 else 5.0
        frame = Frame(
            index, np.broadcast_to(np.uint8(0), SHAPE), t_exposure_s=float(t_s[index]),
            stage_um=StagePosition(0.0, *stage_um[index].tolist()),
            pixel_size_um=0.5, exposure_ms=exposure_ms,
        )  # fmt: skip
        recorder.write(Update(frame, Detections.empty(), Tracks(rows)))
    recorder.close()
    return folder


def from_csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path)[["particle", "frame", "t", "y", "x"]]


def from_parquet(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path)[["particle", "frame", "t", "y", "x"]]


def from_trackmate(path: Path) -> pd.DataFrame:
    root = ElementTree.parse(path).getroot()
    spots = {int(s.get("ID")): s for s in root.iter("Spot")}
    rows = {}
    for track in root.find("Model/AllTracks"):
        for edge in track:
            for end in ("SPOT_SOURCE_ID", "SPOT_TARGET_ID"):
                rows[int(edge.get(end))] = int(track.get("TRACK_ID"))
    names = ("FRAME", "POSITION_T", "POSITION_Y", "POSITION_X")
    return pd.DataFrame(
        [(t, *(float(spots[s].get(n)) for n in names)) for s, t in rows.items()],
        columns=["particle", "frame", "t", "y", "x"],
    )


def from_geff(path: Path) -> pd.DataFrame:
    graph, metadata = geff.read(path)
    time, *space = metadata.axes
    assert [axis.unit for axis in space] == ["micrometer", "micrometer"]
    return pd.DataFrame(
        [
            (v["track_id"], v["frame"], v["frame"] * time.scale, v["y_um"], v["x_um"])
            for _, v in graph.nodes(data=True)
        ],
        columns=["particle", "frame", "t", "y", "x"],
    )


def from_napari(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path).rename(columns={"track_id": "particle", "t": "frame"})
    return table.assign(t=table["frame"] * INTERVAL_S)


@pytest.mark.parametrize(
    ("to", "read"),
    [
        ("csv", from_csv),
        ("parquet", from_parquet),
        ("trackmate", from_trackmate),
        ("geff", from_geff),
        ("napari", from_napari),
    ],
)
def test_every_export_gives_diffusion_and_drift(
    run_folder: Path, tmp_path: Path, to: str, read
) -> None:
    with Recording(run_folder) as recording:
        assert export(recording, tmp_path / "out", to=to, min_frames=40) == 60
    table = read(tmp_path / "out").sort_values(["particle", "frame"])
    step = table.groupby("particle")[["frame", "t", "y", "x"]].diff().dropna()
    drift = (step[["y", "x"]].sum() / step["t"].sum()).to_numpy()
    size = np.linalg.norm(DRIFT_UM_PER_S)
    # 60 tracks of 20 s: diffusion itself leaves 0.026 µm/s, 0.2 % of the drift
    np.testing.assert_allclose(drift, DRIFT_UM_PER_S, atol=0.01 * size)
    own = step[["y", "x"]].to_numpy() - step[["t"]].to_numpy() * drift
    d_um2_per_s = (own**2).mean(axis=1).sum() / (2 * step["t"].sum())
    assert d_um2_per_s == pytest.approx(D_UM2_PER_S, rel=0.03)
