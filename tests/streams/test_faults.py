"""What subscribers may do to a publisher: stall, die, come late; nothing slows it.

Ratios compare interleaved timings of one publisher in one run, so that other load on
the machine falls on both sides.
"""

from __future__ import annotations

import ast
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import zmq

import lodestar_live
from lodestar_live.errors import StreamError
from lodestar_live.streams import Publisher, Subscriber
from lodestar_live.streams.commands import Commands
from lodestar_live.streams.messages import decode
from tests.streams.samples import (
    RUN,
    make_update,
    publisher,
    receive,
    subscriber,
    wait_for,
)

__all__ = ["publisher"]

READER = textwrap.dedent("""
    import sys, zmq
    socket = zmq.Context().socket(zmq.SUB)
    socket.subscribe("")
    socket.connect(sys.argv[1])
    while True:
        parts = socket.recv_multipart()
        if parts[0] == b"tracks":
            print(parts[1].decode(), flush=True)
            if "once" in sys.argv:
                sys.stdin.read()  # stops receiving; its sockets stay alive
""")


@contextmanager
def reader_process(publisher: Publisher, *how: str) -> Iterator[subprocess.Popen]:
    """Yield another program that has surely received a message of the stream."""
    command = [sys.executable, "-c", READER, publisher.endpoints["stream"], *how]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        os.set_blocking(process.stdout.fileno(), False)
        index = 0
        while not process.stdout.readline():
            publisher.write(make_update(index))
            index += 1
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def write_ms(publisher: Publisher, n: int = 300) -> float:
    """Return the median of the worker's cost per update of 100 tracks."""
    update = make_update(0, n=100)
    costs = []
    for _ in range(n):
        started = time.perf_counter()
        publisher.write(update)
        costs.append(time.perf_counter() - started)
        time.sleep(0.001)
    return float(np.median(costs)) * 1e3


@pytest.mark.parametrize("fault", [signal.SIGSTOP, signal.SIGKILL])
def test_stalled_or_killed_reader_does_not_delay_others(
    publisher: Publisher, fault: signal.Signals
) -> None:
    with reader_process(publisher) as process, subscriber(publisher, "tracks") as good:
        process.send_signal(fault)
        for index in range(400):
            publisher.write(make_update(index, n=50))
            message = receive(good, "tracks")
            assert (message.frame, message.missed) == (index, 0)
        assert (publisher.n_dropped, publisher.n_failed) == (0, 0)
        # about 0.05 ms on an idle machine; `bench streams` compares the p99
        assert write_ms(publisher) < 2.0


def test_memory_is_bounded_while_a_reader_stalls(publisher: Publisher) -> None:
    process_memory = psutil.Process().memory_info
    update = make_update(0, n=1000)  # 160 kB of tracks, 90 kB of detections
    with reader_process(publisher, "once"), subscriber(publisher, "tracks") as good:
        before = process_memory().rss
        for _ in range(1000):  # 250 MB in all
            publisher.write(update)
            receive(good, "tracks")
        grown_mb = (process_memory().rss - before) / 1e6
    # 100 messages of 250 kB wait for the stalled reader, plus libzmq's batches
    assert grown_mb < 100


def test_stopped_reader_is_let_go_and_comes_back(publisher: Publisher) -> None:
    with reader_process(publisher) as process:
        process.send_signal(signal.SIGSTOP)
        update = make_update(0, n=2000)  # 500 kB: the buffers on the way fill up

        def is_let_go() -> bool:
            # only this reader subscribed to `image`: without it nobody wants it
            publisher.write(update)
            return "image" not in publisher.wanted_topics

        wait_for(is_let_go)
        process.send_signal(signal.SIGCONT)
        wait_for(lambda: "image" in publisher.wanted_topics)


def test_slow_reader_learns_exactly_what_it_missed(publisher: Publisher) -> None:
    update = make_update(0, n=2000)
    with (
        subscriber(publisher, "tracks") as slow,
        subscriber(publisher, "tracks") as quick,
    ):
        for _ in range(600):  # 190 MB: more than every queue on the way to `slow`
            publisher.write(update)
            receive(quick, "tracks")
        tracks = []
        while (message := slow.receive(timeout_s=1.0)) is not None:
            tracks += [message] if message.topic == "tracks" else []
    received = [m.seq for m in tracks]
    assert received == sorted(set(received))
    assert sum(m.missed for m in tracks) == received[-1] + 1 - len(tracks)
    assert len(tracks) < 600  # it did miss some


def test_latest_reader_that_slept_gets_the_newest(publisher: Publisher) -> None:
    period_s = 0.01
    with Subscriber(
        publisher.endpoints["stream"], latest=publisher.endpoints["latest"]
    ) as reader:
        started = time.perf_counter()
        index = 0
        ages = []
        while len(ages) < 5:
            publisher.write(make_update(index))
            index += 1
            time.sleep(max(0.0, started + index * period_s - time.perf_counter()))
            if index % 60 == 0:  # has not read for 0.6 s
                message = reader.latest()
                assert message is not None
                ages.append(index - 1 - message["frame"])
    assert max(ages) <= 2


def test_hundred_runs_leave_no_thread_or_file_behind() -> None:
    process = psutil.Process()
    Publisher("tcp://127.0.0.1:0", "tcp://127.0.0.1:0").close()
    threads, files = process.num_threads(), process.num_fds()
    for _ in range(100):
        one = Publisher("tcp://127.0.0.1:0", "tcp://127.0.0.1:0")
        one.open(RUN)
        one.write(make_update(0))
        one.close()
    wait_for(lambda: process.num_threads() <= threads)  # reaping takes a moment
    assert process.num_fds() <= files


def test_only_loopback_is_listened_on(publisher: Publisher) -> None:
    listening = [
        c.laddr.ip
        for c in psutil.Process().net_connections("tcp")
        if c.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 2
    assert set(listening) == {"127.0.0.1"}


def test_flood_of_subscriptions_is_harmless(publisher: Publisher) -> None:
    with zmq.Context() as context, context.socket(zmq.XSUB) as hostile:
        hostile.linger = 0
        hostile.connect(publisher.endpoints["stream"])
        for index in range(5000):
            hostile.send(b"\x01" + b"junk%d" % index)
            hostile.send(b"\x01run")
        with subscriber(publisher, "tracks") as good:
            wait_for(lambda: "tracks" in publisher.wanted_topics)
            publisher.write(make_update(1))
            assert receive(good, "tracks").frame == 1
    assert publisher.n_failed == 0


def test_outbox_overflow_is_counted_and_seen_as_a_gap(publisher: Publisher) -> None:
    update, n_written = make_update(0), 5000
    with subscriber(publisher, "tracks") as reader:
        for _ in range(n_written):  # faster than anything can be encoded
            publisher.write(update)
        publisher.close()
        tracks = [m for m in reader if m.topic == "tracks"]
    # libzmq drops the newest for a reader that is behind: perhaps the last few
    n_last = n_written - 1 - tracks[-1].seq
    assert n_last < 100
    n_missed = tracks[0].seq + sum(m.missed for m in tracks) + n_last
    assert len(tracks) + n_missed == n_written
    assert 0 < publisher.n_dropped <= n_missed


_RUNS_DATA = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}


@pytest.mark.parametrize("room", ["streams", "recording", "view", "live"])
def test_nothing_received_or_recorded_is_ever_unpickled_or_executed(room: str) -> None:
    """Fault F30: a peer or a file can hold anything; no code of ours would run it."""
    for path in Path(lodestar_live.__file__).parent.joinpath(room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not {a.name.split(".")[0] for a in node.names} & _RUNS_DATA
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in _RUNS_DATA
            elif isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                assert name not in {"recv_pyobj", "send_pyobj", "exec"}
                assert not (isinstance(node.func, ast.Name) and name == "eval")
                assert "allow_pickle=True" not in ast.unparse(node)


def test_a_pickle_sent_to_every_socket_is_not_run(publisher: Publisher) -> None:
    """Fault F30 over real sockets: the payload would make a file."""
    flag = Path(tempfile.mkdtemp()) / "was-run"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(flag),)

    bomb = pickle.dumps(Payload())
    with zmq.Context() as context:
        for kind, endpoint in ((zmq.XSUB, "stream"), (zmq.XSUB, "latest")):
            with context.socket(kind) as peer:
                peer.linger = 100
                peer.connect(publisher.endpoints[endpoint])
                peer.send(b"\x01" + bomb)
                peer.send(bomb)
    answer = json.loads(Commands({"ping": dict}).answer(bomb))
    assert not answer["ok"]
    with subscriber(publisher, "tracks") as good, pytest.raises(StreamError):
        publisher.write(make_update(0))
        receive(good, "tracks")
        decode([b"tracks", bomb, bomb])
    assert not flag.exists()
