"""Images that stay as they are: kept where nobody can change them, else copied."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from lodestar_live.data import Pixels

_BUFFERS = 20  # the retrainer's holds a dozen
_UNUSED_REFERENCES = 3  # the list, the loop variable, getrefcount's own argument


class FramePool:
    """Copy images into a few buffers that are used again once nobody holds them.

    Fresh memory costs a page fault per 4 kB, and numpy's own copy releases the GIL: in
    the hook of a running acquisition that means queueing for it behind the engine's
    busy loop for up to 5 ms. A copy here takes some 15 microseconds at 512x512 from
    warm memory, 75 from the cold memory of a running acquisition.

    Parameters
    ----------
    is_last_reader
        Nobody sees the images after the hook, so that one which owns its memory needs
        no copy.
    can_wait
        Release the GIL while copying: for a thread that may queue for it afterwards.
        The page faults of fresh memory, 12 ms for 2048x2048 on a slow machine, then
        hold up nobody else.
    """

    def __init__(self, *, is_last_reader: bool = False, can_wait: bool = False) -> None:
        self._is_last_reader, self._can_wait = is_last_reader, can_wait
        self._buffers: list[Pixels] = []

    def keep(self, image: Any) -> Pixels:
        """Return `image`, or a copy, that stays as it is while anybody holds it."""
        if not (
            isinstance(image, np.ndarray) and image.flags.c_contiguous and image.size
        ):
            return np.array(image)
        if self._is_safe(image):
            return image
        buffer = self._free(image)
        if self._can_wait:
            np.copyto(buffer, image)
        else:
            buffer.reshape(-1).data.cast("B")[:] = image.reshape(-1).data.cast("B")
        return buffer

    def _is_safe(self, image: Pixels) -> bool:
        """Say whether nothing can change the image's memory."""
        root: Any = image
        while isinstance(root, np.ndarray) and root.base is not None:
            root = root.base
        if isinstance(root, np.ndarray):
            return self._is_last_reader and root.flags.owndata
        return isinstance(root, bytes)

    def _free(self, image: Pixels) -> Pixels:
        for buffer in self._buffers:
            is_free = sys.getrefcount(buffer) <= _UNUSED_REFERENCES
            fits = buffer.shape == image.shape and buffer.dtype == image.dtype
            if is_free and fits:
                return buffer
        fresh = np.empty(image.shape, image.dtype)
        self._buffers = [*self._buffers[1 - _BUFFERS :], fresh]
        return fresh
