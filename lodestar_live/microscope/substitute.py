"""Other pixels in a real acquisition: timing, buffer, engine and stage stay real.

The two methods that pycro-manager's core wrapper attaches to its instance are wrapped,
so every image that leaves MMCore is replaced by what `render` draws for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lodestar_live.data import Pixels, StagePosition
from lodestar_live.microscope.core import Microscope, MicroscopeError


def substitute_pixels(
    microscope: Microscope, render: Callable[[StagePosition], Pixels | None]
) -> Callable[[], None]:
    """Replace the pixels of every image by ``render(stage)``.

    Parameters
    ----------
    microscope
        A core running in this process.
    render
        Called on the engine's thread with the stage position at that moment; returns
        an image of shape (y, x), or None to leave the camera's own.

    Returns
    -------
    A function that restores the camera's own pixels.
    """
    if not microscope.is_python:
        raise MicroscopeError("pixels can only be replaced in a core of this process.")
    core = microscope.core
    originals = {name: getattr(core, name) for name in _WRAPPED}

    def wrapped(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            image = originals[name](*args, **kwargs)
            pixels = render(read_stage(core))
            if pixels is not None:
                image.pix = pixels
                image.tags["Height"], image.tags["Width"] = pixels.shape
            return image

        return call

    for name in _WRAPPED:
        setattr(core, name, wrapped(name))

    def restore() -> None:
        for name, original in originals.items():
            setattr(core, name, original)

    return restore


def read_stage(core: Any) -> StagePosition:
    """Return where stage and focus drive stand now; NaN where there is none."""
    nan = float("nan")
    has_xy = bool(core.get_xy_stage_device())
    has_z = bool(core.get_focus_device())
    return StagePosition(
        z_um=float(core.get_position()) if has_z else nan,
        y_um=float(core.get_y_position()) if has_xy else nan,
        x_um=float(core.get_x_position()) if has_xy else nan,
    )


_WRAPPED = ("pop_next_tagged_image", "get_tagged_image")
