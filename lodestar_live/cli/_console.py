"""What the command line prints through: text appears as it is, in any encoding."""

from __future__ import annotations

import sys
from io import TextIOWrapper

from rich.console import Console


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that prints square brackets and colons as they are.

    Paths, package extras and messages hold them; rich would read ``[parquet]`` as a
    style and ``[/beads]`` as the end of one. Styled parts are `rich.text.Text`.
    """
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def accept_any_encoding() -> None:
    """Let output into a file or pipe replace what its encoding cannot express.

    On Windows ``lodestar-live listen > tracks.txt`` writes cp1252, which has no sigma.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
