"""Classes by a second channel, against simulated pairs of channels that are known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lodestar_live.analysis import (
    CO_LOCATED,
    NOT_CO_LOCATED,
    UNDECIDED,
    Registration,
    classify_tracks,
    register,
)
from lodestar_live.cli import app
from lodestar_live.data import (
    TRACK_DTYPE,
    Detections,
    Frame,
    RunInfo,
    Tracks,
    Update,
    blank_rows,
)
from lodestar_live.errors import InputError
from lodestar_live.recording import Recorder, Recording
from lodestar_live.recording.summary import track_summary

PIXEL_UM, FIELD_UM = 0.1, 60.0
ROTATION_DEG, SHIFT_UM = 2.0, np.array([0.3, -0.2])


def walks(rng, n_tracks: int, n_frames: int) -> np.ndarray:
    """Return positions in µm of diffusing particles, (frames, tracks, 2)."""
    steps = rng.normal(0, 0.1, (n_frames, n_tracks, 2))
    return rng.uniform(0, FIELD_UM, (n_tracks, 2)) + steps.cumsum(axis=0)


def second_camera(places: np.ndarray) -> np.ndarray:
    """Return where a camera that is turned, shifted and 1 % larger sees places."""
    angle = np.radians(ROTATION_DEG)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = FIELD_UM / 2
    return 1.01 * (places - middle) @ turn.T + middle + SHIFT_UM


def two_channels(
    seed: int, n_tracks: int = 100, n_frames: int = 60, missed: float = 0.1
):
    """Return tracks of the first channel, detections of the second, and the truth.

    Half the particles shine; 10 % of their detections are missed, 5 other things shine.
    """
    rng = np.random.default_rng(seed)
    path = walks(rng, n_tracks, n_frames)
    shines = np.arange(n_tracks) % 2 == 0
    others = walks(rng, 5, n_frames)
    seen = {}
    for index in range(n_frames):
        chosen = path[index][shines & (rng.random(n_tracks) >= missed)]
        there = second_camera(np.concatenate([chosen, others[index]]))
        seen[index] = there + rng.normal(0, 0.03, there.shape)
    measured = path + rng.normal(0, 0.02, path.shape)
    return measured, seen, shines


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_registration_finds_turn_scale_and_shift(seed: int) -> None:
    path, seen, _ = two_channels(seed)
    found = register(list(path), [seen[k] for k in range(len(path))], within=0.4)
    assert found.rotation_deg == pytest.approx(-ROTATION_DEG, abs=0.05)
    assert found.scale == pytest.approx(1 / 1.01, abs=5e-4)
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [0.5, 0.5]]) * FIELD_UM
    assert np.abs(found(second_camera(corners)) - corners).max() < 0.03


def test_channels_without_anything_in_common_are_refused() -> None:
    rng = np.random.default_rng(0)
    first, second = walks(rng, 40, 30), walks(rng, 40, 30)
    with pytest.raises(InputError, match="no-register"):
        register(list(first), list(second), within=0.4)


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_a_hundred_tracks_are_told_apart(seed: int) -> None:
    """The bar: 300 nm and 2 degrees off, 10 % missed: 0 wrong, 5 undecided at most."""
    path, seen, shines = two_channels(seed)
    n_frames, n_tracks = path.shape[:2]
    registration = register(list(path), [seen[k] for k in range(n_frames)], within=0.4)
    rows = classify_tracks(
        np.tile(np.arange(n_tracks), n_frames),
        np.repeat(np.arange(n_frames), n_tracks),
        path.reshape(-1, 2),
        seen,
        registration=registration,
    )
    truth = np.where(shines, CO_LOCATED, NOT_CO_LOCATED)
    decided = rows["class"] != UNDECIDED
    assert (rows["class"] == truth)[decided].all()
    assert (~decided).sum() <= 5


@pytest.mark.parametrize(
    ("near", "expected"),
    [
        ("1" * 40, CO_LOCATED),
        ("0" * 40, NOT_CO_LOCATED),
        ("1" * 20 + "0" * 20, UNDECIDED),
        ("1110" * 10, CO_LOCATED),  # blinks: single misses between
        ("1" * 18 + "0" * 4 + "1" * 18, UNDECIDED),  # four in a row are no miss
        ("0" * 20 + "1" + "0" * 19, UNDECIDED),  # a chance meeting, with its misses
    ],
)
def test_the_rule(near: str, expected: int) -> None:
    others = {
        k: np.zeros((1, 2)) if seen == "1" else np.empty((0, 2))
        for k, seen in enumerate(near)
    }
    frames = np.arange(len(near))
    (row,) = classify_tracks(0 * frames, frames, np.zeros((len(near), 2)), others)
    assert row["class"] == expected and row["n_frames"] == len(near)


def test_frames_that_the_second_channel_did_not_take_do_not_count() -> None:
    others = {k: np.zeros((1, 2)) for k in range(0, 40, 4)}
    frames = np.arange(40)
    (row,) = classify_tracks(0 * frames, frames, np.zeros((40, 2)), others)
    assert row["class"] == CO_LOCATED and row["n_frames"] == 10
    (row,) = classify_tracks([7], [99], np.zeros((1, 2)), others)
    assert row["class"] == UNDECIDED and np.isnan(row["share"])


def test_a_registration_is_the_map_that_was_given() -> None:
    assert (Registration.identity()([[1.0, 2.0]]) == [[1.0, 2.0]]).all()
    assert Registration.identity().rotation_deg == 0


def record(folder: Path, frames: dict[int, np.ndarray], *, pixel_size_um=PIXEL_UM):
    """Record detections in µm, each its own track where they have no identity."""
    recorder = Recorder(folder)
    recorder.open(RunInfo("r", "now", pixel_size_um=pixel_size_um))
    for index, places in frames.items():
        rows = blank_rows(TRACK_DTYPE, len(places))
        rows["track_id"] = np.arange(len(places))
        rows["y_px"], rows["x_px"] = places.T / PIXEL_UM
        rows["polarizability_um3"] = 0.02 + 0.01 * (np.arange(len(places)) % 2 == 0)
        frame = Frame(index, np.zeros((600, 600), np.uint8))
        frame = replace(frame, t_exposure_s=index * 0.1, t_arrival_s=index * 0.1)
        recorder.write(Update(frame, Detections.empty(), Tracks(rows)))
    recorder.close()


def test_command_writes_classes_that_summary_and_plot_show(tmp_path: Path) -> None:
    path, seen, shines = two_channels(6, n_frames=40)
    record(tmp_path / "a", dict(enumerate(path)))
    record(tmp_path / "b", seen)
    run, by = str(tmp_path / "a"), str(tmp_path / "b")
    result = CliRunner().invoke(app, ["classify", run, "--by", by, "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    assert facts["co_located"] + facts["not_co_located"] >= 95
    assert facts["registration"]["rotation_deg"] == pytest.approx(-2, abs=0.05)
    with Recording(run) as recording:
        table = track_summary(recording)
    decided = table["class"] >= 0
    assert ((table["class"] == 1) == shines)[decided].all()
    picture = tmp_path / "p.png"
    arguments = ["plot", run, "--polarizability", "--classes", "-o", str(picture)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert picture.stat().st_size > 10_000


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    places = {k: np.ones((2, 2)) for k in range(20)}
    record(tmp_path / "a", places)
    record(tmp_path / "px", places, pixel_size_um=float("nan"))
    run = str(tmp_path / "a")
    for arguments, words in [
        (["classify", run], "--by"),
        (["classify", run, "--by", str(tmp_path / "px")], "pixel size"),
        (["classify", run, "--by-channel", "GFP"], "no track in channel 'GFP'"),
        (["classify", run, "--by", run, "--within", "0"], "above 0 um"),
        (["plot", run, "--classes"], "run `classify` first"),
    ]:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code and words in str(result.exception), result.output
