"""A recorded off-axis movie through the whole live pipeline into a run file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from lodestar_live.errors import SettingsError
from lodestar_live.holography import Optics
from lodestar_live.live import LiveTracker
from lodestar_live.live.replay import replay_movie
from lodestar_live.recording import Recording
from lodestar_live.settings import Settings, load_settings
from lodestar_live.simulation.holograms import OffAxisCamera, Sphere, brownian_movie

ROOT = Path(__file__).resolve().parents[2]
OPTICS = Optics(wavelength_um=0.633, pixel_size_um=0.228)


def preset(**changes: object) -> Settings:
    settings = load_settings(ROOT / "config" / "offaxis_hologram.toml")
    streams = settings.streams.model_copy(update={"enabled": False})
    linking = settings.linking.model_copy(update={"method": "nearest"})
    return settings.model_copy(
        update={"streams": streams, "linking": linking, **changes}
    )


def test_preset_records_z_and_polarizability_of_every_sphere(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    spheres = [Sphere(40, 40, 2.0), Sphere(85, 50, -1.5), Sphere(60, 95, 0.5)]
    movie = brownian_movie(
        spheres, (128, 128), OPTICS, rng, n_frames=10, drift=0.5, noise=0.0,
        diffusion_um2_per_s=0.2,
    )  # fmt: skip
    camera = OffAxisCamera()
    frames = np.stack([camera.expose(movie.wave(i), rng) for i in range(10)])
    blank = np.stack([camera.expose(movie.background(0), rng) for _ in range(4)])
    tifffile.imwrite(tmp_path / "movie.tif", frames, photometric="minisblack")
    tifffile.imwrite(tmp_path / "blank.tif", blank, photometric="minisblack")
    settings = preset()
    assert settings.holography is not None
    holography = settings.holography.model_copy(
        update={
            "background_file": str(tmp_path / "blank.tif"),
            "background_frames": 0,
            "background_rate": 0.0,
        }
    )
    tracker = replay_movie(
        tmp_path / "movie.tif",
        settings.model_copy(update={"holography": holography}),
        out=tmp_path / "runs",
    )
    summary = tracker.summary()
    assert summary.counts.failed == 0, summary.first_error
    assert summary.counts.processed == 10
    with Recording(tracker.run_folder) as recording:
        rows = recording.tracks()
    rows = rows[rows["missed_frames"] == 0]
    errors = []
    for row in rows:
        truth = np.array([[s.y_px, s.x_px, s.z_um] for s in movie.truth(row["frame"])])
        away = np.hypot(truth[:, 0] - row["y_px"], truth[:, 1] - row["x_px"])
        assert away.min() < 1
        errors.append(row["z_um"] - truth[np.argmin(away), 2])
    assert len(errors) >= 27
    assert np.std(errors) < 0.05
    assert abs(np.median(errors)) < 0.1
    assert np.median(rows["polarizability_um3"]) == pytest.approx(0.018, rel=0.1)


def test_offaxis_without_a_field_model_is_refused() -> None:
    settings = preset()
    no_model = settings.detection.model_copy(update={"model": None})
    tracker = LiveTracker(settings.model_copy(update={"detection": no_model}))
    with pytest.raises(SettingsError, match="model of fields"), tracker:
        pass


def test_inline_may_train_on_the_first_frame(tmp_path: Path) -> None:
    settings = load_settings(ROOT / "config" / "inline_hologram.toml")
    sections = {
        "detection": {"model": None},
        "streams": {"enabled": False},
        "recording": {"folder": str(tmp_path)},
    }
    changes = {
        name: getattr(settings, name).model_copy(update=values)
        for name, values in sections.items()
    }
    with LiveTracker(settings.model_copy(update=changes)) as tracker:
        assert not tracker.wait_until_tracking(0)  # it waits for a frame to learn from
    assert tracker.first_error is None


def test_following_on_offaxis_holograms_is_refused(tmp_path: Path) -> None:
    settings = preset()
    control = settings.control.model_copy(update={"follow": True})
    tracker = LiveTracker(settings.model_copy(update={"control": control}))
    with pytest.raises(SettingsError, match="pixels of another size"), tracker:
        pass
