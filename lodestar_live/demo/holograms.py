"""Scene `holograms`: spheres in three dimensions, with the shipped field model.

Off-axis holograms of Brownian spheres of two sizes take the place of the DemoCamera's
pixels; stage, focus drive, engine and buffer stay the real core's. As at a microscope,
the background is recorded beside the drop, where no sphere is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import tifffile

from lodestar_live.data import Flag, Rows
from lodestar_live.demo.addresses import stream_addresses
from lodestar_live.demo.result import DemoResult, SphereScore
from lodestar_live.holography import Optics, clausius_mossotti_um3
from lodestar_live.live import LiveTracker
from lodestar_live.live.clock import RunClock
from lodestar_live.live.session import run_session
from lodestar_live.microscope import (
    CoreStage,
    Microscope,
    open_microscope,
    substitute_pixels,
)
from lodestar_live.recording import Recording
from lodestar_live.resources import find
from lodestar_live.settings import Settings, load_settings
from lodestar_live.simulation.hologram_scene import HologramScene, SphereTruth
from lodestar_live.simulation.holograms import OffAxisCamera
from lodestar_live.simulation.score import TRUTH_DTYPE, particle_of_track, score_tracks
from lodestar_live.view import write_hologram_report
from lodestar_live.view.figures.run_files import field_of

GATE_PX = 4.0
BORDER_PX = 12.0  # half of what a sphere in focus covers
UNRESOLVED_PX = 10.0  # 2.3 µm: closer spheres may be found as one
BACKGROUND_FRAMES = 16
_BESIDE_UM = 60.0  # from the middle of the drop, in x
_SPHERE_DTYPE = np.dtype(
    [*TRUTH_DTYPE.descr, ("z_um", "f8"), ("radius_um", "f8"),
     ("polarizability_um3", "f8")]
)  # fmt: skip


def run_holograms(
    *,
    frames: int,
    out: Path,
    seed: int,
    port: int,
    tell: Callable[[str], object],
    on_start: Callable[[LiveTracker], None],
) -> DemoResult:
    """Track spheres of two sizes in y, x, z and polarizability; see `run_demo`."""
    settings = _settings(frames=frames, out=out, port=port)
    with open_microscope(settings.microscope) as microscope:
        scene = _scene(settings, microscope, seed)
        substitute_pixels(microscope, scene.render)
        tell("MMCore runs headless; its pixels are off-axis holograms of spheres.")
        empty = record_background(microscope, out / "empty.tif")
        tell(f"Background: {BACKGROUND_FRAMES} holograms beside the drop, {empty}.")
        settings = _with_background(settings, empty)
        scene.truth.clear()
        tell("Acquiring, refocusing, tracking and publishing ...")
        tracker = run_session(settings, microscope, on_start=on_start)
    return _conclude(tracker, scene)


def record_background(microscope: Microscope, path: Path) -> Path:
    """Drive beside the drop, write some holograms of empty medium, drive back."""
    stage = CoreStage(microscope)
    here = stage.position_um()
    stage.move_to_um(here.y_um, here.x_um + _BESIDE_UM)
    microscope.core.wait_for_system()
    try:
        empty = [microscope.snap() for _ in range(BACKGROUND_FRAMES)]
    finally:
        stage.move_to_um(here.y_um, here.x_um)
        microscope.core.wait_for_system()
    tifffile.imwrite(path, np.stack(empty), photometric="minisblack")
    return path


def sphere_truth(shown: Iterable[SphereTruth], *, n_medium: float) -> Rows:
    """Return the spheres of every frame, y and x in field pixels.

    Of spheres closer than `UNRESOLVED_PX` the number is -1: they count neither way.
    """
    parts = [np.zeros(0, _SPHERE_DTYPE)]
    for frame, truth in enumerate(shown):
        rows = np.zeros(len(truth.ids), _SPHERE_DTYPE)
        rows["frame"] = frame
        for row, sphere in zip(rows, truth.spheres, strict=True):
            row["y_px"], row["x_px"], row["z_um"] = (
                sphere.y_px, sphere.x_px, sphere.z_um,
            )  # fmt: skip
            row["radius_um"] = sphere.radius_um
            row["polarizability_um3"] = clausius_mossotti_um3(
                sphere.radius_um, n_particle=sphere.n_particle, n_medium=n_medium
            )
        gap = np.hypot(
            rows["y_px"][:, None] - rows["y_px"], rows["x_px"][:, None] - rows["x_px"]
        )
        np.fill_diagonal(gap, np.inf)
        is_lone = gap.min(axis=1, initial=np.inf) > UNRESOLVED_PX
        rows["particle"] = np.where(is_lone, truth.ids, -1)
        parts.append(rows)
    return np.concatenate(parts)


def score_spheres(
    tracks: Rows, truth: Rows, *, shape: tuple[int, int], pixel_size_um: float
) -> tuple[SphereScore, ...]:
    """Compare z, position and polarizability of each kind of sphere with the truth."""
    names = particle_of_track(tracks, truth, GATE_PX)
    place = {
        (int(row["frame"]), int(row["particle"])): index
        for index, row in enumerate(truth)
        if row["particle"] >= 0
    }
    seen = tracks[tracks["missed_frames"] == 0]
    pairs = [
        (i, place[key])
        for i, row in enumerate(seen)
        if (key := (int(row["frame"]), names.get(_key(row), -1))) in place
    ]
    mine, theirs = np.array(pairs, int).reshape(-1, 2).T
    found, true = seen[mine], truth[theirs]
    yx = np.column_stack([true["y_px"], true["x_px"]])
    inner = np.all((yx > BORDER_PX) & (yx < np.array(shape) - 1 - BORDER_PX), axis=1)
    found, true = found[inner], true[inner]
    return tuple(
        _score_kind(found[one], true[one], pixel_size_um)
        for radius_um in np.unique(true["radius_um"])
        if (one := true["radius_um"] == radius_um).any()
    )


def _score_kind(found: Rows, true: Rows, pixel_size_um: float) -> SphereScore:
    error_z_um = found["z_um"] - true["z_um"]
    error_px = [found[name] - true[name] for name in ("y_px", "x_px")]
    y_um, x_um = (
        pixel_size_um * float(np.sqrt(np.mean(error**2))) for error in error_px
    )
    offset_um = float(np.nanmedian(error_z_um))
    return SphereScore(
        radius_um=float(true["radius_um"][0]),
        n=len(found),
        y_rmse_um=y_um,
        x_rmse_um=x_um,
        z_rmse_um=float(np.sqrt(np.nanmean(error_z_um**2))),
        z_offset_um=offset_um,
        z_scatter_um=float(np.sqrt(np.nanmean((error_z_um - offset_um) ** 2))),
        polarizability_um3=float(np.nanmedian(found["polarizability_um3"])),
        scale_polarizability_um3=float(np.nanmedian(found["scale_polarizability_um3"])),
        theory_um3=float(true["polarizability_um3"][0]),
        n_disagree=int(((found["flags"] & Flag.POLARIZABILITY_DISAGREES) > 0).sum()),
    )


def _key(row: np.void) -> tuple[int, int]:
    return int(row["frame"]), int(row["track_id"])


def _settings(*, frames: int, out: Path, port: int) -> Settings:
    base = load_settings(find("config", "offaxis_hologram.toml"))
    changes: dict[str, Mapping[str, object]] = {
        "microscope": {"backend": "demo"},
        "acquisition": {"n_frames": frames, "exposure_ms": 20.0},
        "recording": {"folder": str(out)},
        "streams": stream_addresses(port),
    }
    sections = {
        name: getattr(base, name).model_copy(update=values)
        for name, values in changes.items()
    }
    return base.model_copy(update=sections)


def _with_background(settings: Settings, empty: Path) -> Settings:
    assert settings.holography is not None  # noqa: S101 - the preset has it
    holography = settings.holography.model_copy(
        update={"background_file": str(empty), "background_frames": 0}
    )
    return settings.model_copy(update={"holography": holography})


def _scene(settings: Settings, microscope: Microscope, seed: int) -> HologramScene:
    """Return a drop whose holograms have the camera's shape and the preset's optics."""
    holography, camera = settings.holography, OffAxisCamera()
    assert holography is not None  # noqa: S101 - the preset has it
    assert holography.pixel_size_um is not None  # noqa: S101
    height, width = (side // camera.factor for side in microscope.snap().shape)
    optics = Optics(
        holography.wavelength_um,
        holography.pixel_size_um * camera.factor,
        holography.n_medium,
        holography.na,
    )
    return HologramScene((height, width), optics, camera, seed=seed, clock=RunClock())


def _conclude(tracker: LiveTracker, scene: HologramScene) -> DemoResult:
    shape = scene.shape
    with Recording(tracker.run_folder) as recording:
        tracks, frames = recording.tracks(), recording.frames()
        truth = sphere_truth(scene.truth, n_medium=scene.optics.n_medium)
        processed = frames["frame"][frames["state"] == "processed"]
        truth = truth[np.isin(truth["frame"], processed)]
        score = score_tracks(
            tracks, truth, gate_px=GATE_PX, shape=shape, border_px=BORDER_PX
        )
        report = write_hologram_report(
            recording,
            tracker.run_folder / "report.png",
            kept=field_of(tracker.run_folder),
            truth=truth[truth["particle"] >= 0],
        )
        pixel_size_um = recording.info.pixel_size_um
    return DemoResult(
        summary=tracker.summary(),
        score=score,
        follow=None,
        crop=None,
        run_folder=tracker.run_folder,
        report_path=report,
        spheres=score_spheres(tracks, truth, shape=shape, pixel_size_um=pixel_size_um),
    )
