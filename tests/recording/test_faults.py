"""The run file under SIGKILL, a full disk, a vanished folder and concurrent readers."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lodestar_live.data import Event, Frame, StagePosition
from lodestar_live.recording import Recorder, Recording
from tests.streams.samples import RUN, make_update, wait_for

ROOT = Path(__file__).resolve().parents[2]

KILLS = """
import json, os, random, signal, sys, time
from dataclasses import replace
from lodestar_live.recording import Recorder
from tests.streams.samples import RUN, make_update

def record(folder, pipe):
    recorder = Recorder(folder)
    recorder.open(RUN)
    update, told, index = make_update(0, n=20), 0, 0
    while True:
        recorder.write(replace(update, frame=replace(update.frame, index=index)))
        index += 1
        time.sleep(0.0005)
        if recorder.n_frames != told:  # these are committed: they may not be lost
            told = recorder.n_frames
            os.write(pipe, b"%d " % told)

acked = []
random.seed(0)
for kill in range(20):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        record(os.path.join(sys.argv[1], str(kill)), writer)
    os.close(writer)
    told = os.read(reader, 100)
    time.sleep(random.uniform(0.0, 0.2))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(reader, 65536):
        told += more
    os.close(reader)
    acked.append(int(told.split()[-1]))
print(json.dumps(acked))
"""

FULL_DISK = """
import json, resource, sys, time
from dataclasses import replace
from lodestar_live.recording import Recorder
from tests.streams.samples import RUN, make_update

def write(n):
    global index
    for _ in range(n):
        started = time.perf_counter()
        recorder.write(replace(update, frame=replace(update.frame, index=index)))
        costs.append(time.perf_counter() - started)
        index += 1

def wait_for(condition):
    while not condition():
        time.sleep(0.01)

update, index, costs, told = make_update(0, n=10), 0, [], []
recorder = Recorder(sys.argv[1], tell=told.append, queue_bytes=2_000_000)
recorder.open(RUN)
write(10)
wait_for(lambda: recorder.n_frames == 10)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
while not recorder.degraded:
    write(20)
    time.sleep(0.02)
write(3000)  # more than the queue holds
while_full = recorder.n_frames
was_degraded = recorder.degraded
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
wait_for(lambda: not recorder.degraded)
write(100)
recorder.close()
print(json.dumps(dict(
    written=index, kept=recorder.n_frames, lost=recorder.n_lost,
    while_full=while_full, was_degraded=was_degraded,
    told=[(event.kind, event.details["n_lost"]) for event in told],
    p99_ms=sorted(costs)[-len(costs) // 100] * 1e3,
)))
"""


def start(script: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def test_twenty_kills_lose_no_committed_row(tmp_path: Path) -> None:
    output, errors = start(KILLS, tmp_path).communicate(timeout=100)
    assert output, errors
    for kill, acked in enumerate(json.loads(output)):
        with Recording(tmp_path / str(kill)) as recording:
            frames, tracks = recording.frames(), recording.tracks()
        assert len(frames) >= acked > 0
        np.testing.assert_array_equal(frames["frame"], np.arange(len(frames)))
        assert len(tracks) == 20 * len(frames)


def test_full_disk_is_survived_counted_and_left_exact(tmp_path: Path) -> None:
    process = start(FULL_DISK, tmp_path)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    facts = json.loads(output)
    assert facts["was_degraded"]
    assert [kind for kind, _ in facts["told"]] == [
        "recording.degraded",
        "recording.resumed",
    ]
    assert facts["told"][1][1] == facts["lost"]
    assert facts["lost"] > 0
    assert facts["kept"] + facts["lost"] == facts["written"]
    assert facts["kept"] > facts["while_full"]
    assert facts["p99_ms"] < 5.0  # the worker never waited for the disk
    with Recording(tmp_path) as recording:
        frames, tracks = recording.frames(), recording.tracks()
    assert len(frames) == facts["kept"]
    assert len(tracks) == 10 * facts["kept"]
    with sqlite3.connect(tmp_path / "run.sqlite") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("SELECT frames_lost FROM run").fetchone() == (
            facts["lost"],
        )
    database.close()


@contextmanager
def recording_to(
    folder: Path, **options: int
) -> Iterator[tuple[Recorder, list[Event]]]:
    """Yield a recorder with ten frames in its file, and what it tells."""
    told: list[Event] = []
    recorder = Recorder(folder, tell=told.append, **options)
    recorder.open(RUN)
    for index in range(10):
        recorder.write(make_update(index))
    wait_for(lambda: recorder.n_frames == 10)
    yield recorder, told
    recorder.close()


def hold_the_lock(path: Path) -> Callable[[], object]:
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    return other.close


def remove(path: Path) -> Callable[[], object]:
    shutil.rmtree(path.parent)
    return lambda: None


def cut(path: Path) -> Callable[[], object]:
    os.truncate(path, 100)
    return lambda: None


def overwrite(path: Path) -> Callable[[], object]:
    n_bytes = path.stat().st_size
    path.write_bytes(b"\xaa" * n_bytes)
    return lambda: None


@pytest.mark.parametrize(
    ("spoil", "n_lost"),
    [(hold_the_lock, 0), (remove, 10), (cut, 10), (overwrite, 10)],
)
def test_trouble_is_told_written_into_the_rows_and_over_again(
    tmp_path: Path, spoil: Callable[[Path], Callable[[], object]], n_lost: int
) -> None:
    folder = tmp_path / "run"
    with recording_to(folder) as (recorder, told):
        mend = spoil(folder / "run.sqlite")
        recorder.write(make_update(10))
        wait_for(lambda: recorder.degraded)
        recorder.write(make_update(11))
        mend()
        wait_for(lambda: not recorder.degraded)
        recorder.write(make_update(12))
    assert [event.kind for event in told] == [
        "recording.degraded",
        "recording.resumed",
    ]
    assert (recorder.n_lost, recorder.n_frames) == (n_lost, 13 - n_lost)
    with Recording(folder) as recording:
        frames = recording.frames()
    assert frames["frame"].tolist() == list(range(n_lost, 13))
    assert frames["degraded"][-3:].tolist() == [0, 1, 0]
    with sqlite3.connect(folder / "run.sqlite") as database:
        row = database.execute("SELECT frames_lost, status FROM run").fetchone()
    database.close()
    assert row == (n_lost, "completed")


def test_file_that_is_cut_while_nothing_comes_is_noticed_within_a_second(
    tmp_path: Path,
) -> None:
    with recording_to(tmp_path) as (recorder, told):
        os.truncate(tmp_path / "run.sqlite", 100)
        wait_for(lambda: recorder.degraded, timeout_s=10.0)
        assert "was cut from" in told[0].details["why"]
    assert (tmp_path / "run.damaged-1.sqlite").stat().st_size >= 100


def test_what_waits_is_bounded_in_bytes(tmp_path: Path) -> None:
    update = make_update(0, n=2000)
    most = 5 * update.tracks.rows.nbytes
    with recording_to(tmp_path, queue_bytes=most) as (recorder, told):
        mend = hold_the_lock(tmp_path / "run.sqlite")
        for index in range(10, 60):
            recorder.write(replace(update, frame=replace(update.frame, index=index)))
            assert recorder.n_waiting_bytes <= most
        mend()
        wait_for(lambda: not recorder.degraded)
    assert recorder.n_lost > 0
    assert recorder.n_frames + recorder.n_lost == 60
    assert told[0].details["why"].startswith("what waits")


def test_readers_see_whole_frames_while_it_is_written(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.open(RUN)
    done = threading.Event()

    def write() -> None:
        for index in range(400):
            recorder.write(make_update(index, n=5))
            time.sleep(0.001)
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    lengths = []
    with Recording(tmp_path) as recording:
        while not done.is_set():
            tracks = recording.tracks()
            lengths.append(len(tracks))
            assert len(tracks) % 5 == 0
    thread.join()
    recorder.close()
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 2


def test_values_sqlite_cannot_hold_lose_only_their_own_batch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(tmp_path)
    recorder.open(RUN)
    bad = Frame(0, np.zeros((4, 4)), stage_um=StagePosition(object(), 0.0, 0.0))  # type: ignore[arg-type]
    recorder.write(replace(make_update(0), frame=bad))
    wait_for(lambda: recorder.n_lost == 1)
    recorder.write(make_update(1))
    recorder.close()
    assert recorder.n_frames == 1
    assert "not recorded" in caplog.text


def test_closing_twice_and_before_opening_is_harmless(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.close()
    recorder.open(RUN)
    recorder.close()
    recorder.close()


_DETAILS = st.dictionaries(
    st.text(max_size=8),
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    max_size=4,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    events=st.lists(
        st.builds(
            Event,
            st.sampled_from(["track.birth", "frame.dropped", "frame.odd", "Ünïcode"]),
            st.floats(0, 1e6),
            st.integers(0, 50),
            _DETAILS,
        ),
        max_size=20,
    )
)
def test_any_events_are_read_back(tmp_path_factory, events: list[Event]) -> None:
    folder = tmp_path_factory.mktemp("run")
    recorder = Recorder(folder)
    recorder.open(RUN)
    for event in events:
        recorder.tell(event)
    recorder.close()
    with Recording(folder) as recording:
        frames, read = recording.frames(), recording.events()
    expected = [e for e in events if e.kind != "frame.dropped"]
    assert read == expected
    dropped = {e.frame for e in events if e.kind == "frame.dropped"}
    assert set(frames["frame"].tolist()) == dropped
