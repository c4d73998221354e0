"""Many particles: crowds, distractors, bad light, other cameras, empty frames.

Every model is trained on one frame of its own kind (the crop is chosen by
`choose_particle`), then judged on frames it has never seen. Particles closer to the
frame's edge than half a diameter are left out of recall and error. Crowds and
distractors are shown to models from the warm start and to models from scratch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt

from lodestar_live.bench.report import BenchReport, Table
from lodestar_live.data import Detections
from lodestar_live.detection import Detector
from lodestar_live.training import Start, train
from tests.bench.accuracy import STARTS
from tests.simulation.fields import (
    DIAMETER_PX,
    Field,
    Scene,
    blank,
    match,
    simulate_field,
)
from tests.simulation.shapes import SHAPES

FloatArray = npt.NDArray[np.float64]

SPACINGS = (6.0, 2.0, 1.5)  # in diameters; the first: alone
SNRS = (3.0, 5.0, 8.0, 10.0, 20.0)
_SIDE_PX = 640

Models = dict[tuple[str, Start], Detector]


@dataclass(frozen=True, slots=True)
class Score:
    """Recall, false discovery rate and per-axis RMSE (px) over some frames."""

    recall: float
    false_discovery: float
    rmse_px: float
    n: int


def run(*, quick: bool = False, seed: int = 0) -> BenchReport:
    """Run the benchmark; `quick` trains one model briefly."""
    shapes = ("sphere",) if quick else SHAPES
    n_frames = 1 if quick else 4
    steps = 300 if quick else None
    models: Models = {
        (shape, start): _train(shape, start, seed=seed, steps=steps)
        for shape in shapes
        for start in STARTS
    }
    sphere = models["sphere", "scratch"]
    tables = [
        _crowds(models, n_frames, seed, snrs=(10.0,) if quick else SNRS),
        _distractors(models, n_frames, seed),
        _light(sphere, n_frames, seed),
        _cameras(sphere, seed),
        _empty(sphere, n_frames, seed),
        _sizes(sphere, seed),
    ]
    notes = [
        "One training run per shape and start (fast recipe), crop chosen "
        "automatically; thresholds, limits and sigma are the models' own.",
        "All but crowds and distractors: from scratch.",
        "Crescent: the best constant offset along the body axis is removed first.",
        "The ratio is to the same model's RMSE on particles 6 diameters apart.",
    ]
    return BenchReport("fields", tables, notes)


def _train(shape: str, start: Start, *, seed: int, steps: int | None) -> Detector:
    scene = Scene(shape=shape, n_particles=12, spacing_px=80, size_px=(400, 400))
    snapshot = simulate_field(scene, seed=1000 + seed)
    model = train(snapshot.pixels, seed=seed, start=start, steps=steps)
    data = model.to_bytes()
    return Detector(data)


def judge(frames: list[Field], found: list[Detections], shape: str) -> Score:
    """Compare detections with the truth of several frames."""
    half = DIAMETER_PX[shape] / 2
    errors, n_truth, n_hit, n_found, n_false = [], 0, 0, 0, 0
    for field, detections in zip(frames, found, strict=True):
        chosen = field.shapes == shape
        truth, angles = field.positions_px[chosen], field.angles_rad[chosen]
        found_px = detections.positions_px
        # a crescent's tracked point lies off its disk's centre, hence half a diameter
        i, j = match(found_px, truth, gate_px=half)
        limits = np.subtract(field.pixels.shape, 1)
        inside = np.minimum(truth, limits - truth).min(axis=1) >= half
        n_truth += int(inside.sum())
        n_hit += int(inside[j].sum())
        n_found += len(found_px)
        n_false += len(found_px) - len(i)
        error = (found_px[i] - truth[j])[inside[j]]
        errors.append(_off_axis(error, angles[j][inside[j]], shape))
    all_errors = np.concatenate(errors)
    if shape == "crescent" and len(all_errors):
        all_errors[:, 0] -= np.median(all_errors[:, 0])
    rmse = float(np.sqrt(np.mean(all_errors**2))) if len(all_errors) else float("nan")
    return Score(n_hit / max(n_truth, 1), n_false / max(n_found, 1), rmse, n_truth)


def _off_axis(error: FloatArray, angles: FloatArray, shape: str) -> FloatArray:
    """Return a crescent's errors in its own frame (along, across); others as is."""
    if shape != "crescent":
        return error
    axis = np.column_stack([np.sin(angles), np.cos(angles)])
    across = np.column_stack([axis[:, 1], -axis[:, 0]])
    return np.column_stack([(error * axis).sum(1), (error * across).sum(1)])


def _frames(scene: Scene, n_frames: int, seed: int) -> list[Field]:
    return [simulate_field(scene, seed=5000 + 31 * seed + k) for k in range(n_frames)]


def _score(detector: Detector, frames: list[Field], shape: str) -> Score:
    return judge(frames, [detector(field.pixels) for field in frames], shape)


def _scene(shape: str, spacing: float, snr: float) -> Scene:
    spacing_px = spacing * DIAMETER_PX[shape]
    n = int(min(0.35 * _SIDE_PX**2 / spacing_px**2, 250)) if spacing < 6 else 12
    return Scene(
        shape=shape,
        n_particles=max(n, 6),
        spacing_px=spacing_px,
        size_px=(_SIDE_PX, _SIDE_PX),
        snr=snr,
    )


def _crowds(
    models: Models, n_frames: int, seed: int, *, snrs: tuple[float, ...]
) -> Table:
    columns = ["shape", "start", "spacing / diameter", "SNR", "n", "recall", "FDR"]
    table = Table("Crowds", [*columns, "RMSE px", "/ alone"])
    alone: dict[tuple[str, Start, float], float] = {}
    for shape, snr, spacing in product(_shapes(models), snrs, SPACINGS):
        n_here = 3 * n_frames if spacing == SPACINGS[0] else n_frames
        frames = _frames(_scene(shape, spacing, snr), n_here, seed)
        for start in STARTS:
            score = _score(models[shape, start], frames, shape)
            reference = alone.setdefault((shape, start, snr), score.rmse_px)
            table.rows.append([
                shape, start, spacing, snr, score.n, score.recall,
                score.false_discovery, score.rmse_px, score.rmse_px / reference,
            ])  # fmt: skip
    return table


def _distractors(models: Models, n_frames: int, seed: int) -> Table:
    """Equal numbers of the trained shape and of the four others."""
    columns = ["shape", "start", "SNR", "filter", "recall", "FDR"]
    table = Table("Distractors: the four other shapes, 45 px apart", columns)
    for shape, snr in product(_shapes(models), (5.0, 10.0, 20.0)):
        scene = Scene(
            shape=shape,
            n_particles=40,
            n_distractors=40,
            distractors=tuple(s for s in SHAPES if s != shape),
            spacing_px=45,
            size_px=(_SIDE_PX, _SIDE_PX),
            snr=snr,
        )
        frames = _frames(scene, n_frames, seed)
        for start, is_on in product(STARTS, (False, True)):
            detector = models[shape, start]
            detector.only_like_training = is_on
            score = _score(detector, frames, shape)
            detector.only_like_training = False
            table.rows.append([
                shape, start, snr, "on" if is_on else "off", score.recall,
                score.false_discovery,
            ])  # fmt: skip
    return table


def _shapes(models: Models) -> list[str]:
    return list(dict.fromkeys(shape for shape, _ in models))


def _light(detector: Detector, n_frames: int, seed: int) -> Table:
    base = _scene("sphere", 2.0, 10.0)
    cases = {
        "even": base,
        "background ramp of 0.5 peaks": replace(base, ramp=0.5),
        "light falls by 60 % to the corners": replace(base, light_falloff=0.6),
        "texture of 5 % of the peak": replace(base, texture=0.05),
        "200 hot pixels": replace(base, n_hot_pixels=200),
        "peaks 0.5 to 1.5": replace(base, intensity_range=(0.5, 1.5)),
        "defocus up to sigma 3 px": replace(base, defocus_px=3.0),
    }
    columns = ["case", "recall", "FDR", "RMSE px"]
    table = Table("Bad light and samples: spheres 2 diameters apart, SNR 10", columns)
    for name, scene in cases.items():
        score = _score(detector, _frames(scene, n_frames, seed), "sphere")
        table.rows.append([name, score.recall, score.false_discovery, score.rmse_px])
    return table


def _cameras(detector: Detector, seed: int) -> Table:
    """Compare detections of one scene seen by different cameras."""
    field = simulate_field(_scene("sphere", 2.0, 10.0), seed=7000 + seed)
    reference = detector(field.pixels).positions_px
    cases = {
        "float x 0.1": 0.1 * field.pixels,
        "float x 100": 100 * field.pixels,
        "float + 1000": field.pixels + 1000,
        "float x -1 + 5 (inverted contrast)": 5 - field.pixels,
        "uint8, gain 150": field.counts(gain=150, offset=10, dtype="uint8"),
        "12 bit, gain 2000": field.counts(gain=2000, offset=100, dtype="uint16"),
        "uint16, gain 40000": field.counts(gain=40000, offset=500, dtype="uint16"),
    }
    table = Table(
        "Cameras", ["case", "n of " + str(len(reference)), "largest shift px"]
    )
    for name, pixels in cases.items():
        found = detector(pixels).positions_px
        i, j = match(found, reference, gate_px=3)
        shift = np.hypot(*(found[i] - reference[j]).T)
        table.rows.append([name, len(i), float(shift.max(initial=0.0))])
    return table


def _empty(detector: Detector, n_frames: int, seed: int) -> Table:
    table = Table("Empty frames", ["case", "Mpx", "detections"])
    cases = {
        "noise": Scene(),
        "ten times the noise": Scene(snr=1.0),
        "ramp": Scene(ramp=0.5),
        "texture of 5 %": Scene(texture=0.05),
        "200 hot pixels": Scene(n_hot_pixels=200),
    }
    for name, scene in cases.items():
        scene = replace(scene, size_px=(1024, 1024))
        frames = [blank(scene, seed=9000 + seed + k) for k in range(4 * n_frames)]
        n = sum(len(detector(frame.pixels)) for frame in frames)
        table.rows.append([name, len(frames) * 1.048576, n])
    constant = np.full((512, 512), 100, np.uint8)
    table.rows.append(["constant", 0.262144, len(detector(constant))])
    return table


def _sizes(detector: Detector, seed: int) -> Table:
    """Compare cut-outs of odd and tiny sizes with the whole frame."""
    field = simulate_field(_scene("sphere", 2.0, 10.0), seed=8000 + seed)
    whole = detector(field.pixels).positions_px
    table = Table("Odd and tiny frames", ["size", "n", "largest shift px"])
    for height, width in ((639, 637), (401, 333), (127, 65), (33, 31), (9, 7), (1, 1)):
        cut = np.ascontiguousarray(field.pixels[:height, :width])
        found = detector(cut).positions_px
        inner = found[(found < np.subtract((height, width), 30)).all(axis=1)]
        i, j = match(inner, whole, gate_px=3)
        shift = np.hypot(*(inner[i] - whole[j]).T)
        table.rows.append(
            [f"{height} x {width}", len(found), float(shift.max(initial=0.0))]
        )
    return table
