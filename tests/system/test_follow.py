"""Closed loops on the real MMCore with the real DemoCamera, through pycro-manager.

What counts is read from the truth: the camera's own bead field at the stage's place, or
the list of what the scene rendered. Pixels are 1 µm for beads.
"""

from __future__ import annotations

import _thread
import inspect
import itertools
import os
import signal
import threading
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from scipy import ndimage

from lodestar_live.calibration.stage import Bench, scan_focus
from lodestar_live.control import Calibration
from lodestar_live.data import Detections, StagePosition, Update
from lodestar_live.geometry import PixelToStage, centre_px
from lodestar_live.live import LiveTracker
from lodestar_live.live.session import run_session
from lodestar_live.microscope import CoreStage, Microscope, substitute_pixels
from lodestar_live.recording import Recording
from lodestar_live.settings import Settings, parse_settings
from lodestar_live.simulation.beads import BeadField
from lodestar_live.simulation.scene import Swimmers, SwimmerScene
from lodestar_live.streams import request

ANY_PORT = "tcp://127.0.0.1:0"
# A stall of the machine is no fault of the loop; three in a row are.
pytestmark = [pytest.mark.system, pytest.mark.real_time]
# The camera draws 1 µm per px, aligned; tests/system/test_calibration.py measures it.
ALIGNED = Calibration(
    PixelToStage.from_pixel_size(1.0), residual_px=0.0, measured=datetime.now(UTC)
)


def settings_for(folder, *, exposure_ms: float = 20.0, **control):
    limits = {"y_um": [-3000, 3000], "x_um": [-3000, 3000], "z_um": [-20, 20]}
    return parse_settings(
        {
            "acquisition": {"exposure_ms": exposure_ms},
            "control": {"follow": True, "armed": True, "limits": limits} | control,
            "linking": {"search_radius_px": 12.0},
            "streams": {"enabled": False},
            "recording": {"folder": str(folder)},
        }
    )


def spots_in(pixels, *, above: float) -> Detections:
    """Centroids of what is brighter than `above`; fast, and exact without noise."""
    signal = np.maximum(pixels.astype(float) - above, 0.0)
    labels, n = ndimage.label(signal > 0)
    if n == 0:
        return Detections.empty()
    centres = ndimage.center_of_mass(signal, labels, np.arange(1, n + 1))
    return Detections.from_positions(np.array(centres), sigma_px=0.1)


def beads_in(pixels) -> Detections:
    return spots_in(pixels, above=20.0)


class Loop:
    """Runs a session and notes, per update, where the target really was."""

    def __init__(
        self, microscope: Microscope, settings: Settings, *, n_updates: int
    ) -> None:
        self.microscope, self.settings = microscope, settings
        self.n_updates, self.stop = n_updates, threading.Event()
        self.stage = CoreStage(microscope)
        self.error_px: list[np.ndarray] = []
        self.at_frame: dict[int, object] = {}
        self.tracker = None
        self.watch = lambda update: None

    def run(self, calibration: Calibration = ALIGNED, detect=beads_in):
        return run_session(
            self.settings,
            self.microscope,
            calibration=calibration,
            detect=detect,
            on_start=lambda tracker: setattr(self, "tracker", tracker),
            on_update=self.note,
            stop=self.stop,
        )

    def note(self, update: Update) -> None:
        """Target as seen in this frame, relative to the centre; then act."""
        rows = update.tracks.rows
        mine = rows[rows["track_id"] == self.tracker.controller.target_id]
        here = np.array([mine["y_px"], mine["x_px"]]).T
        centre = centre_px(update.frame.pixels.shape)
        self.error_px.append(here[0] - centre if len(here) else np.full(2, np.nan))
        self.watch(update)
        action = self.at_frame.get(len(self.error_px))
        if action is not None:
            action()
        if len(self.error_px) >= self.n_updates:
            self.stop.set()

    def push(self, y_um: float, x_um: float) -> None:
        here = self.stage.position_um()
        self.stage.move_to_um(here.y_um + y_um, here.x_um + x_um)


def lonely_bead_um() -> np.ndarray:
    """Place (y, x) in the sample of the bead farthest from all others; truth."""
    beads = BeadField().positions_px(StagePosition(0.0, 0.0, 0.0), (512, 512))
    inner = beads[np.abs(beads - 256).max(axis=1) < 100]
    apart = [np.sort(np.linalg.norm(beads - bead, axis=1))[1] for bead in inner]
    return np.asarray(inner[int(np.argmax(apart))] - centre_px((512, 512)))


def go_to(microscope: Microscope, place_um: np.ndarray) -> None:
    microscope.core.set_xy_position(float(place_um[1]), float(place_um[0]))
    microscope.core.wait_for_system()


@pytest.mark.parametrize("move_by", ["stage", "events"])
def test_a_step_of_five_um_is_centred_within_five_frames(
    microscope, tmp_path, move_by
) -> None:
    """A resting bead 5 µm from the centre, (3, -4), is to be followed from frame 30."""
    bead_um = lonely_bead_um()
    go_to(microscope, bead_um - [3.0, -4.0])
    loop = Loop(microscope, settings_for(tmp_path, move_by=move_by), n_updates=60)
    loop.at_frame[1] = lambda: loop.tracker.controller.release()
    loop.at_frame[30] = lambda: loop.tracker.controller.follow("nearest")
    places: list[np.ndarray] = []
    loop.watch = lambda update: places.append(
        bead_um - np.array(loop.stage.position_um()[1:])
    )
    loop.run()
    error_um = np.array(places)  # where the bead is, as the stage stands
    assert np.linalg.norm(error_um[29]) == pytest.approx(5.0, abs=0.1)
    assert np.linalg.norm(error_um[35:], axis=1).max() < 1.0
    assert (error_um[30:] @ np.array([0.6, -0.8])).min() > -0.2 * 5.0


def test_tracking_that_moves_the_stage_gives_way_to_nobody(
    microscope, tmp_path
) -> None:
    loop = Loop(microscope, settings_for(tmp_path), n_updates=5)
    niceness: list[int] = []
    loop.watch = lambda update: niceness.append(os.getpriority(os.PRIO_PROCESS, 0))
    loop.run()
    assert set(niceness) == {os.getpriority(os.PRIO_PROCESS, 0)}


def test_a_bead_stays_within_one_pixel_while_the_stage_is_pushed(
    microscope, tmp_path
) -> None:
    """Pushes of 1 µm every sixth frame, in random directions; rms over all frames."""
    bead_um = lonely_bead_um()
    go_to(microscope, bead_um)
    loop = Loop(microscope, settings_for(tmp_path), n_updates=150)
    rng = np.random.default_rng(2)
    for frame in range(40, 150, 6):
        angle = rng.uniform(0, 2 * np.pi)
        loop.at_frame[frame] = lambda a=angle: loop.push(np.sin(a), np.cos(a))
    places: list[np.ndarray] = []
    loop.watch = lambda update: places.append(
        bead_um - np.array(update.frame.stage_um[1:])
    )
    loop.run()
    error_um = np.array(places)[40:]
    assert np.sqrt((error_um**2).sum(axis=1).mean()) < 1.0
    assert np.linalg.norm(error_um[-1]) < 1.5  # not one push has been left standing


@pytest.fixture
def ctrl_c_works():
    """A process started in the background ignores Ctrl-C; this one must not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("way", ["socket", "ctrl-c", "exceptions", "end"])
def test_whatever_stops_it_the_stage_stands_still_at_once(
    microscope, tmp_path, way, ctrl_c_works
) -> None:
    """From frame 40 on the stage is pushed every frame; nothing may answer that."""
    go_to(microscope, lonely_bead_um())
    settings = settings_for(tmp_path, max_rate_hz=1000.0)
    live = settings.live.model_copy(update={"max_failures": 3})
    streams = settings.streams.model_copy(
        update={"enabled": True, "stream": ANY_PORT, "latest": ANY_PORT}
        | {"control": ANY_PORT}
    )
    settings = settings.model_copy(update={"live": live, "streams": streams})
    loop = Loop(microscope, settings, n_updates=40 if way == "end" else 60)
    actions = {
        "socket": lambda: request(loop.tracker.endpoints["control"], "stop"),
        # As if it came from the terminal. A real one, sent to the process of the whole
        # suite, twice killed it: the kernel could not return from faulthandler's
        # alternate stack. tests/view/test_real_run.py sends a run of its own SIGTERM.
        "ctrl-c": lambda: _thread.interrupt_main(signal.SIGINT),
    }
    for frame in range(20, 60):
        loop.at_frame[frame] = lambda: loop.push(1.0, 0.0)
    loop.at_frame[40] = actions.get(way, lambda: None)

    def detect(pixels) -> Detections:
        if way == "exceptions" and len(loop.error_px) >= 40:
            loop.stop.set()
            raise OSError("no detector")
        return beads_in(pixels)

    frames: list[int] = []
    loop.watch = lambda update: frames.append(update.frame.index)
    tracker = loop.run(detect=detect)
    events = Recording(tracker.run_folder).events()
    kinds = [event.kind for event in events]
    stopped = kinds.index("stage.stopped")
    assert "stage.move" in kinds  # it did follow
    assert kinds[stopped:].count("stage.move") <= 1  # the one being sent just then
    moved = [e.details["frame"] for e in events if e.kind == "stage.move"]
    if way != "end":  # where the two events in flight are still followed
        assert max(moved) <= frames[39] + 2


def test_a_rule_sets_a_property_without_anything_being_followed(
    microscope, tmp_path
) -> None:
    settings = settings_for(
        tmp_path, follow=False, rules=["when n_tracks > 20: set Camera Gain 3"],
        properties={"Camera Gain": [0, 8]},
    )  # fmt: skip
    microscope.core.set_property("Camera", "Gain", 0)
    loop = Loop(microscope, settings, n_updates=15)
    try:
        tracker = loop.run()
        assert int(microscope.core.get_property("Camera", "Gain")) == 3
    finally:
        microscope.core.set_property("Camera", "Gain", 0)
    kinds = [event.kind for event in Recording(tracker.run_folder).events()]
    assert kinds.count("property.set") == 1
    assert "stage.move" not in kinds


def test_the_focus_lock_returns_from_a_kick_of_five_um(microscope, tmp_path) -> None:
    stage = CoreStage(microscope)
    settings = settings_for(tmp_path, focus="sharpness")
    bench = Bench(microscope.snap, stage, settings.control, tell=lambda event: None)
    curve = scan_focus(bench, range_um=8.0, n_heights=17)
    calibration = replace(ALIGNED, focus=curve)
    loop = Loop(microscope, settings, n_updates=160)
    heights: list[float] = []
    loop.at_frame = {
        20: lambda: stage.move_z_to_um(5.0),
        90: lambda: heights.append(stage.position_um().z_um),
        91: lambda: stage.move_z_to_um(-5.0),
        160: lambda: heights.append(stage.position_um().z_um),
    }
    loop.run(calibration)
    assert np.abs(heights).max() < 0.6  # deadband 0.3 µm and the curve's 1 µm grid


def test_a_swimmer_is_followed_over_twenty_fields_of_view(microscope, tmp_path) -> None:
    """The scene is rendered at the live stage: only a stage that follows keeps it.

    Its world advances 15 ms per frame taken, so that a test machine that stalls for
    half a second does not make the swimmer jump out of a 26 µm view.
    """
    frames = itertools.count()
    shape, mapping = (128, 128), PixelToStage.from_pixel_size(0.2)
    view_um = shape[0] * 0.2
    look = Swimmers(n_particles=1, radius_um=1.2, edge_um=0.3, speed_um_per_s=60.0)
    scene = SwimmerScene(
        shape,
        pixel_to_stage=mapping,
        seed=3,
        clock=lambda: next(frames) * 0.015,
        swimmers=look,
    )
    start = scene._position_um[0]
    microscope.core.set_xy_position(float(start[1]), float(start[0]))
    microscope.core.wait_for_system()
    calibration = replace(ALIGNED, map=mapping)
    settings = settings_for(tmp_path, exposure_ms=10.0, max_age_s=0.15)
    one = {"search_radius_px": 30.0, "method": "nearest"}  # alone in view
    linking = settings.linking.model_copy(update=one)
    settings = settings.model_copy(update={"linking": linking})
    pixel_size = settings.microscope.model_copy(update={"pixel_size_um": 0.2})
    settings = settings.model_copy(update={"microscope": pixel_size})
    restore = substitute_pixels(microscope, scene.render)
    loop = Loop(microscope, settings, n_updates=1500)

    def detect(pixels) -> Detections:
        if travelled_um(scene, mapping, shape) > 21 * view_um:
            loop.stop.set()
        return spots_in(pixels, above=400.0)

    try:
        loop.run(calibration, detect)
    finally:
        restore()
    seen = [len(truth.particle_ids) for truth in scene.truth]
    assert seen[-1] and np.mean(seen) > 0.99
    assert travelled_um(scene, mapping, shape) > 20 * view_um


def travelled_um(scene: SwimmerScene, mapping: PixelToStage, shape) -> float:
    places = [
        mapping.sample_um(truth.positions_px[0], truth.stage_um[1:], shape)
        for truth in scene.truth
        if len(truth.particle_ids)
    ]
    steps = np.diff(np.array(places), axis=0) if len(places) > 1 else np.zeros((1, 2))
    return float(np.linalg.norm(steps, axis=1).sum())


def test_the_event_hook_has_the_one_form_both_backends_take() -> None:
    """With two arguments the Python backend takes no images and says nothing."""
    hook = LiveTracker(Settings()).event_hook
    assert len(inspect.signature(hook).parameters) == 1
    assert hook({"axes": {"time": 0}, "x": 1.0}) == {"axes": {"time": 0}, "x": 1.0}
