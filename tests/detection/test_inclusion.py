"""Only the wanted part of a frame is learnt from, searched and counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from lodestar_live.cli import app
from lodestar_live.detection import Detector
from lodestar_live.errors import InputError
from lodestar_live.live.assemble import open_detector
from lodestar_live.live.first_model import _command
from lodestar_live.settings import DetectionSettings, TrainingSettings
from lodestar_live.training import train
from lodestar_live.training.particle.choose import choose_particle

SHAPE = (200, 240)
GRID = np.argwhere(np.ones((4, 5))) * 44 + 34


@pytest.fixture(scope="module")
def field() -> np.ndarray:
    """Twenty beads; those on the right are three times as bright."""
    y, x = np.indices(SHAPE)
    image = np.random.default_rng(4).normal(100, 2, SHAPE)
    for row, column in GRID:
        height = 120 if column >= 120 else 40
        image += height * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 8)
    return image


@pytest.fixture(scope="module")
def left() -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[:, :120] = 255
    return mask


@pytest.fixture(scope="module")
def model(field) -> bytes:
    return train(field, at=tuple(GRID[6]), seed=0, steps=300).to_bytes()


def test_what_lies_outside_is_not_found(model, field, left) -> None:
    everything = Detector(model)(field).positions_px
    assert len(everything) == len(GRID)
    for chosen in (
        Detector(model, mask=left),
        Detector(model, region_px=(0, 0, 200, 120)),
        Detector(model, mask=left, region_px=(0, 0, 1000, 1000)),
    ):
        found = chosen(field).positions_px
        assert len(found) == (GRID[:, 1] < 120).sum()
        assert (found[:, 1] < 120).all()
        near = chosen.near(field, GRID).positions_px
        np.testing.assert_allclose(np.sort(near, 0), np.sort(found, 0), atol=1e-3)
    both = Detector(model, mask=left, region_px=(0, 0, 60, 240))(field).positions_px
    assert len(both) == ((GRID[:, 1] < 120) & (GRID[:, 0] < 60)).sum()


def test_a_particle_is_chosen_where_one_is_wanted(field, left) -> None:
    assert choose_particle(field, left > 0).at_px[1] < 120
    assert choose_particle(field, left == 0).at_px[1] >= 120


def test_training_learns_inside_only(field, left) -> None:
    trained = train(field, mask=left, seed=1, steps=100)
    assert trained.card.crop.at_px[1] < 120


def test_engines_are_tried_on_a_part_of_a_large_frame_that_has_a_mask(
    model, field, left
) -> None:
    frame, mask = np.tile(field, (8, 6)), np.tile(left, (8, 6))
    detector = Detector(model, mask=mask, region_px=(0, 0, 400, 1440))
    before = detector(frame).positions_px
    assert detector.choose_engine(frame)
    after = detector(frame).positions_px
    assert len(after) == len(before) == 2 * 6 * (GRID[:, 1] < 120).sum()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mask": np.zeros(SHAPE)}, "0 pixels set"),
        ({"mask": np.ones((2, *SHAPE))}, "one grey image"),
        ({"region_px": (5, 5, 5, 9)}, "region_px"),
        ({"region_px": (0, 0, 5)}, "region_px"),
    ],
)
def test_what_is_no_part_of_a_frame_is_refused(model, given, said) -> None:
    with pytest.raises(InputError, match=said):
        Detector(model, **given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mask": np.ones((50, 60))}, "same size"),
        ({"region_px": (500, 0, 600, 60)}, "overlaps"),
    ],
)
def test_a_mask_of_another_frame_is_refused(model, field, given, said) -> None:
    with pytest.raises(InputError, match=said):
        Detector(model, **given)(field)


def test_settings_and_options_reach_detector_and_training(
    tmp_path: Path, model, field, left
) -> None:
    file, mask, image = (tmp_path / n for n in ("m.onnx", "mask.tif", "image.tif"))
    file.write_bytes(model)
    tifffile.imwrite(mask, left)
    tifffile.imwrite(image, field.astype(np.float32))
    settings = DetectionSettings(mask=str(mask), region_px=(0, 0, 60, 240))
    n_both = ((GRID[:, 1] < 120) & (GRID[:, 0] < 60)).sum()
    assert len(open_detector(file, settings)(field)) == n_both

    command = _command(image, file, TrainingSettings(not_at_px=(9, 8)), settings)
    assert command[command.index("--mask") + 1] == str(mask)
    assert command[command.index("--region") + 1] == "0,0,60,240"
    assert command[command.index("--not-at") + 1] == "9.0,8.0"

    out = tmp_path / "found.csv"
    arguments = ["detect", str(image), str(file), "-o", str(out)]
    arguments += ["--mask", str(mask), "--region", "0,0,60,240"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert len(out.read_text().splitlines()) == 1 + n_both

    refused = CliRunner().invoke(app, [*arguments, "--region", "0,0"])
    assert "Y0,X0,Y1,X1" in str(refused.exception) + refused.output
