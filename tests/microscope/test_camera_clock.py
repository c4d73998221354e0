"""One clock per camera: stamps of clocks that are set, drift and start anywhere.

The truth is the simulated instant at which the camera delivered; images reach the hook
later by an exponential delay, now and then by a long stall.
"""

from __future__ import annotations

import datetime

import numpy as np
import pytest

from lodestar_live.microscope import FrameReader

IMAGE = np.zeros((4, 4), np.uint16)
PERIOD_S = 0.02
EXPOSURE_MS = 10.0


class Host:
    """A camera, its stamps and both clocks; `wall_s` may be stepped and may drift."""

    def __init__(self, seed: int = 0, drift: float = 0.0) -> None:
        self.now_s, self.drift, self.step_s = 0.0, drift, 0.0
        self.rng = np.random.default_rng(seed)
        self.reader = FrameReader(lambda: self.now_s, self.wall)

    def wall(self) -> float:
        return 1.8e9 + self.now_s * (1 + self.drift) + self.step_s

    def stamp(self, wall_s: float) -> str:
        moment = datetime.datetime.fromtimestamp(wall_s)
        return moment.isoformat(sep=" ", timespec="microseconds")

    def delays_s(self, n: int) -> np.ndarray:
        return 0.0003 + self.rng.exponential(0.001, n)

    def run(self, n: int, make, *, delays_s=None, at=None) -> np.ndarray:
        """Deliver `n` images; return the error of every exposure's middle, s."""
        delays_s = self.delays_s(n) if delays_s is None else delays_s
        errors, arrival_s, begin_s = [], self.now_s, self.now_s
        for k in range(n):
            if at and k in at:
                at[k]()
            delivered_s = self.now_s = begin_s + (k + 1) * PERIOD_S
            metadata = {"Exposure": EXPOSURE_MS, "Camera": "A", **make(k)}
            self.now_s = arrival_s = max(delivered_s + delays_s[k], arrival_s + 1e-5)
            frame = self.reader.read(IMAGE, metadata, arrival_s)
            errors.append(frame.t_exposure_s - (delivered_s - EXPOSURE_MS / 2e3))
        return np.array(errors)


def by_wall(host: Host):
    return lambda k: {"TimeReceivedByCore": host.stamp(host.wall())}


def by_elapsed(host: Host, *, whole: bool = False, zero_s: float = 0.0):
    def make(k):
        elapsed_ms = (host.now_s - zero_s) * 1e3
        return {"ElapsedTime-ms": int(elapsed_ms) if whole else elapsed_ms}

    return make


@pytest.mark.parametrize("step_s", [-3600.0, -5.0, -0.2, -0.05, 0.05, 0.2, 5.0, 3600.0])
def test_a_wall_clock_that_is_set_shifts_no_exposure(step_s) -> None:
    host = Host()

    def step() -> None:
        host.step_s += step_s

    errors = host.run(200, by_wall(host), at={100: step})
    assert np.abs(errors).max() < 1e-3


@pytest.mark.parametrize("step_s", [-3600.0, -0.2, -0.05, 0.05, 0.2, 3600.0])
def test_stamps_of_another_clock_that_is_set_shift_no_exposure(step_s) -> None:
    """Only the stamps jump: the clock of another machine, or of the camera."""
    host, shift = Host(), [0.0]

    def make(k):
        return {"TimeReceivedByCore": host.stamp(host.wall() + shift[0])}

    def step() -> None:
        shift[0] = step_s

    errors = host.run(200, make, at={100: step})
    assert np.percentile(np.abs(errors), 95) < 2e-3
    assert np.abs(errors[110:]).max() < 5e-3


def test_eight_hours_of_drift_are_followed() -> None:
    """100 ppm are 2.9 s in eight hours; a frame a minute."""
    host = Host(drift=1e-4)
    errors = []
    for k in range(480):
        host.now_s = 60.0 * (k + 1)
        metadata = by_wall(host)(k) | {"Camera": "A"}
        delivered_s = host.now_s
        host.now_s += 0.002
        errors.append(
            host.reader.read(IMAGE, metadata, host.now_s).t_exposure_s - delivered_s
        )
    assert np.abs(errors).max() < 1e-3


def test_an_image_that_waited_keeps_its_own_time() -> None:
    """A slow processor: the backlog grows to 0.9 s, then is worked off."""
    host = Host()
    backlog_s = np.concatenate([np.linspace(0, 0.9, 100), np.linspace(0.9, 0, 100)])
    for make in by_wall(host), by_elapsed(host):
        host.now_s = 0.0
        errors = host.run(200, make, delays_s=backlog_s + 0.001)
        assert np.percentile(np.abs(errors), 95) < 2e-3


@pytest.mark.parametrize("whole", [False, True], ids=["python", "java"])
def test_snaps_are_dated_by_the_elapsed_time(whole) -> None:
    """A third of the images waits 100 ms in the host; whole milliseconds in Java."""
    host = Host()
    delays_s = host.delays_s(300)
    delays_s[host.rng.random(300) < 0.3] += 0.1
    errors = host.run(
        300, by_elapsed(host, whole=whole, zero_s=-7.0), delays_s=delays_s
    )
    assert np.percentile(np.abs(errors), 95) < 2e-3


def test_an_elapsed_time_starts_again_with_the_next_acquisition() -> None:
    host = Host()
    first = host.run(100, by_elapsed(host))
    second = host.run(100, by_elapsed(host, zero_s=host.now_s))
    assert np.percentile(np.abs(np.concatenate([first, second])), 95) < 2e-3


def test_a_time_that_never_changes_is_no_time() -> None:
    """Released Java engines wrote 0 into every image of a sequence."""
    host = Host()
    errors = host.run(50, lambda k: {"ElapsedTime-ms": 0})
    assert np.abs(errors).max() < 0.02  # dated by arrival


def test_without_any_stamp_the_uncertainty_is_unknown() -> None:
    host = Host()
    assert np.isnan(host.reader.read(IMAGE, {}, 1.0).sigma_t_s)
    stamped = by_wall(host)(0)
    assert host.reader.read(IMAGE, stamped, 1.0).sigma_t_s < 2e-3
