"""LiveFeed: the newest of everything a running tracker publishes, for the page."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lodestar_live.commands import VERBS
from lodestar_live.data import Detections
from lodestar_live.errors import StreamError
from lodestar_live.streams import ClientKeys, Message, Subscriber, request
from lodestar_live.view.web.bundle import (
    DETECTION_COLUMNS,
    SUMMARY_COLUMNS,
    TRACK_COLUMNS,
    Part,
    rows_part,
)

PAGE_VERBS = tuple(name for name, verb in VERBS.items() if verb.is_on_page)
_TOPICS = ("run", "tracks", "detections", "summary", "status", "event", "end")
_KEPT_FRAMES = 1024  # for pairing an image with the tracks of the same frame
_KEPT_ROWS = 200_000
_KEPT_EVENTS = 200
_KEPT_STATUS = 600  # ten minutes of heartbeats
_IMAGE_PATIENCE_S = 1.0  # tracks that waited so long for an image are shown alone


@dataclass
class Cursor:
    """What one page has been given already."""

    run: str | None = None
    has_run: bool = False
    frame: int = -1
    image: int = -1
    n_events: int = 0
    n_status: int = 0
    summary: int = -1
    has_ended: bool = False

    def restart(self, run: str) -> None:
        """Forget what was given: another run has begun."""
        self.run, self.has_run, self.has_ended = run, False, False
        self.frame = self.image = self.summary = -1
        self.n_events = self.n_status = 0


class LiveFeed:
    """Listen to a tracker and hand pages the newest state, each at its own pace.

    Parameters
    ----------
    stream
        Address of the publisher's `stream`.
    control
        Address of its `control`; None: as the run says, if it has one.
    keys
        Needed when the publisher is secured.
    """

    kind = "live"

    def __init__(
        self,
        stream: str,
        *,
        control: str | None = None,
        keys: ClientKeys | None = None,
    ) -> None:
        self.stream, self._control, self._keys = stream, control, keys
        self._lock = threading.Lock()
        self._subscriber: Subscriber | None = None
        self._images: Subscriber | None = None
        self._n_viewers = 0
        self._tell_pages: Callable[[], None] = lambda: None
        self._forget("")

    def _forget(self, run: str) -> None:
        """Start afresh: another run publishes here now."""
        self._run_name = run
        self._run: Mapping[str, Any] | None = None
        self._frames: OrderedDict[int, dict[str, Message]] = OrderedDict()
        self._n_rows = 0
        self._image: Message | None = None
        self._summary: Message | None = None
        self._events: deque[dict[str, Any]] = deque(maxlen=_KEPT_EVENTS)
        self._n_events = 0
        self._status: deque[Mapping[str, Any]] = deque(maxlen=_KEPT_STATUS)
        self._n_status = 0
        self._has_ended = False
        self._last_s = -float("inf")
        self._waiting_since_s: float | None = None  # tracks, for a newer image

    # -- life ---------------------------------------------------------------

    def on_news(self, tell_pages: Callable[[], None]) -> None:
        """Call `tell_pages` (from another thread) whenever something new is here."""
        self._tell_pages = tell_pages

    def enter(self) -> Cursor:
        """Count one page more; the first one opens the subscription to images."""
        with self._lock:
            self._n_viewers += 1
            if self._subscriber is None:
                self._subscriber = Subscriber(self.stream, _TOPICS, keys=self._keys)
                self._subscriber.call(self.take)
            if self._images is None:
                self._images = Subscriber(self.stream, ("image",), keys=self._keys)
                self._images.call(self.take)
        return Cursor()

    def leave(self) -> None:
        """Count one page less; without pages no image is encoded or sent."""
        with self._lock:
            self._n_viewers -= 1
            images = self._images if self._n_viewers == 0 else None
            if images is not None:
                self._images = None
        if images is not None:
            images.close()

    def close(self) -> None:
        """Disconnect."""
        with self._lock:
            opened = [self._subscriber, self._images]
            self._subscriber = self._images = None
        for subscriber in opened:
            if subscriber is not None:
                subscriber.close()

    # -- the tracker's side -------------------------------------------------

    def take(self, message: Message) -> None:
        """Remember one message; called on a subscriber's thread."""
        with self._lock:
            run = str(message.header.get("run", ""))
            if run != self._run_name:
                self._forget(run)
            self._last_s = time.monotonic()
            is_shown = self._is_shown(message.topic)
            if message.topic in ("tracks", "detections"):
                self._keep(message)
            elif message.topic == "image":
                self._image, self._waiting_since_s = message, None
            elif message.topic == "summary":
                self._summary = message
            elif message.topic == "event" and message.event is not None:
                self._events.append(asdict(message.event))
                self._n_events += 1
            elif message.topic == "status":
                self._status.append(message.header)
                self._n_status += 1
            elif message.topic == "run":
                self._run, self._has_ended = message.header, False
            elif message.topic == "end":
                self._has_ended = True
        if is_shown:
            self._tell_pages()

    def _is_shown(self, topic: str) -> bool:
        """Tracks wait for the image of their frame; waking pages for them is waste."""
        if topic not in ("tracks", "detections") or self._image is None:
            return True
        return self._images_ceased() or self._image.frame not in self._frames

    def _images_ceased(self) -> bool:
        """Tell whether tracks should go on without waiting for images."""
        if self._image is None:
            return True
        since_s = self._waiting_since_s
        return since_s is not None and time.monotonic() - since_s > _IMAGE_PATIENCE_S

    def _keep(self, message: Message) -> None:
        is_newer = self._image is not None and message.frame > self._image.frame
        if is_newer and self._waiting_since_s is None:
            self._waiting_since_s = self._last_s
        self._frames.setdefault(message.frame, {})[message.topic] = message
        self._n_rows += _n_rows(message)
        while len(self._frames) > 1 and (
            len(self._frames) > _KEPT_FRAMES or self._n_rows > _KEPT_ROWS
        ):
            _, oldest = self._frames.popitem(last=False)
            self._n_rows -= sum(_n_rows(m) for m in oldest.values())

    # -- the page's side ----------------------------------------------------

    def hello(self) -> dict[str, Any]:
        """Return what a page must know first."""
        known = VERBS if self._run is None else self._run.get("verbs", VERBS)
        verbs = [name for name in PAGE_VERBS if name in known]
        return {
            "kind": self.kind,
            "source": self.stream,
            "verbs": verbs if self.control else [],
        }

    @property
    def control(self) -> str | None:
        """Address commands go to; None: this run takes none."""
        if self._control is not None or self._run is None:
            return self._control
        found = (self._run.get("endpoints") or {}).get("control")
        if not isinstance(found, str):
            return None
        host, port = self.stream.rsplit(":", 1)[0], found.rsplit(":", 1)[1]
        return f"{host}:{port}"  # the run may know itself as 0.0.0.0

    def command(
        self, verb: str, args: Mapping[str, Any], page: str = ""
    ) -> dict[str, Any]:
        """Send a command to the tracker and return its result.

        Raises
        ------
        StreamError
            Refused, no answer, or this run takes no commands.
        """
        if self.control is None or verb not in PAGE_VERBS:
            raise StreamError(
                f"{verb}: this run takes no commands. Set streams.control in its "
                "settings, e.g. tcp://127.0.0.1:5558."
            )
        return request(self.control, verb, args, keys=self._keys)

    def news(self, cursor: Cursor, _wish: Mapping[str, Any]) -> list[Part]:
        """Return what the page does not have yet, newest only; empty: nothing."""
        with self._lock:
            if cursor.run != self._run_name:
                cursor.restart(self._run_name)
            parts = [
                *self._run_part(cursor),
                *self._list_parts(cursor),
                *self._summary_parts(cursor),
                *self._frame_parts(cursor),
            ]
            if self._has_ended and not cursor.has_ended:
                parts.append(Part("end", {}))
            cursor.has_ended = self._has_ended
            return parts

    def silent_s(self) -> float | None:
        """Return for how long nothing was heard; None: nothing ever was."""
        silent_s = time.monotonic() - self._last_s
        return silent_s if silent_s < float("inf") else None

    def _run_part(self, cursor: Cursor) -> list[Part]:
        if self._run is None or cursor.has_run:
            return []
        cursor.has_run = True
        return [Part("run", {**self._run, **self.hello()})]

    def _list_parts(self, cursor: Cursor) -> list[Part]:
        """Return heartbeats and events since the last time, all that are kept."""
        parts = []
        for name, kept, n_now, n_had in (
            ("status", self._status, self._n_status, cursor.n_status),
            ("events", self._events, self._n_events, cursor.n_events),
        ):
            n_new = min(n_now - n_had, len(kept))
            if n_new > 0:
                parts.append(Part(name, {"list": list(kept)[-n_new:]}))
        cursor.n_status, cursor.n_events = self._n_status, self._n_events
        return parts

    def _summary_parts(self, cursor: Cursor) -> list[Part]:
        """Return what is known of each track's motion, if it is newer."""
        newest = self._summary
        if newest is None or newest.summary is None or newest.seq == cursor.summary:
            return []
        cursor.summary = newest.seq
        part = rows_part("summary", newest.header, newest.summary, SUMMARY_COLUMNS)
        return [part]

    def _frame_parts(self, cursor: Cursor) -> list[Part]:
        """Return one frame: its image with the tracks found in it.

        Particles and circles must agree, so an image waits for the tracks of its own
        frame. Without images (nobody sends them) the newest tracks are shown alone.
        """
        if not self._frames:
            return []
        newest, image = next(reversed(self._frames)), self._image
        if image is not None and image.seq != cursor.image and image.frame <= newest:
            cursor.image = image.seq
            frame = image.frame if image.frame in self._frames else newest
            parts = [Part("image", image.header, image.image or b"")]
        elif self._images_ceased():
            frame, parts = newest, []
        else:
            return []
        if frame == cursor.frame and not parts:
            return []
        cursor.frame = frame
        return parts + [_matrix_part(m) for m in self._frames[frame].values()]


def _matrix_part(message: Message) -> Part:
    if message.tracks is not None:
        return rows_part("tracks", message.header, message.tracks.rows, TRACK_COLUMNS)
    found = message.detections or Detections.empty()
    return rows_part("detections", message.header, found.rows, DETECTION_COLUMNS)


def _n_rows(message: Message) -> int:
    return int(message.header.get("n", 0))
