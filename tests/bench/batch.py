"""``batch`` over recordings: speed-up over one process, and how cost grows.

One process means the same chunks done one after another without Dask. Rows and ids of
every run are compared with its. Workers are started before the clock: a start takes
some seconds of imports per worker, whatever there is to do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from lodestar_live.batch import BatchPlan, run_batch, work
from lodestar_live.batch.plan import Job, make_jobs
from lodestar_live.bench.report import BenchReport, Table
from tests.batch import movies
from tests.detection import networks

SIDE = 256


def run(*, quick: bool = False, seed: int = 0) -> BenchReport:
    """Run the benchmark."""
    n_recordings, n_frames = (3, 40) if quick else (8, 2000)
    rounds = 1 if quick else 2
    with TemporaryDirectory() as folder:
        root = Path(folder)
        model = root / "spots.onnx"
        model.write_bytes(networks.model(networks.spot_finder(), threshold=-1.5))
        inputs = [_recording(root, n_frames, 30, seed + n) for n in range(n_recordings)]
        plan = BatchPlan(tuple(inputs), model, root)
        tables = [_speed_up(plan, root, rounds), _growth(plan, root, quick, seed)]
    return BenchReport("batch", tables, ["particles move 1 px per frame and axis"])


def _recording(root: Path, n_frames: int, n_particles: int, seed: int) -> Path:
    """Write frames of spots; every frame is one of 50, with noise of its own."""
    path = root / f"{n_frames}-{n_particles}-{seed}.npy"
    rng = np.random.default_rng(seed)
    places = movies.walk(n_frames, n_particles, seed, SIDE)
    out = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.uint16, shape=(n_frames, SIDE, SIDE)
    )
    for frame, yx in zip(out, places, strict=True):
        frame[:] = rng.poisson(_spots(yx))
    out.flush()
    return path


def _spots(yx: np.ndarray) -> np.ndarray:
    """Draw `networks.spots`, each within 12 px only."""
    image = np.full((SIDE, SIDE), 20.0)
    for y, x in yx:
        v, u = max(0, int(y) - 12), max(0, int(x) - 12)
        part = image[v : int(y) + 13, u : int(x) + 13]
        dy, dx = v + np.arange(part.shape[0]) - y, u + np.arange(part.shape[1]) - x
        part += 100 * np.exp(-(dy[:, None] ** 2 + dx**2) / (2 * 2.5**2))
    return image


@contextmanager
def _cluster(n_workers: int) -> Iterator[str]:
    from distributed import Client, LocalCluster

    with LocalCluster(
        n_workers=n_workers, threads_per_worker=1, dashboard_address="127.0.0.1:0"
    ) as cluster:
        with Client(cluster) as client:  # imports are no work of a batch
            client.run(lambda: __import__("lodestar_live.batch.work"))
        yield cluster.scheduler_address


def _timed(plan: BatchPlan, address: str) -> float:
    start = time.perf_counter()
    result = run_batch(plan, scheduler=address)
    assert not result.failed, result.failed
    return time.perf_counter() - start


def _alone(plan: BatchPlan) -> float:
    """Do all chunks here, in order."""
    start = time.perf_counter()
    for job in make_jobs(plan):
        for number in range(work.open_recording(job).n_chunks):
            work.settle_chunk(job, number)
        work.finish_recording(job)
    return time.perf_counter() - start


def _rows(job: Job) -> pd.DataFrame:
    rows = pd.read_parquet(job.folder / work.ROWS)
    return rows.sort_values(["particle", "frame"]).reset_index(drop=True)


def _speed_up(plan: BatchPlan, root: Path, rounds: int) -> Table:
    """Time one process, one worker and two in turn."""
    seconds: dict[str, list[float]] = {
        "one process": [],
        "1 worker": [],
        "2 workers": [],
    }
    plans = []
    for n in range(rounds):
        alone = replace(plan, out=root / f"alone-{n}")
        seconds["one process"].append(_alone(alone))
        plans.append(alone)
        for workers in (1, 2):
            own = replace(plan, out=root / f"{workers}-{n}")
            with _cluster(workers) as address:
                name = "1 worker" if workers == 1 else "2 workers"
                seconds[name].append(_timed(own, address))
            plans.append(own)
    first, *others = [make_jobs(p) for p in plans]
    for jobs in others:
        for job, expected in zip(jobs, first, strict=True):
            pd.testing.assert_frame_equal(_rows(job), _rows(expected), check_exact=True)
    frames = sum(work.open_recording(job).n_frames for job in first)
    base = float(np.median(seconds["one process"]))
    return Table(
        f"{len(first)} recordings, {frames} frames of {SIDE} x {SIDE}, 30 particles; "
        "rows and ids equal in all",
        ["", "s, median", "frames/s", "speed-up"],
        [
            [name, float(np.median(s)), frames / np.median(s), base / np.median(s)]
            for name, s in seconds.items()
        ],
    )


def _growth(plan: BatchPlan, root: Path, quick: bool, seed: int) -> Table:
    """Time recordings of more frames and more particles, on one and two workers."""
    sizes = (
        [(40, 10)]
        if quick
        else [(250, 30), (500, 30), (1000, 30), (500, 5), (500, 100)]
    )
    table = Table(
        "cost of one recording",
        ["frames", "particles", "1 worker, ms/frame", "2 workers, ms/frame"],
        [[*size] for size in sizes],
    )
    for workers in (1, 2):
        with _cluster(workers) as address:
            for row, (n_frames, n_particles) in zip(table.rows, sizes, strict=True):
                path = _recording(root, n_frames, n_particles, seed + 99)
                one = replace(
                    plan, inputs=(path,), out=root / f"g{workers}", chunk_frames=50
                )
                row.append(_timed(one, address) / n_frames * 1e3)
    return table
