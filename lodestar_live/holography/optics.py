"""The optics every formula of this room needs, in micrometres."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lodestar_live.errors import InputError


@dataclass(frozen=True, slots=True)
class Optics:
    """Illumination, medium and sampling.

    Parameters
    ----------
    wavelength_um
        In vacuum; the wavelength in the medium follows from `n_medium`.
    pixel_size_um
        In the sample plane, of the array in hand (after binning or retrieval).
    n_medium
        Refractive index around the particles.
    na
        Numerical aperture of the objective.

    Examples
    --------
    >>> optics = Optics(wavelength_um=0.633, pixel_size_um=0.228)
    >>> round(optics.k_per_um, 3)
    13.202
    """

    wavelength_um: float
    pixel_size_um: float
    n_medium: float = 1.33
    na: float = 1.3

    def __post_init__(self) -> None:
        for name in ("wavelength_um", "pixel_size_um", "n_medium", "na"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} = {value}: expected a positive number.")

    @property
    def k_per_um(self) -> float:
        """Wave number in the medium, 2π n / λ."""
        return 2 * math.pi * self.n_medium / self.wavelength_um

    @property
    def cutoff_per_um(self) -> float:
        """Largest lateral wave number that passes the objective."""
        na = min(self.na, self.n_medium)
        return 2 * math.pi * na / self.wavelength_um

    @property
    def k_nyquist_per_um(self) -> float:
        """Largest lateral wave number that the grid samples."""
        return math.pi / self.pixel_size_um

    @property
    def tan_theta(self) -> float:
        """Slope of the steepest ray that the objective takes and the grid samples."""
        sine = min(self.cutoff_per_um, self.k_nyquist_per_um) / self.k_per_um
        return sine / math.sqrt(max(1.0 - sine * sine, 1e-6))

    def with_pixel_size(self, pixel_size_um: float) -> Optics:
        """Return the same optics on another grid."""
        return replace(self, pixel_size_um=pixel_size_um)
