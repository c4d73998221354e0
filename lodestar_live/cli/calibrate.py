"""``lodestar-live calibrate``: the stage, the focus, or a scale of polarizability."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lodestar_live.cli._population import calibrate_polarizability
from lodestar_live.cli._stage_map import WalkPlan, calibrate_stage
from lodestar_live.cli._z_sweep import calibrate_z_drive
from lodestar_live.resources import find
from lodestar_live.settings import Settings, load_settings

Config = Annotated[
    Path | None, typer.Argument(help="Settings; left out: a running Micro-Manager.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--out",
        help="Left out: calibration.toml, which control.calibration names; of "
        "--z z_calibration.toml.",
    ),
]
Step = Annotated[
    float | None, typer.Option("--step", help="One move; left out: 1/16 of view.")
]
Moves = Annotated[int, typer.Option(help="Moves per axis and way.")]
Travel = Annotated[
    float | None,
    typer.Option("--travel", help="Box around here, if the settings set no limits."),
]
Focus = Annotated[
    float | None,
    typer.Option("--focus", help="Also scan the focus this far to both sides."),
]
Model = Annotated[
    Path | None,
    typer.Option(help="Model that measures z: also find the focus direction."),
]
ZRange = Annotated[
    float | None,
    typer.Option(
        "--z",
        help="Instead: holograms. Sweep the focus this far to both sides of a "
        "particle stuck to the glass; measures z_scale and its sign.",
    ),
]
At = Annotated[str, typer.Option(help="With --z: Y,X of the particle, field px.")]
SharpAt = Annotated[
    float | None,
    typer.Option("--sharp-at", help="With --z: drive reading where it looks sharp."),
]
Known = Annotated[
    Path | None,
    typer.Option(
        "--polarizability",
        help="Instead, no microscope: a recorded RUN of spheres that are known; "
        "measures polarizability_scale.",
    ),
]
RadiusNm = Annotated[
    float | None, typer.Option("--radius-nm", help="Of the known spheres.")
]
NParticle = Annotated[float | None, typer.Option(help="Their refractive index.")]
NMedium = Annotated[
    float | None, typer.Option(help="Around them; left out: as the run's settings say.")
]
Between = Annotated[
    str, typer.Option(help="Only tracks from LOW,HIGH um3, as the run reports them.")
]
OfClass = Annotated[
    int | None, typer.Option("--class", help="Only tracks of this class (`classify`).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("calibrate")(run_calibrate)


def run_calibrate(
    config: Config = None,
    out: Out = None,
    step_um: Step = None,
    moves: Moves = 5,
    travel_um: Travel = None,
    focus_um: Focus = None,
    model: Model = None,
    z_um: ZRange = None,
    at: At = "",
    sharp_at_um: SharpAt = None,
    known: Known = None,
    radius_nm: RadiusNm = None,
    n_particle: NParticle = None,
    n_medium: NMedium = None,
    between: Between = "",
    of_class: OfClass = None,
    as_json: AsJson = False,
) -> None:
    """Move the stage, watch the image, store the map; the stage comes back."""
    if known is not None:
        calibrate_polarizability(
            known,
            radius_nm=radius_nm,
            n_particle=n_particle,
            n_medium=n_medium,
            between=between,
            track_class=of_class,
            out=out,
            as_json=as_json,
        )
        return
    settings = (
        Settings() if config is None else load_settings(find("config", str(config)))
    )
    if z_um is not None:
        calibrate_z_drive(
            settings, z_um, at=at, sharp_at_um=sharp_at_um, out=out, as_json=as_json
        )
        return
    plan = WalkPlan(step_um, moves, travel_um, focus_um, model)
    calibrate_stage(settings, plan, out=out, as_json=as_json)
