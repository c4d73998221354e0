"""`training.png`: what was learnt, and whether to trust it, in one look."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure

from lodestar_live.data import FloatArray, Pixels
from lodestar_live.detection import Detector
from lodestar_live.model_card import stated
from lodestar_live.training.augment.views import ViewMaker, ViewSettings
from lodestar_live.training.model import Model

_N_VIEWS = 6


def write_picture(model: Model, path: str | Path, snapshot: Pixels) -> Path:
    """Draw crop, views, training curves, predicted error, score map and detections.

    Parameters
    ----------
    model
        A freshly trained model.
    path
        Where the PNG goes.
    snapshot
        The image the crop came from; detections are shown on it.
    """
    figure = Figure(figsize=(14, 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, height_ratios=[1, 1.6], width_ratios=[1.15, 1])
    _draw_views(figure.add_subfigure(grid[0, 0]), model)
    _draw_curves(figure.add_subfigure(grid[0, 1]), model)
    _draw_snapshot(figure.add_subfigure(grid[1, :]), model, snapshot)
    target = Path(path)
    figure.savefig(target, dpi=110)
    return target


def _draw_views(figure: SubFigure, model: Model) -> None:
    n_crops = len(model.particles)
    axes = figure.subplots(2, n_crops + 3)
    for column, (particle, crop) in enumerate(
        zip(model.particles, model.card.crops, strict=True)
    ):
        title = "" if column else "contrast / noise "
        title = title if n_crops > 1 else f"crop, {title}"
        _show(axes[0, column], particle.crop, f"{title}{particle.snr:.1f}")
        _show(axes[1, column], particle.signal, "denoised" if column == 0 else "")
        for axis in axes[:, column]:
            axis.plot(*crop.centre_px[::-1], "+", color="#ff5050", ms=12)
    snr = model.particle.snr
    settings = ViewSettings(
        side_px=max(24, model.particle.size_px // 4 * 4),
        max_shift_px=model.particle.size_px / 8,
        noise=(0.5, max(1.0, snr / 3)),
        crowded=1 / 3,
    )
    generator = torch.Generator().manual_seed(1)
    drawn = ViewMaker(model.particles, settings, generator=generator).draw(_N_VIEWS)
    for axis, view in zip(axes[:, n_crops:].ravel(), drawn.images[:, 0], strict=True):
        _show(axis, view.numpy(), "")
    axes[0, n_crops + 1].set_title("views it learns from", fontsize=9)


def _show(axis: Axes, image: Pixels, title: str) -> None:
    axis.imshow(image, cmap="gray")
    axis.set_title(title, fontsize=9)
    axis.set_axis_off()


def _draw_curves(figure: SubFigure, model: Model) -> None:
    left, right = figure.subplots(1, 2)
    for name, label in (("loss", "loss"), ("consistency_px", "vote spread, px")):
        values = np.asarray(model.history[name])
        smooth = _running_mean(values, max(1, len(values) // 60))
        left.semilogy(np.linspace(0, len(values), len(smooth)), smooth, label=label)
    seconds = stated(model.card.training, "training").seconds
    left.set(xlabel="step", title=f"training, {seconds:.0f} s")
    left.legend(frameon=False)
    report = stated(model.card.report, "report")
    snrs = [float(k) for k in report.predicted_error_px]
    right.loglog(snrs, list(report.predicted_error_px.values()), "o-")
    right.axvline(model.particle.snr, color="0.7", ls=":")
    right.text(model.particle.snr, right.get_ylim()[1], " crop", va="top", color="0.4")
    right.set(xlabel="contrast / noise", title="predicted error, px per axis")
    right.set_xticks(snrs, [f"{snr:g}" for snr in snrs])
    right.minorticks_off()
    right.grid(alpha=0.3)


def _running_mean(values: FloatArray, width: int) -> FloatArray:
    smooth: FloatArray = np.convolve(values, np.ones(width) / width, mode="valid")
    return smooth


def _draw_snapshot(figure: SubFigure, model: Model, snapshot: Pixels) -> None:
    left, right = figure.subplots(1, 2)
    detector = Detector(model.to_bytes())
    image = np.asarray(snapshot)
    if image.dtype.kind == "f":
        image = image.astype(np.float32)
    found = detector(image)
    low, high = np.quantile(image, [0.005, 0.998])
    left.imshow(image, cmap="gray", vmin=low, vmax=high)
    left.plot(*found.positions_px.T[::-1], "o", mfc="none", mec="#30e070", ms=9)
    corners = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1], [-1, -1]]) / 2
    for crop in model.card.crops:
        rim = np.array(crop.at_px) + corners * crop.size_px
        left.plot(rim[:, 1], rim[:, 0], color="#ff5050", lw=1.2)
    what = "the crop" if len(model.particles) == 1 else "the crops"
    left.set_title(f"{len(found)} detections on the snapshot; red: {what}", fontsize=10)
    score = detector.maps(image).score
    shown = np.clip(score, np.quantile(score, 0.02), None)
    picture = right.imshow(shown, cmap="magma")
    threshold = detector.card.threshold
    label = "" if threshold is None else f", threshold {threshold:.1f}"
    right.set_title(f"log score{label}", fontsize=10)
    figure.colorbar(picture, ax=right, shrink=0.8)
    for axis in (left, right):
        axis.set_axis_off()
