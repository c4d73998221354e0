"""What a live run asks of the training beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lodestar_live.live.first_model import _command
from lodestar_live.settings import TrainingSettings


@pytest.mark.parametrize(
    ("at_px", "asked"),
    [
        (None, []),
        ((120, 88.5), ["--at", "120.0,88.5"]),
        (((120, 88), (40, 210)), ["--at", "120.0,88.0", "--at", "40.0,210.0"]),
    ],
)
def test_every_particle_of_the_settings_is_learnt_from(at_px, asked) -> None:
    command = _command(Path("a.tif"), Path("m.onnx"), TrainingSettings(at_px=at_px))
    first = command.index("--at") if asked else len(command)
    assert command[first : first + len(asked)] == asked
    assert command.count("--at") == len(asked) // 2


def test_the_angle_is_asked_for_if_the_settings_do() -> None:
    image, model = Path("a.tif"), Path("m.onnx")
    assert "--angle" in _command(image, model, TrainingSettings(angle=True))
    assert "--angle" not in _command(image, model, TrainingSettings())


def test_the_start_of_the_settings_is_passed_on() -> None:
    settings = TrainingSettings(start="warm")
    command = _command(Path("a.tif"), Path("m.onnx"), settings)
    assert command[command.index("--start") + 1] == "warm"
