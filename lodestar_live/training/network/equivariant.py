"""Convolutions that are exactly equivariant under quarter turns and mirrors.

A particle turned by 90 degrees must give the same votes, turned by 90 degrees. Views
teach that slowly and never exactly; tying weights makes it true from the first step.
Under each of the eight symmetries of the square a layer's kernel is moved onto itself:
weights that can be moved onto one another share one parameter, up to sign. What is
exported is a plain convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

IntArray = npt.NDArray[np.int64]
N_SYMMETRIES = 8


@dataclass(frozen=True, slots=True, eq=False)
class Action:
    """How the eight symmetries move channels: channel c goes to `to[g, c]`.

    `sign` (8, channels): factor it picks up.
    """

    to: IntArray
    sign: IntArray


def turn_grid(g: int, side: int) -> IntArray:
    """Where symmetry `g` moves the cells of a square grid: flat index -> flat index."""
    grid = np.arange(side * side).reshape(side, side)
    moved = turn(grid, g)
    to = np.empty(side * side, dtype=np.int64)
    to[moved.ravel()] = np.arange(side * side)
    return to


def turn(array: npt.NDArray[np.int64], g: int) -> IntArray:
    """Apply symmetry `g`: `g % 4` quarter turns, mirrored first if `g` >= 4."""
    mirrored = array[:, ::-1] if g >= 4 else array
    return np.rot90(mirrored, g % 4).copy()


def pixels_action(factor: int, *, copies: int = 1) -> Action:
    """Channels of a space-to-depth of `copies` images: the pixels of a block."""
    block = np.stack([turn_grid(g, factor) for g in range(N_SYMMETRIES)])
    to = np.concatenate([block + factor**2 * c for c in range(copies)], axis=1)
    return Action(to, np.ones_like(to))


def regular_action(fields: int) -> Action:
    """`fields` groups of eight channels, one for each orientation."""
    table = np.array(
        [[_compose(g, h) for h in range(N_SYMMETRIES)] for g in range(N_SYMMETRIES)]
    )
    to = np.concatenate([table + N_SYMMETRIES * f for f in range(fields)], axis=1)
    return Action(to, np.ones_like(to))


def output_action(extra: int) -> Action:
    """(dy, dx, `extra` invariant channels): a vector and scalars."""
    to = np.tile(np.arange(2 + extra), (N_SYMMETRIES, 1))
    sign = np.ones_like(to)
    for g in range(N_SYMMETRIES):
        matrix = _matrix(g)
        for axis in range(2):
            target = int(np.flatnonzero(matrix[:, axis])[0])
            to[g, axis], sign[g, axis] = target, matrix[target, axis]
    return Action(to, sign)


def _matrix(g: int) -> IntArray:
    """Return the symmetry as a signed permutation of (y, x) offsets."""
    to = turn_grid(g, 3)
    below, right = (np.array(divmod(int(to[cell]), 3)) - 1 for cell in (7, 5))
    return np.stack([below, right], axis=1)


@lru_cache
def _compose(g: int, h: int) -> int:
    product = _matrix(g) @ _matrix(h)
    for candidate in range(N_SYMMETRIES):
        if (product == _matrix(candidate)).all():
            return candidate
    raise AssertionError("the symmetries of the square form a group")


@dataclass(frozen=True, slots=True)
class _Tie:
    """One convolution of a stack: its kernel's shape, and where its entries lie."""

    shape: tuple[int, int, int, int]
    dilation: int
    weight: slice
    bias: slice


class SymmetricStack(nn.Module):
    """Convolutions with tied weights, one after the other, units in between.

    All free weights lie in one vector: in small networks what torch does once per
    tensor takes as long as the arithmetic.

    Parameters
    ----------
    actions
        How symmetries move the channels: of the input, of every hidden layer, of the
        output. Kernels are 3 x 3, the last one 1 x 1.
    dilations
        Spacing of the taps of the 3 x 3 kernels, px.
    leak
        Share of negative values that the units let through.
    zero_mean
        Remove the mean of the first kernels: a constant added to the input changes
        nothing.
    """

    orbit: Tensor
    sign: Tensor

    def __init__(
        self,
        actions: Sequence[Action],
        *,
        dilations: Sequence[int],
        leak: float = 0.0,
        zero_mean: bool = False,
    ) -> None:
        super().__init__()
        self.leak, self.zero_mean = leak, zero_mean
        self.ties: list[_Tie] = []
        orbits: list[IntArray] = []
        signs: list[IntArray] = []
        n_free = n_plain = 0
        for i, (before, after) in enumerate(pairwise(actions)):
            kernel = 3 if i < len(dilations) else 1
            shape = (after.to.shape[1], before.to.shape[1], kernel, kernel)
            slices = []
            for part, source in ((shape, before), ((shape[0], 1, 1, 1), _trivial())):
                orbit, sign = _orbits(part, source, after)
                orbits.append(orbit.ravel() + n_free)
                signs.append(sign.ravel())
                slices.append(slice(n_plain, n_plain + orbit.size))
                n_free += int(orbit.max()) + 1
                n_plain += orbit.size
            dilation = dilations[i] if kernel > 1 else 1
            self.ties.append(_Tie(shape, dilation, *slices))
        self.free = nn.Parameter(torch.zeros(n_free))
        orbit, sign = np.concatenate(orbits), np.concatenate(signs)
        self.register_buffer("orbit", torch.from_numpy(orbit), persistent=False)
        self.register_buffer(
            "sign", torch.from_numpy(sign).to(torch.float32), persistent=False
        )

    def kernels(self) -> list[tuple[Tensor, Tensor]]:
        """Return the plain weight (out, in, kernel, kernel) and bias of every layer."""
        plain = self.free.index_select(0, self.orbit) * self.sign
        pairs = [(plain[t.weight].view(t.shape), plain[t.bias]) for t in self.ties]
        if self.zero_mean:
            weight, bias = pairs[0]
            pairs[0] = weight - weight.mean((1, 2, 3), keepdim=True), bias
        return pairs

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights anew (He et al.), the last layer's at half that size."""
        for tie in self.ties:
            fan_in = tie.shape[1] * tie.shape[2] * tie.shape[3]
            size = (2 / fan_in) ** 0.5 * (0.5 if tie is self.ties[-1] else 1.0)
            first, last = (int(v) for v in self.orbit[tie.weight].aminmax())
            self.free[first : last + 1].normal_(0, size, generator=generator)
            self.free[self.orbit[tie.bias]] = 0.0

    @torch.no_grad()
    def scale_input(self, factor: float) -> None:
        """Multiply the first kernels: the same as multiplying what they see."""
        first, last = (int(v) for v in self.orbit[self.ties[0].weight].aminmax())
        self.free[first : last + 1] *= factor

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (n, in, h, w) with zero padding."""
        for tie, (weight, bias) in zip(self.ties, self.kernels(), strict=True):
            x = _convolve(x, weight, bias, tie.dilation)
            if tie is not self.ties[-1]:
                x = nn.functional.leaky_relu_(x, self.leak) if self.leak else x.relu_()
        return x


def _convolve(x: Tensor, weight: Tensor, bias: Tensor, dilation: int) -> Tensor:
    """Convolve with zero padding, dilated kernels as plain ones on every other cell.

    The same sums, in half the time: torch is slow at the gradient of a dilated kernel.
    """
    n, _, height, width = x.shape
    padding = weight.shape[-1] // 2
    if dilation == 1 or height % dilation or width % dilation:
        return nn.functional.conv2d(
            x, weight, bias, padding=dilation * padding, dilation=dilation
        )
    d, rows, columns = dilation, height // dilation, width // dilation
    cells = x.permute(0, 2, 3, 1).reshape(n, rows, d, columns, d, -1)
    folded = cells.permute(0, 2, 4, 1, 3, 5).reshape(n * d * d, rows, columns, -1)
    out = nn.functional.conv2d(
        folded.permute(0, 3, 1, 2), weight, bias, padding=padding
    )
    cells = out.permute(0, 2, 3, 1).reshape(n, d, d, rows, columns, -1)
    unfolded = cells.permute(0, 3, 1, 4, 2, 5).reshape(n, height, width, -1)
    return unfolded.permute(0, 3, 1, 2)


def _trivial() -> Action:
    return Action(
        np.zeros((N_SYMMETRIES, 1), dtype=np.int64),
        np.ones((N_SYMMETRIES, 1), dtype=np.int64),
    )


def _orbits(
    shape: tuple[int, int, int, int], before: Action, after: Action
) -> tuple[IntArray, IntArray]:
    """Group the entries of a kernel that symmetries move onto one another.

    Returns the number of the group of each entry and the entry's sign; a sign of 0
    marks entries that must vanish (moved onto their own negative).
    """
    o, i, y, x = np.indices(shape)
    n = int(np.prod(shape))
    own = np.arange(n).reshape(shape)
    first, sign = own.copy(), np.ones(shape, dtype=np.int64)
    vanish = np.zeros(shape, dtype=bool)
    for g in range(N_SYMMETRIES):
        cell = turn_grid(g, shape[2])[y * shape[2] + x]
        moved = np.ravel_multi_index(
            (after.to[g][o], before.to[g][i], cell // shape[2], cell % shape[2]), shape
        )
        factor = after.sign[g][o] * before.sign[g][i]
        vanish |= (moved == own) & (factor < 0)
        smaller = moved < first
        first = np.where(smaller, moved, first)
        sign = np.where(smaller, factor, sign)
    _, orbit = np.unique(first, return_inverse=True)
    return orbit.reshape(shape), np.where(vanish, 0, sign)
