"""What the Python engine keeps to itself is read, survived a few times, then told."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from lodestar_live.data import Detections
from lodestar_live.live.session import run_session
from lodestar_live.microscope import MicroscopeError, acquire, note_snaps
from lodestar_live.settings import AcquisitionSettings
from tests.microscope.conftest import centroids, settings_on

pytestmark = pytest.mark.system


def nothing(pixels) -> Detections:
    """Detect nothing, at once: what is asked here is what frames know."""
    return Detections.empty()


class Faults:
    """A camera that fails at some of its images, counted as it takes them."""

    def __init__(self, core) -> None:
        self.core, self.n, self.fails = core, 0, lambda n: False
        self.snap, self.pop = core.snap_image, core.pop_next_tagged_image
        core.snap_image = lambda: (self._fail(), self.snap())[1]
        core.pop_next_tagged_image = self._pop

    def restore(self) -> None:
        self.core.snap_image, self.core.pop_next_tagged_image = self.snap, self.pop

    def _fail(self) -> None:
        self.n += 1
        if self.fails(self.n):
            raise RuntimeError("camera timeout")

    def _pop(self, *args):
        image = self.pop(*args)  # raises while there is none
        try:
            self._fail()
        except RuntimeError:
            self.core.stop_sequence_acquisition()
            self.core.clear_circular_buffer()
            raise
        return image


@pytest.fixture
def failing(microscope):
    faults = Faults(microscope.core)
    yield faults
    faults.restore()


@pytest.mark.parametrize("sequence", [False, True], ids=["snaps", "sequence"])
def test_errors_of_the_camera_now_and_then_cost_no_frame(
    microscope, failing, sequence
) -> None:
    """Three errors, each alone; without reading the futures the run stalls for ever."""
    failing.fails = lambda n: n in (10, 25, 40)
    told, seen = [], []
    acquire(
        microscope,
        lambda image, metadata: seen.append(metadata["Axes"]["time"]),
        AcquisitionSettings(n_frames=60, exposure_ms=5.0, sequence=sequence),
        stop=threading.Event(),
        tell=told.append,
    )
    assert sorted(set(seen)) == list(range(60))
    assert len(told) == 3


@pytest.mark.parametrize("sequence", [False, True], ids=["snaps", "sequence"])
def test_a_camera_that_keeps_failing_ends_the_run_with_its_cause(
    microscope, tmp_path, failing, sequence
) -> None:
    settings = settings_on(
        tmp_path, acquisition={"exposure_ms": 5.0, "sequence": sequence}
    )
    failing.fails = lambda n: n > 10
    with pytest.raises(MicroscopeError, match="failed 5 times in a row"):
        run_session(settings, microscope, detect=centroids)
    failing.fails = lambda n: False
    few = settings.acquisition.model_copy(update={"n_frames": 5})
    tracker = run_session(  # the next acquisition works
        settings.model_copy(update={"acquisition": few}), microscope, detect=centroids
    )
    assert tracker.counts.received == 5


@pytest.mark.parametrize("sequence", [False, True], ids=["snaps", "sequence"])
def test_exposures_are_dated_within_two_milliseconds(
    microscope, tmp_path, sequence
) -> None:
    """The truth is when the core's own calls return, on this process's clock."""
    core, ends_s = microscope.core, []
    snap, pop = core.snap_image, core.pop_next_tagged_image
    updates = []

    def timed_snap():
        snap()
        ends_s.append(time.perf_counter())

    core.snap_image = timed_snap
    settings = settings_on(
        tmp_path,
        acquisition={"n_frames": 60, "exposure_ms": 20.0, "sequence": sequence},
        live={"mode": "every", "queue_frames": 200},
    )
    clock = []
    try:
        run_session(
            settings, microscope, detect=nothing, on_update=updates.append,
            on_start=lambda t: clock.append(time.perf_counter() - t.clock()),
        )  # fmt: skip
    finally:
        core.snap_image, core.pop_next_tagged_image = snap, pop
    t_s = np.array([u.frame.t_exposure_s for u in updates]) + clock[0]
    assert len(t_s) == 60
    if sequence:  # MMCore stamps on the wall clock; frames are an exposure apart
        assert np.diff(t_s).min() > 0.015
        assert all(u.frame.t_exposure_s < u.frame.t_arrival_s for u in updates)
    else:
        error_s = t_s - (np.array(ends_s) - 0.01)
        assert np.percentile(np.abs(error_s), 95) < 0.002


def test_a_snap_says_where_its_region_lies_and_stores_nothing_of_ours(
    microscope, tmp_path
) -> None:
    from pycromanager import Acquisition

    from lodestar_live.live import LiveTracker

    microscope.core.set_roi(64, 32, 200, 100)
    frames = []
    settings = settings_on(tmp_path, live={"mode": "every"})
    tracker = LiveTracker(
        settings, detect=nothing, on_update=lambda u: frames.append(u.frame)
    )
    with tracker, Acquisition(image_process_fn=tracker) as acquisition:
        for k in range(3):
            acquisition.acquire({"axes": {"time": k}})
    microscope.core.clear_roi()
    assert {f.origin_px for f in frames} == {(32, 64)}
    assert {(f.camera, f.bit_depth, f.binning) for f in frames} == {("Camera", 16, 1)}
    stored = acquisition.get_dataset().read_metadata(time=0)
    assert not [key for key in stored if "lodestar" in key]
    assert note_snaps(microscope.core)() is None


def test_planned_heights_are_exact(microscope, tmp_path) -> None:
    """Interpolating between readings gave z = 1.6 for a plane at 2.0."""
    from pycromanager import Acquisition, multi_d_acquisition_events

    from lodestar_live.live import LiveTracker

    frames = []
    settings = settings_on(tmp_path, live={"mode": "every", "queue_frames": 100})
    tracker = LiveTracker(
        settings, detect=nothing, on_update=lambda u: frames.append(u.frame)
    )
    with tracker, Acquisition(image_process_fn=tracker) as acquisition:
        acquisition.acquire(
            multi_d_acquisition_events(
                num_time_points=4, z_start=0.0, z_end=4.0, z_step=1.0
            )
        )
    assert len(frames) == 20
    for frame in frames:
        assert frame.stage_um.z_um == pytest.approx(float(frame.z_index), abs=1e-9)
        assert frame.planned_axes == "Z"
