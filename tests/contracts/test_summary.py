"""What is known of each track's motion: declared once, from linker to all ends."""

from __future__ import annotations

import json
import sqlite3
from importlib.resources import files

import numpy as np

from lodestar_live.data import (
    MOTION_STATES,
    SUMMARY_DTYPE,
    SUMMARY_UNITS,
    Detections,
    Frame,
    RunInfo,
)
from lodestar_live.linking import Linker
from lodestar_live.pipeline import LinkStep, Pipeline
from lodestar_live.pipeline.pipeline import SUMMARY_EVERY_S
from lodestar_live.recording.recorder import Recorder
from lodestar_live.streams import Publisher
from tests.streams.samples import receive, subscriber

PLACES = 40.0 * np.indices((3, 4)).reshape(2, -1).T
N_FRAMES, INTERVAL_S = 50, 0.1


def test_units_schema_and_dtype_agree():
    schema = json.loads(
        (files("lodestar_live.streams") / "schemas" / "summary.json").read_text()
    )
    assert schema["properties"]["columns"]["const"] == list(SUMMARY_DTYPE.names)
    assert set(SUMMARY_UNITS) == set(SUMMARY_DTYPE.names)


def test_the_summary_reaches_wire_and_run_file_twice_a_second(tmp_path):
    """The real linker, pipeline, socket and file; 50 frames of 0.1 s by the clock."""
    rng, now = np.random.default_rng(0), {"s": 0.0}
    paths = PLACES + rng.normal(0, 1, (N_FRAMES, *PLACES.shape)).cumsum(axis=0)
    publisher = Publisher("tcp://127.0.0.1:0", None)
    recorder = Recorder(tmp_path)
    link = LinkStep(Linker())
    pipeline = Pipeline(
        lambda frame: Detections.from_positions(paths[frame.index], sigma_px=0.1),
        link,
        summarise=link.summary,
        sinks=(publisher, recorder),
        clock=lambda: now["s"],
    )
    for sink in pipeline.sinks:
        sink.open(RunInfo("run-1", "2026-01-01T00:00:00+00:00"))
    with subscriber(publisher, "summary") as reader:
        made = []
        for k in range(N_FRAMES):
            now["s"] = (k + 1) * INTERVAL_S
            frame = Frame(k, np.zeros((8, 8)), now["s"], now["s"], sigma_t_s=1e-4)
            made.append(pipeline.process(frame).summary)
        newest = [rows for rows in made if rows is not None]
        n_most = N_FRAMES * INTERVAL_S / SUMMARY_EVERY_S
        assert 0.6 * n_most <= len(newest) <= n_most
        received = [receive(reader, "summary") for _ in newest]
    for sink in pipeline.sinks:
        sink.close()
    for message, rows in zip(received, newest, strict=True):
        assert message.summary.tobytes() == rows.tobytes()
        assert message.missed == 0
    assert received[0].header["states"] == list(MOTION_STATES)
    assert received[0].header["units"] == list(SUMMARY_UNITS.values())
    last = newest[-1]
    np.testing.assert_allclose(last["interval_s"], INTERVAL_S, rtol=1e-6)
    # 12 tracks of some 48 steps, D = 0.5 px² per frame: the mean is known to 7 %.
    assert abs(last["d_px2_per_frame"].mean() - 0.5) < 0.15
    with sqlite3.connect(recorder.path) as database:
        names = [
            column[1] for column in database.execute("PRAGMA table_info(track_summary)")
        ]
        table = database.execute("SELECT * FROM track_summary ORDER BY track_id")
        found = np.array(table.fetchall(), float)
    database.close()
    assert names == list(SUMMARY_DTYPE.names)
    expected = np.array([[float(v) for v in row] for row in last.tolist()])
    np.testing.assert_allclose(found, expected)
