"""``lodestar-live demo``, ``run`` and ``replay``."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

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

if TYPE_CHECKING:
    from lodestar_live.live import LiveTracker, Summary
    from lodestar_live.settings import Settings

console = make_console()
View = Annotated[
    bool, typer.Option("--view", help="Open the live page; it may send commands.")
]
Browser = Annotated[
    bool, typer.Option("--browser/--no-browser", help="Open pages in the browser.")
]
Pick = Annotated[
    bool, typer.Option("--pick", help="Click the particle to learn on the first frame.")
]
_STEPS = ("wait", "prepare", "detect", "link", "publish", "latency")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("demo")(demo)
    app.command("run")(run)
    app.command("replay")(replay)


def demo(
    frames: Annotated[int, typer.Option(min=20, help="Frames to track.")] = 500,
    out: Annotated[Path, typer.Option(help="Folder for the run.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Of the scene and the training.")] = 0,
    scene: Annotated[
        str,
        typer.Option(
            help="swimmers: particles move; beads: the stage moves; holograms: "
            "spheres in 3-D, refocused."
        ),
    ] = "swimmers",
    port: Annotated[
        int, typer.Option(help="First of three ZeroMQ ports; 0: any free ones.")
    ] = 5556,
    view: View = False,
    pick: Pick = False,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Mini-batches of the training.")
    ] = None,
    browser: Browser = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """See the whole thing on the built-in demo microscope: train, track, follow."""
    from lodestar_live.demo import run_demo

    _end_on_sigterm()
    with ExitStack() as stack:
        result = run_demo(
            frames=frames,
            out=out,
            seed=seed,
            scene=scene,
            port=port,
            pick=pick,
            steps=steps,
            say=None if as_json else console.print,
            on_start=_page(stack, view=view, browser=browser, quiet=as_json),
        )
    if as_json:
        typer.echo(json.dumps(result.as_json()))
        return
    print_summary(result.summary)
    _print_rows("Against the truth", result.truth_rows())
    console.print(f"Report: {result.report_path}", soft_wrap=True)


def run(
    config: Annotated[Path, typer.Argument(help="Settings file; see config/.")],
    view: View = False,
    pick: Pick = False,
    browser: Browser = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    until_input_ends: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Track live on your microscope, as CONFIG.toml says. Ctrl-C ends the run well."""
    _end_on_sigterm()
    settings = _for_page(_ready(config), view=view, pick=pick)
    from lodestar_live.live.session import run_session
    from lodestar_live.microscope import open_microscope

    with ExitStack() as stack:
        show = _page(stack, view=view, browser=browser, quiet=as_json)
        with open_microscope(settings.microscope) as microscope:
            stop = _stop_with_input() if until_input_ends else None
            tracker = run_session(settings, microscope, on_start=show, stop=stop)
    _finish(tracker, as_json)


def _stop_with_input() -> threading.Event:
    """Return what is set when the program that started this one closes our input.

    Or is gone: its pipe breaks. A signal would do only where there are signals.
    """
    stop = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=wait, name="lodestar-input", daemon=True).start()
    return stop


def replay(
    movie: Annotated[
        Path, typer.Argument(help="TIFF, NDTiff or OME-Zarr folder, AVI, MP4, .npy ...")
    ],
    config: Annotated[
        Path | None, typer.Option(help="Settings file; all defaults without.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Model; without: train on the first frame.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the run.")] = None,
    channel: Channel = None,
    position: Position = None,
    z: Slice = None,
    frames: Frames = None,
    fps: Fps = None,
    pixel_size: PixelSize = None,
    axes: Axes = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Send a recorded movie through the live pipeline, every frame of it.

    Times, pixel size, stage and channels come from the recording; each position and
    channel is tracked by itself. What it does not say stays unknown.
    """
    settings = _ready(config)
    from lodestar_live.live.replay import replay_movie
    from lodestar_live.recording.movies import Choice

    tracker = replay_movie(
        movie,
        settings,
        model=model,
        out=out,
        choice=Choice(channel, position, z, frames, fps, pixel_size, axes),
        show=None if as_json else console,
    )
    _finish(tracker, as_json)


def _ready(config: Path | None) -> Settings:
    """Return settings whose files are there and whose ports are free."""
    from lodestar_live.cli._paths import read_settings
    from lodestar_live.streams.ports import with_free_ports

    settings = read_settings(config)
    streams, changed = with_free_ports(settings.streams)
    for text in changed:
        make_console(stderr=True).print(text, soft_wrap=True)
    return settings.model_copy(update={"streams": streams})


def print_summary(summary: Summary) -> None:
    """Print where the frames went and how long each step took."""
    counts = summary.counts
    rows = [(name, str(value)) for name, value in asdict(counts).items()]
    rows += [
        ("frames per second", f"{summary.fps:.1f}"),
        ("tracks", str(summary.n_tracks)),
    ]
    _print_rows("Frames", rows)
    table = Table("step", "p50 ms", "p99 ms", title="Latency")
    for name in _STEPS:
        if name in summary.latencies:
            latency = summary.latencies[name]
            table.add_row(name, f"{latency.p50_ms:.2f}", f"{latency.p99_ms:.2f}")
    console.print(table)
    if summary.first_error is not None:
        said = Text.assemble(("first error", "bold red"), f": {summary.first_error}")
        console.print(said)


def _print_rows(title: str, rows: list[tuple[str, Any]]) -> None:
    table = Table("", "", title=title, show_header=False)
    for name, value in rows:
        table.add_row(name, str(value))
    console.print(table)


def _for_page(settings: Settings, *, view: bool, pick: bool) -> Settings:
    """Let the page send commands, and let the user click the first particle."""
    streams, training = settings.streams, settings.training
    if view:
        control = streams.control or "tcp://127.0.0.1:0"
        streams = streams.model_copy(update={"enabled": True, "control": control})
    if pick:
        training = training.model_copy(update={"pick": True})
    return settings.model_copy(update={"streams": streams, "training": training})


def _page(
    stack: ExitStack, *, view: bool, browser: bool, quiet: bool
) -> Callable[[LiveTracker], None]:
    """Return what says, and with `view` shows, where a run that starts can be seen."""

    def on_start(tracker: LiveTracker) -> None:
        endpoints = tracker.endpoints
        if not quiet:
            console.print(f"Run folder: {tracker.run_folder}", soft_wrap=True)
            for name, address in endpoints.items():
                console.print(f"{name}: {address}")
        if view:
            from lodestar_live.view.web.beside import page_beside

            stack.enter_context(page_beside(endpoints, browser=browser, quiet=quiet))
        elif endpoints and not quiet:
            console.print(
                f"To watch it: lodestar-live view {endpoints['stream']} in another "
                "terminal, or start with --view."
            )

    return on_start


def _finish(tracker: LiveTracker, as_json: bool) -> None:
    summary = tracker.summary()
    if as_json:
        facts = {**asdict(summary), "run_folder": str(tracker.run_folder)}
        typer.echo(json.dumps(facts))
    else:
        print_summary(summary)
        console.print(f"Run folder: {tracker.run_folder}", soft_wrap=True)
    if not summary.counts.processed:
        raise typer.Exit(1)


def _end_on_sigterm() -> None:
    """Let a polite kill end the run as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
