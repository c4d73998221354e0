"""The accuracy bench runs, and its baselines are the published ones."""

from __future__ import annotations

import numpy as np
import pytest

from tests import bench
from tests.bench import _localisers as others
from tests.simulation import shapes


def test_quick_accuracy_bench_reports_every_table() -> None:
    report = bench.run("accuracy", quick=True)
    assert [len(table.rows) for table in report.tables] == [2, 1, 1, 1, 2]


def test_maximum_likelihood_reaches_the_bound() -> None:
    truth = shapes.sample("sphere", 40, snr=10, seed=3)
    found = others.maximum_likelihood("sphere", 10, truth)
    error = shapes.rmse_px(found - truth.centres_px)
    # 80 coordinates: the error of the error is 8 %.
    bound = shapes.cramer_rao_bound_px("sphere", 10, n_poses=10)
    assert error / bound == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    "method",
    [
        others.plain_centroid,
        others.thresholded_centroid,
        others.radial_symmetry,
        others.trackpy_refinement,
    ],
)
def test_baselines_find_a_noise_free_point(method: others.Localiser) -> None:
    image = shapes.draw("point", 30.4, 33.1)
    assert method(image) == pytest.approx(np.array([30.4, 33.1]), abs=0.05)
