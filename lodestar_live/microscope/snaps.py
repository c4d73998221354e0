"""What a snap in this process does not write into its metadata, noted as it ends.

The Python engine gives a snap neither a time stamp nor ROI, binning and bit depth, and
asking the core later waits for the camera's next exposure. So they are read on the
engine's own thread, in the moment the snap has ended and the camera is idle, and go
with the image under a key of ours that `LiveTracker` takes out again: what is stored is
what is stored without it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

from lodestar_live.microscope.frames import SNAP_KEY, SnapFacts

_lock = threading.Lock()


class _Notes:
    """The wrapper around one core's `get_tagged_image`; off while nobody listens."""

    def __init__(self, core: Any) -> None:
        self._core, self._get = core, core.get_tagged_image
        self.n_listeners = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.n_listeners:
            return self._get(*args, **kwargs)
        ended_s = time.perf_counter()
        facts = self._read(ended_s)
        tagged = self._get(*args, **kwargs)
        if facts is not None:
            tagged.tags[SNAP_KEY] = facts
        return tagged

    def _read(self, ended_s: float) -> SnapFacts | None:
        with contextlib.suppress(Exception):  # of any adapter; the image goes on
            x, y, *_ = self._core.get_roi()
            camera = self._core.get_camera_device()
            binning = 1
            if self._core.has_property(camera, "Binning"):
                text = self._core.get_property(camera, "Binning").split("x")[0]
                binning = int(text) if text.isdecimal() and int(text) else 1
            depth = int(self._core.get_image_bit_depth())
            return SnapFacts(ended_s, (int(y), int(x)), binning, depth or None)
        return None


def _find(get: Any) -> _Notes | None:
    """Look for our wrapper below those of others, which name what they wrap."""
    while get is not None and not isinstance(get, _Notes):
        get = getattr(get, "__wrapped__", None)
    return get


def note_snaps(core: Any) -> Callable[[], None]:
    """Note the facts of every snap of a core in this process, until told to stop.

    Returns
    -------
    A function that ends it; the wrapper itself stays, so that whoever wrapped it in
    turn keeps working.
    """
    with _lock:
        notes = _find(core.get_tagged_image)
        if notes is None:
            notes = core.get_tagged_image = _Notes(core)
        notes.n_listeners += 1

    def stop() -> None:
        with _lock:
            notes.n_listeners = max(notes.n_listeners - 1, 0)

    return stop
