"""Frames without particles, whose noise is white or hangs together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, median_filter, zoom

COUNTS, DEVIATION = 200.0, 10.0
#: Noise by name: white, smoothed with a sigma in px, filtered, or enlarged.
NOISES = (
    "white",
    *("0.5 px", "0.7 px", "1 px", "2 px", "3 px", "5 px"),
    *("median 3 x 3", "enlarged 2 x"),
)


def noise_frame(
    name: str, *, seed: int, side_px: int = 512, counts: float = DEVIATION
) -> npt.NDArray[np.uint16]:
    """Draw a frame, (side, side), of noise with a deviation of so many counts."""
    white = np.random.default_rng(seed).normal(size=(side_px, side_px))
    if name.endswith("px"):
        noise = gaussian_filter(white, float(name.split()[0]))
    elif name.startswith("median"):
        noise = median_filter(white, 3)
    elif name.startswith("enlarged"):
        noise = zoom(white[: side_px // 2, : side_px // 2], 2, order=1)
    else:
        noise = white
    return np.round(COUNTS + counts * noise / noise.std()).astype(np.uint16)
