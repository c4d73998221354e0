"""Views of particles: the symmetries LodeSTAR learns from.

A view is the particle rotated, mirrored and moved, all in one resampling of a
band-limited (Fourier-upsampled) signal, then given fresh noise. In part of the views
further copies are added, so that neighbours do not corrupt positions in crowded fields,
and a stuck pixel, so that it is not taken for a particle. With several crops each copy
shows one of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lodestar_live.training.augment.canvas import Canvas
from lodestar_live.training.particle.measure import Particle

ON_CANVAS = 0.85  # share of the crowded views that show the snapshot's own background
MORE_NOISE = (0.3, 2.0)  # added to half of them, in units of the snapshot's
CLOSEST = 0.65  # distance of touching copies that vary, in diameters
_UPSAMPLING = 4  # fine enough to interpolate linearly: 0.2 % of a sharp point's peak
_PRIOR_PX = 1.0  # copies of which hardly anything is seen must not be pulled far away


@dataclass(frozen=True, slots=True)
class ViewSettings:
    """Which views are drawn.

    Parameters
    ----------
    side_px
        Side of a view, a multiple of 4.
    max_shift_px
        Largest distance of a lone particle from the view's centre, per axis.
    noise
        Range of the added noise in units of the crop's own, drawn log-uniformly.
        None: the crop is shown as recorded, without fresh noise (the paper's views).
    crowded
        Share of the views that hold further copies.
    neighbours
        How many further copies.
    brightness
        Range of a further copy's contrast, relative to the first.
    apparent
        Place copies where the noise makes them appear; see `pull_px`.
    stretch
        Range of the factors by which copies are stretched, along a random direction
        and across it. None: they have the particle's size.
    contrast
        Range of the contrast of copies on the snapshot's own background, relative to
        the particle's.
    """

    side_px: int
    max_shift_px: float
    noise: tuple[float, float] | None = None
    crowded: float = 0.0
    neighbours: int = 1
    brightness: tuple[float, float] = (0.5, 1.6)
    apparent: bool = False
    stretch: tuple[float, float] | None = None
    contrast: tuple[float, float] = (0.6, 1.6)


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """One or more batches of views, and where the particles are.

    Parameters
    ----------
    images
        (n, 1, side, side), in units of the view's background noise.
    view
        (m,): the view each copy lies in. In each batch lone particles come first.
    turn
        (m, 2, 2): rotation, reflection and stretch, crop offset -> view offset, (y, x).
    shift_px
        (m, 2): position of the crop's centre in the view, px; the apparent one if the
        settings say so.
    noise
        (n,): noise in units of the crop's own.
    is_lone
        (n,): whether the view holds one copy only.
    additive
        (m, extra): what each copy adds to the channels after y and x (none in 2-D).
    crop
        (m,): which crop each copy shows.
    away
        (n, side, side): each pixel's distance to the next particle that belongs to the
        background shown, px; infinite on synthetic noise. None: so everywhere.
    """

    images: Tensor
    view: Tensor
    turn: Tensor
    shift_px: Tensor
    noise: Tensor
    is_lone: Tensor
    additive: Tensor
    crop: Tensor
    away: Tensor | None = None

    def place(self, anchor: Tensor) -> Tensor:
        """Map a point of each crop into every copy of it.

        `anchor` (crops, 2 + extra): offset (y, x) from the crop's centre, px, then the
        extra channels. Returns (m, 2 + extra).
        """
        if len(anchor) == 1:  # one product for all
            turned = torch.einsum("mij,j->mi", self.turn, anchor[0, :2])
        else:
            anchor = anchor[self.crop]
            turned = torch.einsum("mij,mj->mi", self.turn, anchor[:, :2])
        added = anchor[:, 2:] + self.additive
        return torch.cat([self.shift_px + turned, added], dim=1)

    def split(self, batches: int) -> list[Views]:
        """Return the views of each of the batches that were drawn together."""
        first = self.view.chunk(batches)[0]
        away = [None] * batches if self.away is None else self.away.chunk(batches)
        return [
            Views(images, first, *rest)
            for images, *rest in zip(
                self.images.chunk(batches),
                self.turn.chunk(batches),
                self.shift_px.chunk(batches),
                self.noise.chunk(batches),
                self.is_lone.chunk(batches),
                self.additive.chunk(batches),
                self.crop.chunk(batches),
                away,
                strict=True,
            )
        ]

    def take_back(self, positions: Tensor) -> Tensor:
        """Invert `place` for one position per copy, (m, 2 + extra)."""
        offset = positions[:, :2] - self.shift_px
        yx = torch.linalg.solve(self.turn, offset[..., None])[..., 0]
        return torch.cat([yx, positions[:, 2:] - self.additive], dim=1)


class ViewMaker:
    """Draws batches of views of one particle, or of several.

    Parameters
    ----------
    particles
        The measured training crops, all of one size. Lone copies show them in turn,
        the others at random.
    settings
        Which views are drawn.
    generator
        Source of all randomness; its device is where the views live.
    canvas
        The snapshot's own background, for part of the crowded views.
    """

    def __init__(
        self,
        particles: Sequence[Particle],
        settings: ViewSettings,
        *,
        generator: torch.Generator,
        canvas: Canvas | None = None,
    ) -> None:
        self.settings = settings
        self.canvas = canvas
        self.generator = generator
        self.device = generator.device
        self._size_px = particles[0].size_px
        self._margin_px = self._size_px // 2
        fine = [upsample(self._source(p)).astype(np.float32) for p in particles]
        self._signals = [torch.from_numpy(f)[None, None].to(self.device) for f in fine]
        self._noise = particles[0].noise
        self._gain = particles[0].gain / particles[0].noise
        self._contrast = max(p.contrast / p.noise for p in particles)
        self.radius_px = max(p.radius_px for p in particles)
        axis = torch.arange(settings.side_px, device=self.device, dtype=torch.float32)
        rows, columns = torch.meshgrid(axis, axis, indexing="ij")
        ones = torch.ones_like(rows)
        self._pixels = torch.stack([rows, columns, ones]).reshape(3, -1)

    def _source(self, particle: Particle) -> npt.NDArray[np.float64]:
        """Return what is shown, in units of noise, with its surroundings."""
        if self.settings.noise is None:
            raw = (particle.crop - particle.background) / particle.noise
            return np.pad(raw, self._margin_px, mode="reflect")
        return np.pad(particle.signal / particle.noise, self._margin_px)

    def draw(self, n: int, *, batches: int = 1) -> Views:
        """Draw `n` views, or several batches of `n`, one after the other."""
        n_crowded = round(n * self.settings.crowded)
        crowd = torch.arange(n - n_crowded, n).repeat(self.settings.neighbours)
        pattern = torch.cat([torch.arange(n), crowd])
        view = (torch.arange(batches)[:, None] * n + pattern).flatten().to(self.device)
        turn = self._draw_turns(len(view))
        shift = self._draw_shifts(n, n_crowded, batches)
        crop = self._draw_crops(n, n_crowded, batches, copies=len(pattern))
        signal = self._render(turn, shift, crop)
        low, high = self.settings.brightness
        brightness = low * (high / low) ** self._uniform(batches, len(crowd))
        brightness = torch.cat(
            [torch.ones_like(view[:n]).expand(batches, n), brightness], 1
        )
        signal *= brightness.reshape(-1, 1, 1)
        total = torch.zeros_like(signal[: n * batches]).index_add_(0, view, signal)
        level = self._draw_noise_levels(n * batches)
        images, pull = self._add_noise(total, level, signal, view)
        is_lone = (torch.arange(n, device=self.device) < n - n_crowded).repeat(batches)
        away = None
        if self.canvas is not None:
            first = shift.view(batches, -1, 2)[:, :n].reshape(-1, 2)
            is_on = ~is_lone & (self._uniform(n * batches) < ON_CANVAS)
            away = self._paste(self.canvas, images, total, first, is_on)
            if torch.is_tensor(pull):
                pull = torch.where(is_on[view][:, None], 0.0, pull)
        images = self._add_hot_pixels(images, level, ~is_lone)
        additive = shift.new_zeros(len(view), 0)
        place = shift + pull
        return Views(
            images[:, None], view, turn, place, level, is_lone, additive, crop, away
        )

    def _paste(
        self, canvas: Canvas, images: Tensor, total: Tensor, first: Tensor, on: Tensor
    ) -> Tensor:
        """Show the views `on` (n,) on the snapshot's background; return `Views.away`.

        Half of them with more noise than it has.
        """
        side, n = self.settings.side_px, int(on.sum())
        patches, apart = canvas.cut(first[on], side, self.generator)
        low, high = self.settings.contrast
        contrast = low * (high / low) ** self._uniform(n, 1, 1)
        more = MORE_NOISE[0] * (MORE_NOISE[1] / MORE_NOISE[0]) ** self._uniform(n, 1, 1)
        more = torch.where(self._uniform(n, 1, 1) < 0.5, 0.0, more)
        white = torch.randn(patches.shape, generator=self.generator, device=self.device)
        pasted = patches + contrast * (self._noise / canvas.noise) * total[on]
        images[on] = (pasted + more * white) / (1 + more**2).sqrt()
        away = images.new_full(images.shape, torch.inf)
        away[on] = apart
        return away

    def _draw_noise_levels(self, n: int) -> Tensor:
        if self.settings.noise is None:
            return torch.ones(n, device=self.device)
        low, high = self.settings.noise
        return low * (high / low) ** self._uniform(n)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, device=self.device)

    def _draw_crops(
        self, n: int, n_crowded: int, batches: int, *, copies: int
    ) -> Tensor:
        """Choose each copy's crop, (batches * copies,): in turn for the lone ones."""
        n_crops, n_lone = len(self._signals), n - n_crowded
        chosen = torch.zeros(batches, copies, dtype=torch.long, device=self.device)
        if n_crops > 1:
            draws = self._uniform(batches, copies) * n_crops
            chosen = draws.long().clamp(max=n_crops - 1)
            turn = torch.arange(batches * n_lone, device=self.device) % n_crops
            chosen[:, :n_lone] = turn.view(batches, n_lone)
        return chosen.flatten()

    def _draw_turns(self, m: int) -> Tensor:
        angle = 2 * math.pi * self._uniform(m)
        mirror = torch.where(self._uniform(m) < 0.5, -1.0, 1.0)
        cos, sin = angle.cos(), angle.sin()
        rows = torch.stack([cos * mirror, -sin], -1)
        turn = torch.stack([rows, torch.stack([sin * mirror, cos], -1)], -2)
        if self.settings.stretch is None:
            return turn
        low, high = self.settings.stretch
        factors = low * (high / low) ** self._uniform(m, 1, 2)
        angle = math.pi * self._uniform(m)
        cos, sin = angle.cos(), angle.sin()
        axes = torch.stack(
            [torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2
        )
        return (axes * factors) @ axes.transpose(1, 2) @ turn

    def _draw_shifts(self, n: int, n_crowded: int, batches: int) -> Tensor:
        """Lone particles near the centre; neighbours all around, touching to far."""
        side, k = self.settings.side_px, self.settings.neighbours
        spread = torch.full((n, 1), self.settings.max_shift_px, device=self.device)
        spread[n - n_crowded :] = side / 4
        first = (side - 1) / 2 + (2 * self._uniform(batches, n, 2) - 1) * spread
        sector = torch.arange(k, device=self.device)[:, None]
        jitter = 0.5 * self._uniform(batches, k, n_crowded)
        angle = self._uniform(batches, 1, n_crowded) + (sector + jitter) / k
        angle = 2 * math.pi * angle
        near = 2 * self.radius_px
        if self.settings.stretch is not None:  # small ones, and long ones side by side
            near *= max(CLOSEST, self.settings.stretch[0])
        far = max(1.5 * near, 0.75 * side)
        distance = near + (far - near) * self._uniform(batches, k, n_crowded, 1)
        step = torch.stack([angle.sin(), angle.cos()], -1) * distance
        others = first[:, None, n - n_crowded :] + step
        return torch.cat([first, others.flatten(1, 2)], dim=1).flatten(0, 1)

    def _render(self, turn: Tensor, shift_px: Tensor, crop: Tensor) -> Tensor:
        """Sample its crop's signal once per copy, (m, side, side)."""
        # Crop position of view pixel p: turn^T (p - shift) + centre. Fine sample q lies
        # at crop pixel q / _UPSAMPLING; grid_sample wants (x, y), with -1 and 1 on the
        # outer edges of the first and last sample. All of it is one matrix product.
        centre = (self._size_px - 1) / 2 + self._margin_px
        fine = self._signals[0].shape[-1]
        back = turn.transpose(1, 2)
        if self.settings.stretch is not None:
            back = torch.linalg.inv(turn)
        start = centre - (back @ shift_px[..., None])
        matrix = torch.cat([back, start], dim=2) * (2 * _UPSAMPLING / fine)
        matrix[..., 2] += 1 / fine - 1
        side = self.settings.side_px
        where = matrix.flip(1).reshape(-1, 3) @ self._pixels
        grid = where.reshape(-1, 2, side, side).permute(0, 2, 3, 1)
        if len(self._signals) == 1:
            return _sample(self._signals[0], grid)
        rendered = grid.new_empty(grid.shape[:3])
        for index, signal in enumerate(self._signals):
            own = crop == index
            rendered[own] = _sample(signal, grid[own])
        return rendered

    def _add_noise(
        self, total: Tensor, level: Tensor, signal: Tensor, view: Tensor
    ) -> tuple[Tensor, Tensor | float]:
        """Add noise of variance level² (1 + g total); return units of the noise.

        Also returns by how much that pulls the copies (`signal`, m) in their `view`.
        """
        if self.settings.noise is None:
            return total, 0.0
        scale = level[:, None, None]
        variance = scale**2 * (1 + self._gain * total.clamp(min=0))
        deviation = variance.sqrt()
        white = torch.randn(total.shape, generator=self.generator, device=self.device)
        images = (total + deviation * white) / scale
        if not self.settings.apparent:
            return images, 0.0
        return images, pull_px(signal, (white / deviation)[view], 1 / variance[view])

    def _add_hot_pixels(self, images: Tensor, level: Tensor, where: Tensor) -> Tensor:
        """Add one stuck pixel to each view `where` it may; they are no particles."""
        if self.settings.noise is None:
            return images
        n, side = len(images), self.settings.side_px
        height = self._contrast * (1 + 3 * self._uniform(n)) / level
        pixel = (self._uniform(n) * side * side).long()[:, None]
        flat = images.flatten(1)
        flat.scatter_add_(1, pixel, torch.where(where, height, 0.0)[:, None])
        return flat.view_as(images)


def pull_px(signal: Tensor, noise: Tensor, information: Tensor) -> Tensor:
    """Return how far noise moves the most likely place of each particle, (m, 2).

    A position cannot be told better than the noise allows, but we drew that noise, so
    we know what an efficient estimator makes of it: to first order the score over the
    Fisher information, F⁻¹ Σ ∂s n / σ². Asked for that place instead of the true one, a
    network learns the same estimator (the pull is 0 on average) from targets that are
    no longer blurred by what nobody can know.

    Parameters
    ----------
    signal
        (m, side, side): every particle alone.
    noise
        Same shape: the noise in its view over its variance.
    information
        Same shape: one over the variance.
    """
    slopes = torch.zeros(2, *signal.shape, dtype=signal.dtype, device=signal.device)
    # Moving the particle by +1 px changes a pixel by minus the image's slope there.
    slopes[0, :, 1:-1] = (signal[:, :-2] - signal[:, 2:]) / 2
    slopes[1, :, :, 1:-1] = (signal[:, :, :-2] - signal[:, :, 2:]) / 2
    y, x = slopes
    score = (slopes * noise).sum((-2, -1))
    across = (x * y * information).sum((-2, -1))
    own = (slopes**2 * information).sum((-2, -1)) + _PRIOR_PX**-2
    determinant = own[0] * own[1] - across**2
    pull_y = (own[1] * score[0] - across * score[1]) / determinant
    pull_x = (own[0] * score[1] - across * score[0]) / determinant
    return torch.stack([pull_y, pull_x], dim=-1)


def _sample(signal: Tensor, grid: Tensor) -> Tensor:
    """Sample one signal, (1, 1, fine, fine), at (m, side, side, 2)."""
    source = signal.expand(len(grid), -1, -1, -1)
    return torch.nn.functional.grid_sample(
        source, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )[:, 0]


def upsample(image: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Refine a square image by Fourier interpolation; sample q lies at pixel q / 4."""
    side = len(image)
    fine = side * _UPSAMPLING
    spectrum = np.fft.fftshift(np.fft.fft2(image))
    padded = np.zeros((fine, fine), dtype=complex)
    start = fine // 2 - side // 2
    padded[start : start + side, start : start + side] = spectrum
    refined: npt.NDArray[np.float64] = np.fft.ifft2(np.fft.ifftshift(padded)).real
    return refined * _UPSAMPLING**2
