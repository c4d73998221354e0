"""From an image as the hook left it to a `Frame` with its time and stage position."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from lodestar_live.data import Frame, Pixels, StagePosition
from lodestar_live.errors import InputError
from lodestar_live.microscope import ImageFacts

_OLDEST_S = 60.0  # a camera time stamp older than this is not believed


class Arrival(NamedTuple):
    """One image as the hook left it."""

    frame_index: int
    pixels: Pixels
    metadata: Mapping[str, Any]
    t_arrival_s: float


def make_frame(
    arrival: Arrival,
    facts: ImageFacts,
    *,
    wall_start_s: float,
    stage_at: Callable[[float], StagePosition],
    pixel_size_um: float | None,
) -> Frame:
    """Put together what is known about one image.

    Parameters
    ----------
    facts
        What its metadata say.
    wall_start_s
        Wall time of the run's start: the camera stamps wall time.
    stage_at
        Run time, s -> stage position.
    pixel_size_um
        The user's own; None: the microscope's.

    Raises
    ------
    InputError
        The image is not a grey one.
    """
    pixels = arrival.pixels
    if pixels.ndim != 2 or 0 in pixels.shape or pixels.dtype.kind not in "uifcb":
        raise InputError(
            f"frame {arrival.frame_index} has shape {pixels.shape} and type "
            f"{pixels.dtype}; expected one grey image (y, x) of numbers. Colour "
            "cameras: select a single channel."
        )
    t_exposure_s = _delivered_s(arrival, facts.received_wall_s, wall_start_s)
    t_exposure_s -= float(np.nan_to_num(facts.exposure_ms)) / 2e3
    return Frame(
        index=arrival.frame_index,
        pixels=pixels,
        t_exposure_s=t_exposure_s,
        t_arrival_s=arrival.t_arrival_s,
        stage_um=stage_at(t_exposure_s),
        pixel_size_um=pixel_size_um or facts.pixel_size_um,
        origin_px=facts.origin_px,
        exposure_ms=facts.exposure_ms,
        bit_depth=facts.bit_depth,
        camera=facts.camera,
        channel=facts.channel,
        axes=facts.axes,
    )


def _delivered_s(
    arrival: Arrival, received_wall_s: float | None, wall_start_s: float
) -> float:
    """Return when the camera delivered the image: its own stamp, if believable."""
    if received_wall_s is not None:
        t_s = received_wall_s - wall_start_s
        if arrival.t_arrival_s - _OLDEST_S < t_s <= arrival.t_arrival_s:
            return t_s
    return arrival.t_arrival_s
