"""Options that say which images of a recording are meant; shared by commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lodestar_live.errors import InputError

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
Mask = Annotated[
    Path | None,
    typer.Option("--mask", help="Image: not 0 where particles are wanted."),
]
Region = Annotated[
    str | None,
    typer.Option("--region", help="Y0,X0,Y1,X1 px: the part of the frame that counts."),
]
SubtractMoved = Annotated[
    float | None,
    typer.Option(
        "--subtract-moved",
        metavar="UM",
        help="Take out what does not move with the stage, by the median of frames at "
        "least so far apart (see [modulation]).",
    ),
]
Axes = Annotated[
    str | None,
    typer.Option("--axes", help="Order of an array's axes, out of tczyx, e.g. yxt."),
]


def parse_region(text: str | None) -> tuple[int, int, int, int] | None:
    """Return ``Y0,X0,Y1,X1`` as numbers.

    Raises
    ------
    InputError
        It is something else.
    """
    if text is None:
        return None
    try:
        top, left, bottom, right = (int(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"--region {text}: expected Y0,X0,Y1,X1 in pixels, first row and column "
            "and those after the last, for example 0,0,512,256."
        ) from None
    return top, left, bottom, right
