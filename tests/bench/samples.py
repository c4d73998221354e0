"""Samples that people have: cells, nuclei, plankton, molecules; one click or none.

The samples lie in ``shared/data/samples`` beside the checkout (or in the folder given
as `data`); they are not part of this package. Every model is trained on ONE frame, by
the automatic choice and by one click on a typical, isolated object, with every setting
at its default, and judged by the median and the worst of three training seeds. The
classical methods beside it are tuned on the truth; ours is not.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile
from scipy import ndimage
from scipy.spatial.distance import cdist

from lodestar_live.bench.report import BenchReport, Table
from lodestar_live.data import Pixels
from lodestar_live.detection import Detector
from lodestar_live.errors import LodestarError
from lodestar_live.training import train
from tests.bench.recordings import DATA, compare

FloatArray = npt.NDArray[np.float64]
N_SEEDS = 3
_OURS = ("image", "choice", "TPR", "worst", "FDR", "worst", "RMSE px", "train s")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its truth.

    Parameters
    ----------
    name
        Of the files ``NAME.tif`` and ``NAME_truth.csv``.
    gate_px
        Farther marks belong to no object.
    border_px
        Nothing counts that near to the edge.
    click
        Where a user clicks, (y, x) px; None: on the most isolated one of usual size.
    trained_on
        Name of the sample whose model is used; empty: its own.
    """

    name: str
    gate_px: float
    border_px: int = 0
    click: tuple[float, float] | None = None
    trained_on: str = ""


SAMPLES = (
    Sample("nuclei_synthetic", 12, click=(395.9, 134.2)),
    Sample("u2os_0", 12, 14),
    Sample("u2os_1", 12, 14, trained_on="u2os_0"),
    Sample("nuclei_field", 10),
    Sample("phase_cells_f000", 10, 25),
    Sample("phase_cells_f150", 10, 25, trained_on="phase_cells_f000"),
    Sample("dense_cells", 6, click=(302, 102)),
    Sample("plankton", 45, click=(522, 673)),
)
_MOLECULES = "single_molecules"  # no truth: a count beside the plateau of scores


def run(
    *,
    quick: bool = False,
    seed: int = 0,
    data: Path | None = None,
    only: tuple[str, ...] = (),
) -> BenchReport:
    """Run the benchmark; `quick` takes the synthetic nuclei, one click, one seed."""
    folder = DATA / "samples" if data is None else data
    if not folder.is_dir():
        note = f"{folder}: no samples there; nothing was measured."
        return BenchReport("samples", [], [note])
    seeds = [seed] if quick else list(range(seed, seed + N_SEEDS))
    table = Table(
        "One model each, default settings",
        [*_OURS, "LoG TPR", "LoG FDR", "trackpy TPR", "trackpy FDR"],
    )
    chosen = SAMPLES[:1] if quick else SAMPLES
    for own in (s for s in chosen if not s.trained_on):
        group = [s for s in chosen if own.name in (s.name, s.trained_on)]
        if only and not any(s.name in only for s in group):
            continue
        table.rows += _rows(folder, own, group, seeds, clicks_only=quick)
    tables = [table]
    if not quick and (not only or _MOLECULES in only):
        tables.append(_molecules(folder, seeds))
    notes = [
        f"Median and worst of {len(seeds)} training seed(s); RMSE is 2-D.",
        "u2os_1 and phase_cells_f150 are seen by the model of the frame above them.",
        "Phase cells: the truth lacks cells in dense parts; their FDR is a bound.",
        "LoG and trackpy: scale and threshold are those that err least on the truth.",
    ]
    return BenchReport("samples", tables, notes)


def _rows(
    folder: Path,
    own: Sample,
    group: list[Sample],
    seeds: list[int],
    *,
    clicks_only: bool,
) -> Iterator[list[object]]:
    image = tifffile.imread(folder / f"{own.name}.tif")
    click = own.click or typical(_truth(folder, own), image.shape)
    peers = {s.name: _peers(folder, s) for s in group}
    for choice, at in (("click", click), ("auto", None))[: 1 if clicks_only else 2]:
        measures: dict[str, list[list[float]]] = {s.name: [] for s in group}
        seconds: list[float] = []
        for seed in seeds:
            started = time.perf_counter()
            try:
                model = train(image, at=at, seed=seed)
            except LodestarError as error:  # a refusal is a finding, too
                yield [own.name, choice, str(error), *[""] * 9]
                continue
            seconds.append(time.perf_counter() - started)
            detector = Detector(model.to_bytes())
            for sample in group:
                frame = tifffile.imread(folder / f"{sample.name}.tif")
                found = np.asarray(detector(frame).positions_px, dtype=np.float64)
                measures[sample.name].append(score(folder, sample, found))
        for sample in group:
            values = np.array(measures[sample.name]).reshape(-1, 3)
            if not len(values):
                continue
            tpr, fdr, rmse = np.median(values, axis=0)
            worst = values[:, 0].min(), values[:, 1].max()
            yield [
                sample.name, choice, tpr, worst[0], fdr, worst[1], rmse,
                float(np.median(seconds)), *peers[sample.name],
            ]  # fmt: skip


def score(folder: Path, sample: Sample, found: FloatArray) -> list[float]:
    """Return TPR, FDR and RMSE (px) of positions found in a sample."""
    image = tifffile.imread(folder / f"{sample.name}.tif")
    truth = _truth(folder, sample)[:, :2]
    inside = [_inside(p, image.shape, sample.border_px) for p in (found, truth)]
    if not len(inside[0]):
        return [0.0, 0.0, 0.0]
    marks, objects = ({0: places} for places in inside)
    tpr, fdr, rmse, bias = compare(marks, objects, {}, gate_px=sample.gate_px)
    if not tpr:
        return [0.0, fdr, 0.0]
    return [tpr, fdr, float(np.hypot(rmse, bias))]


def typical(truth: FloatArray, shape: tuple[int, ...]) -> tuple[float, float]:
    """Return the most isolated object of usual size, (y, x) px, off the edges."""
    places = truth[:, :2]
    lonely = (cdist(places, places) + 1e9 * np.eye(len(places))).min(axis=1)
    lonely[((places < 40) | (places >= np.array(shape) - 40)).any(axis=1)] = -1
    if truth.shape[1] > 2:
        size = np.log(truth[:, 2] / np.median(truth[:, 2]))
        lonely[np.abs(size) > 0.15] = -1
    y, x = places[np.argmax(lonely)]
    return float(y), float(x)


def _truth(folder: Path, sample: Sample) -> FloatArray:
    path = folder / f"{sample.name}_truth.csv"
    return np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)


def _inside(points: FloatArray, shape: tuple[int, ...], border_px: int) -> FloatArray:
    points = np.asarray(points, dtype=float).reshape(-1, 2)
    is_in = (points >= border_px) & (points < np.array(shape) - border_px)
    return points[is_in.all(axis=1)]


def _peers(folder: Path, sample: Sample) -> list[float]:
    """Return TPR and FDR of LoG and of trackpy, each tuned on the truth."""
    image = tifffile.imread(folder / f"{sample.name}.tif").astype(float)
    tried = [list(_log(image)), list(_trackpy(image))]
    best = []
    for candidates in tried:
        scores = [score(folder, sample, points)[:2] for points in candidates]
        n_truth = len(_truth(folder, sample))
        right = [_jaccard(tpr, fdr, n_truth) for tpr, fdr in scores]
        best += scores[int(np.argmax(right))]
    return best


def _jaccard(tpr: float, fdr: float, n_truth: int) -> float:
    hits = tpr * n_truth
    return hits / (n_truth + hits * fdr / max(1 - fdr, 1e-9)) if hits else 0.0


def _log(image: FloatArray) -> Iterator[FloatArray]:
    """Yield maxima of the Laplacian of Gaussian at many scales and thresholds."""
    for sigma_px in np.geomspace(1.5, 40, 14):
        answer = -ndimage.gaussian_laplace(image, sigma_px)
        side = 2 * max(1, round(sigma_px)) + 1
        for signed in (answer, -answer):
            is_peak = signed == ndimage.maximum_filter(signed, side)
            yield from _above(np.argwhere(is_peak), signed[is_peak])


def _trackpy(image: FloatArray) -> Iterator[FloatArray]:
    import trackpy

    trackpy.quiet()
    for diameter_px in (5, 9, 13, 17, 23, 31, 45, 61, 91, 121):
        if diameter_px > min(image.shape) / 4:
            continue
        for is_dark in (False, True):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # its use of pandas
                table = trackpy.locate(image, diameter_px, invert=is_dark)
            places = np.asarray(table[["y", "x"]], dtype=float)
            yield from _above(places, np.asarray(table["mass"], dtype=float))


def _above(places: Pixels, strength: FloatArray) -> Iterator[FloatArray]:
    """Yield the strongest places, as many as twenty thresholds leave."""
    order = np.argsort(-strength)[:3000]
    for n in np.unique(np.geomspace(1, max(len(order), 1), 40).astype(int)):
        yield np.asarray(places[order[:n]], dtype=float)


def _molecules(folder: Path, seeds: list[int]) -> Table:
    columns = ["choice", "marks: median", "least", "most", "plateau"]
    table = Table(f"{_MOLECULES}: marks", columns)
    image = tifffile.imread(folder / f"{_MOLECULES}.tif")
    counts, plateaus = [], []
    for seed in seeds:
        data = train(image, seed=seed).to_bytes()
        counts.append(len(Detector(data)(image)))
        rows = Detector(data, threshold=-3.0, least_contrast=0)(image)
        plateaus.append(len(rows))
    table.rows.append([
        "auto", np.median(counts), min(counts), max(counts), np.median(plateaus)
    ])  # fmt: skip
    return table
