"""Where tracks go: over ZeroMQ and into the run file."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from lodestar_live.settings.section import Section

_TCP = re.compile(r"tcp://(?P<host>\[[0-9a-fA-F:.]+\]|[^\[\]:;/]+):(?P<port>\d+|\*)")


def split_endpoint(endpoint: str) -> tuple[str, int] | None:
    """Return (host, port) of a tcp address, port 0 for a free one; None for ipc.

    Raises
    ------
    ValueError
        Not an address, or a port that does not exist.
    """
    if endpoint.startswith("ipc://") and len(endpoint) > len("ipc://"):
        return None
    match = _TCP.fullmatch(endpoint)
    if match is None:
        raise ValueError(
            "not an address; expected tcp://HOST:PORT, e.g. tcp://127.0.0.1:5556 "
            "(port 0 picks a free one)"
        )
    port = match["port"]
    if port != "*" and (len(port) > 5 or int(port) > 65535):
        raise ValueError(f"port {port[:20]} does not exist; expected 0 to 65535")
    return match["host"].strip("[]"), 0 if port == "*" else int(port)


def _checked(endpoint: str) -> str:
    split_endpoint(endpoint)
    return endpoint


Endpoint = Annotated[str, AfterValidator(_checked)]


class StreamSettings(Section):
    """ZeroMQ endpoints."""

    enabled: bool = True
    stream: Endpoint = "tcp://127.0.0.1:5556"
    latest: Endpoint = "tcp://127.0.0.1:5557"
    control: Endpoint | None = Field(
        None, description="Command endpoint, e.g. tcp://127.0.0.1:5558. None: off."
    )
    keys: str | None = Field(
        None,
        description="This side's NAME.key_secret; needed for addresses that other "
        "machines can reach. Made by `lodestar-live keys new NAME`.",
    )
    clients: str | None = Field(
        None, description="Folder with the NAME.key of each client let in."
    )

    @model_validator(mode="after")
    def _has_both_or_neither(self) -> StreamSettings:
        if (self.keys is None) != (self.clients is None):
            raise ValueError("keys and clients belong together; set both or neither")
        return self


class RecordingSettings(Section):
    """The run file."""

    enabled: bool = True
    folder: str = Field("runs", description="Each run gets a folder of its own here.")
    queue_mib: PositiveInt = Field(
        256,
        description="Memory for what waits to be written, e.g. while the disk is full. "
        "Frames beyond it are counted as lost.",
    )
    roi_px: PositiveInt | None = Field(
        None,
        description="Keep a window of this side around the followed particle (without "
        "one: the oldest track) in roi.tif.",
    )
