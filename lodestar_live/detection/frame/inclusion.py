"""Where in the frame particles are wanted: a mask, a region, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from lodestar_live.data import FloatArray
from lodestar_live.detection.frame.prepare import Mask
from lodestar_live.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class Inclusion:
    """The part of a frame that counts.

    Parameters
    ----------
    mask
        (y, x), as large as a frame: not 0 where particles are wanted. None: everywhere.
    region_px
        First row, first column, row and column after the last. None: everything.
    """

    mask: Mask | None
    region_px: tuple[int, int, int, int] | None

    @classmethod
    def of(
        cls, mask: npt.ArrayLike | None, region_px: Sequence[int] | None
    ) -> Self | None:
        """Return what is asked for, checked; None for the whole frame.

        Raises
        ------
        InputError
            The mask is no image or leaves nothing, or the region is none.
        """
        wanted = None if mask is None else np.asarray(mask) != 0
        if wanted is not None and (wanted.ndim != 2 or not wanted.any()):
            raise InputError(
                f"mask of shape {wanted.shape}, {int(wanted.sum())} pixels set: "
                "expected one grey image, as large as a frame, that is not 0 where "
                "particles are wanted."
            )
        region = None if region_px is None else _checked(region_px)
        return None if wanted is None and region is None else cls(wanted, region)

    def within(self, shape: tuple[int, ...]) -> Mask:
        """Return where particles are wanted in a frame of the given shape.

        Raises
        ------
        InputError
            The mask is of another size, or the region lies outside.
        """
        if self.mask is not None and self.mask.shape != shape:
            raise InputError(
                f"mask of {self.mask.shape} pixels on a frame of {shape}: expected the "
                "same size. Draw it on a frame of this camera region and binning."
            )
        wanted = np.ones(shape, bool) if self.mask is None else self.mask.copy()
        if self.region_px is not None:
            top, left, bottom, right = self.region_px
            inside = np.zeros(shape, bool)
            inside[top:bottom, left:right] = True
            if not inside.any():
                raise InputError(
                    f"region_px = {self.region_px} on a frame of {shape} pixels: "
                    "expected a region that overlaps it."
                )
            wanted &= inside
        return wanted

    def keeps(
        self, positions_px: FloatArray, shape: tuple[int, ...]
    ) -> npt.NDArray[np.bool_]:
        """Tell of each position (y, x) in a frame whether it counts, (n,)."""
        wanted = self.within(shape)
        if not len(positions_px):
            return np.zeros(0, bool)
        y, x = np.round(positions_px).astype(int).T
        return np.asarray(
            wanted[np.clip(y, 0, shape[0] - 1), np.clip(x, 0, shape[1] - 1)]
        )


def _checked(region_px: Sequence[int]) -> tuple[int, int, int, int]:
    values = [int(v) for v in region_px]
    if len(values) == 4 and 0 <= values[0] < values[2] and 0 <= values[1] < values[3]:
        return values[0], values[1], values[2], values[3]
    raise InputError(
        f"region_px = {tuple(region_px)}: expected first row, first column, and the "
        "row and column after the last, e.g. (0, 0, 512, 256)."
    )
