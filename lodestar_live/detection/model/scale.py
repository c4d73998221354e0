"""The scale of tracking: look at a smaller image, report places in the camera's pixels.

The paper chooses by downsampling what is tracked, a whole object or its parts (Midtvedt
et al. 2022, Fig. 2i, j). A large particle also needs fewer pixels to be found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lodestar_live.data import Detections, FloatArray, Pixels
from lodestar_live.detection.frame.prepare import Mask
from lodestar_live.errors import InputError

_LENGTHS = ("sigma_px", "consistency_px")


@dataclass(frozen=True, slots=True)
class Scale:
    """Blocks of `factor` x `factor` camera pixels become one pixel of the network's."""

    factor: int = 1

    def shrink(self, pixels: Pixels) -> Pixels:
        """Return the means of all whole blocks, shape (y // factor, x // factor).

        Raises
        ------
        InputError
            The image is smaller than one block.
        """
        if self.factor == 1 or pixels.ndim != 2:
            return pixels
        if min(pixels.shape) < self.factor:
            raise InputError(
                f"image of shape {pixels.shape}: expected at least {self.factor} px a "
                f"side, which downsample = {self.factor} makes one pixel. Choose less."
            )
        kind = np.complex64 if pixels.dtype.kind == "c" else np.float32
        first, *others = self._parts(pixels)
        total: Pixels = first.astype(kind)
        for part in others:
            total += part
        total /= self.factor**2
        return total

    def shrink_mask(self, mask: Mask | None) -> Mask | None:
        """Return which blocks hold a pixel that is set."""
        if mask is None or self.factor == 1:
            return mask
        return np.asarray(np.logical_or.reduce(self._parts(mask)))

    def to_small(self, positions_px: npt.ArrayLike) -> FloatArray:
        """Return camera positions (y, x) in pixels of the smaller image."""
        positions = np.asarray(positions_px, dtype=float)
        return (positions - (self.factor - 1) / 2) / self.factor

    def to_camera(self, positions_px: npt.ArrayLike) -> FloatArray:
        """Return positions (y, x) in the smaller image in camera pixels."""
        positions = np.asarray(positions_px, dtype=float)
        return positions * self.factor + (self.factor - 1) / 2

    def enlarge(self, detections: Detections) -> Detections:
        """Return detections in the smaller image in camera pixels."""
        if self.factor == 1:
            return detections
        rows = detections.rows.copy()
        for name in ("y_px", "x_px"):
            rows[name] = self.to_camera(rows[name])
        for name in _LENGTHS:
            rows[name] *= self.factor
        return Detections(rows)

    def _parts(self, image: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Return the images of the first, second, ... pixel of every block."""
        height, width = (side // self.factor * self.factor for side in image.shape)
        steps = range(self.factor)
        return [
            image[row : height : self.factor, column : width : self.factor]
            for row in steps
            for column in steps
        ]
