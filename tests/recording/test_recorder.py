"""The run file: what is written is read back."""

from __future__ import annotations

import csv
import sqlite3
from dataclasses import replace

import numpy as np
import pytest

from lodestar_live.data import TRACK_DTYPE, Event, RunInfo, Tracks
from lodestar_live.errors import RecordingError
from lodestar_live.recording import Recorder, Recording
from lodestar_live.recording.export import export
from tests.streams.samples import RUN, make_update, wait_for


def record(folder, n_frames: int = 5, *, is_seen: bool = False) -> None:
    recorder = Recorder(folder)
    recorder.open(RUN)
    for index in range(n_frames):
        update = make_update(index)
        if is_seen:
            rows = update.tracks.rows.copy()
            rows["missed_frames"] = 0
            update = replace(update, tracks=Tracks(rows))
        recorder.write(update)
    recorder.close()
    assert (recorder.n_frames, recorder.n_lost) == (n_frames, 0)


def test_tracks_and_frames_are_read_back_exactly(tmp_path) -> None:
    record(tmp_path)
    with Recording(tmp_path) as recording:
        frames, tracks = recording.frames(), recording.tracks()
        assert recording.info.run == "run-1"
        assert recording.info.settings == {"name": "test"}
    assert frames["frame"].tolist() == [0, 1, 2, 3, 4]
    assert set(frames["state"]) == {"processed"}
    assert np.isnan(frames["stage_z_um"]).all()
    assert (frames["stage_y_um"] == 20.0).all()
    for index in range(5):
        expected = make_update(index).tracks.rows
        for name in TRACK_DTYPE.names:
            read = tracks[tracks["frame"] == index][name]
            np.testing.assert_array_equal(read, expected[name])


def test_unprocessed_frames_have_their_row_too(tmp_path) -> None:
    recorder = Recorder(tmp_path)
    recorder.open(RUN)
    stage_um = {"z": None, "y": 1.0, "x": 2.0}
    for index, state in enumerate(("dropped", "failed", "waiting")):
        details = {"t_exposure_s": 0.1, "stage_um": stage_um, "error": "x"}
        recorder.tell(Event(f"frame.{state}", 0.2, index, details))
    recorder.close()
    with Recording(tmp_path) as recording:
        frames = recording.frames()
        events = recording.events()
    assert frames["state"].tolist() == ["dropped", "failed", "waiting"]
    assert (frames["stage_x_um"] == 2.0).all()
    assert [e.kind for e in events] == ["frame.failed"]


def test_second_run_does_not_overwrite_the_first(tmp_path) -> None:
    record(tmp_path)
    with pytest.raises(RecordingError, match="exists already"):
        Recorder(tmp_path).open(RUN)


def test_folder_that_cannot_be_made_is_an_error_at_open(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match="cannot be written"):
        Recorder(tmp_path / "file" / "run").open(RUN)


def test_absent_or_foreign_file_is_named(tmp_path) -> None:
    with pytest.raises(RecordingError, match="no run file"):
        Recording(tmp_path / "absent")
    (tmp_path / "run.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(RecordingError, match="not a readable run file"):
        Recording(tmp_path)


def test_run_without_pixel_size_is_nan(tmp_path) -> None:
    recorder = Recorder(tmp_path)
    recorder.open(RunInfo("r", "now"))
    recorder.close()
    with Recording(tmp_path) as recording:
        assert np.isnan(recording.info.pixel_size_um)
        assert len(recording.tracks()) == 0


def test_run_without_pixel_size_is_exported_in_pixels(tmp_path) -> None:
    record(tmp_path, is_seen=True)
    with Recording(tmp_path) as recording:
        n = export(recording, tmp_path / "t.csv", to="csv", min_frames=5)
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert n == 3
    assert len(rows) == 15
    assert all(float(row["y"]) == float(row["y_px"]) for row in rows)
    assert rows[0]["z_um"] == ""


def test_end_says_how_and_why(tmp_path) -> None:
    recorder = Recorder(tmp_path)
    recorder.open(RUN)
    wait_for(lambda: Recording(tmp_path).end.status == "running")
    why = {"status": "failed", "reason": "RuntimeError: camera timeout"}
    recorder.tell(Event("run.end", 1.0, details=why))
    recorder.close()
    end = Recording(tmp_path).end
    assert (end.status, end.reason, end.frames_lost) == (*why.values(), 0)


def test_sql_readers_find_trajectories_with_time_and_place(tmp_path) -> None:
    record(tmp_path)
    database = sqlite3.connect(tmp_path / "run.sqlite")
    names = "t_exposure_s, y_um, stage_y_um, is_measured, position, channel"
    rows = database.execute(f"SELECT {names} FROM trajectories").fetchall()
    database.close()
    assert len(rows) == 15
    assert {row[2] for row in rows} == {20.0}


VERSION_1 = """
CREATE TABLE run (
    run TEXT, started TEXT, schema_version INTEGER, settings TEXT, versions TEXT,
    model TEXT, model_sha256 TEXT, calibration TEXT, pixel_size_um REAL, ended_s REAL,
    frames_lost INTEGER DEFAULT 0
);
CREATE TABLE frames (frame INTEGER, state TEXT, t_exposure_s REAL, t_arrival_s REAL,
    stage_z_um REAL, stage_y_um REAL, stage_x_um REAL, n_detections INTEGER,
    degraded INTEGER, height_px INTEGER, width_px INTEGER, pixel_size_um REAL,
    PRIMARY KEY (frame));
CREATE TABLE tracks (frame INTEGER, y_px REAL, x_px REAL, z_um REAL, score REAL,
    flags INTEGER, track_id INTEGER, missed_frames INTEGER,
    PRIMARY KEY (frame, track_id)) WITHOUT ROWID;
CREATE TABLE events (
    id INTEGER PRIMARY KEY, t_s REAL, frame INTEGER, kind TEXT, details TEXT
);
INSERT INTO run VALUES ('old', '2026-01-01', 1, '{}', '{}', '{}', NULL,
    '{"matrix_um_per_px": [[0.0, 0.5], [-0.5, 0.0]]}', NULL, 1.0, 0);
INSERT INTO frames VALUES
    (0, 'processed', 0.0, 0.1, NULL, 10.0, 20.0, 1, 0, 11, 21, NULL),
    (1, 'processed', 0.1, 0.2, NULL, 11.0, 22.0, 1, 0, 11, 21, NULL);
INSERT INTO tracks VALUES (0, 5.0, 10.0, NULL, 1.0, 0, 3, 0),
    (1, 7.0, 14.0, NULL, 1.0, 0, 3, 1);
INSERT INTO events VALUES (1, 0.1, 0, 'track.birth', '{}');
"""


def write_version_1(path):
    database = sqlite3.connect(path)
    database.executescript(VERSION_1)
    database.close()
    return path


def test_file_of_version_1_is_read_with_sample_positions(tmp_path) -> None:
    path = write_version_1(tmp_path / "run.sqlite")
    with Recording(path) as recording:
        rows, frames, end = recording.tracks(), recording.frames(), recording.end
        assert recording.schema_version == 1
    assert end.status == "unknown"
    assert frames["channel"].tolist() == ["", ""]
    assert rows["is_measured"].tolist() == [True, False]
    # the centre of the first frame lies where the stage stood; then (2, 4) px off it
    np.testing.assert_allclose(rows["y_um"], [10.0, 11.0 + 0.5 * 4])
    np.testing.assert_allclose(rows["x_um"], [20.0, 22.0 - 0.5 * 2])
    assert np.isnan(rows["sigma_px"]).all()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("UPDATE run SET schema_version = 99", "99; this program reads up to"),
        ("UPDATE run SET schema_version = 'x'", "'run' is damaged"),
        ("UPDATE run SET settings = '{'", "'run' is damaged"),
        ("UPDATE run SET calibration = '[1]'", "'run' is damaged"),
        ("UPDATE run SET calibration = '{\"matrix_um_per_px\": 3}'", "'run' is dama"),
        ("UPDATE run SET pixel_size_um = 'wide'", "'run' is damaged"),
        ("DELETE FROM run", "holds no run"),
        ("DROP TABLE tracks", "no table 'tracks'"),
        ("ALTER TABLE tracks DROP COLUMN y_px", "no column y_px"),
        ("UPDATE tracks SET y_px = 'here'", "table 'tracks'"),
        ("UPDATE frames SET t_exposure_s = 'now'", "table 'frames'"),
        ("UPDATE events SET details = 'x'", "events"),
        ("UPDATE events SET details = NULL", "events"),
        ("UPDATE tracks SET flags = 9e99", "table 'tracks'"),
    ],
)
def test_damaged_file_is_named_not_a_traceback(tmp_path, edit, message) -> None:
    path = write_version_1(tmp_path / "run.sqlite")
    database = sqlite3.connect(path)
    with database:
        database.execute(edit)
    database.close()
    with pytest.raises(RecordingError, match=message), Recording(path) as recording:
        recording.tracks()
        recording.events()


def test_rows_of_frames_that_are_gone_are_read_without_their_time(tmp_path) -> None:
    path = write_version_1(tmp_path / "run.sqlite")
    database = sqlite3.connect(path)
    with database:
        database.execute("DELETE FROM frames WHERE frame = 1")
    database.close()
    rows = Recording(path).tracks()
    assert np.isnan(rows["t_exposure_s"]).tolist() == [False, True]
