"""The scene of a run: snapshot, training crop, detections, trajectories."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle

from lodestar_live.data import Pixels
from lodestar_live.view.figures import run_data, style
from lodestar_live.view.figures.run_data import RunSource

Crop = tuple[float, float, float]
"""y_px, x_px, size_px."""


def draw_scene(
    axes: Axes,
    source: RunSource,
    snapshot: Pixels | None,
    *,
    crop: Crop | None = None,
    followed: int | None = None,
) -> None:
    """Draw the snapshot with crop, first detections and all trajectories."""
    draw_snapshot(axes, snapshot, crop)
    draw_trajectories(axes, source, followed=followed)
    n = draw_first_detections(axes, source)
    axes.set_title(f"{n} particles in the first frame, and all trajectories")


def draw_snapshot(axes: Axes, snapshot: Pixels | None, crop: Crop | None) -> None:
    """Draw the first image in grey, the training crop marked and enlarged."""
    axes.grid(False)
    axes.set_facecolor("#0d1117")
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel("x (px)")
    axes.set_ylabel("y (px)")
    if snapshot is None:
        axes.invert_yaxis()
        return
    low, high = style.contrast(snapshot)
    axes.imshow(
        snapshot, cmap="gray", vmin=low, vmax=high, interpolation="nearest",
        aspect=None,
    )  # fmt: skip
    if crop is not None:
        _mark_crop(axes, snapshot, crop)


def _mark_crop(axes: Axes, snapshot: Pixels, crop: Crop) -> None:
    y_px, x_px, size_px = crop
    corner = (x_px - size_px / 2, y_px - size_px / 2)
    box = Rectangle(corner, size_px, size_px, fill=False, ec=style.ACCENT, lw=1.8)
    axes.add_patch(box)
    rows, columns = (
        slice(max(round(c - size_px / 2), 0), round(c + size_px / 2) + 1)
        for c in (y_px, x_px)
    )
    inset = axes.inset_axes((0.835, 0.72, 0.155, 0.265))
    inset.imshow(snapshot[rows, columns], cmap="gray", interpolation="nearest")
    inset.set(xticks=[], yticks=[])
    inset.grid(False)
    for spine in inset.spines.values():
        spine.set(visible=True, color=style.ACCENT, linewidth=2)
    inset.set_xlabel(
        "trained on this crop", color="white", fontsize=8, labelpad=3,
        bbox={"boxstyle": "round,pad=0.2", "fc": style.ACCENT, "ec": "none"},
    )  # fmt: skip


def draw_trajectories(
    axes: Axes, source: RunSource, *, followed: int | None = None
) -> None:
    """Draw every trajectory over the sample, in pixels of the first view."""
    known = run_data.trajectories(source.tracks())
    lines, colours = [], []
    for track_id, rows in known.items():
        if track_id != followed:
            is_short = len(rows) < run_data.SHORT_FRAMES
            lines.append(run_data.positions_px(source, rows)[:, ::-1])
            colours.append(style.MUTED if is_short else style.track_colour(track_id))
    axes.add_collection(
        LineCollection(lines, colors=colours, linewidths=1.1, alpha=0.9)
    )
    if followed in known:
        path = run_data.positions_px(source, known[followed])
        axes.plot(path[:, 1], path[:, 0], color="white", lw=3.4, alpha=0.8)
        axes.plot(path[:, 1], path[:, 0], color=style.ACCENT, lw=1.9)
        axes.plot(path[-1, 1], path[-1, 0], "o", color=style.ACCENT, mec="white", ms=7)
    axes.autoscale_view()


def draw_first_detections(axes: Axes, source: RunSource) -> int:
    """Circle the particles of the first frame with tracks; return how many."""
    tracks = source.tracks()
    if not len(tracks):
        return 0
    first = tracks[tracks["frame"] == tracks["frame"].min()]
    at = run_data.positions_px(source, first)
    axes.scatter(at[:, 1], at[:, 0], s=70, fc="none", ec="#7fe0ff", lw=1.0)
    return len(first)
