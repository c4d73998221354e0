"""Scenes `swimmers` and `beads`: train on one particle, then track and follow.

Scene `beads` leaves the camera's pixels alone and lets the stage make the motion; scene
`swimmers` renders moving particles at the live stage's position in place of the
pixels, so that the stage has something to follow.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile

from lodestar_live.calibration import measure_calibration
from lodestar_live.control import Calibration
from lodestar_live.data import Pixels, Rows, Update
from lodestar_live.demo.addresses import stream_addresses
from lodestar_live.demo.result import DemoResult, score_following
from lodestar_live.demo.worlds import CirclingBeads, MovingSwimmers
from lodestar_live.live import LiveTracker
from lodestar_live.live.first_model import train_and_wait
from lodestar_live.live.session import run_session
from lodestar_live.microscope import (
    CoreStage,
    Microscope,
    open_microscope,
    substitute_pixels,
)
from lodestar_live.recording import Recording
from lodestar_live.resources import find
from lodestar_live.settings import Settings, TrainingSettings, load_settings
from lodestar_live.simulation.score import score_tracks
from lodestar_live.view import write_report

GATE_PX = 4.0
BORDER_PX = 10.0  # a swimmer's radius and soft edge

Say = Callable[[str], object]
Followed = tuple[int, int | None]  # frame, track


def run_particles(
    scene: str,
    *,
    frames: int,
    out: Path,
    port: int,
    training: TrainingSettings,
    say: Say | None,
    on_start: Callable[[LiveTracker], None],
) -> DemoResult:
    """Calibrate, train, track and score; see `run_demo`."""
    tell = say or (lambda text: None)
    settings = _settings(scene, training, frames=frames, out=out, port=port)
    with open_microscope(settings.microscope) as microscope:
        tell("MMCore runs headless with the DemoCamera: fluorescent beads, 16 bit.")
        calibration = _calibrate(microscope, tell)
        world = _world(scene, microscope, calibration, training.seed)
        substitute_pixels(microscope, world.render)
        snapshot = microscope.snap()
        model = train_and_wait(snapshot, training, out, show=say is not None)
        world.forget()
        tell("Acquiring, tracking and publishing ...")
        settings = _with_model(settings, model)
        tracker, targets = _track(settings, microscope, calibration, on_start)
    truth = world.truth(snapshot.shape)
    return _conclude(tracker, truth, targets=targets, snapshot=snapshot)


def _settings(
    scene: str, training: TrainingSettings, *, frames: int, out: Path, port: int
) -> Settings:
    base = load_settings(find("config", "demo.toml"))
    changes = {
        "acquisition": {"n_frames": frames},
        "training": training.model_dump(),
        "control": {"follow": scene == "swimmers"},
        "recording": {"folder": str(out)},
        "streams": stream_addresses(port),
    }
    return base.model_copy(
        update={
            name: getattr(base, name).model_copy(update=values)
            for name, values in changes.items()
        }
    )


def _calibrate(microscope: Microscope, tell: Say) -> Calibration:
    calibration = measure_calibration(
        CoreStage(microscope), microscope.snap, objective=microscope.objective
    )
    tell(f"Stage calibrated on the beads: {calibration.residual_px:.3f} px residual.")
    return calibration


def _with_model(settings: Settings, model: Path) -> Settings:
    detection = settings.detection.model_copy(update={"model": str(model)})
    return settings.model_copy(update={"detection": detection})


def _world(
    scene: str, microscope: Microscope, calibration: Calibration, seed: int
) -> CirclingBeads | MovingSwimmers:
    if scene == "beads":
        return CirclingBeads(CoreStage(microscope), microscope.core.wait_for_system)
    return MovingSwimmers(microscope.snap().shape, calibration, seed)


def _track(
    settings: Settings,
    microscope: Microscope,
    calibration: Calibration,
    on_start: Callable[[LiveTracker], None],
) -> tuple[LiveTracker, list[Followed]]:
    """Return the tracker after its run, and whom it followed in each frame."""
    running: list[LiveTracker] = []
    targets: list[Followed] = []

    def begin(tracker: LiveTracker) -> None:
        running.append(tracker)
        on_start(tracker)

    def on_update(update: Update) -> None:
        controller = running[0].controller
        if controller is not None:
            targets.append((update.frame.index, controller.target_id))

    tracker = run_session(
        settings,
        microscope,
        calibration=calibration,
        on_start=begin,
        on_update=on_update,
    )
    return tracker, targets


def _conclude(
    tracker: LiveTracker,
    truth: Rows,
    *,
    targets: list[Followed],
    snapshot: Pixels,
) -> DemoResult:
    recording = Recording(tracker.run_folder)
    tracks, frames = recording.tracks(), recording.frames()
    processed = frames["frame"][frames["state"] == "processed"]
    shown = truth[np.isin(truth["frame"], processed)]
    score = score_tracks(
        tracks, shown, gate_px=GATE_PX, shape=snapshot.shape, border_px=BORDER_PX
    )
    place = recording.info.model["crop"]
    crop = (*place["at_px"], place["size_px"])
    tifffile.imwrite(tracker.run_folder / "snapshot.tif", snapshot)
    report = write_report(
        recording,
        tracker.run_folder / "report.png",
        snapshot=snapshot,
        crop=crop,
        truth=shown[shown["particle"] >= 0],
    )
    return DemoResult(
        summary=tracker.summary(),
        score=score,
        follow=score_following(
            tracks,
            frames,
            shown,
            targets=targets,
            shape=snapshot.shape,
            gate_px=GATE_PX,
        ),
        crop=crop,
        run_folder=tracker.run_folder,
        report_path=report,
    )
