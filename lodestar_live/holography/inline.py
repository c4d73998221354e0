"""Inline holograms: the camera sees |1 + s|^2, the phase is lost.

Divided by its background the hologram is 1 + s + conj(s) + |s|^2. Taken as a field it
refocuses the particle (s) at its z and the twin image (conj(s)) at -z, equally sharp:
only the user can say on which side of the focal plane the particles are. The lost
phase also takes the integrated phase with it, so there is no absolute polarizability.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from lodestar_live.data import Pixels
from lodestar_live.errors import InputError
from lodestar_live.holography.background import Background
from lodestar_live.holography.optics import Optics
from lodestar_live.holography.propagation import ComplexImage, refocus

_LEAST_WINDOW_UM = 1.5


class Inline:
    """Turns inline holograms of one shape into fields; the twin image stays.

    Parameters
    ----------
    optics
        Pixel size is the camera's, in the sample plane.
    shape
        (height, width) of the holograms.
    background
        Divided out of every hologram; `Background()` removes drift only.
    """

    factor = 1

    def __init__(
        self,
        optics: Optics,
        shape: tuple[int, int],
        *,
        background: Background | None = None,
    ) -> None:
        self.optics, self.shape, self.field_shape = optics, shape, shape
        self.background = Background() if background is None else background

    def __call__(self, hologram: Pixels) -> ComplexImage:
        """Return the normalised hologram as a field, complex64, background 1."""
        return self.background(self.wave(hologram))

    def learn_background(self, holograms: Iterable[Pixels]) -> None:
        """Average several holograms; divide by it from now on."""
        self.background.learn(self.wave(hologram) for hologram in holograms)

    def wave(self, hologram: Pixels) -> ComplexImage:
        """Return the hologram as complex64, nothing removed."""
        hologram = np.asarray(hologram)
        if hologram.shape != self.shape:
            raise InputError(
                f"hologram of shape {hologram.shape}: this retrieval was made for "
                f"{self.shape}; make one per shape (an ROI or binning change)."
            )
        return hologram.astype(np.complex64)


def without_twin(crop: ComplexImage, z_um: float, optics: Optics) -> ComplexImage:
    """Refocus a crop on its particle and cut the particle out of the twin image.

    In the particle's plane the twin is 2 z away, spread wide and faint. Two defocused
    particles would otherwise be as alike through their twins, at mirrored z, as
    through themselves.
    """
    sharp = refocus(crop, z_um, optics)
    y, x = ((np.arange(n) - (n - 1) / 2) * optics.pixel_size_um for n in crop.shape)
    reach_um = max(_LEAST_WINDOW_UM, 0.5 * abs(z_um) * optics.tan_theta)
    window = np.exp(-((np.hypot(y[:, None], x) / reach_um) ** 4))
    result: ComplexImage = 1 + (sharp - 1) * window.astype(np.float32)
    return result


def check_one_sided(z_range_um: tuple[float, float]) -> None:
    """Refuse a z range in which particle and twin image cannot be told apart.

    Raises
    ------
    InputError
        The range contains 0 in its inside.
    """
    low, high = z_range_um
    if low < 0 < high:
        raise InputError(
            f"z_range_um = ({low}, {high}): an inline hologram refocuses equally "
            "sharply at +z and -z (twin image); expected both ends on one side of 0, "
            f"e.g. (0, {high})."
        )
