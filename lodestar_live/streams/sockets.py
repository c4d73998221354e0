"""The publisher's sockets: bound safely, unharmed by any peer, gone at the end.

libzmq 4.3.5 aborts the process when a peer hangs up while the reading of its messages
is suspended, and either our own heartbeat is due or a PING of its lies unread
(`stream_engine_base.cpp`: ``!_io_error``). Reading is suspended at the receiving
high-water mark only. So there is none here, our heartbeats are off, what arrives is
read on without pause, and whoever floods is cut off by opening the socket anew.
docs/decisions/0019 tells how this was found, `tests/bench/hostile.py` that it holds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils.monitor import recv_monitor_message

from lodestar_live.errors import StreamError
from lodestar_live.streams.commands import MAX_FRAME_BYTES
from lodestar_live.streams.endpoints import bind
from lodestar_live.streams.keys import (
    ZAP_DOMAIN,
    KnownClients,
    authenticate,
    secure_server,
)

_HIGH_WATER = 100  # messages kept per subscriber that does not read
_STALLED_MS = 3000  # a peer that takes nothing for so long is let go
_IDLE_S, _PROBE_S, _PROBES = 10, 3, 3  # TCP keepalive: an unplugged peer
_MAX_SUBSCRIPTION_BYTES = 1024  # a handshake with keys takes 600
_SUBSCRIPTIONS_AT_ONCE = 2000
_FLOOD_ROUNDS = 10  # so many times in a row there were more
_MOST_USELESS = 10_000  # different subscriptions to what does not exist
_REOPEN_WITHIN_S = 5.0

Options = Mapping[int, int]
_KINDS: Mapping[str, tuple[int, Options]] = {
    "stream": (
        zmq.XPUB,
        {
            zmq.MAXMSGSIZE: _MAX_SUBSCRIPTION_BYTES,
            zmq.XPUB_VERBOSE: 1,  # tells of late joiners
        },
    ),
    "latest": (
        zmq.PUB,
        {zmq.MAXMSGSIZE: _MAX_SUBSCRIPTION_BYTES, zmq.CONFLATE: 1},
    ),
    "control": (zmq.ROUTER, {zmq.MAXMSGSIZE: MAX_FRAME_BYTES}),
}
_GUARDS: Options = {
    zmq.LINGER: 0,
    zmq.SNDHWM: _HIGH_WATER,
    zmq.RCVHWM: 0,  # see above
    zmq.HEARTBEAT_IVL: 0,  # see above
    zmq.TCP_MAXRT: _STALLED_MS,
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: _IDLE_S,
    zmq.TCP_KEEPALIVE_INTVL: _PROBE_S,
    zmq.TCP_KEEPALIVE_CNT: _PROBES,
}


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
    clients
        Who is let in; None: no keys are set up, every program of this machine is.

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
        self.clients: KnownClients | None = None
        self._context = zmq.Context()
        self._keys = keys
        self._authenticator: ThreadAuthenticator | None = None
        try:
            if keys is not None:
                self.clients = KnownClients(clients or "")
                self._authenticator = authenticate(self._context, self.clients)
            self.stream = self._open("stream", stream)
            self.latest = None if latest is None else self._open("latest", latest)
            self.control = None if control is None else self._open("control", control)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the ports; nothing lingers."""
        if self._authenticator is not None:
            self._authenticator.stop()
        self._context.destroy(linger=0)

    def reopen(self, name: str, old: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
        """Cut every connection of a socket and return a new one on the same address.

        Peers connect again by themselves; what a flood had piled up is gone. Called on
        the thread that owns the socket.
        """
        endpoint = self.endpoints[name]
        old.close(linger=0)
        give_up_s = time.monotonic() + _REOPEN_WITHIN_S
        while True:  # the port is free once libzmq's own thread has let go of it
            try:
                return self._open(name, endpoint)
            except StreamError:
                if time.monotonic() > give_up_s:
                    raise
                time.sleep(0.01)

    def _open(self, name: str, endpoint: str) -> zmq.Socket[bytes]:
        kind, options = _KINDS[name]
        socket = self._context.socket(kind)
        try:
            for option, value in {**_GUARDS, **options}.items():
                socket.setsockopt(option, value)
            # A domain refuses ZMTP 1 and 2, which a web page's request can imitate.
            socket.zap_domain = ZAP_DOMAIN.encode()
            if self._keys is not None:
                secure_server(socket, self._keys)
            secured = self._keys is not None
            self.endpoints[name] = bind(socket, endpoint, secured=secured)
        except BaseException:
            socket.close(linger=0)
            raise
        return socket


class Connections:
    """Who is connected to a PUB socket, which does not tell who subscribes.

    Used, and closed before its socket, by the thread that owns that. Attribute `any`:
    whether anybody may be listening, as of the last `take`.
    """

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self._peers: set[int] = set()
        self.any = False
        address = f"inproc://lodestar-connections-{id(self)}"
        socket.monitor(address, zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._events = socket.context.socket(zmq.PAIR)
        # Without a limit libzmq's own thread never waits for us to read.
        self._events.setsockopt(zmq.RCVHWM, 0)
        self._events.setsockopt(zmq.LINGER, 0)
        self._events.connect(address)

    def take(self) -> None:
        """Note who came and went."""
        for _ in range(_SUBSCRIPTIONS_AT_ONCE):
            if not self._events.poll(0):
                break
            news = recv_monitor_message(self._events, zmq.NOBLOCK)
            if news["event"] == zmq.EVENT_ACCEPTED:
                self._peers.add(news["value"])
            else:
                self._peers.discard(news["value"])
        self.any = bool(self._peers)

    def close(self) -> None:
        """Stop listening; may be called twice."""
        if not self._events.closed:
            self._socket.monitor(None, 0)
            self._events.close()


class Subscriptions:
    """Who wants which topics, as the XPUB socket tells.

    Attributes
    ----------
    wanted
        Topics with at least one subscriber.
    is_flooded
        Subscriptions arrive faster than they can be read, or name countless topics that
        do not exist: the socket should be opened anew.
    """

    def __init__(self, socket: zmq.Socket[bytes], topics: tuple[str, ...]) -> None:
        self._socket, self._topics = socket, topics
        self._prefixes: set[str] = set()
        self._useless: set[str] = set()  # each costs the socket memory as well
        self._n_full_rounds = 0
        self.wanted: frozenset[str] = frozenset()
        self.is_flooded = False

    def take(self) -> set[str]:
        """Read what subscribers said; return the topics somebody new asked for."""
        joined: set[str] = set()
        for _ in range(_SUBSCRIPTIONS_AT_ONCE):  # a flood must not hold up the rest
            if not self._socket.poll(0):
                self._n_full_rounds = 0
                break  # cheaper than to ask and be refused
            joined |= self._note(self._socket.recv_multipart(zmq.NOBLOCK))
        else:
            self._n_full_rounds += 1
        self.is_flooded = (
            self._n_full_rounds >= _FLOOD_ROUNDS or len(self._useless) > _MOST_USELESS
        )
        self.wanted = frozenset(
            t for t in self._topics if t.startswith(tuple(self._prefixes))
        )
        return joined

    def _note(self, parts: list[bytes]) -> set[str]:
        verb, prefix = parts[0][:1], parts[0][1:].decode("ascii", "replace")
        topics = {t for t in self._topics if t.startswith(prefix)}
        if verb == b"\x01" and topics:
            self._prefixes.add(prefix)
            return topics
        if verb == b"\x01":
            self._useless.add(prefix)
        elif verb == b"\x00":
            self._prefixes.discard(prefix)
            self._useless.discard(prefix)
        return set()
