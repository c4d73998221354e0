"""Linking: truth and speed against trackpy, laptrack and tuned linear assignment.

The gate and memory of the peers are chosen by the truth, the best for each movie; ours
has one setting for everything. Seeds start at 1000 + 100 `seed`; tuning used others.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from lodestar_live.bench.report import BenchReport, Table
from tests.bench._link_peers import (
    laptrack,
    ours,
    timed,
    trackpy_adaptive,
    trackpy_plain,
    within,
)
from tests.bench._links import LinkScore, score_links
from tests.simulation.blinking import count_returns, simulate_blinking
from tests.simulation.motion import (
    Motion,
    Scenario,
    SimulatedFrame,
    simulate_motion,
)

GATES = (1.5, 2.0, 2.5, 3.0)  # of the rms step
GAPS = (0, 1, 3)  # 3 only where steps are small: elsewhere it always loses
SMALL_RATIO = 0.1
SPEED_GATE, SPEED_GAP = 2.5, 3
PATIENCE_S = 25.0
CELLS: list[tuple[Motion, float]] = [
    ("brownian", 0.1), ("brownian", 0.2), ("brownian", 0.3), ("brownian", 0.5),
    ("drift", 0.3), ("directed", 0.1), ("directed", 0.2), ("directed", 0.3),
    ("flow", 0.2), ("flow", 0.3), ("flow", 0.5), ("switch", 0.3), ("burst", 0.3),
]  # fmt: skip
Movie = Sequence[SimulatedFrame]


def run(*, quick: bool = False, seed: int = 0) -> BenchReport:
    """Compare linkers on simulated movies; see the module's docstring."""
    seeds = [1000 + 100 * seed + k for k in range(1 if quick else 5)]
    report = BenchReport("linking")
    report.tables.append(_speed(seeds[0], quick=quick))
    report.tables.append(_truth(seeds, quick=quick))
    report.tables.append(_blinking(seeds, quick=quick))
    report.tables.append(_first_gate(seeds, quick=quick))
    report.notes += [
        "ratio = rms step per frame / mean spacing; 5 % misses, 5 % false positives, "
        "0.5 % deaths and births per frame, neighbours within 2 px merge.",
        "LSA = gated linear sum assignment with the gate and memory best for the F1 of "
        "each movie, chosen by the truth; trackpy runs with that same gate and memory.",
        "ms are wall clock on a shared machine; linkers take turns frame by frame, so "
        "compare within a row.",
        f"trackpy's F1 is of the first seed; {PATIENCE_S:g} s at most per movie.",
    ]
    return report


def _movie(scenario: Scenario) -> Movie:
    return list(simulate_motion(scenario))


def _score(movie: Movie, found: Sequence[Any]) -> LinkScore:
    return score_links([frame.particle for frame in movie], found)


def _truth(seeds: Sequence[int], *, quick: bool) -> Table:
    table = Table(
        f"Truth: n = 300, 36 frames, mean of {len(seeds)} seeds",
        "motion|ratio|F1 ours|F1 LSA|difference|worst seed|gap recall ours|"
        "gap recall LSA|switches/1000 ours|switches/1000 LSA|JSC ours|JSC LSA|"
        "JSC_theta ours|JSC_theta LSA|F1 trackpy|F1 trackpy adaptive".split("|"),
    )
    cells = CELLS[:1] if quick else CELLS
    n, n_frames = (80, 12) if quick else (300, 36)
    jobs = [
        (Scenario(motion, n, ratio, n_frames, seed=seed), seed == seeds[0])
        for (motion, ratio), seed in itertools.product(cells, seeds)
    ]
    results = iter(_map(_compare, jobs))
    for motion, ratio in cells:
        rows = [next(results) for _ in seeds]
        table.rows.append([motion, ratio, *_summary(rows)])
    return table


def _map(function: Callable[[Any], Any], jobs: Sequence[Any]) -> list[Any]:
    """Apply to every job, on all cores where that is worth starting processes."""
    if len(jobs) < 10:
        return [function(job) for job in jobs]
    context = multiprocessing.get_context("spawn")
    # Twice the cores: a job is idle while trackpy runs in a process of its own.
    n_workers = 2 * (os.cpu_count() or 1)
    with ProcessPoolExecutor(n_workers, mp_context=context) as pool:
        return list(pool.map(function, jobs))


def _compare(job: tuple[Scenario, bool]) -> tuple[LinkScore, LinkScore, list[str]]:
    """Return our score, the best LSA's, and the F1 of both trackpys or why not."""
    scenario, with_trackpy = job
    movie = _movie(scenario)
    mine = _score(movie, list(ours(movie)))
    tuned = []
    gaps = GAPS[1:] if scenario.ratio <= SMALL_RATIO else GAPS[:2]
    for gate, gap in itertools.product(GATES, gaps):
        gate_px = gate * scenario.step_px
        found = ours(
            movie, search_radius_px=gate_px, max_gap_frames=gap, method="nearest"
        )
        tuned.append((_score(movie, list(found)), {"gate_px": gate_px, "gap": gap}))
    best, options = max(tuned, key=lambda pair: pair[0].f1)
    peers = []
    for peer in (trackpy_plain, trackpy_adaptive) if with_trackpy else ():
        result = within(PATIENCE_S, peer, movie, **options)
        is_linked = not isinstance(result, str)
        peers.append(f"{_score(movie, result).f1:.3f}" if is_linked else str(result))
    return mine, best, peers


def _summary(rows: Sequence[tuple[LinkScore, LinkScore, list[str]]]) -> list[Any]:
    def mean(side: int, name: str) -> float:
        return float(np.nanmean([getattr(row[side], name) for row in rows]))

    differences = [mine.f1 - lsa.f1 for mine, lsa, _ in rows]
    values: list[Any] = [mean(0, "f1"), mean(1, "f1")]
    values += [float(np.mean(differences)), float(min(differences))]
    for name in ("gap_recall", "switches", "jaccard_positions", "jaccard_tracks"):
        values += [mean(0, name), mean(1, name)]
    return values + rows[0][2]


def _speed(seed: int, *, quick: bool) -> Table:
    table = Table(
        "Speed: Brownian, memory 3, gate 2.5 rms for the peers; ms per frame p50 / p99",
        ["n", "ratio", "linker", "ms p50", "ms p99", "x ours", "F1"],
    )
    cases = [(100, 0.2, 40), (1000, 0.2, 40), (10_000, 0.2, 12), (50_000, 0.2, 5)]
    cases += [(50_000, 0.5, 5)]
    for n, ratio, n_frames in [(100, 0.2, 10)] if quick else cases:
        table.rows += _race(Scenario("brownian", n, ratio, n_frames, seed=seed))
    return table


def _race(scenario: Scenario) -> list[list[Any]]:
    movie = _movie(scenario)
    options: dict[str, Any] = {
        "gate_px": SPEED_GATE * scenario.step_px,
        "gap": SPEED_GAP,
    }
    plain = {"search_radius_px": options["gate_px"], "max_gap_frames": SPEED_GAP}
    runners = {
        "ours": ours(movie),
        "ours, nearest": ours(movie, method="nearest", **plain),
    }
    if scenario.ratio < 0.3:  # beyond, subnets grow without bound
        runners["trackpy adaptive"] = trackpy_adaptive(movie, **options)
        if scenario.n <= 10_000:
            runners["trackpy"] = trackpy_plain(movie, **options)
    found: dict[str, list[Any]] = {name: [] for name in runners}
    spent: dict[str, list[float]] = {name: [] for name in runners}
    for _ in movie:
        for name, runner in runners.items():
            ids, milliseconds = timed(itertools.islice(runner, 1))
            found[name] += ids
            spent[name] += milliseconds
    if scenario.n <= 100:
        found["laptrack"], total = timed(laptrack(movie, **options))
        spent["laptrack"] = [sum(total) / len(movie)] * len(movie)
    rows: list[list[Any]] = []
    for name, milliseconds in spent.items():
        # The first two frames compile (numba) or guess (ours).
        p50, p99 = np.percentile(milliseconds[2:], [50, 99]).tolist()
        slower = p50 / float(np.median(spent["ours"][2:]))
        f1 = _score(movie, found[name]).f1
        rows.append([scenario.n, scenario.ratio, name, p50, p99, slower, f1])
    return rows


def _blinking(seeds: Sequence[int], *, quick: bool) -> Table:
    table = Table(
        "Blinking: 40 emitters, 1 px per frame and axis, on for 20 frames on average",
        "frames off|returns|kept, ours|kept, trackpy|wrong ids, ours|"
        "wrong ids, trackpy".split("|"),
    )
    for off_frames in (3.0,) if quick else (1.5, 3.0, 6.0):
        counts = np.zeros((2, 3), np.int64)
        for seed in seeds:
            movie = simulate_blinking(off_frames, seed, n_frames=40 if quick else 300)
            # Range 6 px and memory 15 are trackpy's best by the truth.
            for row, linked in enumerate(
                (ours(movie), trackpy_plain(movie, gate_px=6.0, gap=15))
            ):
                counts[row] += count_returns(movie, list(linked))
        kept, returns, wrong = counts.T
        shares = (kept / np.maximum(returns, 1)).tolist()
        table.rows.append([off_frames, int(returns[0]), *shares, *wrong.tolist()])
    return table


def _first_gate(seeds: Sequence[int], *, quick: bool) -> Table:
    table = Table(
        "First gate: F1 when the learning starts from a wrong step",
        ["motion", "ratio", "none given", "1.5 rms", "3 rms", "8 rms", "largest loss"],
    )
    cases: list[tuple[Motion, float]] = [("brownian", 0.1), ("brownian", 0.3)]
    cases += [("directed", 0.3), ("flow", 0.3)]
    n, n_frames = (80, 12) if quick else (300, 36)
    cases = cases[:1] if quick else cases
    jobs = [
        Scenario(motion, n, ratio, n_frames, seed=seed)
        for (motion, ratio), seed in itertools.product(cases, seeds)
    ]
    results = iter(_map(_vary_gate, jobs))
    for motion, ratio in cases:
        means = np.mean([next(results) for _ in seeds], axis=0).tolist()
        table.rows.append([motion, ratio, *means, means[0] - min(means)])
    return table


def _vary_gate(scenario: Scenario) -> list[float]:
    movie = _movie(scenario)
    gates = [None, *(gate * scenario.step_px for gate in (1.5, 3.0, 8.0))]
    return [_score(movie, list(ours(movie, first_gate_px=g))).f1 for g in gates]
