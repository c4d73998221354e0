"""The benchmark runs; its numbers are judged in bench/results."""

from __future__ import annotations

from tests import bench


def test_streams_bench_gives_every_table() -> None:
    report = bench.run("streams", quick=True)
    assert [len(table.rows) for table in report.tables] == [2, 3, 1]
