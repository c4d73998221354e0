"""``lodestar-live calibrate --z``: the focus drive against refocused distances."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lodestar_live.errors import InputError, SettingsError
from lodestar_live.settings import Settings, TravelLimits

if TYPE_CHECKING:
    from lodestar_live.calibration.stage import Bench
    from lodestar_live.calibration.z_sweep import ZSweep
    from lodestar_live.microscope import Microscope


def calibrate_z_drive(
    settings: Settings,
    range_um: float,
    *,
    at: str,
    sharp_at_um: float | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Sweep, print and write what was measured; see `live.z_sweep`."""
    from lodestar_live.calibration.z_sweep import sweep_z
    from lodestar_live.microscope import open_microscope

    if not range_um > 0:
        raise InputError(f"--z {range_um}: expected a positive distance in um.")
    with open_microscope(settings.microscope) as microscope:
        sweep = sweep_z(
            _bench(microscope, settings, range_um),
            settings,
            pixel_size_um=settings.microscope.pixel_size_um or microscope.pixel_size_um,
            range_um=range_um,
            at_px=_place(at),
            sharp_at_um=sharp_at_um,
        )
    out = out or Path("z_calibration.toml")
    out.write_text(_toml(sweep), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(_facts(sweep)))
        return
    result = sweep.calibration
    typer.echo(
        f"particle at ({sweep.at_px[0]:.1f}, {sweep.at_px[1]:.1f}) px of the field, "
        f"{result.n} of {len(sweep.drive_um)} steps, scatter {result.rms_um:.3f} um"
    )
    typer.echo(_toml(sweep))
    typer.echo(
        f"Written to {out}; copy the two lines into your settings to apply them."
    )


def _bench(microscope: Microscope, settings: Settings, range_um: float) -> Bench:
    """Allow the focus drive the sweep's own range, unless the settings have limits."""
    from lodestar_live.calibration.stage import Bench
    from lodestar_live.microscope import CoreStage

    stage = CoreStage(microscope)
    limits, here = settings.control.limits, stage.position_um()
    if limits is None:
        limits = TravelLimits(
            y_um=(here.y_um - 1, here.y_um + 1),
            x_um=(here.x_um - 1, here.x_um + 1),
            z_um=(here.z_um - range_um - 0.01, here.z_um + range_um + 0.01),
        )
    elif limits.z_um is None:
        raise SettingsError(
            "calibrate --z: control.limits has no z_um, so the focus drive never "
            "moves; expected z_um = [lowest, highest] around the sweep."
        )
    control = settings.control.model_copy(update={"armed": True, "limits": limits})
    return Bench(microscope.snap, stage, control, tell=lambda event: None)


def _place(at: str) -> tuple[float, float] | None:
    if not at:
        return None
    try:
        y, x = (float(part) for part in at.split(","))
    except ValueError as error:
        raise InputError(f"--at {at}: expected Y,X in pixels of the field.") from error
    return y, x


def _facts(sweep: ZSweep) -> dict[str, object]:
    return {
        **asdict(sweep.calibration),
        "at_px": list(sweep.at_px),
        "drive_um": sweep.drive_um.tolist(),
        "distance_um": [None if d != d else d for d in sweep.distance_um.tolist()],
    }


def _toml(sweep: ZSweep) -> str:
    result = sweep.calibration
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    return (
        f"# Measured {today} by lodestar-live calibrate --z, +- {result.error:.4f}:\n"
        "# um of the focus drive per um refocused. With it z_um is the move that\n"
        "# brings a particle into focus; without, the distance in the medium.\n"
        "[holography]\n"
        f"z_scale = {result.z_scale:.5f}\nz_offset_um = {result.z_offset_um:.4f}\n"
    )
