"""Who is at the wheel: one page steers, the others see which."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from lodestar_live.errors import InputError

_GONE_S = 5.0  # a page asks for news at least once a second
_MAX_PAGES = 32
#: Asked from any page: who sees danger need not hold the wheel.
FREE_VERBS = ("take_wheel", "stop")


class Wheel:
    """Pages by their own random name, and the one that steers.

    A page that asks for something takes the wheel if nobody holds it; the holder loses
    it when its page is closed or hidden, or when another page takes it by intent.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._seen_s: dict[str, float] = {}
        self._names: dict[str, str] = {}
        self._n = 0
        self._holder = ""

    def see(self, page: str) -> bool:
        """Note that a page is there; return whether who holds the wheel has changed."""
        with self._lock:
            before = self._holder
            if page:
                if page not in self._names:
                    self._n += 1
                    self._names[page] = f"page {self._n}"
                self._seen_s[page] = self._clock()
            self._forget_the_gone()
            return self._holder != before

    def take(self, page: str, name: str = "") -> None:
        """Give the wheel to a page."""
        self.see(page)
        with self._lock:
            self._holder = page
            if name:
                self._names[page] = name

    def require(self, page: str, verb: str) -> None:
        """Let a page steer, or refuse it.

        Raises
        ------
        InputError
            Another page holds the wheel, or the page does not say which it is.
        """
        if verb in FREE_VERBS:
            return
        if not page:
            raise InputError(f"{verb}: the page did not say which it is; reload it.")
        self.see(page)
        with self._lock:
            if self._holder in ("", page):
                self._holder = page
                return
            raise InputError(
                f"{verb}: {self._names[self._holder]} has the wheel. Take the wheel "
                "first, if that is agreed."
            )

    def as_json(self, page: str) -> dict[str, Any]:
        """Return what one page shows of it."""
        with self._lock:
            return {
                "holder": self._names.get(self._holder, ""),
                "is_mine": page == self._holder,
                "me": self._names.get(page, ""),
                "n_pages": len(self._seen_s),
            }

    def _forget_the_gone(self) -> None:
        now_s = self._clock()
        gone = [p for p, t_s in self._seen_s.items() if now_s - t_s > _GONE_S]
        if len(self._seen_s) - len(gone) > _MAX_PAGES:
            gone.append(min(self._seen_s, key=self._seen_s.__getitem__))
        for page in gone:
            del self._seen_s[page]
            if page == self._holder:
                self._holder = ""
        if len(self._names) > 4 * _MAX_PAGES:
            self._names = {p: n for p, n in self._names.items() if p in self._seen_s}
