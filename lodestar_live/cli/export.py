"""``lodestar-live export``: trajectories into other tools' formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lodestar_live.cli._console import make_console
from lodestar_live.errors import InputError

if TYPE_CHECKING:
    from lodestar_live.data import FloatArray, Pixels
    from lodestar_live.view.figures.overlay_movie import ScoreMap


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("export")(export_run)


def export_run(
    run: Annotated[Path, typer.Argument(help="A run's folder or its run.sqlite.")],
    to: Annotated[
        str,
        typer.Option(
            help="csv, parquet, trackmate, trackmate-csv, geff, napari, summary (one "
            "row a track); mp4, gif."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Default: beside the run file.")
    ] = None,
    min_frames: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Leave out shorter trajectories. Left out: the run's own "
            "linking.min_track_frames, 40 unless set.",
        ),
    ] = None,
    movie: Annotated[
        Path | None,
        typer.Option(
            help="Images: drawn on for mp4 and gif, named in trackmate's file."
        ),
    ] = None,
    score_map: Annotated[
        Path | None,
        typer.Option(help="Model whose weights are drawn beside (mp4, gif)."),
    ] = None,
    predictions: Annotated[
        bool,
        typer.Option(
            "--predictions",
            help="Also rows in which a particle was missed (csv, parquet).",
        ),
    ] = False,
) -> None:
    """Write the measured trajectories of RUN for another tool, or as a movie.

    Positions are in the sample: stage and calibration taken out, µm and s where the run
    knows them.
    """
    if to in ("mp4", "gif"):
        _export_movie(run, movie, out or Path(f"overlay.{to}"), score_map)
        return
    from lodestar_live.recording import Recording
    from lodestar_live.recording.export import default_name, export
    from lodestar_live.recording.trajectories import units_of

    with Recording(run) as recording:
        path = out or recording.path.parent / default_name(to)
        if min_frames is None:
            linking = recording.info.settings.get("linking", {})
            min_frames = int(linking.get("min_track_frames", 40))
        n = export(
            recording,
            path,
            to=to,
            min_frames=min_frames,
            movie=movie,
            predictions=predictions,
        )
        units = units_of(recording)
    typer.echo(
        f"{path}: {n} trajectories of at least {min_frames} frames, in "
        f"{units[0]} and {units[1]}"
    )


def _export_movie(run: Path, movie: Path | None, out: Path, model: Path | None) -> None:
    from rich.progress import Progress

    from lodestar_live.recording import Recording
    from lodestar_live.recording.movies import open_movie
    from lodestar_live.view.figures.overlay_movie import write_overlay_movie

    if movie is None:
        raise InputError(f"{out}: a run holds no images; give them with --movie.")
    with (
        Recording(run) as recording,
        Progress(transient=True, console=make_console(stderr=True)) as bar,
    ):
        task = bar.add_task("drawing", total=None)
        n = write_overlay_movie(
            recording,
            open_movie(movie),
            out,
            score_map=None if model is None else _score_map(model),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    typer.echo(f"{out}: {n} frames")


def _score_map(model: Path) -> ScoreMap:
    """Return what draws the weights that a model gives each place of a frame."""
    import numpy as np

    from lodestar_live.detection import Detector

    detector = Detector(model)

    def draw(pixels: Pixels) -> FloatArray:
        weight = np.asarray(detector.maps(pixels).weight)
        cell = detector.layout.stride * detector.scale.factor  # camera pixels
        # Cells end at the last whole one: what is left over at the edges is unseen.
        y = np.minimum(np.arange(pixels.shape[0]) // cell, weight.shape[0] - 1)
        x = np.minimum(np.arange(pixels.shape[1]) // cell, weight.shape[1] - 1)
        return weight[np.ix_(y, x)]

    return draw
