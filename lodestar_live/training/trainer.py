"""`train`: from one particle of an image, or several, to a model that finds all."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from lodestar_live.data import Pixels
from lodestar_live.detection.frame.defects import correct_defects
from lodestar_live.detection.frame.inclusion import Inclusion
from lodestar_live.errors import InputError, ModelError
from lodestar_live.holography.optics import Optics
from lodestar_live.model_card import CardDraft, CropPlace, ParticleFacts, TrainingFacts
from lodestar_live.training.augment.views import ViewMaker
from lodestar_live.training.calibrate.calibrate import calibrate
from lodestar_live.training.calibrate.report import TrainingReport, examine
from lodestar_live.training.fit import Fit, Progress, fit
from lodestar_live.training.model import Model
from lodestar_live.training.network.network import (
    Network,
    NetworkName,
    export_weights,
    initialise,
)
from lodestar_live.training.network.warm_start import start_warm
from lodestar_live.training.particle.crops import (
    Crops,
    Place,
    as_places,
    choose_crops,
    crop_cards,
    measure_crops,
)
from lodestar_live.training.particle.measure import Particle
from lodestar_live.training.particle.suspects import find_suspects, search_area
from lodestar_live.training.particle.symmetry import orientation_of
from lodestar_live.training.plan import (
    Plan,
    Quality,
    Start,
    build_network,
    make_plan,
    on_snapshot,
)
from lodestar_live.training.train_field import FieldRecipe, learn_field, learns_field

SCATTERED_PX = 3.0  # good starts stay below 1, bad ones reach 10: try another
SCATTERED_RADII = 0.2  # or so much of a large particle, whose parts vote apart
_LOG = logging.getLogger(__name__)


def train(
    image: Pixels,
    at: Place | Sequence[Place] | None = None,
    size: int | None = None,
    *,
    not_at: Place | Sequence[Place] | None = None,
    seed: int = 0,
    network: NetworkName = "live",
    quality: Quality = "fast",
    start: Start = "scratch",
    steps: int | None = None,
    downsample: int | None = None,
    channels: Sequence[str] | None = None,
    optics: Optics | None = None,
    correct_pixels: bool = True,
    mask: npt.ArrayLike | None = None,
    region_px: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> Model:
    """Train a detector on one particle of one image, or on several that differ.

    Parameters
    ----------
    image
        Shape (y, x), any real dtype; or a complex field with background 1 (from
        `OffAxis`), of which one particle is learnt, `network`, `quality`, `start` and
        `downsample` as they are.
    at
        (y, x) of the particle, px; a list of such pairs: several particles of varying
        shape or brightness, all of them wanted. Left out: an image up to 128 px a side
        is the crop itself; in a larger one the best particle is chosen.
    size
        Side of the square crop, px, the same for all. Left out: estimated from the
        largest particle.
    not_at
        (y, x) of something that is not wanted, px, or a list of such pairs: dirt, or
        particles of another kind. The snapshot is searched for what is like it.
    seed
        Same seed, same machine: same model.
    network
        ``live`` (default) or ``paper`` (the publication's network and recipe).
    quality
        ``fast`` or ``best`` (up to a minute; not for ``paper``).
    start
        ``scratch`` (default): from random weights. ``warm``: from generic weights that
        know particles of this size, in a fifth of the steps; less exact, and tells
        shapes apart less well. Should it fail, from scratch. Only for ``live``.
    steps
        Mini-batches; left out: the recipe's own.
    downsample
        The scale of tracking: the network sees means of blocks of so many pixels a
        side, so that it follows whole objects and not their parts; positions stay in
        pixels of `image`. Left out: 1, or more for crops from 128 px on.
    channels
        What is learnt, by the names in `lodestar_live.channels`: ``("y", "x")`` of
        images, ``("y", "x", "angle")`` where it is to be told which way particles
        point; ``("y", "x", "z", "scale")`` of fields. Left out: the first and the last.
    optics
        Of a field; needed for one.
    correct_pixels
        Interpolate hot and dead pixels of the image first.
    mask, region_px
        The part of the image that counts, as `Detector` takes it: only there is a
        particle chosen, background learnt, and the threshold set. Not for fields.
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
    if learns_field(image, channels, optics):
        plain = (network, quality, start, downsample)
        return _train_on_field(image, optics, at, size, seed, steps, plain, progress)
    image = np.asarray(image)
    if correct_pixels:
        image = correct_defects(image)
    part = Inclusion.of(mask, region_px)
    wanted = None if part is None else part.within(image.shape)
    crops = choose_crops(image, at, size, downsample, wanted)
    small = crops.scale.shrink(image)
    particles = measure_crops(small, crops)
    started = time.perf_counter()
    first_px = crops.scale.to_small(crops.places_px[0])
    area = search_area(small, first_px)
    wanted = crops.scale.shrink_mask(wanted)
    if wanted is not None:
        wanted = search_area(wanted, first_px)
    lures: tuple[Particle, ...] = ()
    if not_at is not None:
        lures = measure_crops(small, replace(crops, places_px=as_places(not_at)))
    suspects = find_suspects(area, particles, lures=lures).within(wanted)
    plan, again = (
        on_snapshot(
            make_plan(particles, network, quality, how, steps), area, suspects, wanted
        )
        for how in (start, "scratch")
    )
    # The live network's layers are too small to share: its second thread draws views.
    with _thread_count(2 if network == "paper" else 1):
        trained, n_attempts = _try([plan, again, again], seed, crops, progress)
    facts = TrainingFacts(
        seed=seed,
        steps=trained.plan.recipe.steps,
        batch=trained.plan.recipe.batch,
        start=trained.plan.start,
        attempts=n_attempts,
        seconds=round(time.perf_counter() - started, 2),
        quality=quality,
    )
    card = _make_card(trained, crops, facts)
    if channels is not None and "angle" in channels:
        card = card.updated(orientation=orientation_of(particles, seed=seed))
    weights, history = export_weights(trained.network), trained.fit.history
    model = Model(weights, card, particles, history)
    measured = calibrate(model, area, suspects, seed=seed, wanted=wanted)
    return replace(model, card=card.updated(**measured))


def _train_on_field(
    field: Pixels,
    optics: Optics | None,
    at: Place | Sequence[Place] | None,
    size: int | None,
    seed: int,
    steps: int | None,
    plain: tuple[object, ...],
    progress: Progress | None,
) -> Model:
    if plain != ("live", "fast", "scratch", None):
        raise InputError(
            f"network, quality, start, downsample = {plain}: models of fields have one "
            "network and one recipe; leave them out."
        )
    recipe = FieldRecipe() if steps is None else FieldRecipe(steps=steps)
    return learn_field(
        field, optics, at, size, seed=seed, recipe=recipe, progress=progress
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Attempt:
    """One training, and what it came to."""

    plan: Plan
    network: Network
    fit: Fit
    report: TrainingReport


def _try(
    plans: Sequence[Plan], seed: int, crops: Crops, progress: Progress | None
) -> tuple[_Attempt, int]:
    """Train by one plan after the other until one succeeds; also return how many.

    Where the votes of all scatter, the one whose votes scatter least is returned.
    """
    best: _Attempt | None = None
    for attempt, plan in enumerate(plans):
        trained = _train_once(plan, seed + 1000 * attempt, progress)
        report = trained.report
        limit_px = max(SCATTERED_PX, SCATTERED_RADII * plan.particle.radius_px)
        if not report.problem and report.consistency_px < limit_px:
            return trained, attempt + 1
        reason = report.problem or f"votes scatter {report.consistency_px:.1f} px"
        _LOG.warning("training attempt %d: %s", attempt + 1, reason)
        if not report.problem and (
            best is None or report.consistency_px < best.report.consistency_px
        ):
            best = trained
    if best is not None:
        return best, len(plans)
    raise ModelError(
        f"training on {', '.join(crops.names())}, {crops.size_px} px: "
        f"{report.problem}, after {len(plans)} attempts. The crop may hold no particle "
        "or several: choose another with `at` and `size`."
    )


def _train_once(plan: Plan, seed: int, progress: Progress | None) -> _Attempt:
    generator = torch.Generator().manual_seed(seed)
    maker = ViewMaker(
        plan.particles, plan.views, generator=generator, canvas=plan.canvas
    )
    radius_px = plan.particle.radius_px
    network = build_network(plan.network, plan.normalise, particle_radius_px=radius_px)
    if plan.start == "warm":
        start_warm(network, radius_px=radius_px)
    else:
        initialise(network, generator)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    middle = (plan.particle.size_px - 1) / 2
    anchor = torch.tensor([[c - middle for c in p.centre_px] for p in plan.particles])
    result = fit(network, maker, plan.recipe, anchor=anchor, progress=progress)
    report = examine(
        network, plan.particles, plan.views, anchor=result.anchor, seed=seed
    )
    return _Attempt(plan, network, result, report)


def _make_card(trained: _Attempt, crops: Crops, facts: TrainingFacts) -> CardDraft:
    plan, particle = trained.plan, trained.plan.particles[0]
    return CardDraft(
        network=plan.network,
        downsample=crops.scale.factor,
        centre_px=trained.report.centre_px,
        radius_px=plan.particle.radius_px,
        particle=ParticleFacts(
            snr=particle.snr,
            contrast=particle.contrast,
            background=particle.background,
            noise=particle.noise,
            gain=particle.gain,
        ),
        training=facts,
        report=trained.report.to_card(factor=crops.scale.factor),
        crop=CropPlace(at_px=crops.places_px[0], size_px=crops.size_px),
        crops=crop_cards(crops, plan.particles, trained.report),
    )


@contextmanager
def _thread_count(n: int) -> Iterator[None]:
    """Let torch use so many threads, at most as many as it may."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(n, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
