"""Benches of the method against its peers: ``python -m tests.bench NAME``.

Each name is a module of this package with
``run(*, quick: bool = False, seed: int = 0) -> BenchReport``. What a user runs on his
own machine is in `lodestar_live.bench`.
"""

from importlib import import_module
from pathlib import Path

from lodestar_live.bench.report import BenchReport
from lodestar_live.errors import InputError

RESULTS = Path(__file__).parent / "results"


def names() -> list[str]:
    """Return the names of all benches of the method."""
    found = (path.stem for path in Path(__file__).parent.glob("*.py"))
    return sorted(n for n in found if not n.startswith(("_", "test_")))


def run(name: str, *, quick: bool = False, seed: int = 0) -> BenchReport:
    """Run one bench.

    Raises
    ------
    InputError
        There is no bench of that name.
    """
    if name not in names():
        raise InputError(f"bench {name!r}: unknown; expected one of {names()}.")
    report = import_module(f"{__name__}.{name}").run(quick=quick, seed=seed)
    assert isinstance(report, BenchReport)
    return report
