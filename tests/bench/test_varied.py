from __future__ import annotations

import numpy as np
import pytest

from lodestar_live.data import Detections
from tests.bench import varied
from tests.simulation.population import Population, simulate_population


def test_the_table_has_a_row_per_set_of_clicks():
    report = varied.run(quick=True)
    (table,) = report.tables
    assert [row[0] for row in table.rows] == list(varied.CLICKS)
    for row in table.rows:
        assert len(row) == len(table.columns)
        assert 0 <= row[3] <= row[1] <= 1  # the filter only takes away


def test_judging_what_is_known():
    frame = simulate_population(Population(n_particles=20, n_strangers=4), seed=3)
    places = frame.positions_px
    off, far = np.array([0.3, 0.0]), np.array([[-100.0, -100.0]])
    found = Detections.from_positions(np.vstack([places + off, far]), sigma_px=0.1)
    every = varied.judge(lambda _: found, [frame])
    assert every.recall == 1.0
    assert every.false_discovery == pytest.approx(1 / 21)
    assert every.rmse_px == pytest.approx(0.3 / np.sqrt(2))
    assert every.error_per_sigma == pytest.approx(3 / np.sqrt(2))
    middle = varied._counts(frame, 60)
    some = Detections.from_positions(places[~middle])
    n_inside = varied._counts(frame).sum()
    n_kept = n_inside - middle.sum()
    assert 0 < n_kept < n_inside
    assert varied.judge(lambda _: some, [frame]).recall == n_kept / n_inside


def test_clicks_go_up_with_the_form_and_stay_off_the_edge():
    frame = simulate_population(Population(), seed=3)
    places = varied.clicks(frame, varied.CLICKS["4"])
    index = [np.flatnonzero((frame.positions_px == p).all(axis=1))[0] for p in places]
    assert (np.diff(frame.forms[index]) > 0).all()
    assert varied._counts(frame, 28)[index].all()
