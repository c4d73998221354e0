"""The accuracy bench for `train(..., quality="best")`."""

from __future__ import annotations

from lodestar_live.bench.report import BenchReport
from tests.bench.accuracy import FULL, QUICK, measure


def run(*, quick: bool = False, seed: int = 0) -> BenchReport:
    """Train every shape with the best recipe and measure; see `bench.accuracy`.

    From scratch only: who trains for a minute has no use for a quick start.
    """
    size = QUICK if quick else FULL
    return measure(
        "accuracy_best", quality="best", size=size, seed=seed, starts=("scratch",)
    )
