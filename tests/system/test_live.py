"""LiveTracker inside real pycro-manager acquisitions on the real DemoCamera."""

from __future__ import annotations

import sys
import threading
import time

import numpy as np
import pytest
from pycromanager import Acquisition
from scipy import ndimage

from lodestar_live import LiveTracker
from lodestar_live.data import Detections, StagePosition
from lodestar_live.geometry import PixelToStage
from lodestar_live.live.session import run_session
from lodestar_live.microscope import substitute_pixels
from lodestar_live.settings import parse_settings
from lodestar_live.simulation.scene import SwimmerScene

pytestmark = pytest.mark.system


def centroids(pixels) -> Detections:
    """Detect blobs by threshold and centroid: a detector without a model."""
    image = pixels.astype(np.float32) - np.median(pixels)
    labels, n = ndimage.label(image > 0.3 * image.max())
    if not n:
        return Detections.empty()
    return Detections.from_positions(
        ndimage.center_of_mass(image, labels, np.arange(1, n + 1))
    )


def settings_for(folder, **sections):
    base = {"streams": {"enabled": False}, "recording": {"folder": str(folder)}}
    return parse_settings({**base, **sections})


def events(n, **extra):
    return [{"axes": {"time": k}, **extra} for k in range(n)]


def submit(acquisition, mode, n) -> None:
    """Hand over `n` events: one by one, as a sequence, or from a generator."""
    if mode == "snap":
        for event in events(n):
            acquisition.acquire(event)
    elif mode == "sequence":
        acquisition.acquire(events(n))
    else:
        acquisition.acquire(event for event in events(n))


BEFORE: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def remember_threads() -> None:
    """Note the threads that earlier tests left, hung drivers among them."""
    BEFORE.clear()
    BEFORE.update(threading.enumerate())


def our_threads() -> list[str]:
    new = [t.name for t in threading.enumerate() if t not in BEFORE]
    return [name for name in new if name.startswith("lodestar")]


def stored_images(acquisition, n) -> list[np.ndarray]:
    data = acquisition.get_dataset()
    return [data.read_image(time=k) for k in range(n) if data.has_image(time=k)]


@pytest.mark.parametrize("mode", ["snap", "sequence"])
def test_a_detector_six_times_slower_than_the_camera(
    microscope, tmp_path, mode
) -> None:
    def slow(pixels) -> Detections:
        time.sleep(0.030)
        return Detections.empty()

    ages_ms = []

    def note_age(update) -> None:
        ages_ms.append(update.timings_ms["wait"])

    settings = settings_for(tmp_path, live={"hand_on_frames": False})
    tracker = LiveTracker(settings, detect=slow, on_update=note_age)
    with tracker, Acquisition(image_process_fn=tracker) as acquisition:
        submit(acquisition, mode, 300)
    assert tracker.counts.received == 300
    assert tracker.counts.is_balanced
    assert tracker.counts.dropped > 100
    # A frame starts at most one work slot after it came, however long the run was.
    assert np.percentile(ages_ms, 95) < 2 * 30 + 10


@pytest.mark.parametrize("mode", ["snap", "sequence", "generator"])
@pytest.mark.parametrize("error", [RuntimeError("boom"), SystemExit(1)])
def test_an_exception_at_frame_5_costs_nothing_but_that_frame(
    microscope, tmp_path, mode, error
) -> None:
    seen = []

    def fragile(pixels) -> Detections:
        seen.append(1)
        if len(seen) == 5:
            raise error
        return Detections.empty()

    settings = settings_for(tmp_path, live={"mode": "every"})
    tracker = LiveTracker(settings, detect=fragile)
    for _ in range(2):  # the next acquisition works
        seen.clear()
        with tracker, Acquisition(image_process_fn=tracker) as acquisition:
            submit(acquisition, mode, 20)
        assert len(stored_images(acquisition, 20)) == 20
        assert (tracker.counts.processed, tracker.counts.failed) == (19, 1)
        assert type(error).__name__ in tracker.first_error
        assert "Traceback" in tracker.first_error


@pytest.mark.parametrize("mode", ["snap", "sequence"])
def test_stored_frames_are_the_same_as_without_the_plugin(
    microscope, tmp_path, mode
) -> None:
    tracker = LiveTracker(settings_for(tmp_path), detect=centroids)
    with tracker, Acquisition(image_process_fn=tracker) as with_plugin:
        submit(with_plugin, mode, 8)
    with Acquisition() as without:
        submit(without, mode, 8)
    volatile = {"Time", "TimeReceivedByCore", "ElapsedTime-ms"}
    for k in range(8):
        ours = with_plugin.get_dataset().read_image(time=k)
        theirs = without.get_dataset().read_image(time=k)
        assert ours.tobytes() == theirs.tobytes()
        ours_md = with_plugin.get_dataset().read_metadata(time=k)
        theirs_md = without.get_dataset().read_metadata(time=k)
        for key in set(ours_md) | set(theirs_md):
            assert key in volatile or ours_md[key] == theirs_md[key]


def test_abort_in_mid_acquisition_ends_clean(microscope, tmp_path) -> None:
    tracker = LiveTracker(settings_for(tmp_path), detect=centroids)
    with tracker:
        acquisition = Acquisition(image_process_fn=tracker)
        submit(acquisition, "snap", 300)
        while tracker.n_received < 50:
            time.sleep(0.005)
        acquisition.abort()
        acquisition.mark_finished()
        acquisition.mark_finished()
        acquisition.await_completion()
    assert tracker.counts.is_balanced
    assert tracker.counts.received < 300
    assert not our_threads()


def test_an_exception_in_the_users_body_still_closes_the_run(
    microscope, tmp_path
) -> None:
    tracker = LiveTracker(settings_for(tmp_path), detect=centroids)
    with (
        pytest.raises(KeyboardInterrupt),
        tracker,
        Acquisition(image_process_fn=tracker) as acquisition,
    ):
        submit(acquisition, "snap", 20)
        raise KeyboardInterrupt
    assert tracker.counts.is_balanced
    assert not our_threads()


def test_ctrl_c_ends_a_session_and_keeps_what_was_recorded(
    microscope, tmp_path
) -> None:
    stop = threading.Event()

    def stop_at_30(update) -> None:
        if update.frame.index >= 30:
            stop.set()

    settings = settings_for(tmp_path, detection={"max_detections": 50})
    started = time.perf_counter()
    tracker = run_session(
        settings, microscope, detect=centroids, stop=stop, on_update=stop_at_30
    )
    assert tracker.counts.received >= 31
    assert tracker.counts.is_balanced
    assert time.perf_counter() - started < 10.0
    assert (tracker.run_folder / "run.sqlite").is_file()
    assert not our_threads()


def test_roi_and_bit_depth_may_change_between_events(microscope, tmp_path) -> None:
    shapes = []
    settings = settings_for(tmp_path, live={"mode": "every", "hand_on_frames": False})
    tracker = LiveTracker(
        settings,
        detect=centroids,
        on_update=lambda u: shapes.append(u.frame.pixels.shape),
    )
    core = microscope.core
    with tracker:
        for roi, pixel_type in [
            (None, "16bit"),
            ((64, 32, 200, 101), "16bit"),
            (None, "8bit"),
        ]:
            core.clear_roi()
            core.set_property("Camera", "PixelType", pixel_type)
            if roi is not None:
                core.set_roi(*roi)
            with Acquisition(image_process_fn=tracker) as acquisition:
                submit(acquisition, "snap", 3)
    core.clear_roi()
    core.set_property("Camera", "PixelType", "16bit")
    assert shapes == [(512, 512)] * 3 + [(101, 200)] * 3 + [(512, 512)] * 3
    assert tracker.counts.processed == 9


def test_a_substituted_movie_gives_the_same_tracks_as_offline(
    microscope, tmp_path
) -> None:
    clock = iter(np.arange(0, 100, 0.02))
    scene = SwimmerScene(
        (256, 256),
        pixel_to_stage=PixelToStage.from_pixel_size(1.0),
        seed=5,
        clock=lambda: next(clock),
    )
    here = StagePosition(0.0, 0.0, 0.0)
    movie = [scene.render(here) for _ in range(40)]
    live, offline = {}, {}
    settings = settings_for(tmp_path, live={"mode": "every"})

    def keep(store):
        return lambda u: store.update({u.frame.index: u.tracks.rows})

    frames = iter(movie)
    restore = substitute_pixels(microscope, lambda stage: next(frames))
    tracker = LiveTracker(settings, detect=centroids, on_update=keep(live))
    with tracker, Acquisition(image_process_fn=tracker) as acquisition:
        submit(acquisition, "snap", 40)
    restore()
    with LiveTracker(settings, detect=centroids, on_update=keep(offline)) as replayed:
        for image in movie:
            replayed(image, {})
    assert live.keys() == offline.keys() == set(range(40))
    # Velocities and filtered positions depend on exposure times, which only live
    # frames have.
    same = ["track_id", "y_px", "x_px", "age_frames", "missed_frames"]
    for index in live:
        assert live[index][same].tolist() == offline[index][same].tolist()


def test_events_with_positions_stop_the_control_and_say_why(
    microscope, tmp_path, caplog
) -> None:
    control = {
        "follow": True,
        "limits": {"y_um": [-100.0, 100.0], "x_um": [-100.0, 100.0]},
    }
    settings = settings_for(tmp_path, control=control, live={"mode": "every"})
    halted = []
    tracker = LiveTracker(
        settings,
        microscope=microscope,
        detect=centroids,
        on_update=lambda u: halted.append(tracker.controller.status()["halted"]),
    )
    with tracker, Acquisition(image_process_fn=tracker) as acquisition:
        for event in events(5, x=1.0, y=2.0):
            acquisition.acquire(event)
    assert tracker.counts.processed == 5
    assert "re-sends before every frame" in caplog.text
    assert "stage positions" in halted[0]


def test_follow_mode_gives_the_trajectories_of_full_passes(
    microscope, tmp_path, bead_snapshot, bead_model
) -> None:
    positions = {}
    restore = substitute_pixels(microscope, lambda stage: bead_snapshot)
    for full_every in (1, 5):
        seen = positions.setdefault(full_every, {})

        def keep(update, seen=seen) -> None:
            rows = update.tracks.rows
            near = rows[np.hypot(rows["y_px"] - 256, rows["x_px"] - 256) < 60]
            seen[update.frame.index] = np.column_stack([near["y_px"], near["x_px"]])

        settings = settings_for(
            tmp_path,
            live={"mode": "every"},
            detection={"model": str(bead_model), "full_every": full_every},
        )
        tracker = LiveTracker(settings, microscope=microscope, on_update=keep)
        with tracker, Acquisition(image_process_fn=tracker) as acquisition:
            submit(acquisition, "snap", 12)
        assert tracker.counts.processed == 12
    restore()
    for index, full in positions[1].items():
        tiles = positions[5][index]
        assert len(tiles) == len(full) > 0
        gap = np.hypot(*(full[:, None] - tiles[None]).transpose(2, 0, 1))
        assert gap.min(axis=1).max() < 0.02, (index, full, tiles)


@pytest.mark.parametrize("mode", ["snap", "sequence"])
def test_frames_know_where_the_stage_was_that_others_move(
    microscope, tmp_path, mode
) -> None:
    """Nobody steers here; the stage is pushed by hand in mid-acquisition."""
    core, seen = microscope.core, []
    core.set_xy_position(0.0, 0.0)
    tracker = LiveTracker(
        settings_for(tmp_path, live={"mode": "every", "queue_frames": 200}),
        detect=centroids,
        on_update=seen.append,
    )
    with tracker:
        acquisition = Acquisition(image_process_fn=tracker)
        submit(acquisition, mode, 80)
        while tracker.n_received < 20:
            time.sleep(0.002)
        moved_s = tracker.clock()
        core.set_xy_position(30.0, -12.0)
        acquisition.mark_finished()
        acquisition.await_completion()
        tracker.wait_for_room(1)
    x_um = {u.frame.t_exposure_s: u.frame.stage_um.x_um for u in seen}
    y_um = {u.frame.t_exposure_s: u.frame.stage_um.y_um for u in seen}
    before = [t for t in x_um if t < moved_s - 0.1]
    after = [t for t in x_um if t > moved_s + 0.2]
    assert before and after
    assert {x_um[t] for t in before} == {0.0}
    for t_s in after:
        assert (y_um[t_s], x_um[t_s]) == pytest.approx((-12.0, 30.0), abs=0.01)
    core.set_xy_position(0.0, 0.0)


def test_turns_are_short_during_a_run_and_as_before_after_it(tmp_path) -> None:
    before_s = sys.getswitchinterval()
    with LiveTracker(settings_for(tmp_path), detect=centroids):
        assert sys.getswitchinterval() == pytest.approx(50e-6)
    assert sys.getswitchinterval() == pytest.approx(before_s)


def test_a_picture_that_takes_long_to_draw_is_no_later(microscope, tmp_path) -> None:
    """Else the stage's place would be looked up too late, and feedback be unstable."""
    drawn_s, seen = [], []
    tracker = LiveTracker(
        settings_for(tmp_path, live={"mode": "every"}),
        detect=centroids,
        on_update=seen.append,
    )

    def render(stage: StagePosition) -> np.ndarray:
        drawn_s.append(tracker.clock())
        time.sleep(0.05)
        return np.zeros((32, 32), np.uint16)

    restore = substitute_pixels(microscope, render)
    half_s = microscope.core.get_exposure() / 2e3
    with tracker:
        acquisition = Acquisition(image_process_fn=tracker)
        submit(acquisition, "snap", 8)
        acquisition.mark_finished()
        acquisition.await_completion()
        tracker.wait_for_room(1)
    restore()
    exposed_s = [update.frame.t_exposure_s for update in seen]
    late_s = np.array(exposed_s) - (np.array(drawn_s) - half_s)
    assert len(exposed_s) == 8
    assert np.abs(np.median(late_s)) < 0.02  # drawing takes 0.05
