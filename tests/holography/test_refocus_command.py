"""``lodestar-live refocus`` on files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from lodestar_live.cli import app
from lodestar_live.errors import InputError
from lodestar_live.holography import Optics
from lodestar_live.settings import load_settings
from lodestar_live.simulation.holograms import OffAxisCamera, Sphere, render_field

FIELD = Optics(wavelength_um=0.633, pixel_size_um=0.228)
OPTICS = ["--wavelength-um", "0.633", "--pixel-size-um", "0.057"]
ROOT = Path(__file__).resolve().parents[2]


def refocus(*arguments: object) -> dict:
    result = CliRunner().invoke(
        app, ["refocus", *map(str, arguments), "--json"], catch_exceptions=False
    )
    assert result.exit_code == 0
    return json.loads(result.output)


@pytest.fixture
def hologram(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    field = render_field([Sphere(64, 70, 2.0)], (128, 128), FIELD)
    path = tmp_path / "hologram.tif"
    tifffile.imwrite(path, OffAxisCamera().expose(field, rng))
    blank = [OffAxisCamera().expose(np.ones((128, 128)), rng) for _ in range(4)]
    tifffile.imwrite(tmp_path / "blank.tif", np.stack(blank), photometric="minisblack")
    return path


def test_particle_is_brought_into_focus(hologram: Path, tmp_path: Path) -> None:
    answer = refocus(
        hologram, *OPTICS, "--background", tmp_path / "blank.tif", "--at", "64,70",
        "-o", tmp_path / "sharp.npy", "--picture", tmp_path / "sharp.png",
    )  # fmt: skip
    (particle,) = answer["particles"]
    assert particle["z_um"] == pytest.approx(2.05, abs=0.1)
    assert particle["polarizability_um3"] == pytest.approx(0.0188, rel=0.2)
    assert answer["factor"] == 4
    sharp = np.load(tmp_path / "sharp.npy")
    assert sharp.shape == (1, 128, 128)
    assert abs(sharp[0, 64, 70] - 1) > 0.8
    assert (tmp_path / "sharp.png").stat().st_size > 10_000


def test_planes_too_far_for_the_window_are_said_to_be(hologram: Path) -> None:
    for z_um, is_far in ((2.0, False), (6.0, True)):
        result = CliRunner().invoke(
            app, ["refocus", str(hologram), *OPTICS, "--z", z_um]
        )
        # 128 px of 0.228 µm hold the steepest rays (tan 4.6) up to 3.2 µm.
        assert ("beyond 3.2 µm planes lose" in result.output) is is_far


def test_stack_is_written_for_imagej(hologram: Path, tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    answer = refocus(hologram, *OPTICS, "--stack", "-1,3,0.5", "-o", path)
    assert answer["planes_um"] == pytest.approx(np.arange(-1, 3.1, 0.5))
    with tifffile.TiffFile(path) as file:
        assert file.series[0].axes == "ZCYX"
        amplitude, phase = file.asarray()[6]  # z = 2
    assert phase[64, 70] > 0.6
    assert np.median(amplitude) == pytest.approx(1, abs=0.05)
    assert abs(np.median(phase)) < 0.05


def test_real_hologram_refocuses(real_data: Path, tmp_path: Path) -> None:
    cell = real_data / "offaxis_cell" / "hologram_cell.npz"
    answer = refocus(
        cell, "--wavelength-um", "0.633", "--pixel-size-um", "0.14", "--na", "0.3",
        "--z", "0", "--z", "2", "--picture", tmp_path / "cell.png",
    )  # fmt: skip
    assert answer["carrier"] is not None
    assert answer["planes_um"] == [0, 2]


def test_mistakes_are_named(hologram: Path) -> None:
    for arguments, match in (
        ([], "--wavelength-um"),
        ([*OPTICS, "--at", "3"], "2 numbers"),
        ([*OPTICS, "--stack", "1,0,1"], "LOW <= HIGH"),
        ([*OPTICS, "--frame", "9"], "holds 1 images"),
        ([*OPTICS, "-o", "field.jpg"], "ending in .npy"),
    ):
        with pytest.raises(InputError, match=match):
            refocus(hologram, *arguments)


@pytest.mark.parametrize("name", ["offaxis_hologram", "inline_hologram"])
def test_presets_load(name: str) -> None:
    settings = load_settings(ROOT / "config" / f"{name}.toml")
    assert settings.holography is not None
    assert settings.holography.wavelength_um == 0.633
