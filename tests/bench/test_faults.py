from __future__ import annotations

from tests import bench


def test_every_fault_of_the_short_bench_ends_as_expected() -> None:
    """Times are figures of the bench, so a slow machine may miss those, not more."""
    (table,) = bench.run("faults", quick=True).tables
    wrong = [row for row in table.rows if row[-1] != "ok"]
    assert [row[0] for row in wrong if "ms" not in row[1]] == []
