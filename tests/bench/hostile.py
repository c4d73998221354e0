"""Hostile connections in great number against the publisher's three sockets.

A publisher in a process of its own, and clients that speak ZMTP byte by byte: they send
much and leave, reset, send PINGs in between, subscribe to nonsense, imitate HTTP, or
say half a greeting. The same attack runs against bare libzmq sockets with a high-water
mark and heartbeats, which is what aborts.
"""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psutil

from lodestar_live.bench.report import BenchReport, Table
from lodestar_live.errors import StreamError
from lodestar_live.streams import request
from tests.streams.hostile import GREETING, connect, greet, hurried_client, ready

TRACKER = """
import sys
from lodestar_live.data import RunInfo
from lodestar_live.streams import Publisher
run = Publisher("tcp://127.0.0.1:0", "tcp://127.0.0.1:0", control="tcp://127.0.0.1:0")
run.open(RunInfo("r", "2026-01-01T00:00:00+00:00"))
print(*(run.endpoints[n].rsplit(":", 1)[1] for n in ("stream", "latest", "control")))
sys.stdout.flush()
sys.stdin.read()
run.close()
"""
BARE = """
import sys, time, zmq
ports, context, sockets = [], zmq.Context(), []
for kind in (zmq.XPUB, zmq.PUB, zmq.ROUTER):
    socket = context.socket(kind)
    socket.set_hwm(100)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3000)
    ports.append(socket.bind_to_random_port("tcp://127.0.0.1"))
    sockets.append(socket)
print(*ports, flush=True)
while True:
    for socket in sockets[::2]:
        while socket.poll(2):
            socket.recv_multipart()
            time.sleep(0.005)
"""
KINDS = (b"SUB", b"SUB", b"DEALER")
N_CLIENTS = 16
WAYS = ("leave", "reset", "pings", "half a greeting", "http", "nothing", "same name")


def attack(ports: list[int], way: str, k: int, chance: float) -> None:
    """Make one hostile connection; each address has its own client ports."""
    rng = random.Random(chance)
    which = k % 3
    port, kind = ports[which], KINDS[which]
    source = f"127.0.{1 + k // 20_000}.1"
    n = rng.choice((1, 20, 200, 1000))
    if way in ("leave", "reset", "pings"):
        resets, has_pings = way == "reset", way == "pings"
        hurried_client(
            port, kind, n=n, resets=resets, has_pings=has_pings, source=source
        )
        return
    with contextlib.suppress(OSError), connect(port, source) as peer:
        if way == "half a greeting":
            peer.sendall(GREETING[: rng.randrange(1, 64)])
        elif way == "http":
            peer.sendall(b"POST / HTTP/1.1\r\n\r\n" + b"\x01" * 400 + b"\x04\x00abc")
        elif way == "same name":
            greet(peer, kind, b"same")
        elif way == "nothing":
            peer.sendall(GREETING + ready(kind))


def run(*, quick: bool, seed: int) -> BenchReport:
    """Count what survived."""
    n = 2_000 if quick else 100_000
    rng, done = random.Random(seed), Counter[str]()
    rows = []
    for name, program, most in (("publisher", TRACKER, n), ("bare", BARE, 2_000)):
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        ports = [int(port) for port in process.stdout.readline().split()]
        before_mb = psutil.Process(process.pid).memory_info().rss / 1e6
        started_s, made, slowest_s = time.monotonic(), 0, 0.0
        with ThreadPoolExecutor(N_CLIENTS) as clients:
            while made < most and process.poll() is None:
                ways = [WAYS[rng.randrange(len(WAYS))] for _ in range(500)]
                which = range(made, made + len(ways))
                chances = [rng.random() for _ in ways]
                list(clients.map(partial(attack, ports), ways, which, chances))
                made += len(ways)
                done.update(ways if name == "publisher" else ())
                if name == "publisher":
                    slowest_s = max(slowest_s, _ping_s(ports[2]))
        took_s = time.monotonic() - started_s
        time.sleep(2.0)
        grown_mb, ended = float("nan"), process.poll()
        if ended is None:
            grown_mb = psutil.Process(process.pid).memory_info().rss / 1e6 - before_mb
        process.kill() if name == "bare" else process.communicate(timeout=60)
        code = process.returncode if ended is None else ended
        fate = "lives" if ended is None else signal.Signals(-code).name
        rows.append([name, made, round(took_s), fate, round(grown_mb, 1), slowest_s])
    table = Table(
        "Hostile connections",
        ["server", "connections", "seconds", "then", "memory grown / MB", "ping / s"],
        rows,
    )
    ways = ", ".join(f"{way}: {k}" for way, k in sorted(done.items()))
    notes = [
        f"connections by way: {ways}",
        "ping / s: the slowest ping with the token, asked every 500 connections",
        "bare: libzmq with a high-water mark of 100 and heartbeats, read with pauses",
    ]
    return BenchReport("hostile", [table], notes)


def _ping_s(port: int) -> float:
    """Return how long a ping with the token takes in the midst of it all."""
    asked_s = time.monotonic()
    with contextlib.suppress(StreamError):
        request(f"tcp://127.0.0.1:{port}", "ping", timeout_s=30.0)
    return round(time.monotonic() - asked_s, 3)
