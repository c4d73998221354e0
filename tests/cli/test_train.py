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
