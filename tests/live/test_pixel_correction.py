"""`detection.correct_pixels` and `detect --raw-pixels` reach the detector."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from lodestar_live.cli import app
from lodestar_live.live.assemble import open_detector
from lodestar_live.settings import parse_settings
from tests.detection import networks

HOT = [(20, 30), (70, 90), (111, 40)]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    """Give a model and a frame of noise with three hot pixels."""
    folder = tmp_path_factory.mktemp("hot")
    model = folder / "model.onnx"
    model.write_bytes(networks.model(networks.spot_finder(), threshold=-1.5))
    frame = np.random.default_rng(0).normal(100, 2, (128, 128)).astype(np.uint16)
    for place in HOT:
        frame[place] = 4000
    tifffile.imwrite(folder / "frame.tif", frame)
    return model, folder / "frame.tif"


@pytest.mark.parametrize(("is_on", "n_corrected"), [(True, 3), (False, 0)])
def test_the_setting_reaches_the_detector(files, is_on: bool, n_corrected: int) -> None:
    model, image = files
    settings = parse_settings({"detection": {"correct_pixels": is_on}})
    detector = open_detector(model, settings.detection)
    detector(tifffile.imread(image))
    assert detector.n_corrected == n_corrected


@pytest.mark.parametrize(("flags", "n_corrected"), [([], 3), (["--raw-pixels"], 0)])
def test_the_command_counts_what_it_corrects(files, tmp_path, flags, n_corrected):
    model, image = files
    arguments = ["detect", str(image), str(model), "-o", str(tmp_path / "d.csv")]
    said = CliRunner().invoke(app, [*arguments, "--json", *flags])
    assert said.exit_code == 0, said.output
    assert json.loads(said.output)["corrected_pixels"] == n_corrected
