"""Measure the pixel-to-stage calibration by moving the stage and looking."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
from skimage.registration import phase_cross_correlation

from lodestar_live.control.calibration import Calibration
from lodestar_live.control.driver import StageDriver
from lodestar_live.data import FloatArray, Pixels
from lodestar_live.errors import CalibrationError
from lodestar_live.geometry import PixelToStage

_MOVES = (1.0, 2.0, 3.0, -1.0, -2.0, -3.0)  # in steps, from the start
_UPSAMPLE = 100
_SETTLE_WITHIN_S = 5.0


def measure_calibration(
    driver: StageDriver,
    snap: Callable[[], Pixels],
    *,
    step_um: float = 10.0,
    objective: str = "",
) -> Calibration:
    """Move along both axes, register every image against the first, fit the map.

    Parameters
    ----------
    driver
        The stage; it is brought back to where it stood.
    snap
        Takes one image of a structure that rests in the sample, shape (y, x).
    step_um
        Unit of the moves, six per axis up to three steps away; the image must move by
        some pixels and stay mostly in view.
    objective
        Noted in the calibration.

    Raises
    ------
    CalibrationError
        The image does not follow the stage.
    """
    start = driver.position_um()
    reference = np.asarray(snap(), np.float32)
    moved_um, shift_px = [], []
    for axis in (0, 1):
        for steps in _MOVES:
            offset = np.zeros(2)
            offset[axis] = steps * step_um
            _go(driver, start.y_um + offset[0], start.x_um + offset[1])
            here = driver.position_um()
            moved_um.append((here.y_um - start.y_um, here.x_um - start.x_um))
            shift_px.append(_shift(reference, np.asarray(snap(), np.float32)))
    _go(driver, start.y_um, start.x_um)
    matrix, residual_px = _fit(np.array(moved_um), np.array(shift_px))
    return Calibration(
        map=PixelToStage(matrix),
        residual_px=residual_px,
        measured=datetime.now(UTC),
        objective=objective,
    )


def _go(driver: StageDriver, y_um: float, x_um: float) -> None:
    driver.move_to_um(y_um, x_um)
    deadline = time.monotonic() + _SETTLE_WITHIN_S
    while driver.is_busy():
        if time.monotonic() > deadline:
            raise CalibrationError(
                f"the stage is still busy {_SETTLE_WITHIN_S:g} s after a move to "
                f"y = {y_um:g} um, x = {x_um:g} um; expected it to settle. Check it."
            )
        time.sleep(0.002)


def _shift(reference: FloatArray, image: FloatArray) -> FloatArray:
    """Return by how much the image moved against the reference, (y, x) px."""
    registered, _, _ = phase_cross_correlation(  # type: ignore[no-untyped-call]
        reference, image, upsample_factor=_UPSAMPLE, normalization=None
    )
    return -np.asarray(registered, float)


def _fit(moved_um: FloatArray, shift_px: FloatArray) -> tuple[FloatArray, float]:
    """Fit shift = B moved; a particle moves against the stage, so A = -inverse(B)."""
    solution, _, _, _ = np.linalg.lstsq(moved_um, shift_px, rcond=None)
    residual = shift_px - moved_um @ solution
    response = solution.T
    if abs(np.linalg.det(response)) < 1e-9:
        raise CalibrationError(
            f"the image does not follow the stage (shifts up to "
            f"{np.abs(shift_px).max():.2f} px); expected a structured sample at rest "
            "and a stage that moves. Check the shutter, focus and stage."
        )
    rms_px = float(np.sqrt((residual**2).sum(axis=1).mean()))
    return -np.linalg.inv(response), rms_px
