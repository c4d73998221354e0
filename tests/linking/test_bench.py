"""The benchmark runs, and its scoring gives the truth full marks."""

from __future__ import annotations

import numpy as np
import pytest

from tests.bench import linking
from tests.bench._link_peers import laptrack, ours, trackpy_plain
from tests.bench._links import score_links
from tests.simulation.motion import MOTIONS, Scenario, simulate_motion


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_truth_itself_scores_one_and_chance_scores_little(motion):
    movie = list(simulate_motion(Scenario(motion, 100, 0.3, 12, seed=3)))
    truth = [frame.particle for frame in movie]
    perfect = score_links(truth, truth)
    assert (perfect.f1, perfect.gap_recall, perfect.switches) == (1.0, 1.0, 0.0)
    assert (perfect.jaccard_positions, perfect.jaccard_tracks) == (1.0, 1.0)
    rng = np.random.default_rng(0)
    chance = score_links(truth, [rng.permutation(len(ids)) for ids in truth])
    assert chance.f1 < 0.1


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_simulation_has_the_step_it_promises(motion):
    scenario = Scenario(
        motion, 2000, 0.2, 3, seed=1, miss=0, clutter=0, noise_px=0, merge_px=0
    )
    a, b = list(simulate_motion(scenario))[:2]
    _, row_a, row_b = np.intersect1d(a.particle, b.particle, return_indices=True)
    step = b.detections.positions_px[row_b] - a.detections.positions_px[row_a]
    rms = np.sqrt((step**2).sum(axis=1).mean())
    # 2000 steps give the rms of a Gaussian to 1.6 %: three times that.
    assert rms == pytest.approx(scenario.step_px, rel=0.05)


def test_plain_assignment_finds_trackpys_links():
    """Both minimise the summed squared distance, so they must agree."""
    scenario = Scenario("brownian", 300, 0.15, 10, seed=11)
    movie = list(simulate_motion(scenario))
    gate_px = 2.0 * scenario.step_px
    mine = ours(movie, search_radius_px=gate_px, max_gap_frames=0, method="nearest")
    theirs = trackpy_plain(movie, gate_px=gate_px, gap=0)
    for one, other in zip(mine, theirs, strict=True):
        pairs = set(zip(one.tolist(), other.tolist(), strict=True))
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def test_plain_assignment_with_gaps_is_as_good_as_trackpy_with_memory():
    """A track missed for a while must not take what belongs to one just seen."""
    scenario = Scenario("brownian", 150, 0.2, 24, seed=12)
    movie = list(simulate_motion(scenario))
    truth, gate_px = [f.particle for f in movie], 2.5 * scenario.step_px
    mine = ours(movie, search_radius_px=gate_px, max_gap_frames=3, method="nearest")
    theirs = trackpy_plain(movie, gate_px=gate_px, gap=3)
    f1, f1_trackpy = (score_links(truth, list(ids)).f1 for ids in (mine, theirs))
    # 3400 links: one F1 is known to 0.005, a difference on the same movie better.
    assert f1 > f1_trackpy - 0.02


def test_laptrack_is_called_with_the_right_meaning():
    movie = list(simulate_motion(Scenario("brownian", 40, 0.1, 6, seed=2)))
    score = score_links(
        [f.particle for f in movie], list(laptrack(movie, gate_px=5, gap=1))
    )
    assert score.f1 > 0.9


def test_quick_bench_makes_four_tables():
    report = linking.run(quick=True)
    assert [len(table.rows) for table in report.tables] == [5, 1, 1, 1]
    for table in report.tables:
        assert all(len(row) == len(table.columns) for row in table.rows)
