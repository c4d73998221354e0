"""Convolutions that are exactly equivariant under quarter turns and mirrors.

A particle turned by 90 degrees must give the same votes, turned by 90 degrees. Views
teach that slowly and never exactly; tying weights makes it true from the first step.
Under each of the eight symmetries of the square a layer's kernel is moved onto itself:
weights that can be moved onto one another share one parameter, up to sign. What is
exported is a plain convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

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


class SymmetricConv(nn.Module):
    """A convolution with tied weights, bias included.

    Parameters
    ----------
    before, after
        How symmetries move the input's and the output's channels.
    kernel
        Odd side of the kernel.
    dilation
        Spacing of its taps, px.
    zero_mean
        Remove the mean of every kernel: a constant added to the input changes nothing.
    """

    orbit: Tensor
    sign: Tensor
    bias_orbit: Tensor
    bias_sign: Tensor

    def __init__(
        self,
        before: Action,
        after: Action,
        *,
        kernel: int = 3,
        dilation: int = 1,
        zero_mean: bool = False,
    ) -> None:
        super().__init__()
        shape = (after.to.shape[1], before.to.shape[1], kernel, kernel)
        orbit, sign = _orbits(shape, before, after)
        bias_orbit, bias_sign = _orbits((shape[0], 1, 1, 1), _trivial(), after)
        self.shape = shape
        self.dilation = dilation
        self.zero_mean = zero_mean
        self.free = nn.Parameter(torch.zeros(int(orbit.max()) + 1))
        self.free_bias = nn.Parameter(torch.zeros(int(bias_orbit.max()) + 1))
        for name, value in (
            ("orbit", torch.from_numpy(orbit.ravel())),
            ("sign", torch.from_numpy(sign.ravel()).float()),
            ("bias_orbit", torch.from_numpy(bias_orbit.ravel())),
            ("bias_sign", torch.from_numpy(bias_sign.ravel()).float()),
        ):
            self.register_buffer(name, value, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The plain kernel, (out, in, kernel, kernel)."""
        weight = self.free.index_select(0, self.orbit).mul(self.sign).view(self.shape)
        if self.zero_mean:
            weight = weight - weight.mean((1, 2, 3), keepdim=True)
        return weight

    @property
    def bias(self) -> Tensor:
        """The plain bias, (out,)."""
        return self.free_bias.index_select(0, self.bias_orbit) * self.bias_sign

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (n, in, h, w) with zero padding."""
        weight = self.weight
        padding = self.dilation * (weight.shape[-1] // 2)
        return nn.functional.conv2d(
            x, weight, self.bias, padding=padding, dilation=self.dilation
        )


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
