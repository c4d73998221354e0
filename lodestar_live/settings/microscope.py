"""How frames are taken, and how they wait for the detector."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from lodestar_live.settings.section import Port, Section


class MicroscopeSettings(Section):
    """How to reach Micro-Manager."""

    backend: Literal["running", "headless", "demo"] = Field(
        "running",
        description="running: attach to an open Micro-Manager (Java backend); "
        "headless: start MMCore in this process from `config_file`; "
        "demo: the built-in demo microscope.",
    )
    config_file: str | None = Field(
        None, description="Micro-Manager .cfg, for `headless`."
    )
    app_path: str | None = Field(
        None, description="Folder with Micro-Manager's device adapters, for `headless`."
    )
    port: Port = Field(4827, description="Port of the running Micro-Manager.")
    xy_stage: str | None = Field(
        None, description="XY stage by its label. None: Micro-Manager's default."
    )
    z_stage: str | None = Field(
        None, description="Focus drive or piezo by its label. None: the default."
    )
    buffer_mb: PositiveInt = Field(
        128, description="MMCore's circular buffer, for `headless`; all of it resident."
    )
    pixel_size_um: PositiveFloat | None = Field(
        None, description="Overrides what Micro-Manager reports, e.g. 0.108."
    )


class AcquisitionSettings(Section):
    """What pycro-manager is asked to acquire, or what is watched."""

    source: Literal["acquire", "watch", "buffer"] = Field(
        "acquire",
        description="acquire: take frames ourselves, through pycro-manager; watch: "
        "track what the user does in Micro-Manager (Live, Snap, MDA), nothing is "
        "acquired by us; buffer: one continuous sequence straight from MMCore's "
        'buffer, a thousand frames per second (backends "headless" and "demo"; with '
        'live.mode = "every" a frame is processed before the next is taken).',
    )
    n_frames: PositiveInt | None = Field(
        None, description="Frames to take. None: until stopped."
    )
    exposure_ms: PositiveFloat | None = Field(None, description="None: as it is set.")
    sequence: bool = Field(
        False,
        description="Hardware-timed sequences (faster); off: single events, which "
        "stop sooner and suit feedback.",
    )
    events_in_flight: PositiveInt = Field(
        2, description="Events handed to the engine ahead of the frames seen."
    )
    save_folder: str | None = Field(
        None, description="Where pycro-manager stores the frames. None: not stored."
    )


class LiveSettings(Section):
    """How frames wait for the detector."""

    mode: Literal["latest", "every"] = Field(
        "latest",
        description="latest: newest frame first, older ones dropped and counted; "
        "every: first in, first out, up to `queue_frames`.",
    )
    queue_frames: PositiveInt = Field(64, description="Queue length of `every`.")
    max_failures: PositiveInt = Field(
        20, description="Failures in a row after which the run is called degraded."
    )
    hand_on_frames: bool = Field(
        True,
        description="Hand every frame on, unchanged, to pycro-manager's storage; off: "
        "nothing is stored and memory stays flat.",
    )
