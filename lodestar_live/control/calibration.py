"""The measured pixel-to-stage calibration: one TOML file, refused when in doubt."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from lodestar_live.control.moves import StageResponse
from lodestar_live.errors import CalibrationError
from lodestar_live.geometry import PixelToStage

MAX_RESIDUAL_PX = 0.5
MAX_CONTRADICTION = 0.10


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured, when, and with which objective.

    `map` takes pixels to stage µm; `response` is how the stage answers a move;
    `z_sign` is +1 when a focus move of +1 µm makes a particle's z_um grow, -1 when it
    makes it fall, 0 when it was not measured.
    """

    map: PixelToStage
    residual_px: float
    measured: datetime
    objective: str = ""
    response: StageResponse = field(default_factory=StageResponse)
    backlash_um: tuple[float, float] = (0.0, 0.0)
    z_sign: int = 0

    def save(self, path: str | Path) -> None:
        """Write the file that `control.calibration` names."""
        matrix = self.map.matrix_um_per_px.tolist()
        response = self.response
        lines = [
            "# Measured by `lodestar-live calibrate`; rows and columns ordered (y, x).",
            f"measured = {self.measured.isoformat()}",
            f'objective = "{self.objective}"',
            f"matrix_um_per_px = {matrix}",
            f"residual_px = {self.residual_px!r}",
            f"backlash_um = {list(self.backlash_um)}",
            f"dead_s = {response.dead_s!r}",
            f"tau_s = {response.tau_s!r}",
            f"speed_um_per_s = {response.speed_um_per_s!r}",
            f"z_sign = {self.z_sign}",
        ]
        Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")

    def require_usable(
        self,
        *,
        max_age_days: float,
        now: datetime | None = None,
        pixel_size_um: float | None = None,
    ) -> None:
        """Refuse a stale, inexact or contradicted calibration.

        Parameters
        ----------
        max_age_days
            Oldest that is accepted.
        now
            For tests; None: the present.
        pixel_size_um
            What the microscope says; None or NaN: it does not know.

        Raises
        ------
        CalibrationError
            With the number that was wrong and what was expected.
        """
        age_days = ((now or datetime.now(UTC)) - self.measured).total_seconds() / 86400
        if age_days > max_age_days:
            raise CalibrationError(
                f"calibration of {self.measured:%Y-%m-%d} is {age_days:.0f} days old; "
                f"at most {max_age_days:.0f} are accepted. Run lodestar-live calibrate."
            )
        if not self.residual_px <= MAX_RESIDUAL_PX:
            raise CalibrationError(
                f"calibration residual = {self.residual_px:.3g} px, expected at most "
                f"{MAX_RESIDUAL_PX}. Calibrate again on a sharper, denser field."
            )
        self._require_scale(pixel_size_um)

    def _require_scale(self, pixel_size_um: float | None) -> None:
        matrix = self.map.matrix_um_per_px
        scale = float(np.sqrt(abs(np.linalg.det(matrix))))
        if not np.isfinite(scale) or scale == 0:
            raise CalibrationError(
                f"calibration matrix {matrix.tolist()} is singular; expected two "
                "independent directions. Run lodestar-live calibrate."
            )
        if pixel_size_um is None or not np.isfinite(pixel_size_um):
            return
        if abs(scale / pixel_size_um - 1) > MAX_CONTRADICTION:
            raise CalibrationError(
                f"calibration says {scale:.4g} um per pixel, the microscope "
                f"{pixel_size_um:.4g}: more than 10 % apart. Calibrate with the "
                "objective in use, or correct the microscope's pixel size."
            )


def load_calibration(path: str | Path) -> Calibration:
    """Read a calibration file.

    Raises
    ------
    CalibrationError
        Missing, unreadable or incomplete.
    """
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        measured = data["measured"]
        return Calibration(
            map=PixelToStage(np.array(data["matrix_um_per_px"], dtype=float)),
            residual_px=float(data["residual_px"]),
            measured=measured if measured.tzinfo else measured.replace(tzinfo=UTC),
            objective=str(data.get("objective", "")),
            response=StageResponse(
                float(data["dead_s"]),
                float(data["tau_s"]),
                float(data["speed_um_per_s"]),
            ),
            backlash_um=(float(data["backlash_um"][0]), float(data["backlash_um"][1])),
            z_sign=int(data["z_sign"]),
        )
    except OSError as error:
        raise CalibrationError(
            f"{path}: cannot be read ({error.strerror}); expected a file made by "
            "lodestar-live calibrate."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CalibrationError(
            f"{path}: not a calibration file ({error}). Run lodestar-live calibrate."
        ) from error
