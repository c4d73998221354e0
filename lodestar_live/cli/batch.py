"""``lodestar-live batch``: any number of recordings, on every core or machine."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from lodestar_live.cli._choice import (
    Axes,
    Channel,
    Fps,
    Frames,
    PixelSize,
    Position,
    Slice,
)
from lodestar_live.cli._console import make_console
from lodestar_live.cli._paths import read_settings
from lodestar_live.errors import InputError

if TYPE_CHECKING:
    from lodestar_live.batch import BatchResult


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("batch")(batch)


def batch(
    model: Annotated[Path, typer.Option(help="Trained model (.onnx).")],
    out: Annotated[Path, typer.Option(help="Folder of the results.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(help="Recordings: files, folders, or patterns such as '*.tif'."),
    ] = None,
    listed: Annotated[
        Path | None, typer.Option("--list", help="File with one recording a line.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings file; all defaults without.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="A Dask scheduler's address. Left out: this machine alone."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes here. Left out: one per physical core."),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Limit per worker, e.g. 2GiB. Left out: an equal share."),
    ] = None,
    chunk: Annotated[
        int, typer.Option(min=1, help="Frames in one piece of work.")
    ] = 200,
    channel: Channel = None,
    position: Position = None,
    z: Slice = None,
    frames: Frames = None,
    fps: Fps = None,
    pixel_size: PixelSize = None,
    axes: Axes = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Track many recordings, each as `replay` would, on all cores or many machines.

    A run that was ended goes on where it was when the same command is given again.
    """
    from lodestar_live.batch import BatchPlan, gather_inputs, run_batch
    from lodestar_live.recording.movies import Choice

    if not model.is_file():
        raise InputError(f"{model}: no such file; expected a trained model (.onnx).")
    plan = BatchPlan(
        tuple(gather_inputs(inputs or (), listed)),
        model,
        out,
        settings=read_settings(config),
        choice=Choice(channel, position, z, frames, fps, pixel_size, axes),
        chunk_frames=chunk,
    )
    started_s = time.perf_counter()
    console = make_console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} frames"),
        TimeRemainingColumn(),
        console=console,
        disable=as_json,
    ) as bar:
        task = bar.add_task(f"0 of {len(plan.inputs)} recordings", total=None)

        def show(n_done: int, n_frames: int, n_known: int) -> None:
            bar.update(
                task,
                description=f"{n_done} of {len(plan.inputs)} recordings",
                completed=n_frames,
                total=n_known,
            )

        result = run_batch(
            plan,
            scheduler=scheduler,
            n_workers=workers,
            memory=memory,
            on_start=lambda url: None if as_json else console.print(f"Dask: {url}"),
            progress=show,
        )
    _report(result, out, time.perf_counter() - started_s, as_json=as_json)
    if result.failed:
        raise typer.Exit(1)


def _report(result: BatchResult, out: Path, seconds: float, *, as_json: bool) -> None:
    facts = {
        "recordings": result.n_recordings,
        "failed": result.failed,
        "chunks": result.n_chunks,
        "chunks_before": result.n_chunks_before,
        "seconds": seconds,
        "summary": str(out / "summary.csv"),
    }
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for path, why in result.failed.items():
        typer.echo(f"failed: {path}: {why}", err=True)
    n_good = result.n_recordings - len(result.failed)
    typer.echo(
        f"{n_good} of {result.n_recordings} recordings in {seconds:.1f} s "
        f"({result.n_chunks} chunks done now, {result.n_chunks_before} before): "
        f"{out / 'summary.csv'}"
    )
