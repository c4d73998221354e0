"""The run file: what is written is read back."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from lodestar_live.data import TRACK_DTYPE, Event, RunInfo
from lodestar_live.errors import RecordingError
from lodestar_live.recording import Recorder, Recording
from lodestar_live.recording.export import export
from tests.streams.samples import RUN, make_update


def record(folder, n_frames: int = 5) -> None:
    recorder = Recorder(folder)
    recorder.open(RUN)
    for index in range(n_frames):
        recorder.write(make_update(index))
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


def test_csv_has_trackpy_names_beside_ours(tmp_path) -> None:
    record(tmp_path)
    with Recording(tmp_path) as recording:
        n = export(recording, tmp_path / "t.csv", to="csv", min_frames=5)
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert n == 3
    assert len(rows) == 15
    assert float(rows[0]["y"]) == float(rows[0]["y_px"])
    assert rows[0]["z_um"] == ""
