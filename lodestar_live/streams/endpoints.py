"""Opening sockets safely: loopback unless keys are set up, errors a user can read."""

from __future__ import annotations

import ipaddress
import re

import zmq

from lodestar_live.errors import StreamError, shown
from lodestar_live.settings.outputs import split_endpoint


def is_loopback(endpoint: str) -> bool:
    """Return True when only programs on this machine can reach `endpoint`.

    Raises
    ------
    StreamError
        Not a tcp:// or ipc:// address, or a port that does not exist.
    """
    try:
        address = split_endpoint(endpoint)
    except ValueError as error:
        raise StreamError(f"endpoint {shown(endpoint)}: {error}.") from error
    if address is None:
        return True
    try:
        return ipaddress.ip_address(address[0]).is_loopback
    except ValueError:
        return address[0] == "localhost"


def bind(socket: zmq.Socket[bytes], endpoint: str, *, secured: bool) -> str:
    """Bind, and return the real address (port 0 becomes the port chosen).

    Raises
    ------
    StreamError
        The port is in use or the address cannot be bound, or it can be reached from
        other machines and no keys are configured.
    """
    if not is_loopback(endpoint) and not secured:
        raise StreamError(
            f"endpoint {endpoint}: reachable from other machines, refused without "
            "keys. Use tcp://127.0.0.1:PORT, or make keys with `lodestar-live keys new "
            "NAME` and set streams.keys and streams.clients."
        )
    try:
        socket.bind(re.sub(r":0$", ":*", endpoint))
    except zmq.ZMQError as error:
        remedy = (
            "another program (a second run?) uses the port; stop it or choose another "
            "port in the [streams] settings"
            if error.errno == zmq.EADDRINUSE
            else "expected an address of this machine"
        )
        raise StreamError(
            f"endpoint {endpoint}: {error.strerror}; {remedy}."
        ) from error
    return str(socket.getsockopt_string(zmq.LAST_ENDPOINT))
