"""Muon for stacks of tied convolutions: kernels learn in all directions alike.

A kernel's gradient is mostly a few directions; Adam follows those and hardly the
others. Muon takes the nearest matrix whose singular values are all 1 instead
(Jordan et al., *Muon: an optimizer for hidden layers in neural networks*, 2024). On
one particle that saves about a third of the steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lodestar_live.training.adam import Adam
from lodestar_live.training.network.equivariant import SymmetricStack

MEMORY = 0.9
#: Biases and the last layer are no matrices of this kind; Adam learns those, at a third
#: of the learning rate.
REST_RATE = 1 / 3
_ITERATIONS = 5
_QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's: steep at 0, near 1 ever after
_EPSILON = 1e-12


class Muon:
    """Follow a stack's gradient, every hidden kernel orthogonalised.

    Tied weights stay tied: the symmetries turn a kernel's rows and columns, and the
    orthogonal factor turns with them.

    Parameters
    ----------
    stack
        What is learnt.
    """

    def __init__(self, stack: SymmetricStack) -> None:
        self._free = stack.free
        n_free = len(stack.free)
        kernels = [tie for tie in stack.ties if tie.shape[2] > 1]
        n_out = kernels[0].shape[0]
        n_in = max(tie.shape[1] * tie.shape[2] ** 2 for tie in kernels)
        # Which free weight each entry of each kernel is. Shorter kernels are filled up
        # with zeros, which changes neither their singular values nor their factor.
        self._shape = (len(kernels), n_out, n_in)
        orbit = torch.zeros(self._shape, dtype=torch.long)
        sign = torch.zeros(self._shape)
        for i, tie in enumerate(kernels):
            width = tie.shape[1] * tie.shape[2] ** 2
            orbit[i, :, :width] = stack.orbit[tie.weight].view(n_out, width)
            sign[i, :, :width] = stack.sign[tie.weight].view(n_out, width)
        self._orbit, self._sign = orbit.flatten(), sign.flatten()
        count = torch.zeros(n_free).index_add_(0, self._orbit, self._sign.abs())
        self._is_kernel = count > 0
        self._count = count.clamp(min=1)
        self._mean = torch.zeros(n_free)
        self._rest = torch.zeros(int((~self._is_kernel).sum()))
        self._adam = Adam([self._rest], betas=(0.9, 0.99))

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Follow the gradient once, and forget it."""
        gradient = self._free.grad
        if gradient is None:
            return
        self._free.grad = None
        self._rest.copy_(self._free[~self._is_kernel])
        self._rest.grad = gradient[~self._is_kernel]
        self._adam.step(REST_RATE * learning_rate)
        self._free.addcmul_(
            self._direction(gradient), self._is_kernel, value=-learning_rate
        )
        self._free[~self._is_kernel] = self._rest

    def _direction(self, gradient: Tensor) -> Tensor:
        """Return the orthogonal factor's free weights (Nesterov's look ahead)."""
        per_entry = gradient / self._count
        self._mean.lerp_(per_entry, 1 - MEMORY)
        ahead = per_entry.lerp(self._mean, MEMORY)
        kernels = (ahead[self._orbit] * self._sign).view(self._shape)
        factor = orthogonalise(kernels).flatten() * self._sign
        total = torch.zeros_like(self._mean).index_add_(0, self._orbit, factor)
        return total / self._count


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return wide matrices (n, rows, columns) with all singular values near 1.

    Newton-Schulz iteration in Jordan's version: 0.7 to 1.2 is near enough.
    """
    a, b, c = _QUINTIC
    x: Tensor = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + _EPSILON)
    for _ in range(_ITERATIONS):
        gram = x @ x.transpose(1, 2)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x
