"""The training loop: one crop, many views, a few seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from lodestar_live.lodestar.losses import (
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
TRUST_CROWDED = 0.5
TRUST_CUT = 0.1


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
    for step in range(recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * _rate(step, recipe)
        optimiser.zero_grad(set_to_none=True)
        loss, spread = _step_loss(network, maker, recipe, result)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimiser.step()
        result.loss.append(float(loss.detach()))
        result.consistency_px.append(float(spread.detach()))
        if progress is not None and (step % 10 == 9 or step == recipe.steps - 1):
            progress(_describe(result, recipe, time.perf_counter() - started))
    network.eval()
    result.seconds = time.perf_counter() - started
    return result


def _optimiser(network: Network, recipe: Recipe) -> torch.optim.Optimizer:
    if not recipe.one_cycle:
        return torch.optim.Adam(network.parameters(), lr=recipe.learning_rate)
    return torch.optim.AdamW(
        network.parameters(),
        lr=recipe.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=0.01,
        fused=True,
    )


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
    network: Network, maker: ViewMaker, recipe: Recipe, result: Fit
) -> tuple[Tensor, Tensor]:
    """Return the loss of one fresh mini-batch and its mean vote spread (px)."""
    views = maker.draw(recipe.batch)
    images = views.images.contiguous(memory_format=torch.channels_last)
    votes, rho = network.votes(images)
    cells_px = cell_positions(votes, network.stride)
    placed = views.place(result.anchor)
    shared = territory(placed[:, :2], views, cells_px)
    owned = torch.where(shared.own, rho[views.view], -torch.inf)
    weights = normalised_weights(owned, generator=maker.generator)
    copies = votes[views.view]
    pooled = pool(copies, weights)
    trust = _trust(placed, views, maker)
    target = _target(views, pooled.positions, placed, recipe)
    between = _mean((pooled.positions - target).abs().sum(1), trust)
    within = _mean(pooled.spread_px, trust)
    loss = between + recipe.within * within
    reach = max(2.0 * network.stride, maker.radius_px)
    if recipe.near:
        errors = near_errors(copies, target, shared, reach_px=reach)
        loss = loss + recipe.near * _mean(errors, trust)
    if recipe.weight_penalty:
        loss = loss + recipe.weight_penalty * weight_penalty(
            rho,
            views,
            shared,
            reach_px=1.5 * reach + network.stride,
            centre_px=0.75 * network.stride,
        )
    is_settled = len(result.loss) >= ANCHOR_REST * recipe.steps
    if recipe.target == "anchor" and is_settled:
        lone = len(views.images)
        residual = views.take_back(pooled.positions.detach())[:lone]
        step = residual.median(dim=0).values - result.anchor
        result.anchor = result.anchor + ANCHOR_RATE * step
    return loss, within


def _target(views: Views, positions: Tensor, placed: Tensor, recipe: Recipe) -> Tensor:
    if recipe.target == "anchor":
        return placed
    return views.place(views.take_back(positions).mean(dim=0))


def cell_positions(votes: Tensor, stride: int) -> Tensor:
    """Return the cells' own positions in the image, (h, w, 2), px."""
    axes = [
        torch.arange(side, device=votes.device) * stride + (stride - 1) / 2
        for side in votes.shape[-2:]
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def _trust(placed: Tensor, views: Views, maker: ViewMaker) -> Tensor:
    """Weigh the copies (m,): hard ones must not drown what the easy ones teach.

    A lone particle counts fully, one of a pair less, one that the view's edge cuts
    little, and one whose centre lies outside not at all.
    """
    yx, last = placed[:, :2], maker.settings.side_px - 1
    margin = torch.minimum(yx, last - yx).amin(dim=1)
    is_lone = views.is_lone[views.view]
    trust = torch.where(is_lone, 1.0, TRUST_CROWDED)
    trust = torch.where(margin < maker.radius_px, TRUST_CUT, trust)
    return torch.where(margin < 0, 0.0, trust)


def _mean(values: Tensor, trust: Tensor) -> Tensor:
    return (values * trust).sum() / trust.sum().clamp(min=1e-6)


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
