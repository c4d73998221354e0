"""Simulated spheres and the errors made on them: shared by the holography benches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lodestar_live.holography import Optics
from lodestar_live.holography.background import flatten
from lodestar_live.holography.propagation import ComplexImage
from lodestar_live.simulation.holograms import (
    Sphere,
    complex_noise,
    drift_wave,
    render_field,
)

OPTICS = Optics(wavelength_um=0.633, pixel_size_um=0.228, n_medium=1.33, na=1.3)
RADIUS_UM, N_PARTICLE = 0.228, 1.58
Z_UM = 5.0
CROP_PX = 64
RADII_UM = (0.15, 0.175, 0.2, 0.225, 0.25, 0.275, 0.3)
INDICES = (1.4, 1.45, 1.5, 1.55, 1.6)
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Condition:
    """How a crop is disturbed."""

    name: str
    noise: float = 0.005
    coherent: float = 0.0
    neighbour_um: float = 0.0
    drift: bool = False


CONDITIONS = (
    Condition("noise 0.005"),
    Condition("noise 0.02", noise=0.02),
    Condition("coherent background 0.02", coherent=0.02),
    Condition("neighbour at 4 µm", neighbour_um=4.0),
    Condition("drift 3 % / 0.1 rad, corrected", drift=True),
)


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One crop, where its particle is, and where a detector would say it is."""

    field: ComplexImage
    truth: Sphere
    found_px: tuple[float, float]


def draw_sample(
    rng: np.random.Generator,
    condition: Condition,
    *,
    side: int = CROP_PX,
    radius_um: float = RADIUS_UM,
    n_particle: float = N_PARTICLE,
    z_um: float = Z_UM,
) -> Sample:
    """Render one particle, z uniform in ± `z_um`, found with 30 nm error in y and x."""
    y, x = (side - 1) / 2 + rng.uniform(-2, 2, 2)
    sphere = Sphere(y, x, rng.uniform(-z_um, z_um), radius_um, n_particle)
    spheres = [sphere]
    if condition.neighbour_um:
        angle = rng.uniform(0, 2 * np.pi)
        away = condition.neighbour_um / OPTICS.pixel_size_um
        spheres.append(
            Sphere(
                y + away * np.sin(angle),
                x + away * np.cos(angle),
                rng.uniform(-Z_UM, Z_UM),
                radius_um,
                n_particle,
            )
        )
    shape = (side, side)
    field = render_field(spheres, shape, OPTICS)
    field = field + complex_noise(shape, OPTICS, rng, std=condition.noise)
    if condition.coherent:
        field = field + complex_noise(
            shape, OPTICS, rng, std=condition.coherent, na=0.43
        )
    if condition.drift:
        gain, piston = 1 + rng.normal(0, 0.03), rng.normal(0, 0.1)
        field = flatten(field * drift_wave(shape, gain=gain, piston_rad=piston))
    error = rng.normal(0, 0.03 / OPTICS.pixel_size_um, 2)
    return Sample(field.astype(np.complex64), sphere, (y + error[0], x + error[1]))


def training_crop(seed: int) -> ComplexImage:
    """Return the one crop everything is learnt from: in focus, noise 0.005."""
    rng = np.random.default_rng(1000 + seed)
    centre = (CROP_PX - 1) / 2
    field = render_field([Sphere(centre, centre)], (CROP_PX, CROP_PX), OPTICS)
    field = field + complex_noise(field.shape, OPTICS, rng, std=0.005)
    return field.astype(np.complex64)


def error_row(name: str, found_um: FloatArray, truth_um: FloatArray) -> list[Any]:
    """Return [name, RMSE, p95, offset (nm), slope, gross errors in %].

    RMSE and p95 are of all particles, after removing the median offset; gross: off by
    more than 1 µm, or not found.
    """
    missing = ~np.isfinite(found_um)
    error = (found_um - truth_um)[~missing]
    if len(error) < 2:
        return [name, float("nan"), float("nan"), float("nan"), float("nan"), 100.0]
    offset = float(np.median(error))
    spread = error - offset
    gross = (np.sum(np.abs(spread) > 1) + missing.sum()) / len(found_um)
    slope = float(np.polyfit(truth_um[~missing], found_um[~missing], 1)[0])
    return [
        name,
        1e3 * float(np.sqrt(np.mean(spread**2))),
        1e3 * float(np.percentile(np.abs(spread), 95)),
        1e3 * offset,
        slope,
        100.0 * float(gross),
    ]


ERROR_COLUMNS = ["RMSE (nm)", "p95 (nm)", "offset (nm)", "slope", "gross (%)"]


def polarizability_table(
    measure: Callable[[Sample], float],
    rng: np.random.Generator,
    *,
    n_each: int,
    noise: float = 0.005,
) -> tuple[list[list[Any]], float, float]:
    """Measure over radius and index; relative errors against Clausius-Mossotti.

    Returns
    -------
    rows
        One per radius: mean relative error (%) per index.
    mape
        Mean absolute percentage error of single measurements.
    good
        Share of the cells whose mean is within 10 %, in %.
    """
    from lodestar_live.holography import clausius_mossotti_um3

    rows: list[list[Any]] = []
    single, cells = [], []
    for radius_um in RADII_UM:
        row: list[Any] = [f"{1e3 * radius_um:.0f} nm"]
        for n_particle in INDICES:
            truth = clausius_mossotti_um3(
                radius_um, n_particle=n_particle, n_medium=1.33
            )
            errors = [
                measure(
                    draw_sample(
                        rng,
                        Condition("", noise=noise),
                        radius_um=radius_um,
                        n_particle=n_particle,
                        z_um=3.0,
                    )
                )
                / truth
                - 1
                for _ in range(n_each)
            ]
            single += errors
            cells.append(abs(float(np.nanmean(errors))))
            row.append(100 * float(np.nanmean(errors)))
        rows.append(row)
    mape = 100 * float(np.nanmean(np.abs(single)))
    return rows, mape, 100 * float(np.mean(np.asarray(cells) < 0.1))
