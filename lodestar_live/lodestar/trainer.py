"""`train`: from one particle in one image to a model that finds all like it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from lodestar_live.data import FloatArray, Pixels
from lodestar_live.detection.scale import LARGEST_FACTOR, Scale
from lodestar_live.detection.weights import LocalContrast
from lodestar_live.errors import InputError, ModelError
from lodestar_live.lodestar.calibrate import calibrate
from lodestar_live.lodestar.choose import choose_particle, estimate_size
from lodestar_live.lodestar.model import Model
from lodestar_live.lodestar.network import (
    Network,
    NetworkName,
    dilations_for,
    export_weights,
    initialise,
    live_network,
    paper_network,
)
from lodestar_live.lodestar.particle import Particle, cut_crop, measure_particle
from lodestar_live.lodestar.report import TrainingReport, examine
from lodestar_live.lodestar.training import Fit, Progress, Recipe, fit
from lodestar_live.lodestar.views import ViewMaker, ViewSettings

Quality = Literal["fast", "best"]

LARGEST_CROP_IMAGE_PX = 128
FULL_SCALE_CROP_PX = 64  # of twice that side on, an automatic scale leaves pixels out
ATTEMPTS = 3
SCATTERED_PX = 3.0  # good starts stay below 1, bad ones reach 10: try another
LOWEST_SNR = 1.75  # of the noisiest views
CELL_PX = 4
LARGEST_VIEW_PX = 72  # unless the particle itself needs more
#: Fields of eight channels per layer, and the share of negative values that its units
#: let through: with two fields and none, one in three starts loses half a layer.
DESIGNS: dict[NetworkName, tuple[int, float]] = {"live": (3, 0.0), "quick": (2, 0.2)}
_LOG = logging.getLogger(__name__)

LIVE_FAST = Recipe(steps=1000, learning_rate=0.01, near=0.3)
LIVE_BEST = Recipe(steps=4000, learning_rate=0.01, near=0.3)
PAPER = Recipe(
    steps=5000,
    learning_rate=1e-3,
    one_cycle=False,
    within=0.1,
    near=0.0,
    weight_penalty=0.0,
    target="mean",
)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Everything decided before the first step."""

    particle: Particle
    normalise: LocalContrast
    views: ViewSettings
    recipe: Recipe
    network: NetworkName


def train(
    image: Pixels,
    at: tuple[float, float] | None = None,
    size: int | None = None,
    *,
    seed: int = 0,
    network: NetworkName = "live",
    quality: Quality = "fast",
    steps: int | None = None,
    downsample: int | None = None,
    progress: Progress | None = None,
) -> Model:
    """Train a detector on one particle of one image.

    Parameters
    ----------
    image
        Shape (y, x), any real dtype.
    at
        (y, x) of the particle, px. Left out: an image up to 128 px a side is the crop
        itself; in a larger one the best particle is chosen.
    size
        Side of the square crop, px. Left out: estimated from the particle.
    seed
        Same seed, same machine: same model.
    network
        ``live`` (default), ``quick`` (less time per frame, a little less exact) or
        ``paper`` (the publication's network and recipe).
    quality
        ``fast`` or ``best`` (four times the steps; not for ``paper``).
    steps
        Mini-batches; left out: the recipe's own.
    downsample
        The scale of tracking: the network sees means of blocks of so many pixels a
        side, so that it follows whole objects and not their parts; positions stay in
        pixels of `image`. Left out: 1, or more for crops from 128 px on.
    progress
        Called now and then with a `TrainingStep`.

    Raises
    ------
    ModelError
        The crop holds no learnable particle, or three starts from different seeds
        failed; the message says why.
    InputError
        The image or the crop cannot be used.
    """
    scale, at, size = _choose_crop(np.asarray(image), at, size, downsample)
    small = scale.shrink(np.asarray(image))
    crop = cut_crop(small, _pair(scale.to_small(at)), size // scale.factor)
    plan = _make_plan(crop, network, quality, steps)
    started = time.perf_counter()
    # The live network's layers are too small to share: its second thread draws views.
    with _thread_count(2 if network == "paper" else 1):
        trained, result, report, attempts = _try(plan, seed, at, size, progress)
    card = _make_card(plan, report)
    card["training"] |= {
        "seed": seed,
        "attempts": attempts,
        "seconds": round(time.perf_counter() - started, 2),
        "quality": quality,
    }
    history = {"loss": result.loss, "consistency_px": result.consistency_px}
    model = Model(export_weights(trained), card, plan.particle, history)
    card |= calibrate(model, small, seed=seed)
    card["crop"] = {"at_px": [float(c) for c in at], "size_px": size}
    if scale.factor > 1:
        _note_scale(card, scale)
    return model


def _try(
    plan: _Plan,
    seed: int,
    at: tuple[float, float],
    size: int,
    progress: Progress | None,
) -> tuple[Network, Fit, TrainingReport, int]:
    """Train until an attempt succeeds; also return how many it took."""
    for attempt in range(ATTEMPTS):
        trained, result, report = _attempt(plan, seed + 1000 * attempt, progress)
        is_last = attempt == ATTEMPTS - 1
        if not report.problem and (report.consistency_px < SCATTERED_PX or is_last):
            return trained, result, report, attempt + 1
        reason = report.problem or f"votes scatter {report.consistency_px:.1f} px"
        _LOG.warning("training attempt %d: %s", attempt + 1, reason)
    raise ModelError(
        f"training on the crop at (y, x) = ({at[0]:.0f}, {at[1]:.0f}), "
        f"{size} px: {report.problem}, after {ATTEMPTS} attempts. The crop may "
        "hold no particle or several: choose another with `at` and `size`."
    )


def _choose_crop(
    image: Pixels,
    at: tuple[float, float] | None,
    size: int | None,
    downsample: int | None,
) -> tuple[Scale, tuple[float, float], int]:
    """Choose what was left out; everything in pixels of `image`.

    With a given scale the particle is looked for at that scale.
    """
    scale = Scale(_checked_factor(downsample))
    if at is None and max(image.shape) <= LARGEST_CROP_IMAGE_PX:
        at = ((image.shape[0] - 1) / 2, (image.shape[1] - 1) / 2)
        size = min(image.shape) if size is None else size
    elif at is None:
        proposal = choose_particle(scale.shrink(image))
        at = _pair(scale.to_camera(proposal.at_px))
        size = proposal.size_px * scale.factor if size is None else size
    elif size is None:
        place = _pair(scale.to_small(at))
        size = estimate_size(scale.shrink(image), place) * scale.factor
    if downsample is None:
        scale = Scale(max(1, size // FULL_SCALE_CROP_PX))
    return scale, at, size


def _checked_factor(downsample: int | None) -> int:
    factor = 1 if downsample is None else downsample
    if not 1 <= factor <= LARGEST_FACTOR:
        raise InputError(
            f"downsample = {factor}: expected 1 (full resolution) to "
            f"{LARGEST_FACTOR}; leave it out and the crop's size decides."
        )
    return factor


def _pair(values: FloatArray) -> tuple[float, float]:
    return float(values[0]), float(values[1])


def _note_scale(card: dict[str, Any], scale: Scale) -> None:
    """Say at which scale the model sees; what users read is in camera pixels."""
    card["downsample"] = scale.factor
    report, factor = card["report"], scale.factor
    for name in ("error_px", "consistency_px"):
        report[name] *= factor
    report["predicted_error_px"] = {
        snr: error * factor for snr, error in report["predicted_error_px"].items()
    }


def _make_plan(
    crop: np.ndarray[Any, np.dtype[np.float64]],
    network: NetworkName,
    quality: Quality,
    steps: int | None,
) -> _Plan:
    particle = measure_particle(crop)
    recipe = PAPER if network == "paper" else LIVE_FAST
    if quality == "best" and network != "paper":
        recipe = LIVE_BEST
    if steps is not None:
        recipe = replace(recipe, steps=steps)
    views = _choose_views(particle, network)
    return _Plan(particle, _local_contrast(particle), views, recipe, network)


def _choose_views(particle: Particle, network: NetworkName) -> ViewSettings:
    """Size views so that neighbours on all sides fit in, where that stays cheap."""
    if network == "paper":
        crop = particle.size_px // CELL_PX * CELL_PX
        return ViewSettings(side_px=max(crop, 24), max_shift_px=crop / 8)
    pair_px = 2 * CELL_PX  # an even number of cells: faster when kernels are dilated
    pairs = particle.radius_px / pair_px
    widest = max(LARGEST_VIEW_PX // pair_px, round(5 * pairs))
    side = pair_px * max(6, min(math.ceil(8 * pairs), widest))
    return ViewSettings(
        side_px=side,
        max_shift_px=side / 8,
        noise=(0.3, float(np.clip(particle.snr / LOWEST_SNR, 3, 20))),
        crowded=0.5,
        neighbours=4 if side >= 7 * particle.radius_px else 2,
    )


def _local_contrast(particle: Particle) -> LocalContrast:
    """Choose windows by the particle: contrast over 1.5, background over 4 diameters.

    The floor keeps noise small: block means have 1/16 of the noise variance, and a
    tenth of the particle's contrast must not be blown up either.
    """
    diameter_cells = 2 * particle.radius_px / CELL_PX
    contrast = max(3, round(1.5 * diameter_cells) | 1)
    background = max(9, round(4 * diameter_cells) | 1)
    floor = max(0.15, 0.01 * (particle.contrast / particle.noise) ** 2 / 16)
    return LocalContrast(CELL_PX, background, contrast, floor)


def _attempt(
    plan: _Plan, seed: int, progress: Progress | None
) -> tuple[Network, Fit, TrainingReport]:
    generator = torch.Generator().manual_seed(seed)
    maker = ViewMaker(plan.particle, plan.views, generator=generator)
    network = build_network(
        plan.network, plan.normalise, particle_radius_px=plan.particle.radius_px
    )
    initialise(network, generator)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    middle = (plan.particle.size_px - 1) / 2
    anchor = torch.tensor([c - middle for c in plan.particle.centre_px])
    result = fit(network, maker, plan.recipe, anchor=anchor, progress=progress)
    report = examine(
        network, plan.particle, plan.views, anchor=result.anchor, seed=seed
    )
    return network, result, report


def build_network(
    name: NetworkName, normalise: LocalContrast, *, particle_radius_px: float
) -> Network:
    """Return an untrained network that sees a particle of the given size."""
    if name == "paper":
        return Network(paper_network(normalise), stride=2)
    dilations = dilations_for(particle_radius_px, CELL_PX)
    fields, leak = DESIGNS[name]
    layers = live_network(normalise, fields=fields, dilations=dilations, leak=leak)
    return Network(layers, stride=CELL_PX)


def _make_card(plan: _Plan, report: TrainingReport) -> dict[str, Any]:
    particle = plan.particle
    return {
        "network": plan.network,
        "centre_px": list(report.centre_px),
        "radius_px": particle.radius_px,
        "particle": {
            "snr": particle.snr,
            "contrast": particle.contrast,
            "background": particle.background,
            "noise": particle.noise,
            "gain": particle.gain,
        },
        "training": {"steps": plan.recipe.steps, "batch": plan.recipe.batch},
        "report": report.to_card(),
    }


@contextmanager
def _thread_count(n: int) -> Iterator[None]:
    """Let torch use so many threads, at most as many as it may."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(n, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
