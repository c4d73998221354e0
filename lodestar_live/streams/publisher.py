"""Publisher: the sink that tells other programs what happens, over ZeroMQ.

The worker only puts updates into a bounded outbox; one thread owns the sockets,
encodes and sends. Whatever subscribers do, nothing here waits for them.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from lodestar_live.commands import Handler
from lodestar_live.data import (
    MOTION_STATES,
    Counts,
    Event,
    Frame,
    Pixels,
    Rows,
    RunInfo,
    Update,
)
from lodestar_live.errors import StreamError
from lodestar_live.health import Health
from lodestar_live.settings import StreamSettings
from lodestar_live.streams import messages
from lodestar_live.streams.commands import Commands, CommandServer
from lodestar_live.streams.image import ImageEncoder
from lodestar_live.streams.sockets import Connections, Sockets, Subscriptions
from lodestar_live.streams.status import Status
from lodestar_live.streams.target import Target, target_json
from lodestar_live.streams.tokens import Token

_log = logging.getLogger(__name__)

_OUTBOX_FRAMES = 64
_OF_EVERY_FRAME = frozenset({"tracks", "detections", "stage"})
_HEARTBEAT_S = 1.0
_LOOK_AT_KEYS_S = 0.25  # how soon a client whose key was taken away is cut off
_GREETING_S = 0.02  # how soon subscriptions are noticed while nothing is published
_BACKLOG_S = 1.0  # how long close() goes on sending what is queued
_LAST_WORDS_MS = 200  # how long close() may wait for `end` to leave


class Publisher:
    """Publish updates, the camera image and the state of the run.

    Parameters
    ----------
    stream, latest, control
        Addresses to bind; port 0 picks a free one, None leaves that socket out.
    commands
        What each verb of the control channel does; see `commands.VERBS`.
    target_id
        Returns the track followed at present, for `latest`. None: the publisher's own
        `follow` and `release` verbs decide.
    counts
        Returns where frames went, for heartbeats while no update arrives.
    control_status
        Returns what the controller says of itself, for the heartbeat's `control`.
    health
        What is not as it should be, for the heartbeat.
    durable_frame
        Returns the newest frame whose rows are safe on disk; None: nothing is recorded.
    clock
        Returns seconds since the run's start. None: since `open`.
    keys, clients
        CURVE: this side's secret key file and the folder of allowed clients' keys.

    Attributes
    ----------
    endpoints
        The addresses really bound, by name.
    n_dropped, n_failed, n_images
        Messages given up because the thread lagged, steps that raised, images sent.

    Raises
    ------
    StreamError
        A port is in use, or an address is reachable from outside without keys.
    """

    def __init__(
        self,
        stream: str = "tcp://127.0.0.1:5556",
        latest: str | None = "tcp://127.0.0.1:5557",
        *,
        control: str | None = None,
        commands: Mapping[str, Handler] | None = None,
        target_id: Callable[[], int | None] | None = None,
        counts: Callable[[], Counts] | None = None,
        control_status: Callable[[], Mapping[str, Any]] | None = None,
        health: Health | None = None,
        durable_frame: Callable[[], int] | None = None,
        clock: Callable[[], float] | None = None,
        keys: str | Path | None = None,
        clients: str | Path | None = None,
    ) -> None:
        self._clock = clock or _clock_from_now()
        self._target = Target(target_id)
        self._status = Status(self._clock, counts, health)
        self._durable_frame = durable_frame
        self._end: Mapping[str, Any] = {"status": "completed", "reason": ""}
        self._control_status = control_status
        self._run = ""
        self._seq: Counter[str] = Counter()
        self._newest: tuple[int, Update] | None = None
        self._hollow: Pixels = np.zeros((0, 0), np.uint8)  # a shape without the memory
        self._outbox: deque[tuple[str, int, Any]] = deque()
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._cache: dict[str, list[bytes]] = {}
        self._next_beat_s = 0.0
        self._give_up_s = math.inf
        self._is_closing = self._is_closed = False
        self.n_dropped = 0
        self.n_failed = 0
        self.n_images = 0

        answers = self._own_commands(commands or {})
        self._verbs = answers.verbs
        self._next_look_s = 0.0
        self._sockets = Sockets(stream, latest, control, keys=keys, clients=clients)
        self.endpoints = self._sockets.endpoints
        self._subscriptions = Subscriptions(self._sockets.stream, messages.TOPICS)
        latest_socket = self._sockets.latest
        self._listeners = None if latest_socket is None else Connections(latest_socket)
        self._images = ImageEncoder(self._take_image)
        self._commands: CommandServer | None = None
        self._token: Token | None = None
        if self._sockets.control is not None:
            self._open_control(self._sockets.control, answers)
        self._thread = threading.Thread(
            target=self._serve, name="lodestar-publisher", daemon=True
        )
        self._thread.start()

    @classmethod
    def from_settings(
        cls,
        settings: StreamSettings,
        *,
        commands: Mapping[str, Handler] | None = None,
        target_id: Callable[[], int | None] | None = None,
        counts: Callable[[], Counts] | None = None,
        control_status: Callable[[], Mapping[str, Any]] | None = None,
        health: Health | None = None,
        durable_frame: Callable[[], int] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> Publisher:
        """Return a publisher on the addresses of the settings."""
        return cls(
            settings.stream,
            settings.latest,
            control=settings.control,
            commands=commands,
            target_id=target_id,
            counts=counts,
            control_status=control_status,
            health=health,
            durable_frame=durable_frame,
            clock=clock,
            keys=settings.keys,
            clients=settings.clients,
        )

    @property
    def wanted_topics(self) -> frozenset[str]:
        """Topics with at least one subscriber."""
        return self._subscriptions.wanted

    # -- the sink -----------------------------------------------------------

    def open(self, run: RunInfo) -> None:
        """Announce a run; running numbers start at 0."""
        with self._lock:
            self._run = run.run
            self._seq.clear()
        self._status.restart()
        self._put("run", run)

    def show(self, frame: Frame) -> None:
        """Publish the image alone, of a frame that is not tracked; returns at once."""
        if "image" in self.wanted_topics:
            self._images.offer(frame)

    def write(self, update: Update) -> None:
        """Publish one frame's outcome; returns at once.

        What nobody has asked for is not encoded, and wakes nobody up.
        """
        begun_s = time.perf_counter()
        self.show(update.frame)
        is_wanted = not _OF_EVERY_FRAME.isdisjoint(self.wanted_topics)
        if not is_wanted and (self._listeners is None or not self._listeners.any):
            self._newest = None
            with self._lock:
                self._seq["update"] += 1
            self._tell_of(update)
            publish_ms = (time.perf_counter() - begun_s) * 1e3
            self._status.note(update, publish_ms=publish_ms)
            return
        shape = update.frame.pixels.shape[:2]
        if self._hollow.shape != shape:
            self._hollow = np.broadcast_to(np.uint8(0), shape)
        frame = replace(update.frame, pixels=self._hollow)
        update = replace(update, frame=frame)
        self._newest = (self._seq["update"], update)
        self._put("update", (begun_s, update))
        self._tell_of(update)

    def _tell_of(self, update: Update) -> None:
        """Queue what only some frames have."""
        if update.summary is not None:
            self._put("summary", update)
        for event in update.events:
            self._put("event", event)

    def tell(self, event: Event) -> None:
        """Publish news; returns at once. ``run.end`` is also what `end` will say."""
        if event.kind == "run.end":
            self._end = event.details
        self._put("event", event)

    def now_s(self) -> float:
        """Return seconds since the run's start, as headers have them."""
        return self._clock()

    def status(self) -> dict[str, Any]:
        """Return what a heartbeat would say now."""
        header = self._status.header() | {"run": self._run, "n_lost": self.n_dropped}
        header["durable_frame"] = self._durable()
        if self._control_status is not None:
            header["control"] = self._control()
        return header

    def close(self) -> None:
        """Say `end`, stop the threads and let go of the ports; at most about 2 s."""
        if self._is_closed:
            return
        self._is_closed = True
        self._put("end", self.status() | dict(self._end))
        self._give_up_s = time.monotonic() + _BACKLOG_S
        self._is_closing = True
        self._news.set()
        users = [self._thread]
        if self._commands is not None:
            users.append(self._commands.stop())
        if self._token is not None:
            self._token.withdraw()
        self._images.close()
        deadline_s = time.monotonic() + 2.0
        for thread in users:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        if any(thread.is_alive() for thread in users):
            _log.error("publisher: a thread is still at work; its ports stay open")
            threading.Thread(target=self._close_after, args=users, daemon=True).start()
        else:
            self._sockets.close()

    def _open_control(self, socket: zmq.Socket[bytes], answers: Commands) -> None:
        if self._sockets.clients is None:  # else the key is the proof
            try:
                self._token = Token.issue(self.endpoints["control"])
            except StreamError:
                self._images.close()
                self._sockets.close()
                raise
        answers.token = self._token
        self._commands = CommandServer(
            socket,
            answers,
            reopen=lambda old: self._sockets.reopen("control", old),
            clients=self._sockets.clients,
        )

    def _close_after(self, *users: threading.Thread) -> None:
        """Wait first: libzmq crashes when a socket is closed under its user."""
        for thread in users:
            thread.join()
        self._sockets.close()

    def _durable(self) -> int | None:
        return None if self._durable_frame is None else self._durable_frame()

    def _control(self) -> dict[str, Any] | None:
        """Return what the controller says of itself: its aim, for the overlay."""
        if self._control_status is None:
            return None
        return dict(messages.finite(self._control_status()))

    def _own_commands(self, commands: Mapping[str, Handler]) -> Commands:
        verbs = dict(commands)
        if self._target.is_own:
            verbs = {**self._target.verbs(), **verbs}
        verbs["status"] = lambda _args: self.status()
        return Commands(verbs)

    # -- worker's side ------------------------------------------------------

    def _put(self, kind: str, item: Any) -> None:
        """Queue `item`; when the thread lags, the oldest is dropped and counted."""
        with self._lock:
            seq = self._seq[kind]
            self._seq[kind] += 1
            if len(self._outbox) >= _OUTBOX_FRAMES:
                self._outbox.popleft()
                self.n_dropped += 1
            self._outbox.append((kind, seq, item))
        self._news.set()

    def _take_image(self, frame: Frame, header: dict[str, Any], jpeg: bytes) -> None:
        self._put("image", (frame, header, jpeg))

    # -- the thread that owns the sockets -----------------------------------

    def _serve(self) -> None:
        while True:
            self._news.wait(_GREETING_S)
            self._news.clear()
            is_last_round = self._is_closing
            while self._outbox:
                self._guard(self._send_latest)
                with self._lock:
                    kind, seq, item = self._outbox.popleft()
                if kind != "end" and time.monotonic() > self._give_up_s:
                    self.n_dropped += 1
                    continue
                self._guard(getattr(self, f"_send_{kind}"), seq, item)
            self._guard(self._take_subscriptions)  # after the news, which is in a hurry
            if time.monotonic() >= self._next_look_s:
                self._next_look_s = time.monotonic() + _LOOK_AT_KEYS_S
                self._guard(self._let_go)
            if self._run and time.monotonic() >= self._next_beat_s:
                self._next_beat_s = time.monotonic() + _HEARTBEAT_S
                self._guard(self._send_status)
            if is_last_round:
                break
        self._sockets.stream.close(linger=_LAST_WORDS_MS)
        if self._sockets.latest is not None and self._listeners is not None:
            self._listeners.close()
            self._sockets.latest.close(linger=0)

    def _guard(self, action: Callable[..., None], *args: Any) -> None:
        """Run one step; a publisher may fail and the run goes on."""
        try:
            action(*args)
        except Exception:
            self.n_failed += 1
            if self.n_failed < 10:
                _log.exception("publisher: %s failed", action.__name__)

    def _take_subscriptions(self) -> None:
        """Note which topics are wanted, and greet late joiners."""
        if self._listeners is not None:
            self._listeners.take()
        greeted = self._subscriptions.take()
        for topic in messages.GREETING_TOPICS:
            if topic in greeted and topic in self._cache:
                self._sockets.stream.send_multipart(self._cache[topic], zmq.NOBLOCK)

    def _let_go(self) -> None:
        """Cut connections when a client's key was taken away, or when one floods.

        The others connect again by themselves and see a gap in `seq`.
        """
        clients = self._sockets.clients
        is_withdrawn = clients is not None and clients.are_withdrawn()
        if not (is_withdrawn or self._subscriptions.is_flooded):
            return
        _log.warning("stream: connections are cut; known clients come back")
        sockets = self._sockets
        sockets.stream = sockets.reopen("stream", sockets.stream)
        self._subscriptions = Subscriptions(sockets.stream, messages.TOPICS)
        if sockets.latest is not None and self._listeners is not None:
            self._listeners.close()
            sockets.latest = sockets.reopen("latest", sockets.latest)
            self._listeners = Connections(sockets.latest)

    def _send_run(self, seq: int, run: RunInfo) -> None:
        self._cache.pop("status", None)
        self._next_beat_s = 0.0
        facts = messages.finite(asdict(run))
        verbs = [] if self._commands is None else list(self._verbs)
        token_file = None if self._token is None else str(self._token.path)
        reach = {
            "endpoints": dict(self.endpoints), "verbs": verbs, "token_file": token_file
        }  # fmt: skip
        self._send("run", seq, {**facts, **reach, "run": run.run})

    def _send_update(self, seq: int, item: tuple[float, Update]) -> None:
        started_s, update = item
        facts = _facts(update) | {"durable_frame": self._durable()}
        aim = {"target_id": self._target.track_id, "control": self._control()}
        self._send("tracks", seq, facts | aim, update.tracks.rows)
        self._send("detections", seq, facts, update.detections.rows)
        if "stage" in self.wanted_topics:
            stage = np.array([tuple(update.frame.stage_um)], messages.STAGE_DTYPE)
            self._send("stage", seq, facts, stage)
        self._status.note(update, publish_ms=(time.perf_counter() - started_s) * 1e3)

    def _send_summary(self, seq: int, update: Update) -> None:
        facts = _facts(update) | {"states": list(MOTION_STATES)}
        self._send("summary", seq, facts, update.summary)

    def _send_latest(self) -> None:
        """Send the newest update, past all that still waits for the stream."""
        newest, self._newest = self._newest, None
        if self._sockets.latest is None or newest is None:
            return
        seq, update = newest
        target = target_json(update.tracks, self._target.track_id)
        header = self._header("latest", seq) | _facts(update) | {"target": target}
        self._sockets.latest.send(messages.to_json(header), zmq.NOBLOCK)

    def _send_event(self, seq: int, event: Event) -> None:
        self._send("event", seq, messages.finite(asdict(event)))

    def _send_image(self, seq: int, item: tuple[Frame, dict[str, Any], bytes]) -> None:
        self.n_images += 1
        frame, facts, jpeg = item
        header = self._header("image", seq) | messages.frame_json(frame) | facts
        parts = [b"image", messages.to_json(header), jpeg]
        self._sockets.stream.send_multipart(parts, zmq.NOBLOCK)

    def _send_end(self, seq: int, facts: dict[str, Any]) -> None:
        self._send("end", seq, facts)
        self._cache.clear()

    def _send_status(self) -> None:
        seq = self._seq["status"]
        self._seq["status"] += 1
        self._send("status", seq, self.status())

    def _send(
        self, topic: str, seq: int, facts: dict[str, Any], rows: Rows | None = None
    ) -> None:
        is_cached = topic in messages.GREETING_TOPICS
        if topic not in self.wanted_topics and not is_cached:
            return
        parts = messages.encode(topic, self._header(topic, seq) | facts, rows)
        if is_cached:
            self._cache[topic] = parts
        self._sockets.stream.send_multipart(parts, zmq.NOBLOCK)

    def _header(self, topic: str, seq: int) -> dict[str, Any]:
        now_s = self._clock()
        return {
            "v": messages.VERSION,
            "type": topic,
            "run": self._run,
            "seq": seq,
            "t_publish_s": now_s,
            "clock_zero_s": time.monotonic() - now_s,
        }


def _facts(update: Update) -> dict[str, Any]:
    return messages.frame_json(update.frame) | {
        "dropped": update.counts.dropped,
        "degraded": update.degraded,
    }


def _clock_from_now() -> Callable[[], float]:
    zero_s = time.perf_counter()
    return lambda: time.perf_counter() - zero_s
