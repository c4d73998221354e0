"""`calibrate --z` on the real core: its focus drive, rendered holograms."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lodestar_live import microscope as room
from lodestar_live.cli import app
from lodestar_live.data import Detections, Frame, StagePosition
from lodestar_live.errors import CalibrationError, SettingsError
from lodestar_live.holography import HologramPreparer, Optics, ParticleRefiner
from lodestar_live.live.clock import RunClock
from lodestar_live.microscope import Microscope, substitute_pixels
from lodestar_live.resources import find
from lodestar_live.settings import load_settings
from lodestar_live.simulation.hologram_scene import Drop, HologramScene, Species
from lodestar_live.simulation.holograms import OffAxisCamera

pytestmark = pytest.mark.system
PRESET = find("config", "offaxis_hologram.toml")
STUCK = Species(1, 0.228, 1.58, 0.0)


def stuck_bead(ratio: float) -> HologramScene:
    """Return one sphere on the glass, 0.6 µm above the focal plane at drive 0."""
    drop = Drop(
        species=(STUCK,), side_um=6.0, depth_um=(0.6, 0.6001), focus_ratio=ratio
    )
    optics = Optics(wavelength_um=0.633, pixel_size_um=0.228)
    return HologramScene(
        (128, 128), optics, OffAxisCamera(), seed=1, clock=RunClock(), drop=drop
    )


@contextmanager
def showing(
    microscope: Microscope, scene: HologramScene, monkeypatch
) -> Iterator[None]:
    """Let the command find this core, with the scene's pixels."""

    @contextmanager
    def opened(settings) -> Iterator[Microscope]:
        yield microscope

    monkeypatch.setattr(room, "open_microscope", opened)
    restore = substitute_pixels(microscope, scene.render)
    try:
        yield
    finally:
        restore()


@pytest.mark.parametrize("direction", [1, -1])
def test_sweep_gives_scale_sign_and_offset(
    microscope: Microscope, tmp_path: Path, monkeypatch, direction: int
) -> None:
    scene = stuck_bead(direction * 1.33 / 1.5)
    out = tmp_path / "z.toml"
    command = ["calibrate", str(PRESET), "--z", "2.5", "--out", str(out), "--json"]
    # Sharp where the focal plane meets the sphere.
    sharp_um = direction * 0.6 * 1.5 / 1.33
    with showing(microscope, scene, monkeypatch):
        result = CliRunner().invoke(app, [*command, "--sharp-at", str(sharp_um)])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["z_scale"] == pytest.approx(direction * 1.5 / 1.33, rel=0.01)
    assert abs(facts["z_offset_um"]) < 0.05
    assert facts["n"] >= 12
    (sphere,) = scene.truth[0].spheres
    assert facts["at_px"] == pytest.approx([sphere.y_px, sphere.x_px], abs=0.5)
    assert microscope.core.get_position() == pytest.approx(0.0)  # it came back
    written = tomllib.loads(out.read_text())["holography"]
    assert written["z_scale"] == pytest.approx(facts["z_scale"], abs=1e-4)


def test_nothing_is_applied_until_the_user_does(
    microscope: Microscope, tmp_path: Path, monkeypatch
) -> None:
    scene = stuck_bead(1.33 / 1.5)
    pixels = scene.render(StagePosition(-1.0, 0.0, 0.0))
    settings = load_settings(PRESET).holography
    assert settings is not None
    assert (settings.z_scale, settings.z_offset_um) == (1.0, 0.0)
    (sphere,) = scene.truth[-1].spheres
    here = Detections.from_positions([[sphere.y_px, sphere.x_px]])
    settings = settings.model_copy(update={"background_frames": 0})
    for z_scale, factor in ((1.0, 1.0), (1.5 / 1.33, 1.5 / 1.33)):
        told = settings.model_copy(update={"z_scale": z_scale})
        frame = HologramPreparer(told)(Frame(0, pixels))
        z_um = ParticleRefiner(told)(frame, here).rows["z_um"][0]
        # An ideal point's z, 0.05 µm downstream of the sphere's.
        assert z_um == pytest.approx(factor * sphere.z_um, abs=0.12)


def test_sweeps_that_cannot_be_are_refused(
    microscope: Microscope, tmp_path: Path, monkeypatch
) -> None:
    config = tmp_path / "no_z.toml"
    plain = tmp_path / "plain.toml"
    plain.write_text('name = "fluorescence"\n', encoding="utf-8")
    limits = "limits = { y_um = [-9.0, 9.0], x_um = [-9.0, 9.0] }"
    config.write_text(
        f"[control]\n{limits}\n[holography]\nwavelength_um = 0.633\n", encoding="utf-8"
    )
    moving = Drop(species=(Species(1, 0.228, 1.58, 400.0),), side_um=8.0)
    scene = stuck_bead(0.9)
    scene = HologramScene(
        scene.shape, scene.optics, scene.camera, clock=RunClock(), drop=moving
    )
    cases = (
        (str(config), SettingsError, "no z_um"),
        (str(plain), CalibrationError, "no holography section"),
        (str(PRESET), CalibrationError, "stuck, lone"),
    )
    with showing(microscope, scene, monkeypatch):
        for name, error, message in cases:
            command = ["calibrate", name, "--z", "2", "-o", str(tmp_path / "z.toml")]
            result = CliRunner().invoke(app, command)
            assert isinstance(result.exception, error), result.output
            assert message in str(result.exception)
    assert not (tmp_path / "z.toml").exists()
    assert np.isclose(microscope.core.get_position(), 0.0)
