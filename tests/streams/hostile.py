"""Peers that mean harm or are in a hurry, byte by byte: ZMTP without libzmq."""

from __future__ import annotations

import contextlib
import socket
import struct

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
ASKED = b'{"v":1,"id":1,"verb":"ping"}'
SUBSCRIBED = b"\x01abc"


def command(name: bytes, data: bytes = b"") -> bytes:
    """Return a ZMTP command frame."""
    body = bytes([len(name)]) + name + data
    return bytes([4, len(body)]) + body


def ready(kind: bytes, identity: bytes = b"") -> bytes:
    """Return the second half of the handshake."""
    properties = ((b"Socket-Type", kind), (b"Identity", identity))
    return command(
        b"READY",
        b"".join(
            bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
            for name, value in properties
        ),
    )


def message(body: bytes, *, more: bool = False) -> bytes:
    """Return one frame of a message."""
    if len(body) < 256:
        return bytes([int(more), len(body)]) + body
    return bytes([2 | int(more)]) + struct.pack(">Q", len(body)) + body


PING = command(b"PING", struct.pack(">H", 0))


def connect(port: int, source: str = "127.0.0.1") -> socket.socket:
    """Return a connection from an address of this machine: each has its own ports."""
    return socket.create_connection(("127.0.0.1", port), 3, (source, 0))


def greet(peer: socket.socket, kind: bytes, identity: bytes = b"") -> None:
    """Shake hands as libzmq does."""
    peer.sendall(GREETING)
    got = b""
    while len(got) < 64 and (more := peer.recv(4096)):
        got += more
    peer.sendall(ready(kind, identity))


def hurried_client(
    port: int,
    kind: bytes,
    *,
    n: int,
    has_pings: bool = False,
    resets: bool = False,
    source: str = "127.0.0.1",
    identity: bytes = b"",
) -> None:
    """Shake hands, send `n` messages in one go, and leave without reading."""
    one = message(ASKED if kind == b"DEALER" else SUBSCRIBED)
    block = (one * 5 + PING) * (n // 5) if has_pings else one * n
    with contextlib.suppress(OSError), connect(port, source) as peer:
        if resets:  # the connection ends with RST instead of FIN
            peer.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        greet(peer, kind, identity)
        peer.sendall(block)
