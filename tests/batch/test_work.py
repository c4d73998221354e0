"""Chunks done in any order give the rows of one long replay, to the last bit."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from lodestar_live.batch import BatchPlan, gather_inputs, work
from lodestar_live.batch.plan import Job, make_jobs
from lodestar_live.errors import InputError
from lodestar_live.live.replay import replay_movie
from lodestar_live.recording import Recording
from lodestar_live.recording.export import export
from lodestar_live.recording.movies import Choice
from lodestar_live.settings import Settings, parse_settings
from tests.batch import movies

SETTINGS = {"streams": {"enabled": False}, "detection": {"engine": "cpu"}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return movies.write_model(tmp_path_factory.mktemp("model"))


def do_all(job: Job, *, detect: list[int] | None = None) -> dict[str, object]:
    """Do a recording's work here: some chunks detected early, all settled in order."""
    n_chunks = work.open_recording(job).n_chunks
    work.settle_chunk(job, 0)
    for number in range(1, n_chunks)[::-1] if detect is None else detect:
        work.detect_chunk(job, number)
    for number in range(1, n_chunks):
        work.settle_chunk(job, number)
    return work.finish_recording(job)


def job_of(path: Path, model: Path, out: Path, settings: Settings, **more) -> Job:
    (job,) = make_jobs(BatchPlan((path,), model, out, settings=settings, **more))
    return job


def rows_of(job: Job) -> pd.DataFrame:
    rows = pd.read_parquet(job.folder / "tracks.parquet")
    return rows.sort_values(["particle", "frame"]).reset_index(drop=True)


def replayed(path: Path, model: Path, out: Path, settings: Settings, **more):
    run = replay_movie(path, settings, model=model, out=out, **more)
    with Recording(run.run_folder) as recording:
        export(recording, out / "rows.parquet", to="parquet")
        export(recording, out / "summary.csv", to="summary")
    return pd.read_parquet(out / "rows.parquet")


def test_chunks_in_any_order_are_one_long_replay(tmp_path: Path, model: Path) -> None:
    settings = parse_settings(SETTINGS)
    path = movies.write_movie(tmp_path / "a.tif", n_frames=60, n_particles=6)
    expected = replayed(path, model, tmp_path / "run", settings)
    assert expected["particle"].nunique() >= 6
    for frames in (7, 60, 500):
        job = job_of(path, model, tmp_path / str(frames), settings, chunk_frames=frames)
        do_all(job)
        pd.testing.assert_frame_equal(rows_of(job), expected, check_exact=True)
    assert (job.folder / "track_summary.csv").read_text() == (
        tmp_path / "run" / "summary.csv"
    ).read_text()


def test_channels_and_positions_keep_the_ids_of_a_replay(
    tmp_path: Path, model: Path
) -> None:
    settings = parse_settings(SETTINGS)
    path = tmp_path / "two.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        for position in range(2):
            both = [
                movies.render(movies.walk(20, 3, seed), seed)
                for seed in (2 * position, 2 * position + 1)
            ]
            writer.write(
                np.stack(both, axis=1), photometric="minisblack",
                metadata={"axes": "TCYX", "Name": f"Pos{position}"},
            )  # fmt: skip
    choice = Choice(fps=20.0, pixel_size_um=0.1)
    expected = replayed(path, model, tmp_path / "run", settings, choice=choice)
    assert len(expected.groupby(["position", "channel"])) == 4
    job = job_of(
        path, model, tmp_path / "out", settings, choice=choice, chunk_frames=11
    )
    done = do_all(job)
    pd.testing.assert_frame_equal(rows_of(job), expected, check_exact=True)
    places = {(s["position"], s["channel"]) for s in done["series"]}
    assert len(places) == 4


def test_a_defect_that_comes_later_is_known_to_the_chunks_after_it(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Chunks detected ahead assumed there was none: they are detected again."""
    caplog.set_level("INFO", "lodestar_live.batch.work")
    settings = parse_settings(SETTINGS)
    frames = movies.render(movies.walk(40, 4, 1), 1)
    frames[13:, 50, 41] = 3000  # hot from frame 13 on
    np.save(tmp_path / "hot.npy", frames)
    expected = replayed(tmp_path / "hot.npy", model, tmp_path / "run", settings)
    job = job_of(
        tmp_path / "hot.npy", model, tmp_path / "out", settings, chunk_frames=10
    )
    work.open_recording(job)
    work.settle_chunk(job, 0)
    for number in (2, 3):
        work.detect_chunk(job, number)
    for number in (1, 2, 3):
        work.settle_chunk(job, number)
    work.finish_recording(job)
    pd.testing.assert_frame_equal(rows_of(job), expected, check_exact=True)
    again = [r.args[1] for r in caplog.records if "detected again" in r.message]
    assert again == [2, 3]


def test_what_was_done_is_not_done_again(tmp_path: Path, model: Path) -> None:
    settings = parse_settings(SETTINGS)
    path = movies.write_movie(tmp_path / "a.tif", n_frames=30)
    job = job_of(path, model, tmp_path / "out", settings, chunk_frames=10)
    assert work.open_recording(job).n_settled == 0
    assert not work.settle_chunk(job, 0).was_done
    assert not work.detect_chunk(job, 2).was_done
    again = job_of(path, model, tmp_path / "out", settings, chunk_frames=10)
    assert again == job
    assert work.open_recording(again).n_settled == 1
    assert work.settle_chunk(again, 0).was_done
    assert work.detect_chunk(again, 0).was_done
    assert work.detect_chunk(again, 2).was_done
    for number in (1, 2):
        assert not work.settle_chunk(again, number).was_done
    done = work.finish_recording(again)
    assert done["counts"]["frames"] == 30
    names = {p.name for p in job.folder.iterdir()}
    assert names == {
        "recording.json", "done.json", "track_summary.csv", "tracks.parquet",
    }  # fmt: skip
    assert json.loads((job.folder / "recording.json").read_text())["n_frames"] == 30


def test_a_key_is_of_content_model_settings_and_choice(
    tmp_path: Path, model: Path
) -> None:
    settings = parse_settings(SETTINGS)
    path = movies.write_movie(tmp_path / "a.tif", n_frames=3)
    out = tmp_path / "out"
    first = job_of(path, model, out, settings).key
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    os.rename(path, moved / "a.tif")
    path = moved / "a.tif"
    assert job_of(path, model, out, settings).key == first
    assert job_of(path, model, out, settings, chunk_frames=5).key == first
    other = parse_settings({**SETTINGS, "linking": {"max_gap_frames": 2}})
    second = tmp_path / "second.onnx"
    second.write_bytes(movies.write_model(tmp_path).read_bytes() + b"\0")
    keys = {
        first,
        job_of(path, model, out, other).key,
        job_of(path, second, out, settings).key,
        job_of(path, model, out, settings, choice=Choice(fps=3.0)).key,
    }
    movies.write_movie(path, n_frames=3, seed=1)
    keys.add(job_of(path, model, out, settings).key)
    assert len(keys) == 5


def test_one_bad_frame_is_counted_and_told(tmp_path: Path, model: Path) -> None:
    """The reader fails in the middle of a damaged file; the rest is analysed."""
    settings = parse_settings(SETTINGS)
    frames = movies.render(movies.walk(12, 4, 1), 1)
    folder = tmp_path / "stills"
    folder.mkdir()
    for number, frame in enumerate(frames):
        tifffile.imwrite(folder / f"{number:03d}.tif", frame)
    (folder / "005.tif").write_bytes(b"II*\0 no picture")
    job = job_of(folder, model, tmp_path / "out", settings, chunk_frames=4)
    done = do_all(job)
    assert (done["counts"]["frames"], done["counts"]["failed"]) == (12, 1)
    assert "frame 5:" in (job.folder / "failures.txt").read_text()
    assert sorted(rows_of(job)["frame"].unique()) == [*range(5), *range(6, 12)]


def test_inputs_are_named_listed_or_matched(tmp_path: Path) -> None:
    for name in ("a.npy", "b.npy", "c.npy"):
        (tmp_path / name).write_bytes(b"")
    listed = tmp_path / "list.txt"
    listed.write_text(f"{tmp_path / 'c.npy'}\n\n{tmp_path / 'a.npy'}\n")
    found = gather_inputs([str(tmp_path / "[ab].npy"), tmp_path / "a.npy"], listed)
    assert [path.name for path in found] == ["a.npy", "b.npy", "c.npy"]
    with pytest.raises(InputError, match=r"none\.tif: no such file"):
        gather_inputs([tmp_path / "none.tif"], None)
    with pytest.raises(InputError, match="no recordings"):
        gather_inputs([], None)
