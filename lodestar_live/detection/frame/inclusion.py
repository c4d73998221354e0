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
        self._require(shape)
        wanted = np.ones(shape, bool) if self.mask is None else self.mask.copy()
        return wanted & self._in_region(*np.ogrid[: shape[0], : shape[1]])

    def keeps(
        self, positions_px: FloatArray, shape: tuple[int, ...]
    ) -> npt.NDArray[np.bool_]:
        """Tell of each position (y, x) in a frame whether it counts, (n,).

        Raises
        ------
        InputError
            As `within`.
        """
        self._require(shape)
        rounded = np.round(positions_px).astype(int).reshape(-1, 2)
        y, x = np.clip(rounded, 0, np.array(shape) - 1).T
        kept = self._in_region(y, x)
        return kept if self.mask is None else np.asarray(kept & self.mask[y, x])

    def _require(self, shape: tuple[int, ...]) -> None:
        if self.mask is not None and self.mask.shape != shape:
            raise InputError(
                f"mask of {self.mask.shape} pixels on a frame of {shape}: expected the "
                "same size. Draw it on a frame of this camera region and binning."
            )
        if self.region_px is not None and not (
            self.region_px[0] < shape[0] and self.region_px[1] < shape[1]
        ):
            raise InputError(
                f"region_px = {self.region_px} on a frame of {shape} pixels: expected "
                "a region that overlaps it."
            )

    def _in_region(
        self, y: npt.NDArray[np.int_], x: npt.NDArray[np.int_]
    ) -> npt.NDArray[np.bool_]:
        if self.region_px is None:
            return np.ones(np.broadcast_shapes(y.shape, x.shape), bool)
        top, left, bottom, right = self.region_px
        return np.asarray((y >= top) & (y < bottom) & (x >= left) & (x < right))


def _checked(region_px: Sequence[int]) -> tuple[int, int, int, int]:
    values = [int(v) for v in region_px]
    if len(values) == 4 and 0 <= values[0] < values[2] and 0 <= values[1] < values[3]:
        return values[0], values[1], values[2], values[3]
    raise InputError(
        f"region_px = {tuple(region_px)}: expected first row, first column, and the "
        "row and column after the last, e.g. (0, 0, 512, 256)."
    )
