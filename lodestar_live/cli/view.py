"""``lodestar-live view`` and ``lodestar-live plot``."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from lodestar_live.errors import InputError

if TYPE_CHECKING:
    from lodestar_live.view.recorded_feed import RecordedFeed


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("view")(view)
    app.command("plot")(plot)


def view(
    source: Annotated[
        str,
        typer.Argument(
            metavar="ENDPOINT|RUN",
            help="Address of a running tracker's stream, or a recorded run's folder.",
        ),
    ] = "tcp://127.0.0.1:5556",
    control: Annotated[
        str | None,
        typer.Option(help="Address commands go to. Left out: as the run says."),
    ] = None,
    movie: Annotated[
        Path | None, typer.Option(help="Images of a recorded run: TIFF stack, folder…")
    ] = None,
    port: Annotated[int, typer.Option(help="Of the page; 0 picks a free one.")] = 8765,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Open the overlay page of a running tracker or a recorded run."""
    from lodestar_live.view.live_feed import LiveFeed
    from lodestar_live.view.server import ViewServer

    feed: LiveFeed | RecordedFeed
    if "://" in source:
        feed = LiveFeed(source, control=control)
    else:
        feed = _recorded_feed(Path(source), movie)
    server = ViewServer(feed, port=port)
    Console().print(f"[bold]{server.url}[/] shows {source}; Ctrl-C ends it.")
    if browser:
        webbrowser.open(server.url)
    try:
        server.wait()
    except KeyboardInterrupt:
        server.close()


def _recorded_feed(run: Path, movie: Path | None) -> RecordedFeed:
    from lodestar_live.recording import Recording
    from lodestar_live.recording.movies import open_movie
    from lodestar_live.view.recorded_feed import RecordedFeed
    from lodestar_live.view.run_files import snapshot_of

    with Recording(run) as recording:
        return RecordedFeed(
            recording,
            source=str(run),
            movie=() if movie is None else open_movie(movie),
            snapshot=snapshot_of(run),
        )


def plot(
    run: Annotated[Path, typer.Argument(help="A recorded run's folder or run.sqlite.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Default: plots.png in the run.")
    ] = None,
) -> None:
    """Draw trajectories, MSD, speed and latency; of holograms fields, z and more."""
    from lodestar_live.recording import Recording
    from lodestar_live.view import write_hologram_report, write_plots
    from lodestar_live.view.run_files import field_of, snapshot_of

    folder = run if run.is_dir() else run.parent
    out = out or folder / "plots.png"
    with Recording(run) as recording:
        if not len(recording.tracks()):
            raise InputError(f"{run}: holds no tracks; there is nothing to plot.")
        if recording.info.settings.get("holography"):
            path = write_hologram_report(recording, out, kept=field_of(folder))
        else:
            path = write_plots(recording, out, snapshot=snapshot_of(folder))
    Console().print(f"wrote [bold]{path}[/]")
