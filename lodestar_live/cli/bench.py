"""``lodestar-live bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lodestar_live import bench


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("bench")(run_bench)


def run_bench(
    name: Annotated[str, typer.Argument(help="Which one; `all` for every one.")] = "",
    quick: Annotated[bool, typer.Option(help="A short smoke version.")] = False,
    seed: Annotated[int, typer.Option(help="Base seed of everything drawn.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for NAME.json and NAME.md.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="For live, hook, soak: of the DemoCamera's beads; or khz."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run benchmarks with their baselines; without a name, list them."""
    if not name:
        typer.echo("\n".join(bench.names()))
        return
    for chosen in bench.names() if name == "all" else [name]:
        report = bench.run(chosen, quick=quick, seed=seed, model=model)
        if as_json:
            typer.echo(json.dumps(report.as_json(), default=float))
        else:
            report.print()
        if out is not None:
            report.save(out)
