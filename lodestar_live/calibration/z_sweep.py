"""z calibration on the microscope: a focus sweep of a particle stuck to the glass.

What is measured is how far the drive travels per µm refocused, with its sign. Nothing
is applied: the result goes into the settings by the user's hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lodestar_live.calibration.stage import Bench
from lodestar_live.data import Detections, FloatArray, Frame
from lodestar_live.detection import Detector
from lodestar_live.errors import CalibrationError
from lodestar_live.holography import HologramPreparer, ParticleRefiner, Propagator
from lodestar_live.holography.calibrate import ZCalibration, calibrate_z
from lodestar_live.holography.propagation import ComplexImage
from lodestar_live.resources import find
from lodestar_live.settings import HolographySettings, Settings

_PLANE_STEP_UM = 0.5
_BORDER = 8  # the particle is looked for beyond a border of 1/8 of the frame


@dataclass(frozen=True, slots=True, eq=False)
class ZSweep:
    """Drive readings, refocused distances (NaN: not found) and the line through them.

    `at_px` is where the particle is in the field, (y, x).
    """

    drive_um: FloatArray
    distance_um: FloatArray
    at_px: tuple[float, float]
    calibration: ZCalibration


def sweep_z(
    bench: Bench,
    settings: Settings,
    *,
    pixel_size_um: float,
    range_um: float,
    n_steps: int = 13,
    at_px: tuple[float, float] | None = None,
    sharp_at_um: float | None = None,
) -> ZSweep:
    """Move the focus drive through a range, refocus the same particle at each stop.

    Parameters
    ----------
    bench
        Camera, drive and limits; the drive comes back.
    settings
        With a holography section; its model, if any, is the reference for z. Its own
        z_scale and z_offset_um play no part.
    pixel_size_um
        The camera's, in the sample.
    range_um
        Half of the range, around the present height.
    at_px
        (y, x) of the particle in the field; None: the brightest one.
    sharp_at_um
        Drive reading at which the particle looks sharp; gives the offset.

    Raises
    ------
    CalibrationError
        No holography section, or no line through the distances found.
    StageError
        A move would leave the limits.
    """
    if settings.holography is None:
        raise CalibrationError(
            "calibrate --z: the settings have no holography section; expected optics "
            "and kind of hologram, as in config/offaxis_hologram.toml."
        )
    holography = _neutral(settings.holography)
    prepare, refine = HologramPreparer(holography), _refiner(settings, holography)

    def look() -> Frame:
        return prepare(Frame(0, bench.snap(), pixel_size_um=pixel_size_um))

    if at_px is None:
        at_px = brightest_particle(look().pixels, prepare, holography)
    particle = Detections.from_positions([at_px])
    drive_um, distance_um = _sweep(
        bench,
        np.linspace(-range_um, range_um, n_steps),
        lambda: float(refine(look(), particle).rows["z_um"][0]),
    )
    calibration = calibrate_z(drive_um, distance_um, focus_um=sharp_at_um)
    return ZSweep(drive_um, distance_um, at_px, calibration)


def _sweep(
    bench: Bench, steps_um: FloatArray, measure: Callable[[], float]
) -> tuple[FloatArray, FloatArray]:
    """Return drive readings and what was measured at each; the drive comes back."""
    home_um = bench.position_um().z_um
    readings, measured = [], []
    with bench.returning("z"):
        for step_um in steps_um:
            bench.go_z(home_um + float(step_um))
            readings.append(bench.position_um().z_um)
            measured.append(measure())
    return np.array(readings), np.array(measured)


def brightest_particle(
    field: ComplexImage, prepare: HologramPreparer, holography: HolographySettings
) -> tuple[float, float]:
    """Return (y, x) of the largest |E - 1| over all planes of the z range."""
    low, high = holography.z_range_um
    planes_um = np.arange(low, high + _PLANE_STEP_UM / 2, _PLANE_STEP_UM)
    planes = Propagator(field.shape, prepare.optics).prepare(field).stack(planes_um)
    brightest: FloatArray = np.abs(planes - 1).max(axis=0)
    border_y, border_x = (max(2, side // _BORDER) for side in field.shape)
    inner = brightest[border_y:-border_y, border_x:-border_x]
    y, x = np.unravel_index(int(np.argmax(inner)), inner.shape)
    y, x = int(y) + border_y, int(x) + border_x
    return (
        y + _top(brightest[y - 1 : y + 2, x]),
        x + _top(brightest[y, x - 1 : x + 2]),
    )


def _top(three: FloatArray) -> float:
    before, top, after = three
    bend = before - 2 * top + after
    return float(0.5 * (before - after) / bend) if bend < 0 else 0.0


def _neutral(holography: HolographySettings) -> HolographySettings:
    """Refocused distances as they are; the stuck particle is no background."""
    changes = {"z_scale": 1.0, "z_offset_um": 0.0, "background_frames": 0}
    return holography.model_copy(update={**changes, "background_rate": 0.0})


def _refiner(settings: Settings, holography: HolographySettings) -> ParticleRefiner:
    name = settings.detection.model
    if name is None:
        return ParticleRefiner(holography)
    return ParticleRefiner.from_card(holography, Detector(find("models", name)).card)
