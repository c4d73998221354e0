"""Exports, read back by the tools they are meant for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import geff
import numpy as np
import pandas as pd
import pytest
import trackpy

from lodestar_live.data import RunInfo, Tracks, Update
from lodestar_live.errors import InputError
from lodestar_live.recording import Recorder, Recording
from lodestar_live.recording.export import FORMATS, export
from tests.streams.samples import make_update


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of 6 frames: tracks 0 and 1 throughout, 2 in the first three."""
    folder = tmp_path_factory.mktemp("run")
    recorder = Recorder(folder)
    settings = {"linking": {"min_track_frames": 4}}
    recorder.open(RunInfo("r", "2026-01-01", settings, pixel_size_um=0.1))
    for index in range(6):
        update = make_update(index, n=3 if index < 3 else 2)
        recorder.write(_with_z(update))
    recorder.close()
    return folder


def _with_z(update: Update) -> Update:
    rows = update.tracks.rows.copy()
    rows["z_um"][rows["track_id"] == 1] = 2.5
    object.__setattr__(update, "tracks", Tracks(rows))
    return update


def written(run_folder: Path, to: str, path: Path, min_frames: int = 0) -> np.ndarray:
    with Recording(run_folder) as recording:
        rows = recording.tracks(min_frames)
        n = export(recording, path, to=to, min_frames=min_frames)
    assert n == len(np.unique(rows["track_id"]))
    return rows


def test_csv_feeds_trackpy_as_it_is(run_folder: Path, tmp_path: Path) -> None:
    rows = written(run_folder, "csv", tmp_path / "t.csv")
    table = pd.read_csv(tmp_path / "t.csv")
    np.testing.assert_array_equal(table["y"], rows["y_px"])
    np.testing.assert_array_equal(table["z_um"], rows["z_um"])
    np.testing.assert_array_equal(table["track_id"], table["particle"])
    long = trackpy.filter_stubs(table, 6)
    assert set(long["particle"]) == {0, 1}


def test_parquet_holds_the_same_table(run_folder: Path, tmp_path: Path) -> None:
    rows = written(run_folder, "parquet", tmp_path / "t.parquet")
    table = pd.read_parquet(tmp_path / "t.parquet")
    assert list(table.columns[:4]) == ["frame", "particle", "y", "x"]
    for name in rows.dtype.names:
        np.testing.assert_array_equal(table[name], rows[name])


def test_trackmate_csv_is_in_micrometres(run_folder: Path, tmp_path: Path) -> None:
    rows = written(run_folder, "trackmate", tmp_path / "t.csv")
    table = pd.read_csv(tmp_path / "t.csv")
    np.testing.assert_allclose(table["POSITION_X"], rows["x_px"] * 0.1)
    np.testing.assert_array_equal(table["TRACK_ID"], rows["track_id"])
    np.testing.assert_array_equal(table["FRAME"], rows["frame"])


def test_napari_csv_is_a_tracks_array(run_folder: Path, tmp_path: Path) -> None:
    rows = written(run_folder, "napari", tmp_path / "t.csv")
    table = pd.read_csv(tmp_path / "t.csv")
    assert list(table.columns) == ["track_id", "t", "z", "y", "x"]
    np.testing.assert_array_equal(table["t"], rows["frame"])


def test_geff_is_a_valid_graph_of_the_tracks(run_folder: Path, tmp_path: Path) -> None:
    rows = written(run_folder, "geff", tmp_path / "t.geff")
    geff.validate_structure(tmp_path / "t.geff")
    graph, metadata = geff.read(tmp_path / "t.geff")
    assert metadata.directed
    assert graph.number_of_nodes() == len(rows) == 15
    assert graph.number_of_edges() == 5 + 5 + 2
    for source, target in graph.edges:
        assert graph.nodes[source]["track_id"] == graph.nodes[target]["track_id"]
        assert graph.nodes[target]["frame"] == graph.nodes[source]["frame"] + 1
    node = graph.nodes[4]
    assert node["y_px"] == rows["y_px"][4]
    assert "z_um" not in node  # missing, as it was not measured


def test_short_trajectories_can_be_left_out(run_folder: Path, tmp_path: Path) -> None:
    written(run_folder, "csv", tmp_path / "t.csv", min_frames=4)
    assert set(pd.read_csv(tmp_path / "t.csv")["particle"]) == {0, 1}


@pytest.mark.parametrize("to", FORMATS)
def test_run_without_tracks_exports_as_an_empty_table(tmp_path: Path, to: str) -> None:
    recorder = Recorder(tmp_path)
    recorder.open(RunInfo("r", ""))
    recorder.close()
    with Recording(tmp_path) as recording:
        assert export(recording, tmp_path / "out", to=to) == 0
    assert (tmp_path / "out").exists()


def test_unknown_format_and_unwritable_path_are_named(
    run_folder: Path, tmp_path: Path
) -> None:
    with Recording(run_folder) as recording:
        with pytest.raises(InputError, match="'matlab': unknown; expected one of"):
            export(recording, tmp_path / "t", to="matlab")
        with pytest.raises(InputError, match="cannot be written"):
            export(recording, tmp_path / "absent" / "t.csv")


def test_command_line_writes_beside_the_run(run_folder: Path) -> None:
    command = [sys.executable, "-m", "lodestar_live", "export", str(run_folder)]
    for options, n in ([], 2), (["--min-frames", "1"], 3):  # the run itself says 4
        done = subprocess.run(
            [*command, "--to", "csv", *options],
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"{n} trajectories" in done.stdout
    assert (run_folder / "tracks.csv").is_file()
    failed = subprocess.run([*command, "--to", "xls"], capture_output=True, text=True)
    assert failed.returncode == 1
    assert "expected one of" in failed.stderr
