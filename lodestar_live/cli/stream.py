"""``lodestar-live listen`` and ``keys``."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lodestar_live.cli._console import make_console

if TYPE_CHECKING:
    from rich.table import Table

    from lodestar_live.streams import Message, Subscriber

_SHOWN_TRACKS = 20
_TOPICS = "run,tracks,status,event,end"


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("listen")(listen)
    keys = typer.Typer(help="Keys for streams that other machines may read.")
    keys.command("new")(new_keys)
    keys.callback()(lambda: None)  # keeps `new` a subcommand though it is alone
    app.add_typer(keys, name="keys")


def listen(
    endpoint: Annotated[
        str, typer.Argument(help="Address of the stream.")
    ] = "tcp://127.0.0.1:5556",
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per message, for pipes.")
    ] = False,
    topics: Annotated[str, typer.Option(help="Comma-separated.")] = _TOPICS,
    seconds: Annotated[
        float | None, typer.Option(help="Stop after so long. Default: at `end`.")
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(help="This machine's NAME.key_secret.")
    ] = None,
    server: Annotated[Path | None, typer.Option(help="The tracker's NAME.key.")] = None,
) -> None:
    """Print the tracks of a running tracker, live; Ctrl-C stops."""
    from lodestar_live.errors import StreamError
    from lodestar_live.streams import ClientKeys, Subscriber

    if (keys is None) != (server is None):
        raise StreamError("listen: --keys and --server belong together.")
    pair = ClientKeys(keys, server) if keys and server else None
    wanted = [topic.strip() for topic in topics.split(",")]
    with (
        contextlib.suppress(KeyboardInterrupt, BrokenPipeError),
        Subscriber(endpoint, wanted, keys=pair) as subscriber,
    ):
        (_print_json if as_json else _print_table)(subscriber, seconds)


def new_keys(
    name: Annotated[str, typer.Argument(help="Who will use them, e.g. lab-pc.")],
    folder: Annotated[
        Path | None, typer.Option(help="Default: the user's settings folder.")
    ] = None,
) -> None:
    """Make a pair of key files; the secret one is readable by you only."""
    from lodestar_live.streams.keys import create_keys

    chosen = folder or Path(typer.get_app_dir("lodestar-live")) / "keys"
    public, secret = create_keys(name, chosen)
    typer.echo(f"{public}: hand this to the other side")
    typer.echo(f"{secret}: never leaves this machine")


def _print_json(subscriber: Subscriber, seconds: float | None) -> None:
    for message in subscriber.read(seconds):
        sys.stdout.write(json.dumps(_as_json(message), allow_nan=False) + "\n")
        sys.stdout.flush()


def _as_json(message: Message) -> dict[str, Any]:
    """Return a message with its matrix as one list per column; NaN becomes null."""
    from lodestar_live.streams.messages import finite

    content: dict[str, Any] = {**message.header, "missed": message.missed}
    content["age_s"] = round(message.age_s, 6)
    payload = message.tracks if message.tracks is not None else message.detections
    if payload is not None:
        names = payload.rows.dtype.names or ()
        content["columns"] = {n: finite(payload.rows[n].tolist()) for n in names}
    if message.stage_um is not None:
        content["columns"] = finite(message.stage_um._asdict())
    return content


def _print_table(subscriber: Subscriber, seconds: float | None) -> None:
    from rich.live import Live

    view = _Table()
    console = make_console()
    with Live(
        view.render(), refresh_per_second=8, get_renderable=view.render, console=console
    ):
        for message in subscriber.read(seconds):
            view.take(message)


class _Table:
    """The newest tracks and state, as a table that redraws itself."""

    def __init__(self) -> None:
        self._tracks: Message | None = None
        self._status: dict[str, Any] = {}
        self._news, self._missed = "waiting for a run", 0

    def take(self, message: Message) -> None:
        self._missed += message.missed
        if message.topic == "tracks":
            self._tracks = message
        elif message.topic == "status":
            self._status = dict(message.header)
        elif message.event is not None:
            self._news = f"{message.event.kind} (frame {message.event.frame})"
        else:
            self._news = f"{message.topic} {message.header.get('run')}"

    def render(self) -> Table:
        from rich.table import Table

        table = Table(title=self._title(), caption=self._news)
        for name in ("id", "y px", "x px", "z µm", "σ px", "vy", "vx", "age", "missed"):
            table.add_column(name, justify="right")
        if self._tracks is None or self._tracks.tracks is None:
            return table
        rows = self._tracks.tracks.rows
        for row in rows[:_SHOWN_TRACKS]:
            table.add_row(
                f"{row['track_id']}", f"{row['y_px']:.2f}", f"{row['x_px']:.2f}",
                f"{row['z_um']:.2f}", f"{row['sigma_px']:.3f}",
                f"{row['vy_px_per_frame']:+.2f}", f"{row['vx_px_per_frame']:+.2f}",
                f"{row['age_frames']}", f"{row['missed_frames']}",
            )  # fmt: skip
        return table

    def _title(self) -> str:
        frame = self._tracks.frame if self._tracks else "-"
        n = len(self._tracks.tracks) if self._tracks and self._tracks.tracks else 0
        latency = self._status.get("latency_ms", {}).get("latency", {})
        return (
            f"frame {frame} · {n} tracks · {self._status.get('fps', 0.0):.1f} fps · "
            f"latency {latency.get('p50', float('nan')):.1f} ms · "
            f"dropped {self._status.get('dropped', 0)} · missed {self._missed}"
        )
