"""The embedded demo: the whole mission on the real core, scored against the truth.

The real headless MMCore with the real DemoCamera runs a real pycro-manager
acquisition. Scene `beads` leaves the camera's pixels alone and lets the stage make the
motion; scene `swimmers` renders moving particles at the live stage's position in place
of the pixels, so that the stage has something to follow; scene `holograms` renders
off-axis holograms of spheres (`demo/holograms.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile

from lodestar_live.control import Calibration, measure_calibration
from lodestar_live.data import Pixels, Rows, Update
from lodestar_live.demo.addresses import stream_addresses
from lodestar_live.demo.holograms import run_holograms
from lodestar_live.demo.result import DemoResult, score_following
from lodestar_live.demo.worlds import CirclingBeads, MovingSwimmers
from lodestar_live.errors import SettingsError
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
from lodestar_live.settings import Settings, load_settings
from lodestar_live.simulation.score import score_tracks
from lodestar_live.view import write_report

SCENES = ("swimmers", "beads", "holograms")
GATE_PX = 4.0
BORDER_PX = 10.0  # a swimmer's radius and soft edge

Say = Callable[[str], object]


def run_demo(
    *,
    frames: int = 500,
    out: Path = Path("demo"),
    seed: int = 0,
    scene: str = "swimmers",
    port: int = 5556,
    pick: bool = False,
    say: Say | None = None,
    on_start: Callable[[LiveTracker], None] = lambda tracker: None,
) -> DemoResult:
    """Train on one particle of the demo microscope, then track and follow live.

    Parameters
    ----------
    frames
        Frames to track.
    out
        The run's folder is made in here.
    seed
        Of the scene and of the training.
    scene
        ``swimmers``, ``beads`` or ``holograms`` (the last with the shipped model:
        training on a field takes minutes).
    port
        First of three ZeroMQ ports on 127.0.0.1; 0: any free ones.
    pick
        Let the user click the particle to learn, in the browser.
    say
        Told every step; None: silent.
    on_start
        Called with the tracker before the first frame.

    Raises
    ------
    SettingsError
        Unknown scene.
    LodestarError
        A port is in use, the folder cannot be written, the training failed.
    """
    _check_scene(scene, pick=pick)
    tell = say or (lambda text: None)
    out.mkdir(parents=True, exist_ok=True)
    if scene == "holograms":
        return run_holograms(
            frames=frames, out=out, seed=seed, port=port, tell=tell, on_start=on_start
        )
    settings = _settings(frames=frames, out=out, seed=seed, scene=scene, port=port)
    if pick:
        training = settings.training.model_copy(update={"pick": True})
        settings = settings.model_copy(update={"training": training})
    with open_microscope(settings.microscope) as microscope:
        tell("MMCore runs headless with the DemoCamera: fluorescent beads, 16 bit.")
        calibration = measure_calibration(
            CoreStage(microscope), microscope.snap, objective=microscope.objective
        )
        tell(
            f"Stage calibrated on the beads: {calibration.residual_px:.3f} px residual."
        )
        world = _world(scene, microscope, calibration, seed)
        substitute_pixels(microscope, world.render)
        snapshot = microscope.snap()
        model = train_and_wait(snapshot, settings.training, out, show=say is not None)
        settings = _with_model(settings, model)
        world.forget()
        targets: list[tuple[int, int | None]] = []
        tell("Acquiring, tracking and publishing ...")
        tracker = _track(settings, microscope, calibration, targets, on_start)
    truth = world.truth(snapshot.shape)
    return _conclude(tracker, truth, targets=targets, snapshot=snapshot)


def _check_scene(scene: str, *, pick: bool) -> None:
    if scene not in SCENES:
        raise SettingsError(f"scene = {scene!r}: unknown; expected one of {SCENES}.")
    if pick and scene == "holograms":
        raise SettingsError(
            "pick with scene = 'holograms': it runs the shipped model and trains on "
            "nothing; expected scene swimmers or beads."
        )


def _settings(*, frames: int, out: Path, seed: int, scene: str, port: int) -> Settings:
    base = load_settings(find("config", "demo.toml"))
    changes = {
        "acquisition": {"n_frames": frames},
        "training": {"seed": seed},
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
    targets: list[tuple[int, int | None]],
    on_start: Callable[[LiveTracker], None],
) -> LiveTracker:
    running: list[LiveTracker] = []

    def begin(tracker: LiveTracker) -> None:
        running.append(tracker)
        on_start(tracker)

    def on_update(update: Update) -> None:
        controller = running[0].controller
        if controller is not None:
            targets.append((update.frame.index, controller.target_id))

    return run_session(
        settings,
        microscope,
        calibration=calibration,
        on_start=begin,
        on_update=on_update,
    )


def _conclude(
    tracker: LiveTracker,
    truth: Rows,
    *,
    targets: list[tuple[int, int | None]],
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
