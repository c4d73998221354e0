"""The publisher's three sockets: bound safely, bounded in memory, gone at the end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import zmq
from zmq.auth.thread import ThreadAuthenticator

from lodestar_live.streams.commands import MAX_FRAME_BYTES
from lodestar_live.streams.endpoints import bind
from lodestar_live.streams.keys import authenticate, secure_server

_HIGH_WATER = 100  # messages kept per subscriber that does not read
_PEER_TIMEOUT_MS = 3000  # a subscriber silent for so long is let go
_MAX_SUBSCRIPTION_BYTES = 4096


class Sockets:
    """Bind what a publisher serves; port 0 picks a free one, None leaves one out.

    Parameters
    ----------
    keys, clients
        CURVE: this side's secret key file and the folder of allowed clients' keys.

    Attributes
    ----------
    endpoints
        The addresses really bound, by name.

    Raises
    ------
    StreamError
        A port is in use, or an address is reachable from outside without keys.
    """

    def __init__(
        self,
        stream: str,
        latest: str | None,
        control: str | None,
        *,
        keys: str | Path | None,
        clients: str | Path | None,
    ) -> None:
        self.endpoints: dict[str, str] = {}
        self._context = zmq.Context()
        self._keys = keys
        self._authenticator: ThreadAuthenticator | None = None
        try:
            if keys is not None:
                self._authenticator = authenticate(self._context, clients or "")
            self.stream = self._open("stream", zmq.XPUB, stream)
            self.latest = None if latest is None else self._open_latest(latest)
            self.control = None if control is None else self._open_control(control)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the ports; nothing lingers."""
        if self._authenticator is not None:
            self._authenticator.stop()
        self._context.destroy(linger=0)

    def _open_latest(self, endpoint: str) -> zmq.Socket[bytes]:
        return self._open("latest", zmq.PUB, endpoint, {zmq.CONFLATE: 1})

    def _open_control(self, endpoint: str) -> zmq.Socket[bytes]:
        options = {zmq.MAXMSGSIZE: MAX_FRAME_BYTES}
        return self._open("control", zmq.ROUTER, endpoint, options)

    def _open(
        self,
        name: str,
        kind: int,
        endpoint: str,
        options: Mapping[zmq.SocketOption, int] | None = None,
    ) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.linger = 0
        socket.setsockopt(zmq.MAXMSGSIZE, _MAX_SUBSCRIPTION_BYTES)
        socket.setsockopt(zmq.HEARTBEAT_IVL, _PEER_TIMEOUT_MS // 3)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _PEER_TIMEOUT_MS)
        socket.set_hwm(_HIGH_WATER)
        if kind == zmq.XPUB:
            socket.setsockopt(zmq.XPUB_VERBOSE, 1)  # tells of late joiners
        for option, value in (options or {}).items():
            socket.setsockopt(option, value)
        if self._keys is not None:
            secure_server(socket, self._keys)
        secured = self._keys is not None
        self.endpoints[name] = bind(socket, endpoint, secured=secured)
        return socket


class Subscriptions:
    """Who wants which topics, as the XPUB socket tells.

    Attributes
    ----------
    wanted
        Topics with at least one subscriber.
    """

    def __init__(self, socket: zmq.Socket[bytes], topics: tuple[str, ...]) -> None:
        self._socket, self._topics = socket, topics
        self._prefixes: set[str] = set()
        self.wanted: frozenset[str] = frozenset()

    def take(self) -> set[str]:
        """Read what subscribers said; return the topics somebody new asked for."""
        joined: set[str] = set()
        for _ in range(1000):  # a flood of subscriptions must not hold up the rest
            if not self._socket.poll(0):
                break  # cheaper than to ask and be refused
            parts = self._socket.recv_multipart(zmq.NOBLOCK)
            verb, prefix = parts[0][:1], parts[0][1:].decode("ascii", "replace")
            topics = {t for t in self._topics if t.startswith(prefix)}
            if verb == b"\x01" and topics:
                self._prefixes.add(prefix)
                joined |= topics
            elif verb == b"\x00":
                self._prefixes.discard(prefix)
        self.wanted = frozenset(
            t for t in self._topics if t.startswith(tuple(self._prefixes))
        )
        return joined
