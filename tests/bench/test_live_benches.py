"""The quick versions of the benches on the live loop run and say sensible things."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lodestar_live import bench
from lodestar_live.errors import InputError

pytestmark = pytest.mark.system


def test_the_hook_bench_compares_with_and_without(bead_model) -> None:
    report = bench.run("hook", quick=True, model=bead_model)
    rates, calls = report.tables
    ways = ["LiveTracker", "LiveTracker, frame handed on"]
    assert [row[0] for row in rates.rows] == ["none", "empty", *ways]
    assert all(row[1] > 10 for row in rates.rows)
    assert [(row[0], row[4]) for row in calls.rows] == [(way, 120) for way in ways]


def test_the_khz_bench_tracks_every_frame_and_says_where_the_time_goes(
    bead_model,
) -> None:
    report = bench.run("khz", quick=True, model=bead_model)
    rates, profile, trace = (
        [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        for table in report.tables
    )
    assert [row["subscribed"] for row in rates] == ["no", "yes"]
    assert all(row["not processed"] == 0 and row["frames/s"] > 10 for row in rates)
    assert profile[0]["graph alone"] < profile[0]["detect, called"]
    assert trace[0]["frames"] == 2000
    assert trace[0]["not recorded"] == 0


def test_a_bench_without_a_training_refuses_a_model(bead_model) -> None:
    with pytest.raises(InputError, match=r"takes no model; .*'soak'"):
        bench.run("detect", quick=True, model=bead_model)


def test_memory_stays_flat_and_below_the_bar_in_a_live_run(bead_model) -> None:
    # In a process of its own: this one holds whatever other tests imported.
    command = [sys.executable, "-m", "lodestar_live", "bench", "soak", "--quick"]
    command += ["--model", str(bead_model)]
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(
        [*command, "--json"], capture_output=True, text=True, check=True, cwd=root
    )
    report = json.loads(result.stdout)
    _, frames, _, peak_mib, growth_mib = report["tables"][0]["rows"][0]
    assert frames > 50
    assert peak_mib < 400
    assert growth_mib < 20
    assert report["notes"][0].endswith("False")  # torch in the live process
