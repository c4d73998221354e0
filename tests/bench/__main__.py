"""``python -m tests.bench NAME [--quick] [--seed N] [--save]``."""

from typing import Annotated

import typer

from tests import bench


def main(
    name: Annotated[str, typer.Argument(help="Which one; `all` for every one.")] = "",
    quick: Annotated[bool, typer.Option(help="A short smoke version.")] = False,
    seed: Annotated[int, typer.Option(help="Base seed of everything drawn.")] = 0,
    save: Annotated[bool, typer.Option(help="Replace the committed results.")] = False,
) -> None:
    """Run benches of the method beside its peers; without a name, list them."""
    if not name:
        typer.echo("\n".join(bench.names()))
        return
    for chosen in bench.names() if name == "all" else [name]:
        report = bench.run(chosen, quick=quick, seed=seed)
        report.print()
        if save:
            report.save(bench.RESULTS)


typer.run(main)
