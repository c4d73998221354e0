"""The embedded demo: the whole mission on the real core, scored against the truth.

The real headless MMCore with the real DemoCamera runs a real pycro-manager
acquisition. Scene `beads` leaves the camera's pixels alone and lets the stage make the
motion; scene `swimmers` renders moving particles at the live stage's position in place
of the pixels, so that the stage has something to follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from lodestar_live.control import Calibration, measure_calibration
from lodestar_live.data import FloatArray, Pixels, Rows, StagePosition, Update
from lodestar_live.errors import SettingsError
from lodestar_live.live import LiveTracker, Summary
from lodestar_live.live.clock import RunClock
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
from lodestar_live.simulation.beads import BeadField
from lodestar_live.simulation.scene import SwimmerScene
from lodestar_live.simulation.score import (
    TRUTH_DTYPE,
    TrackingScore,
    particle_of_track,
    score_tracks,
)
from lodestar_live.view import write_report

SCENES = ("swimmers", "beads")
GATE_PX = 4.0
BORDER_PX = 10.0  # a swimmer's radius and soft edge
_UNRESOLVED_PX = 5.8  # Rayleigh: 0.61 wavelength/NA is 2.9 sigma; beads are 2 px
_CIRCLE_UM, _STEPS_PER_TURN = 20.0, 120

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class FollowScore:
    """How well the stage kept its target in the middle of the frame."""

    n_frames: int
    n_targets: int
    rms_error_um: float
    p95_error_um: float
    path_um: float


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo came to."""

    summary: Summary
    score: TrackingScore
    follow: FollowScore | None
    crop: tuple[float, float, float]
    run_folder: Path
    report_path: Path

    def truth_rows(self) -> list[tuple[str, str]]:
        """Return the comparison with the truth as (name, value) rows."""
        score = self.score
        rows = [
            ("true positives", f"{score.true_positive_rate:.2%} of {score.n_truth}"),
            ("false discoveries", f"{score.false_discovery_rate:.2%}"),
            ("position error", f"{score.rmse_px:.3f} px rms (2-D)"),
            ("link errors", f"{score.link_error_rate:.2%} of {score.n_steps}"),
        ]
        if self.follow is not None:
            follow = self.follow
            rows += [
                ("followed", f"{follow.n_frames} frames, {follow.n_targets} target(s)"),
                ("centring error", f"{follow.rms_error_um:.2f} um rms"),
                ("stage path", f"{follow.path_um:.0f} um"),
            ]
        return rows

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON-safe values."""
        facts = asdict(self)
        facts["run_folder"], facts["report_path"] = (
            str(self.run_folder),
            str(self.report_path),
        )
        return facts


class CirclingBeads:
    """The camera's own beads; between two frames the stage goes round a circle."""

    def __init__(self, stage: CoreStage, wait: Callable[[], object]) -> None:
        self._stage, self._wait, self._n = stage, wait, 0
        self.visited: list[StagePosition] = []

    def render(self, stage_um: StagePosition) -> None:
        """Note where the frame was taken, then move on while the camera is idle."""
        self.visited.append(stage_um)
        self._n += 1
        angle = 2 * np.pi * self._n / _STEPS_PER_TURN
        y_um, x_um = _CIRCLE_UM * np.sin(angle), _CIRCLE_UM * (np.cos(angle) - 1)
        self._stage.move_to_um(float(y_um), float(x_um))
        self._wait()

    def forget(self) -> None:
        """Start the list of frames anew."""
        self.visited.clear()

    def truth(self, shape: tuple[int, int]) -> Rows:
        """Return the beads of every frame; unresolved pairs are marked -1."""
        beads = BeadField()
        frames = []
        names: dict[tuple[float, float], int] = {}
        for frame, stage in enumerate(self.visited):
            yx = beads.positions_px(stage, shape)
            yx = yx[np.all((yx > -20) & (yx < np.array(shape) + 20), axis=1)]
            world = np.round(yx + np.array(stage[1:]), 3)
            ids = [names.setdefault((y, x), len(names)) for y, x in world.tolist()]
            gap = np.hypot(*(yx[:, None] - yx[None]).transpose(2, 0, 1))
            np.fill_diagonal(gap, np.inf)
            particle = np.where(gap.min(axis=1) < _UNRESOLVED_PX, -1, ids)
            frames.append(_truth_rows(frame, particle, yx))
        return np.concatenate(frames)


class MovingSwimmers:
    """Moving particles, rendered where the live stage stands."""

    def __init__(self, shape: tuple[int, int], calibration: Calibration, seed: int):
        self._scene = SwimmerScene(
            shape, pixel_to_stage=calibration.map, seed=seed, clock=RunClock()
        )
        self.render = self._scene.render

    def forget(self) -> None:
        """Start the list of frames anew."""
        self._scene.truth.clear()

    def truth(self, shape: tuple[int, int]) -> Rows:
        """Return the particles of every frame."""
        return np.concatenate(
            [
                _truth_rows(frame, truth.particle_ids, truth.positions_px)
                for frame, truth in enumerate(self._scene.truth)
            ]
        )


def run_demo(
    *,
    frames: int = 500,
    out: Path = Path("demo"),
    seed: int = 0,
    scene: str = "swimmers",
    port: int = 5556,
    say: Say | None = None,
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
        ``swimmers`` or ``beads``.
    port
        First of two ZeroMQ ports on 127.0.0.1; 0: any free ones.
    say
        Told every step; None: silent.

    Raises
    ------
    SettingsError
        Unknown scene.
    LodestarError
        A port is in use, the folder cannot be written, the training failed.
    """
    if scene not in SCENES:
        raise SettingsError(f"scene = {scene!r}: unknown; expected one of {SCENES}.")
    settings = _settings(frames=frames, out=out, seed=seed, scene=scene, port=port)
    tell = say or (lambda text: None)
    out.mkdir(parents=True, exist_ok=True)
    with open_microscope(settings.microscope) as microscope:
        tell("MMCore runs headless with the DemoCamera: fluorescent beads, 16 bit.")
        calibration = measure_calibration(CoreStage(microscope), microscope.snap)
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
        tracker = _track(settings, microscope, calibration, targets, tell)
    truth = world.truth(snapshot.shape)
    return _conclude(tracker, truth, targets=targets, snapshot=snapshot)


def _settings(*, frames: int, out: Path, seed: int, scene: str, port: int) -> Settings:
    base = load_settings(find("config", "demo.toml"))
    second = port + 1 if port else 0
    changes = {
        "acquisition": {"n_frames": frames},
        "training": {"seed": seed},
        "control": {"follow": scene == "swimmers"},
        "recording": {"folder": str(out)},
        "streams": {
            "stream": f"tcp://127.0.0.1:{port}",
            "latest": f"tcp://127.0.0.1:{second}",
        },
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
    tell: Say,
) -> LiveTracker:
    running: list[LiveTracker] = []

    def on_start(tracker: LiveTracker) -> None:
        running.append(tracker)
        addresses = ", ".join(tracker.endpoints.values())
        tell(f"Acquiring, tracking and publishing on {addresses} ...")

    def on_update(update: Update) -> None:
        controller = running[0].controller
        if controller is not None:
            targets.append((update.frame.index, controller.target_id))

    return run_session(
        settings,
        microscope,
        calibration=calibration,
        on_start=on_start,
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
        follow=_score_following(tracks, frames, shown, targets, snapshot.shape),
        crop=crop,
        run_folder=tracker.run_folder,
        report_path=report,
    )


def _score_following(
    tracks: Rows,
    frames: Rows,
    truth: Rows,
    targets: list[tuple[int, int | None]],
    shape: tuple[int, int],
) -> FollowScore | None:
    """Compare the true place of the followed particle with the frame's centre."""
    chosen = [(frame, target) for frame, target in targets if target is not None]
    if not chosen:
        return None
    names = particle_of_track(tracks, truth, GATE_PX)
    where = {
        (int(row["frame"]), int(row["particle"])): (row["y_px"], row["x_px"])
        for row in truth
    }
    particles = {names[key] for key in chosen if key in names}
    centre = (np.array(shape) - 1) / 2
    errors = [
        np.hypot(*(np.array(where[frame, names[frame, target]]) - centre))
        for frame, target in chosen
        if (frame, target) in names
    ]
    stage = np.column_stack([frames["stage_y_um"], frames["stage_x_um"]])
    stage = stage[np.all(np.isfinite(stage), axis=1)]
    steady = np.array(errors[len(errors) // 10 :])  # after the first approach
    steady *= float(frames["pixel_size_um"][0])
    return FollowScore(
        n_frames=len(chosen),
        n_targets=len(particles),
        rms_error_um=float(np.sqrt(np.mean(np.square(steady)))),
        p95_error_um=float(np.percentile(steady, 95)),
        path_um=float(np.hypot(*np.diff(stage, axis=0).T).sum()),
    )


def _truth_rows(frame: int, particles: npt.NDArray[np.int64], yx: FloatArray) -> Rows:
    rows = np.zeros(len(yx), TRUTH_DTYPE)
    rows["frame"], rows["particle"] = frame, particles
    rows["y_px"], rows["x_px"] = yx[:, 0], yx[:, 1]
    return rows
