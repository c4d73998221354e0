"""Updates with known contents, and readers that are surely subscribed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from lodestar_live.data import (
    DETECTION_DTYPE,
    TRACK_DTYPE,
    Counts,
    Detections,
    Frame,
    RunInfo,
    StagePosition,
    Tracks,
    Update,
)
from lodestar_live.streams import Message, Publisher, Subscriber
from lodestar_live.streams.keys import create_keys

RUN = RunInfo("run-1", "2026-01-01T00:00:00+00:00", settings={"name": "test"})


def make_rows(dtype: np.dtype, n: int, seed: int = 0) -> np.ndarray:
    """Return rows with random floats, NaN in z, and small integers."""
    rng = np.random.default_rng(seed)
    rows = np.zeros(n, dtype)
    for name in dtype.names:
        if dtype[name].kind == "f":
            rows[name] = rng.normal(size=n)
        else:
            rows[name] = rng.integers(0, 100, n)
    rows["z_um"] = np.nan
    if "track_id" in dtype.names:
        rows["track_id"] = np.arange(n)
    return rows


def make_update(index: int, *, n: int = 3, side: int = 16) -> Update:
    """Return an update of frame `index` with `n` detections and tracks."""
    frame = Frame(
        index,
        np.full((side, side), index, np.uint16),
        t_exposure_s=index * 0.01,
        t_arrival_s=index * 0.01 + 0.001,
        stage_um=StagePosition(float("nan"), 20.0, 30.0),
    )
    return Update(
        frame,
        Detections(make_rows(DETECTION_DTYPE, n, index)),
        Tracks(make_rows(TRACK_DTYPE, n, index)),
        timings_ms={"detect": 5.0, "link": 1.0},
        counts=Counts(received=index + 1, processed=index + 1),
    )


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    """Yield an open publisher on free ports."""
    publisher = Publisher("tcp://127.0.0.1:0", "tcp://127.0.0.1:0")
    publisher.open(RUN)
    yield publisher
    publisher.close()


@contextmanager
def subscriber(publisher: Publisher, *topics: str) -> Iterator[Subscriber]:
    """Yield a subscriber that the publisher is known to have heard of."""
    with Subscriber(publisher.endpoints["stream"], ("run", *topics)) as reader:
        receive(reader, "run")  # resent because we subscribed: so it took effect
        yield reader


def receive(reader: Subscriber, topic: str, timeout_s: float = 10.0) -> Message:
    """Return the next message of `topic`."""
    while (message := reader.receive(timeout_s)) is not None:
        if message.topic == topic:
            return message
    raise AssertionError(f"no {topic!r} within {timeout_s} s")


def wait_for(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Return once `condition` holds; another process or thread makes it true."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "condition not met in time"
        time.sleep(0.005)


def make_keys(folder: Path, server: str) -> Path:
    """Create keys of a server, of a friend whom it knows and of a stranger."""
    (folder / "clients").mkdir()
    for name in (server, "friend", "stranger"):
        create_keys(name, folder)
    (folder / "friend.key").rename(folder / "clients" / "friend.key")
    return folder
