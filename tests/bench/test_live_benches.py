"""The quick versions of the benches on the live loop run and say sensible things."""

from __future__ import annotations

import pytest

from lodestar_live import bench

pytestmark = pytest.mark.system


def test_the_hook_bench_compares_with_and_without() -> None:
    report = bench.run("hook", quick=True)
    rates, calls = report.tables
    assert [row[0] for row in rates.rows] == ["none", "empty", "LiveTracker"]
    assert all(row[1] > 10 for row in rates.rows)
    assert calls.rows[0][3] == 120


def test_memory_stays_flat_and_below_the_bar_in_a_live_run() -> None:
    report = bench.run("soak", quick=True)
    _, frames, _, peak_mib, growth_mib = report.tables[0].rows[0]
    assert frames > 50
    assert peak_mib < 600  # pytest and the test's own imports are in here
    assert growth_mib < 20
