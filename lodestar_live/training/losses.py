"""The losses: views of one particle must agree, and so must the votes in one view."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lodestar_live.training.augment.views import Views

EPSILON = 1e-6
LEAST_WEIGHT = 1e-3  # of a view, to speak of shares
WEIGHT_DROPOUT = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Pooled:
    """Pooled estimates of a set of copies.

    `positions` (m, channels): weighted mean of the votes; `spread_px` (m,): weighted
    mean distance (L1, y plus x) of the votes from it.
    """

    positions: Tensor
    spread_px: Tensor


def normalised_weights(rho: Tensor, kept: Tensor | None = None) -> Tensor:
    """Return weights that sum to 1 over the cells of each image (n, h, w).

    ``w = sigmoid(rho)`` plus 1e-6 against 0/0 (paper, Methods); only cells `kept` (1,
    others 0) count.
    """
    weights = torch.sigmoid(rho)
    if kept is not None:
        weights = weights * kept
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


@dataclass(frozen=True, slots=True)
class Reach:
    """Distances from a copy, px, that say what is asked of a cell.

    `near_px`: up to there its vote must be right. `far_px`: beyond, from every copy,
    it must have no weight. `here_px`: up to there it must have some.
    """

    near_px: float
    far_px: float
    here_px: float


@dataclass(frozen=True, slots=True, eq=False)
class Territory:
    """Which cells speak for which copy: all that does not depend on the network.

    `own` (m, h, w): 1 for cells nearer to this copy than to any other of its view,
    else 0. `near` (m, h, w): own cells within reach, of sum 1 per copy. `here`
    (m, h, w): own cells on the copy; `far` (n, h, w): cells far from all; both of sum 1
    per batch.
    """

    own: Tensor
    near: Tensor
    here: Tensor
    far: Tensor

    def split(self, batches: int) -> list[Territory]:
        """Return the territory of each of the batches that were drawn together."""
        return [
            Territory(*parts)
            for parts in zip(
                self.own.chunk(batches),
                self.near.chunk(batches),
                self.here.chunk(batches),
                self.far.chunk(batches),
                strict=True,
            )
        ]


@torch.no_grad()
def territory(
    positions_px: Tensor,
    views: Views,
    cells_px: Tensor,
    reach: Reach,
    *,
    batches: int = 1,
) -> Territory:
    """Share the cells (h, w, 2) among the copies at `positions_px` (m, 2)."""
    offset = cells_px[None] - positions_px[:, None, None]
    distance = offset.norm(dim=-1)
    nearest = distance.new_full((len(views.images), *distance.shape[1:]), torch.inf)
    index = views.view[:, None, None].expand_as(distance)
    nearest = nearest.scatter_reduce(0, index, distance, "amin")
    own = distance <= nearest[views.view]
    away = nearest
    if views.away is not None:
        rows, columns = cells_px.round().long().unbind(-1)
        away = views.away[:, rows, columns]
        own = own & (distance <= away[views.view])
        away = torch.minimum(away, nearest)
    near = (own & (distance < reach.near_px)).float()
    here = (own & (distance <= reach.here_px)).float()
    far = (away > reach.far_px).float()
    near = near / near.sum((-2, -1), keepdim=True).clamp(min=1)
    return Territory(
        own.float(), near, _per_batch(here, batches), _per_batch(far, batches)
    )


def _per_batch(cells: Tensor, batches: int) -> Tensor:
    """Scale to sum 1 in every batch."""
    grouped = cells.view(batches, -1)
    return (grouped / grouped.sum(1, keepdim=True).clamp(min=1)).view_as(cells)


def kept_cells(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return 1, or 0 for a random 1 % of the cells (paper, Methods)."""
    draw = torch.rand(shape, generator=generator, device=generator.device)
    return (draw >= WEIGHT_DROPOUT).float()


def near_errors(votes: Tensor, targets: Tensor, near: Tensor) -> Tensor:
    """Return each copy's mean vote error (m,), L1, over its cells within reach.

    Unlike the pooled estimate this teaches every cell around the particle, so the
    weighted mean averages over many honest votes instead of trusting one cell.
    """
    error = (votes - targets[..., None, None]).abs().sum(1)
    return (error * near).sum((-2, -1))


def weight_penalty(rho: Tensor, copies: Tensor, shared: Territory) -> Tensor:
    """Penalise weight far from every copy, and its absence on a copy.

    Mean of ``-ln(1 - w)`` over the far cells of the views, `rho` (n, h, w), plus mean
    of ``-ln w`` over the cells on the copies, `copies` (m, h, w).
    """
    empty = (softplus(rho) * shared.far).sum()
    return empty + (softplus(-copies) * shared.here).sum()


def stray_weight(rho: Tensor, shared: Territory) -> Tensor:
    """Return the root of the share of weight that is far from every copy.

    Mean over the views. A ten-thousandth of the weight, at the edge of a view, costs
    `weight_penalty` nothing, but scatters the votes of a small image by more than all
    the others do: what matters is its share times the square of its distance.
    """
    weights = torch.sigmoid(rho)
    far = (weights * (shared.far > 0)).sum((-2, -1))
    share = far / (weights.sum((-2, -1)) + LEAST_WEIGHT)
    return (share + EPSILON**2).sqrt().mean()
