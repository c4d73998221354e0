"""``lodestar-live classify``: the tracks of one channel by another's detections."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lodestar_live.cli._console import make_console
from lodestar_live.errors import InputError

if TYPE_CHECKING:
    from lodestar_live.analysis import TrackClasses


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("classify")(classify)


def classify(
    run: Annotated[Path, typer.Argument(help="The run whose tracks are classified.")],
    by: Annotated[
        Path | None,
        typer.Option(help="Run of the second channel, the same frames. Left out: RUN."),
    ] = None,
    channel: Annotated[
        str | None, typer.Option(help="Of RUN, where it holds several.")
    ] = None,
    by_channel: Annotated[
        str | None, typer.Option(help="Of the second run, where it holds several.")
    ] = None,
    within: Annotated[
        float | None,
        typer.Option(
            help="Distance up to which two detections are one particle, µm of the "
            "sample (px where there is no pixel size). Default: 0.4 µm."
        ),
    ] = None,
    align: Annotated[
        bool,
        typer.Option(
            "--register/--no-register",
            help="Measure shift, turn and scale between the channels first.",
        ),
    ] = True,
    min_frames: Annotated[
        int, typer.Option(min=1, help="Leave out tracks measured in fewer.")
    ] = 10,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Default: track_classes.csv beside RUN."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell which tracks a second channel sees, too.

    Class 1: more than 95 % of a track's detections have one of the second channel
    near; class 0: fewer than 5 %; -1: undecided. Summaries, and `plot --classes`, take
    the classes from the table that is written.
    """
    from lodestar_live.analysis import classify_runs
    from lodestar_live.recording import Recording
    from lodestar_live.recording.classes import FILE_NAME, write_classes

    if by is None and by_channel is None:
        raise InputError(
            "classify: expected the second channel: --by RUN, or --channel and "
            "--by-channel of one run that holds both."
        )
    with Recording(run) as first, Recording(by or run) as second:
        found = classify_runs(
            first,
            second,
            channel=channel,
            second_channel=by_channel,
            within=within,
            align=align,
            min_frames=min_frames,
        )
        path = write_classes(out or first.path.parent / FILE_NAME, found.rows)
    facts = _facts(found, path)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    make_console().print(_sentence(facts, found.unit), soft_wrap=True)


def _facts(found: TrackClasses, path: Path) -> dict[str, Any]:
    kinds = found.rows["class"]
    registration = found.registration
    return {
        "co_located": int((kinds == 1).sum()),
        "not_co_located": int((kinds == 0).sum()),
        "undecided": int((kinds == -1).sum()),
        "registration": {
            "shift_y": float(registration.matrix[0, 2]),
            "shift_x": float(registration.matrix[1, 2]),
            "rotation_deg": registration.rotation_deg,
            "scale": registration.scale,
            "n_pairs": registration.n_pairs,
            "rms": registration.rms if registration.n_pairs else None,
        },
        "table": str(path),
    }


def _sentence(facts: dict[str, Any], unit: str) -> str:
    placed = facts["registration"]
    said = "not registered"
    if placed["n_pairs"]:
        said = (
            f"registered by {placed['n_pairs']} pairs: turned by "
            f"{placed['rotation_deg']:.2f} degrees, scale {placed['scale']:.4f}, "
            f"{placed['rms']:.3g} {unit} remain"
        )
    return (
        f"{facts['co_located']} tracks co-located, {facts['not_co_located']} not, "
        f"{facts['undecided']} undecided ({said}); {facts['table']}"
    )
