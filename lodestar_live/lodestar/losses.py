"""The losses: views of one particle must agree, and so must the votes in one view."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lodestar_live.lodestar.views import Views

EPSILON = 1e-6
WEIGHT_DROPOUT = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Pooled:
    """Pooled estimates of a set of copies.

    `positions` (m, channels): weighted mean of the votes; `spread_px` (m,): weighted
    mean distance (L1, y plus x) of the votes from it.
    """

    positions: Tensor
    spread_px: Tensor


def normalised_weights(
    rho: Tensor, *, generator: torch.Generator | None = None
) -> Tensor:
    """Return weights that sum to 1 over the cells of each image (n, h, w).

    ``w = sigmoid(rho)``, 1 % of the cells dropped in training, plus 1e-6 against 0/0
    (paper, Methods).
    """
    weights = torch.sigmoid(rho)
    if generator is not None:
        dropped = torch.rand(weights.shape, generator=generator, device=weights.device)
        weights = weights * (dropped >= WEIGHT_DROPOUT)
    weights = weights + EPSILON
    return weights / weights.sum((-2, -1), keepdim=True)


def pool(votes: Tensor, weights: Tensor) -> Pooled:
    """Pool votes (m, c, h, w) with weights (m, h, w) that sum to 1.

    The spread is the paper's internal consistency, ``Σ |x_ij - x| w_ij`` plus the same
    in y. (The paper prints the second term with y_ij as its weight: a slip; the weight
    must be w_ij as in the first.)
    """
    positions = (votes * weights[:, None]).sum((-2, -1))
    distance = (votes - positions[..., None, None])[:, :2].abs().sum(1)
    return Pooled(positions, (distance * weights).sum((-2, -1)))


@dataclass(frozen=True, slots=True, eq=False)
class Territory:
    """Which cells speak for which copy.

    `own` (m, h, w): cells nearer to this copy than to any other of its view (all cells
    of a view with one copy). `distance_px` (m, h, w): of each cell from the copy.
    `nearest_px` (n, h, w): of each cell from the nearest copy.
    """

    own: Tensor
    distance_px: Tensor
    nearest_px: Tensor


def territory(positions_px: Tensor, views: Views, cells_px: Tensor) -> Territory:
    """Share the cells (h, w, 2) among the copies at `positions_px` (m, 2)."""
    offset = cells_px[None] - positions_px[:, None, None]
    distance = offset.norm(dim=-1)
    nearest = distance.new_full((len(views.images), *distance.shape[1:]), torch.inf)
    index = views.view[:, None, None].expand_as(distance)
    nearest = nearest.scatter_reduce(0, index, distance, "amin")
    return Territory(distance <= nearest[views.view], distance, nearest)


def near_errors(
    votes: Tensor, targets: Tensor, shared: Territory, *, reach_px: float
) -> Tensor:
    """Return each copy's mean vote error (m,), L1, over its cells within `reach_px`.

    Unlike the pooled estimate this teaches every cell around the particle, so the
    weighted mean averages over many honest votes instead of trusting one cell.
    """
    close = shared.own & (shared.distance_px < reach_px)
    error = (votes - targets[..., None, None]).abs().sum(1)
    return (error * close).sum((-2, -1)) / close.sum((-2, -1)).clamp(min=1)


def weight_penalty(
    rho: Tensor, views: Views, shared: Territory, *, reach_px: float, centre_px: float
) -> Tensor:
    """Penalise weight far from every copy, and its absence on a copy.

    Mean of ``-ln(1 - w)`` over cells farther than `reach_px` from any copy, plus mean
    of ``-ln w`` over cells within `centre_px` of one.
    """
    far = shared.nearest_px > reach_px
    empty = (softplus(rho) * far).sum() / far.sum().clamp(min=1)
    here = shared.own & (shared.distance_px <= centre_px)
    missed = (softplus(-rho[views.view]) * here).sum() / here.sum().clamp(min=1)
    return empty + missed
