"""A batch on real Dask clusters, ended by force and gone on with."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from lodestar_live.batch import BatchPlan, cluster, run_batch, work
from lodestar_live.batch.plan import make_jobs
from lodestar_live.errors import InputError
from lodestar_live.settings import parse_settings
from tests.batch import movies
from tests.batch.test_work import do_all

WAIT_S = 120.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return movies.write_model(tmp_path_factory.mktemp("model"))


def wait_for(what: Callable[[], object], why: str) -> None:
    end_s = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < end_s, why
        time.sleep(0.02)


def test_a_batch_of_good_and_bad_recordings(tmp_path: Path, model: Path) -> None:
    """Two are analysed, the third is named; the summary has all three."""
    from distributed import LocalCluster

    good = [
        movies.write_movie(tmp_path / f"{n}.tif", n_frames=50, seed=n) for n in (0, 1)
    ]
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"not a picture")
    settings = parse_settings({"linking": {"min_track_frames": 20}})
    plan = BatchPlan(
        (good[0], bad, good[1]), model, tmp_path / "out", settings, chunk_frames=9
    )
    told: list[tuple[int, int, int]] = []
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
    ) as local:
        address = local.scheduler_address
        result = run_batch(
            plan, scheduler=address, progress=lambda *numbers: told.append(numbers)
        )
        again = run_batch(plan, scheduler=address)
    assert list(result.failed) == [str(bad)]
    assert "cannot be read" in result.failed[str(bad)]
    assert (result.n_chunks, again.n_chunks) == (12, 0)
    assert told[-1] == (3, 100, 100)
    table = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert table["status"].tolist() == ["completed", "failed", "completed"]
    assert table["n_frames"].tolist()[::2] == [50, 50]
    walked = table["diffusion_median"].to_numpy()[::2]
    assert walked == pytest.approx(0.5 * 0.1**2 * 20, rel=0.35)  # 1 px/frame/axis
    assert table.loc[0, "length_unit"] == "um"
    columns = pd.read_parquet(tmp_path / "out" / "summary.parquet").columns
    assert list(columns) == list(table.columns)
    for job in make_jobs(plan)[::2]:
        check_against_serial(job, plan, tmp_path / "serial")


def check_against_serial(job, plan: BatchPlan, out: Path) -> None:
    """Compare a recording's rows with those of its chunks done one after another."""
    serial = BatchPlan((job.path,), plan.model, out, plan.settings)
    (expected,) = make_jobs(serial)
    do_all(expected, detect=[])
    pd.testing.assert_frame_equal(
        *(
            pd.read_parquet(j.folder / "tracks.parquet")
            .sort_values(["particle", "frame"])
            .reset_index(drop=True)
            for j in (job, expected)
        ),
        check_exact=True,
    )


class Machines:
    """A scheduler and a worker of Dask as processes that can be killed."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "scheduler.json"
        self.scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"
        )
        wait_for(self.file.exists, "no scheduler")
        wait_for(lambda: self.file.read_text(), "no scheduler")
        self.address = json.loads(self.file.read_text())["address"]
        self.worker = self.start_worker()

    def start_worker(self) -> subprocess.Popen[bytes]:
        self.worker = self._start(
            "worker", "--nthreads", "1", "--no-nanny", "--no-dashboard"
        )
        return self.worker

    def _start(self, role: str, *options: str) -> subprocess.Popen[bytes]:
        module = f"distributed.cli.dask_{role}"
        return subprocess.Popen(
            [sys.executable, "-m", module, "--scheduler-file", self.file, *options],
            stderr=subprocess.DEVNULL,
        )

    def close(self) -> None:
        for process in (self.worker, self.scheduler):
            process.kill()
            process.wait()
        self.file.unlink(missing_ok=True)


@contextlib.contextmanager
def machines(folder: Path) -> Iterator[Machines]:
    made = Machines(folder)
    try:
        yield made
    finally:
        made.close()


def test_a_batch_survives_the_death_of_worker_scheduler_and_client(
    tmp_path: Path, model: Path
) -> None:
    """Nothing that was settled is written again, and no row differs in the end."""
    path = movies.write_movie(tmp_path / "a.tif", n_frames=400)
    plan = BatchPlan((path,), model, tmp_path / "out", chunk_frames=10)
    (job,) = make_jobs(plan)

    def settled() -> int:
        state = work.newest_state(job) if job.folder.exists() else None
        return -1 if state is None else state.number

    def parts() -> dict[str, int]:
        found = (job.folder / work.ROWS).glob("*.parquet")
        return {p.name: p.stat().st_ino for p in found}

    def client(address: str) -> subprocess.Popen[str]:
        command = ["batch", path, "--model", model, "--out", plan.out, "--chunk", "10"]
        return subprocess.Popen(
            [sys.executable, "-m", "lodestar_live", *command,
             "--scheduler", address, "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def kill_after(process: subprocess.Popen, n_more: int) -> dict[str, int]:
        reached = settled() + n_more
        wait_for(lambda: settled() >= reached, "no progress")
        process.kill()
        process.communicate()
        n = settled()
        return {k: v for k, v in parts().items() if k <= f"part-{n:06d}.parquet"}

    with machines(tmp_path) as first:
        one = client(first.address)
        kept = kill_after(first.worker, 3)
        first.start_worker()
        kept |= kill_after(first.scheduler, 3)
        _, said = one.communicate(timeout=WAIT_S)
        assert one.returncode == 1
        assert "scheduler was lost" in " ".join(said.split())
    assert settled() < 39, "the test's recording is too short"
    with machines(tmp_path) as second:
        kept |= kill_after(client(second.address), 3)
        before = settled()
        assert before < 39, "the test's recording is too short"
        told, said = client(second.address).communicate(timeout=WAIT_S)
    facts = json.loads(told)
    assert facts["failed"] == {}, said
    assert facts["chunks"] + facts["chunks_before"] == 40
    assert facts["chunks_before"] >= before + 1
    assert len(kept) >= 9
    assert parts().items() >= kept.items()
    check_against_serial(job, plan, tmp_path / "serial")


def test_one_command_on_this_machine(tmp_path: Path, model: Path) -> None:
    path = movies.write_movie(tmp_path / "a.tif", n_frames=20)
    command = [
        *(sys.executable, "-m", "lodestar_live", "batch", tmp_path / "*.tif"),
        *("--model", model, "--out", tmp_path / "out", "--workers", "1"),
        *("--memory", "1GiB", "--chunk", "8"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 recordings" in done.stdout
    assert "Dask: http://127.0.0.1:" in done.stderr
    table = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert table["path"].tolist() == [str(path.resolve())]


def test_what_is_not_there_is_named(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_ANSWER_S", 0.5)
    path = movies.write_movie(tmp_path / "a.tif", n_frames=3)
    plan = BatchPlan((path,), model, tmp_path / "out")
    with pytest.raises(InputError, match="no Dask scheduler answers"):
        run_batch(plan, scheduler="tcp://127.0.0.1:1")
    with pytest.raises(InputError, match="--memory lots"):
        run_batch(plan, n_workers=1, memory="lots")
    with pytest.raises(InputError, match="chunk_frames = 0"):
        BatchPlan((path,), model, tmp_path / "out", chunk_frames=0)
