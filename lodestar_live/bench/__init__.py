"""Benchmarks with their baselines: ``lodestar-live bench NAME``.

Each name is a module of this package with
``run(*, quick: bool = False, seed: int = 0) -> BenchReport``. Those on the live loop
take ``model`` as well: one of the DemoCamera's beads, in place of a training.
"""

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from lodestar_live.bench.report import BenchReport
from lodestar_live.errors import InputError

_HELPERS = {"report"}
WITH_MODEL = frozenset({"hook", "khz", "live", "soak"})


def names() -> list[str]:
    """Return the names of all benchmarks."""
    found = (module.name for module in iter_modules(__path__))
    return sorted(n for n in found if n not in _HELPERS and not n.startswith("_"))


def run(
    name: str, *, quick: bool = False, seed: int = 0, model: Path | None = None
) -> BenchReport:
    """Run one benchmark; only `WITH_MODEL` take a `model`.

    Raises
    ------
    InputError
        There is no benchmark of that name, or it takes no model.
    """
    if name not in names():
        raise InputError(f"bench {name!r}: unknown; expected one of {names()}.")
    if model is not None and name not in WITH_MODEL:
        raise InputError(f"bench {name}: takes no model; {sorted(WITH_MODEL)} do.")
    options = {} if model is None else {"model": model}
    report = import_module(f"{__name__}.{name}").run(quick=quick, seed=seed, **options)
    assert isinstance(report, BenchReport)  # noqa: S101 - narrows the type
    return report
