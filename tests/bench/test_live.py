from __future__ import annotations

import pytest

from lodestar_live import bench


@pytest.mark.system
def test_live_bench_tracks_the_demo_camera(bead_model) -> None:
    report = bench.run("live", quick=True, model=bead_model)
    table = report.tables[0]
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["tracks"] > 0
    assert row["tracked fps"] > 0
    assert row["latency p50 ms"] > row["detect p50 ms"]
