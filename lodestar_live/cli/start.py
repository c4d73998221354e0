"""``lodestar-live start``: the whole job from one page."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from lodestar_live.cli._console import make_console
from lodestar_live.errors import InputError, LodestarError

_USUAL_PORT = 8766
_ENDS = ("SIGINT", "SIGTERM", "SIGHUP")  # those that this system has


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("start")(start)


def start(
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder of models, settings and runs.")
    ] = Path("runs"),
    port: Annotated[
        int | None, typer.Option(help="Of the page. Left out: 8766, or a free one.")
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page by itself.")
    ] = True,
) -> None:
    """Do the whole job on one page: microscope, click, train, run, export.

    The address printed holds this session's key: whoever has it can steer.
    """
    from lodestar_live.start import StartFeed
    from lodestar_live.start.feed import new_token
    from lodestar_live.view.web.server import ViewServer

    console = make_console()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--out {out}: cannot be made ({error.strerror}); expected a folder that "
            "you may write to."
        ) from error
    feed, token = StartFeed(out.resolve()), new_token()
    try:
        server = ViewServer(
            feed, port=_USUAL_PORT if port is None else port, token=token
        )
    except LodestarError:
        if port is not None:
            feed.close()
            raise
        server = ViewServer(feed, token=token)
        console.print(f"port {_USUAL_PORT} is in use; a free one is taken.")
    console.print(f"{server.url} is the page; Ctrl-C ends it.", soft_wrap=True)
    for name in _ENDS:  # also where whoever started this let them be ignored
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        if browser:
            webbrowser.open(stack.enter_context(_private_way_to(server.url)))
        try:
            server.wait()
        except KeyboardInterrupt:
            server.close()


@contextlib.contextmanager
def _private_way_to(url: str) -> Iterator[str]:
    """Give the address of a file, the user's alone, that leads to `url`.

    Every user of this machine sees what a browser is started with, and the key with it.
    """
    handle, name = tempfile.mkstemp(suffix=".html")
    with open(handle, "w", encoding="utf-8") as file:
        file.write(f'<meta http-equiv="refresh" content="0; url={url}">')
    try:
        yield Path(name).as_uri()
    finally:
        Path(name).unlink(missing_ok=True)
