"""`train`: from one particle of an image, or several, to a model that finds all."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from lodestar_live.data import Pixels
from lodestar_live.detection.scale import Scale
from lodestar_live.detection.weights import LocalContrast
from lodestar_live.errors import ModelError
from lodestar_live.lodestar.calibrate import calibrate
from lodestar_live.lodestar.crops import (
    Crops,
    Place,
    choose_crops,
    crop_cards,
    hardest,
    measure_crops,
)
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
from lodestar_live.lodestar.particle import Particle
from lodestar_live.lodestar.report import TrainingReport, examine
from lodestar_live.lodestar.training import Fit, Progress, Recipe, fit
from lodestar_live.lodestar.views import ViewMaker, ViewSettings

Quality = Literal["fast", "best"]

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
    """Everything decided before the first step.

    `particles`: one per crop. `particle`: the hardest of all, see `hardest`.
    """

    particles: tuple[Particle, ...]
    particle: Particle
    normalise: LocalContrast
    views: ViewSettings
    recipe: Recipe
    network: NetworkName


def train(
    image: Pixels,
    at: Place | Sequence[Place] | None = None,
    size: int | None = None,
    *,
    seed: int = 0,
    network: NetworkName = "live",
    quality: Quality = "fast",
    steps: int | None = None,
    downsample: int | None = None,
    progress: Progress | None = None,
) -> Model:
    """Train a detector on one particle of one image, or on several that differ.

    Parameters
    ----------
    image
        Shape (y, x), any real dtype.
    at
        (y, x) of the particle, px; a list of such pairs: several particles of varying
        shape or brightness, all of them wanted. Left out: an image up to 128 px a side
        is the crop itself; in a larger one the best particle is chosen.
    size
        Side of the square crop, px, the same for all. Left out: estimated from the
        largest particle.
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
        A crop holds no learnable particle, or three starts from different seeds
        failed; the message says which and why.
    InputError
        The image or the crop cannot be used.
    """
    crops = choose_crops(np.asarray(image), at, size, downsample)
    small = crops.scale.shrink(np.asarray(image))
    plan = _make_plan(measure_crops(small, crops), network, quality, steps)
    started = time.perf_counter()
    # The live network's layers are too small to share: its second thread draws views.
    with _thread_count(2 if network == "paper" else 1):
        trained, result, report, attempts = _try(plan, seed, crops, progress)
    card = _make_card(plan, report)
    card["training"] |= {
        "seed": seed,
        "attempts": attempts,
        "seconds": round(time.perf_counter() - started, 2),
        "quality": quality,
    }
    history = {"loss": result.loss, "consistency_px": result.consistency_px}
    card["crop"] = {"at_px": list(crops.places_px[0]), "size_px": crops.size_px}
    card["crops"] = crop_cards(crops, plan.particles, report)
    model = Model(export_weights(trained), card, plan.particles, history)
    card |= calibrate(model, small, seed=seed)
    if crops.scale.factor > 1:
        _note_scale(card, crops.scale)
    return model


def _try(
    plan: _Plan,
    seed: int,
    crops: Crops,
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
        f"training on {', '.join(crops.names())}, {crops.size_px} px: "
        f"{report.problem}, after {ATTEMPTS} attempts. The crop may hold no particle "
        "or several: choose another with `at` and `size`."
    )


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
    particles: tuple[Particle, ...],
    network: NetworkName,
    quality: Quality,
    steps: int | None,
) -> _Plan:
    particle = hardest(particles)
    recipe = PAPER if network == "paper" else LIVE_FAST
    if quality == "best" and network != "paper":
        recipe = LIVE_BEST
    if steps is not None:
        recipe = replace(recipe, steps=steps)
    views = _choose_views(particle, network)
    normalise = _local_contrast(particle)
    return _Plan(particles, particle, normalise, views, recipe, network)


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
    maker = ViewMaker(plan.particles, plan.views, generator=generator)
    network = build_network(
        plan.network, plan.normalise, particle_radius_px=plan.particle.radius_px
    )
    initialise(network, generator)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    middle = (plan.particle.size_px - 1) / 2
    anchor = torch.tensor([[c - middle for c in p.centre_px] for p in plan.particles])
    result = fit(network, maker, plan.recipe, anchor=anchor, progress=progress)
    report = examine(
        network, plan.particles, plan.views, anchor=result.anchor, seed=seed
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
    particle = plan.particles[0]
    return {
        "network": plan.network,
        "centre_px": list(report.centre_px),
        "radius_px": plan.particle.radius_px,
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
