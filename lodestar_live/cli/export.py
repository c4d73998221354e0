"""``lodestar-live export``: trajectories into other tools' formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("export")(export_run)


def export_run(
    run: Annotated[Path, typer.Argument(help="A run's folder or its run.sqlite.")],
    to: Annotated[str, typer.Option(help="csv, parquet, trackmate, geff, napari.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Default: beside the run file.")
    ] = None,
    min_frames: Annotated[
        int, typer.Option(min=0, help="Leave out shorter trajectories.")
    ] = 40,
) -> None:
    """Write the trajectories of RUN in another tool's format."""
    from lodestar_live.recording import Recording
    from lodestar_live.recording.export import default_name, export

    with Recording(run) as recording:
        path = out or recording.path.parent / default_name(to)
        n = export(recording, path, to=to, min_frames=min_frames)
    typer.echo(f"{path}: {n} trajectories of at least {min_frames} frames")
