"""Charts of how a run went: positions, errors, stage, latency."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from lodestar_live.data import Flag, FloatArray, Rows
from lodestar_live.view.figures import run_data, style
from lodestar_live.view.figures.run_data import RunSource


def draw_positions(
    axes: Axes,
    source: RunSource,
    *,
    track_id: int | None = None,
    truth: Rows | None = None,
) -> None:
    """Draw y and x of one particle over time, with the truth where it is known."""
    if track_id is None:
        track_id = run_data.followed_id(source)
    is_target = track_id in run_data.target_ids(source)
    name = "followed particle" if is_target else "longest track"
    axes.set_title(f"Position of the {name}, #{track_id}")
    rows = run_data.trajectories(source.tracks()).get(
        -1 if track_id is None else track_id
    )
    if rows is None:
        style.say_nothing_here(axes, "No particle was seen in two frames.")
        return
    scale, unit = run_data.length_unit(source)
    t_s = run_data.seconds_at(source, run_data.column(rows, "frame"))
    at = run_data.positions_px(source, rows)
    start = at[0]
    for i, (name, colour) in enumerate((("y", style.BLUE), ("x", style.GOLD))):
        axes.plot(
            t_s, (at[:, i] - start[i]) * scale, color=colour, label=f"{name} tracked"
        )
    if truth is not None and len(truth):
        _draw_truth(axes, source, rows, truth, start, scale)
    axes.set(
        xlabel=f"time ({run_data.time_unit(source)})", ylabel=f"displacement ({unit})"
    )
    axes.legend(ncols=2, loc="best")
    axes.margins(x=0.01)


def _draw_truth(
    axes: Axes,
    source: RunSource,
    rows: Rows,
    truth: Rows,
    start: FloatArray,
    scale: float,
) -> None:
    true_rows = match_truth(rows, truth)
    good = true_rows >= 0
    matched = truth[true_rows[good]]
    t_s = run_data.seconds_at(source, run_data.column(matched, "frame"))
    at = run_data.positions_px(source, matched)
    for i, name in enumerate("yx"):
        axes.plot(
            t_s, (at[:, i] - start[i]) * scale, ":", color=style.INK, lw=1.0,
            label="truth" if name == "y" else None,
        )  # fmt: skip


def match_truth(rows: Rows, truth: Rows, radius_px: float = 4.0) -> np.ndarray:
    """Return for each row the nearest true row of its frame, -1 beyond `radius_px`."""
    found = np.full(len(rows), -1)
    order = np.argsort(truth["frame"], kind="stable")
    frames = truth["frame"][order]
    seen = np.column_stack([rows["y_px"], rows["x_px"]])
    for i, (frame, at) in enumerate(zip(rows["frame"], seen, strict=True)):
        low, high = np.searchsorted(frames, [frame, frame + 1])
        if low == high:
            continue
        here = order[low:high]
        away = np.hypot(truth["y_px"][here] - at[0], truth["x_px"][here] - at[1])
        if away.min() <= radius_px:
            found[i] = here[away.argmin()]
    return found


def errors_px(source: RunSource, truth: Rows) -> FloatArray:
    """Return y and x errors of every measured row near a true particle, (n, 2) px.

    Rows flagged as too close to the frame's edge are left out.
    """
    tracks = source.tracks()
    seen = tracks[~(run_data.column(tracks, "missed_frames") > 0)]
    if "flags" in (seen.dtype.names or ()):
        seen = seen[(seen["flags"] & Flag.BORDER) == 0]
    matched = match_truth(seen, truth)
    good = matched >= 0
    true = truth[matched[good]]
    return np.column_stack(
        [seen[f"{a}_px"][good] - true[f"{a}_px"] for a in "yx"]
    ).reshape(-1, 2)


def draw_errors(axes: Axes, errors: FloatArray) -> None:
    """Draw the histogram of localisation errors against the known truth."""
    axes.set_title("Error against the known truth")
    if not len(errors):
        style.say_nothing_here(axes, "No tracked particle lies near a true one.")
        return
    # five times the median shows the shape, whatever the outliers
    limit = max(5 * float(np.median(abs(errors))), 0.02)
    bins = np.linspace(-limit, limit, 61).tolist()
    for i, (name, colour) in enumerate((("y", style.BLUE), ("x", style.GOLD))):
        rmse = float(np.sqrt(np.mean(errors[:, i] ** 2)))
        axes.hist(
            errors[:, i], bins, histtype="stepfilled", color=colour, alpha=0.45,
            label=f"{name}: RMSE {rmse:.3f} px",
        )  # fmt: skip
    axes.set(xlabel="tracked - true (px)", ylabel="positions")
    axes.legend(loc="upper right")


def draw_stage(axes: Axes, source: RunSource) -> None:
    """Draw the stage's path over the sample and where it was sent."""
    frames = source.frames()
    y_um, x_um = (run_data.column(frames, f"stage_{a}_um") for a in "yx")
    moves = [e.details for e in source.events() if e.kind.startswith("stage.")]
    sent = np.array(
        [(m["y_um"], m["x_um"]) for m in moves if {"y_um", "x_um"} <= m.keys()], float
    ).reshape(-1, 2)
    if len(sent):
        axes.plot(
            sent[:, 1], sent[:, 0], "o", ms=5, mew=0, color=style.ACCENT, alpha=0.3,
            label=f"{len(sent)} commands",
        )  # fmt: skip
    axes.plot(x_um, y_um, color=style.BLUE, label="stage at exposure")
    axes.set_title("Stage path and commands" if len(sent) else "Stage path")
    axes.plot(x_um[:1], y_um[:1], "s", color=style.GREEN, ms=6, label="start")
    axes.set(xlabel="stage x (µm)", ylabel="stage y (µm)", aspect="equal")
    axes.set_adjustable("datalim")
    axes.legend(loc="best")


def stage_moved(source: RunSource) -> bool:
    """Tell whether the stage moved during the run."""
    frames = source.frames()
    spans = [np.ptp(v[np.isfinite(v)]) if np.isfinite(v).any() else 0.0 for v in
             (run_data.column(frames, f"stage_{a}_um") for a in "yx")]  # fmt: skip
    return bool(max(spans) > 1e-3)


def draw_latency(axes: Axes, source: RunSource) -> None:
    """Draw one latency histogram per stage, on a logarithmic axis."""
    axes.set_title("Latency per stage")
    stages = run_data.timings_ms(source)
    stages = {n: v[v > 0] for n, v in stages.items() if (v > 0).any()}
    if not stages:
        style.say_nothing_here(axes, "No latencies were recorded.")
        return
    every = np.concatenate(list(stages.values()))
    bins = np.geomspace(max(every.min(), 1e-3) * 0.9, every.max() * 1.1, 70).tolist()
    for (name, values), colour in zip(stages.items(), style.SERIES * 3, strict=False):
        p50, p99 = np.percentile(values, [50, 99])
        label = f"{name} {p50:.3g} | {p99:.3g}"
        axes.hist(
            values, bins, histtype="stepfilled", color=colour, alpha=0.5, label=label
        )
    axes.set(xscale="log", xlabel="latency (ms)", ylabel="frames")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.5)  # room for the legend
    axes.legend(loc="upper center", ncols=2, title="p50 | p99 (ms)", title_fontsize=8)
    style.plain_log_labels(axes.xaxis)


def draw_number(axes: Axes, source: RunSource) -> None:
    """Draw how many particles were seen in each frame."""
    axes.set_title("Particles per frame")
    tracks = source.tracks()
    seen = tracks[~(run_data.column(tracks, "missed_frames") > 0)]
    frame, n = np.unique(seen["frame"], return_counts=True)
    axes.plot(run_data.seconds_at(source, frame.astype(float)), n, color=style.PURPLE)
    axes.set(
        xlabel=f"time ({run_data.time_unit(source)})",
        ylabel="particles",
        ylim=(0, None),
    )
