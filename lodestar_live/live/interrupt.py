"""Ctrl-C stops the stage at once, long before the acquisition has come to its end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from lodestar_live.control import Controller


class StopOnInterrupt:
    """Stops a controller on SIGINT and SIGTERM, then calls who handled them before.

    pycro-manager takes all queued frames even after a Ctrl-C in the ``with`` body, so
    the end of the acquisition would come too late. A signal that would simply end the
    process keeps doing so. Python takes signals in the main thread only; elsewhere
    `install` does nothing.
    """

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._before: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def install(self) -> None:
        """Listen from now on."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                self._before[number] = handler
                signal.signal(number, self._on_signal)

    def remove(self) -> None:
        """Put the former handlers back, if ours is still there."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, handler)
        self._before.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Stop from a thread of its own: this one may hold any lock just now.

        Threads take their turns, so nothing new is sent from here on already.
        """
        name = signal.Signals(number).name
        self._controller.refuse_all(name)
        threading.Thread(
            target=self._controller.stop,
            args=(name,),
            name="lodestar-interrupt",
            daemon=True,
        ).start()
        self._before[number](number, frame)
