"""Subscriber: read a running tracker from any other Python program."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import zmq

from lodestar_live.errors import StreamError
from lodestar_live.streams.endpoints import is_loopback
from lodestar_live.streams.keys import ClientKeys
from lodestar_live.streams.messages import (
    GREETING_TOPICS,
    VERSION,
    Message,
    decode,
    from_json,
)

_log = logging.getLogger(__name__)

DEFAULT_TOPICS = ("run", "tracks", "status", "event", "end")
_MAX_MESSAGE_BYTES = 256 * 1024 * 1024
_HIGH_WATER = 200  # messages that may wait here for a slow reader
_LOOK_UP_S = 0.1  # how soon a reader notices that it was closed


class Subscriber:
    """Iterate over messages, have them delivered to a callback, or ask the latest.

    Parameters
    ----------
    stream
        Address of the publisher's `stream`.
    topics
        What to receive; fewer is cheaper for both sides.
    latest
        Address of the publisher's `latest`, needed for `latest()` only.
    keys
        Needed when the publisher is secured.

    Examples
    --------
    >>> with Subscriber(topics=("tracks",)) as subscriber:  # doctest: +SKIP
    ...     for message in subscriber:
    ...         print(message.frame, message.tracks.positions_px)
    """

    def __init__(
        self,
        stream: str = "tcp://127.0.0.1:5556",
        topics: Sequence[str] = DEFAULT_TOPICS,
        *,
        latest: str | None = None,
        keys: ClientKeys | None = None,
    ) -> None:
        self._context = zmq.Context()
        self._keys = keys
        self._ages = _Ages(is_local=is_loopback(stream))
        self._sequence = _Sequence()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._endpoint = stream
        self._stream = self._connect(stream, {*topics, "end"}, conflate=False)
        self._latest: _Inbox | None = None
        if latest is not None:
            self._latest = self._connect(latest, {""}, conflate=True)

    def receive(self, timeout_s: float | None = None) -> Message | None:
        """Return the next message, or None when none came in time.

        Raises
        ------
        StreamError
            The peer does not speak this version of the format.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while (parts := self._stream.wait(deadline_s)) is not None:
            message = self._take(parts)
            if message is not None:
                return message
        return None

    def __iter__(self) -> Iterator[Message]:
        """Yield messages until the run ends (its `end` is the last) or `close`."""
        return self.read()

    def read(self, seconds: float | None = None) -> Iterator[Message]:
        """Iterate as over the subscriber itself, but for at most so long."""
        deadline_s = float("inf") if seconds is None else time.monotonic() + seconds
        while (remaining_s := deadline_s - time.monotonic()) > 0:
            message = self.receive(None if seconds is None else remaining_s)
            if message is None:
                return
            yield message
            if message.topic == "end":
                return

    def call(self, callback: Callable[[Message], None]) -> None:
        """Deliver every message to `callback`, on a thread of its own, until `close`.

        An exception of the callback is logged with its traceback; the next message is
        delivered all the same.
        """
        if self._thread is not None:
            raise StreamError("Subscriber.call: already delivering to a callback.")
        self._thread = threading.Thread(
            target=self._deliver, args=(callback,), name="lodestar-subscriber"
        )
        self._thread.daemon = True
        self._thread.start()

    def latest(self, timeout_s: float | None = 1.0) -> dict[str, Any] | None:
        """Return the newest message of `latest`, never an older one; None: none came.

        Besides the published keys it has `age_s`.
        """
        if self._latest is None:
            raise StreamError(
                "Subscriber.latest: no address; give latest='tcp://127.0.0.1:5557'."
            )
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        parts = self._latest.wait(deadline_s)
        if parts is None:
            return None
        message = from_json(parts[0])
        if message.get("v") != VERSION:
            raise StreamError(f"latest: speaks version {message.get('v')!r}, not 1.")
        return message | {"age_s": self._ages.of(message)}

    def close(self) -> None:
        """Stop delivering and disconnect; from any thread, may be called twice."""
        self._closing.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=2.0)
        for inbox in (self._stream, self._latest):
            if inbox is not None:
                inbox.close()
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _connect(self, endpoint: str, topics: set[str], *, conflate: bool) -> _Inbox:
        socket = self._context.socket(zmq.SUB)
        socket.linger = 0
        socket.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES)
        socket.set_hwm(_HIGH_WATER)
        if self._keys is not None:
            self._keys.secure(socket)
        if conflate:
            socket.setsockopt(zmq.CONFLATE, 1)
        # The greeting (`run`, `status`) comes last: it proves the rest is in effect.
        for topic in sorted(topics, key=lambda t: (t in GREETING_TOPICS, t)):
            socket.subscribe(topic)
        socket.connect(endpoint)
        return _Inbox(socket)

    def _take(self, parts: list[bytes]) -> Message | None:
        message = decode(parts)
        missed = self._sequence.missed(message)
        if missed is None:
            return None
        return replace(message, missed=missed, age_s=self._ages.of(message.header))

    def _deliver(self, callback: Callable[[Message], None]) -> None:
        while not self._closing.is_set():
            try:
                message = self.receive(timeout_s=0.5)
                if message is not None:
                    callback(message)
            except Exception:
                _log.exception("subscriber to %s", self._endpoint)


class _Inbox:
    """A socket that may be closed by another thread than the one that reads it.

    libzmq crashes the program when a socket is closed under its reader.
    """

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket, self._using = socket, threading.Lock()
        self._is_closing = False

    def wait(self, deadline_s: float | None) -> list[bytes] | None:
        """Return what arrives first; None when nothing came in time, or closed."""
        while not self._is_closing:
            wait_s = _LOOK_UP_S
            if deadline_s is not None:
                wait_s = min(wait_s, max(0.0, deadline_s - time.monotonic()))
            with self._using:
                if not self._socket.closed and self._socket.poll(int(wait_s * 1e3)):
                    return self._socket.recv_multipart()
            if deadline_s is not None and time.monotonic() >= deadline_s:
                break
        return None

    def close(self) -> None:
        """Disconnect once nobody reads; may be called twice."""
        self._is_closing = True
        with self._using:
            self._socket.close(linger=0)


class _Sequence:
    """Finds gaps and repetitions in the running numbers, per run and topic."""

    def __init__(self) -> None:
        self._run: Any = None
        self._last: dict[str, int] = {}

    def missed(self, message: Message) -> int | None:
        """Return how many messages were lost before; None for a repetition."""
        run = message.header.get("run")
        if run != self._run:
            self._run, self._last = run, {}
        last = self._last.get(message.topic)
        if last is not None and message.seq <= last:
            return None
        self._last[message.topic] = message.seq
        return 0 if last is None else message.seq - last - 1


class _Ages:
    """Tells how old a message is, though clocks of two machines differ."""

    def __init__(self, *, is_local: bool) -> None:
        self._is_local, self._offset_s = is_local, float("inf")

    def of(self, header: Any) -> float:
        """Return seconds since the message of `header` was published."""
        now_s, published_s = time.monotonic(), float(header.get("t_publish_s", 0.0))
        if self._is_local:  # both programs read the same clock
            self._offset_s = float(header.get("clock_zero_s", now_s - published_s))
        else:  # the fastest message so far counts as not delayed
            self._offset_s = min(self._offset_s, now_s - published_s)
        return max(0.0, now_s - published_s - self._offset_s)
