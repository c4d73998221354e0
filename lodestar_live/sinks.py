"""`Sink`, what takes updates, and the guard through which every sink is called."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from lodestar_live.data import Event, RunInfo, Update

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """Anything that takes updates: publisher, recorder, controller, user code.

    `write` and `tell` are called on the worker thread and must return at once.
    """

    def open(self, run: RunInfo) -> None:
        """Take the facts of the run, before the first frame."""

    def write(self, update: Update) -> None:
        """Take one processed frame."""

    def tell(self, event: Event) -> None:
        """Take an event: a dropped frame, a change of state, an error."""

    def close(self) -> None:
        """Flush and let go; may be called twice."""


class Guard:
    """Call one sink so that its exceptions stay its own affair.

    A frame that was detected and linked is processed, whatever a sink makes of it. An
    exception is counted and the first one is handed on; later ones are only counted,
    since a sink that fails once mostly fails at every frame.

    Parameters
    ----------
    sink
        The sink to call.
    note_error
        Takes (kind, text) of the first exception. None: it is logged.
    """

    def __init__(
        self, sink: Sink, note_error: Callable[[str], None] | None = None
    ) -> None:
        self.sink, self.n_errors = sink, 0
        self._note_error = note_error

    @property
    def name(self) -> str:
        """The class of the sink."""
        return type(self.sink).__name__

    def open(self, run: RunInfo) -> None:
        """Open the sink; its exceptions pass, since the run has not begun."""
        self.sink.open(run)

    def write(self, update: Update) -> None:
        """Hand an update to the sink."""
        try:
            self.sink.write(update)
        except Exception:
            self._note("write")

    def tell(self, event: Event) -> None:
        """Hand an event to the sink."""
        try:
            self.sink.tell(event)
        except Exception:
            self._note("tell")

    def close(self) -> None:
        """Close the sink."""
        try:
            self.sink.close()
        except Exception:
            self._note("close")

    def _note(self, verb: str) -> None:
        self.n_errors += 1
        if self.n_errors > 1:
            return
        kind = f"sink {self.name}.{verb}"
        if self._note_error is None:
            logger.exception("%s failed; its later errors are only counted", kind)
        else:
            self._note_error(kind)


def guarded(
    sinks: Sequence[Sink], note_error: Callable[[str], None] | None = None
) -> list[Sink]:
    """Put a `Guard` around every sink that has none."""
    return [s if isinstance(s, Guard) else Guard(s, note_error) for s in sinks]
