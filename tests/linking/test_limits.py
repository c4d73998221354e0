"""Events, budgets and long runs: nothing raises, blocks or grows without bound."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from lodestar_live import Detections, Linker
from lodestar_live.linking.assignment import Pairs, assign
from tests.simulation.motion import Scenario, simulate_motion


def events_of(frames, **options):
    linker, events = Linker(clock=lambda: 12.5, **options), []
    for k, points in enumerate(frames):
        positions = np.array(points, dtype=float).reshape(-1, 2)
        linker(Detections.from_positions(positions), k)
        events += linker.take_events()
    return events


def test_birth_reacquisition_and_loss_are_told_once_with_json_safe_details():
    frames = [[(50, 50 + k)] if k not in (12, 13) else [] for k in range(20)]
    events = events_of(frames + [[]] * 60)
    kinds = [event.kind for event in events]
    assert kinds == ["track.birth", "track.reacquired", "track.lost"]
    for event in events:
        assert event.t_s == 12.5
        details = json.loads(json.dumps(dict(event.details), allow_nan=False))
        assert details["track_ids"] == [0]
        assert len(details["y_px"]) == len(details["x_px"]) == 1
    assert events[1].frame == 14
    assert events[2].details["last_seen"] == [19]


def test_a_swap_that_is_as_likely_as_not_is_suspected():
    """Two particles a step and a half apart exchange places as likely as not."""
    rng = np.random.default_rng(0)
    frames = [rng.normal([[50, 47], [50, 53]], 2.0) for _ in range(40)]
    events = events_of(frames)
    swaps = [event for event in events if event.kind == "track.suspected_swap"]
    assert swaps
    assert all(sorted(event.details["track_ids"]) == [0, 1] for event in swaps)
    assert all(event.details["odds"] <= 3.0 for event in swaps)


def test_a_giant_component_beyond_the_budget_is_matched_greedily_and_counted():
    rng = np.random.default_rng(2)
    track, detection = np.nonzero(rng.random((400, 400)) < 0.1)
    pairs = Pairs(track, detection, rng.random(len(track)) + 0.1)
    exact = assign(pairs, 400, 400)
    hasty = assign(pairs, 400, 400, budget_s=0.0)
    assert (exact.n_fallbacks, hasty.n_fallbacks) == (0, 1)
    gain = np.zeros((400, 400))
    gain[track, detection] = pairs.gain
    total = [
        gain[np.flatnonzero(a.detection >= 0), a.detection[a.detection >= 0]].sum()
        for a in (exact, hasty)
    ]
    # Greedy matching has at least half of the optimum, always.
    assert total[0] / 2 <= total[1] <= total[0]


def test_a_percolating_crowd_returns_within_its_budget():
    linker = Linker(budget_s=0.05)
    scenario = Scenario("brownian", 4000, 0.5, 5, seed=1)
    for k, frame in enumerate(simulate_motion(scenario)):
        linker(frame.detections, k)
    assert linker.counts.fallbacks > 0
    assert linker.counts.frames == 5


@pytest.mark.parametrize("method", ["motion", "nearest"])
def test_everything_in_one_place_neither_raises_nor_blocks(method):
    linker = Linker(method=method)
    start = time.process_time()
    for k in range(3):
        rows = linker(Detections.from_positions(np.full((500, 2), 7.0)), k).rows
    assert (rows["detection_index"] >= 0).sum() == 500
    # A second on a quiet machine; a subnet of 500 would never end by recursion.
    assert time.process_time() - start < 20


def test_a_burst_of_false_positives_is_forgotten_again():
    rng = np.random.default_rng(5)
    linker = Linker()
    yx = rng.uniform(0, 300, (100, 2))
    for k in range(30):
        yx = yx + rng.normal(0, 1, yx.shape)
        noise = rng.uniform(0, 300, (2000 if k == 15 else 0, 2))
        rows = linker(Detections.from_positions(np.concatenate([yx, noise])), k).rows
        if k == 14:
            before = rows["track_id"][np.argsort(rows["detection_index"])][-100:]
    after = rows["track_id"][np.argsort(rows["detection_index"])][-100:]
    assert len(rows) < 130
    assert (before == after).mean() > 0.9


def test_frame_numbers_up_to_a_hundred_thousand_leave_nothing_behind():
    """Particles come and go for ever; what the linker holds does not grow.

    Frame numbers jump by 200 now and then, so that 100 000 are reached in 1 000 calls;
    every call brings births and losses, which is what could pile up.
    """
    rng = np.random.default_rng(7)
    linker, sizes, index = Linker(), [], 0
    for k in range(1000):
        chance = rng.uniform(0, 100, (rng.poisson(2), 2))
        points = np.concatenate([[[10.0, 10.0 + np.sin(k)]], chance])
        linker(Detections.from_positions(points), index)
        index += 200 if k % 2 else 1
        if k % 50 == 49:
            sizes.append(_size(linker))
    assert index > 100_000
    assert len(linker._events) <= 1000
    # A few chance tracks live at any time: the size fluctuates but has no trend.
    assert max(sizes[10:]) <= 2 * max(sizes[:10])
    assert linker.counts.frames == 1000


def _size(linker):
    """Return the number of array elements the linker holds, wherever they are."""
    total, todo, seen = 0, [linker], set()
    while todo:
        thing = todo.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, np.ndarray):
            total += thing.size
        elif isinstance(thing, dict):
            todo += thing.values()
        elif isinstance(thing, (list, tuple, set)):
            todo += thing
            total += len(thing)
        elif type(thing).__module__.startswith("lodestar_live"):
            slots = getattr(type(thing), "__slots__", ())
            todo += [getattr(thing, name) for name in slots if hasattr(thing, name)]
            todo += getattr(thing, "__dict__", {}).values()
    return total
