"""Exports, read back by the tools they are meant for."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import geff
import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import trackpy

from lodestar_live.data import RunInfo, Tracks, Update
from lodestar_live.errors import InputError
from lodestar_live.recording import Recorder, Recording
from lodestar_live.recording.columns import describe_columns
from lodestar_live.recording.export import FORMATS, export
from tests.streams.samples import make_update


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of 6 frames: tracks 0 and 1 throughout, 2 in the first three.

    Track 1 is missed in frame 4: its row there is a prediction.
    """
    folder = tmp_path_factory.mktemp("run")
    recorder = Recorder(folder)
    settings = {"linking": {"min_track_frames": 4}}
    recorder.open(RunInfo("r", "2026-01-01", settings, pixel_size_um=0.1))
    for index in range(6):
        update = make_update(index, n=3 if index < 3 else 2)
        recorder.write(_plausible(update))
    recorder.close()
    return folder


def _plausible(update: Update) -> Update:
    rows = update.tracks.rows.copy()
    rows["z_um"][rows["track_id"] == 1] = 2.5
    rows["y_um"] = rows["x_um"] = np.nan  # worked out from stage and pixel size
    is_missed = (rows["track_id"] == 1) & (update.frame.index == 4)
    rows["missed_frames"] = is_missed
    object.__setattr__(update, "tracks", Tracks(rows))
    return update


def written(run_folder: Path, to: str, path: Path, min_frames: int = 0) -> np.ndarray:
    with Recording(run_folder) as recording:
        rows = recording.tracks(min_frames, measured_only=True)
        n = export(recording, path, to=to, min_frames=min_frames)
    assert n == len(np.unique(rows["track_id"]))
    return rows


def test_sample_positions_are_pixels_scaled_beside_the_stage(run_folder: Path) -> None:
    rows = Recording(run_folder).tracks()
    # frames of 16 x 16, the stage at y = 20 µm
    np.testing.assert_allclose(rows["y_um"], 20.0 + 0.1 * (rows["y_px"] - 7.5))


def test_csv_feeds_trackpy_in_micrometres_and_seconds(
    run_folder: Path, tmp_path: Path
) -> None:
    rows = written(run_folder, "csv", tmp_path / "t.csv")
    table = pd.read_csv(tmp_path / "t.csv")
    np.testing.assert_array_equal(table["y"], rows["y_um"])
    np.testing.assert_array_equal(table["t"], rows["t_exposure_s"])
    np.testing.assert_array_equal(table["z_um"], rows["z_um"])
    np.testing.assert_array_equal(table["track_id"], table["particle"])
    long = trackpy.filter_stubs(table, 6)
    assert set(long["particle"]) == {0}  # track 1 was missed once


def test_predictions_are_exported_only_when_asked_for(
    run_folder: Path, tmp_path: Path
) -> None:
    with Recording(run_folder) as recording:
        assert not recording.tracks()["is_measured"].all()
        export(recording, tmp_path / "m.csv")
        export(recording, tmp_path / "p.csv", predictions=True)
        with pytest.raises(InputError, match="cannot tell them from measurements"):
            export(recording, tmp_path / "p.xml", to="trackmate", predictions=True)
    measured, every = (pd.read_csv(tmp_path / f"{n}.csv") for n in "mp")
    assert (len(measured), len(every)) == (14, 15)
    assert every[every["is_measured"] == 0][["frame", "particle"]].values.tolist() == [
        [4, 1]
    ]


def test_parquet_holds_the_same_table_with_its_units(
    run_folder: Path, tmp_path: Path
) -> None:
    rows = written(run_folder, "parquet", tmp_path / "t.parquet")
    table = pd.read_parquet(tmp_path / "t.parquet")
    assert list(table.columns[:4]) == ["frame", "particle", "y", "x"]
    for name in rows.dtype.names:
        np.testing.assert_array_equal(table[name], rows[name])
    schema = pyarrow.parquet.read_schema(tmp_path / "t.parquet")
    units = json.loads(schema.metadata[b"units"])
    assert {units[n] for n in ("y", "x", "ep", "y_um")} == {"um"}
    assert set(units) >= set(table.columns)
    assert schema.field("t_exposure_s").metadata[b"unit"] == b"s"


def test_every_column_is_described() -> None:
    for name, (unit, meaning) in describe_columns().items():
        assert meaning, name
        for suffix, expected in (("_um", "um"), ("_px", "px"), ("_s", "s")):
            if name.endswith(suffix):
                assert unit == expected, name


def test_trackmate_reads_spots_links_image_and_calibration(
    run_folder: Path, tmp_path: Path
) -> None:
    movie = tmp_path / "movie.tif"
    movie.touch()
    with Recording(run_folder) as recording:
        rows = recording.tracks(measured_only=True)
        export(recording, tmp_path / "t.xml", to="trackmate", movie=movie)
    spots, tracks, image = read_as_trackmate_does(tmp_path / "t.xml")
    np.testing.assert_allclose(
        [s["POSITION_Y"] for s in spots.values()], rows["y_px"] * 0.1, atol=1e-9
    )
    assert {s["FRAME"] for s in spots.values()} == set(range(6))
    assert {t: len(e) for t, e in tracks.items()} == {0: 5, 1: 4, 2: 2}
    for source, target in (edge for edges in tracks.values() for edge in edges):
        assert spots[source]["FRAME"] < spots[target]["FRAME"]
    assert Path(image["folder"]) / image["filename"] == movie
    assert float(image["pixelwidth"]) == pytest.approx(0.1)
    assert float(image["timeinterval"]) == pytest.approx(0.01)
    assert (image["width"], image["height"], image["nframes"]) == ("16", "16", "6")


def read_as_trackmate_does(path: Path) -> tuple[dict, dict, dict]:
    """Follow `TmXmlReader.java`: what it looks up must be there and of its type."""
    root = ElementTree.parse(path).getroot()
    assert root.tag == "TrackMate"
    assert tuple(int(n) for n in root.get("version").split(".")) >= (2, 1, 0)
    model, settings = root.find("Model"), root.find("Settings")
    assert model.get("spatialunits") == "µm"
    assert model.get("timeunits") == "sec"
    declared = {
        group: {f.get("feature") for f in model.find(f"FeatureDeclarations/{group}")}
        for group in ("SpotFeatures", "EdgeFeatures", "TrackFeatures")
    }
    spots = {}
    for in_frame in model.find("AllSpots").iter("SpotsInFrame"):
        for spot in in_frame.iter("Spot"):
            values = {k: v for k, v in spot.items() if k not in ("ID", "name")}
            assert set(values) <= declared["SpotFeatures"]
            # Java's Double.valueOf takes NaN but not nan
            assert all(math.isfinite(float(v)) for v in values.values())
            spots[int(spot.get("ID"))] = {k: float(v) for k, v in values.items()}
            assert spot.get("FRAME") == in_frame.get("frame")
    assert int(model.find("AllSpots").get("nspots")) == len(spots)
    tracks = {}
    for track in model.find("AllTracks").iter("Track"):
        assert set(track.keys()) - {"name"} <= declared["TrackFeatures"]
        edges = [
            (int(e.get("SPOT_SOURCE_ID")), int(e.get("SPOT_TARGET_ID")))
            for e in track.iter("Edge")
        ]
        assert {spot for edge in edges for spot in edge} <= set(spots)
        tracks[int(track.get("TRACK_ID"))] = edges
    shown = {int(t.get("TRACK_ID")) for t in model.find("FilteredTracks")}
    assert shown == set(tracks)
    for name in (
        "BasicSettings", "DetectorSettings", "TrackerSettings", "InitialSpotFilter",
        "SpotFilterCollection", "TrackFilterCollection",
        "AnalyzerCollection/SpotAnalyzers", "AnalyzerCollection/EdgeAnalyzers",
        "AnalyzerCollection/TrackAnalyzers",
    ):  # fmt: skip
        assert settings.find(name) is not None, name
    assert root.find("GUIState").get("state")
    assert root.find("DisplaySettings") is not None
    return dict(sorted(spots.items())), tracks, settings.find("ImageData").attrib


def test_napari_csv_is_a_tracks_array(run_folder: Path, tmp_path: Path) -> None:
    rows = written(run_folder, "napari", tmp_path / "t.csv")
    table = pd.read_csv(tmp_path / "t.csv")
    assert list(table.columns) == ["track_id", "t", "z", "y", "x"]
    np.testing.assert_array_equal(table["t"], rows["frame"])
    np.testing.assert_array_equal(table["y"], rows["y_um"])


def test_geff_is_a_valid_scaled_graph_of_the_tracks(
    run_folder: Path, tmp_path: Path
) -> None:
    rows = written(run_folder, "geff", tmp_path / "t.geff")
    geff.validate_structure(tmp_path / "t.geff")
    graph, metadata = geff.read(tmp_path / "t.geff")
    assert metadata.directed
    assert [(a.name, a.unit) for a in metadata.axes] == [
        ("frame", "frame"),
        ("y_um", "micrometer"),
        ("x_um", "micrometer"),
    ]
    assert metadata.axes[0].scale == pytest.approx(0.01)
    assert metadata.axes[0].scaled_unit == "second"
    assert metadata.track_node_props == {"tracklet": "track_id", "lineage": "track_id"}
    assert graph.number_of_nodes() == len(rows) == 14
    assert graph.number_of_edges() == 5 + 4 + 2
    for source, target in graph.edges:
        assert graph.nodes[source]["track_id"] == graph.nodes[target]["track_id"]
        assert graph.nodes[target]["frame"] > graph.nodes[source]["frame"]
    node = graph.nodes[4]
    assert node["y_um"] == rows["y_um"][4]
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
