"""The training loop: one crop, many views, a few seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

import torch
from torch import Tensor

from lodestar_live.training.adam import Adam
from lodestar_live.training.augment.views import ViewMaker
from lodestar_live.training.losses import (
    near_errors,
    normalised_weights,
    pool,
    stray_weight,
    weight_penalty,
)
from lodestar_live.training.muon import Muon
from lodestar_live.training.network.equivariant import SymmetricStack
from lodestar_live.training.network.network import Network
from lodestar_live.training.prefetch import Lesson, draw_lessons

ANCHOR_RATE = 0.05
LAST_RATE = 1e-3


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained.

    Parameters
    ----------
    steps, batch
        Mini-batches and views per mini-batch.
    learning_rate
        The optimiser's.
    optimiser
        ``muon`` for the live network, whose kernels lie in one stack, or ``adam``.
    one_cycle
        Whether the rate rises and falls; else it stays.
    within
        Weight of the internal-consistency loss.
    near
        Weight of the votes' own errors around the particle.
    weight_penalty
        Weight of the loss that keeps weights on particles and off the background.
    stray
        Weight of the loss against small weights far away, see `stray_weight`.
    target
        ``mean``: views agree with their mean (the paper). ``anchor``: they agree with
        one unknown point of the crop that follows them slowly; the same fixed point,
        reached sooner and never collapsed.
    anchor_rest
        Share of the steps for which that point stays where it starts; an untrained
        network would pull it to the centroid.
    channel_weights
        What each voted channel counts, in the order of the votes; empty: all alike.
    near_everywhere
        Whether the cells near a copy learn to vote however little `trust` it has.
    warm_up
        Share of the steps in which the rate rises.
    betas, weight_decay
        Of Adam.
    """

    steps: int
    batch: int = 8
    learning_rate: float = 1e-3
    optimiser: Literal["muon", "adam"] = "adam"
    one_cycle: bool = True
    within: float = 0.05
    near: float = 1.0
    weight_penalty: float = 0.1
    stray: float = 0.0
    target: Literal["anchor", "mean"] = "anchor"
    anchor_rest: float = 0.5
    channel_weights: tuple[float, ...] = ()
    near_everywhere: bool = False
    warm_up: float = 0.15
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0


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
    """Result of one training run: history, and one anchor (offset, extras) per crop."""

    anchor: Tensor
    loss: list[float] = field(default_factory=list)
    consistency_px: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def history(self) -> dict[str, list[float]]:
        """What a `Model` keeps of it, per step."""
        return {"loss": self.loss, "consistency_px": self.consistency_px}


def fit(
    network: Network,
    source: ViewMaker | Generator[Lesson],
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
    source
        Source of views and of all randomness: of images, whose batches are drawn ahead;
        or the batches themselves, such as those of a field.
    anchor
        First guess of the tracked points, (crops, 2 + extra): offset (y, x) from the
        crop's centre, px, then one value per additive channel.
    """
    optimiser = _optimiser(network, recipe)
    result = Fit(anchor.clone())
    parameters = list(network.parameters())
    lessons = (
        draw_lessons(network, source, result, batch=recipe.batch)
        if isinstance(source, ViewMaker)
        else source
    )
    started = time.perf_counter()
    network.train()
    with closing(lessons):
        for step, lesson in enumerate(islice(lessons, recipe.steps)):
            loss, spread, offset = _step_loss(network, lesson, recipe, result.anchor)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, 10.0, foreach=False)
            optimiser.step(recipe.learning_rate * _rate(step, recipe))
            result.loss.append(float(loss.detach()))
            result.consistency_px.append(float(spread.detach()))
            if recipe.target == "anchor" and step >= recipe.anchor_rest * recipe.steps:
                shown = lesson.views.crop[: len(offset)]
                result.anchor = _follow(result.anchor, offset, shown)
            if progress is not None and (step % 10 == 9 or step == recipe.steps - 1):
                progress(_describe(result, recipe, time.perf_counter() - started))
    network.eval()
    result.seconds = time.perf_counter() - started
    return result


def _step_loss(
    network: Network, lesson: Lesson, recipe: Recipe, anchor: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss of one mini-batch, and of its first copies what was found.

    That is: the loss, the mean vote spread (px), and (n, 2 + extra) where in the crop
    the network puts the tracked point.
    """
    views, shared, trust = lesson.views, lesson.shared, lesson.trust
    votes, rho = network.votes(lesson.images, prepared=True)
    scale = votes.new_tensor(recipe.channel_weights or (1.0,) * votes.shape[1])
    copies, weighing = votes[views.view] * scale[:, None, None], rho[views.view]
    pooled = pool(copies, normalised_weights(weighing, lesson.kept))
    found = views.take_back(pooled.positions / scale)
    if recipe.target == "mean":
        anchor = _means(found, views.crop, like=anchor)
    target = views.place(anchor) * scale
    between = ((pooled.positions - target).abs().sum(1) * trust).sum()
    within = (pooled.spread_px * trust).sum()
    loss = between + recipe.within * within
    if recipe.near:
        errors = near_errors(copies, target, shared.near)
        taught = errors.mean() if recipe.near_everywhere else (errors * trust).sum()
        loss = loss + recipe.near * taught
    if recipe.weight_penalty:
        penalty = weight_penalty(rho, weighing, shared)
        loss = loss + recipe.weight_penalty * penalty
    if recipe.stray:
        loss = loss + recipe.stray * stray_weight(rho, shared)
    return loss, within, found.detach()[: len(views.images)]


def _follow(anchor: Tensor, found: Tensor, crop: Tensor) -> Tensor:
    """Move each crop's anchor towards where its own views put the tracked point."""
    if len(anchor) == 1:
        return anchor + ANCHOR_RATE * (found.median(dim=0).values - anchor)
    moved = anchor.clone()
    for index in range(len(anchor)):
        own = found[crop == index]
        if len(own):
            # Not `median`, the lower of two: where views are few that is a drift.
            moved[index] += ANCHOR_RATE * (own.quantile(0.5, dim=0) - anchor[index])
    return moved


def _means(found: Tensor, crop: Tensor, *, like: Tensor) -> Tensor:
    """Return the mean of what each crop's copies found; `like` where there is none."""
    return torch.stack(
        [
            found[crop == index].mean(dim=0) if (crop == index).any() else row
            for index, row in enumerate(like)
        ]
    )


def _optimiser(network: Network, recipe: Recipe) -> Adam | Muon:
    if recipe.optimiser == "adam":
        return Adam(
            network.parameters(), betas=recipe.betas, weight_decay=recipe.weight_decay
        )
    (stack,) = (m for m in network.layers if isinstance(m, SymmetricStack))
    return Muon(stack)


def _rate(step: int, recipe: Recipe) -> float:
    """One-cycle schedule: linear rise, cosine fall; 1 throughout without it."""
    if not recipe.one_cycle:
        return 1.0
    done = step / recipe.steps
    warm_up = recipe.warm_up
    if done < warm_up:
        return max(done / warm_up, LAST_RATE)
    fall = 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))
    return max(fall, LAST_RATE)


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
