"""Where tracks go: over ZeroMQ and into the run file."""

from __future__ import annotations

from pydantic import Field, PositiveInt, model_validator

from lodestar_live.settings.section import Section


class StreamSettings(Section):
    """ZeroMQ endpoints."""

    enabled: bool = True
    stream: str = "tcp://127.0.0.1:5556"
    latest: str = "tcp://127.0.0.1:5557"
    control: str | None = Field(
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
    roi_px: PositiveInt | None = Field(
        None,
        description="Keep a window of this side around the followed particle (without "
        "one: the oldest track) in roi.tif.",
    )
