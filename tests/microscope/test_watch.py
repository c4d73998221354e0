"""Watching what the user does: newest images, gaps counted, nobody delayed."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from lodestar_live.errors import SettingsError
from lodestar_live.live.session import run_session
from lodestar_live.microscope import MicroscopeError, WatchSource, open_microscope
from lodestar_live.settings import MicroscopeSettings
from tests.microscope.conftest import centroids, settings_on
from tests.microscope.test_pymmcore_plus import Taken as TakenOnceReady

pytestmark = pytest.mark.system


class Taken(TakenOnceReady):
    """As for pymmcore-plus; this source needs no time to get ready."""

    def __init__(self, source, act) -> None:
        source._reception = True
        super().__init__(source, lambda: act(self))


def watched(running, act) -> Taken:
    with open_microscope(MicroscopeSettings(port=running.port)) as microscope:
        source = WatchSource(microscope)
        try:
            return Taken(source, act)
        finally:
            source.close()


def wait_for(condition, within_s: float = 30.0) -> None:
    until_s = time.perf_counter() + within_s
    while not condition():
        assert time.perf_counter() < until_s
        time.sleep(0.02)


def test_live_images_are_newest_numbered_and_dated(micro_manager) -> None:
    micro_manager.core("setExposure", 20.0)

    def live(_) -> None:
        micro_manager.do("live", True)
        time.sleep(3.0)
        micro_manager.do("live", False)

    taken = watched(micro_manager, live)
    numbers = [f.source_number for f in taken.frames]
    assert len(numbers) > 30
    assert numbers == sorted(set(numbers))
    for frame in taken.frames:
        assert (frame.camera, frame.exposure_ms) == ("Camera", 20.0)
        assert frame.pixels.shape == (128, 128)
        assert frame.sigma_t_s < 0.002
    ages_s = [f.t_arrival_s - f.t_exposure_s - 0.01 for f in taken.frames]
    assert min(ages_s) >= -1e-6
    assert np.median(ages_s) < 0.2
    assert not taken.errors


def test_every_image_of_an_mda_comes_with_its_identity(micro_manager) -> None:
    """2 channels x 3 positions x 4 z x 3 times; all shown, all taken."""

    def mda(taken) -> None:
        micro_manager.do("mda", channels=2, positions=3, slices=4, times=3)
        wait_for(lambda: len(taken.frames) >= 72)

    taken = watched(micro_manager, mda)
    found = [(f.time_index, f.position, f.channel, f.z_index) for f in taken.frames]
    assert found == [
        (t, f"Pos{p}", c, z)
        for t in range(3)
        for p in range(3)
        for c in ("Cy5", "DAPI")
        for z in range(4)
    ]
    for frame in taken.frames:
        p = int(frame.position[-1])
        expected = (float(frame.z_index), -5.0 * p, 10.0 * p)
        assert frame.stage_um == pytest.approx(expected, abs=0.02)


def test_a_watched_mda_is_not_delayed(micro_manager) -> None:
    """The same MDA with and without a watcher, interleaved; all images are there."""
    took_s = {False: [], True: []}

    def mda(_=None) -> None:
        before = len(micro_manager.do("mda log"))
        micro_manager.do("mda", channels=1, positions=1, slices=1, times=40)
        wait_for(lambda: len(micro_manager.do("mda log")) == before + 40)
        log = micro_manager.do("mda log")[-40:]
        took_s[is_watched].append(np.median(np.diff(log)))

    for is_watched in (False, True) * 2:
        if is_watched:
            watched(micro_manager, mda)
        else:
            mda()
    assert len(micro_manager.do("mda log")) == 160
    assert min(took_s[True]) < 3.0 * min(took_s[False]) + 0.005


def test_a_snap_is_taken_once(micro_manager) -> None:
    def snap(_) -> None:
        for _ in range(3):
            micro_manager.do("snap")
            time.sleep(0.6)

    assert len(watched(micro_manager, snap).frames) == 3


def test_a_run_follows_what_live_shows_and_counts_what_it_missed(
    micro_manager, tmp_path
) -> None:
    settings = settings_on(
        tmp_path,
        micro_manager.port,
        acquisition={"source": "watch"},
        live={"mode": "every", "queue_frames": 500},
    )
    stop = threading.Event()
    micro_manager.do("live", True)
    threading.Timer(3.0, stop.set).start()
    with open_microscope(settings.microscope) as microscope:
        tracker = run_session(settings, microscope, detect=centroids, stop=stop)
    assert tracker.counts.processed > 10
    assert tracker.counts.is_balanced
    assert tracker.counts.duplicated == tracker.counts.disordered == 0
    assert micro_manager.core("isSequenceRunning")  # still the user's own


def test_what_watching_cannot_do_is_said(micro_manager, tmp_path) -> None:
    box = {"y_um": [-5.0, 5.0], "x_um": [-5.0, 5.0]}
    settings = settings_on(
        tmp_path,
        micro_manager.port,
        acquisition={"source": "watch"},
        control={"follow": True, "limits": box, "move_by": "events"},
    )
    with open_microscope(settings.microscope) as microscope:
        with pytest.raises(SettingsError, match="events cannot carry positions"):
            run_session(settings, microscope, detect=centroids)


def test_a_micro_manager_that_dies_while_watched_is_named(micro_manager) -> None:
    with open_microscope(MicroscopeSettings(port=micro_manager.port)) as microscope:
        source = WatchSource(microscope)
        with pytest.raises(MicroscopeError, match="it is gone"):
            _until_it_raises(source, micro_manager)


def _until_it_raises(source, running) -> None:
    from lodestar_live.sources import Reception

    reception = Reception(
        take=lambda frame: None,
        refuse=lambda error, t_s: None,
        clock=time.perf_counter,
        stop=threading.Event(),
    )
    source.open()
    threading.Timer(0.5, running.kill).start()
    source.deliver(reception)
