from __future__ import annotations

from lodestar_live import bench


def test_detect_bench_measures_every_table() -> None:
    report = bench.run("detect", quick=True)
    assert all(table.rows for table in report.tables)
    peers = next(t for t in report.tables if t.title.startswith("Against peers"))
    found = {row[0]: row[6] for row in peers.rows}
    assert found["trackpy"] == "25 + 0"
