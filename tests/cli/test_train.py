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
from lodestar_live.simulation import shapes


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = shapes.sample("sphere", 1, snr=10, seed=50).images[0]
    path = tmp_path / "crop.npy"
    np.save(path, (100 + 1000 * pixels).astype(np.uint16))
    return path


def test_train_writes_a_model_and_a_picture(image: Path, tmp_path: Path) -> None:
    output = tmp_path / "sphere.onnx"
    result = CliRunner().invoke(
        app,
        ["train", str(image), "-o", str(output), "--steps", "100", "--json"],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    assert len(json.loads(result.stdout.splitlines()[-1])["crop"]["at_px"]) == 2
    assert Detector(output).card["training"]["steps"] == 100
    assert (tmp_path / "training.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--at", "12"], "expected Y,X"),
        (["--at", "500,20", "--size", "32"], "outside the image"),
        (["--size", "4"], "crop size 4"),
    ],
)
def test_bad_options_say_what_is_expected(
    image: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    arguments = ["train", str(image), "-o", str(tmp_path / "m.onnx"), *options]
    with pytest.raises(InputError, match=message):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
