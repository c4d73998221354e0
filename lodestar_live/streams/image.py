"""The live camera image for viewers: small, grey, newest only, off the worker."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from lodestar_live.data import Frame, Pixels

_log = logging.getLogger(__name__)

LONGEST_SIDE_PX = 512
_MIN_PERIOD_S = 0.04
_QUALITY = 85
_CONTRAST_SAMPLES = 128  # a side: enough for percentiles, and quick


def shrink(pixels: Pixels, longest_side_px: int = LONGEST_SIDE_PX) -> Pixels:
    """Return block means, so that no side exceeds `longest_side_px`; float32.

    A complex field becomes its intensity; NaN counts as 0.
    """
    if np.iscomplexobj(pixels):
        pixels = np.square(np.abs(pixels))
    factor = block_px(pixels.shape, longest_side_px)
    height, width = (side // factor * factor for side in pixels.shape)
    # row by row, then column by column: far quicker than a mean over blocks
    rows = pixels[0:height:factor].astype(np.float32)
    for k in range(1, factor):
        rows += pixels[k:height:factor]
    small: Pixels = rows[:, 0:width:factor].copy()
    for k in range(1, factor):
        small += rows[:, k:width:factor]
    small /= np.float32(factor**2)
    return np.nan_to_num(small, copy=False, posinf=0.0, neginf=0.0)


def block_px(shape: tuple[int, ...], longest_side_px: int) -> int:
    """Return how many camera pixels a side one image pixel stands for."""
    return max(1, -(-max(shape) // longest_side_px))


def encode_image(
    pixels: Pixels, longest_side_px: int = LONGEST_SIDE_PX
) -> tuple[dict[str, Any], bytes]:
    """Return header keys and JPEG of a frame, stretched between two percentiles."""
    small = shrink(pixels, longest_side_px)
    step = max(1, max(small.shape) // _CONTRAST_SAMPLES)
    black, white = (float(v) for v in np.percentile(small[::step, ::step], (0.5, 99.9)))
    span = max(white - black, 1e-12)
    grey = np.clip((small - black) * (255.0 / span), 0, 255).astype(np.uint8)
    jpeg = io.BytesIO()
    Image.fromarray(grey).save(jpeg, "JPEG", quality=_QUALITY)
    header = {
        "encoding": "jpeg",
        "shape_px": list(pixels.shape[:2]),
        "scale": block_px(pixels.shape, longest_side_px),
        "low": black,
        "high": white,
    }
    return header, jpeg.getvalue()


class ImageEncoder:
    """Encode the newest frame offered, at most 25 a second, on its own thread.

    Parameters
    ----------
    deliver
        Called with the frame, header keys and JPEG, on the encoder's thread.
    """

    def __init__(self, deliver: Callable[[Frame, dict[str, Any], bytes], None]) -> None:
        self._deliver = deliver
        self._frame: Frame | None = None
        self._offered = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._serve, name="lodestar-image", daemon=True
        )
        self._thread.start()

    def offer(self, frame: Frame) -> None:
        """Replace the frame that will be encoded next; never waits."""
        self._frame = frame
        self._offered.set()

    def close(self) -> None:
        """Stop the thread."""
        self._stopping.set()
        self._offered.set()
        self._thread.join(timeout=2.0)

    def _serve(self) -> None:
        while True:
            self._offered.wait()
            if self._stopping.is_set():
                return
            self._offered.clear()
            started = time.perf_counter()
            frame, self._frame = self._frame, None
            try:
                if frame is not None:
                    self._deliver(frame, *encode_image(frame.pixels))
            except Exception:
                _log.exception("camera image not published")
            self._stopping.wait(_MIN_PERIOD_S - (time.perf_counter() - started))
