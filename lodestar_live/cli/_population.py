"""``lodestar-live calibrate --polarizability``: the scale, by known particles."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import typer

from lodestar_live.cli._paths import require_folder_of
from lodestar_live.errors import InputError


def calibrate_polarizability(
    run: Path,
    *,
    radius_nm: float | None,
    n_particle: float | None,
    n_medium: float | None,
    between: str,
    track_class: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure, print and write the scale of a run's polarizabilities."""
    from lodestar_live.analysis import calibrate_population
    from lodestar_live.recording import Recording
    from lodestar_live.recording.summary import track_summary

    if radius_nm is None or n_particle is None:
        raise InputError(
            "calibrate --polarizability: expected --radius-nm and --n-particle of the "
            "known particles."
        )
    out = out or Path("polarizability_calibration.toml")
    require_folder_of(out)
    with Recording(run) as recording:
        optics = recording.info.settings.get("holography") or {}
        table = track_summary(recording)
    if track_class is not None:
        table = table[table["class"] == track_class]
    found = calibrate_population(
        table["polarizability_um3"],
        radius_um=radius_nm / 1e3,
        n_particle=n_particle,
        n_medium=optics.get("n_medium", 1.33) if n_medium is None else n_medium,
        between_um3=_between(between),
    )
    scale = found.factor * float(optics.get("polarizability_scale", 1.0))
    text = (
        f"# {found.n_tracks} tracks: {found.measured_um3:.4g} +- "
        f"{found.measured_error_um3:.2g} um3 reported, {found.expected_um3:.4g} "
        f"expected\n[holography]\npolarizability_scale = {scale:.5g}\n"
    )
    out.write_text(text, encoding="utf-8")
    if as_json:
        typer.echo(json.dumps({**asdict(found), "polarizability_scale": scale}))
        return
    relative = 100 * found.factor_error / found.factor
    typer.echo(f"{text}The scale is known to {relative:.1f} %; written to {out}.")


def _between(text: str) -> tuple[float, float] | None:
    if not text:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f"--between {text}: expected LOW,HIGH in um3, for example 0.01,0.03."
        ) from error
    return low, high
