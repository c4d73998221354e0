"""How exact: the paper's Fig. 1 and Table 1, beside the bound and other methods.

Every model is trained on ONE noisy image of its shape at SNR 10; positions are the
pooled estimate of `Detector.locate` on the exported model. Errors are per axis, as
multiples of the Cramér-Rao bound; see `simulation.shapes` for images and bound. Every
figure is given for training from scratch and from the warm start.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from lodestar_live.bench.report import BenchReport, Table
from lodestar_live.detection import Detector
from lodestar_live.training import Quality, Start, train
from tests.bench import _localisers as others
from tests.simulation import shapes

SNRS = (2, 5, 10, 20)
TRAINING_SNR = 10
TEST_SEED = 900_000
STARTS: tuple[Start, ...] = ("scratch", "warm")
# Multiples of the bound that the default training has to reach, and the best one.
BARS = {
    "fast": {
        "point": (1.2, 1.2, 1.25, 1.5),
        "sphere": (1.2, 1.2, 1.25, 1.5),
        "annulus": (1.2, 1.2, 1.25, 1.5),
        "ellipse": (1.35, 1.35, 1.5, 2.0),
        "crescent": (1.7, 1.7, 1.9, 2.4),
    },
    "best": {
        "point": (1.10, 1.07, 1.12, 1.18),
        "sphere": (1.05, 1.10, 1.12, 1.25),
        "annulus": (1.15, 1.12, 1.18, 1.3),
        "ellipse": (1.2, 1.2, 1.3, 1.45),
        "crescent": (1.5, 1.5, 1.6, 2.0),
    },
}


@dataclass(frozen=True, slots=True)
class Size:
    """How much is run."""

    shapes: tuple[str, ...]
    seeds: int
    images: int
    images_slow: int  # for the baselines that take milliseconds per image
    steps: int | None


FULL = Size(shapes.SHAPES, seeds=3, images=1000, images_slow=100, steps=None)
QUICK = Size(("sphere",), seeds=1, images=40, images_slow=10, steps=40)


@dataclass(frozen=True, slots=True)
class Trained:
    """The models of one shape and one start, by training seed, and what they took."""

    shape: str
    start: Start
    detectors: list[Detector]
    seconds: list[float]


def run(*, quick: bool = False, seed: int = 0) -> BenchReport:
    """Train every shape with the default recipe and measure."""
    return measure("accuracy", quality="fast", size=QUICK if quick else FULL, seed=seed)


def measure(
    name: str,
    *,
    quality: Quality,
    size: Size,
    seed: int,
    starts: tuple[Start, ...] = STARTS,
) -> BenchReport:
    """Run the bench for one quality of training."""
    with TemporaryDirectory() as folder:
        models = [
            _train(Path(folder), shape, start, quality, size, seed)
            for shape in size.shapes
            for start in starts
        ]
    bounds = {
        shape: [shapes.cramer_rao_bound_px(shape, snr) for snr in SNRS]
        for shape in size.shapes
    }
    ours = [_errors_px(model, size) for model in models]
    rivals = _rivals(size)
    report = BenchReport(name)
    report.tables = [
        _ratio_table(ours, bounds, quality),
        _pixel_table(ours, rivals, bounds),
        *(
            _consistency_table([m for m in models if m.start == start], start, size)
            for start in starts
        ),
        Table(
            "Training",
            ["shape", "start", "median s", "worst s"],
            [
                [m.shape, m.start, float(np.median(m.seconds)), max(m.seconds)]
                for m in models
            ],
        ),
    ]
    report.notes = _notes(ours, rivals, bounds, quality)
    return report


def _train(
    folder: Path, shape: str, start: Start, quality: Quality, size: Size, seed: int
) -> Trained:
    trained = Trained(shape, start, [], [])
    for i in range(size.seeds):
        sample = shapes.sample(shape, 1, snr=TRAINING_SNR, seed=seed + 1 + i)
        begun = time.perf_counter()
        model = train(
            sample.images[0],
            seed=seed + i,
            quality=quality,
            start=start,
            steps=size.steps,
        )
        trained.seconds.append(time.perf_counter() - begun)
        path = model.export(folder / f"{shape}-{start}-{i}.onnx")
        trained.detectors.append(Detector(path))
    return trained


def _test_images(shape: str, snr: int, n: int) -> shapes.Sample:
    return shapes.sample(shape, n, snr=snr, seed=TEST_SEED + snr)


@dataclass(frozen=True, slots=True)
class _Errors:
    """Per-axis errors of one shape and one start.

    `rmse_px` (training seed, snr), `n_outliers` (snr).
    """

    shape: str
    start: Start
    rmse_px: shapes.FloatArray
    n_outliers: list[int]


def _errors_px(model: Trained, size: Size) -> _Errors:
    shape = model.shape
    rmse = np.empty((len(model.detectors), len(SNRS)))
    outliers = [0] * len(SNRS)
    for j, snr in enumerate(SNRS):
        truth = _test_images(shape, snr, size.images)
        for i, detector in enumerate(model.detectors):
            found = detector.locate(truth.images)
            errors = shapes.position_errors_px(shape, found, truth)
            rmse[i, j] = shapes.rmse_px(errors)
            outliers[j] += int((np.hypot(*errors.T) > 1).sum())
    return _Errors(shape, model.start, rmse, outliers)


_FAST_RIVALS = {
    "thresholded centroid": others.thresholded_centroid,
    "plain centroid": others.plain_centroid,
    "radial symmetry": others.radial_symmetry,
}


def _rivals(size: Size) -> dict[str, dict[str, list[float]]]:
    """Return rmse in px per method, shape and SNR."""
    table: dict[str, dict[str, list[float]]] = {}
    for shape in size.shapes:
        for snr in SNRS:
            truth = _test_images(shape, snr, size.images)
            few = shapes.Sample(
                truth.images[: size.images_slow],
                truth.centres_px[: size.images_slow],
                truth.angles_rad[: size.images_slow],
            )
            found = {
                name: (others.locate_all(method, truth.images), truth)
                for name, method in _FAST_RIVALS.items()
            }
            found["trackpy"] = (
                others.locate_all(others.trackpy_refinement, few.images),
                few,
            )
            found["maximum likelihood"] = (
                others.maximum_likelihood(shape, snr, few),
                few,
            )
            for name, (positions, sample) in found.items():
                errors = shapes.position_errors_px(shape, positions, sample)
                table.setdefault(name, {}).setdefault(shape, []).append(
                    shapes.rmse_px(errors)
                )
    return table


def _ratio_table(
    ours: list[_Errors], bounds: dict[str, list[float]], quality: Quality
) -> Table:
    columns = ["shape", "start", *(f"SNR {snr}" for snr in SNRS)]
    table = Table(
        f"Error / Cramér-Rao bound, {quality} training (mean over seeds; worst seed)",
        [*columns, "bar", "met", "errors > 1 px"],
    )
    for errors in ours:
        ratio = errors.rmse_px / bounds[errors.shape]
        bar = BARS[quality][errors.shape]
        cells = [
            f"{mean:.2f} ({worst:.2f})"
            for mean, worst in zip(ratio.mean(0), ratio.max(0), strict=True)
        ]
        met = bool((ratio.mean(0) <= np.array(bar)).all())
        table.rows.append(
            [
                errors.shape,
                errors.start,
                *cells,
                " / ".join(map(str, bar)),
                "yes" if met else "no",
                " / ".join(map(str, errors.n_outliers)),
            ]
        )
    return table


def _pixel_table(
    ours: list[_Errors],
    rivals: dict[str, dict[str, list[float]]],
    bounds: dict[str, list[float]],
) -> Table:
    starts = dict.fromkeys(errors.start for errors in ours)
    table = Table(
        f"Error, px per axis, at SNR {' / '.join(map(str, SNRS))}",
        ["shape", "bound", *(f"ours, {start}" for start in starts), *rivals],
    )
    for shape, bound in bounds.items():
        own = [errors.rmse_px.mean(0) for errors in ours if errors.shape == shape]
        rows = [bound, *own, *(r[shape] for r in rivals.values())]
        table.rows.append([shape, *(_joined(row) for row in rows)])
    return table


def _joined(values: object) -> str:
    return " / ".join(f"{v:.3f}" for v in np.asarray(values, dtype=float))


def _consistency_table(models: list[Trained], start: Start, size: Size) -> Table:
    """Return Table 1: mean weighted variance of the votes, px², model against shape."""
    table = Table(
        f"Self-consistency, {start}, px² (row: model, column: shape shown; SNR 10)",
        ["model", *size.shapes, "least off-diagonal / diagonal"],
    )
    n = min(40, size.images)
    for model in models:
        row = []
        for shape in size.shapes:
            images = _test_images(shape, TRAINING_SNR, n).images
            variances = [_vote_variance_px2(d, images) for d in model.detectors]
            row.append(float(np.mean(variances)))
        own = row[size.shapes.index(model.shape)]
        rest = [v for v, s in zip(row, size.shapes, strict=True) if s != model.shape]
        ratio = min(rest) / own if rest else float("nan")
        table.rows.append([model.shape, *row, ratio])
    return table


def _vote_variance_px2(detector: Detector, images: shapes.FloatArray) -> float:
    total = 0.0
    for image in images:
        maps = detector.maps(image)
        weight = maps.weight / maps.weight.sum()
        cells = maps.stride * np.indices(weight.shape)
        votes = cells + np.stack([maps.features["dy"], maps.features["dx"]])
        mean = (votes * weight).sum(axis=(1, 2), keepdims=True)
        total += float((((votes - mean) ** 2).sum(0) * weight).sum())
    return total / len(images)


def _notes(
    ours: list[_Errors],
    rivals: dict[str, dict[str, list[float]]],
    bounds: dict[str, list[float]],
    quality: Quality,
) -> list[str]:
    notes = []
    for errors in ours:
        shape, mean = errors.shape, errors.rmse_px.mean(0)
        for j, snr in enumerate(SNRS):
            cell = f"{shape}, {errors.start}, SNR {snr}"
            ratio, bar = mean[j] / bounds[shape][j], BARS[quality][shape][j]
            if ratio > bar:
                notes.append(f"{cell}: {ratio:.2f} misses the bar {bar}.")
            notes += [
                f"{cell}: {name} is better, {table[shape][j]:.3f} against "
                f"{mean[j]:.3f} px."
                for name, table in rivals.items()
                if name != "maximum likelihood" and table[shape][j] < mean[j]
            ]
    return notes
