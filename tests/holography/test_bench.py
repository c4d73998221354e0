"""The benches run; their numbers are in bench/results."""

from __future__ import annotations

import numpy as np
import pytest

from tests import bench
from tests.bench.holography import diffusion_and_sigma


def test_quick_bench_fills_every_table() -> None:
    report = bench.run("holography", quick=True)
    titles = " ".join(table.title for table in report.tables)
    for word in ("Propagation", "Off-axis", "neighbour", "Brownian", "Speed"):
        assert word in titles
    assert all(table.rows for table in report.tables)


def test_quick_training_bench_reports_that_nothing_was_learnt() -> None:
    report = bench.run("field_training", quick=True)
    assert any("not exported" in note for note in report.notes)


def test_covariance_estimator_finds_diffusion_and_noise() -> None:
    rng = np.random.default_rng(0)
    path = np.cumsum(rng.normal(0, np.sqrt(2 * 0.97 / 30), 20_000))
    d, sigma = diffusion_and_sigma(path + rng.normal(0, 0.1, 20_000))
    assert d == pytest.approx(0.97, rel=0.05)
    assert sigma == pytest.approx(0.1, rel=0.1)
