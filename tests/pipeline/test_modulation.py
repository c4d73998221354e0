"""A stage that swings takes out a still background, of intensities and of fields."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from typer.testing import CliRunner

from lodestar_live.cli import app
from lodestar_live.data import Frame, StagePosition
from lodestar_live.detection import Detector
from lodestar_live.errors import InputError, SettingsError
from lodestar_live.live.replay import replay_movie
from lodestar_live.pipeline.modulation import ModulatedBackground, median_of
from lodestar_live.recording import Recording
from lodestar_live.settings import ModulationSettings, parse_settings
from tests.detection import networks
from tests.pipeline.swinging import PIXEL_UM, SwingingScene, match, recall_and_rms

N_FRAMES, HALF = 160, 20  # frames; of half a period


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "spots.onnx"
    path.write_bytes(networks.model(networks.spot_finder(), threshold=-1.5))
    return path


def stage_at(index: int) -> StagePosition:
    return StagePosition(0.0, 0.0, 0.55 if index // HALF % 2 else -0.55)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """A Micro-Manager stack of a swinging stage, and the scene with its truth."""
    path = tmp_path_factory.mktemp("film") / "swing_MMStack.ome.tif"
    scene = SwingingScene()
    with tifffile.TiffWriter(path) as writer:
        for t in range(N_FRAMES):
            stage = stage_at(t)
            metadata = {
                "FrameIndex": t, "ChannelIndex": 0, "SliceIndex": 0, "Channel": "x",
                "ElapsedTime-ms": 30.0 * t, "Exposure-ms": 10.0,
                "PixelSizeUm": PIXEL_UM, "XPositionUm": stage.x_um,
                "YPositionUm": stage.y_um, "ZPositionUm": 0.0,
            }  # fmt: skip
            writer.write(
                scene.render(stage), contiguous=False, metadata=None,
                extratags=[(51123, "s", 0, json.dumps(metadata), True)],
            )  # fmt: skip
    yield path, scene


def reference(model: Path, scene: SwingingScene, first: int) -> tuple[float, float]:
    """Return recall and error where there is no background at all."""
    detector = Detector(model, engine="cpu")
    found = [detector(plain.astype(np.float32)) for plain in scene.plain[first:]]
    return recall_and_rms(
        [
            match(f.positions_px, t)
            for f, t in zip(found, scene.truth_px[first:], strict=True)
        ]
    )


def test_detect_finds_what_moves_with_the_stage(
    recording, model: Path, tmp_path: Path
) -> None:
    path, scene = recording
    first = 2 * HALF  # when each end was visited once
    results = {}
    for name, options in {"raw": [], "moved": ["--subtract-moved", "0.7"]}.items():
        out = tmp_path / f"{name}.csv"
        command = ["detect", str(path), str(model), "-o", str(out), *options]
        done = CliRunner().invoke(app, [*command, "--engine", "cpu"])
        assert done.exit_code == 0, done.output
        table = pd.read_csv(out)
        places = [
            table.loc[table["frame"] == t, ["y_px", "x_px"]].to_numpy()
            for t in range(first, N_FRAMES)
        ]
        truth = scene.truth_px[first:]
        errors = [match(f, t) for f, t in zip(places, truth, strict=True)]
        n_false = (
            sum(map(len, places)) - np.isfinite(np.concatenate(errors)[:, 0]).sum()
        )
        results[name] = (*recall_and_rms(errors), n_false / sum(map(len, truth)))
        if name == "moved":
            assert table["frame"].min() >= HALF  # nothing before the first offset
    plain_recall, plain_rms = reference(model, scene, first)
    assert plain_recall > 0.98
    assert results["raw"][0] < 0.5
    recall, rms, false_share = results["moved"]
    assert recall >= 0.98
    assert rms <= 1.2 * plain_rms
    assert false_share <= 0.02


def test_replay_links_in_the_sample_while_the_stage_swings(
    recording, model: Path, tmp_path: Path
) -> None:
    path, scene = recording
    settings = parse_settings(
        {
            "streams": {"enabled": False},
            "detection": {"engine": "cpu"},
            "modulation": {"period_s": 1.2},
        }
    )
    run = replay_movie(path, settings, model=model, out=tmp_path / "run")
    with Recording(run.run_folder) as kept:
        rows = kept.tracks(min_frames=20, measured_only=True)
    rows = rows[rows["frame"] >= 2 * HALF]
    assert len(rows) > 0.97 * 8 * (N_FRAMES - 2 * HALF)
    truth = np.array(scene.truth_um)
    at_um = np.column_stack([rows["y_um"], rows["x_um"]])
    error = np.linalg.norm(truth[rows["frame"]] - at_um[:, None], axis=2)
    particle = error.argmin(axis=1)
    per_axis_um = np.sqrt(np.mean(error.min(axis=1) ** 2) / 2)
    _, plain_rms = reference(model, scene, 2 * HALF)
    assert per_axis_um < 1.2 * plain_rms * PIXEL_UM
    np.testing.assert_allclose(rows["t_exposure_s"], 0.03 * rows["frame"], atol=1e-6)
    for track in np.unique(rows["track_id"]):
        assert len(np.unique(particle[rows["track_id"] == track])) == 1


@pytest.mark.parametrize("n", [1, 2, 5, 8, 13, 32, 37])
def test_median_is_numpys(n: int) -> None:
    stack = np.random.default_rng(n).integers(0, 4000, (n, 21, 7)).astype(np.uint16)
    assert np.array_equal(median_of(list(stack)), np.median(stack, axis=0))


def test_fields_are_divided_by_the_still_field() -> None:
    """A particle's phase comes back where it is; fringes 30 times as strong do not."""
    rng = np.random.default_rng(1)
    y, x = np.indices((96, 96))
    still = np.exp(1j * (3.0 * np.sin(y / 7) * np.cos(x / 11))).astype(np.complex64)
    step = ModulatedBackground(ModulationSettings(n_frames=16, period_s=2.0))
    worst = []
    for t in range(120):
        where = 48 + rng.uniform(-25, 25, 2) * [1, 1]
        bump = 0.1 * np.exp(-((y - where[0]) ** 2 + (x - where[1]) ** 2) / (2 * 2.5**2))
        noise = rng.normal(0, 0.002, (2, 96, 96))
        field = still * np.exp(1j * bump) + noise[0] + 1j * noise[1]
        stage = StagePosition(0.0, 0.0, 0.55 if t // 25 % 2 else -0.55)
        frame = Frame(t, field.astype(np.complex64), 0.04 * t, stage_um=stage)
        phase = np.angle(step(frame).pixels)
        if t >= 80:
            worst.append(np.abs(phase - bump).max())
        elif t < 25:
            assert not phase.any()
    assert np.median(worst) < 0.02  # of .1 rad; 5 sigma of the noise is .01


def test_what_cannot_be_paired_is_refused(model: Path, tmp_path: Path) -> None:
    step = ModulatedBackground(ModulationSettings())
    frame = Frame(0, np.zeros((16, 16), np.uint16), 0.0)
    with pytest.raises(InputError, match="stage's position is not known"):
        step(frame)
    assert not step(replace(frame, stage_um=StagePosition(0.0, 0.0, 0.0))).pixels.any()
    np.save(tmp_path / "a.npy", np.zeros((4, 64, 64), np.uint16))
    settings = parse_settings({"streams": {"enabled": False}, "modulation": {}})
    with pytest.raises(SettingsError, match="does not say where the stage stood"):
        replay_movie(tmp_path / "a.npy", settings, model=model, out=tmp_path / "r")
    rest = ["-o", str(tmp_path / "o.onnx"), "--subtract-moved", "0.7"]
    for words in (["detect", "a.npy", model], ["train", "a.npy"]):
        command = [words[0], str(tmp_path / words[1]), *map(str, words[2:]), *rest]
        with pytest.raises(InputError, match="does not say where the stage stood"):
            CliRunner().invoke(app, command, catch_exceptions=False)
