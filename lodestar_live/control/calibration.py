"""The measured pixel-to-stage calibration: one TOML file, refused when in doubt."""

from __future__ import annotations

import json
import logging
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from lodestar_live.control.driver import DeviceDriver
from lodestar_live.control.moves import StageResponse
from lodestar_live.control.sharpness import FocusCurve
from lodestar_live.data import FloatArray
from lodestar_live.errors import CalibrationError, shown
from lodestar_live.geometry import PixelToStage
from lodestar_live.settings import ControlSettings

logger = logging.getLogger(__name__)
MAX_RESIDUAL_PX = 0.5
MAX_CONTRADICTION = 0.10
MAX_TIME_S = 60.0
MAX_BACKLASH_UM = 100.0  # worn stages have 10
MAX_FUTURE_S = 3600.0  # clocks of two computers differ; not by days


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What was measured, when, and with which objective.

    `map` takes pixels to stage µm; `response` is how the stage answers a move;
    `particles_px` is by how much the shifts of single particles disagree with those of
    the whole image (rms); `microscope_um_per_px`, (2, 2), is Micro-Manager's own idea.
    `z_sign` is +1 when a focus move of +1 µm makes a particle's z_um grow, -1 when it
    makes it fall, 0 when it was not measured. `optics` is what the devices said that
    decide how the sample appears in the image (camera, binning, mirrors).
    """

    map: PixelToStage
    residual_px: float
    measured: datetime
    objective: str = ""
    response: StageResponse = field(default_factory=StageResponse)
    backlash_um: tuple[float, float] = (0.0, 0.0)
    particles_px: float = float("nan")
    microscope_um_per_px: FloatArray | None = None
    z_sign: int = 0
    focus: FocusCurve | None = None
    optics: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no microscope has: it would steer as if it had been measured."""
        response = self.response
        for name, value, low, high in (
            ("dead_s", response.dead_s, 0.0, MAX_TIME_S),
            ("tau_s", response.tau_s, 0.0, MAX_TIME_S),
            ("speed_um_per_s", response.speed_um_per_s, 1e-6, np.inf),
            ("backlash_um (y)", self.backlash_um[0], 0.0, MAX_BACKLASH_UM),
            ("backlash_um (x)", self.backlash_um[1], 0.0, MAX_BACKLASH_UM),
        ):
            if not low <= value <= high:  # NaN is in no range
                raise CalibrationError(
                    f"calibration: {name} = {value}, expected {low:g} to {high:g}. Run "
                    "lodestar-live calibrate."
                )
        if self.z_sign not in (-1, 0, 1):
            raise CalibrationError(
                f"calibration: z_sign = {shown(self.z_sign)}, expected 1, -1, or 0: "
                "not measured. Run lodestar-live calibrate --z."
            )

    def save(self, path: str | Path) -> None:
        """Write the file that `control.calibration` names."""
        theirs = self.microscope_um_per_px
        values: dict[str, object] = {
            "measured": json.dumps(self.measured.isoformat()),
            "matrix_um_per_px": self.map.matrix_um_per_px.tolist(),
            "residual_px": self.residual_px,
            "particles_px": self.particles_px,
            "backlash_um": list(self.backlash_um),
            "dead_s": self.response.dead_s,
            "tau_s": self.response.tau_s,
            "speed_um_per_s": self.response.speed_um_per_s,
            "z_sign": self.z_sign,
        }
        if theirs is not None:
            values["microscope_um_per_px"] = theirs.tolist()
        if self.focus is not None:
            values["focus_distance_um"] = self.focus.distance_um.tolist()
            values["focus_response"] = self.focus.response.tolist()
            values["focus_peak"] = self.focus.peak
        text = (
            "# Measured by `lodestar-live calibrate`; everything is ordered (y, x).\n"
        )
        text += f"objective = {json.dumps(self.objective)}\n"
        text += "".join(f"{name} = {value}\n" for name, value in values.items())
        if self.optics:
            text += "\n[optics]\n"
            text += "".join(
                f"{json.dumps(name)} = {json.dumps(value)}\n"
                for name, value in self.optics.items()
            )
        Path(path).write_text(text, encoding="utf-8")

    @property
    def scale_um_per_px(self) -> float:
        """Mean scale of the map."""
        return float(np.sqrt(abs(np.linalg.det(self.map.matrix_um_per_px))))

    @property
    def condition(self) -> float:
        """Condition number of the map: 1 for a square, aligned or rotated one."""
        return float(np.linalg.cond(self.map.matrix_um_per_px))

    @property
    def is_mirrored(self) -> bool:
        """True when image and stage have opposite handedness."""
        return bool(np.linalg.det(self.map.matrix_um_per_px) < 0)

    @property
    def rotation_deg(self) -> float:
        """Angle from pixel axes to stage axes, after undoing a mirror in x."""
        matrix = np.array(self.map.matrix_um_per_px)
        if self.is_mirrored:
            matrix[:, 1] *= -1
        u, _, v = np.linalg.svd(matrix)
        turn = u @ v
        return float(np.degrees(np.arctan2(turn[1, 0], turn[0, 0])))

    @property
    def play_um(self) -> tuple[float, float]:
        """Backlash (y, x) worth taking up: what stands out of the residual."""
        noise_um = 3 * self.residual_px * self.scale_um_per_px
        y_um, x_um = (b if b > noise_um else 0.0 for b in self.backlash_um)
        return y_um, x_um

    @property
    def contradiction(self) -> float:
        """Relative difference to Micro-Manager's map, whatever its sign; 0: unknown."""
        theirs = self.microscope_um_per_px
        if theirs is None or not np.any(theirs):
            return 0.0
        ours = self.map.matrix_um_per_px
        gaps = [np.linalg.norm(ours - sign * theirs) for sign in (1, -1)]
        return float(min(gaps) / np.linalg.norm(theirs))

    def require_usable(
        self,
        *,
        max_age_days: float,
        now: datetime | None = None,
        pixel_size_um: float | None = None,
        objective: str | None = None,
    ) -> None:
        """Refuse a stale, inexact or contradicted calibration, or another objective's.

        Parameters
        ----------
        max_age_days
            Oldest that is accepted.
        now
            For tests; None: the present.
        pixel_size_um
            What the microscope says; None or NaN: it does not know.
        objective
            The one in place, as the microscope names it; None or "": it does not know.

        Raises
        ------
        CalibrationError
            With the number that was wrong and what was expected.
        """
        if objective and self.objective and objective != self.objective:
            raise CalibrationError(
                f"calibration was measured with objective {self.objective!r}, but "
                f"{objective!r} is in place. Change the objective back, or run "
                "lodestar-live calibrate with this one."
            )
        age_days = ((now or datetime.now(UTC)) - self.measured).total_seconds() / 86400
        if age_days * 86400 < -MAX_FUTURE_S:
            raise CalibrationError(
                f"calibration of {self.measured:%Y-%m-%d %H:%M} lies in the future; "
                "a clock was wrong, so its age is unknown. Set this computer's clock, "
                "or run lodestar-live calibrate."
            )
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
        if self.contradiction > MAX_CONTRADICTION:
            raise CalibrationError(
                f"calibration differs by {self.contradiction:.0%} from Micro-Manager's "
                "pixel-size affine; at most 10 % is accepted. Correct Micro-Manager's "
                "pixel configuration, or calibrate with the objective in use."
            )
        self._require_scale(pixel_size_um)

    def _require_scale(self, pixel_size_um: float | None) -> None:
        matrix, scale = self.map.matrix_um_per_px, self.scale_um_per_px
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
        measured = datetime.fromisoformat(data["measured"])
        theirs = data.get("microscope_um_per_px")
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
            particles_px=float(data["particles_px"]),
            microscope_um_per_px=None if theirs is None else np.array(theirs),
            z_sign=_whole(data["z_sign"]),
            focus=_read_focus(data),
            optics={str(k): str(v) for k, v in data.get("optics", {}).items()},
        )
    except OSError as error:
        raise CalibrationError(
            f"{path}: cannot be read ({error.strerror}); expected a file made by "
            "lodestar-live calibrate."
        ) from error
    except CalibrationError as error:
        raise CalibrationError(f"{path}: {error}") from error
    except (
        ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError,
        RecursionError,
    ) as error:  # fmt: skip
        raise CalibrationError(
            f"{path}: not a calibration file ({str(error)[:200]}). Run lodestar-live "
            "calibrate."
        ) from error


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"z_sign = {shown(value)}, expected a whole number")
    return value


def _read_focus(data: dict[str, Any]) -> FocusCurve | None:
    if "focus_peak" not in data:
        return None
    return FocusCurve(
        np.array(data["focus_distance_um"], dtype=float),
        np.array(data["focus_response"], dtype=float),
        float(data["focus_peak"]),
    )


def usable_calibration(
    settings: ControlSettings,
    calibration: Calibration | None,
    pixel_size_um: float | None,
    devices: DeviceDriver | None,
) -> Calibration | None:
    """Return the calibration a run may steer by, given or read; None in a dry run.

    `devices` knows the objective in place; None: nothing does.

    Raises
    ------
    CalibrationError
        It is missing though the stage may move, or must not be used here.
    """
    if calibration is None and settings.calibration is not None:
        calibration = load_calibration(settings.calibration)
    if calibration is None:
        if settings.armed:
            raise CalibrationError(
                "control.armed = true, but control.calibration is missing; expected "
                "a file made by lodestar-live calibrate."
            )
        return None
    objective = None if devices is None else devices.objective()
    calibration.require_usable(
        max_age_days=settings.max_calibration_age_days,
        pixel_size_um=pixel_size_um,
        objective=objective,
    )
    if objective is not None and not (objective and calibration.objective):
        logger.warning(
            "whether the calibration is of the objective in place cannot be checked: "
            "the calibration names %r, the microscope %r. Name the objectives in "
            "Micro-Manager (pixel sizes, or a config group 'Objective') and calibrate.",
            calibration.objective,
            objective,
        )
    return calibration
