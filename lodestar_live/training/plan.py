"""Everything decided before the first training step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lodestar_live.data import Pixels
from lodestar_live.detection.frame.prepare import Mask
from lodestar_live.detection.model.weights import LocalContrast
from lodestar_live.errors import InputError
from lodestar_live.training.augment.canvas import Canvas
from lodestar_live.training.augment.views import ViewSettings
from lodestar_live.training.fit import Recipe
from lodestar_live.training.network.network import (
    Network,
    NetworkName,
    dilations_for,
    live_network,
    paper_network,
)
from lodestar_live.training.particle.crops import hardest
from lodestar_live.training.particle.measure import Particle
from lodestar_live.training.particle.suspects import Suspects

Quality = Literal["fast", "best"]
Start = Literal["warm", "scratch"]
Mode = Literal["fast", "best", "warm"]

#: Of the noisiest views. Long training has time to learn from worse ones: a sphere's
#: error at SNR 2 falls from 1.09 to 1.08 times the bound, at SNR 20 it rises from 1.11
#: to 1.17.
LOWEST_SNR: dict[Mode, float] = {"fast": 1.75, "best": 1.4, "warm": 1.75}
#: Share of the views with neighbours. With a half a default training leaves crescents
#: 1.5 diameters apart at SNR 20 off by 0.067 px, with five eighths by 0.057 px; alone
#: shapes lose 1 to 5 %.
CROWDED: dict[Mode, float] = {"fast": 0.625, "best": 0.5, "warm": 0.5}
#: Diameters over which the local background is a mean, see `choose_local_contrast`.
BACKGROUND: dict[NetworkName, float] = {"live": 2.5, "paper": 4.0}
CELL_PX = 4
LARGEST_VIEW_PX = 72  # unless the particle itself needs more
#: Fields of eight channels per layer, and the share of negative values that its units
#: let through: with none, dead units take half of a layer with them in some starts.
FIELDS, LEAK = 2, 0.1

LIVE_FAST = Recipe(
    steps=1100,
    learning_rate=0.03,
    optimiser="muon",
    within=0.15,
    near=0.1,
    weight_penalty=0.2,
    stray=0.3,
)
LIVE: dict[Mode, Recipe] = {
    "fast": LIVE_FAST,
    "best": replace(LIVE_FAST, steps=6500),
    "warm": replace(LIVE_FAST, steps=280, stray=0.1),
}
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
class Plan:
    """How one attempt is made.

    `particles`: one per crop. `particle`: the hardest of all, see `crops.hardest`.
    `canvas`: the snapshot's own background, if views are to show it.
    """

    particles: tuple[Particle, ...]
    particle: Particle
    normalise: LocalContrast
    views: ViewSettings
    recipe: Recipe
    network: NetworkName
    start: Start
    canvas: Canvas | None = None


def make_plan(
    particles: tuple[Particle, ...],
    network: NetworkName,
    quality: Quality,
    start: Start,
    steps: int | None,
) -> Plan:
    """Lay out network, views and recipe for these particles.

    Raises
    ------
    InputError
        There are no weights to start this network from.
    """
    if start == "warm" and network != "live":
        raise InputError(
            f"start = 'warm' with network = {network!r}: only 'live' has generic "
            "weights; leave out `start`, or take the live network."
        )
    particle = hardest(particles)
    mode: Mode = "warm" if start == "warm" and quality == "fast" else quality
    recipe = PAPER if network == "paper" else LIVE[mode]
    if steps is not None:
        recipe = replace(recipe, steps=steps)
    views = choose_views(particle, network, mode)
    normalise = choose_local_contrast(particle, network)
    return Plan(particles, particle, normalise, views, recipe, network, start)


def on_snapshot(
    plan: Plan, image: Pixels, suspects: Suspects, wanted: Mask | None = None
) -> Plan:
    """Let views show the snapshot's background, and particles as they vary there.

    `image` (y, x): the snapshot at the network's scale, in which `suspects` were found,
    and of which the part that is `wanted` is shown.
    The paper's network keeps the paper's views.
    """
    if plan.network == "paper":
        return plan
    may_be = suspects.positions_px[suspects.may_be]
    radius_px, side_px = plan.particle.radius_px, plan.views.side_px
    lures = None
    if suspects.is_lure is not None:
        lures = suspects.positions_px[suspects.is_lure]
    canvas = Canvas.of(image, may_be, radius_px, side_px, lures, wanted)
    low, high = suspects.brightness
    faintest = LOWEST_SNR["fast"] / plan.particle.snr
    views = replace(
        plan.views,
        stretch=suspects.stretch,
        contrast=(
            float(np.clip(low, faintest, plan.views.contrast[0])),
            max(plan.views.contrast[1], min(high, 4.0)),
        ),
    )
    return replace(plan, views=views, canvas=canvas)


def choose_views(
    particle: Particle, network: NetworkName, mode: Mode = "fast"
) -> ViewSettings:
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
        noise=(0.3, float(np.clip(particle.snr / LOWEST_SNR[mode], 3, 20))),
        crowded=CROWDED[mode],
        neighbours=4 if side >= 7 * particle.radius_px else 2,
        apparent=True,
    )


def choose_local_contrast(
    particle: Particle, network: NetworkName = "live"
) -> LocalContrast:
    """Choose windows by the particle: contrast over 1.5, background over 2.5 diameters.

    What lies in them is felt: spheres 1.5 diameters apart at SNR 20 are off by 0.038 px
    with a background over 2.5, by 0.045 px over 4. Over 2 an annulus alone loses a
    sixth; contrast over 2.5 costs spheres a fifth, over 0.7 crescents as much.

    The paper's network, which learns bacteria from one with a background over 4 only,
    keeps that.

    The floor keeps noise small: block means have 1/16 of the noise variance, and a
    tenth of the particle's contrast must not be blown up either.
    """
    diameter_cells = 2 * particle.radius_px / CELL_PX
    contrast = max(3, round(1.5 * diameter_cells) | 1)
    background = max(9, round(BACKGROUND[network] * diameter_cells) | 1)
    floor = max(0.15, 0.01 * (particle.contrast / particle.noise) ** 2 / 16)
    return LocalContrast(CELL_PX, background, contrast, floor)


def build_network(
    name: NetworkName, normalise: LocalContrast, *, particle_radius_px: float
) -> Network:
    """Return an untrained network that sees a particle of the given size."""
    if name == "paper":
        return Network(paper_network(normalise), stride=2)
    dilations = dilations_for(particle_radius_px, CELL_PX)
    layers = live_network(normalise, fields=FIELDS, dilations=dilations, leak=LEAK)
    return Network(layers, stride=CELL_PX)
