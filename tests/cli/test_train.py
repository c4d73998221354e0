"""`lodestar-live train`: from an image file to a model and a picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lodestar_live.cli import app
from lodestar_live.detection import Detector
from lodestar_live.errors import InputError
from tests.simulation import shapes


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = shapes.sample("sphere", 1, snr=10, seed=50).images[0]
    path = tmp_path / "crop.npy"
    np.save(path, (100 + 1000 * pixels).astype(np.uint16))
    return path


def test_train_writes_a_model_and_a_picture(image: Path, tmp_path: Path) -> None:
    output = tmp_path / "sphere.onnx"
    arguments = ["train", str(image), "-o", str(output), "--steps", "100", "--json"]
    arguments += ["--start", "warm"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert len(json.loads(result.stdout.splitlines()[-1])["crop"]["at_px"]) == 2
    training = Detector(output).card.training
    assert (training.steps, training.start) == (100, "warm")
    assert (tmp_path / "training.png").stat().st_size > 10_000


def test_each_at_is_one_more_crop(tmp_path: Path) -> None:
    pixels = [
        shapes.sample(s, 1, snr=10, seed=50).images[0] for s in ("sphere", "point")
    ]
    image, output = tmp_path / "two.npy", tmp_path / "two.onnx"
    np.save(image, (100 + 1000 * np.hstack(pixels)).astype(np.uint16))
    arguments = ["train", str(image), "-o", str(output), "--size", "48"]
    arguments += ["--at", "31.5,31.5", "--at", "31.5,95.5", "--steps", "150"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "(31.5, 31.5; 31.5, 95.5), crop 48 px" in result.stderr
    crops = Detector(output).card.crops
    assert [crop.at_px for crop in crops] == [(31.5, 31.5), (31.5, 95.5)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--at", "12"], "expected Y,X"),
        (["--at", "30,30", "--at", "12"], "--at 12: expected Y,X"),
        (["--at", "500,20", "--size", "32"], "outside the image"),
        (["--size", "4"], "crop size 4"),
        (["--network", "paper", "--start", "warm"], "only 'live' has generic weights"),
    ],
)
def test_bad_options_say_what_is_expected(
    image: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    arguments = ["train", str(image), "-o", str(tmp_path / "m.onnx"), *options]
    with pytest.raises(InputError, match=message):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_what_is_not_wanted_is_not_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    places = 50.0 * (np.argwhere(np.ones((7, 7))) + 1) + rng.uniform(-5, 5, (49, 2))
    pixels = rng.normal(1, 0.05, (400, 400))
    for index, place in enumerate(places):  # every second one is longer
        aspect, angle = 1.3 if index % 2 else 1.0, rng.uniform(0, np.pi)
        y, x = np.indices(pixels.shape) - place[:, None, None]
        along = (y * np.cos(angle) + x * np.sin(angle)) / np.sqrt(aspect)
        across = (x * np.cos(angle) - y * np.sin(angle)) * np.sqrt(aspect)
        pixels += 1 / (1 + np.exp((np.hypot(along, across) - 9) / 1.5))
    image, output = tmp_path / "two_kinds.npy", tmp_path / "round.onnx"
    np.save(image, pixels.astype(np.float32))
    arguments = ["train", str(image), "-o", str(output), "--size", "40"]
    for option, (y, x) in zip(("--at", "--not-at"), places[:2], strict=True):
        arguments += [option, f"{y:.1f},{x:.1f}"]
    arguments += ["--steps", "300"]  # without --not-at, 24 of the long ones are found
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    rows = Detector(output)(pixels.astype(np.float32)).rows
    found = np.column_stack([rows["y_px"], rows["x_px"]])
    apart = np.hypot(*(places[:, None] - found[None]).transpose(2, 0, 1)).min(axis=1)
    assert (apart[::2] < 4).sum() >= 24
    assert (apart[1::2] < 4).sum() <= 1
