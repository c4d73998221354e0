"""``lodestar-live view`` and ``lodestar-live plot``."""

from __future__ import annotations

import sys
import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lodestar_live.cli._console import make_console
from lodestar_live.errors import InputError, StreamError

if TYPE_CHECKING:
    from lodestar_live.view.web.live_feed import LiveFeed
    from lodestar_live.view.web.recorded_feed import RecordedFeed
    from lodestar_live.view.web.server import ViewServer

_USUAL_PORT = 8765


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
    port: Annotated[
        int | None, typer.Option(help="Of the page. Left out: 8765, or a free one.")
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(help="This machine's NAME.key_secret.")
    ] = None,
    server: Annotated[Path | None, typer.Option(help="The tracker's NAME.key.")] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    until_input_ends: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Open the overlay page of a running tracker or a recorded run."""
    from lodestar_live.streams import ClientKeys
    from lodestar_live.view.web.live_feed import LiveFeed

    if (keys is None) != (server is None):
        raise InputError("view: --keys and --server belong together.")
    feed: LiveFeed | RecordedFeed
    if "://" in source:
        pair = ClientKeys(keys, server) if keys and server else None
        feed = LiveFeed(source, control=control, keys=pair)
    else:
        feed = _recorded_feed(Path(source), movie)
    page = _serve(feed, port)
    make_console().print(f"{page.url} shows {source}; Ctrl-C ends it.")
    if browser:
        webbrowser.open(page.url)
    if until_input_ends:
        threading.Thread(target=_close_with_input, args=(page,), daemon=True).start()
    try:
        page.wait()
    except KeyboardInterrupt:
        page.close()


def _serve(feed: LiveFeed | RecordedFeed, port: int | None) -> ViewServer:
    from lodestar_live.view.web.server import ViewServer

    if port is not None:
        return ViewServer(feed, port=port)
    try:
        return ViewServer(feed, port=_USUAL_PORT)  # a page left open finds it again
    except StreamError:
        return ViewServer(feed)


def _close_with_input(page: ViewServer) -> None:
    """Close when the program that started this one is gone: its pipe breaks."""
    sys.stdin.read()
    page.close()


def _recorded_feed(run: Path, movie: Path | None) -> RecordedFeed:
    from lodestar_live.recording import Recording
    from lodestar_live.recording.movies import open_movie
    from lodestar_live.view.figures.run_files import snapshot_of
    from lodestar_live.view.web.recorded_feed import RecordedFeed

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
    control: Annotated[
        bool, typer.Option("--control", help="Draw target, stage and commands.")
    ] = False,
    diffusion: Annotated[
        bool, typer.Option("--diffusion", help="Histogram of D over tracks.")
    ] = False,
    polarizability: Annotated[
        bool, typer.Option("--polarizability", help="The same of polarizability.")
    ] = False,
    classes: Annotated[
        bool, typer.Option("--classes", help="One histogram per class (`classify`).")
    ] = False,
) -> None:
    """Draw trajectories, MSD, speed and latency; of holograms fields, z and more."""
    from lodestar_live.recording import Recording
    from lodestar_live.view import write_control, write_hologram_report, write_plots
    from lodestar_live.view.figures.populations import write_populations
    from lodestar_live.view.figures.run_files import field_of, snapshot_of

    folder = run if run.is_dir() else run.parent
    diffusion |= classes and not polarizability
    chosen = {"diffusion": diffusion, "polarizability": polarizability}
    kinds = [name for name, is_asked in chosen.items() if is_asked]
    name = "control" if control else "_".join(kinds) or "plots"
    out = out or folder / f"{name}.png"
    with Recording(run) as recording:
        if not len(recording.tracks()):
            raise InputError(f"{run}: holds no tracks; there is nothing to plot.")
        if kinds:
            path = write_populations(recording, out, kinds, by_class=classes)
        elif control:
            path = write_control(recording, out, snapshot=snapshot_of(folder))
        elif recording.info.settings.get("holography"):
            path = write_hologram_report(recording, out, kept=field_of(folder))
        else:
            path = write_plots(recording, out, snapshot=snapshot_of(folder))
    make_console().print(f"wrote {path}", soft_wrap=True)
