"""Options that say which images of a recording are meant; shared by commands."""

from __future__ import annotations

from typing import Annotated

import typer

Channel = Annotated[
    str | None, typer.Option("--channel", help="Name or number. Default: all.")
]
Position = Annotated[
    str | None, typer.Option("--position", help="Name or number. Default: all.")
]
Slice = Annotated[int | None, typer.Option("--z", help="Slice, from 0.")]
Frames = Annotated[
    str | None, typer.Option("--frames", help="Time points first:last, e.g. 100:200.")
]
Fps = Annotated[
    float | None,
    typer.Option("--fps", help="Frames per second; replaces the recording's times."),
]
PixelSize = Annotated[
    float | None,
    typer.Option("--pixel-size", help="µm per pixel; replaces the recording's own."),
]
Axes = Annotated[
    str | None,
    typer.Option("--axes", help="Order of an array's axes, out of tczyx, e.g. yxt."),
]
