"""The scale of polarizabilities, from particles whose size and index are known.

A small sphere's polarizability follows from Clausius and Mossotti. What an instrument
reports is proportional to it; the factor is measured on a population that is known,
once per instrument and alignment (Midtvedt et al. 2022, equation for the
polarizability of spheres).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lodestar_live.data import FloatArray
from lodestar_live.errors import InputError
from lodestar_live.holography import clausius_mossotti_um3

_LEAST_TRACKS = 5
_HUBER = 1.5
_ROUNDS = 50


@dataclass(frozen=True, slots=True)
class PopulationScale:
    """By what reported polarizabilities are to be multiplied.

    Parameters
    ----------
    factor, factor_error
        And its standard error.
    expected_um3
        Polarizability of the known particles.
    measured_um3, measured_error_um3
        Mean of the tracks and its standard error.
    n_tracks
        That it was measured from.
    """

    factor: float
    factor_error: float
    expected_um3: float
    measured_um3: float
    measured_error_um3: float
    n_tracks: int


def calibrate_population(
    polarizability_um3: npt.ArrayLike,
    *,
    radius_um: float,
    n_particle: float,
    n_medium: float,
    between_um3: tuple[float, float] | None = None,
) -> PopulationScale:
    """Measure the scale from the tracks' mean polarizabilities.

    Each track counts once: particles of a population differ by more than the error of
    one. Outliers (pairs, dirt) are weighted down by Huber's rule.

    Parameters
    ----------
    polarizability_um3
        One value per track; NaN is left out.
    radius_um, n_particle, n_medium
        Of the known spheres, and around them.
    between_um3
        As reported: only tracks between, where a run holds several populations.

    Raises
    ------
    InputError
        The facts are impossible, or fewer than 5 tracks are left.
    """
    if not (np.isfinite(radius_um) and radius_um > 0):
        raise InputError(f"radius_um = {radius_um}: expected a radius above 0 µm.")
    for name, index in (("n_particle", n_particle), ("n_medium", n_medium)):
        if not (np.isfinite(index) and 1 <= index <= 10):
            raise InputError(f"{name} = {index}: expected a refractive index, 1 to 10.")
    expected = clausius_mossotti_um3(
        radius_um, n_particle=n_particle, n_medium=n_medium
    )
    if expected == 0:
        raise InputError(
            f"n_particle = n_medium = {n_medium}: such particles cannot be seen."
        )
    values = np.asarray(polarizability_um3, dtype=float)
    values = values[np.isfinite(values)]
    if between_um3 is not None:
        low, high = between_um3
        values = values[(values >= low) & (values <= high)]
    if len(values) < _LEAST_TRACKS:
        raise InputError(
            f"{len(values)} tracks with a polarizability"
            f"{'' if between_um3 is None else f' between {low:g} and {high:g} µm³'}; "
            f"expected at least {_LEAST_TRACKS}. Record longer, or choose other limits."
        )
    mean, error = _robust_mean(values)
    if mean * expected <= 0:
        raise InputError(
            f"the tracks' polarizability is {mean:.3g} µm³, that of the known spheres "
            f"{expected:.3g} µm³: of opposite sign. Check the indices and the sideband."
        )
    factor = expected / mean
    return PopulationScale(
        factor, factor * error / abs(mean), expected, mean, error, len(values)
    )


def _robust_mean(values: FloatArray) -> tuple[float, float]:
    """Return Huber's mean and its standard error."""
    mean = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - mean)))
    if spread == 0:
        return mean, 0.0
    for _ in range(_ROUNDS):
        apart = (values - mean) / spread
        weight = np.minimum(1.0, _HUBER / np.maximum(np.abs(apart), 1e-12))
        moved = float((weight * values).sum() / weight.sum())
        if abs(moved - mean) <= 1e-9 * spread:
            break
        mean = moved
    psi = np.clip((values - mean) / spread, -_HUBER, _HUBER)
    share = float((np.abs(psi) < _HUBER).mean())
    error = spread * float(np.sqrt((psi**2).mean() / len(values))) / max(share, 0.5)
    return mean, error
