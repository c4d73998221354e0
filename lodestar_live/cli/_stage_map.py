"""``lodestar-live calibrate``: the stage, its map measured by moving it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import Progress
from rich.table import Table

from lodestar_live.cli._console import make_console
from lodestar_live.errors import SettingsError
from lodestar_live.settings import Settings, TravelLimits

if TYPE_CHECKING:
    from lodestar_live.calibration.stage import Bench
    from lodestar_live.control import Calibration
    from lodestar_live.data import FloatArray, Pixels
    from lodestar_live.microscope import Microscope


@dataclass(frozen=True, slots=True)
class WalkPlan:
    """What is asked of the stage; each None is explained by the command's help."""

    step_um: float | None
    moves: int
    travel_um: float | None
    focus_um: float | None
    model: Path | None


def calibrate_stage(
    settings: Settings, plan: WalkPlan, *, out: Path | None, as_json: bool
) -> None:
    """Walk, write what was measured, print it, and refuse it when in doubt."""
    from lodestar_live.microscope import open_microscope

    out = out or Path("calibration.toml")
    with open_microscope(settings.microscope) as microscope:
        bench = _bench(microscope, settings, plan)
        step_um = plan.step_um
        if step_um is None:
            step_um = _default_step_um(microscope)
        calibration = _measure(microscope, bench, plan, step_um=step_um)
        calibration = replace(calibration, optics=_optics(microscope))
    calibration.save(out)
    if as_json:
        typer.echo(json.dumps(_facts(calibration)))
    else:
        _show(calibration, out)
    calibration.require_usable(max_age_days=1.0)


def _bench(microscope: Microscope, settings: Settings, plan: WalkPlan) -> Bench:
    from lodestar_live.calibration.stage import Bench
    from lodestar_live.microscope import CoreStage

    stage = CoreStage(microscope)
    control, here = settings.control, stage.position_um()
    limits = control.limits
    travel_um, focus_um = plan.travel_um, plan.focus_um
    if limits is None:
        if travel_um is None:
            raise SettingsError(
                "calibrate: no travel limits; expected control.limits in the settings "
                "or --travel UM, the box around the present position."
            )
        limits = TravelLimits(
            y_um=(here.y_um - travel_um, here.y_um + travel_um),
            x_um=(here.x_um - travel_um, here.x_um + travel_um),
            z_um=None
            if focus_um is None
            else (here.z_um - focus_um, here.z_um + focus_um),
        )
    control = control.model_copy(update={"armed": True, "limits": limits})
    return Bench(microscope.snap, stage, control, tell=lambda event: None)


def _optics(microscope: Microscope) -> dict[str, str]:
    from lodestar_live.microscope import CoreStage

    return CoreStage(microscope).optics()


def _default_step_um(microscope: Microscope) -> float:
    size_um = float(min(microscope.snap().shape) * microscope.pixel_size_um)
    if not size_um > 0:
        raise SettingsError(
            "calibrate: the microscope does not know its pixel size; give --step UM, "
            "about 1/16 of the view."
        )
    return size_um / 16


def _measure(
    microscope: Microscope, bench: Bench, plan: WalkPlan, *, step_um: float
) -> Calibration:
    from lodestar_live.calibration.stage import calibrate, scan_focus

    core = microscope.core
    with Progress(console=make_console(stderr=True)) as progress:
        task = progress.add_task("moving", total=None)
        calibration = calibrate(
            bench,
            step_um=step_um,
            n_moves=plan.moves,
            objective=microscope.objective,
            microscope_um_per_px=_affine(core.get_pixel_size_affine()),
            progress=lambda done, total: progress.update(
                task, completed=done, total=total
            ),
        )
    if plan.focus_um is not None:
        curve = scan_focus(bench, range_um=plan.focus_um)
        calibration = replace(calibration, focus=curve)
    if plan.model is not None:
        calibration = replace(calibration, z_sign=_z_sign(bench, plan.model))
    return calibration


def _z_sign(bench: Bench, model: Path) -> int:
    import numpy as np

    from lodestar_live.calibration.stage import measure_z_sign
    from lodestar_live.detection import Detector

    detector = Detector(model)

    def z_um(pixels: Pixels) -> float:
        return float(np.nanmedian(detector(pixels).rows["z_um"]))

    return measure_z_sign(bench, z_um, step_um=2.0)


def _affine(values: Any) -> FloatArray | None:
    """Micro-Manager's six numbers (x' = a x + b y + c, ...) as our (y, x) matrix."""
    import numpy as np

    is_java = hasattr(values, "get")  # the bridge hands over a Java DoubleVector
    a, b, _, d, e, _ = [
        float(values.get(k) if is_java else values[k]) for k in range(6)
    ]
    matrix = np.array([[e, d], [b, a]])
    return matrix if np.any(matrix) else None


def _facts(calibration: Calibration) -> dict[str, object]:
    return {
        "matrix_um_per_px": calibration.map.matrix_um_per_px.tolist(),
        "scale_um_per_px": calibration.scale_um_per_px,
        "rotation_deg": calibration.rotation_deg,
        "is_mirrored": calibration.is_mirrored,
        "condition": calibration.condition,
        "residual_px": calibration.residual_px,
        "particles_px": calibration.particles_px,
        "backlash_um": list(calibration.backlash_um),
        "dead_s": calibration.response.dead_s,
        "tau_s": calibration.response.tau_s,
        "settle_s": calibration.response.settle_s,
        "contradiction": calibration.contradiction,
        "z_sign": calibration.z_sign,
        "has_focus_curve": calibration.focus is not None,
    }


def _show(calibration: Calibration, out: Path) -> None:
    table = Table("quantity", "value", title="pixel-to-stage calibration, (y, x)")
    for name, value in _facts(calibration).items():
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    make_console().print(table)
    make_console().print(f"written to {out}", soft_wrap=True)
