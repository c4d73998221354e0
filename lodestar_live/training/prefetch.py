"""What each training step is shown, prepared while the last ones are learnt."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lodestar_live.training.augment.views import ViewMaker, Views
from lodestar_live.training.losses import Reach, Territory, kept_cells, territory
from lodestar_live.training.network.network import Network

AT_ONCE = 10  # steps prepared together: what torch does per call is shared
TRUST_CROWDED = 0.5
TRUST_CUT = 0.1
TRUST_TOUCHING = 0.1
TOUCHING, CLEAR = 2.0, 4.0  # distances of neighbours, in radii of 90 % of the energy


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """Prepared images, whose views they are, and what is asked of the votes.

    `kept` (m, h, w): own cells that were not dropped. `trust` (m,): of sum 1.
    """

    images: Tensor
    views: Views
    shared: Territory
    kept: Tensor
    trust: Tensor


class Anchored(Protocol):
    """Whatever knows the tracked points, one row per crop: offset (y, x), extras."""

    anchor: Tensor


def draw_lessons(
    network: Network, maker: ViewMaker, known: Anchored, *, batch: int
) -> Generator[Lesson]:
    """Yield one mini-batch per step, without end.

    The next views are drawn by a thread of their own while these are learnt. Neither
    needs more than one thread, so both go on at their own pace when the machine is busy
    with something else. Cells are shared among the copies by the anchor as it is known
    when their turn comes.
    """
    cells_px = cell_positions(maker.settings.side_px, network.stride)
    near_px = max(2.0 * network.stride, maker.radius_px)
    reach = Reach(
        near_px,
        far_px=1.2 * near_px + network.stride,
        here_px=0.75 * network.stride,
    )

    def draw() -> tuple[Views, Tensor, Tensor]:
        views = maker.draw(batch, batches=AT_ONCE)
        kept = kept_cells((len(views.view), *cells_px.shape[:2]), maker.generator)
        return views, network.prepare(views.images), kept

    with ThreadPoolExecutor(1, thread_name_prefix="views") as ahead:
        drawing = ahead.submit(draw)
        while True:
            views, images, kept = drawing.result()
            drawing = ahead.submit(draw)
            placed = views.place(known.anchor)[:, :2]
            shared = territory(placed, views, cells_px, reach, batches=AT_ONCE)
            trust = _trust(placed, views, maker).view(AT_ONCE, -1)
            trust = trust / trust.sum(1, keepdim=True).clamp(min=1e-6)
            drawn = zip(
                images.chunk(AT_ONCE),
                views.split(AT_ONCE),
                shared.split(AT_ONCE),
                (shared.own * kept).chunk(AT_ONCE),
                trust,
                strict=True,
            )
            for lesson in drawn:
                yield Lesson(*lesson)


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
    if views.away is not None:
        cell = yx.round().long().clamp(0, last)
        there = views.away[views.view, cell[:, 0], cell[:, 1]]
        apart_px = torch.minimum(apart_px, there)
    clear = (apart_px / maker.radius_px - TOUCHING) / (CLEAR - TOUCHING)
    return torch.where(margin < 0, 0.0, trust) * clear.clamp(TRUST_TOUCHING, 1.0)
