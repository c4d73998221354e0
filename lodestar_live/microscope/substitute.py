"""Other pixels in a real acquisition: timing, buffer, engine and stage stay real.

The two methods that pycro-manager's core wrapper attaches to its instance are wrapped,
so every image that leaves MMCore is replaced by what `render` draws for it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Any

from lodestar_live.data import Pixels, StagePosition
from lodestar_live.microscope.core import Microscope, MicroscopeError

_IMAGES = ("pop_next_tagged_image", "get_tagged_image")
_MOVES = ("set_xy_position", "set_relative_xy_position", "set_position")
_MOVES_KEPT = 200


def substitute_pixels(
    microscope: Microscope, render: Callable[[StagePosition], Pixels | None]
) -> Callable[[], None]:
    """Replace the pixels of every image by ``render(stage)``.

    Parameters
    ----------
    microscope
        A core running in this process whose stage moves at once, as the demo's does.
    render
        Called on the engine's thread with the stage position in the middle of the
        exposure that has just ended; returns an image of shape (y, x), or None to
        leave the camera's own.

    Returns
    -------
    A function that restores the camera's own pixels.
    """
    if not microscope.is_python:
        raise MicroscopeError("pixels can only be replaced in a core of this process.")
    core = microscope.core
    originals = {name: getattr(core, name) for name in (*_IMAGES, *_MOVES)}
    history = _StageHistory(core)

    def image(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            tagged = originals[name](*args, **kwargs)
            received, now_s = datetime.now(), time.perf_counter()
            middle_s = now_s - core.get_exposure() / 2e3
            pixels = render(history.at(middle_s))
            if pixels is not None:
                tagged.pix = pixels
                tagged.tags["Height"], tagged.tags["Width"] = pixels.shape
                # Drawing takes time that no camera takes; snaps carry no time at all.
                stamp = received.isoformat(sep=" ", timespec="microseconds")
                tagged.tags.setdefault("TimeReceivedByCore", stamp)
            return tagged

        call.__wrapped__ = originals[name]  # type: ignore[attr-defined]
        return call

    def move(name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            history.note()
            return originals[name](*args)

        return call

    for name in _IMAGES:
        setattr(core, name, image(name))
    for name in _MOVES:
        setattr(core, name, move(name))

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


class _StageHistory:
    """Where the stage stood before each of its last moves."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self._before: deque[tuple[float, StagePosition]] = deque(maxlen=_MOVES_KEPT)

    def note(self) -> None:
        self._before.append((time.perf_counter(), read_stage(self._core)))

    def at(self, t_s: float) -> StagePosition:
        later = (position for t, position in list(self._before) if t > t_s)
        return next(later, None) or read_stage(self._core)
