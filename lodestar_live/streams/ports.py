"""Free ports on this machine, where another program has the usual ones."""

from __future__ import annotations

import os
import re
import socket

from lodestar_live.settings import StreamSettings

_LOCAL = re.compile(r"tcp://(127\.0\.0\.1|localhost):(\d+)")


def is_free(port: int) -> bool:
    """Tell whether a program may listen on a port of 127.0.0.1."""
    with socket.socket() as probe:
        if os.name == "posix":
            # a port whose last connection is closing is free; on Windows this option
            # would share a port that is in use
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def any_free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def with_free_ports(streams: StreamSettings) -> tuple[StreamSettings, list[str]]:
    """Return settings whose local ports are free, and a sentence for each change.

    Addresses that other machines can reach stay: clients elsewhere rely on them.
    """
    update, said = {}, []
    for name in ("stream", "latest", "control") if streams.enabled else ():
        endpoint = getattr(streams, name)
        match = _LOCAL.fullmatch(endpoint or "")
        if match is None or int(match[2]) == 0 or is_free(int(match[2])):
            continue
        update[name] = f"tcp://{match[1]}:{any_free_port()}"
        said.append(
            f"streams.{name}: port {match[2]} is in use by another program (a second "
            f"run?); this run takes {update[name]}"
        )
    return streams.model_copy(update=update), said
