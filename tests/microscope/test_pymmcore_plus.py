"""Experiments of pymmcore-plus, tracked: every frame's identity is right."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from lodestar_live.data import Detections
from lodestar_live.live import LiveTracker
from lodestar_live.microscope import PymmcorePlusSource
from lodestar_live.sources import Reception
from tests.microscope.conftest import settings_on

useq = pytest.importorskip("useq")
pymmcore_plus = pytest.importorskip("pymmcore_plus")
pytestmark = pytest.mark.system


@pytest.fixture
def core():
    import mm_test_adapters

    mmc = pymmcore_plus.CMMCorePlus()
    folder = str(mm_test_adapters.device_adapter_path())
    mmc.setDeviceAdapterSearchPaths([folder])
    mmc.loadSystemConfiguration(f"{folder}/MMConfig_demo.cfg")
    mmc.setProperty("Camera", "OnCameraCCDXSize", 64)
    mmc.setProperty("Camera", "OnCameraCCDYSize", 64)
    mmc.setExposure(2.0)
    mmc.setCircularBufferMemoryFootprint(16)
    yield mmc
    mmc.unloadAllDevices()


class Taken:
    """Frames that a source delivered while something went on."""

    def __init__(self, source, act) -> None:
        self.frames, self.errors = [], []
        self.start_s = time.perf_counter()
        stop = threading.Event()
        reception = Reception(
            take=self.frames.append,
            refuse=lambda error, t_s: self.errors.append(error),
            clock=self.clock,
            stop=stop,
        )
        source.open()
        thread = threading.Thread(target=source.deliver, args=(reception,))
        thread.start()
        try:
            while source._reception is None:
                time.sleep(0.001)
            act()
        finally:
            stop.set()
            thread.join(10.0)
        assert not thread.is_alive()

    def clock(self) -> float:
        return time.perf_counter() - self.start_s


def test_each_frame_of_an_experiment_knows_where_it_belongs(core) -> None:
    """2 channels x 3 positions x 5 z x 10 times, 300 frames."""
    positions = [(10.0, -5.0), (200.0, 30.0), (-40.0, 80.0)]
    sequence = useq.MDASequence(
        axis_order="tpcz",
        time_plan={"interval": 0, "loops": 10},
        stage_positions=[
            {"x": x, "y": y, "z": 0.0, "name": f"well {k}"}
            for k, (x, y) in enumerate(positions)
        ],
        channels=[{"config": "DAPI", "exposure": 2}, {"config": "Cy5", "exposure": 3}],
        z_plan={"range": 4.0, "step": 1.0},
    )
    asked, snapped = [], []
    core.mda.events.frameReady.connect(
        lambda image, event, meta: asked.append((event, image.copy()))
    )
    taken = Taken(PymmcorePlusSource(core), lambda: core.mda.run(sequence))
    assert not taken.errors
    assert len(taken.frames) == len(asked) == 300
    identities = set()
    for frame, (event, image) in zip(taken.frames, asked, strict=True):
        t, p, c, z = (event.index[axis] for axis in "tpcz")
        assert (frame.time_index, frame.z_index) == (t, z)
        assert (frame.position, frame.channel) == (f"well {p}", ("DAPI", "Cy5")[c])
        assert frame.exposure_ms == (2.0, 3.0)[c]
        x, y = positions[p]
        assert frame.stage_um == pytest.approx((-2.0 + z, y, x), abs=1e-6)
        assert (frame.camera, frame.pixel_size_um) == ("Camera", 1.0)
        assert frame.planned_axes == "XYZ"
        np.testing.assert_array_equal(frame.pixels, image)
        identities.add((t, p, c, z))
    assert len(identities) == 300
    assert snapped == []


def test_exposures_of_an_experiment_are_dated_by_their_end(core) -> None:
    ends_s = []
    snap = core.snapImage

    def timed(*args):
        snap(*args)
        ends_s.append(time.perf_counter())

    core.snapImage = timed
    core.setExposure(10.0)
    sequence = useq.MDASequence(time_plan={"interval": 0.01, "loops": 30})
    taken = Taken(PymmcorePlusSource(core), lambda: core.mda.run(sequence))
    t_s = np.array([f.t_exposure_s for f in taken.frames]) + taken.start_s
    if len(ends_s) == 30:  # snaps; else the runner chose a hardware sequence
        error_s = t_s - (np.array(ends_s) - 0.005)
        assert np.percentile(np.abs(error_s), 95) < 0.002
    assert len(t_s) == 30
    assert np.diff(t_s).min() > 0.005
    assert all(f.sigma_t_s < 0.002 for f in taken.frames)


def test_a_live_view_is_watched_and_left_to_who_shows_it(core) -> None:
    core.setExposure(10.0)
    shown = []

    def live() -> None:
        core.startContinuousSequenceAcquisition()
        until_s = time.perf_counter() + 2.0
        while time.perf_counter() < until_s:
            time.sleep(0.02)
            if core.getRemainingImageCount():
                shown.append(core.getLastImage())
        core.stopSequenceAcquisition()

    taken = Taken(PymmcorePlusSource(core), live)
    numbers = [f.source_number for f in taken.frames]
    assert len(numbers) > 20
    assert numbers == sorted(set(numbers))
    # What is missing is known; only a stalled machine misses any here.
    assert len(numbers) >= 0.95 * (numbers[-1] - numbers[0] + 1)
    assert all(f.sigma_t_s < 0.002 for f in taken.frames)
    assert shown


def test_two_channels_are_linked_apart(core, tmp_path) -> None:
    """One linker for both would join particles of different channels."""
    sequence = useq.MDASequence(
        axis_order="tc",
        time_plan={"interval": 0, "loops": 5},
        channels=[{"config": "DAPI"}, {"config": "Cy5"}],
    )
    settings = settings_on(tmp_path, live={"mode": "every", "queue_frames": 50})
    ids: dict[str, set[int]] = {}

    def keep(update) -> None:
        found = {int(k) for k in update.tracks.rows["track_id"]}
        ids.setdefault(update.frame.channel, set()).update(found)

    tracker = LiveTracker(
        settings,
        detect=lambda pixels: Detections.from_positions([[20.0, 30.0]]),
        on_update=keep,
    )
    source = PymmcorePlusSource(core, ends_with_mda=True)
    with tracker:
        thread = threading.Thread(
            target=source.deliver, args=(tracker.reception(threading.Event()),)
        )
        thread.start()
        while source._reception is None:
            time.sleep(0.001)
        core.mda.run(sequence)
        thread.join(10.0)
    assert (tracker.counts.processed, tracker.counts.failed) == (10, 0)
    assert set(ids) == {"DAPI", "Cy5"}
    assert not ids["DAPI"] & ids["Cy5"]
