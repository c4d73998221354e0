"""How long training takes, how much memory, and what accuracy it buys.

Every recipe runs in a process of its own on the same image (the sphere at SNR 10).
The paper's recipe takes many minutes: it is timed on a few hundred steps and its full
time follows from the step count; the table says so.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lodestar_live.bench.report import BenchReport, Table
from tests.simulation import shapes

if TYPE_CHECKING:
    from lodestar_live.training import NetworkName, Quality, Start

SHAPE = "sphere"


@dataclass(frozen=True, slots=True)
class _Case:
    name: str
    network: NetworkName
    quality: Quality
    start: Start
    steps: int | None  # None: the recipe's own
    full_steps: int | None = None  # what the time is scaled to


_CASES = (
    _Case("live, fast (default)", "live", "fast", "scratch", None),
    _Case("live, fast, warm start", "live", "fast", "warm", None),
    _Case("live, best", "live", "best", "scratch", None),
    _Case("paper (timed on 200 steps)", "paper", "fast", "scratch", 200, 5000),
)
_QUICK = (
    _Case("live, 20 steps", "live", "fast", "warm", 20),
    _Case("paper (timed on 2 steps)", "paper", "fast", "scratch", 2, 5000),
)


def run(*, quick: bool = False, seed: int = 0) -> BenchReport:
    """Train with every recipe, one after the other, each in its own process."""
    table = Table(
        f"Training on one {SHAPE} of 64 x 64 px",
        ["recipe", "steps", "seconds", "ms / step", "peak memory MB",
         "error / bound at SNR 2 / 5 / 10 / 20"],
    )  # fmt: skip
    for case in _QUICK if quick else _CASES:
        table.rows.append(_measure(case, seed, 40 if quick else 500))
    report = BenchReport("training", [table])
    report.notes.append(
        "Seconds are wall-clock, the first import of torch not counted. Where a recipe "
        "is timed on fewer steps, seconds are scaled to its full length and the error "
        "is left out."
    )
    return report


def _measure(case: _Case, seed: int, n_images: int) -> list[object]:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        steps, seconds, memory_mb, ratios = pool.apply(
            _train_once, (case, seed, n_images)
        )
    per_step = seconds / steps
    total = case.full_steps or steps
    error = "-" if case.full_steps else " / ".join(f"{r:.2f}" for r in ratios)
    return [case.name, total, per_step * total, 1e3 * per_step, memory_mb, error]


def _train_once(
    case: _Case, seed: int, n_images: int
) -> tuple[int, float, float, list[float]]:
    """Train in this process; return steps, seconds, peak memory and error ratios."""
    from lodestar_live.detection import Detector
    from lodestar_live.errors import ModelError
    from lodestar_live.training import train

    image = shapes.sample(SHAPE, 1, snr=10, seed=seed + 1).images[0]
    steps = [0]
    started = time.perf_counter()
    try:
        model = train(
            image,
            seed=seed,
            network=case.network,
            quality=case.quality,
            start=case.start,
            steps=case.steps,
            progress=lambda step: steps.append(step.steps),
        )
    except ModelError:  # too few steps to learn: only the time was wanted
        model = None
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory_mb = peak / (2**20 if sys.platform == "darwin" else 2**10)
    n_attempts = 3 if model is None else model.card.training.attempts
    ratios = []
    if model is not None and not case.full_steps:
        detector = Detector(model.to_bytes())
        for snr in (2, 5, 10, 20):
            truth = shapes.sample(SHAPE, n_images, snr=snr, seed=700_000 + snr)
            found = detector.locate(truth.images)
            error = shapes.rmse_px(shapes.position_errors_px(SHAPE, found, truth))
            ratios.append(error / shapes.cramer_rao_bound_px(SHAPE, snr))
    return steps[-1] * n_attempts, seconds, memory_mb, ratios
