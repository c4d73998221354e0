"""The holographic presets in real acquisitions, with rendered pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lodestar_live.data import Update
from lodestar_live.demo.holograms import record_background
from lodestar_live.holography import Optics
from lodestar_live.live import LiveTracker
from lodestar_live.live.clock import RunClock
from lodestar_live.live.session import run_session
from lodestar_live.microscope import Microscope, substitute_pixels
from lodestar_live.recording import Recording
from lodestar_live.resources import find
from lodestar_live.settings import Settings, load_settings
from lodestar_live.simulation.hologram_scene import Drop, HologramScene, Species
from lodestar_live.simulation.holograms import InlineCamera, OffAxisCamera
from lodestar_live.streams import Message, Subscriber
from lodestar_live.view import write_hologram_report
from lodestar_live.view.figures.run_files import field_of

pytestmark = pytest.mark.system
_FRAMES = 24


def preset(name: str, folder: Path, empty: Path) -> Settings:
    """Return the shipped preset, short, with the background in a file."""
    settings = load_settings(find("config", name))
    assert settings.holography is not None
    changes = {
        "acquisition": {"n_frames": _FRAMES, "exposure_ms": 5.0},
        "live": {"mode": "every"},
        "recording": {"folder": str(folder)},
        "streams": {"stream": "tcp://127.0.0.1:0", "latest": "tcp://127.0.0.1:0"},
        "holography": {"background_file": str(empty), "background_frames": 0},
    }
    sections = {
        name: getattr(settings, name).model_copy(update=values)
        for name, values in changes.items()
    }
    return settings.model_copy(update=sections)


def errors(rows: np.ndarray, scene: HologramScene) -> np.ndarray:
    """Return y, x, z errors and the radius of the sphere nearest to each row."""
    found = []
    for row in rows[rows["missed_frames"] == 0]:
        spheres = scene.truth[row["frame"]].spheres
        away = [np.hypot(s.y_px - row["y_px"], s.x_px - row["x_px"]) for s in spheres]
        sphere = spheres[int(np.argmin(away))]
        found.append(
            (row["y_px"] - sphere.y_px, row["x_px"] - sphere.x_px,
             row["z_um"] - sphere.z_um, sphere.radius_um)
        )  # fmt: skip
    return np.array(found)


def test_offaxis_preset_gives_z_and_two_polarizabilities_everywhere(
    microscope: Microscope, tmp_path: Path
) -> None:
    optics = Optics(wavelength_um=0.633, pixel_size_um=0.228)
    drop = Drop(species=(Species(3, 0.228, 1.58, 0.5), Species(2, 0.15, 1.58, 0.7)),
                side_um=18.0)  # fmt: skip
    scene = HologramScene(
        (128, 128), optics, OffAxisCamera(), seed=6, clock=RunClock(), drop=drop
    )
    updates: list[Update] = []
    streamed: list[Message] = []
    subscribers: list[Subscriber] = []
    restore = substitute_pixels(microscope, scene.render)
    try:
        empty = record_background(microscope, tmp_path / "empty.tif")
        scene.truth.clear()

        def listen(tracker: LiveTracker) -> None:
            subscribers.append(Subscriber(tracker.endpoints["stream"], ("tracks",)))
            subscribers[0].call(streamed.append)

        tracker = run_session(
            preset("offaxis_hologram.toml", tmp_path, empty), microscope,
            on_update=updates.append, on_start=listen,
        )  # fmt: skip
        subscribers[0].close()
    finally:
        restore()
    summary = tracker.summary()
    assert summary.counts.processed == _FRAMES, summary.first_error
    with Recording(tracker.run_folder) as recording:
        rows, info = recording.tracks(), recording.info
        picture = write_hologram_report(
            recording, tmp_path / "report.png", kept=field_of(tracker.run_folder)
        )
    assert picture.stat().st_size > 100_000
    assert info.pixel_size_um == pytest.approx(0.228)
    found = errors(rows, scene)
    large = found[:, 3] > 0.2
    assert len(found) > 4 * _FRAMES
    assert np.sqrt(np.mean(found[large, :2] ** 2)) < 0.2
    assert np.std(found[large, 2]) < 0.03
    seen = rows[rows["missed_frames"] == 0]
    for name in ("polarizability_um3", "scale_polarizability_um3"):
        assert np.median(seen[name][large]) == pytest.approx(0.018, rel=0.1)
        assert np.median(seen[name][~large]) == pytest.approx(0.0051, rel=0.35)
    assert len(updates) == _FRAMES
    sent = [m.tracks.rows for m in streamed if m.tracks is not None and m.frame > 4]
    for name in ("z_um", "sigma_z_um", "polarizability_um3"):
        assert np.isfinite(np.concatenate(sent)[name]).mean() > 0.9


def test_inline_preset_gives_z_on_its_side(
    microscope: Microscope, tmp_path: Path
) -> None:
    optics = Optics(wavelength_um=0.633, pixel_size_um=0.228, na=0.8)
    drop = Drop(species=(Species(3, 0.5, 1.58, 0.4),), side_um=30.0,
                depth_um=(5.0, 12.0), coherent=0.0, drift=0.0)  # fmt: skip
    scene = HologramScene(
        (192, 192), optics, InlineCamera(), seed=2, clock=RunClock(), drop=drop
    )
    microscope.core.set_roi(0, 0, 192, 192)
    restore = substitute_pixels(microscope, scene.render)
    try:
        empty = record_background(microscope, tmp_path / "empty.tif")
        scene.truth.clear()
        settings = preset("inline_hologram.toml", tmp_path, empty)
        tracker = run_session(settings, microscope)
    finally:
        restore()
    summary = tracker.summary()
    assert summary.counts.processed == _FRAMES, summary.first_error
    with Recording(tracker.run_folder) as recording:
        rows = recording.tracks()
    found = errors(rows, scene)
    assert len(found) > 2.5 * _FRAMES
    assert np.median(np.abs(found[:, :2])) < 0.2
    assert np.median(np.abs(found[:, 2])) < 0.2
    assert np.isnan(rows["polarizability_um3"]).all()  # the phase is lost
