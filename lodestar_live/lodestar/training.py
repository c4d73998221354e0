"""The training loop: one crop, many views, a few seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

import torch
from torch import Tensor

from lodestar_live.lodestar.adam import Adam
from lodestar_live.lodestar.losses import (
    Reach,
    Territory,
    kept_cells,
    near_errors,
    normalised_weights,
    pool,
    territory,
    weight_penalty,
)
from lodestar_live.lodestar.network import Network
from lodestar_live.lodestar.views import ViewMaker, Views

ANCHOR_RATE = 0.05
ANCHOR_REST = 0.5  # of the steps; an untrained network would pull it to the centroid
WARM_UP = 0.15
LAST_RATE = 1e-3
AT_ONCE = 10  # batches drawn and settled together: what torch does per call is shared
TRUST_CROWDED = 0.5
TRUST_CUT = 0.1
TRUST_TOUCHING = 0.1
TOUCHING, CLEAR = 2.0, 4.0  # distances of neighbours, in radii of 90 % of the energy


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained.

    Parameters
    ----------
    steps, batch
        Mini-batches and views per mini-batch.
    learning_rate
        Adam's (AdamW with a one-cycle schedule if `one_cycle`).
    within
        Weight of the internal-consistency loss.
    near
        Weight of the votes' own errors around the particle.
    weight_penalty
        Weight of the loss that keeps weights on particles and off the background.
    target
        ``mean``: views agree with their mean (the paper). ``anchor``: they agree with
        one unknown point of the crop that follows them slowly; the same fixed point,
        reached sooner and never collapsed.
    """

    steps: int
    batch: int = 8
    learning_rate: float = 1e-3
    one_cycle: bool = True
    within: float = 0.05
    near: float = 1.0
    weight_penalty: float = 0.1
    target: Literal["anchor", "mean"] = "anchor"


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """What a progress bar shows."""

    step: int
    steps: int
    loss: float
    consistency_px: float
    elapsed_s: float

    @property
    def left_s(self) -> float:
        """Estimated time left, seconds."""
        return self.elapsed_s / max(self.step, 1) * (self.steps - self.step)


Progress = Callable[[TrainingStep], None]


@dataclass(slots=True)
class Fit:
    """Result of one training run: the anchor (y, x offset, extras) and the history."""

    anchor: Tensor
    loss: list[float] = field(default_factory=list)
    consistency_px: list[float] = field(default_factory=list)
    seconds: float = 0.0


def fit(
    network: Network,
    maker: ViewMaker,
    recipe: Recipe,
    *,
    anchor: Tensor,
    progress: Progress | None = None,
) -> Fit:
    """Train `network` in place.

    Parameters
    ----------
    network
        Moved to the views' device by the caller.
    maker
        Source of views and of all randomness.
    anchor
        First guess of the tracked point: offset (y, x) from the crop's centre, px,
        then one value per additive channel.
    """
    optimiser = _optimiser(network, recipe)
    result = Fit(anchor.clone())
    started = time.perf_counter()
    network.train()
    for step, lesson in enumerate(_lessons(network, maker, recipe, result)):
        loss, spread = _step_loss(network, lesson, recipe, result)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimiser.step(recipe.learning_rate * _rate(step, recipe))
        result.loss.append(float(loss.detach()))
        result.consistency_px.append(float(spread.detach()))
        if progress is not None and (step % 10 == 9 or step == recipe.steps - 1):
            progress(_describe(result, recipe, time.perf_counter() - started))
    network.eval()
    result.seconds = time.perf_counter() - started
    return result


@dataclass(frozen=True, slots=True, eq=False)
class _Lesson:
    """One batch: prepared images, whose views they are, what is asked of the votes.

    `kept` (m, h, w): own cells that were not dropped. `trust` (m,): of sum 1.
    """

    images: Tensor
    views: Views
    shared: Territory
    kept: Tensor
    trust: Tensor


def _lessons(
    network: Network, maker: ViewMaker, recipe: Recipe, result: Fit
) -> Iterator[_Lesson]:
    """Yield one lesson per step; the next views are drawn while these are learnt.

    Beside the drawing thread the learning one needs no others, so both work on at their
    own pace when the machine is busy with something else.
    """
    left = recipe.steps
    side_px, stride = maker.settings.side_px, network.stride
    cells_px = cell_positions(side_px, stride)
    near_px = max(2.0 * stride, maker.radius_px)
    reach = Reach(near_px, far_px=1.5 * near_px + stride, here_px=0.75 * stride)

    def draw() -> tuple[Views, Tensor, Tensor]:
        views = maker.draw(recipe.batch, batches=AT_ONCE)
        kept = kept_cells((len(views.view), *cells_px.shape[:2]), maker.generator)
        return views, network.prepare(views.images), kept

    with ThreadPoolExecutor(1, thread_name_prefix="views") as ahead:
        drawing = ahead.submit(draw)
        while left > 0:
            views, images, kept = drawing.result()
            if left > AT_ONCE:
                drawing = ahead.submit(draw)
            placed = views.place(result.anchor)[:, :2]
            shared = territory(placed, views, cells_px, reach, batches=AT_ONCE)
            trust = _trust(placed, views, maker).view(AT_ONCE, -1)
            trust = trust / trust.sum(1, keepdim=True).clamp(min=1e-6)
            lessons = zip(
                images.chunk(AT_ONCE),
                views.split(AT_ONCE),
                shared.split(AT_ONCE),
                (shared.own * kept).chunk(AT_ONCE),
                trust,
                strict=True,
            )
            for lesson in islice(lessons, left):
                yield _Lesson(*lesson)
            left -= AT_ONCE


def _optimiser(network: Network, recipe: Recipe) -> Adam:
    if not recipe.one_cycle:
        return Adam(network.parameters())
    return Adam(network.parameters(), betas=(0.9, 0.99), weight_decay=0.01)


def _rate(step: int, recipe: Recipe) -> float:
    """One-cycle schedule: linear rise, cosine fall; 1 throughout without it."""
    if not recipe.one_cycle:
        return 1.0
    done = step / recipe.steps
    if done < WARM_UP:
        return max(done / WARM_UP, LAST_RATE)
    fall = 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))
    return max(fall, LAST_RATE)


def _step_loss(
    network: Network, lesson: _Lesson, recipe: Recipe, result: Fit
) -> tuple[Tensor, Tensor]:
    """Return the loss of one mini-batch and its mean vote spread (px)."""
    views, shared, trust = lesson.views, lesson.shared, lesson.trust
    votes, rho = network.votes(lesson.images, prepared=True)
    copies, weighing = votes[views.view], rho[views.view]
    pooled = pool(copies, normalised_weights(weighing, lesson.kept))
    target = _target(views, pooled.positions, result.anchor, recipe)
    between = ((pooled.positions - target).abs().sum(1) * trust).sum()
    within = (pooled.spread_px * trust).sum()
    loss = between + recipe.within * within
    if recipe.near:
        errors = near_errors(copies, target, shared.near)
        loss = loss + recipe.near * (errors * trust).sum()
    if recipe.weight_penalty:
        penalty = weight_penalty(rho, weighing, shared)
        loss = loss + recipe.weight_penalty * penalty
    is_settled = len(result.loss) >= ANCHOR_REST * recipe.steps
    if recipe.target == "anchor" and is_settled:
        lone = len(views.images)
        residual = views.take_back(pooled.positions.detach())[:lone]
        step = residual.median(dim=0).values - result.anchor
        result.anchor = result.anchor + ANCHOR_RATE * step
    return loss, within


def _target(views: Views, positions: Tensor, anchor: Tensor, recipe: Recipe) -> Tensor:
    if recipe.target == "anchor":
        return views.place(anchor)
    return views.place(views.take_back(positions).mean(dim=0))


def cell_positions(side_px: int, stride: int) -> Tensor:
    """Return the cells' own positions in a square view, (h, w, 2), px."""
    axis = torch.arange(side_px // stride) * stride + (stride - 1) / 2
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1)


def _trust(yx: Tensor, views: Views, maker: ViewMaker) -> Tensor:
    """Weigh the copies (m,) at `yx`: hard ones must not drown what easy ones teach.

    A lone particle counts fully; one among others less, the less the nearer the next;
    one that the view's edge cuts little, and one whose centre lies outside not at all.
    """
    last = maker.settings.side_px - 1
    margin = torch.minimum(yx, last - yx).amin(dim=1)
    trust = torch.where(views.is_lone[views.view], 1.0, TRUST_CROWDED)
    trust = torch.where(margin < maker.radius_px, TRUST_CUT, trust)
    same_view = (views.view[:, None] == views.view).fill_diagonal_(False)
    apart_px = torch.cdist(yx, yx).where(same_view, torch.inf).amin(dim=1)
    clear = (apart_px / maker.radius_px - TOUCHING) / (CLEAR - TOUCHING)
    return torch.where(margin < 0, 0.0, trust) * clear.clamp(TRUST_TOUCHING, 1.0)


def _describe(result: Fit, recipe: Recipe, elapsed_s: float) -> TrainingStep:
    recent = slice(-50, None)
    return TrainingStep(
        step=len(result.loss),
        steps=recipe.steps,
        loss=sum(result.loss[recent]) / len(result.loss[recent]),
        consistency_px=sum(result.consistency_px[recent])
        / len(result.consistency_px[recent]),
        elapsed_s=elapsed_s,
    )
