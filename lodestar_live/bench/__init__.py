"""Benchmarks with their baselines: ``lodestar-live bench NAME``.

Each name is a module of this package with
``run(*, quick: bool = False, seed: int = 0) -> BenchReport``.
"""

from importlib import import_module
from pkgutil import iter_modules

from lodestar_live.bench.report import BenchReport
from lodestar_live.errors import InputError

_HELPERS = {"report"}


def names() -> list[str]:
    """Return the names of all benchmarks."""
    found = (module.name for module in iter_modules(__path__))
    return sorted(n for n in found if n not in _HELPERS and not n.startswith("_"))


def run(name: str, *, quick: bool = False, seed: int = 0) -> BenchReport:
    """Run one benchmark.

    Raises
    ------
    InputError
        There is no benchmark of that name.
    """
    if name not in names():
        raise InputError(f"bench {name!r}: unknown; expected one of {names()}.")
    report = import_module(f"{__name__}.{name}").run(quick=quick, seed=seed)
    assert isinstance(report, BenchReport)  # noqa: S101 - narrows the type
    return report
