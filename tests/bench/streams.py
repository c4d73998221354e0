"""What publishing costs the worker, and how soon other programs know.

The reader is a second process. Stalled readers are compared with none in alternating
blocks of one run, so that other load on the machine falls on both alike.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import numpy as np
import zmq

from lodestar_live.bench.report import BenchReport, Table
from lodestar_live.data import (
    DETECTION_DTYPE,
    TRACK_DTYPE,
    Counts,
    Detections,
    Frame,
    Rows,
    RunInfo,
    Tracks,
    Update,
)
from lodestar_live.streams import Publisher
from lodestar_live.streams.messages import encode

_PERIOD_S = 0.01

# A reader in another process: decodes to arrays, and notes how long ago the worker
# handed the update over (the bench puts that instant into `t_arrival_s`).
_READER = """
import sys, time
from lodestar_live.streams import Subscriber
with Subscriber(sys.argv[1], sys.argv[3].split(",")) as subscriber:
    ages = []
    while (message := subscriber.receive(3.0)) is not None:  # `end` may be missed
        if message.topic == sys.argv[3].split(",")[0]:
            given_s = message.header["clock_zero_s"] + message.header["t_arrival_s"]
            ages.append((time.monotonic() - given_s) * 1e3)
            if len(ages) == 1:
                print("ready", flush=True)
    print(ages)
"""
_LATEST_READER = """
import sys, time
from lodestar_live.streams import Subscriber
with Subscriber(sys.argv[1], ("end",), latest=sys.argv[2]) as subscriber:
    assert subscriber.latest(10) is not None
    print("ready", flush=True)
    ages = []
    for _ in range(int(sys.argv[4])):
        time.sleep(2.0)
        message = subscriber.latest(10)
        ages.append(message["age_s"] * 1e3)
    print(ages, flush=True)
"""


def run(*, quick: bool = False, seed: int = 0) -> BenchReport:
    """Measure cost, latency and the effect of readers that stall or die."""
    report = BenchReport("streams")
    n_frames = 100 if quick else 1000
    report.tables.append(_cost_and_latency(n_frames, seed, quick=quick))
    report.tables.append(_bad_readers(60 if quick else 1000, seed, quick=quick))
    report.tables.append(_sleeping_reader(1 if quick else 5, seed))
    report.notes += [
        "worker: time inside Publisher.write, the only part the worker pays; thread: "
        "encoding tracks and detections on the publisher's own thread; age: from the "
        "worker's call to decoded arrays in another process, over tcp loopback, the "
        "wait for the publisher's thread included.",
        "baseline JSON: the same rows as JSON columns, encoding alone.",
        "Bars: worker <= 0.3 ms p50 at 1000; age p50 <= 1 ms; p99 with a bad reader "
        "< 2x without; a `latest` reader that slept 2 s gets a message <= 2 periods "
        "(20 ms) old.",
    ]
    if hasattr(os, "getloadavg"):
        busy = f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
        report.notes.append(f"Load of the machine while this ran: {busy}.")
    return report


def _cost_and_latency(n_frames: int, seed: int, *, quick: bool) -> Table:
    table = Table(
        "cost and latency, 100 frames/s",
        ["detections", "worker p50 ms", "worker p99 ms", "thread p50 ms",
         "JSON p50 ms", "age p50 ms", "age p99 ms"],
    )  # fmt: skip
    for n in (100, 1000) if quick else (100, 1000, 10_000):
        update = _make_update(n, seed)
        with _publisher() as publisher, _reader(publisher, "tracks,detections") as good:
            _publish_until_ready(publisher, good, update)
            costs = _publish(publisher, update, n_frames)
            publisher.close()
            ages = json.loads(good.communicate(timeout=60)[0])
        table.rows.append(
            [n, *_percentiles(costs), _encode_ms(update), _json_ms(update),
             *_percentiles(ages)]
        )  # fmt: skip
    return table


def _bad_readers(n_frames: int, seed: int, *, quick: bool) -> Table:
    table = Table(
        "worker cost beside bad readers, 1000 detections",
        ["reader", "p50 ms", "p99 ms", "p99 ratio to none"],
    )
    update = _make_update(1000, seed)
    n_blocks = 2 if quick else 6
    costs: dict[str, list[float]] = {"none": [], "stopped": [], "killed": []}
    for _ in range(n_blocks):
        for kind, collected in costs.items():
            with _publisher() as publisher, _reader(publisher, "tracks") as reader:
                _publish_until_ready(publisher, reader, update)
                if kind == "stopped":
                    reader.send_signal(signal.SIGSTOP)
                elif kind == "killed":
                    reader.kill()
                collected += _publish(publisher, update, n_frames // n_blocks)
    reference = np.percentile(costs["none"], 99)
    for kind, collected in costs.items():
        p50, p99 = _percentiles(collected)
        table.rows.append([kind, p50, p99, float(p99 / reference)])
    return table


def _sleeping_reader(n_reads: int, seed: int) -> Table:
    update = _make_update(100, seed)
    with _publisher() as publisher:
        arguments = [*publisher.endpoints.values(), "", str(n_reads)]
        with _process(_LATEST_READER, *arguments) as reader:
            _publish_until_ready(publisher, reader, update)
            ages: list[float] = []
            while not ages:
                _publish(publisher, update, 20)
                if reader.poll() is not None:
                    ages = json.loads(reader.communicate()[0])
    table = Table("`latest` after a sleep of 2 s, 100 frames/s", ["reads", "worst ms"])
    table.rows.append([len(ages), max(ages)])
    return table


@contextmanager
def _publisher() -> Iterator[Publisher]:
    publisher = Publisher("tcp://127.0.0.1:0", "tcp://127.0.0.1:0")
    publisher.open(RunInfo("bench", ""))
    try:
        yield publisher
    finally:
        publisher.close()


@contextmanager
def _process(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", script, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _reader(
    publisher: Publisher, topics: str
) -> AbstractContextManager[subprocess.Popen[str]]:
    return _process(_READER, *publisher.endpoints.values(), topics)


def _publish_until_ready(
    publisher: Publisher, reader: subprocess.Popen[str], update: Update
) -> None:
    """Publish until the reader has said that a message came through."""
    poller = zmq.Poller()
    poller.register(reader.stdout, zmq.POLLIN)
    while not poller.poll(10):
        publisher.write(update)
    assert reader.stdout is not None
    reader.stdout.readline()


def _publish(publisher: Publisher, update: Update, n_frames: int) -> list[float]:
    """Publish at a steady rate; return the worker's cost of each call in ms."""
    costs = []
    started = time.perf_counter()
    for index in range(n_frames):
        current = replace(
            update,
            frame=replace(update.frame, index=index, t_arrival_s=publisher.now_s()),
        )
        before = time.perf_counter()
        publisher.write(current)
        costs.append((time.perf_counter() - before) * 1e3)
        due = started + (index + 1) * _PERIOD_S
        time.sleep(max(0.0, due - time.perf_counter()))
    return costs


def _encode_ms(update: Update, n: int = 50) -> float:
    costs = []
    for _ in range(n):
        before = time.perf_counter()
        encode("tracks", {"v": 1, "seq": 0}, update.tracks.rows)
        encode("detections", {"v": 1, "seq": 0}, update.detections.rows)
        costs.append((time.perf_counter() - before) * 1e3)
    return float(np.median(costs))


def _json_ms(update: Update, n: int = 5) -> float:
    costs = []
    for _ in range(n):
        before = time.perf_counter()
        for rows in (update.tracks.rows, update.detections.rows):
            json.dumps({name: rows[name].tolist() for name in rows.dtype.names or ()})
        costs.append((time.perf_counter() - before) * 1e3)
    return float(np.median(costs))


def _make_update(n: int, seed: int) -> Update:
    rng = np.random.default_rng(seed)
    return Update(
        Frame(0, np.zeros((512, 512), np.uint16)),
        Detections(_make_rows(DETECTION_DTYPE, n, rng)),
        Tracks(_make_rows(TRACK_DTYPE, n, rng)),
        counts=Counts(1, 1),
    )


def _make_rows(dtype: np.dtype[np.void], n: int, rng: np.random.Generator) -> Rows:
    rows = np.zeros(n, dtype)
    for name in dtype.names or ():
        rows[name] = rng.uniform(0, 512, n)
    return rows


def _percentiles(values: list[float]) -> tuple[float, float]:
    p50, p99 = np.percentile(values, (50, 99))
    return float(p50), float(p99)
