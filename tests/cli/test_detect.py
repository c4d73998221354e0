"""`lodestar-live detect` writes the contract's columns, whole files only."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from lodestar_live.cli import app
from lodestar_live.detection import Detector
from lodestar_live.errors import InputError, ModelError
from tests.detection import networks

HEADER = "frame,y_px,x_px,z_um,polarizability_um3,score,sigma_px"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("detect")
    model = folder / "spots.onnx"
    model.write_bytes(networks.model(networks.spot_finder(), threshold=-1.5))
    rng = np.random.default_rng(0)
    places = [np.empty((0, 2)), np.array([[30.0, 40.0], [80.0, 90.0]])]
    movie = [rng.poisson(networks.spots(yx, (128, 128))) for yx in places]
    tifffile.imwrite(
        folder / "movie.tif",
        np.stack(movie).astype(np.uint16),
        photometric="minisblack",
    )
    return folder / "movie.tif", model


def run(*arguments: object) -> str:
    result = CliRunner().invoke(
        app, ["detect", *map(str, arguments)], catch_exceptions=False
    )
    assert result.exit_code == 0
    return result.stdout


def test_rows_are_the_detectors(files, tmp_path: Path) -> None:
    movie, model = files
    out = tmp_path / "detections.csv"
    summary = json.loads(run(movie, model, "-o", out, "--json"))
    assert summary["detections"] == 2 and summary["frames"] == 2
    assert out.read_text().splitlines()[0] == HEADER
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["frame"] for row in rows] == ["1", "1"]
    found = Detector(model)(tifffile.imread(movie)[1])
    written = [[float(row["y_px"]), float(row["x_px"])] for row in rows]
    np.testing.assert_allclose(written, found.positions_px, atol=1e-5)
    assert {row["z_um"] for row in rows} == {"nan"}
    assert [p.name for p in tmp_path.iterdir()] == ["detections.csv"]


def test_options_reach_the_detector(files, tmp_path: Path) -> None:
    movie, model = files
    out = tmp_path / "some.csv"
    assert "cut" in run(movie, model, "-o", out, "--max-detections", 1)
    few = out.read_text().splitlines()
    run(movie, model, "-o", out, "--threshold", 1e9)
    assert (len(few), len(out.read_text().splitlines())) == (2, 1)


def test_what_cannot_be_read_or_written_is_said(files, tmp_path: Path) -> None:
    movie, model = files
    with pytest.raises(InputError, match="no such file"):
        run(tmp_path / "none.tif", model, "-o", tmp_path / "a.csv")
    with pytest.raises(ModelError, match="cannot be read"):
        run(movie, tmp_path / "none.onnx", "-o", tmp_path / "a.csv")
    with pytest.raises(InputError, match="cannot be written"):
        run(movie, model, "-o", tmp_path / "none" / "a.csv")
