"""Calls of a driver on a thread of their own, each with a deadline.

A serial port that does not answer holds whoever calls it. Here it holds a thread that
nothing else needs: the caller goes on after the deadline, with an error.
"""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from lodestar_live.errors import StageError

T = TypeVar("T")


class NoReplyError(StageError):
    """The driver has not answered within the deadline."""


class _Call:
    """One call: what to do, and what came of it."""

    def __init__(self, do: Callable[[], Any], afterwards: Callable[[], None]) -> None:
        self.do, self.afterwards = do, afterwards
        self.result: Any = None
        self.error: BaseException | None = None
        self.began_s = time.monotonic()
        self.is_over = threading.Lock()  # released when the call has returned
        self.is_over.acquire()
        self.is_abandoned = False

    def run(self) -> None:
        try:
            self.result = self.do()
        except BaseException as error:  # handed to the caller, if it still waits
            self.error = error
        finally:
            self.is_over.release()
        if self.is_abandoned:
            self.afterwards()


class DriverCalls:
    """Runs calls one after the other on a daemon thread.

    Parameters
    ----------
    name
        Of the thread.
    afterwards
        Called on that thread when a call returns that nobody waited for any more.
    """

    def __init__(self, name: str, *, afterwards: Callable[[], None]) -> None:
        self._name, self._afterwards = name, afterwards
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._turn = threading.Lock()
        self._hung: _Call | None = None
        self._end: weakref.finalize[..., DriverCalls] | None = None

    @property
    def is_hung(self) -> bool:
        """True while a call that nobody waits for any more has not returned."""
        return self._hung is not None and self._hung.is_over.locked()

    @property
    def hung_s(self) -> float:
        """How long the driver has been working on a call; 0: on none."""
        call = self._hung
        return time.monotonic() - call.began_s if call and self.is_hung else 0.0

    def close(self) -> None:
        """End the thread, when its call returns; a new call starts another."""
        self._thread = None
        if self._end is not None:
            self._end()

    def __call__(self, do: Callable[[], T], within_s: float) -> T:
        """Return ``do()``; raise what it raises.

        Raises
        ------
        NoReplyError
            It does not return within `within_s` (real seconds), or an earlier call has
            not yet.
        """
        deadline_s = time.monotonic() + within_s
        if threading.current_thread() is self._thread:
            return do()  # a driver that calls back
        if not self._is_free(within_s) or not self._turn.acquire(timeout=within_s):
            raise NoReplyError("the driver still works on an earlier call.")
        try:
            call = _Call(do, self._afterwards)
            self._start()
            self._calls.put(call)
            left_s = max(deadline_s - time.monotonic(), 0.0)
            if not call.is_over.acquire(timeout=left_s):
                self._hung, call.is_abandoned = call, True
                if call.is_over.locked():
                    raise NoReplyError(f"no reply from the driver in {within_s:.3g} s")
        finally:
            self._turn.release()
        if call.error is not None:
            raise call.error
        result: T = call.result
        return result

    def _is_free(self, within_s: float) -> bool:
        """Wait for a call that was given up early, as long as it may take by now."""
        call = self._hung
        if call is None or not self.is_hung:
            return True
        left_s = call.began_s + within_s - time.monotonic()
        if left_s <= 0 or not call.is_over.acquire(timeout=left_s):
            return False
        call.is_over.release()
        return True

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=_serve, args=(self._calls,), name=self._name, daemon=True
            )
            self._thread.start()
            self._end = weakref.finalize(self, self._calls.put, None)


def _serve(calls: queue.SimpleQueue[_Call | None]) -> None:
    while (call := calls.get()) is not None:
        call.run()
        del call  # or the thread would keep the last one's objects
