"""Side by side with deeplay's LodeSTAR, which needs a virtual environment of its own.

``LODESTAR_DEEPLAY`` names the interpreter of one (``pip install deeplay==0.1.4``). Both
learn the same images and locate the same test images in one run; detection times are
taken in turns.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
from scipy.spatial.distance import cdist

from lodestar_live.bench._deeplay import Deeplay, open_deeplay, time_beside
from lodestar_live.bench._deeplay_child import BATCH
from lodestar_live.bench.report import BenchReport, Table
from lodestar_live.data import FloatArray
from lodestar_live.detection import Detector
from lodestar_live.detection.engines.open import candidates
from lodestar_live.errors import ModelError
from lodestar_live.training import train
from lodestar_live.training.network.network import NetworkName
from tests.simulation import shapes

logger = logging.getLogger(__name__)

SNRS = (2, 5, 10, 20)
_SIDE_PX, _PITCH_PX, _GATE_PX = 512, 48, 5.0


def run(*, quick: bool = False, seed: int = 0) -> BenchReport:
    """Train, locate and detect with both."""
    names = ("sphere",) if quick else shapes.SHAPES
    steps, n_images = (200, 16) if quick else (1000, 300)
    report = BenchReport("deeplay")
    errors = Table(
        f"Error / Cramér-Rao bound at SNR {' / '.join(map(str, SNRS))}, pooled",
        [
            "shape",
            "live network",
            "paper's network",
            "deeplay",
            "live / paper's, worst",
            "live / deeplay, worst",
            "training: live, s",
            "paper's, s",
            "deeplay, s",
        ],
    )
    with open_deeplay() as peer:
        for name in names:
            errors.rows.append(_shape_row(peer, name, steps, n_images, seed))
        detection = _detection_table(peer, steps, seed, 2 if quick else 10)
    report.tables = [errors, detection]
    report.notes = [
        f"deeplay: its default network, {steps} mini-batches of {BATCH} "
        "views, Adam 1e-3; one training image per shape (SNR 10), the same for both.",
        "The paper's network has deeplay's layers, and here as many mini-batches "
        "(the paper: 5000); nan: its training was refused, "
        "as unseen views of the particle disagreed; "
        "openvino computes in bfloat16 where the processor has it.",
        "Its `detect` returns the vote of one cell and has no local average; its "
        "detections are counted inside the frame only, as it leaves 6 px of border.",
    ]
    return report


def _shape_row(
    peer: Deeplay, name: str, steps: int, n_images: int, seed: int
) -> list[object]:
    image = shapes.sample(name, 1, snr=10, seed=seed + 1).images[0]
    live, live_s = _trained(image, seed)
    try:
        paper, paper_s = _trained(image, seed, network="paper", steps=steps)
    except ModelError as error:  # unseen views disagree after so few mini-batches
        logger.warning("%s, paper's network: %s", name, error)
        paper, paper_s = None, float("nan")
    theirs_s = peer.ask("train", image, steps=steps, seed=seed)["seconds"]
    ratios = np.array(
        [_ratios(peer, (live, paper), name, snr, n_images) for snr in SNRS]
    )
    worst = [float((ratios[:, 0] / other).max()) for other in ratios.T[1:]]
    return [name, *map(_joined, ratios.T), *worst, live_s, paper_s, theirs_s]


def _trained(
    image: FloatArray,
    seed: int,
    *,
    network: NetworkName = "live",
    steps: int | None = None,
) -> tuple[Detector, float]:
    """Return a detector and the seconds that its training took."""
    start = time.perf_counter()
    model = train(image, seed=seed, network=network, steps=steps)
    return Detector(model.to_bytes()), time.perf_counter() - start


def _ratios(
    peer: Deeplay, ours: Sequence[Detector | None], name: str, snr: int, n_images: int
) -> list[float]:
    """Return error / bound of ours, and of deeplay, on the same images; or NaN."""
    truth = shapes.sample(name, n_images, snr=snr, seed=800_000 + snr)
    bound_px = shapes.cramer_rao_bound_px(name, snr)
    nowhere = np.full((n_images, 2), np.nan)
    found = [one.locate(truth.images) if one else nowhere for one in ours]
    found.append(np.array(peer.ask("locate", truth.images)["positions_px"]))
    errors = (shapes.position_errors_px(name, one, truth) for one in found)
    return [float(shapes.rmse_px(error) / bound_px) for error in errors]


def _detection_table(peer: Deeplay, steps: int, seed: int, blocks: int) -> Table:
    """Find spheres of a whole frame with both, in turns."""
    crop = shapes.sample("sphere", 1, snr=10, seed=seed + 1).images[0]
    frame, places = _field(seed)
    ours = {
        "ours": train(crop, seed=seed),
        "ours, paper's network": train(crop, seed=seed, network="paper", steps=steps),
    }
    detectors = {
        name if engine == "cpu" else f"{name}, {engine}": Detector(
            model.to_bytes(), engine=engine
        )
        for name, model in ours.items()
        for engine in candidates()
    }
    calls = {name: partial(detector, frame) for name, detector in detectors.items()}
    peer.ask("train", crop, steps=steps, seed=seed)
    times, theirs_px = time_beside(peer, calls, frame, blocks=blocks)
    found = {name: call().positions_px for name, call in calls.items()}
    found[Deeplay.NAME] = theirs_px
    median_ms = {name: taken.p50_ms for name, taken in times.items()}
    rows: list[list[object]] = [
        [name, ms, median_ms[Deeplay.NAME] / ms, *_score(found[name], places)]
        for name, ms in median_ms.items()
    ]
    return Table(
        f"{len(places)} spheres in {_SIDE_PX}x{_SIDE_PX} px, SNR 10, camera pixels to "
        "positions",
        ["detector", "p50 ms", "times deeplay", "found", "false", "rmse px per axis"],
        rows,
    )


def _field(seed: int) -> tuple[FloatArray, FloatArray]:
    """One frame of spheres on a grid, each at its own sub-pixel place, in tiles."""
    n = _SIDE_PX // _PITCH_PX
    sample = shapes.sample("sphere", n * n, snr=10, seed=seed + 700)
    middle = (sample.images.shape[1] - 1) / 2
    frame = np.empty((n * _PITCH_PX, n * _PITCH_PX))
    places = np.empty((n * n, 2))
    for index, (image, centre) in enumerate(
        zip(sample.images, sample.centres_px, strict=True)
    ):
        # cut around the particle, so that it lies well inside its tile
        top, left = np.round(centre - (_PITCH_PX - 1) / 2).astype(int)
        top, left = (
            int(np.clip(c, 0, 2 * middle + 1 - _PITCH_PX)) for c in (top, left)
        )
        row, column = (_PITCH_PX * k for k in divmod(index, n))
        frame[row : row + _PITCH_PX, column : column + _PITCH_PX] = image[
            top : top + _PITCH_PX, left : left + _PITCH_PX
        ]
        places[index] = centre - (top, left) + (row, column)
    pad = _SIDE_PX - len(frame)
    return np.pad(frame, ((0, pad), (0, pad)), mode="reflect"), places


def _score(found: FloatArray, places: FloatArray) -> list[object]:
    """Return particles found, false detections inside the grid, and the error."""
    last = places.max() + _PITCH_PX / 2
    found = found[(found < last).all(axis=1)]
    if not len(found):
        return [0, 0, float("nan")]
    distance = cdist(places, found)
    best = distance.min(axis=1)
    hit = best < _GATE_PX
    n_false = int((distance.min(axis=0) >= _GATE_PX).sum())
    rmse = float(np.sqrt((best[hit] ** 2).mean() / 2)) if hit.any() else float("nan")
    return [int(hit.sum()), n_false, rmse]


def _joined(values: Iterable[float]) -> str:
    return " / ".join(f"{v:.2f}" for v in values)
