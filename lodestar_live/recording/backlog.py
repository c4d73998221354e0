"""What waits to be written, bounded in bytes."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lodestar_live.data import Event, Rows

# A row of `frames` as a tuple of Python numbers, and an event with short details.
_FRAME_BYTES, _EVENT_BYTES = 1_000, 600


@dataclass(frozen=True, slots=True)
class Item:
    """What one `write` or `tell` adds to the file; holds no pixels.

    Parameters
    ----------
    frame
        A row of the table `frames`; None: the item belongs to no frame.
    frame_index
        Its frame, -1 for none.
    tracks
        Rows of dtype `TRACK_DTYPE`.
    summary
        Rows of dtype `SUMMARY_DTYPE`, the newest of each track.
    """

    frame: tuple[Any, ...] | None = None
    frame_index: int = -1
    tracks: Rows | None = None
    events: tuple[Event, ...] = ()
    summary: Rows | None = None

    @property
    def n_bytes(self) -> int:
        """Memory held by this item, about."""
        n = _FRAME_BYTES + sum(_event_bytes(event) for event in self.events)
        held = (rows.nbytes for rows in (self.tracks, self.summary) if rows is not None)
        return n + sum(held)


class Backlog:
    """First in, first out, up to a number of bytes; any thread.

    Parameters
    ----------
    most_bytes
        Items that would exceed it are refused. One item is always accepted, so that a
        frame larger than the bound is written as well.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._items: deque[Item] = deque()
        self._n_bytes = 0
        self._lock = threading.Lock()
        self._is_plenty = threading.Event()
        self._plenty_bytes = most_bytes / 4

    def __len__(self) -> int:
        return len(self._items)

    @property
    def n_bytes(self) -> int:
        """Memory held by all that waits, about."""
        return self._n_bytes

    def put(self, item: Item) -> bool:
        """Append; False when there is no room."""
        n_bytes = item.n_bytes
        with self._lock:
            if self._items and self._n_bytes + n_bytes > self.most_bytes:
                return False
            self._items.append(item)
            self._n_bytes += n_bytes
        if self._n_bytes > self._plenty_bytes:
            self._is_plenty.set()
        return True

    def gather(self, n_bytes: float, timeout_s: float) -> None:
        """Wait until so much waits, or a quarter of all that may, or time is over.

        Who puts does not wake who takes at each item: that would cost both of them a
        change of thread per frame.
        """
        self._plenty_bytes = min(n_bytes, self.most_bytes / 4)
        if self._n_bytes <= self._plenty_bytes:
            self._is_plenty.wait(timeout_s)
        self._is_plenty.clear()

    def take(self, *, most_bytes: float) -> list[Item]:
        """Return the next items, at least one if there is any."""
        taken: list[Item] = []
        n_bytes = 0
        with self._lock:
            while self._items:
                next_bytes = self._items[0].n_bytes
                if taken and n_bytes + next_bytes > most_bytes:
                    break
                taken.append(self._items.popleft())
                n_bytes += next_bytes
            self._n_bytes -= n_bytes
        return taken


def _event_bytes(event: Event) -> int:
    return _EVENT_BYTES + sum(_value_bytes(v) for v in event.details.values())


def _value_bytes(value: Any) -> int:
    """Return the size of a JSON value; lists (ids of many tracks) can be long."""
    if isinstance(value, (list, tuple)):
        return sum(_value_bytes(v) for v in value) + 8 * len(value)
    if isinstance(value, Mapping):
        return sum(_value_bytes(v) for v in value.values()) + 100 * len(value)
    return sys.getsizeof(value)
