"""A quantity that is declared arrives everywhere: run file, wire, page, tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lodestar_live import channels
from lodestar_live.channels import CHANNELS, Action, Symmetry
from lodestar_live.data import (
    DETECTION_DTYPE,
    TRACK_DTYPE,
    UNITS,
    Detections,
    RunInfo,
    Tracks,
    Update,
)
from lodestar_live.recording import Recorder, Recording
from lodestar_live.recording.export import export
from lodestar_live.streams.messages import decode, encode
from lodestar_live.view.web.bundle import Part
from lodestar_live.view.web.live_feed import Cursor, LiveFeed
from lodestar_live.view.web.recorded_feed import RecordedFeed
from tests.streams.samples import make_update

COLUMNS = [name for name, _ in channels.columns()]


def told(update: Update) -> Update:
    """Return an update in which every column of every row holds a value of its own."""
    tracks = update.tracks.rows.copy()
    for index, name in enumerate(COLUMNS):
        tracks[name] = 100 * index + np.arange(len(tracks))
    detections = np.zeros(len(tracks), DETECTION_DTYPE)
    for name in COLUMNS:
        detections[name] = tracks[name]
    object.__setattr__(update, "tracks", Tracks(tracks))
    object.__setattr__(update, "detections", Detections(detections))
    return update


UPDATE = told(make_update(0, n=3))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    recorder = Recorder(folder)
    recorder.open(RunInfo("r", "2026-01-01"))
    recorder.write(UPDATE)
    recorder.close()
    return folder


def test_rows_have_a_column_and_a_unit_for_every_channel() -> None:
    assert list(DETECTION_DTYPE.names or ()) == COLUMNS
    assert {*COLUMNS} <= {*(TRACK_DTYPE.names or ())} == {*UNITS}
    for channel in CHANNELS:
        assert UNITS[channel.column] == channel.unit
        if channel.sigma_column is not None:
            assert UNITS[channel.sigma_column] == channel.unit


def test_names_and_outputs_are_unique() -> None:
    names = [channel.name for channel in CHANNELS]
    outputs = [channel.output for channel in CHANNELS if channel.output]
    assert len({*names}) == len(names) and len({*outputs}) == len(outputs)
    assert len({*COLUMNS}) == len(COLUMNS)
    assert all(channels.by_name(name).name == name for name in names)
    assert all(channels.of_output(output).output == output for output in outputs)


def test_the_run_file_holds_every_channel(run_folder: Path) -> None:
    with Recording(run_folder) as recording:
        rows = recording.tracks()
    for name in COLUMNS:
        np.testing.assert_array_equal(rows[name], UPDATE.tracks.rows[name])


def test_the_wire_carries_every_channel_with_its_unit() -> None:
    for topic, rows in (
        ("tracks", UPDATE.tracks.rows),
        ("detections", UPDATE.detections.rows),
    ):
        message = decode(encode(topic, {"v": 1, "seq": 0, "frame": 0}, rows))
        found = message.tracks or message.detections
        assert found is not None
        units = dict(
            zip(message.header["columns"], message.header["units"], strict=True)
        )
        for name in COLUMNS:
            np.testing.assert_array_equal(found.rows[name], rows[name])
            assert units[name] == UNITS[name]


def test_a_table_has_every_channel(run_folder: Path, tmp_path: Path) -> None:
    with Recording(run_folder) as recording:
        export(recording, tmp_path / "t.csv", to="csv", predictions=True)
    table = pd.read_csv(tmp_path / "t.csv")
    for name in COLUMNS:
        np.testing.assert_array_equal(table[name], UPDATE.tracks.rows[name])


def _columns_of(parts: Sequence[Part], topic: str) -> dict[str, np.ndarray]:
    (part,) = (part for part in parts if part.topic == topic)
    matrix = np.frombuffer(part.body, "<f8").reshape(-1, part.facts["n"])
    return dict(zip(part.facts["columns"], matrix, strict=True))


def test_the_page_is_fed_every_channel_live() -> None:
    feed = LiveFeed("tcp://127.0.0.1:1")
    header = {"v": 1, "seq": 0, "frame": 0, "run": "r"}
    feed.take(decode(encode("tracks", header, UPDATE.tracks.rows)))
    # `enter` would connect to a tracker; what it returns is a new page's cursor.
    found = _columns_of(feed.news(Cursor(), {}), "tracks")
    for name in COLUMNS:
        np.testing.assert_array_equal(found[name], UPDATE.tracks.rows[name])


def test_the_page_is_fed_every_channel_of_a_recorded_run(run_folder: Path) -> None:
    with Recording(run_folder) as recording:
        feed = RecordedFeed(recording, source="run")
        parts = feed.news(feed.enter(), {"frame": 0})
    found = _columns_of(parts, "tracks")
    for name in COLUMNS:
        np.testing.assert_array_equal(found[name], UPDATE.tracks.rows[name])


def test_votes_mean_what_the_symmetry_says() -> None:
    """What is added is added to the training particle's, a factor multiplies it."""
    votes = np.array([-1.0, 0.0, 2.0])
    z, scale = channels.by_name("z"), channels.by_name("scale")
    assert z.under(Symmetry.PROPAGATION) is Action.ADDS
    assert z.under(Symmetry.ROTATION) is Action.INVARIANT
    np.testing.assert_allclose(z.from_votes(votes, 0.5), votes + 0.5)
    assert scale.under(Symmetry.AMPLITUDE) is Action.SCALES
    np.testing.assert_allclose(scale.from_votes(votes, 3.0), 3 * np.exp(votes))
