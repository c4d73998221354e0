"""Recorded movies and stills: one click-free model each, against trackpy.

The recordings lie in ``shared/data`` beside the checkout (or in the folder given as
`data`); they are not part of this package. Each model is trained on the particle that
`choose_particle` proposes in frame 0, with every setting at its default.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import numpy.typing as npt
import tifffile
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from lodestar_live.bench.report import BenchReport, Table
from lodestar_live.data import Pixels
from lodestar_live.detection import Detector
from lodestar_live.errors import InputError, LodestarError
from lodestar_live.linking import Linker
from lodestar_live.training import train
from lodestar_live.training.model import Model
from lodestar_live.training.network.network import NetworkName

FloatArray = npt.NDArray[np.float64]
Points = dict[int, FloatArray]  # frame -> (n, 2) positions (y, x)
_NETWORKS: dict[NetworkName, str] = {
    "live": "LodeSTAR",
    "paper": "LodeSTAR, paper's network",
}
DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@dataclass(frozen=True, slots=True)
class _Movie:
    path: str
    gate_px: float
    reference: str = ""
    ignore: str = ""
    trackpy: str = ""  # its published tracks, else it is run here
    diameter_px: int = 15
    minmass: float = 300.0


MOVIES = {
    "ring beads": _Movie("ring_beads/bf_00-49.tif", 5, "ring_beads/reference.csv"),
    "bacteria": _Movie(
        "bacteria/bacteria_000-213.tif",
        6,
        "bacteria/reference.csv",
        "bacteria/ignore.csv",
        "bacteria/trackpy_baseline.csv",
    ),
    "bulk water": _Movie(
        "bulk_water/bulk_water_000-149.tif",
        3,
        trackpy="bulk_water/trackpy_baseline.csv",
    ),
}
STILLS = {
    "confocal spheres": ("stills/JT008_AFM_15.tif", 15),
    "ellipsoids": ("stills/vi_5.5_f.bmp", 19),
    "plankton holograms": ("plankton/fig1_data.npy", 31),
}


def run(*, quick: bool = False, seed: int = 0, data: Path | None = None) -> BenchReport:
    """Run the benchmark; `quick` takes the ring beads and the live network only."""
    folder = DATA if data is None else data
    if not folder.is_dir():
        note = f"{folder}: no recordings there; nothing was measured."
        return BenchReport("recordings", [], [note])
    tables = [_movies(folder, seed=seed, quick=quick)]
    if not quick:
        tables.append(_stills(folder, seed=seed))
    notes = [
        "TPR, FDR and RMSE (2-D, mean error removed) are against the recordings' "
        "reference where there is one; bulk water against trackpy's own positions.",
        "References are independent computations, not truth; see the data's notes.",
        "A track is long from 20 frames.",
    ]
    return BenchReport("recordings", tables, notes)


def read_still(path: Path) -> Pixels:
    """Read one grey image from a .tif, .bmp or .npy file."""
    if path.suffix == ".npy":
        return np.asarray(np.load(path)).squeeze()
    image = tifffile.imread(path) if path.suffix == ".tif" else iio.imread(path)
    return np.asarray(image if image.ndim == 2 else image[..., 0])


def _movies(folder: Path, *, seed: int, quick: bool) -> Table:
    columns = ["movie", "method", "n / frame", "TPR", "FDR", "RMSE px", "bias px"]
    table = Table("Movies", [*columns, "tracks", "long", "train s"])
    for name, movie in list(MOVIES.items())[: 1 if quick else None]:
        stack = tifffile.imread(folder / movie.path)
        theirs, their_lengths = _trackpy(folder, movie, stack)
        results: list[tuple[str, Points, npt.NDArray[np.int_], object]] = []
        for network, label in _NETWORKS.items():
            if network == "paper" and quick:
                continue
            try:
                model = train(stack[0], seed=seed, network=network)
            except LodestarError as error:  # a refusal is a finding, too
                table.rows.append([name, label, str(error), *[""] * 7])
                continue
            seconds = model.card.training.seconds
            results.append((label, *follow(model, stack), seconds))
        results.append(("trackpy", theirs, their_lengths, ""))
        truth = _read_points(folder / movie.reference) if movie.reference else theirs
        ignore = _read_points(folder / movie.ignore) if movie.ignore else {}
        for method, points, tracks, cost in results:
            measures = compare(points, truth, ignore, gate_px=movie.gate_px)
            n = sum(len(p) for p in points.values()) / len(stack)
            long = int((tracks >= 20).sum()) if len(tracks) else ""
            table.rows.append(
                [name, method, n, *measures, len(tracks) or "", long, cost]
            )
    return table


def follow(model: Model, stack: Pixels) -> tuple[Points, npt.NDArray[np.int_]]:
    """Detect and link a movie; return the detections and the tracks' lengths."""
    data = model.to_bytes()
    detector, linker = Detector(data), Linker()
    points: Points = {}
    seen: list[npt.NDArray[np.int64]] = []
    for index, frame in enumerate(stack):
        detections = detector(frame)
        points[index] = np.asarray(detections.positions_px)
        rows = linker(detections, index).rows
        seen.append(rows["track_id"][rows["detection_index"] >= 0])
    return points, np.unique(np.concatenate(seen), return_counts=True)[1]


def compare(
    found: Points, truth: Points, ignore: Points, *, gate_px: float
) -> list[float]:
    """Return TPR, FDR, RMSE without bias (2-D, px) and bias (length, px).

    Optimal one-to-one matching per frame, as many pairs as possible first. What
    matches nothing but lies within the gate of an ignored point does not count.
    """
    n_true = n_false = n_truth = 0
    errors = []
    none = np.empty((0, 2))
    for frame, reference in truth.items():
        points = found.get(frame, none)
        i, j = _assign(points, reference, gate_px)
        errors.append(points[i] - reference[j])
        rest = np.delete(points, i, axis=0)
        skip = ignore.get(frame, none)
        if len(skip) and len(rest):
            rest = rest[cdist(rest, skip).min(axis=1) > gate_px]
        n_true += len(i)
        n_false += len(rest)
        n_truth += len(reference)
    error = np.concatenate(errors)
    bias = error.mean(axis=0)
    rmse = float(np.sqrt(((error - bias) ** 2).sum(axis=1).mean()))
    false = n_false / max(n_true + n_false, 1)
    return [n_true / n_truth, false, rmse, float(np.hypot(*bias))]


def _assign(
    points: FloatArray, reference: FloatArray, gate_px: float
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    if len(points) == 0 or len(reference) == 0:
        empty = np.empty(0, dtype=np.intp)
        return empty, empty
    distance = cdist(points, reference)
    # beyond the gate a pair costs more than any number of pairs inside it
    cost = np.where(distance <= gate_px, distance, 1e6)
    i, j = linear_sum_assignment(cost)
    good = distance[i, j] <= gate_px
    return i[good], j[good]


def _trackpy(
    folder: Path, movie: _Movie, stack: Pixels
) -> tuple[Points, npt.NDArray[np.int_]]:
    if movie.trackpy:
        table = _read_table(folder / movie.trackpy)
        lengths = np.unique(table["particle"], return_counts=True)[1]
        return _by_frame(table), lengths
    points = {
        index: _locate(frame, movie.diameter_px, movie.minmass, dark=False)
        for index, frame in enumerate(stack)
    }
    return points, np.empty(0, dtype=int)


def _locate(
    frame: Pixels, diameter_px: int, minmass: float | None, *, dark: bool
) -> FloatArray:
    """Run trackpy on one frame."""
    try:
        import trackpy
    except ImportError as error:
        raise InputError(
            "bench recordings: trackpy is not installed; `pip install "
            "'lodestar-live[test]'` for the comparison."
        ) from error
    trackpy.quiet()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # trackpy's use of pandas is not our affair
        table: Any = trackpy.locate(
            frame.astype(float), diameter_px, minmass=minmass, invert=dark
        )
    return np.asarray(table[["y", "x"]], dtype=float)


def _stills(folder: Path, *, seed: int) -> Table:
    columns = ["image", "chosen (y, x)", "crop px", "LodeSTAR n", "trackpy n"]
    table = Table("Stills: counts", [*columns, "both, 4 px", "alarms / Mpx"])
    for name, (path, diameter) in STILLS.items():
        image = read_still(folder / path)
        try:
            model = train(image, seed=seed)
        except LodestarError as error:  # a refusal is a finding, too
            table.rows.append([name, str(error), *[""] * 5])
            continue
        found, _ = follow(model, image[None])
        theirs = _locate(image, diameter, None, dark=name == "ellipsoids")
        i, _ = _assign(found[0], theirs, 4.0)
        crop = model.card.crop
        table.rows.append([
            name, tuple(round(c) for c in crop.at_px), crop.size_px,
            len(found[0]), len(theirs), len(i),
            model.card.calibration.false_alarms_per_mpx,
        ])  # fmt: skip
    return table


def _read_table(path: Path) -> npt.NDArray[Any]:
    return np.genfromtxt(path, delimiter=",", names=True, comments="#")


def _read_points(path: Path) -> Points:
    return _by_frame(_read_table(path))


def _by_frame(table: npt.NDArray[Any]) -> Points:
    frames = table["frame"].astype(int)
    places = np.column_stack([table["y"], table["x"]])
    return {int(f): places[frames == f] for f in np.unique(frames)}
