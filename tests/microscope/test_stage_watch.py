"""Where the stage stood at an instant, from readings on a thread of its own."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from lodestar_live.data import StagePosition
from lodestar_live.microscope import StageWatch


def test_between_readings_the_position_is_interpolated() -> None:
    """A stage at 40 um/s, by a clock that gains 0.1 s from reading to reading."""
    times_s = [0.0]

    def clock() -> float:
        times_s.append(times_s[-1] + 0.1)
        return times_s[-2]

    watch = StageWatch(lambda: StagePosition(7.0, -3.0, 40 * times_s[-1]), clock)
    watch.start()
    while len(times_s) < 12:
        time.sleep(0.005)
    watch.close()
    for t_s in np.linspace(0.0, 1.0, 23):
        assert watch.at(t_s) == pytest.approx((7.0, -3.0, 40 * t_s))
    assert watch.at(-1.0).x_um == 0.0


def test_a_reading_that_waits_holds_up_nobody() -> None:
    """MMCore can make a reading wait for an exposure: frames take the last one."""
    gate, n = threading.Event(), 0

    def read() -> StagePosition:
        nonlocal n
        n += 1
        if n > 1:
            gate.wait(5.0)
        return StagePosition(0.0, 0.0, float(n))

    watch = StageWatch(read, time.perf_counter)
    watch.start()
    while n < 2:
        time.sleep(0.001)
    begin = time.perf_counter()
    assert watch.at(begin).x_um == 1.0
    assert time.perf_counter() - begin < 1.0  # the reading would take 5 s
    gate.set()
    watch.close()
    assert not [t for t in threading.enumerate() if t.name == "lodestar-stage"]


def test_a_stage_that_cannot_be_read_is_unknown_and_said_once(caplog) -> None:
    def read() -> StagePosition:
        raise RuntimeError("the cable is out")

    watch = StageWatch(read, time.perf_counter)
    assert np.isnan(watch.at(0.0)).all()
    watch.start()
    time.sleep(0.2)
    assert np.isnan(watch.at(time.perf_counter())).all()
    watch.close()
    assert len([r for r in caplog.records if "cannot be read" in r.message]) == 1
    assert "the cable is out" in caplog.text
