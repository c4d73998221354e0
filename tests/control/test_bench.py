from __future__ import annotations

import pytest

from tests import bench
from tests.bench.control import MOTIONS


def test_the_smoke_version_loses_nobody_and_fills_its_tables() -> None:
    report = bench.run("control", quick=True)
    following, deadband, scale, sign = report.tables
    assert [row[5] + row[7] for row in following.rows] == [0] * 12
    assert len(deadband.rows) == 12 and len(scale.rows) == 3
    assert all(row[3] == row[2] for row in sign.rows)  # held in view, every run


def test_the_bound_of_pure_diffusion_is_the_textbooks() -> None:
    """Filter variance by the scalar Riccati equation, plus 2 D dt per frame ahead."""
    step, noise = 2 * 1.0 * 0.02, 0.05**2
    ahead = step / 2 + (step**2 / 4 + step * noise) ** 0.5
    expected = (ahead - step + 3 * step) ** 0.5
    assert MOTIONS[0].bound_um(2) == pytest.approx(expected, rel=1e-6)
