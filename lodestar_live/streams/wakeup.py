"""Wake a thread that polls sockets, from any other thread, without waiting."""

from __future__ import annotations

import socket


class Wakeup:
    """A pair of sockets: `call` makes `fileno()` readable until `clear`."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._reader.fileno()

    def call(self) -> None:
        """Wake the thread; one that was called already stays called."""
        try:
            self._writer.send(b"\0")
        except (BlockingIOError, OSError):  # full, so it is awake; or closed
            return

    def clear(self) -> None:
        """Forget all calls so far."""
        try:
            self._reader.recv(65536)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Let go of both sockets."""
        self._reader.close()
        self._writer.close()
