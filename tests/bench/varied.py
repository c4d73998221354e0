"""Particles that do not look alike: one training crop against several.

Ellipses of varying aspect, rings of varying radius, or ellipses that differ in
brightness only, among points and crescents that are not wanted. The models learn from
the particle of middle form, from the one of lowest (round; smallest; faintest), or from
four spread over the range, and are judged on frames they have never seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lodestar_live.bench.report import BenchReport, Table
from lodestar_live.data import Detections, FloatArray, Pixels, Rows
from lodestar_live.detection import Detector
from lodestar_live.training import train
from tests.simulation.fields import match
from tests.simulation.population import (
    Population,
    VariedField,
    simulate_population,
)

GATE_PX = 8.0
EDGE_PX = 14.0  # particles nearer to the frame's edge do not count
SCENES = {
    "ellipses of aspect 1 to 2.2": Population("ellipse"),
    "rings of 6 to 12 px radius": Population("annulus"),
    "ellipses of aspect 1.5": Population("ellipse", (1.5, 1.5)),
}
#: Ranks of what is clicked, by form, then brightness, as shares of all.
CLICKS = {
    "1, middle": (0.5,),
    "1, lowest": (0.0,),
    "4": (0.125, 0.375, 0.625, 0.875),
}


@dataclass(frozen=True, slots=True)
class Score:
    """Recall, false discovery rate and per-axis error over some frames.

    `rmse_px`, and `error_per_sigma`: rms of the error over the predicted one.
    """

    recall: float
    false_discovery: float
    rmse_px: float
    error_per_sigma: float

    @classmethod
    def of(cls, found: list[Rows], frames: list[VariedField]) -> Score:
        """Compare detections with the truth."""
        pairs = [_compare(f, frame) for f, frame in zip(found, frames, strict=True)]
        error, sigma, counts = (
            np.concatenate(parts) for parts in zip(*pairs, strict=True)
        )
        n_found = sum(len(rows) for rows in found)
        n_truth = sum(_counts(frame).sum() for frame in frames)
        error, per_sigma = error[counts], (error / sigma[:, None])[counts]
        return cls(
            recall=len(error) / n_truth,
            false_discovery=1 - len(counts) / max(n_found, 1),
            rmse_px=float(np.sqrt(np.mean(error**2))),
            error_per_sigma=float(np.sqrt(np.mean(per_sigma**2))),
        )


def run(*, quick: bool = False, seed: int = 0) -> BenchReport:
    """Run the benchmark; `quick` trains briefly, on one kind of particles."""
    names = list(SCENES)[: 1 if quick else None]
    tables = [_table(name, quick=quick, seed=seed) for name in names]
    notes = [
        "Brightness varies threefold, SNR 8 in the middle. Means of the seeds.",
        "Filtered: what looks like one of the particles clicked "
        "(`only_like_training`). "
        "False are mostly the strangers, a fifth of all objects.",
        "RMSE and error / sigma: of all particles found, whatever their flag.",
    ]
    return BenchReport("varied", tables, notes)


def _table(name: str, *, quick: bool, seed: int) -> Table:
    n_seeds, steps, n_frames = (1, 150, 1) if quick else (3, None, 6)
    columns = ["crops", "recall", "false", "recall, filtered", "false, filtered"]
    columns += ["RMSE, px", "error / sigma", "least match", "training, s"]
    table = Table(name, columns)
    for clicked, ranks in CLICKS.items():
        rows = [
            _measure(SCENES[name], ranks, seed=seed + k, steps=steps, n_frames=n_frames)
            for k in range(n_seeds)
        ]
        table.rows.append([clicked, *np.mean(rows, axis=0).tolist()])
    return table


def _measure(
    population: Population,
    ranks: tuple[float, ...],
    *,
    seed: int,
    steps: int | None,
    n_frames: int,
) -> list[float]:
    """Train on the particles of some ranks; return a row of the table, unnamed."""
    snapshot = simulate_population(population, seed=1000 + seed)
    model = train(snapshot.pixels, clicks(snapshot, ranks), seed=seed, steps=steps)
    data = model.to_bytes()
    scene = replace(population, n_strangers=15)
    frames = [
        simulate_population(scene, seed=5000 + 31 * seed + k) for k in range(n_frames)
    ]
    every, alike = (
        judge(Detector(data, only_like_training=is_on, n_threads=1), frames)
        for is_on in (False, True)
    )
    return [
        every.recall, every.false_discovery, alike.recall, alike.false_discovery,
        every.rmse_px, every.error_per_sigma,
        model.card.like.match[-1], model.card.training.seconds,
    ]  # fmt: skip


def clicks(
    snapshot: VariedField, ranks: tuple[float, ...]
) -> list[tuple[float, float]]:
    """Return the places of the particles of these ranks, well off the edges."""
    inside = np.flatnonzero(_counts(snapshot, 2 * EDGE_PX))
    order = inside[np.lexsort((snapshot.peaks[inside], snapshot.forms[inside]))]
    chosen = [order[round(rank * (len(order) - 1))] for rank in ranks]
    return [(float(y), float(x)) for y, x in snapshot.positions_px[chosen]]


def judge(detect: Callable[[Pixels], Detections], frames: list[VariedField]) -> Score:
    """Score what is found in some frames."""
    return Score.of([detect(frame.pixels).rows for frame in frames], frames)


def _compare(
    rows: Rows, frame: VariedField
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
    """Return errors (n, 2), predicted errors (n,) and whether the particle counts."""
    places = np.column_stack([rows["y_px"], rows["x_px"]]).astype(np.float64)
    i, j = match(places, frame.positions_px, gate_px=GATE_PX)
    error = places[i] - frame.positions_px[j]
    return error, rows["sigma_px"][i], _counts(frame)[j]


def _counts(frame: VariedField, margin_px: float = EDGE_PX) -> npt.NDArray[np.bool_]:
    """Say which particles lie off the frame's edges."""
    last = np.subtract(frame.pixels.shape, 1)
    places = frame.positions_px
    off: npt.NDArray[np.bool_] = np.minimum(places, last - places).min(1) >= margin_px
    return off
