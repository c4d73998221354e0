"""What the controller did: target, stage, prediction, commands and what was left."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from lodestar_live.data import FloatArray, Pixels, Rows
from lodestar_live.view.figures import charts, run_data, style
from lodestar_live.view.figures.run_data import RunSource

COMMANDS = ("stage.move", "stage.dry_run")
_ENDS = ("control.lost", "stage.held", "stage.stopped", "control.no_frames")


def was_controlled(source: RunSource) -> bool:
    """Tell whether a controller followed a target in this run."""
    return any(event.kind == "control.target" for event in source.events())


def panels(source: RunSource, snapshot: Pixels | None) -> list[Callable[[Axes], None]]:
    """Return the three panels on control: where, when, how well."""
    return [
        partial(charts.draw_stage, source=source),
        partial(draw_following, source=source, snapshot=snapshot),
        partial(draw_centring, source=source, snapshot=snapshot),
    ]


def write_control(
    recording: RunSource, path: str | Path, *, snapshot: Pixels | None = None
) -> Path:
    """Draw stage, target, prediction, commands and error of a run; return the path.

    Parameters
    ----------
    recording
        A `Recording`, or `RunArrays`.
    path
        Picture to write; the suffix chooses the format.
    snapshot
        Any frame of the run, shape (y, x): its middle is where the target belongs.
        None: the middle of where the target was.
    """
    recording = run_data.loaded(recording)
    with style.styled():
        figure = style.new_figure(15.5, 4.4)
        figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
        for k, draw in enumerate(panels(recording, snapshot)):
            draw(figure.add_subplot(1, 3, k + 1))
        return style.save(figure, path)


def draw_following(axes: Axes, source: RunSource, snapshot: Pixels | None) -> None:
    """Draw the target in the sample, stage, prediction and commands over time.

    Of the two axes the one in which the target went farther.
    """
    t_s, offset_um, stage_um = followed_um(source, snapshot)
    if not len(t_s):
        style.say_nothing_here(axes, "No target was followed.")
        return
    place_um = stage_um + offset_um
    axis = int(np.argmax(np.ptp(place_um, axis=0)))
    name = "yx"[axis]
    sent = [e for e in source.events() if e.kind in COMMANDS and "y_um" in e.details]
    axes.plot(t_s, place_um[:, axis], color=style.ACCENT, label="target in the sample")
    axes.plot(t_s, stage_um[:, axis], color=style.BLUE, label="stage at exposure")
    for key, marker, colour, label in (
        (f"predicted_{name}_um", "+", style.GREEN, "predicted"),
        (f"{name}_um", ".", style.GOLD, f"{len(sent)} commands"),
    ):
        known = [(e.t_s, e.details[key]) for e in sent if key in e.details]
        if known:
            axes.plot(*np.transpose(known), marker, ms=4, color=colour, label=label)
    axes.set_title("Target, stage and commands")
    axes.set(xlabel="time (s)", ylabel=f"{name} (µm)")
    axes.legend(loc="best")


def draw_centring(axes: Axes, source: RunSource, snapshot: Pixels | None) -> None:
    """Draw how far the target was from the centre, frame by frame."""
    t_s, offset_um, _ = followed_um(source, snapshot)
    if not len(t_s):
        style.say_nothing_here(axes, "No target was followed.")
        return
    error_um = np.linalg.norm(offset_um, axis=1)
    rms_um = float(np.sqrt(np.mean(error_um**2)))
    axes.plot(t_s, error_um, color=style.ACCENT, label=f"rms {rms_um:.2f} µm")
    deadband_um = source.info.settings.get("control", {}).get("deadband_um")
    if deadband_um:
        axes.axhline(deadband_um, color=style.MUTED, ls="--", label="deadband")
    for kind, colour in zip(_ENDS, style.SERIES, strict=False):
        told_s = [e.t_s for e in source.events() if e.kind == kind]
        for k, at_s in enumerate(told_s):
            label = None if k else f"{kind} ({len(told_s)})"
            axes.axvline(at_s, color=colour, lw=0.8, alpha=0.7, label=label)
    axes.set_title("Error: target from the centre of the view")
    axes.set(xlabel="time (s)", ylabel="error (µm)", ylim=(0, None))
    axes.legend(loc="upper right")


def followed_um(
    source: RunSource, snapshot: Pixels | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return time (n,), target from the centre (n, 2) and stage (n, 2), (y, x) µm.

    One row per frame in which the target of that time was seen.
    """
    rows, mapping = _followed_rows(source), run_data.calibration(source.info)
    frames = source.frames()
    if not len(rows) or mapping is None:
        return np.empty(0), np.empty((0, 2)), np.empty((0, 2))
    seen_px = run_data.positions_px(source, rows, in_sample=False)
    centre_px = np.median(seen_px, axis=0)
    if snapshot is not None:
        centre_px = (np.array(snapshot.shape) - 1) / 2
    stage = np.column_stack([run_data.column(frames, f"stage_{a}_um") for a in "yx"])
    known = np.isfinite(stage).all(axis=1)
    frame = run_data.column(rows, "frame")
    if not known.any():
        known, stage = np.ones(len(frames), bool), np.zeros((len(frames), 2))
    stage_um = np.column_stack(
        [np.interp(frame, frames["frame"][known], stage[known, i]) for i in (0, 1)]
    )
    offset_um = (seen_px - centre_px) @ mapping.matrix_um_per_px.T
    return run_data.seconds_at(source, frame), offset_um, stage_um


def _followed_rows(source: RunSource) -> Rows:
    """Rows of whoever was the target at the time, measured ones only."""
    tracks = source.tracks()
    told = [e for e in source.events() if e.kind == "control.target"]
    begin_s = np.array([e.t_s for e in told])
    t_s = run_data.seconds_at(source, run_data.column(tracks, "frame"))
    turn = np.searchsorted(begin_s, t_s + 1e-9) - 1
    ids = np.array([-1, *(int(e.details["track_id"]) for e in told)])
    is_target = tracks["track_id"] == ids[turn + 1]
    is_seen = ~(run_data.column(tracks, "missed_frames") > 0)
    return np.asarray(tracks[is_target & is_seen])
