"""The command line: one module per group of commands, gathered here.

Each module of this package defines ``register(app: typer.Typer) -> None``.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from importlib import import_module
from pkgutil import iter_modules

import typer
from rich.text import Text

from lodestar_live.cli._console import accept_any_encoding, make_console
from lodestar_live.errors import LodestarError

_END_WITHIN_S = 10.0  # of the command's own end

app = typer.Typer(
    name="lodestar-live",
    help="Click one particle in one frame and follow every such particle live.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _options(
    verbose: bool = typer.Option(False, "--verbose", help="Log what happens inside."),
) -> None:
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )


for _module in sorted(m.name for m in iter_modules(__path__)):
    if _module.startswith("_"):
        continue
    import_module(f"{__name__}.{_module}").register(app)


def main() -> None:
    """Run the command line; errors the user can mend end with exit code 1."""
    accept_any_encoding()
    code: str | int | None = 0
    try:
        app()
    except LodestarError as error:
        said = Text.assemble(("error", "bold red"), f": {error}")
        make_console(stderr=True).print(said, soft_wrap=True)
        code = 1
    except SystemExit as end:
        code = end.code
    sys.exit(code)


def script() -> None:
    """Run the command line as a process of its own, which ends with it."""
    try:
        main()
    except SystemExit as end:
        _end_anyway(end.code)
        raise


def _end_anyway(code: str | int | None) -> None:
    """See to it that the process ends, also behind a thread that a driver holds.

    Python waits for such threads for ever; what they could still do was said and saved.
    """
    status = code if isinstance(code, int) else int(code is not None)
    last = threading.Timer(_END_WITHIN_S, lambda: os._exit(status))
    last.daemon = True
    last.start()
