"""A running Micro-Manager through its bridge: the right one, whole, and let go of."""

from __future__ import annotations

import gc
import math
import threading
import time

import numpy as np
import psutil
import pytest

from lodestar_live.control import Calibration
from lodestar_live.data import Detections
from lodestar_live.live.session import run_session
from lodestar_live.microscope import open_microscope
from lodestar_live.settings import MicroscopeSettings
from tests.microscope.conftest import centroids, settings_on
from tests.microscope.stand_in import Running

pytestmark = pytest.mark.system


def attach(running: Running):
    return open_microscope(MicroscopeSettings(port=running.port))


def run(running, folder, *, n_frames=30, **sections):
    updates = []
    acquisition = {"n_frames": n_frames, **sections.pop("acquisition", {})}
    live = {"mode": "every", "queue_frames": 500, **sections.pop("live", {})}
    settings = settings_on(
        folder, running.port, acquisition=acquisition, live=live, **sections
    )
    with attach(running) as microscope:
        tracker = run_session(
            settings, microscope, detect=centroids, on_update=updates.append
        )
    return tracker, updates


@pytest.mark.parametrize("sequence", [False, True], ids=["snaps", "sequence"])
def test_every_frame_comes_with_all_that_is_known(
    micro_manager, tmp_path, sequence
) -> None:
    micro_manager.core("setROI", 32, 16, 64, 48)
    micro_manager.core("setXYPosition", 12.0, -7.0)
    micro_manager.core("setPosition", 3.0)
    tracker, updates = run(micro_manager, tmp_path, acquisition={"sequence": sequence})
    assert tracker.counts.processed == 30
    assert tracker.counts.is_balanced
    assert tracker.counts.lost == tracker.counts.duplicated == 0
    for k, update in enumerate(updates):
        frame = update.frame
        assert frame.pixels.shape == (48, 64)
        assert (frame.camera, frame.binning, frame.bit_depth) == ("Camera", 1, 16)
        assert (frame.origin_px, frame.pixel_size_um) == ((16, 32), 1.0)
        assert (frame.exposure_ms, frame.time_index) == (5.0, k)
        assert frame.stage_um == pytest.approx((3.0, -7.0, 12.0), abs=0.02)
        assert frame.sigma_t_s < 0.002
    t_s = [u.frame.t_exposure_s for u in updates]
    assert t_s == sorted(t_s)


def test_two_micro_managers_are_never_mixed_up(tmp_path) -> None:
    """The images and the stage that moves belong to the one on the port."""
    control = {
        "follow": True,
        "armed": True,
        "limits": {"y_um": [-50.0, 50.0], "x_um": [-50.0, 50.0]},
        "deadband_um": 0.0,
        "max_rate_hz": 1000.0,
    }
    with Running(size_px=96) as wrong, Running(size_px=128) as right:
        settings = settings_on(
            tmp_path,
            right.port,
            acquisition={"n_frames": 60},
            control=control,
            live={"mode": "every", "queue_frames": 500},
        )
        shapes = set()
        with attach(right) as microscope:
            run_session(
                settings,
                microscope,
                calibration=aligned(),
                detect=lambda pixels: centroids(pixels),
                on_update=lambda u: shapes.add(u.frame.pixels.shape),
            )
        assert shapes == {(128, 128)}
        moved = math.hypot(right.core("getXPosition"), right.core("getYPosition"))
        assert moved > 0.5
        assert wrong.core("getXPosition") == pytest.approx(0.0, abs=0.02)
        assert wrong.core("getYPosition") == pytest.approx(0.0, abs=0.02)
        assert wrong.do("calls") == 0


def aligned() -> Calibration:
    from datetime import UTC, datetime

    from lodestar_live.geometry import PixelToStage

    return Calibration(
        PixelToStage(np.eye(2)), residual_px=0.01, measured=datetime.now(UTC)
    )


def test_a_hook_is_installed_only_where_it_places_events(
    micro_manager, tmp_path
) -> None:
    """It costs a round trip per frame on the Java side: 25 instead of 33 frames/s."""
    from lodestar_live.live import LiveTracker

    box = {"y_um": [-5.0, 5.0], "x_um": [-5.0, 5.0]}
    for control, expected in (
        ({}, False),
        ({"follow": True, "limits": box}, False),
        ({"follow": True, "limits": box, "move_by": "events"}, True),
    ):
        settings = settings_on(tmp_path, micro_manager.port, control=control)
        with LiveTracker(settings, detect=centroids) as tracker:
            hook = tracker.reception(threading.Event()).event_hook
        assert (hook is not None) == expected


def nothing(pixels) -> Detections:
    return Detections.empty()


def test_runs_leave_nothing_behind(micro_manager, tmp_path) -> None:
    """No port, thread or descriptor here, no port or object there."""
    control = {"follow": True, "limits": {"y_um": [-5.0, 5.0], "x_um": [-5.0, 5.0]}}
    process, seen = psutil.Process(), []
    with attach(micro_manager) as microscope:
        settings = settings_on(
            tmp_path,
            micro_manager.port,
            acquisition={"n_frames": 2},
            control=control,
            recording={"enabled": False, "folder": str(tmp_path)},
        )
        for k in range(12):
            run_session(settings, microscope, detect=centroids, calibration=aligned())
            if k in (3, 11):
                gc.collect()
                time.sleep(0.5)
                seen.append(
                    (
                        process.num_fds(),
                        threading.active_count(),
                        micro_manager.do("ports"),
                    )
                )
    assert seen[1][0] <= seen[0][0] + 1
    assert seen[1][1] <= seen[0][1]
    assert seen[1][2] <= seen[0][2]


def test_colour_cameras_are_refused_in_words(micro_manager, tmp_path) -> None:
    from lodestar_live.microscope import MicroscopeError

    micro_manager.core("setProperty", "Camera", "PixelType", "32bitRGB")
    with attach(micro_manager) as microscope:
        with pytest.raises(MicroscopeError, match=r"colour images.*8bit or 16bit"):
            microscope.snap()
        settings = settings_on(tmp_path, micro_manager.port)
        with pytest.raises(MicroscopeError, match="colour images"):
            run_session(settings, microscope, detect=centroids)


def test_named_stages_are_the_ones_that_move(micro_manager) -> None:
    from lodestar_live.errors import SettingsError
    from lodestar_live.microscope import CoreStage

    with attach(micro_manager) as microscope:
        stage = CoreStage(microscope, z="Z1")
        stage.move_z_to_um(4.0)
        while stage.is_busy():
            time.sleep(0.01)
        assert stage.position_um().z_um == pytest.approx(4.0)
        assert micro_manager.core("getPosition", "Z1") == pytest.approx(4.0)
        assert micro_manager.core("getPosition", "Z") == pytest.approx(0.0)
        stage.close()
        with pytest.raises(SettingsError, match="no such stage"):
            CoreStage(microscope, xy="Nowhere")


def test_a_correction_is_at_most_three_calls(micro_manager) -> None:
    from lodestar_live.microscope import CoreStage

    with attach(micro_manager) as microscope:
        stage = CoreStage(microscope)
        stage.is_busy()
        for k in range(5):
            before = micro_manager.do("calls")
            while stage.is_busy():
                time.sleep(0.02)
                before = micro_manager.do("calls")
            stage.is_busy()
            stage.move_to_um(0.1 * k, 0.0)
            assert micro_manager.do("calls") - before <= 3
        stage.close()


def test_a_script_of_the_users_own_is_served_on_the_settings_port(
    micro_manager, tmp_path
) -> None:
    """pycro-manager's own Acquisition with the tracker as its image processor."""
    from pycromanager import JavaBackendAcquisition

    from lodestar_live.live import LiveTracker

    micro_manager.core("setXYPosition", 7.0, 3.0)
    settings = settings_on(
        tmp_path,
        micro_manager.port,
        control={
            "follow": True,
            "limits": {"y_um": [-50.0, 50.0], "x_um": [-50.0, 50.0]},
        },
        live={"mode": "every", "queue_frames": 500, "hand_on_frames": False},
    )
    frames = []
    tracker = LiveTracker(
        settings, detect=nothing, on_update=lambda u: frames.append(u.frame)
    )
    assert not tracker.places_events
    with tracker:
        acquisition = JavaBackendAcquisition(
            image_process_fn=tracker, show_display=False, port=micro_manager.port
        )
        for k in range(20):
            acquisition.acquire({"axes": {"time": k}})
        acquisition.mark_finished()
        acquisition.await_completion()
    assert tracker.counts.received == 20
    assert frames[-1].stage_um[1:] == pytest.approx((3.0, 7.0), abs=0.02)
    assert frames[-1].pixel_size_um == 1.0
