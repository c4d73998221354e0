"""``lodestar-live calibrate``: the pixel-to-stage map, measured on the microscope."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from lodestar_live.cli._z_sweep import calibrate_z_drive
from lodestar_live.errors import SettingsError
from lodestar_live.settings import Settings, TravelLimits, load_settings

if TYPE_CHECKING:
    from lodestar_live.control import Calibration
    from lodestar_live.control.measure import Bench
    from lodestar_live.data import FloatArray
    from lodestar_live.microscope import Microscope


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("calibrate")(run_calibrate)


def run_calibrate(
    config: Annotated[
        Path | None, typer.Argument(help="Settings; left out: a running Micro-Manager.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="Left out: calibration.toml, which control.calibration names; of "
            "--z z_calibration.toml.",
        ),
    ] = None,
    step_um: Annotated[
        float | None, typer.Option("--step", help="One move; left out: 1/16 of view.")
    ] = None,
    moves: Annotated[int, typer.Option(help="Moves per axis and way.")] = 5,
    travel_um: Annotated[
        float | None,
        typer.Option(
            "--travel", help="Box around here, if the settings set no limits."
        ),
    ] = None,
    focus_um: Annotated[
        float | None,
        typer.Option("--focus", help="Also scan the focus this far to both sides."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Model that measures z: also find the focus direction."),
    ] = None,
    z_um: Annotated[
        float | None,
        typer.Option(
            "--z",
            help="Instead: holograms. Sweep the focus this far to both sides of a "
            "particle stuck to the glass; measures z_scale and its sign.",
        ),
    ] = None,
    at: Annotated[
        str, typer.Option(help="With --z: Y,X of the particle, field px.")
    ] = "",
    sharp_at_um: Annotated[
        float | None,
        typer.Option(
            "--sharp-at", help="With --z: drive reading where it looks sharp."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Move the stage, watch the image, store the map; the stage comes back."""
    from lodestar_live.microscope import open_microscope

    settings = Settings() if config is None else load_settings(config)
    if z_um is not None:
        calibrate_z_drive(
            settings, z_um, at=at, sharp_at_um=sharp_at_um, out=out, as_json=as_json
        )
        return
    out = out or Path("calibration.toml")
    with open_microscope(settings.microscope) as microscope:
        bench = _bench(microscope, settings, travel_um, focus_um)
        if step_um is None:
            step_um = _default_step_um(microscope)
        calibration = _measure(
            microscope,
            bench,
            step_um=step_um,
            moves=moves,
            focus_um=focus_um,
            model=model,
        )
    calibration.save(out)
    if as_json:
        typer.echo(json.dumps(_facts(calibration)))
    else:
        _show(calibration, out)
    calibration.require_usable(max_age_days=1.0)


def _bench(
    microscope: Microscope,
    settings: Settings,
    travel_um: float | None,
    focus_um: float | None,
) -> Bench:
    from lodestar_live.control.measure import Bench
    from lodestar_live.microscope import CoreStage

    stage = CoreStage(microscope)
    control, here = settings.control, stage.position_um()
    limits = control.limits
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


def _default_step_um(microscope: Microscope) -> float:
    size_um = float(min(microscope.snap().shape) * microscope.pixel_size_um)
    if not size_um > 0:
        raise SettingsError(
            "calibrate: the microscope does not know its pixel size; give --step UM, "
            "about 1/16 of the view."
        )
    return size_um / 16


def _measure(
    microscope: Microscope,
    bench: Bench,
    *,
    step_um: float,
    moves: int,
    focus_um: float | None,
    model: Path | None,
) -> Calibration:
    from dataclasses import replace

    from lodestar_live.control.measure import calibrate, measure_z_sign, scan_focus

    core = microscope.core
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("moving", total=None)
        calibration = calibrate(
            bench,
            step_um=step_um,
            n_moves=moves,
            objective=microscope.objective,
            microscope_um_per_px=_affine(core.get_pixel_size_affine()),
            progress=lambda done, total: progress.update(
                task, completed=done, total=total
            ),
        )
    if focus_um is not None:
        calibration = replace(calibration, focus=scan_focus(bench, range_um=focus_um))
    if model is not None:
        import numpy as np

        from lodestar_live.detection import Detector

        detector = Detector(model)
        sign = measure_z_sign(
            bench,
            lambda pixels: float(np.nanmedian(detector(pixels).rows["z_um"])),
            step_um=2.0,
        )
        calibration = replace(calibration, z_sign=sign)
    return calibration


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
    Console().print(table)
    Console().print(f"written to {out}", markup=False)
