"""One acquisition of pycro-manager: opened, watched and ended without ever hanging.

pycro-manager's own threads keep a process alive, some of its failures lie in futures
that nobody reads, and its end can be waited for in vain. Here its threads are started
from a daemon thread, so that they are daemons; the futures are read; every wait ends.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from lodestar_live.microscope.bridge import make_patient, note_family
from lodestar_live.microscope.core import Microscope, MicroscopeError

Events = list[dict[str, Any]]
ImageProcessor = Callable[[Any, dict[str, Any]], Any]
Result = TypeVar("Result")
_OPEN_WITHIN_S = 15.0
_ASK_S = 0.25  # between two questions to a Micro-Manager of another process
_ANSWER_WITHIN_S = 2.5


def within(seconds: float, ask: Callable[[], Result], what: str) -> Result:
    """Return what `ask` returns, or raise when that takes too long.

    It runs on a daemon thread, which is left behind if it never returns.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(ask())
        except BaseException as error:  # raised below, in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name="lodestar-ask", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise MicroscopeError(f"{what} did not answer within {seconds:g} s.")
    return results[0]


class Engine:
    """A running acquisition of one Micro-Manager; see `open_engine`."""

    def __init__(self, microscope: Microscope, acquisition: Any) -> None:
        self._microscope, self._acquisition = microscope, acquisition
        self._submitted: deque[Events] = deque()
        self._futures: deque[tuple[Events, Any]] = deque()
        self._error: BaseException | None = None
        self._is_over = False
        self._stop_asking = threading.Event()
        if microscope.is_python:
            self._keep_futures()
        else:
            threading.Thread(target=self._ask, name="lodestar-ask", daemon=True).start()

    def submit(self, events: Events) -> None:
        """Hand over events; more than one becomes a hardware sequence."""
        self._submitted.append(events)
        try:
            self._acquisition.acquire(events if len(events) > 1 else events[0])
        except Exception:
            # It has ended meanwhile; why is asked for, not that it cannot go on.
            self._acquisition._exception = None  # noqa: SLF001
            within(_ANSWER_WITHIN_S, self._refresh, self._microscope.name)
            if self._error is None and not self._is_over:
                raise

    def take_failed(self) -> list[tuple[Events, BaseException]]:
        """Return the events that failed since the last call, each with its error."""
        failed = []
        while self._futures and self._futures[0][1].done():
            events, future = self._futures.popleft()
            error = future.exception()
            if error is not None:
                failed.append((events, error))
        return failed

    def error(self) -> BaseException | None:
        """Return what ended the acquisition, or None while it lives."""
        if self._error is None and self._microscope.is_python:
            self._look()
        return self._error

    @property
    def is_over(self) -> bool:
        """Whether it has ended by itself, without an error: somebody aborted it."""
        if self._microscope.is_python and not self._is_over:
            self._look()
        return self._is_over

    def abort(self) -> None:
        """Forget all events that were not executed yet."""
        with contextlib.suppress(Exception):
            within(_ANSWER_WITHIN_S, self._acquisition.abort, "the acquisition")

    def finish(self, within_s: float) -> None:
        """End the acquisition; pycro-manager's own waiting can hang, this cannot.

        Raises
        ------
        MicroscopeError
            It failed, or did not end in time.
        """
        self._stop_asking.set()

        def wait() -> bool:
            self._acquisition.mark_finished()
            self._acquisition.await_completion()
            return True

        begin_s = time.perf_counter()
        try:
            within(within_s, wait, "the acquisition")
        except MicroscopeError:
            if time.perf_counter() - begin_s < within_s:
                raise
            raise MicroscopeError(
                f"the acquisition did not end within {within_s:g} s: the camera or its "
                "driver is stuck. What was recorded is kept; restart Micro-Manager."
            ) from None
        except Exception as error:
            raise MicroscopeError(f"the acquisition failed: {error}") from error

    def _keep_futures(self) -> None:
        """Read the futures in which the Python engine leaves its failures."""
        inner = self._acquisition._acq  # noqa: SLF001 - no public way in 1.0.2
        submit = inner.submit_event_iterator

        def keep(iterator: Any) -> Any:
            future = submit(iterator)
            if self._submitted:
                self._futures.append((self._submitted.popleft(), future))
            return future

        inner.submit_event_iterator = keep

    def _refresh(self) -> bool:
        self._look()
        return True

    def _look(self) -> None:
        inner = self._acquisition._acq  # noqa: SLF001
        try:
            self._acquisition._check_for_exceptions()  # noqa: SLF001
        except BaseException as error:  # whatever it was, it is told as the cause
            self._error = error
            return
        if inner is not None and (
            inner.are_events_finished()
            or (self._microscope.is_python and inner.is_abort_requested())
        ):
            self._is_over = True

    def _ask(self) -> None:
        """Ask another process how its engine is, from a thread of its own.

        Its answer can take for ever; who feeds the acquisition must not wait for it.
        """
        while not self._stop_asking.wait(_ASK_S):
            try:
                within(_ANSWER_WITHIN_S, self._refresh, self._microscope.name)
            except BaseException as error:
                self._error = error
            if self._error is not None:
                return


def open_engine(
    microscope: Microscope,
    processor: ImageProcessor,
    *,
    save_folder: str | None = None,
    event_hook: Callable[[Any], Any] | None = None,
) -> Engine:
    """Start an acquisition on this microscope and no other.

    Raises
    ------
    MicroscopeError
        pycro-manager cannot start one.
    """
    from pycromanager import JavaBackendAcquisition
    from pycromanager.acquisition.python_backend_acquisitions import (
        PythonBackendAcquisition,
    )

    common: dict[str, Any] = {"name": "lodestar", "image_process_fn": processor}
    if save_folder is not None:
        common["directory"] = save_folder
    if event_hook is not None:  # a hook costs a round trip per event on the Java side
        common["pre_hardware_hook_fn"] = event_hook

    def start() -> Any:
        if microscope.is_python:
            return PythonBackendAcquisition(**common)
        make_patient()
        acquisition = JavaBackendAcquisition(
            **common, show_display=False, port=microscope.port
        )
        note_family(acquisition._acq, microscope.port)  # noqa: SLF001
        return acquisition

    try:
        acquisition = within(_OPEN_WITHIN_S, start, "Micro-Manager")
    except MicroscopeError:
        raise
    except Exception as error:
        raise MicroscopeError(
            f"{microscope.name}: no acquisition could be started ({error}); "
            "`lodestar-live doctor` says more."
        ) from error
    _abort_quietly(acquisition)
    return Engine(microscope, acquisition)


def _abort_quietly(acquisition: Any) -> None:
    """Let pycro-manager's threads abort without an error of their own on top.

    What they abort for is kept by the acquisition; that a Micro-Manager that is gone
    cannot be told of it is no news.
    """
    abort = acquisition.abort

    def quietly(exception: BaseException | None = None) -> None:
        with contextlib.suppress(Exception):
            abort(exception)

    acquisition.abort = quietly
