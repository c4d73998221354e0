"""Signals stop the stage at once, long before the acquisition has come to its end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from lodestar_live.control import Controller

_NUMBERS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)  # Windows has no SIGHUP
)
_listeners: list[StopOnInterrupt] = []
_before: dict[int, Any] = {}  # the handlers that ours stands in for


class StopOnInterrupt:
    """Stops a controller on SIGINT, SIGTERM and SIGHUP, then does what was done before.

    pycro-manager takes all queued frames even after a Ctrl-C in the ``with`` body, so
    the end of the acquisition would come too late. A signal that would simply end the
    process still does, once the stage stands and the run is closed; a second one does
    at once. Python takes signals in the main thread only; elsewhere `install` does
    nothing.

    Parameters
    ----------
    controller
        Whose stage is stopped.
    finish
        Closes the run, within a few seconds.
    """

    def __init__(self, controller: Controller, finish: Callable[[], None]) -> None:
        self._controller, self._finish = controller, finish

    def install(self) -> None:
        """Listen from now on."""
        if not _is_main_thread():
            return
        _restore_if_idle()
        if not _listeners:
            for number in _NUMBERS:
                handler = signal.getsignal(number)
                if callable(handler) or handler is signal.SIG_DFL:
                    _before[number] = handler
                    signal.signal(number, _on_signal)
        _listeners.append(self)

    def remove(self) -> None:
        """Listen no more; the last one puts the former handlers back."""
        if self in _listeners:
            _listeners.remove(self)
        _restore_if_idle()

    def stop(self, name: str) -> threading.Thread:
        """Stop from a thread of its own: this one may hold any lock just now.

        Threads take their turns, so nothing new is sent from here on already.
        """
        self._controller.refuse_all(name)
        thread = threading.Thread(
            target=self._controller.stop,
            args=(name,),
            name="lodestar-interrupt",
            daemon=True,
        )
        thread.start()
        return thread

    def finish(self) -> None:
        """Close the run."""
        self._finish()


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _restore_if_idle() -> None:
    """Put back the handlers that ours still stand in for, when nobody listens."""
    if _listeners or not _is_main_thread():
        return
    for number, handler in _before.items():
        if signal.getsignal(number) is _on_signal:
            signal.signal(number, handler)
    _before.clear()


def _on_signal(number: int, frame: FrameType | None) -> None:
    listeners, before = list(_listeners), _before.get(number, signal.SIG_DFL)
    stops = [each.stop(signal.Signals(number).name) for each in listeners]
    if callable(before):
        before(number, frame)
        return
    signal.signal(number, signal.SIG_DFL)  # the next one ends the process at once

    def end() -> None:
        for stop in stops:
            stop.join(1.0)
        for each in listeners:
            each.finish()
        os.kill(os.getpid(), number)

    threading.Thread(target=end, name="lodestar-end", daemon=True).start()
