"""Frames straight from MMCore's circular buffer of the real DemoCamera."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from lodestar_live.errors import SettingsError
from lodestar_live.live.clock import RunClock
from lodestar_live.live.session import run_session
from lodestar_live.microscope import BufferSource, Microscope, MicroscopeError
from lodestar_live.recording import Recording
from lodestar_live.settings import AcquisitionSettings, parse_settings
from lodestar_live.sources import Reception
from tests.system.test_live import centroids

pytestmark = pytest.mark.system
N = 80


def _settings(folder, *, mode="every", **acquisition):
    return parse_settings(
        {
            "acquisition": {"source": "buffer", "n_frames": N, **acquisition},
            "live": {"mode": mode},
            "streams": {"enabled": False},
            "recording": {"folder": str(folder)},
        }
    )


def _frames_of(source: BufferSource, n: int):
    """Return the first `n` frames that a source delivers, and when each arrived."""
    frames, stop = [], threading.Event()

    def take(frame) -> None:
        frames.append(frame)
        if len(frames) == n:
            stop.set()

    source.open()
    source.deliver(Reception(take, _no_error, RunClock(), stop))
    source.close()
    return frames


def _no_error(error: BaseException, t_s: float) -> None:
    raise AssertionError(f"refused at {t_s}") from error


@pytest.mark.parametrize("mode", ["every", "latest"])
def test_every_image_of_a_continuous_sequence_is_accounted_for(
    microscope: Microscope, tmp_path, mode: str
) -> None:
    threads = set()

    def detect(pixels):
        threads.add(threading.current_thread().name)
        return centroids(pixels)

    settings = _settings(tmp_path, mode=mode, exposure_ms=4.0)
    tracker = run_session(settings, microscope, detect=detect)
    counts = tracker.counts
    assert counts.is_balanced
    assert counts.received == N
    assert not microscope.core.is_sequence_running()
    own = threading.current_thread().name
    if mode == "every":
        assert counts.processed + counts.lost >= N
        assert threads == {own}  # the source waits: no second thread
    else:
        assert own not in threads
    with Recording(tracker.run_folder) as recording:
        frames = recording.frames()
    seen = frames[frames["state"] == "processed"]
    assert np.all(seen["exposure_ms"] == 4.0)
    assert np.all(seen["pixel_size_um"] == 1.0)
    assert np.all(np.diff(seen["t_exposure_s"]) > 0)
    assert np.all(seen["t_exposure_s"] < seen["t_arrival_s"])
    assert np.all(np.isfinite(seen["stage_y_um"]))


def test_frames_know_their_place_on_the_sensor_and_their_number(
    microscope: Microscope,
) -> None:
    microscope.core.set_roi(16, 32, 128, 64)  # x, y, width, height
    frames = _frames_of(BufferSource(microscope), 5)
    assert {frame.origin_px for frame in frames} == {(32, 16)}
    assert {frame.pixels.shape for frame in frames} == {(64, 128)}
    assert {frame.bit_depth for frame in frames} == {16}
    assert [frame.source_number for frame in frames] == list(range(5))
    assert all(frame.sigma_t_s < 0.001 for frame in frames)
    pixels = [frame.pixels.copy() for frame in frames]
    _frames_of(BufferSource(microscope), 3)  # others come into the same buffer
    for frame, before in zip(frames, pixels, strict=True):
        np.testing.assert_array_equal(frame.pixels, before)


def test_a_camera_that_stops_by_itself_is_started_again(microscope: Microscope) -> None:
    core, told, frames = microscope.core, [], []
    stop = threading.Event()

    def take(frame) -> None:
        frames.append(frame)
        if len(frames) == 3:
            core.stop_sequence_acquisition()
        if len(frames) == 12:
            stop.set()

    source = BufferSource(microscope)
    source.open()
    source.deliver(Reception(take, _no_error, RunClock(), stop, tell=told.append))
    assert len(frames) >= 12
    assert "begun again" in told[0].details["why"]
    numbers = [frame.source_number for frame in frames]
    assert numbers == sorted(set(numbers))


def test_live_that_is_on_already_is_left_to_its_user(microscope: Microscope) -> None:
    microscope.core.start_continuous_sequence_acquisition(0)
    try:
        with pytest.raises(MicroscopeError, match="Live or another"):
            BufferSource(microscope).open()
        assert microscope.core.is_sequence_running()
    finally:
        microscope.core.stop_sequence_acquisition()


def test_what_this_source_cannot_do_is_refused(
    microscope: Microscope, tmp_path
) -> None:
    with pytest.raises(SettingsError, match="stores no frames"):
        run_session(_settings(tmp_path, save_folder=str(tmp_path)), microscope)
    elsewhere = Microscope(None, is_python=False, owns_core=False, port=4827)
    with pytest.raises(MicroscopeError, match=r"port 4827: acquisition\.source"):
        BufferSource(elsewhere, AcquisitionSettings(source="buffer"))


def test_pymmcore_plus_core_gives_its_frames_as_well() -> None:
    pymmcore_plus = pytest.importorskip("pymmcore_plus")
    import mm_test_adapters

    from lodestar_live.microscope.pymmcore_plus import as_microscope

    core = pymmcore_plus.CMMCorePlus()
    folder = str(mm_test_adapters.device_adapter_path())
    core.setDeviceAdapterSearchPaths([folder])
    core.loadSystemConfiguration(f"{folder}/MMConfig_demo.cfg")
    core.setExposure(2.0)
    try:
        frames = _frames_of(BufferSource(as_microscope(core)), 5)
    finally:
        core.unloadAllDevices()
    assert [frame.source_number for frame in frames] == list(range(5))
    assert {frame.exposure_ms for frame in frames} == {2.0}
