"""Pixels, micrometres and stage coordinates: one 2x2 matrix joins them.

Sample coordinates are the stage's own: a particle at pixel p, seen while the stage
stood at s, lies at ``s + A (p - centre)``, and commanding the stage to that place
brings the particle to the centre of the frame. Every vector is ordered (y, x).
"""

from __future__ import annotations

from collections.abc import Mapping
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

    @property
    def pixel_size_um(self) -> float:
        """Side of a pixel in the sample: the root of its area."""
        return float(np.sqrt(abs(np.linalg.det(self.matrix_um_per_px))))

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


def run_map(
    calibration: Mapping[str, Any], pixel_size_um: float = float("nan")
) -> PixelToStage | None:
    """Return the map of a run: as calibrated, else by its pixel size, else None.

    Parameters
    ----------
    calibration
        As in `RunInfo`; ``matrix_um_per_px`` if one was measured.
    """
    matrix = calibration.get("matrix_um_per_px")
    if matrix is not None and np.isfinite(np.asarray(matrix, dtype=float)).all():
        return PixelToStage(np.asarray(matrix, dtype=float))
    if np.isfinite(pixel_size_um):
        return PixelToStage.from_pixel_size(pixel_size_um)
    return None


def sample_positions_um(
    positions_px: FloatArray,
    *,
    map_um: PixelToStage | None,
    pixel_size_um: npt.ArrayLike,
    stage_um: npt.ArrayLike | None,
    shape_px: npt.ArrayLike,
) -> FloatArray:
    """Return where positions lie in the sample, stage and calibration taken out.

    In stage coordinates (see above) where the stage is known. Where a run knows no
    stage, in image coordinates: the centre of pixel [0, 0] is (0, 0).

    Parameters
    ----------
    positions_px
        Shape (n, 2), (y, x).
    map_um
        Of the run; None: by `pixel_size_um`.
    pixel_size_um
        Scalar or (n,); NaN: unknown.
    stage_um
        (2,) or (n, 2) at exposure, NaN where it could not be read; None: this run knows
        no stage.
    shape_px
        (height, width), (2,) or (n, 2).

    Returns
    -------
    Shape (n, 2), (y, x), µm; NaN where pixel size or stage position are unknown.
    """
    at_px = np.asarray(positions_px, dtype=float)
    if stage_um is not None:
        at_px = at_px - (np.asarray(shape_px, dtype=float) - 1.0) / 2.0
    if map_um is None:
        at_um = at_px * np.asarray(pixel_size_um, dtype=float).reshape(-1, 1)
    else:
        at_um = at_px @ map_um.matrix_um_per_px.T
    return np.asarray(at_um if stage_um is None else at_um + np.asarray(stage_um))
