"""The bridge to a running Micro-Manager: patient, mortal, and let go of.

`pyjavaz` receives in two ways. With a time-out it asks the socket again and again
without a pause, in the interpreter that the tracker needs: 55 of 150 frames were
processed, 150 of 150 with a sleep until something comes. Without one it waits for ever,
also for a Micro-Manager that is gone, and with it the whole process. Both are mended in
the one place where it receives, for the scripts of users as well.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import queue
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)
_LOOK_MS = 200  # between two looks whether the other side is still there
_SILENT_MS = 800  # silence after which it is looked for
_UNSENT_MS = 2000  # with a link lost, what cannot be sent for so long is dropped
_PROBE_S = 0.3
_GREETING = b"\xff", b"\x7f"  # first and tenth byte of every ZeroMQ peer
_ZMQ_LIMIT_MS = 1500

# What ends each of pycro-manager's threads in good order, by the thread's name.
_LAST_WORDS: dict[str, list[dict[str, Any]]] = {
    "AcquisitionHook": [{"special": "acquisition-end"}],
    "ImageProcessor": [{"special": "finished"}],
    "NotificationHandlerThread": [
        {"type": "image", "milestone": "data_sink_finished"},
        {"type": "global", "milestone": "acq_events_finished"},
    ],
}
_CLEAR_WITHIN_S = 2.0
_lock = threading.Lock()
_garbage: queue.SimpleQueue[tuple[Any, str]] = queue.SimpleQueue()
_lost: set[int] = set()  # ports behind which something was and is no more
_family: dict[int, int] = {}  # port of a second socket -> Micro-Manager's own
_made = threading.local()  # sockets that a bridge's thread made


class LinkLostError(Exception):
    """The program behind a port of the bridge is gone."""


def make_patient() -> None:
    """Let the bridge of this process sleep while it waits, and notice a death.

    Needed once per process; more calls do nothing.
    """
    from pyjavaz import bridge

    with _lock:
        kind = bridge._DataSocket  # noqa: SLF001 - no public way
        if getattr(kind.receive, "is_patient", False):
            return
        kind.receive = _patient(kind.receive)
        kind.__init__ = _noting(kind.__init__)
        one = bridge.Bridge
        one._run_socket_thread = _closing(one._run_socket_thread)  # noqa: SLF001
        kind.send = _mortal(kind.send)
        # Each object of the other side, also each image, would be kept for the
        # process's end; one cleaner for all bridges does.
        bridge.atexit = _NoRegister
        atexit.register(_close_all)
        bridge._JavaObjectShadow.__del__ = _throw_away  # noqa: SLF001
        threading.Thread(target=_clear, name="bridge-clear", daemon=True).start()


def listens(port: int) -> bool:
    """Tell whether any program listens at a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=_PROBE_S).close()
    except OSError:
        return False
    return True


def note_family(java_object: Any, port: int) -> None:
    """Note that an object with a socket of its own belongs to a Micro-Manager."""
    _family[java_object._bridge.port] = port  # noqa: SLF001


def give_up(port: int) -> None:
    """Wait no more for a Micro-Manager that does not answer, on any of its sockets."""
    with _lock:
        gone = {port, *(p for p, of in _family.items() if of == port)}
        _lost.update(gone)
        _bridge_class()._ports_with_terminated_servers.update(gone)  # noqa: SLF001


def meet_again(port: int) -> None:
    """Forget that a port was given up: somebody answers there now."""
    with _lock:
        if port not in _lost:
            return
        kind = _bridge_class()
        for known in {port, *(p for p, of in _family.items() if of == port)}:
            _lost.discard(known)
            kind._ports_with_terminated_servers.discard(known)  # noqa: SLF001
        kind._cached_bridges_by_port.pop(port, None)  # noqa: SLF001


def was_lost(port: int) -> bool:
    """Tell whether the program behind a port was found gone."""
    return port in _lost


def why_not_micro_manager(port: int) -> str:
    """Return why a port cannot be Micro-Manager's; "" if it answers as such."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as probe:
            probe.settimeout(0.7)
            greeting = _read_greeting(probe)
    except OSError:
        return "nothing answers there"
    if len(greeting) < 10 or (greeting[:1], greeting[9:10]) != _GREETING:
        return "another program has it, which does not speak ZeroMQ"
    reply = _shake_hands(port)
    if reply is None:
        return "another program has it, which speaks ZeroMQ but is no Micro-Manager"
    return ""


def release(java_object: Any) -> None:
    """Let go of an object of the other side, and of its socket if it had its own."""
    with contextlib.suppress(Exception):  # a lost link has nothing to let go of
        java_object._close()  # noqa: SLF001 - no public way


def _read_greeting(probe: socket.socket) -> bytes:
    greeting = b""
    with contextlib.suppress(TimeoutError):
        while len(greeting) < 10 and (more := probe.recv(64)):
            greeting += more
    return greeting


def _shake_hands(port: int) -> dict[str, Any] | None:
    import zmq

    with zmq.Context() as context, context.socket(zmq.REQ) as asked:
        asked.linger = 0
        asked.connect(f"tcp://127.0.0.1:{port}")
        asked.send(json.dumps({"command": "connect", "debug": False}).encode())
        if not asked.poll(_ZMQ_LIMIT_MS):
            return None
        try:
            reply = json.loads(asked.recv_multipart()[0].decode("iso-8859-1"))
        except (ValueError, UnicodeDecodeError):
            return None
        return reply if isinstance(reply, dict) and "type" in reply else None


def _patient(receive: Callable[..., Any]) -> Callable[..., Any]:
    def patient(
        self: Any, timeout: int | None = None, suppress_debug_message: bool = False
    ) -> Any:
        waited_ms = 0
        while not self._socket.poll(min(_LOOK_MS, timeout or _LOOK_MS)):
            waited_ms += _LOOK_MS
            if self._port in _lost:
                return _end(self)
            self.silent_ms = getattr(self, "silent_ms", 0) + (timeout or _LOOK_MS)
            if self.silent_ms >= _SILENT_MS:
                self.silent_ms = 0
                if not listens(self._port):
                    return _end(self)
            if timeout and waited_ms >= timeout:
                return None
        self.silent_ms = 0
        return receive(self, suppress_debug_message=suppress_debug_message)

    patient.is_patient = True  # type: ignore[attr-defined]
    return patient


def _noting(init: Callable[..., None]) -> Callable[..., None]:
    def noting(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if hasattr(_made, "sockets"):
            _made.sockets.append(self._socket)

    return noting


def _closing(run: Callable[[Any], None]) -> Callable[[Any], None]:
    """Close a bridge's socket with its thread; else it lies about until collected."""

    def closing(self: Any) -> None:
        _made.sockets = []
        try:
            run(self)
        finally:
            for held in _made.sockets:
                held.close(linger=0)
            _family.pop(self.port, None)

    return closing


def _bridge_class() -> Any:
    from pyjavaz.bridge import Bridge

    return Bridge


def _end(receiver: Any) -> Any:
    """Give a thread that waits for a program that is gone its way to its own end."""
    with _lock:
        port = receiver._port  # noqa: SLF001
        _lost.add(port)
        terminated = _bridge_class()._ports_with_terminated_servers  # noqa: SLF001
        terminated.update({*_lost, *(p for p in _open_ports() if not listens(p))})
    words = _LAST_WORDS.get(threading.current_thread().name)
    if words is None:
        raise LinkLostError(
            f"the program on port {port} is gone: it has ended, crashed or stalled."
        )
    said = receiver.n_said = getattr(receiver, "n_said", 0) + 1
    return words[min(said, len(words)) - 1]


def _mortal(send: Callable[..., Any]) -> Callable[..., Any]:
    """Send nothing to a program that is gone, rather than wait for it."""

    def mortal(self: Any, *args: Any, **kwargs: Any) -> Any:
        import zmq

        if self._socket is not None and self._socket.type == zmq.PUSH:
            waited_ms = 0
            while not self._socket.poll(_LOOK_MS, zmq.POLLOUT):
                waited_ms += _LOOK_MS
                if _lost and waited_ms >= _UNSENT_MS:
                    return None
        return send(self, *args, **kwargs)

    return mortal


def _throw_away(java_object: Any) -> None:
    """Hand an object of the other side to the thread that tells it so.

    The garbage collector runs in any thread at any time, the camera's too; a round trip
    there would hold it up, for ever if the other side is gone.
    """
    held = vars(java_object)
    if not held.get("_closed", True) and held.get("_bridge") is not None:
        _garbage.put((held["_bridge"], held["_hash_code"]))


def _clear() -> None:
    """Tell other sides what is not needed any more, one object after the other."""
    while True:
        bridge, code = _garbage.get()
        with contextlib.suppress(Exception):  # whoever is gone has nothing to clear
            if not (bridge._closed or was_lost(bridge.port)):  # noqa: SLF001
                message = {"command": "destructor", "hash-code": code}
                bridge.send_and_receive(message, timeout=_CLEAR_WITHIN_S)
                if not len(bridge._java_objects):  # noqa: SLF001
                    bridge.close()
        del bridge


class _NoRegister:
    """Stands in for `atexit` in the bridge's module."""

    @staticmethod
    def register(function: Callable[[], object]) -> None:
        """Do nothing: see `make_patient`."""


def _open_ports() -> list[int]:
    return list(_bridge_class()._cached_bridges_by_port)  # noqa: SLF001


def _close_all() -> None:
    """Tell the other side, as the process ends, what is not needed any more."""
    for reference in list(_bridge_class()._cached_bridges_by_port.values()):  # noqa: SLF001
        one = reference()
        for held in [] if one is None else list(one._java_objects):  # noqa: SLF001
            release(held)


def is_in_use(port: int) -> bool:
    """Tell whether this process talks to the Micro-Manager at a port already."""
    if "pyjavaz" not in sys.modules:
        return False
    return port in _open_ports() and not why_not_micro_manager(port)
