"""Threads that share a frame's work, and give way where the caller was lowered."""

from __future__ import annotations

import os
import sys
import threading
import time

import numpy as np
import pytest

from lodestar_live.detection import Detector
from lodestar_live.detection.engines import cpu as engines
from lodestar_live.detection.engines.cpu import _Helpers
from lodestar_live.priority import is_lowered, lower_this_thread
from tests.detection import networks

SPOTS = np.array([[20.0, 30.0], [60.25, 44.5], [190.5, 100.75]])
FRAME = np.random.default_rng(0).poisson(networks.spots(SPOTS, (280, 240)))
FRAME = FRAME.astype(np.uint16)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has SCHED_IDLE")
def test_helpers_of_a_lowered_thread_give_way_to_everybody() -> None:
    policies = {"before": policies_of_a_shared_frame()}

    def run_lowered() -> None:
        lower_this_thread(5)
        assert is_lowered()
        policies["lowered"] = policies_of_a_shared_frame()

    thread = threading.Thread(target=run_lowered)
    thread.start()
    thread.join()
    assert not is_lowered()
    assert policies["before"] == {os.SCHED_OTHER}
    assert policies["lowered"] == {os.SCHED_OTHER, os.SCHED_IDLE}


def policies_of_a_shared_frame() -> set[int]:
    """Return the scheduling policies of the threads that detect in one frame."""
    detector, policies = spot_detector(), set()
    compute = detector.passes.engine._call

    def call(*args, **kwargs):
        run = compute(*args, **kwargs)

        def noted():
            policies.add(os.sched_getscheduler(0))
            time.sleep(0.02)  # so that the helper takes the other part
            return run()

        return noted

    detector.passes.engine._call = call
    assert len(detector(FRAME)) == len(SPOTS)
    return policies


def spot_detector() -> Detector:
    model = networks.model(networks.spot_finder(), threshold=-1.5)
    return Detector(model, engine="cpu", n_threads=2)


def test_a_lowered_thread_works_alone_after_helpers_have_starved() -> None:
    caller, gate = threading.current_thread(), threading.Event()
    helpers, finished, n_helped = _Helpers(2, give_way=True), [], 0

    def work() -> None:
        nonlocal n_helped
        if threading.current_thread() is not caller:
            n_helped += 1
            gate.wait(10.0)

    end = time.perf_counter() + 0.9
    while time.perf_counter() < end:
        helpers.share(work, lambda: finished.append(1), 1)
    # Starved at once, alone for 0.25 s, asked again, and alone for 0.5 s.
    assert 2 <= len(finished) <= 3
    assert n_helped == 2  # each for ever, here
    gate.set()


def test_what_a_starved_helper_began_is_done_again(monkeypatch) -> None:
    expected = spot_detector()(FRAME)
    gate, caller = threading.Event(), threading.current_thread()
    detector, n_stuck = spot_detector(), 0
    detector(FRAME)  # makes the sessions
    compute = detector.passes.engine._call
    monkeypatch.setattr(engines, "is_lowered", lambda: True)

    def call(*args, **kwargs):
        run = compute(*args, **kwargs)

        def slow():
            nonlocal n_stuck
            if threading.current_thread() is not caller:
                n_stuck += 1
                gate.wait(10.0)
            else:
                time.sleep(0.02)  # so that the helper takes the other part
            return run()

        return slow

    detector.passes.engine._call = call
    begin = time.perf_counter()
    found = detector(FRAME)
    assert time.perf_counter() - begin < 5.0  # the helper would take 10 s
    assert n_stuck == 1
    gate.set()
    assert found.rows.tobytes() == expected.rows.tobytes()
