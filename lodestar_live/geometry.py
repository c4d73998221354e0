"""Pixels, micrometres and stage coordinates: one 2x2 matrix joins them.

Sample coordinates are the stage's own: a particle at pixel p, seen while the stage
stood at s, lies at ``s + A (p - centre)``, and commanding the stage to that place
brings the particle to the centre of the frame. Every vector is ordered (y, x).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lodestar_live.data import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class PixelToStage:
    """Linear map from pixel displacement to stage displacement.

    Parameters
    ----------
    matrix_um_per_px
        Shape (2, 2), order (y, x) on both sides.
    """

    matrix_um_per_px: FloatArray

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix_um_per_px, dtype=float).reshape(2, 2)
        matrix.flags.writeable = False
        object.__setattr__(self, "matrix_um_per_px", matrix)

    @classmethod
    def from_pixel_size(cls, pixel_size_um: float) -> PixelToStage:
        """Return the map of a camera aligned with the stage."""
        return cls(np.eye(2) * pixel_size_um)

    def sample_um(
        self,
        positions_px: npt.ArrayLike,
        stage_um: npt.ArrayLike,
        shape: tuple[int, int],
    ) -> FloatArray:
        """Return where pixels lie in the sample.

        Parameters
        ----------
        positions_px
            (..., 2) pixel positions (y, x).
        stage_um
            (2,) or (..., 2) stage position (y, x) at exposure.
        shape
            (height, width) of the frame.
        """
        offset_px = np.asarray(positions_px, dtype=float) - centre_px(shape)
        result: Any = np.asarray(stage_um) + offset_px @ self.matrix_um_per_px.T
        return np.asarray(result)

    def pixel_px(
        self, sample_um: npt.ArrayLike, stage_um: npt.ArrayLike, shape: tuple[int, int]
    ) -> FloatArray:
        """Return where sample positions appear in the frame; inverse of `sample_um`."""
        offset_um = np.asarray(sample_um, dtype=float) - np.asarray(stage_um)
        inverse = np.linalg.inv(self.matrix_um_per_px)
        result: Any = offset_um @ inverse.T + centre_px(shape)
        return np.asarray(result)


def centre_px(shape: tuple[int, int]) -> FloatArray:
    """Return the centre (y, x) of a frame of `shape`."""
    return (np.asarray(shape, dtype=float) - 1.0) / 2.0
