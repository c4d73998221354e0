"""Faults, one by one: what is expected, what was seen, and the figure.

Each room that has faults of its own adds a module ``_faults_NAME.py`` with `CASES`.
"""

from __future__ import annotations

from rich.progress import track

from lodestar_live.bench.report import BenchReport, Table
from tests.bench import _faults_moving
from tests.bench._fault import Case

ROOMS: dict[str, tuple[Case, ...]] = {"moving": _faults_moving.CASES}


def run(*, quick: bool = False, seed: int = 0) -> BenchReport:
    """Make every fault happen; `quick` leaves out what takes longer than 2 s."""
    report = BenchReport("faults")
    for room, cases in ROOMS.items():
        table = Table(room, ["fault", "expected", "seen", "verdict"])
        chosen = [case for case in cases if not (quick and case.is_slow)]
        for case in track(chosen, room, transient=True):
            seen = case.make(seed)
            verdict = "ok" if seen.is_right else "WRONG"
            table.rows.append([case.fault, case.expected, seen.text, verdict])
        report.tables.append(table)
    return report
