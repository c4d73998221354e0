"""The bounded hand-over between the camera's thread and the worker."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, Literal, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """Hold the newest item, or the oldest few; never block the sender.

    Parameters
    ----------
    mode
        ``latest``: one slot, a new item displaces the old one. ``every``: first in,
        first out; when full, the new item is refused.
    capacity
        Length of the queue in mode ``every``.
    """

    def __init__(self, mode: Literal["latest", "every"], capacity: int = 1) -> None:
        self._displaces = mode == "latest"
        self._capacity = 1 if self._displaces else capacity
        self._items: deque[Item] = deque()
        self._ready = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> Item | None:
        """Store `item`; return the one that found no place, if any."""
        with self._ready:
            if self._closed:
                return item
            lost: Item | None = None
            if len(self._items) >= self._capacity:
                if not self._displaces:
                    return item
                lost = self._items.popleft()
            self._items.append(item)
            self._ready.notify()
            return lost

    def get(self, timeout_s: float) -> Item | None:
        """Take the next item; None if none comes in time or all is taken and closed."""
        with self._ready:
            if not self._items and not self._closed:
                self._ready.wait(timeout_s)
            return self._items.popleft() if self._items else None

    def close(self) -> None:
        """Refuse further items; those inside can still be taken."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
